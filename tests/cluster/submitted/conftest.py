"""A cluster of several nodes to submit jobs to, and one job that ran on it. Both end with the tests of this folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from support import stage_log
from support.fleet import SMALL, ObservedJob, images_counted, pictures, scrape_if, watch
from support.raylets import ROOT, Raylets


@pytest.fixture(scope="package")
def fleet() -> Iterator[Raylets]:
    """A head without CPUs, a node with two logical GPUs, and one with CPUs alone."""
    with Raylets() as raylets:
        raylets.add("gpu", num_cpus=2, num_gpus=2)
        raylets.add("cpu", num_cpus=2)
        yield raylets


@pytest.fixture(scope="package")
def observed_job(
    fleet: Raylets, nuclei: Path, tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> ObservedJob:
    """The first job of the fleet: small images, four wide ones that take longer, and two that cannot be read."""
    folder, output = pictures(nuclei, tmp_path_factory.mktemp("in"), 800), tmp_path_factory.mktemp("out") / "masks"
    (folder / "empty.png").touch()
    (folder / "words.png").write_text("This is no picture.")
    log = output.parent / "stages"
    command = ["python", "-m", "jobs.segment", str(folder), str(output), *SMALL, "--weights", str(tiny_weights)]
    fleet.submit("observed", command, stage_log.environment(log, ROOT))
    actors, during = watch(fleet, "observed")
    images = len(list(folder.iterdir()))
    assert pads.dataset(str(output / "results"), format="parquet").count_rows() == images
    after = fleet.wait(lambda: scrape_if(fleet, lambda text: images_counted(text) >= images), 120)
    return ObservedJob(output, stage_log.read(log), actors, during, after)
