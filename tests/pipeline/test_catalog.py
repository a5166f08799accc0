"""The catalog: one row an image, unchanged containers not read again."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline import catalog, parts
from pipeline.inputs import containers
from pipeline.schema import CATALOG, image_id
from pipeline.storage import Place, place


def write_tar(path: Path, members: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def rows(output: Place) -> list[dict]:
    tables = [pq.read_table(p.path, schema=CATALOG) for p in output.join("catalog").list(".parquet")]
    return pa.concat_tables(tables).sort_by("uri").to_pylist()


def update(root: Path, output: Place, done: Iterable[str] = (), **options: str) -> tuple[int, int]:
    """Images catalogued, and how many objects were new."""
    new = [0]
    found = containers([place(root)], output, options.get("pattern"), options.get("column"))
    ids = np.sort(np.array([image_id(uri) for uri in done], np.int64))
    total = catalog.update(output, found, ids, **options, report=lambda done, count: new.append(count))
    return total, new[-1]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    root.mkdir()
    (root / "a.png").write_bytes(b"12345")
    write_tar(root / "s.tar", {"one.png": b"abc", "notes.txt": b"no", "deep/two.jpg": b"defg", "empty.png": b""})
    return root


def test_rows_lead_to_the_bytes(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    assert update(root, output)[0] == 4
    found = {}
    for row in rows(output):
        assert row["image_id"] == image_id(row["uri"]) >= 0
        data = Path(row["container"]).read_bytes()
        found[row["uri"].removeprefix(f"{root}/")] = data[row["offset"] : row["offset"] + row["length"]]
    assert found == {"a.png": b"12345", "s.tar#one.png": b"abc", "s.tar#deep/two.jpg": b"defg", "s.tar#empty.png": b""}


def test_unchanged_containers_are_not_opened_again(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    assert update(root, output) == (4, 2)
    assert update(root, output) == (4, 0)
    (root / "b.png").write_bytes(b"x")
    assert update(root, output) == (5, 1)


def test_a_changed_shard_is_read_anew_and_each_image_keeps_one_row(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    write_tar(root / "s.tar", {"zero.png": b"0" * 700, "one.png": b"abc"})
    os.utime(root / "s.tar", (1, 1))
    assert update(root, output) == (3, 1)
    uris = [row["uri"].rsplit("/", 1)[-1] for row in rows(output)]
    assert uris == ["a.png", "s.tar#one.png", "s.tar#zero.png"]
    one = next(row for row in rows(output) if row["uri"].endswith("one.png"))
    assert (root / "s.tar").read_bytes()[one["offset"] :][:3] == b"abc"


def test_a_shard_that_is_no_tar_is_a_row_with_its_reason(root: Path, tmp_path: Path) -> None:
    (root / "bad.tar").write_bytes(b"<html>not here</html>" * 100)
    output = place(tmp_path / "out")
    assert update(root, output)[0] == 5
    (bad,) = [row for row in rows(output) if row["error"]]
    assert bad["uri"] == f"{root}/bad.tar"
    assert bad["error"].startswith("DamagedShard: ")


def test_slices_hold_exactly_what_is_left(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    every = {row["image_id"] for row in rows(output)}
    done = np.sort(np.array(sorted(every)[:1], np.int64))
    seen: list[int] = []
    for s in catalog.slices(output, done, images=2, size=1 << 20):
        assert 1 <= len(s.rows) <= 2
        seen += pq.read_table(s.path).take(pa.array(s.rows))["image_id"].to_pylist()
    assert sorted(seen) == sorted(every - set(done.tolist()))
    assert len(catalog.slices(output, np.zeros(0, np.int64), images=100, size=1)) == 4


def test_a_first_catalog_that_is_cut_short_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    for shard in range(3):
        write_tar(root / f"{shard}.tar", {f"{i}.png": b"x" for i in range(10)})
    monkeypatch.setattr(parts, "ROWS_PER_FILE", 8)
    put, files = Place.put, []

    def cut_short(self: Place, data: bytes) -> None:
        files.append(self.url)
        if len(files) == 2:
            raise KeyboardInterrupt
        put(self, data)

    monkeypatch.setattr(Place, "put", cut_short)
    with pytest.raises(KeyboardInterrupt):
        update(root, output)
    monkeypatch.setattr(Place, "put", put)
    assert update(root, output)[0] == 30
    assert len({row["uri"] for row in rows(output)}) == 30


def test_a_rewrite_that_is_cut_short_is_made_good(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    write_tar(root / "s.tar", {"zero.png": b"0" * 700, "one.png": b"abc"})
    os.utime(root / "s.tar", (1, 1))
    remove = LocalFileSystem.rm_file

    def killed(self: LocalFileSystem, path: str) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalFileSystem, "rm_file", killed)
    with pytest.raises(KeyboardInterrupt):
        update(root, output)
    monkeypatch.setattr(LocalFileSystem, "rm_file", remove)
    assert len(rows(output)) > 3
    assert update(root, output)[0] == 3
    assert len({row["uri"] for row in rows(output)}) == 3


@pytest.mark.parametrize("damage", ["header", "cut in a header", "cut at a member"])
def test_a_shard_that_ends_early_gives_what_is_whole_and_says_so(damage: str, tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    write_tar(root / "s.tar", {f"{i}.png": b"x" * 700 for i in range(10)})
    data = bytearray((root / "s.tar").read_bytes())
    fourth = 4 * (512 + 1024)
    if damage == "header":
        data[fourth : fourth + 512] = b"?" * 512
    else:
        data = data[: fourth + (100 if damage == "cut in a header" else 0)]
    (root / "s.tar").write_bytes(data)
    assert update(root, output)[0] == 5
    (bad,) = [row for row in rows(output) if row["error"]]
    assert bad["error"].startswith("DamagedShard: ")


def test_names_that_are_no_utf8_are_rows_too(tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    with tarfile.open(root / "s.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        info = tarfile.TarInfo("zelle-ü.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    (root / os.fsdecode(b"loose-\xfc.png")).write_bytes(b"abc")
    assert update(root, output)[0] == 2
    assert [row["uri"].rsplit("/", 1)[-1] for row in rows(output)] == ["loose-\\xfc.png", "s.tar#zelle-\\xfc.png"]
