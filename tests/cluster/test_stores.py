"""Stores that break under a job: killed, slow, busy, cutting off, refusing, full."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from s3fs import S3FileSystem
from support.commands import in_background, maskfleet, options_for, segment
from support.faults.disk import SmallDisk
from support.faults.images import upload
from support.faults.jobs import wait_for, workers
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


def actor_at_work() -> bool:
    """Whether the job that this process runs has an actor with the network."""
    return bool(workers(psutil.Process().children(recursive=True), "Segment"))


def test_a_server_killed_and_started_again(quick: tuple, sources: list[Path], assert_undisturbed: Check) -> None:
    with S3Server() as server:
        fs = server.filesystem()
        fs.mkdir("lab")
        inputs = upload(fs, sources, "lab/plates", 160)
        arguments = ("s3://lab/plates", "s3://lab/masks", *quick, *options_for(server.environment))
        output = Place("s3://lab/masks", _options(server))

        def crash(ended: threading.Event) -> None:
            # The driver itself reports a store that is away at once, since nothing has been spent yet.
            wait_for(actor_at_work, "an actor", unless=ended.is_set)
            _away(server, 5)
            results = output.join("results")
            wait_for(lambda: results.list(".parquet"), "results", unless=ended.is_set)
            _away(server, 10)

        with in_background(crash):
            done = maskfleet("segment", *arguments)
        if done.exit_code:
            assert_one_line(done.stderr, "s3://lab/")
        segment(*arguments)
        assert_undisturbed(output, inputs)


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
    quick: tuple,
    s3_server: S3Server,
    bucket: tuple[S3FileSystem, str],
    sources: list[Path],
    assert_undisturbed: Check,
) -> None:
    fs, name = bucket
    inputs = upload(fs, sources, f"{name}/plates", 64)
    output = place(f"s3://{name}/masks")
    with Proxy(s3_server.endpoint, Faults(delay=0.05, busy=0.05, cut=0.05, drop=0.03), seed=3) as proxy:
        to_proxy = options_for({"AWS_ENDPOINT_URL_S3": proxy.endpoint})
        segment(f"s3://{name}/plates", output.url, *quick, *to_proxy)
        injected = proxy.counts.faults
        assert min(injected[kind] for kind in ("busy", "cut", "drop")) >= 3, injected
    assert_undisturbed(output, inputs)


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
    quick: tuple, s3_server: S3Server, bucket: tuple[S3FileSystem, str], sources: list[Path]
) -> None:
    fs, name = bucket
    upload(fs, sources, f"{name}/plates", 12)
    arguments = (f"s3://{name}/plates", f"s3://{name}/masks", *quick)
    done = maskfleet("segment", *arguments, *options_for(s3_server.reader))
    assert done.exit_code == 1
    assert_one_line(done.stderr, f"s3://{name}/masks", "access denied")
    assert "starting Ray" not in done.stderr
    assert s3_server.reader["AWS_SECRET_ACCESS_KEY"] not in done.stderr
    assert not fs.find(f"{name}/masks")


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
    quick: tuple,
    small_disk: SmallDisk,
    add_images: Callable[[int], list[str]],
    assert_undisturbed: Check,
    tmp_path: Path,
) -> None:
    inputs, output = add_images(40), place(small_disk.folder / "masks")
    arguments = (tmp_path / "plates", output.url, *quick)

    def fill(ended: threading.Event) -> None:
        wait_for(actor_at_work, "an actor", unless=ended.is_set)
        small_disk.fill()

    with in_background(fill):
        done = maskfleet("segment", *arguments)
    assert done.exit_code == 1
    assert_one_line(done.stderr, output.url, "No space left on device")
    small_disk.free()
    segment(*arguments)
    assert_undisturbed(output, inputs)
