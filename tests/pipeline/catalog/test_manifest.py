"""Manifests: lists of addresses."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from s3fs import S3FileSystem
from support.containers import containers
from support.shards import parquet_of, tar_of

from pipeline.catalog import catalog
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.inputs import find_containers
from pipeline.catalog.slices import unfinished_slices
from pipeline.errors import InputError
from pipeline.images import open_image, to_rgb
from pipeline.stages.source import read_slice
from pipeline.storage import place
from pipeline.storage.original_bytes import fetch_images

ENTRIES = ["a b.png", "deep/é.jpg", "../up.png", "/abs/c.tif", "s3://bucket/d.png", "https://host/e.jpg?size=1"]


def expected(folder: Path) -> list[str]:
    return sorted([f"{folder}/a b.png", f"{folder}/deep/é.jpg", f"{folder.parent}/up.png", *ENTRIES[3:]])


def write(folder: Path, kind: str) -> Path:
    """Writes ENTRIES as a manifest of a kind."""
    folder.mkdir(exist_ok=True)
    path = folder / f"list.{kind.split()[0]}"
    rows = [{"label": "x", "url": e} for e in ENTRIES]
    texts = {
        "txt": "\ufeff# images\n" + "\r\n".join([*ENTRIES, "", ""]),
        "csv": "label,url\n" + "".join(f'x,"{e}"\n' for e in ENTRIES),
        "csv without a header": "".join(f'x,"{e}"\n' for e in ENTRIES),
        "jsonl": "".join(json.dumps(r) + "\n" for r in rows),
        "jsonl of strings": "\n".join(map(json.dumps, ENTRIES)),
    }
    if kind == "parquet":
        path.write_bytes(parquet_of({"label": ["x"] * len(ENTRIES), "url": ENTRIES}, rows=4))
    else:
        path.write_text(texts[kind], newline="")
    return path


@pytest.mark.parametrize("kind", ["txt", "csv", "csv without a header", "jsonl", "jsonl of strings", "parquet"])
def test_addresses_may_be_on_any_store_and_relative_to_the_manifest(kind: str, tmp_path: Path) -> None:
    path = write(tmp_path / "lists", kind)
    found = containers([place(path)], place(tmp_path / "out"))
    assert [c.url for c in found] == expected(tmp_path / "lists")
    assert {(c.kind, c.size, c.version) for c in found} == {("image", None, "")}
    some = containers([place(path)], place(tmp_path / "out"), "*.png")
    assert [c.url for c in some] == [u for u in expected(tmp_path / "lists") if u.endswith(".png")]


def test_a_file_is_a_manifest_only_if_the_input_names_its_suffix(tmp_path: Path) -> None:
    folder = tmp_path / "lists"
    for kind in ("txt", "csv", "jsonl", "parquet"):
        write(folder, kind)
    (folder / "a.png").write_bytes(b"1")
    assert [c.url for c in containers([place(folder)], place(tmp_path / "out"))] == [
        f"{folder}/a.png",
        f"{folder}/list.parquet",
    ]
    with pytest.raises(InputError, match="no images"):
        containers([place(folder / "*l*.[ct][sx]?")], place(tmp_path / "out"))
    assert len(containers([place(folder / "*.csv")], place(tmp_path / "out"))) == len(ENTRIES)


@pytest.mark.parametrize(
    ("name", "text", "column", "says"),
    [
        ("l.csv", "one,two\nx.png,y.png\n", None, "which column is meant.*there are: one, two"),
        ("l.csv", "one,two\nx.png,y.png\n", "three", "column 'three'.*there are: one, two"),
        ("l.jsonl", '{"one": "x", "two": "y"}\n', None, "which column is meant"),
        ("l.jsonl", '{"url": "x.png"}\n{"url": 5}\n', None, "line 2 has no string 'url'"),
        ("l.jsonl", "x.png\n", None, "line 1 is not JSON"),
        ("l.txt", "x.png\n", "url", "--column url needs a table"),
        ("l.txt", "\n# nothing\n", None, "no images"),
        ("l.txt", "nosuch://x/y.png\n", None, "nosuch"),
        ("l.txt", "gs://x/y.png\n", None, r"pip install gcsfs"),
        ("l.txt", "missing.tar\n", None, "no such file"),
    ],
)
def test_an_unusable_manifest_is_one_line(name: str, text: str, column: str | None, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        containers([place(tmp_path / name)], place(tmp_path / "out"), column=column)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"not a valid .txt manifest"):
        containers([place(tmp_path / "l.txt")], place(tmp_path / "out"))


def test_a_manifest_in_a_bucket_may_name_shards(bucket: tuple[S3FileSystem, str]) -> None:
    fs, name = bucket
    fs.pipe_file(f"{name}/shards/s.tar", tar_of({"a.png": b"1"}))
    fs.pipe_file(f"{name}/lists/l.txt", b"../shards/s.tar\nx.png\n")
    found = containers([place(f"s3://{name}/lists/l.txt")], place(f"s3://{name}/out"))
    assert [(c.url, c.kind) for c in found] == [
        (f"s3://{name}/lists/x.png", "image"),
        (f"s3://{name}/shards/s.tar", "tar"),
    ]
    assert found[1].size == fs.size(f"{name}/shards/s.tar")
    assert found[1].version == fs.info(f"{name}/shards/s.tar")["ETag"].strip('"')


def test_a_manifest_may_name_images_on_several_stores(bucket: tuple[S3FileSystem, str], tmp_path: Path) -> None:
    _, name = bucket
    pixels = np.random.default_rng(0).integers(0, 256, (4, 20, 30, 3), np.uint8)
    uris = [f"s3://{name}/0.png", str(tmp_path / "1.png"), f"s3://{name}/2.png", str(tmp_path / "3.png")]
    for uri, image in zip(uris, pixels, strict=True):
        data = io.BytesIO()
        Image.fromarray(image).save(data, "PNG")
        place(uri).put(data.getvalue())
    (tmp_path / "l.txt").write_text("\n".join(uris))
    output = place(tmp_path / "out")
    assert catalog.update(output, find_containers([place(tmp_path / "l.txt")], output), NO_IDS) == 4
    (work,) = unfinished_slices(output, NO_IDS, 64, 32 << 20)
    got = {r["uri"]: r["data"] for t in fetch_images(read_slice(output, work), {}) for r in t.to_pylist()}
    assert got.keys() == set(uris)
    for uri, image in zip(uris, pixels, strict=True):
        assert np.array_equal(to_rgb(open_image(got[uri], 600)), image)
