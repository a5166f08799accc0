"""Tar shards that are cut off, and one that is replaced while its images are being read."""

from __future__ import annotations

from pathlib import Path

import pytest
from s3fs import S3FileSystem
from support.commands import options_for, segment
from support.faults.check import ReferenceJob, Row, assert_exact, differences, rows_of, same_masks
from support.faults.images import names, original, shard, whole_members
from support.faults.proxy import Proxy

from jobs.sample.s3_server import S3Server
from pipeline.storage import place

pytestmark = pytest.mark.slow


def test_shards_that_are_cut_off(reference_job: ReferenceJob) -> None:
    asked, good = [], []
    for path in reference_job.cut:
        headers, whole = whole_members(path.read_bytes())
        asked += [str(path), *(f"{path}#{member}" for member in headers)]
        good += [f"{path}#{member}" for member in whole]
    assert len(good) > 8
    rows, record = reference_job.of_cut, reference_job.record
    assert sorted(rows) == sorted(asked)
    assert {uri for uri, row in rows.items() if row["error"] is None} == set(good)
    assert not differences({uri: rows[uri] for uri in good}, reference_job.rows, original)
    assert record["errors"]["DamagedShard"] == len(reference_job.cut)
    assert record["failed"] == len(asked) - len(good)


def test_a_shard_that_is_replaced_while_it_is_read(
    quick: tuple,
    s3_server: S3Server,
    bucket: tuple[S3FileSystem, str],
    sources: list[Path],
    reference: dict[str, Row],
) -> None:
    fs, name = bucket
    files = [(n, sources[i % len(sources)]) for i, n in enumerate(names(sources, 84))]
    fs.pipe_file(f"{name}/shards/0.tar", shard(files[:80]))  # two read tasks
    arguments = (f"s3://{name}/shards", f"s3://{name}/masks", *quick)
    output, asked = place(arguments[1]), [f"s3://{name}/shards/0.tar#{n}" for n, _ in files]
    with Proxy(s3_server.endpoint) as proxy:
        proxy.hook = _replace_at_second_read(fs, f"{name}/shards/0.tar", shard(files[::-1]))
        segment(*arguments, *options_for({"AWS_ENDPOINT_URL_S3": proxy.endpoint}))
    rows = rows_of(output)
    assert sorted(rows) == sorted(asked[:80])
    read = {uri: row for uri, row in rows.items() if row["error"] is None}
    assert not differences(read, reference, original), "bytes of one image under the name of another"
    failed = {row["error"].split(":")[0] for row in rows.values() if row["error"] is not None}
    assert failed == {"ChangedShard"}
    segment(*arguments, "--retry-errors")
    assert_exact(output, asked)
    same_masks(output, reference, original)


def _replace_at_second_read(fs: S3FileSystem, key: str, data: bytes):
    """A hook that replaces an object just before it is read for the second time after the catalog was written."""
    seen = {"catalog": False, "reads": 0}

    def hook(method: str, path: str) -> None:
        seen["catalog"] |= method == "PUT" and "/catalog/" in path
        if method == "GET" and path == f"/{key}" and seen["catalog"]:
            seen["reads"] += 1
            if seen["reads"] == 2:
                fs.pipe_file(key, data)

    return hook
