"""The proxy of the other tests passes everything on as it is, counts it, and misbehaves when told to."""

from __future__ import annotations

import os

import pytest
from s3fs import S3FileSystem
from support.faults.proxy import Faults, Proxy

from jobs.sample.s3_server import S3Server


def client(endpoint: str, retries: int = 5) -> S3FileSystem:
    """A client with the credentials of the environment."""
    fs = S3FileSystem(
        endpoint_url=endpoint,
        skip_instance_cache=True,
        use_listings_cache=False,
        config_kwargs={"retries": {"max_attempts": retries, "mode": "standard"}},
    )
    fs.retries = retries
    return fs


@pytest.mark.slow
def test_what_passes_is_the_same_and_counted(s3_server: S3Server, bucket: tuple[S3FileSystem, str]) -> None:
    direct, name = bucket
    data, key = os.urandom(11 << 20), f"{name}/a ü/#1+%&=.bin"
    with Proxy(s3_server.endpoint) as proxy:
        fs = client(proxy.endpoint)
        fs.pipe_file(key, data)  # several parts
        assert fs.cat_file(key) == direct.cat_file(key) == data
        assert fs.cat_ranges([key, key], [5, 100], [10, 5000]) == [data[5:10], data[100:5000]]
        fs.mv(key, f"{name}/moved")
        assert fs.find(name) == [f"{name}/moved"]
        counts = proxy.counts
        assert counts.received["PUT"] == len(data)
        assert len(data) + 4905 <= counts.sent["GET"] < len(data) + 50_000
        assert counts.keys["PUT", f"/{name}/moved"] == 1
        assert not counts.faults


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["busy", "denied", "cut", "drop"])
def test_faults_reach_the_client_and_end(fault: str, s3_server: S3Server, bucket: tuple[S3FileSystem, str]) -> None:
    direct, name = bucket
    direct.pipe_file(f"{name}/key", bytes(100_000))
    with Proxy(s3_server.endpoint, Faults(methods=("GET",), keys="/key$", **{fault: 1.0})) as proxy:
        fs = client(proxy.endpoint, retries=1)
        with pytest.raises(Exception, match=r"."):  # each client names them in its own way
            fs.cat_file(f"{name}/key")
        assert proxy.counts.faults[fault] >= 1
        assert set(proxy.counts.faults) == {fault}
        proxy.heal()
        assert fs.cat_file(f"{name}/key") == bytes(100_000)
