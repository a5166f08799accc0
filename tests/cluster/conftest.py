"""A cluster of several nodes, real images in numbers, and what an undisturbed run says of them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.dataset as pads
import pytest
from PIL import Image
from support import stage_log
from support.commands import segment
from support.faults.check import Row, assert_exact, rows_of, same_masks
from support.faults.images import names, original
from support.fleet import SMALL, ObservedJob, images_counted, pictures, scrape_if, watch
from support.raylets import ROOT, Raylets

from pipeline.storage import Place, place


@pytest.fixture(scope="session")
def sources(nuclei: Path) -> list[Path]:
    """A dozen images of 256x256 pixels with few objects and with many."""
    return [p for p in sorted(nuclei.iterdir()) if Image.open(p).size == (256, 256)][:12]


@pytest.fixture(scope="session")
def reference(
    quick: tuple, local_ray: None, sources: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Row]:
    """The rows of a run in which nothing was broken, by file name."""
    folder = tmp_path_factory.mktemp("sources")
    for path in sources:
        shutil.copy(path, folder)
    output = place(tmp_path_factory.mktemp("reference") / "out")
    segment(folder, output.url, *quick)
    rows = {original(uri): row for uri, row in rows_of(output).items()}
    assert len(rows) == len(sources)
    assert all(row["score"] for row in rows.values())
    return rows


@pytest.fixture
def assert_undisturbed(reference: dict[str, Row]) -> Callable[[Place, list[str]], None]:
    """Fails unless an output has exactly one row for each address, and those of an undisturbed run."""

    def check(output: Place, inputs: list[str]) -> None:
        assert_exact(output, inputs)
        same_masks(output, reference, original)

    return check


@pytest.fixture
def add_images(sources: list[Path], tmp_path: Path) -> Callable[[int], list[str]]:
    """Puts so many more images into a folder `plates`: the sources under other names; gives the paths of all."""
    folder, made = tmp_path / "plates", list[str]()
    folder.mkdir()

    def more(count: int) -> list[str]:
        for i, name in list(enumerate(names(sources, len(made) + count)))[len(made) :]:
            made.append(str(shutil.copy(sources[i % len(sources)], folder / name)))
        return list(made)

    return more


@pytest.fixture(scope="session")
def fleet() -> Iterator[Raylets]:
    """A head without CPUs, a node with two logical GPUs, and one with CPUs alone."""
    with Raylets() as raylets:
        raylets.add("gpu", num_cpus=2, num_gpus=2)
        raylets.add("cpu", num_cpus=2)
        yield raylets


@pytest.fixture(scope="session")
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
