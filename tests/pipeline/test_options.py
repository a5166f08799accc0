"""What the settings of results say, and how two differ."""

from __future__ import annotations

import pytest

from pipeline.options import SAME, difference


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ({"nms": 0.5}, {"nms": 0.5}, ""),
        ({"nms": 0.5}, {"nms": 0.6}, "nms 0.5 -> 0.6"),
        ({"nms": 0.5, "gone": 3}, {"nms": 0.5}, "gone 3 -> None"),
        ({"nms": 0.5}, {"nms": 0.5, "new": 3}, "new None -> 3"),
    ],
)
def test_a_preset_that_differs_in_any_field_is_told(
    old: dict[str, float], new: dict[str, float], expected: str
) -> None:
    same = dict.fromkeys(SAME, "x")
    assert difference(same | {"preset": old}, same | {"preset": new}) == expected


def test_compiled_results_are_not_mixed_with_others_and_older_outputs_are_not_refused() -> None:
    before = dict.fromkeys(SAME, "x")
    older = {k: v for k, v in before.items() if k != "compiled"}
    assert difference(older, before | {"compiled": False}) == ""
    assert difference(older, before | {"compiled": True}) == "compiled None -> True"
    assert difference(before | {"compiled": True}, before | {"compiled": False}) == "compiled True -> False"
