"""What the settings of results say, and how two differ."""

from __future__ import annotations

import pytest

from pipeline.errors import InputError
from pipeline.options import SAME, Options, difference
from pipeline.storage import place


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


@pytest.mark.parametrize(("gpus", "why"), [(0.001, "give 0 to compute on CPUs"), (1.5, "must be a whole number")])
def test_gpus_that_cannot_be_split_so_are_refused_before_anything_is_done(gpus: float, why: str) -> None:
    with pytest.raises(InputError, match=f"--gpus-per-worker {gpus}: .*{why}"):
        Options((place("in"),), place("out"), gpus_per_worker=gpus)
