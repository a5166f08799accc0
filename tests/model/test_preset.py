"""The preset: its JSON round trip, and errors that name the field."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model import Preset, PresetError

POSITIVE = st.floats(1e-3, 1e4, allow_nan=False)


@st.composite
def presets(draw: st.DrawFn) -> Preset:
    levels = draw(st.integers(1, 5))
    shapes = {n: st.lists(POSITIVE, min_size=n, max_size=n) for n in (1, 2, 3)}
    sizes, ratios = draw(st.sampled_from(list(shapes))), draw(st.sampled_from(list(shapes)))
    ids = draw(st.lists(st.integers(1, 10**6), max_size=5))
    return Preset(
        name=draw(st.text(max_size=10)),
        rpn_levels=levels,
        rpn_scores=draw(st.sampled_from([1, 2])),
        anchor_sizes=tuple(tuple(draw(shapes[sizes])) for _ in range(levels)),
        anchor_ratios=tuple(tuple(draw(shapes[ratios])) for _ in range(levels)),
        anchor_stride=draw(st.sampled_from(["grid", "nominal"])),
        blocks=tuple(draw(st.lists(st.integers(1, 50), min_size=4, max_size=4))),
        bottleneck=draw(st.booleans()),
        min_score=draw(st.floats(0, 1)),
        category_ids=tuple(ids),
        categories=tuple(draw(st.text(max_size=8)) for _ in ids),
    )


@given(presets())
def test_json_and_back(preset: Preset) -> None:
    text = preset.to_json()
    again = Preset.from_json(text)
    assert again == preset
    assert hash(again) == hash(preset)  # so lists became tuples at every depth
    assert json.loads(text).keys() == {f.name for f in dataclasses.fields(Preset)}


def test_fields_that_json_lacks_take_their_defaults() -> None:
    assert Preset.from_json('{"min_size": 512}') == Preset(min_size=512)


def test_replace_leaves_the_original() -> None:
    preset = Preset()
    assert preset.replace(mean=[0.1, 0.2, 0.3]).mean == (0.1, 0.2, 0.3)
    assert preset == Preset()
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.min_size = 3  # type: ignore[misc]


def test_an_unknown_field_is_named_and_the_known_listed() -> None:
    with pytest.raises(PresetError, match="min_sise") as error:
        Preset().replace(min_sise=512, nms=0.4)
    assert "min_size" in str(error.value)
    with pytest.raises(PresetError, match="from_the_future"):
        Preset.from_json('{"from_the_future": 1, "nms": 0.4}')


@pytest.mark.parametrize("text", ["", "{", "not json", "[1, 2]", "3", "null", '"text"'])
def test_text_that_is_not_a_json_object(text: str) -> None:
    with pytest.raises(PresetError):
        Preset.from_json(text)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"anchor_sizes": ((32.0,),) * 4}, "anchor_sizes has 4"),
        ({"anchor_sizes": ((32.0,),) * 4, "anchor_ratios": ((1.0,),) * 4}, "rpn_levels=5"),
        ({"anchor_sizes": ((32.0, 64.0), (1.0,), (1.0,), (1.0,), (1.0,))}, "same number of anchors"),
        ({"rpn_levels": 0, "anchor_sizes": (), "anchor_ratios": ()}, "rpn_levels=0"),
        ({"rpn_levels": 6, "anchor_sizes": ((8.0,),) * 6, "anchor_ratios": ((1.0,),) * 6}, "rpn_levels=6"),
        ({"rpn_levels": 1}, "rpn_levels=1"),
        ({"rpn_scores": 3}, "rpn_scores"),
        ({"anchor_stride": "image"}, "anchor_stride"),
        ({"category_ids": (1, 2), "categories": ("one",)}, "category_ids"),
        ({"min_score": -0.1}, "min_score"),
        ({"min_score": 1.1}, "min_score"),
        ({"max_detections": 0}, "max_detections"),
        ({"min_size": 0}, "min_size"),
    ],
)
def test_values_that_do_not_fit(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(PresetError, match=named):
        Preset(**fields)
    with pytest.raises(PresetError, match=named):
        Preset().replace(**fields)


def test_derived_numbers() -> None:
    assert Preset().anchors_per_location == 3
    paper = Preset(rpn_levels=1, anchor_sizes=((128.0, 256.0, 512.0),), anchor_ratios=((0.5, 1.0, 2.0),))
    assert paper.anchors_per_location == 9
    assert Preset(category_ids=(7, 9), categories=("a", "b")).num_outputs == 3


@pytest.mark.parametrize(
    "fields",
    [
        {"min_size": "big"},
        {"max_detections": 2.5},
        {"anchor_sizes": 5},
        {"categories": [3], "category_ids": [1]},
        {"mean": 0.5},
        {"std": [1.0, 0.0, 1.0]},
        {"pad_multiple": 0},
        {"bottleneck": 1},
        {"self": 1},
    ],
)
def test_values_of_another_type_are_refused(fields: dict) -> None:
    with pytest.raises(PresetError):
        Preset().replace(**fields)
