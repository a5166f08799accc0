"""Cutting the catalog into read tasks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from support.shards import parquet_of, tar_of

from pipeline.catalog import catalog
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.inputs import find_containers
from pipeline.catalog.slices import first_images, unfinished_slices
from pipeline.schema import CATALOG, image_id
from pipeline.storage import Place, place
from pipeline.storage.suffixes import ASSUMED_IMAGE_BYTES


def catalogued(root: Path, output: Place) -> list[int]:
    """Catalogs a folder; the ids of its images."""
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    tables = [pq.read_table(p.path, schema=CATALOG) for p in output.join("catalog").list(".parquet")]
    return pa.concat_tables(tables)["image_id"].to_pylist()


def test_slices_hold_exactly_the_images_that_are_left(tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    (root / "a.png").write_bytes(b"12345")
    members = {"one.png": b"abc", "notes.txt": b"no", "deep/two.jpg": b"defg", "empty.png": b""}
    (root / "s.tar").write_bytes(tar_of(members))
    every = set(catalogued(root, output))
    assert len(every) == 4
    done = np.sort(np.array(sorted(every)[:1], np.int64))
    seen: list[int] = []
    for s in unfinished_slices(output, done, max_images=2, max_bytes=1 << 20):
        assert 1 <= len(s.rows) <= 2
        table = pq.read_table(s.path).take(pa.array(s.rows))
        assert s.bytes == sum(
            ASSUMED_IMAGE_BYTES if length is None else length for length in table["length"].to_pylist()
        )
        seen += table["image_id"].to_pylist()
    assert sorted(seen) == sorted(every - set(done.tolist()))
    assert len(unfinished_slices(output, np.zeros(0, np.int64), max_images=100, max_bytes=1)) == 4
    (whole,) = unfinished_slices(output, np.zeros(0, np.int64))
    (one,) = first_images([whole], 1)
    assert (len(one.rows), one.bytes) == (1, whole.bytes // len(whole.rows))


def test_a_container_that_is_read_from_start_to_end_is_not_cut(tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    members = {f"{i:02d}.png": b"x" * 1000 for i in range(10)}
    (root / "a.tgz").write_bytes(tar_of(members, compress=True))
    (root / "b.parquet").write_bytes(parquet_of({"image": list(members.values())}, rows=3))
    (root / "c.tar").write_bytes(tar_of(members))
    catalogued(root, output)

    def cut(done: list[str], images: int) -> list[list[str]]:
        ids = np.sort(np.array([image_id(f"{root}/{uri}") for uri in done], np.int64))
        return [
            [uri.rsplit("in/", 1)[-1] for uri in pq.read_table(s.path).take(pa.array(s.rows))["uri"].to_pylist()]
            for s in unfinished_slices(output, ids, images, 1 << 20)
        ]

    sizes = [len(s) for s in cut([], 4)]
    assert sizes == [10, 3, 3, 4, 4, 4, 2]  # the last row of b.parquet goes with three of c.tar
    assert [len(s) for s in cut([], 6)] == [10, 6, 6, 6, 2]
    left = cut([f"a.tgz#{i}" for i in members] + [f"b.parquet#0/{i}" for i in range(3)], 4)
    assert not [uri for s in left for uri in s if uri.startswith(("a.tgz", "b.parquet#0"))]
    one = cut([f"a.tgz#{i}" for i in list(members)[:9]], 4)
    assert one[0][0] == "a.tgz#09.png"
