"""Real images in numbers, and the rows that a job writes for them if nothing disturbs it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.commands import segment
from support.faults.check import Row, assert_exact, rows_of, same_masks
from support.faults.images import names, original

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
