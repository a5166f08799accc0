"""Ray's autoscaler starts the node that a job waits for, and the job fits into the memory of that node.

As with cluster.yaml: no worker is up when the first job starts.
"""

from __future__ import annotations

import json

import pytest
from support import large
from support.fleet import ContinuedJob
from support.raylets import Raylets

from jobs.sample.s3_server import S3Server
from pipeline.cluster.windows import WINDOWS_IN_STORE

pytestmark = pytest.mark.slow


def test_a_job_waits_for_a_node_with_a_gpu_and_the_autoscaler_starts_it(
    fleet: Raylets, continued_job: ContinuedJob
) -> None:
    assert "waiting for a node that has 1 GPU" in fleet.logs("first")
    assert {row["node"] for row in continued_job.stopped_stages} <= fleet.kinds().keys()


def test_windows_fit_the_object_store_and_nothing_is_spilled(
    fleet: Raylets, continued_job: ContinuedJob, s3_server: S3Server
) -> None:
    """On GPUs; test_small_store has the same on CPUs."""
    assert len(continued_job.new_rows) * large.PIXEL_BYTES > 1.1 * large.STORE, "all pixels together must not fit"
    assert "Plasma memory usage" in (stats := fleet.memory())
    assert "Spilled" not in stats  # the count stays when what was spilled has been deleted
    s3 = s3_server.filesystem()
    records = [json.loads(s3.cat_file(path)) for path in sorted(s3.ls("submitted/masks/runs", detail=False))]
    assert [record["resources"]["pool"] for record in records] == [[2, 2], [1, 2]]
    for record, actors_on_a_node in zip(records, (2, 4), strict=True):
        share = large.STORE // actors_on_a_node
        assert record["resources"]["window"] == share // (WINDOWS_IN_STORE * large.PIXEL_BYTES)
