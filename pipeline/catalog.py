"""The catalog: one row for each image asked for, with the place of its bytes. The job's account book.

What a job owes is the catalog minus the results. Images that are new are added in new files, and a
container whose version has not changed since is not opened again.
"""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.inputs import Container, kind_of
from pipeline.schema import CATALOG, image_id, printable
from pipeline.storage import Place, explain

ROWS_PER_FILE = 100_000
ROW_GROUP = 1024  # rows; what a read task of 64 images has to read at least
READERS = 16  # containers opened at once; the work is waiting for a store
TAR_BLOCK = 4 << 20  # bytes a request while walking a tar's headers


@dataclass(frozen=True)
class Slice:
    """Some rows of one catalog file: the work of one read task.

    Attributes:
        path: the catalog file.
        rows: int32, row numbers in that file, ascending; neighbours in a shard are neighbours here.
    """

    path: str
    rows: np.ndarray


def update(
    output: Place,
    containers: Sequence[Container],
    options: dict,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Adds the images of new and changed containers to the catalog under `output`.

    An image that the catalog has already keeps its row unless its container has changed; then the
    whole catalog is written anew, and old files go when all new ones are there. A container's rows are
    in one file, which is written whole or not at all. So a crash leaves no image out; rows that it
    leaves twice are found by the next update, which writes the catalog anew.

    Args:
        options: storage options of the containers' store.
        report: called with (containers read, containers to read).

    Returns:
        Images in the catalog now.
    """
    folder = output.join("catalog")
    known, ids, repeated = _known(folder), *_ids(folder)
    fresh = [c for c in containers if known.get(c.url) != {c.version}]
    changed = {c.url for c in fresh if c.url in known}
    rewrite = bool(changed) or repeated
    old = folder.list(".parquet") if rewrite else []
    kept = (t.filter(pc.invert(_in(t["container"], changed))) for t in _tables(old))
    _write(folder, _unique(_chunks(kept, _rows(fresh, options, report)), set() if rewrite else ids))
    for place in old:
        place.fs.rm_file(place.path)
    return sum(pq.read_metadata(p.path, filesystem=p.arrow()).num_rows for p in folder.list(".parquet"))


def slices(output: Place, done: np.ndarray, images: int, size: int) -> list[Slice]:
    """The catalog minus what is done, cut into read tasks.

    Args:
        done: int64, sorted ids of images that have their row in the results.
        images: most images in a slice.
        size: bytes after which a slice ends.
    """
    work = []
    for place in output.join("catalog").list(".parquet"):
        table = pq.read_table(place.path, filesystem=place.arrow(), columns=["image_id", "length"])
        left = np.flatnonzero(~np.isin(table["image_id"].to_numpy(), done)).astype(np.int32)
        lengths = table["length"].to_numpy()[left]
        start = total = 0
        for i, length in enumerate(lengths):
            if i > start and (i - start >= images or total + length > size):
                work.append(Slice(place.path, left[start:i]))
                start, total = i, 0
            total += int(length)
        if len(left) > start:
            work.append(Slice(place.path, left[start:]))
    return work


def _known(folder: Place) -> dict[str, set[str]]:
    """The versions of each container in the catalog: more than one after a rewrite that was cut short."""
    known: dict[str, set[str]] = {}
    for place in folder.list(".parquet"):
        table = pq.read_table(place.path, filesystem=place.arrow(), columns=["container", "version"])
        pairs = table.group_by(["container", "version"]).aggregate([])
        for url, version in zip(pairs["container"].to_pylist(), pairs["version"].to_pylist(), strict=True):
            known.setdefault(url, set()).add(version)
    return known


def _ids(folder: Place) -> tuple[set[int], bool]:
    """The ids in the catalog, and whether one is there twice: a rewrite was cut short, and is done again."""
    ids: set[int] = set()
    rows = 0
    for place in folder.list(".parquet"):
        column = pq.read_table(place.path, filesystem=place.arrow(), columns=["image_id"])["image_id"]
        ids.update(column.to_pylist())
        rows += len(column)
    return ids, rows != len(ids)


def _tables(places: Sequence[Place]) -> Iterator[pa.Table]:
    for place in places:
        yield pq.read_table(place.path, filesystem=place.arrow(), schema=CATALOG)


def _in(column: pa.ChunkedArray, values: set[str]) -> pa.ChunkedArray:
    return pc.is_in(column, value_set=pa.array(sorted(values), pa.string()))


def _rows(containers: Sequence[Container], options: dict, report: Callable[[int, int], None]) -> Iterator[list[tuple]]:
    """The catalog rows of each container, in their order; tars are opened in parallel."""
    window = READERS * 8  # keeps the results that wait for their turn few
    done = 0
    with ThreadPoolExecutor(READERS) as pool:
        for start in range(0, len(containers), window):
            chosen = containers[start : start + window]
            tars = {c.url: pool.submit(_read_tar, c, options) for c in chosen if c.kind == "tar"}
            for container in chosen:
                yield tars[container.url].result() if container.url in tars else [_loose(container)]
                done += 1
                report(done, len(containers))


def _loose(container: Container) -> tuple:
    """A loose image is one row."""
    url = container.url
    return (image_id(url), url, url, 0, container.size, container.version, None)


def _read_tar(container: Container, options: dict) -> list[tuple]:
    """A row a member that is an image, from the tar's headers alone.

    A shard that ends early or is no tar gives the rows read so far and one for itself, with the reason.
    """
    place = Place(container.url, options)
    rows: list[tuple] = []
    try:
        with (
            place.fs.open(place.path, "rb", block_size=TAR_BLOCK, cache_type="readahead") as file,
            tarfile.open(fileobj=file, mode="r:") as tar,
        ):
            for member in tar:
                if member.isfile() and kind_of(member.name) == "image":
                    uri = f"{container.url}#{printable(member.name)}"
                    reason = "SparseMember: sparse files in a tar are not read" if member.issparse() else None
                    where = (container.url, member.offset_data, member.size, container.version)
                    rows.append((image_id(uri), uri, *where, reason))
            file.seek(tar.offset)  # tarfile takes a damaged header for the end; the real end is a block of zeros
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError(f"no header and no end mark at byte {tar.offset}")
    except (tarfile.TarError, EOFError) as error:
        reason = f"DamagedShard: {type(error).__name__}: {error}"
        rows.append((image_id(container.url), container.url, container.url, 0, 0, container.version, reason))
    except Exception as error:  # every store has errors of its own
        raise explain(container.url, error) from None
    return rows


def _chunks(kept: Iterator[pa.Table], rows: Iterator[list[tuple]]) -> Iterator[pa.Table]:
    """Rows from both sources as tables of bounded size, a container's rows in one of them."""
    yield from kept
    pending: list[tuple] = []
    for some in rows:
        pending += some
        if len(pending) >= ROWS_PER_FILE:
            yield _table(pending)
            pending = []
    if pending:
        yield _table(pending)


def _table(rows: list[tuple]) -> pa.Table:
    columns = zip(*rows, strict=True)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, CATALOG, strict=True)], schema=CATALOG)


def _unique(tables: Iterator[pa.Table], seen: set[int]) -> Iterator[pa.Table]:
    """The tables without rows whose id came before: one row an image, however often it is named."""
    for table in tables:
        fresh = []
        for i, id_ in enumerate(table["image_id"].to_pylist()):
            if id_ not in seen:
                seen.add(id_)
                fresh.append(i)
        if fresh:
            yield table.take(fresh)


def _write(folder: Place, tables: Iterator[pa.Table]) -> None:
    for table in tables:
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", row_group_size=ROW_GROUP)
        folder.join(f"part-{uuid.uuid4().hex}.parquet").put(buffer.getvalue())
