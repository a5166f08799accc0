"""Indexing shards: their images, and which column of a table holds them."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.shards import parquet_of, tar_of

from pipeline.catalog import catalog
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.inputs import find_containers
from pipeline.catalog.shard_index import IndexOptions
from pipeline.errors import InputError
from pipeline.schema import CATALOG
from pipeline.storage import Place, place
from pipeline.storage.original_bytes import fetch_images

STRUCTS = [{"bytes": b"one", "path": "a/x.png"}, {"bytes": b"two", "path": "b.jpg"}, None]


def catalogued(inputs: list[Path | str], output: Place, **options: str) -> list[dict]:
    """Rows of the catalog of some inputs, by address."""
    found = find_containers([place(i) for i in inputs], output, options.get("pattern"), options.get("column"))
    catalog.update(output, found, NO_IDS, IndexOptions(**options))
    return rows(output)


def rows(output: Place) -> list[dict]:
    return table(output).sort_by("uri").to_pylist()


def table(output: Place) -> pa.Table:
    return pa.concat_tables(pq.read_table(p.path, schema=CATALOG) for p in output.join("catalog").list(".parquet"))


def contents(output: Place) -> dict[str, bytes | str]:
    """Bytes or error of everything in the catalog, by the last part of its address."""
    everything = table(output).sort_by([("container", "ascending"), ("part", "ascending"), ("offset", "ascending")])
    got = [row for part in fetch_images(everything, {}) for row in part.to_pylist()]
    return {
        r["uri"].rsplit("/", 1)[-1] if "#" not in r["uri"] else r["uri"].split("#")[1]: r["error"] or r["data"]
        for r in got
    }


@pytest.mark.parametrize("name", ["s.tgz", "s.TAR.GZ", "s.tar"])
def test_every_image_of_a_webdataset_shard_is_a_row(name: str, tmp_path: Path) -> None:
    members = {"a/k1.jpg": b"1", "a/k1.json": b"{}", "a/k1.seg.png": b"22", "a/k2.JPEG": b"333", "k3.cls": b"5"}
    (tmp_path / name).write_bytes(tar_of(members, compress=name != "s.tar"))
    output = place(tmp_path / "out")
    found = catalogued([tmp_path / name], output)
    assert [r["uri"] for r in found] == [
        f"{tmp_path}/{name}#a/k1.jpg",
        f"{tmp_path}/{name}#a/k1.seg.png",
        f"{tmp_path}/{name}#a/k2.JPEG",
    ]
    assert [r["length"] for r in found] == [1, 2, 3]
    assert contents(output) == {"a/k1.jpg": b"1", "a/k1.seg.png": b"22", "a/k2.JPEG": b"333"}


NAMES = ["a.png", "b.png", "./b.png", "deep/a.png", "deep/er/c.jpg", "data"]
TARGETS = [*NAMES, "../a.png", "deep/../b.png", "er/c.jpg", "../../data", "gone.png", "/abs.png"]
HEADER = st.tuples(
    st.sampled_from(NAMES),
    st.sampled_from([tarfile.REGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE]),
    st.sampled_from(TARGETS),
)


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(st.lists(HEADER, max_size=12), st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))
def test_links_and_duplicate_names_are_resolved_as_tar_does(headers: list, form: int) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as tar:
        for number, (name, kind, target) in enumerate(headers):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, target if kind != tarfile.REGTYPE else ""
            data = bytes([number]) * 700 if kind == tarfile.REGTYPE else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    expected: dict[str, bytes | str] = {}
    with tarfile.open(fileobj=io.BytesIO(buffer.getvalue())) as tar:
        for name in {name for name, *_ in headers if name != "data"}:
            try:
                expected[name] = tar.extractfile(name).read()  # the last of its name, links followed
            except (KeyError, RecursionError):
                expected[name] = "BrokenLink"
    for compressed in (False, True):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "s.tgz" if compressed else "s.tar")
            path.write_bytes(gzip.compress(buffer.getvalue(), 0) if compressed else buffer.getvalue())
            catalogued([path], place(f"{folder}/out"))
            got = contents(place(f"{folder}/out"))
        assert {k: v.split(":")[0] if isinstance(v, str) else v for k, v in got.items()} == expected


@pytest.mark.parametrize("name", ["s.tar", "s.tgz"])
def test_a_dangling_link_is_an_error_row_and_globs_match_the_name_of_the_link(name: str, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    links = {"in/w1.png": "../data/x", "w2.png": "data/x", "w1.png": "/else/w1.png", "to/w1.png": "../to/w1.png"}
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for link, target in links.items():
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, target
            tar.addfile(member)
        member = tarfile.TarInfo("data/x")
        member.size = 3
        tar.addfile(member, io.BytesIO(b"abc"))
    (tmp_path / name).write_bytes(gzip.compress(buffer.getvalue()) if name == "s.tgz" else buffer.getvalue())
    catalogued([tmp_path / name], place(tmp_path / "out"), pattern="w1*")
    assert contents(place(tmp_path / "out")) == {
        "in/w1.png": b"abc",
        "w1.png": "BrokenLink: names '/else/w1.png', which is no file in this tar",
        "to/w1.png": "BrokenLink: names 'to/w1.png', which leads on through 40 links or in a circle",
    }


def test_links_of_a_truncated_tar_are_resolved_in_its_complete_members(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, target in (("a.png", ""), ("b.png", "a.png"), ("c.png", "z.png"), ("z.png", "")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE if target else tarfile.REGTYPE, target
            member.size = 0 if target else 600
            tar.addfile(member, io.BytesIO(b"1" * 600))
    (tmp_path / "s.tar").write_bytes(buffer.getvalue()[: 512 * 5 + 100])
    catalogued([tmp_path / "s.tar"], place(tmp_path / "out"))
    got = {k: v.split(":")[0] if isinstance(v, str) else v for k, v in contents(place(tmp_path / "out")).items()}
    assert got == {"a.png": b"1" * 600, "b.png": b"1" * 600, "c.png": "BrokenLink", "s.tar": "DamagedShard"}


@pytest.mark.parametrize("damage", ["cut", "no gzip", "checksum", "tar"])
def test_a_damaged_tgz_gives_its_complete_members_and_an_error_row(damage: str, tmp_path: Path) -> None:
    members = {f"{i}.png": bytes([i]) * 700 for i in range(4)}
    whole = tar_of(members, compress=True)
    unpacked = bytearray(gzip.decompress(whole))
    unpacked[2 * 1536 : 2 * 1536 + 512] = b"?" * 512
    data = {
        "cut": whole[:-30],
        "no gzip": b"<html>",
        "checksum": whole[:-8] + bytes(8),
        "tar": gzip.compress(unpacked),
    }[damage]
    (tmp_path / "s.tgz").write_bytes(data)
    output = place(tmp_path / "out")
    found = catalogued([tmp_path / "s.tgz"], output)
    assert [r["uri"] for r in found if r["error"]] == [f"{tmp_path}/s.tgz"]
    assert found[0]["error"].startswith("DamagedShard: ")
    whole_ones = {"cut": 4, "no gzip": 0, "checksum": 4, "tar": 2}[damage]
    got = contents(output)
    assert {k: v for k, v in got.items() if isinstance(v, bytes)} == dict(list(members.items())[:whole_ones])


def test_concatenated_gzip_streams_are_read_as_one(tmp_path: Path) -> None:
    whole = tar_of({"1.png": b"1" * 700, "2.png": b"2" * 700})
    (tmp_path / "s.tgz").write_bytes(gzip.compress(whole[:900]) + gzip.compress(whole[900:]))
    output = place(tmp_path / "out")
    assert len(catalogued([tmp_path / "s.tgz"], output)) == 2
    assert contents(output) == {"1.png": b"1" * 700, "2.png": b"2" * 700}


@pytest.mark.parametrize(
    ("columns", "column", "expected"),
    [
        ({"image": STRUCTS, "label": [1, 2, 3]}, None, {"0/0": b"one", "0/1": b"two", "1/0": "NoBytes"}),
        (
            {"blob": [b"1", b"", None], "note": ["x", "y", "z"]},
            None,
            {"0/0": b"1", "0/1": "EmptyFile", "1/0": "NoBytes"},
        ),
        ({"image": [b"1", b"2", b"3"], "mask": [b"4", b"5", b"6"]}, None, {"0/0": b"1", "0/1": b"2", "1/0": b"3"}),
        ({"image": [b"1", b"2", b"3"], "mask": [b"4", b"5", b"6"]}, "mask", {"0/0": b"4", "0/1": b"5", "1/0": b"6"}),
    ],
)
def test_a_parquet_row_is_an_image(columns: dict, column: str | None, expected: dict, tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(parquet_of(columns, rows=2))
    output = place(tmp_path / "out")
    options = {"column": column} if column else {}
    found = catalogued([tmp_path / "f.parquet"], output, **options)
    assert [r["uri"] for r in found] == [f"{tmp_path}/f.parquet#{k}" for k in expected]
    got = {k: v.split(":")[0] if isinstance(v, str) else v for k, v in contents(output).items()}
    assert {k: got[k.split("/")[1]] if k not in got else got[k] for k in expected} == expected
    if "image" in columns and isinstance(columns["image"][0], dict):
        assert [r["name"] for r in found] == ["a/x.png", "b.jpg", None]


@pytest.mark.parametrize(
    ("column", "says"),
    [(None, "which column is meant.*there are: left, right"), ("middle", "column 'middle'.*left, right")],
)
def test_an_ambiguous_column_is_asked_for(column: str | None, says: str, tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(parquet_of({"left": [b"1"], "right": [b"2"]}, rows=1))
    with pytest.raises(InputError, match=says):
        catalogued([tmp_path / "f.parquet"], place(tmp_path / "out"), **({"column": column} if column else {}))


def test_hugging_face_metadata_names_the_column(tmp_path: Path) -> None:
    declared = json.dumps({"info": {"features": {"right": {"_type": "Image"}, "left": {"_type": "Value"}}}})
    data = parquet_of({"left": [b"1"], "right": [b"2"]}, 1, {"huggingface": declared})
    (tmp_path / "f.parquet").write_bytes(data)
    assert [r["column"] for r in catalogued([tmp_path / "f.parquet"], place(tmp_path / "out"))] == ["right"]


def test_another_column_on_the_same_output_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(parquet_of({"left": [b"1"], "right": [b"2"]}, rows=1))
    output = place(tmp_path / "out")
    catalogued([tmp_path / "f.parquet"], output, column="left")
    with pytest.raises(InputError, match=r"column 'left', not 'right'.*another OUTPUT"):
        catalogued([tmp_path / "f.parquet"], output, column="right")


def test_parquet_without_images_below_a_prefix_is_skipped_and_a_damaged_file_is_an_error_row(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", place(tmp_path / "out")
    folder.mkdir()
    (folder / "labels.parquet").write_bytes(parquet_of({"path": ["x.png"], "label": [1]}, rows=1))
    (folder / "bad.parquet").write_bytes(b"PAR1 not really PAR1")
    (folder / "a.png").write_bytes(b"1")
    found = catalogued([folder], output)
    assert [r["uri"].rsplit("/", 1)[-1] for r in found] == ["a.png", "bad.parquet"]
    assert found[1]["error"].startswith("DamagedShard: ")


def test_a_glob_matches_names_in_shards_and_a_second_glob_adds_images(tmp_path: Path) -> None:
    folder, output = tmp_path / "in", place(tmp_path / "out")
    folder.mkdir()
    (folder / "s.tar").write_bytes(tar_of({"w1/a_w1.tif": b"1", "w2/a_w2.tif": b"2", "a_w3.png": b"3"}))
    (folder / "h.parquet").write_bytes(parquet_of({"image": [{"bytes": b"7", "path": "z_w1.tif"}, *STRUCTS]}, rows=9))
    (folder / "b_w1.tif").write_bytes(b"4")
    (folder / "b_w2.tif").write_bytes(b"5")

    def names(pattern: str) -> list[str]:
        return [r["uri"].rsplit("/", 1)[-1] for r in catalogued([folder], output, pattern=pattern)]

    assert names("*_w1.tif") == ["b_w1.tif", "0", "a_w1.tif"]
    assert names("*_w2.tif") == ["b_w1.tif", "b_w2.tif", "0", "a_w1.tif", "a_w2.tif"]
    assert names("*_w1.tif") == ["b_w1.tif", "b_w2.tif", "0", "a_w1.tif", "a_w2.tif"]
    assert len(catalogued([folder], output)) == 9


def test_a_glob_for_a_column_without_file_names_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.parquet").write_bytes(parquet_of({"image": [b"1"]}, rows=1))
    with pytest.raises(InputError, match="no file names that --glob"):
        catalogued([tmp_path / "f.parquet"], place(tmp_path / "out"), pattern="*.png")
