"""Real images in numbers, and the rows that a job writes for them if nothing disturbs it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from support.commands import segment
from support.faults.check import ReferenceJob, Row, assert_exact, rows_of, same_masks
from support.faults.images import names, original, shard

from pipeline.storage import Place, place


@pytest.fixture(scope="session")
def sources(nuclei: Path) -> list[Path]:
    """A dozen images of 256x256 pixels with few objects and with many."""
    return [p for p in sorted(nuclei.iterdir()) if Image.open(p).size == (256, 256)][:12]


@pytest.fixture(scope="session")
def reference_job(
    quick: tuple, local_ray: None, sources: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> ReferenceJob:
    """The sources, and shards of them that are cut off, segmented once."""
    folder, shards = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("shards")
    for path in sources:
        shutil.copy(path, folder)
    tar = shard(zip(names(sources, 10), sources, strict=False))
    for name, end in {"header": 700, "member": len(tar) // 3, "late": len(tar) - 30_000, "block": 512}.items():
        (shards / f"{name}.tar").write_bytes(tar[:end])
    output = place(tmp_path_factory.mktemp("reference") / "out")
    record = segment(folder, shards, output.url, *quick)
    all_rows = rows_of(output)
    rows = {original(uri): row for uri, row in all_rows.items() if uri.startswith(str(folder))}
    of_cut = {uri: row for uri, row in all_rows.items() if uri.startswith(str(shards))}
    assert len(rows) == len(sources)
    assert all(row["score"] for row in rows.values())
    assert_exact(output, [*(str(path) for path in folder.iterdir()), *of_cut])
    return ReferenceJob(rows, sorted(shards.iterdir()), of_cut, record)


@pytest.fixture(scope="session")
def reference(reference_job: ReferenceJob) -> dict[str, Row]:
    """The rows of a run in which nothing was broken, by file name."""
    return reference_job.rows


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
