"""Original bytes of catalogued images: few requests, errors of an image as its row, errors of a store stop the job."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pytest
from fsspec.implementations.local import LocalFileSystem
from s3fs import S3FileSystem
from support.shards import Counter, counting, images, parquet_of, tar_of

from jobs.sample.s3_server import S3Server
from pipeline.catalog import catalog
from pipeline.catalog.id_set import NO_IDS
from pipeline.catalog.inputs import find_containers
from pipeline.catalog.slices import unfinished_slices
from pipeline.errors import InputError
from pipeline.schema import image_id
from pipeline.stages.source import read_slice
from pipeline.storage import Place, original_bytes, place
from pipeline.storage.image_readers import MAX_IMAGE_BYTES, IsolateImage
from pipeline.storage.original_bytes import fetch_images


@pytest.fixture
def counted(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter]:
    """A proxy that counts requests, between the clients of this process and the S3 server."""
    with counting(s3_server.endpoint) as counter:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", counter.endpoint)
        S3FileSystem.clear_instance_cache()
        yield counter
    S3FileSystem.clear_instance_cache()


def read_tasks(output: Place, done: np.ndarray = NO_IDS, size: int = 4 << 20) -> list[pa.Table]:
    """The catalog rows of each read task, as Ray's tasks read them."""
    return [read_slice(output, s) for s in unfinished_slices(output, done, 64, size)]


def fetch(tasks: list[pa.Table]) -> tuple[dict[str, bytes | str], list[int]]:
    """Bytes or error by address, and the rows of each table."""
    tables = [table for task in tasks for table in fetch_images(task, {})]
    every = [row for table in tables for row in table.to_pylist()]
    assert len({row["image_id"] for row in every}) == len(every)
    return {r["uri"]: r["error"] or r["data"] for r in every}, [len(t) for t in tables]


@pytest.mark.slow
def test_a_store_is_asked_for_each_shard_about_once(counted: Counter, bucket: tuple[S3FileSystem, str]) -> None:
    fs, name = bucket
    members = images(60, 100_000)
    sidecars = {k: v for m, data in members.items() for k, v in ((m, data), (m[:-3] + "json", b"{}"))}
    shards = {
        "s.tar": tar_of(sidecars),
        "s.tgz": tar_of(sidecars, compress=True),
        "s.parquet": parquet_of(
            {"image": [{"bytes": v, "path": k} for k, v in members.items()], "label": [1] * 60}, 15
        ),
    }
    for key, data in shards.items():
        fs.pipe_file(f"{name}/in/{key}", data)
    loose = dict(list(members.items())[:20])
    for key, data in loose.items():
        fs.pipe_file(f"{name}/in/{key}", data)
    root, output = f"s3://{name}/in", place(f"s3://{name}/out")
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    share = {key: counted.bytes(key) / len(data) for key, data in shards.items()}
    assert share["s.tar"] < 0.12  # its headers
    assert share["s.parquet"] < 0.02  # its footer and the paths
    assert 1 <= share["s.tgz"] < 1.01  # sizes of members are known when it is unpacked
    assert not counted.gets("jpg")

    counted.requests.clear()
    got, _ = fetch(read_tasks(output))
    assert got == {
        **{f"{root}/s.tar#{k}": v for k, v in members.items()},
        **{f"{root}/s.tgz#{k}": v for k, v in members.items()},
        **{f"{root}/s.parquet#{i // 15}/{i % 15}": v for i, v in enumerate(members.values())},
        **{f"{root}/{k}": v for k, v in loose.items()},
    }
    for key, data in shards.items():
        assert counted.bytes(key) < 1.05 * len(data), key
        assert len(counted.gets(key)) <= 8, key  # for 60 images
    assert len(counted.gets("jpg")) == len(loose)
    assert not [r for r in counted.gets("jpg") if r.range]
    assert not [r for r in counted.requests if r.method == "HEAD" and r.path.endswith("jpg")]

    counted.requests.clear()
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    assert not [r for r in counted.requests if "/in/" in r.path]  # listed, not opened
    ids = np.sort(np.array([image_id(u) for u in got if "#" not in u or ".tar#" in u or "#0/" in u or "#2/" in u]))
    fetch(read_tasks(output, ids))
    assert not counted.gets("s.tar") + counted.gets("jpg")
    assert counted.bytes("s.parquet") < 0.55 * len(shards["s.parquet"])


