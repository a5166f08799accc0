"""Stores that break under a job: killed, slow, busy, cutting off, refusing, full."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3fs import S3FileSystem
from support.faults.disk import SmallDisk
from support.faults.images import upload
from support.faults.jobs import QUICK, Job, run, wait_for, workers
from support.faults.proxy import Faults, Proxy

from jobs.sample.s3_server import S3Server
from pipeline.storage import Place, place

pytestmark = pytest.mark.slow
Check = Callable[[Place, list[str]], None]


def assert_one_line(log: str, *words: str) -> None:
    """A job that ended with exit status 1 said why in one line, without a traceback."""
    errors = [line for line in log.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, log
    assert all(word in errors[0] for word in words), errors
    assert "Traceback" not in log


def test_a_server_killed_and_started_again(sources: list[Path], unharmed: Check, tmp_path: Path) -> None:
    with S3Server() as server:
        fs = server.filesystem()
        fs.mkdir("lab")
        inputs = upload(fs, sources, "lab/plates", 160)
        arguments = ("s3://lab/plates", "s3://lab/masks", *QUICK)
        output = Place("s3://lab/masks", _options(server))
        with Job(*arguments, environment=server.environment) as job:
            # The driver itself reports a store that is away at once, since nothing has been spent yet.
            wait_for(lambda: workers(job.below(), "Segment"), "an actor", unless=lambda: job.ended)
            _away(server, 5)
            job.until_results(output)
            _away(server, 10)
            if job.wait():
                assert_one_line(job.log, "s3://lab/")
        run(*arguments, environment=server.environment)
        unharmed(output, inputs)


def _away(server: S3Server, seconds: float) -> None:
    """A crash, and a restart after a while."""
    server.kill()
    time.sleep(seconds)
    server.start()


def _options(server: S3Server) -> dict[str, str]:
    """Storage options for a server that the environment does not name."""
    keys = {"key": "AWS_ACCESS_KEY_ID", "secret": "AWS_SECRET_ACCESS_KEY", "endpoint_url": "AWS_ENDPOINT_URL_S3"}
    return {option: server.environment[variable] for option, variable in keys.items()}


def test_a_slow_busy_and_cutting_store(
    s3_server: S3Server, bucket: tuple[S3FileSystem, str], sources: list[Path], unharmed: Check
) -> None:
    fs, name = bucket
    inputs = upload(fs, sources, f"{name}/plates", 64)
    output = place(f"s3://{name}/masks")
    with Proxy(s3_server.endpoint, Faults(delay=0.05, busy=0.05, cut=0.05, drop=0.03), seed=3) as proxy:
        environment = {"AWS_ENDPOINT_URL_S3": proxy.endpoint}
        run(f"s3://{name}/plates", output.url, *QUICK, environment=environment)
        injected = proxy.counts.faults
        assert min(injected[kind] for kind in ("busy", "cut", "drop")) >= 3, injected
    unharmed(output, inputs)


def test_a_store_that_is_away_is_no_missing_file(s3_server: S3Server, bucket: tuple[S3FileSystem, str]) -> None:
    fs, name = bucket
    fs.pipe_file(f"{name}/a.parquet", b"PAR1")
    with Proxy(s3_server.endpoint, Faults(drop=1.0)) as proxy:
        away = {"endpoint_url": proxy.endpoint, "config_kwargs": {"retries": {"max_attempts": 1}}}
        where = place(f"s3://{name}/a.parquet", away)
        for opens in (where.arrow().open_input_file, where.arrow().open_input_stream):
            with pytest.raises(Exception, match=r".") as caught:
                opens(where.path).read()
            assert not isinstance(caught.value, FileNotFoundError)
        proxy.heal()
        assert where.arrow().open_input_file(where.path).read() == b"PAR1"
        with pytest.raises(FileNotFoundError):
            where.arrow().open_input_file(f"{name}/b.parquet").read()


def test_keys_that_may_not_write(
    s3_server: S3Server, bucket: tuple[S3FileSystem, str], sources: list[Path], unharmed: Check
) -> None:
    fs, name = bucket
    inputs = upload(fs, sources, f"{name}/plates", 12)
    arguments = (f"s3://{name}/plates", f"s3://{name}/masks", *QUICK)
    with Job(*arguments, environment=s3_server.reader) as job:
        assert job.wait() == 1
        assert_one_line(job.log, f"s3://{name}/masks", "access denied")
        assert "starting Ray" not in job.log
        assert s3_server.reader["AWS_SECRET_ACCESS_KEY"] not in job.log
    run(*arguments)
    unharmed(place(f"s3://{name}/masks"), inputs)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[SmallDisk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    try:
        with SmallDisk(folder, mebibytes=8) as disk:
            yield disk
    except PermissionError as error:
        pytest.skip(str(error))


def test_a_disk_that_is_full(
    small_disk: SmallDisk, plates: Callable[[int], list[str]], unharmed: Check, tmp_path: Path
) -> None:
    inputs, output = plates(40), place(small_disk.folder / "masks")
    arguments = (tmp_path / "plates", output.url, *QUICK)
    with Job(*arguments) as job:
        job.until_says("segmenting")
        small_disk.fill()
        assert job.wait() == 1
        assert_one_line(job.log, output.url, "No space left on device")
    small_disk.free()
    run(*arguments)
    unharmed(output, inputs)
