"""The description of results, and how two descriptions differ."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.results import segmented, write_output

from pipeline.output.description import SAME, difference, read_description


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"nms": 0.5}, {"nms": 0.5}, ""),
        ({"nms": 0.5}, {"nms": 0.6}, "nms 0.5 -> 0.6"),
        ({"nms": 0.5, "gone": 3}, {"nms": 0.5}, "gone 3 -> None"),
        ({"nms": 0.5}, {"nms": 0.5, "new": 3}, "new None -> 3"),
    ],
)
def test_every_preset_field_that_differs_is_named(old: dict[str, float], new: dict[str, float], expected: str) -> None:
    same = dict.fromkeys(SAME, "x")
    assert difference(same | {"preset": old}, same | {"preset": new}) == expected


def test_compiled_results_are_not_mixed_with_others_and_older_outputs_are_not_refused() -> None:
    before = dict.fromkeys(SAME, "x")
    older = {k: v for k, v in before.items() if k != "compiled"}
    assert difference(older, before | {"compiled": False}) == ""
    assert difference(older, before | {"compiled": True}) == "compiled None -> True"
    assert difference(before | {"compiled": True}, before | {"compiled": False}) == "compiled True -> False"


def test_the_description_comes_from_the_metadata_of_the_files(tmp_path: Path) -> None:
    output = write_output(tmp_path, [segmented("a.png", 8, 8, [])])
    assert read_description(output) == {
        "schema_version": 1,
        "weights": "nuclei",
        "classes": {"1": "nucleus"},
        "max_detections": 500,
    }