def test_a_shard_that_changed_since_it_was_catalogued_gives_no_wrong_pixels(bucket: tuple[S3FileSystem, str]) -> None:
    fs, name = bucket
    members, root, output = images(30, 3000), f"s3://{name}/in", place(f"s3://{name}/out")

    def write(contents: dict[str, bytes]) -> None:
        fs.pipe_file(f"{name}/in/s.tar", tar_of(contents))
        fs.pipe_file(f"{name}/in/s.tgz", tar_of(contents, compress=True))
        fs.pipe_file(f"{name}/in/s.parquet", parquet_of({"image": list(contents.values())}, 10))
        fs.pipe_file(f"{name}/in/loose.jpg", next(iter(contents.values())))

    write(members)
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    tasks = read_tasks(output)
    before, sizes = fetch(tasks)
    assert not [v for v in before.values() if isinstance(v, str)]
    other = dict(zip(members, [bytes(4000), *list(members.values())[::-1]], strict=False))
    for now in ({k: v[::-1] for k, v in members.items()}, other, dict(list(members.items())[:2])):
        write(now)
        got, same = fetch(tasks)
        assert same == sizes  # Ray takes the tables of a second attempt for those of the first
        assert got.pop(f"{root}/loose.jpg") == next(iter(now.values()))
        assert got.keys() == before.keys() - {f"{root}/loose.jpg"}
        says = "changed during the job; run again with --retry-errors"
        assert all(str(v).startswith("ChangedShard: s.") and says in str(v) for v in got.values()), got
    for shard in ("s.tar", "s.tgz", "s.parquet"):
        fs.rm_file(f"{name}/in/{shard}")
    got, same = fetch(tasks)
    assert same == sizes
    assert {str(v).split(":")[0] for u, v in got.items() if "#" in u} <= {"FetchError", "ChangedShard"}
    write(members)
    assert fetch(tasks)[0] == before


class IgnoresRanges(SimpleHTTPRequestHandler):
    """Answers every request with the whole file, as Python's server does, even if a range is asked for."""

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The address of a web server that serves the test's folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(IgnoresRanges, directory=str(tmp_path)))
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_server_without_ranges_gives_no_wrong_bytes(web: str, tmp_path: Path) -> None:
    members = images(3, 5000)
    (tmp_path / "s.tar").write_bytes(tar_of(members))
    (tmp_path / "s.tgz").write_bytes(tar_of(members, compress=True))
    (tmp_path / "one.jpg").write_bytes(members["d/001.jpg"])
    (tmp_path / "l.txt").write_text("one.jpg\n" * 3000)  # more than is read at first
    (tmp_path / "s.parquet").write_bytes(parquet_of({"image": list(images(30, 5000).values())}, 30))
    output = place(tmp_path / "out")
    inputs = [place(f"{web}/{name}") for name in ("s.tar", "s.tgz", "l.txt")]
    assert catalog.update(output, find_containers(inputs, output), NO_IDS) == 7
    got, _ = fetch(read_tasks(output))
    assert got.pop(f"{web}/one.jpg") == members["d/001.jpg"]
    for name, data in members.items():
        assert got[f"{web}/s.tgz#{name}"] == data
        assert re.match("FetchError: .*does not support range requests", str(got[f"{web}/s.tar#{name}"]))
    with pytest.raises(InputError, match="does not support range requests"):
        catalog.update(output, find_containers([place(f"{web}/s.parquet")], output), NO_IDS)


def test_tables_are_bounded_by_the_lengths_in_the_catalog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(original_bytes, "MAX_TABLE_BYTES", original_bytes.MAX_TABLE_BYTES >> 5)
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    members = images(40, 1 << 15)
    (root / "s.tgz").write_bytes(tar_of(members, compress=True))
    (root / "s.parquet").write_bytes(parquet_of({"image": list(members.values())}, 40))
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    tasks = read_tasks(output, size=128 << 10)
    assert [len(t) for t in tasks] == [40, 40]
    got, sizes = fetch(tasks)
    assert sizes == [31, 9, 32, 8]  # of 1 MiB at most; a Parquet file's lengths are the bytes of its column
    assert [v for u, v in sorted(got.items()) if ".tgz" in u] == list(members.values())


