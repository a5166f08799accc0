"""A cluster of several nodes to submit jobs to, and a job that ran on it. Both end with the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from s3fs import S3FileSystem
from support import large, stage_log
from support.fleet import ContinuedJob, devices, images_counted, scrape_if, watch
from support.raylets import ROOT, Raylets

from jobs.sample.s3_server import S3Server

IMAGES = 156  # the last two cannot be read
PAUSE = 0.1  # seconds at each window, so that the second job's queue asks for a second actor


@pytest.fixture(scope="package")
def fleet() -> Iterator[Raylets]:
    """A head without CPUs. Ray's autoscaler can add a node with two logical GPUs and a small object store."""
    machine = {
        "resources": {"CPU": 4, "GPU": 2, "object_store_memory": large.STORE},
        "node_config": {},
        "max_workers": 1,
    }
    with Raylets({"gpu": machine}) as raylets:
        yield raylets


@pytest.fixture(scope="package")
def continued_job(
    fleet: Raylets, s3_server: S3Server, photos: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ContinuedJob]:
    """The first job of the fleet is stopped when it has results. The second continues it, with one more node.

    Each actor of the first has a GPU. Those of the second share one.
    """
    folder, logs = tmp_path_factory.mktemp("in") / "photos", tmp_path_factory.mktemp("stages")
    large.large_photos(photos, folder, IMAGES - 2)
    (folder / "x-empty.png").touch()
    (folder / "x-words.png").write_text("This is no picture.")
    s3, bucket = s3_server.filesystem(), "submitted"
    s3.mkdir(bucket)
    s3.pipe({f"{bucket}/plates/{path.name}": path.read_bytes() for path in folder.iterdir()})
    command = ["python", "-m", "jobs.segment", f"s3://{bucket}/plates", f"s3://{bucket}/masks", *large.OPTIONS]
    command += ["--weights", str(tiny_weights)]

    def submit(name: str, environment: dict[str, Any], options: tuple[str, ...], *here: str) -> None:
        environment["env_vars"] |= s3_server.environment
        fleet.submit(name, [*command, *options], environment, *here)

    stages = stage_log.environment(logs / "first", hold=(6, 6))  # enough for a results file
    submit("first", stages, ("--workers", "2"), "--working-dir", ".")
    committed = f"{bucket}/masks/_checkpoint"
    fleet.wait(lambda: files(s3, committed) and len(devices(stage_log.read(logs / "first"))) == 2, 300)
    fleet.job("stop", "first")
    assert fleet.ended("first") == "STOPPED"
    assert f"segmenting {IMAGES} images" in fleet.logs("first")
    before, at_start = results(s3, bucket), fleet.scrape()
    counted = images_counted(at_start) + IMAGES - sum(map(len, before.values()))  # when the second has done the rest

    fleet.add("cpu", num_cpus=1, object_store_memory=large.STORE)
    # From this checkout, whose encoder is compiled already.
    stages = stage_log.environment(logs / "second", ROOT, hold=(None, 1), pause=PAUSE)
    submit("second", stages, ("--gpus-per-worker", "0.5", "--workers", "1,2"))
    actors, during = watch(fleet, "second", lambda: stage_log.release(logs / "second"))

    yield ContinuedJob(
        images=[f"s3://{bucket}/plates/{path.name}" for path in sorted(folder.iterdir())],
        before=before,
        results=results(s3, bucket),
        stopped_stages=stage_log.read(logs / "first"),
        stages=stage_log.read(logs / "second"),
        actors=actors,
        logs=fleet.logs("second"),
        at_start=at_start,
        during=during,
        after=fleet.wait(lambda: scrape_if(fleet, lambda text: images_counted(text) >= counted), 120),
    )
    s3.rm(bucket, recursive=True)


def files(s3: S3FileSystem, folder: str) -> list[str]:
    """The Parquet files of a folder that are complete."""
    s3.invalidate_cache()
    return [file for file in s3.glob(f"{folder}/*.parquet") if ".pending" not in file]


def results(s3: S3FileSystem, bucket: str) -> dict[str, list[dict]]:
    """The rows of each results file: address, error and scores."""
    columns = ["uri", "error", "score"]
    found = files(s3, f"{bucket}/masks/results")
    return {file: pq.read_table(file, filesystem=s3, columns=columns).to_pylist() for file in found}
