"""The options of a job: what is derived from them, what is refused, what a record shows."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest

from model.masks.tile_grid import Tiling
from pipeline.errors import OptionError
from pipeline.options import Options, parse_workers
from pipeline.storage import place


def options(**values: Any) -> Options:
    return Options((place("s3://lab/plates"),), place("s3://lab/masks"), **values)


def test_scores_and_limits_are_overrides_of_the_preset_and_win_over_set() -> None:
    assert options().overrides == {}
    chosen = options(min_score=0.0, max_detections=7, preset_fields={"min_size": 512, "max_detections": 9})
    assert chosen.overrides == {"min_size": 512, "max_detections": 7, "min_score": 0.0}


def test_tiles_overlap_by_a_quarter_unless_told() -> None:
    assert options().tiling is None
    assert options(tile=256).tiling == Tiling(256, 64)
    assert options(tile=256, overlap=0).tiling == Tiling(256, 0)


def test_tiles_raise_the_limit_of_pixels() -> None:
    assert options().pixel_limit == 200_000_000
    assert options(tile=256).pixel_limit == 1_000_000_000
    assert options(tile=256, max_pixels=5).pixel_limit == options(max_pixels=5).pixel_limit == 5


@pytest.mark.parametrize(("text", "workers"), [("4", (4, 4)), ("1,8", (1, 8)), ("8, 8", (8, 8))])
def test_workers_are_a_number_or_a_range(text: str, workers: tuple[int, int]) -> None:
    assert parse_workers(text) == workers


@pytest.mark.parametrize("text", ["many", "0", "8,1", "1,2,3", "", "-1", "1.5"])
def test_other_workers_are_refused(text: str) -> None:
    with pytest.raises(OptionError, match="give a number or MIN,MAX"):
        parse_workers(text)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"gpus_per_worker": 0.001}, "--gpus-per-worker 0.001: give 0"),
        ({"gpus_per_worker": 1.5}, "--gpus-per-worker 1.5: more than one GPU must be a whole number"),
        ({"overlap": 10}, "--overlap needs --tile"),
        ({"tile": 64, "overlap": 64}, "--overlap 64 must be smaller than the tiles of 64 pixels"),
    ],
)
def test_values_that_do_not_work_are_refused(values: dict[str, Any], reason: str) -> None:
    with pytest.raises(OptionError, match=reason):
        options(**values)


@pytest.mark.parametrize("gpus", [None, 0, 0.01, 0.5, 1, 2.0])
def test_gpus_that_ray_can_split_are_accepted(gpus: float | None) -> None:
    assert options(gpus_per_worker=gpus).gpus_per_worker == gpus


def test_the_record_shows_the_options_without_credentials() -> None:
    chosen = Options(
        (place("https://user:secret@host/a.png?sig=secret", {"key": "secret"}),),
        place("s3://lab/masks", {"key": "secret"}),
        weights="https://host/w.pth?sig=secret",
        workers=(1, 8),
        tile=256,
        min_score=0.5,
    )
    plain = json.loads(json.dumps(chosen.plain()))
    assert "secret" not in str(plain)
    assert plain == {
        "inputs": ["https://host/a.png"],
        "output": "s3://lab/masks",
        "weights": "https://host/w.pth",
        "precision": "auto",
        "overrides": {"min_score": 0.5},
        "pattern": None,
        "column": None,
        "workers": [1, 8],
        "gpus_per_worker": None,
        "batch_size": None,
        "compiled": False,
        "tiling": {"size": 256, "overlap": 64},
        "nvjpeg": False,
        "max_pixels": None,
        "limit": None,
        "retry_errors": False,
        "max_error_rate": None,
        "overwrite": False,
    }


def test_every_option_has_a_group_and_a_help() -> None:
    declared = [f.metadata["option"] for f in fields(Options) if f.name not in ("inputs", "output")]
    assert all(info.group and info.help.endswith(".") for info in declared)
