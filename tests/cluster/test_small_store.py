"""Nodes with less memory for blocks than a job's pixels take: nothing goes to disk."""

from __future__ import annotations

from pathlib import Path

import ray
from ray._private.internal_api import memory_summary
from support import large
from support.commands import results, segment

IMAGES = 120


def test_a_small_object_store_is_enough_and_nothing_is_spilled(
    local_ray: None, quick: tuple, photos: Path, tmp_path: Path
) -> None:
    """On CPUs; test_autoscaling has the same on GPUs."""
    assert ray.cluster_resources()["object_store_memory"] * 1.1 < IMAGES * large.PIXEL_BYTES
    folder, output = large.large_photos(photos, tmp_path / "in", IMAGES), tmp_path / "out"
    before = spilled()
    segment(folder, output, *large.OPTIONS, *quick)
    assert [row["error"] for row in results(output)] == [None] * IMAGES
    assert spilled() == before


def spilled() -> str:
    """What this Ray has spilled to disk since it was started."""
    stats = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
    assert "Plasma memory usage" in stats
    return stats.partition("Spilled")[2].partition("\n")[0]
