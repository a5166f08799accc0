"""The catalog: one row per image; unchanged containers are not read again."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.local import LocalFileSystem

from pipeline.catalog import catalog, catalog_files
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.inputs import find_containers
from pipeline.catalog.shard_index import IndexOptions
from pipeline.schema import CATALOG, image_id
from pipeline.storage import Place, place
from pipeline.storage.original_bytes import fetch_images


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
    found = find_containers([place(root)], output, options.get("pattern"), options.get("column"))
    ids = np.sort(np.array([image_id(uri) for uri in done], np.int64))
    total = catalog.update(output, found, ids, IndexOptions(**options), lambda done, count: new.append(count))
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


def test_a_changed_shard_is_read_again_and_each_image_keeps_one_row(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    write_tar(root / "s.tar", {"zero.png": b"0" * 700, "one.png": b"abc"})
    os.utime(root / "s.tar", (1, 1))
    assert update(root, output) == (3, 1)
    uris = [row["uri"].rsplit("/", 1)[-1] for row in rows(output)]
    assert uris == ["a.png", "s.tar#one.png", "s.tar#zero.png"]
    one = next(row for row in rows(output) if row["uri"].endswith("one.png"))
    assert (root / "s.tar").read_bytes()[one["offset"] :][:3] == b"abc"


def test_a_shard_that_is_not_a_tar_becomes_an_error_row(root: Path, tmp_path: Path) -> None:
    (root / "bad.tar").write_bytes(b"<html>not here</html>" * 100)
    output = place(tmp_path / "out")
    assert update(root, output)[0] == 5
    (bad,) = [row for row in rows(output) if row["error"]]
    assert bad["uri"] == f"{root}/bad.tar"
    assert bad["error"].startswith("DamagedShard: ")


def test_a_first_catalog_that_is_interrupted_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    for shard in range(3):
        write_tar(root / f"{shard}.tar", {f"{i}.png": b"x" for i in range(10)})
    monkeypatch.setattr(catalog_files, "ROWS_PER_FILE", 8)
    put, files = Place.put, []

    def interrupted(self: Place, data: bytes, parts: Place) -> None:
        files.append(self.url)
        if len(files) == 2:
            raise KeyboardInterrupt
        put(self, data, parts)

    monkeypatch.setattr(Place, "put", interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(root, output)
    monkeypatch.setattr(Place, "put", put)
    assert update(root, output)[0] == 30
    assert len({row["uri"] for row in rows(output)}) == 30


def test_an_interrupted_rewrite_is_repaired(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_a_truncated_shard_gives_its_complete_members_and_an_error_row(damage: str, tmp_path: Path) -> None:
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


def test_file_names_that_are_not_utf8_become_rows(tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    with tarfile.open(root / "s.tar", "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        info = tarfile.TarInfo("zelle-ü.png")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    (root / os.fsdecode(b"loose-\xfc.png")).write_bytes(b"abc")
    shutil.copy(root / "s.tar", root / os.fsdecode(b"\xfc.tar"))
    assert update(root, output)[0] == 3
    table = pa.Table.from_pylist(rows(output), CATALOG)
    got = {r["uri"].rsplit("/", 1)[-1]: r["error"] or r["data"] for t in fetch_images(table, {}) for r in t.to_pylist()}
    reason = "BadName: the name of the file or of its folder is not valid UTF-8: rename it"
    assert got == {"loose-\\xfc.png": reason, "\\xfc.tar": reason, "s.tar#zelle-\\xfc.png": b"abc"}
    assert update(root, output) == (3, 0)


def changed(root: Path, members: dict[str, bytes]) -> None:
    """Writes another shard under the same name."""
    write_tar(root / "s.tar", members)
    os.utime(root / "s.tar", ns=(time.time_ns(), time.time_ns()))


def test_an_image_that_has_a_result_stays_in_the_catalog(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    done = [f"{root}/s.tar#one.png", f"{root}/s.tar#empty.png"]
    changed(root, {"zero.png": b"0" * 700, "one.png": b"abc"})
    assert update(root, output, done)[0] == 4  # two.jpg has no result and is dropped
    found = {row["uri"].rsplit("/", 1)[-1]: row for row in rows(output)}
    assert sorted(found) == ["a.png", "s.tar#empty.png", "s.tar#one.png", "s.tar#zero.png"]
    assert (root / "s.tar").read_bytes()[found["s.tar#one.png"]["offset"] :][:3] == b"abc"
    assert found["s.tar#empty.png"]["error"].startswith("ChangedShard: gone")
    assert [row["error"] for name, row in found.items() if "empty" not in name] == [None] * 3
    assert update(root, output, done) == (4, 0)  # the shard is not opened again
    assert update(root, output, done[:1])[0] == 3  # the error row of empty.png was removed for a retry
    assert update(root, output, done[:1]) == (3, 0)


def test_a_shard_may_change_again_and_back(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    first = (root / "s.tar").read_bytes()
    update(root, output)
    done = [f"{root}/s.tar#one.png"]
    for content in ({"two.png": b"2"}, {"three.png": b"3", "one.png": b"1"}, {}):
        changed(root, content)
        assert update(root, output, done)[0] == 1 + len({*content, "one.png"})
    (root / "s.tar").write_bytes(first)
    assert update(root, output, done)[0] == 4
    assert {row["error"] for row in rows(output)} == {None}


def test_a_loose_image_that_was_overwritten_keeps_its_row(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    (root / "a.png").write_bytes(b"quite another image")
    assert update(root, output) == (4, 0)


def test_a_shard_without_images_is_opened_once(tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    (root / "a.png").write_bytes(b"1")
    write_tar(root / "s.tar", {"notes.txt": b"no"})
    assert update(root, output) == (1, 2)
    assert update(root, output) == (1, 0)


@pytest.mark.parametrize("cut", ["second new file", "first removal", "second removal"])
def test_a_rewrite_that_is_interrupted_at_any_point_is_repaired(
    cut: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    for shard in "st":
        write_tar(root / f"{shard}.tar", {f"{i}.png": b"x" for i in range(10)})
    monkeypatch.setattr(catalog_files, "ROWS_PER_FILE", 8)
    update(root, output)
    done = [f"{root}/s.tar#3.png", f"{root}/s.tar#4.png", f"{root}/t.tar#3.png"]
    changed(root, {f"{i}.png": b"yy" for i in (1, 3, 20)})
    name = {"second new file": "put"}.get(cut, "rm_file")
    owner = Place if name == "put" else LocalFileSystem
    original, calls = getattr(owner, name), []

    def interrupted(self: Any, *arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) == (1 if cut == "first removal" else 2):
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        update(root, output, done)
    monkeypatch.setattr(owner, name, original)
    assert update(root, output, done)[0] == 14
    uris = [row["uri"].rsplit("/", 1)[-1] for row in rows(output)]
    assert uris == sorted([f"s.tar#{i}.png" for i in (1, 3, 4, 20)] + [f"t.tar#{i}.png" for i in range(10)])
    lengths = {row["uri"].rsplit("/", 1)[-1]: row["length"] for row in rows(output)}
    assert lengths["s.tar#3.png"] == 2
    assert update(root, output, done) == (14, 0)


def test_a_catalog_of_version_0_1_is_upgraded(root: Path, tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    update(root, output)
    (file,) = output.join("catalog").list(".parquet")
    old = pq.read_table(file.path).select(["image_id", "uri", "container", "offset", "length", "version", "error"])
    pq.write_table(old.replace_schema_metadata(None), file.path)
    assert update(root, output)[0] == 4
    assert [row["kind"] for row in rows(output)] == ["image", "tar", "tar", "tar"]
    assert update(root, output) == (4, 0)


def test_totals_count_what_is_left(root: Path, tmp_path: Path) -> None:
    (root / "list.txt").write_text("x.png\ny.png\n")
    output = place(tmp_path / "out")
    catalog.update(output, find_containers([place(root), place(root / "list.txt")], output), NO_IDS)
    done = np.sort(np.array([image_id(f"{root}/a.png"), image_id(f"{root}/x.png")], np.int64))
    got = catalog.totals(output, done)
    assert (got.images, got.left, got.bytes, got.unsized) == (6, 4, 7, 1)
    assert got.kinds == {"image": 3, "tar": 3}
