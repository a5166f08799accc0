"""Original images of an output: bytes by id, and the addresses that match annotations."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.shards import images, parquet_of, tar_of

from pipeline.analysis.file_name_matching import match_file_names
from pipeline.analysis.original_images import file_addresses, image_bytes
from pipeline.catalog import catalog
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.inputs import find_containers
from pipeline.errors import InputError
from pipeline.schema import image_id
from pipeline.storage import place


def test_original_images_of_every_kind_are_found_by_their_id(tmp_path: Path) -> None:
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    members = images(9, 100)
    (root / "s.tgz").write_bytes(tar_of(members, compress=True))
    (root / "s.tar").write_bytes(tar_of(members))
    (root / "s.parquet").write_bytes(parquet_of({"image": list(members.values())}, 4))
    (root / "l.jpg").write_bytes(b"loose")
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    uris = ["s.tgz#d/007.jpg", "l.jpg", "s.parquet#1/2", "s.tar#d/001.jpg", "s.tgz#d/002.jpg", "s.parquet#0/0"]
    got = image_bytes(output, [image_id(f"{root}/{u}") for u in uris])
    every = list(members.values())
    assert got == [every[7], b"loose", every[6], every[1], every[2], every[0]]
    (root / "s.tar").write_bytes(b"")
    with pytest.raises(InputError, match=r"s.tar#d/001.jpg: "):
        image_bytes(output, [image_id(f"{root}/s.tar#d/001.jpg")])


def test_rows_of_parquet_files_match_annotations_by_their_paths(tmp_path: Path) -> None:
    output = place(tmp_path / "out")
    rows = [{"bytes": b"1", "path": "a/x.png"}, {"bytes": b"2", "path": None}]
    (tmp_path / "f.parquet").write_bytes(parquet_of({"image": rows}, 1))
    (tmp_path / "x.tgz").write_bytes(tar_of({"b/x.png": b"3"}, compress=True))
    assert file_addresses(output) == {}
    catalog.update(output, find_containers([place(tmp_path / n) for n in ("f.parquet", "x.tgz")], output), NO_IDS)
    found = file_addresses(output)
    assert found == {image_id(f"{tmp_path}/f.parquet#0/0"): f"{tmp_path}/f.parquet/a/x.png"}
    uris = [*found.values(), f"{tmp_path}/f.parquet#1/0", f"{tmp_path}/x.tgz#b/x.png"]
    assert match_file_names(uris, ["b/x.png", "a/x.png"]) == {0: 2, 1: 0}