def test_images_that_crashed_a_process_are_read_in_isolation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables stay the same. Quarantined images are not read again, and no image behind them is read in their place."""
    root, output = tmp_path / "in", place(tmp_path / "out")
    root.mkdir()
    monkeypatch.setattr(original_bytes, "MAX_TABLE_BYTES", 1 << 20)
    members = images(40, 1 << 15)
    (root / "s.tgz").write_bytes(tar_of(members, compress=True))
    (root / "s.tar").write_bytes(tar_of(members))
    (root / "s.parquet").write_bytes(parquet_of({"image": list(members.values())}, 5))
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    tasks = read_tasks(output, size=128 << 10)
    before, sizes = fetch(tasks)
    isolated: list[int] = []

    def quarantine(bad: set[int]) -> IsolateImage:
        @contextmanager
        def isolate(image_id: int, what: str = "this image alone") -> Iterator[str | None]:
            isolated.append(image_id)
            yield f"WorkerDied: at {what}" if image_id in bad else None

        return isolate

    def fetch_isolated(bad: set[int]) -> tuple[dict[str, bytes | str], list[int]]:
        isolated.clear()
        tables = [table for task in tasks for table in fetch_images(task, {}, isolate=quarantine(bad))]
        assert len(set(isolated)) == len(isolated)
        return {r["uri"]: r["error"] or r["data"] for t in tables for r in t.to_pylist()}, [len(t) for t in tables]

    assert fetch_isolated(set()) == (before, sizes)
    streamed = {
        table[0]: table for task in tasks for t in fetch_images(task, {}) if (table := t["image_id"].to_pylist())
    }
    tar = image_id(f"{root}/s.tar#d/007.jpg")
    assert len(isolated) == 40 + len([uri for uri in before if ".tar#" not in uri and image_id(uri) in streamed])
    for first in (image_id(f"{root}/s.tgz#d/000.jpg"), image_id(f"{root}/s.parquet#0/0")):
        got, same = fetch_isolated({first, tar})
        assert same == sizes
        lost = {uri for uri in before if got[uri] != before[uri]}
        assert {image_id(uri) for uri in lost} == {tar, *streamed[first]}
        assert got[f"{root}/s.tar#d/007.jpg"] == "WorkerDied: at this image alone"
        others = {got[uri] for uri in lost} - {"WorkerDied: at this image alone"}
        assert others == {"WorkerDied: at these images of their shard"}


@pytest.mark.slow
def test_a_store_that_stays_down_stops_the_job_after_retries(
    bucket: tuple[S3FileSystem, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fs, name = bucket
    members, root, output = images(4, 100), f"s3://{name}/in", place(f"s3://{name}/out")
    fs.pipe_file(f"{name}/in/s.tar", tar_of(members))
    fs.pipe_file(f"{name}/in/s.tgz", tar_of(members, compress=True))
    fs.pipe_file(f"{name}/in/s.parquet", parquet_of({"image": list(members.values())}, 10))
    fs.pipe_file(f"{name}/in/loose.jpg", b"1")
    catalog.update(output, find_containers([place(root)], output), NO_IDS)
    (rows,) = read_tasks(output)
    nowhere = {"endpoint_url": "http://127.0.0.1:9", "config_kwargs": {"retries": {"max_attempts": 1}}}
    for kind in ("tar", "tgz", "parquet", "image"):
        of_kind = rows.filter(pa.compute.equal(rows["kind"], kind))
        with pytest.raises(InputError, match="cannot be reached"):
            list(fetch_images(of_kind, nowhere, retry_seconds=0.5))


def test_an_object_too_large_for_any_image_is_not_fetched(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    with (tmp_path / "in" / "video.tif").open("wb") as file:
        file.truncate(MAX_IMAGE_BYTES + 1)  # sparse: it takes no space
    output = place(tmp_path / "out")
    catalog.update(output, find_containers([place(tmp_path / "in")], output), NO_IDS)
    (work,) = unfinished_slices(output, np.zeros(0, np.int64), 64, 32 << 20)
    ((row,),) = [t.to_pylist() for t in fetch_images(read_slice(output, work), {})]
    assert row["data"] is None
    assert row["error"].startswith("TooManyBytes: 4,294,967,297 bytes")


def test_a_store_that_goes_down_in_the_middle_of_a_file_stops_the_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, members = place(tmp_path / "out"), images(20, 100_000)
    (tmp_path / "s.tgz").write_bytes(tar_of(members, compress=True))
    (tmp_path / "s.parquet").write_bytes(parquet_of({"image": list(members.values())}, 20))
    catalog.update(output, find_containers([place(tmp_path / n) for n in ("s.tgz", "s.parquet")], output), NO_IDS)
    (rows,) = read_tasks(output)
    original = LocalFileSystem.cat_file

    def down(self: LocalFileSystem, path: str, start: int, end: int, **options: object) -> bytes:
        if start > 100_000:
            raise ConnectionResetError("peer")
        return original(self, path, start, end, **options)

    monkeypatch.setattr(LocalFileSystem, "cat_file", down)
    for kind in ("tgz", "parquet"):
        with pytest.raises(InputError, match="cannot be reached"):
            list(fetch_images(rows.filter(pa.compute.equal(rows["kind"], kind)), {}, retry_seconds=0.0))
