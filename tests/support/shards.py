"""Shards of images for tests, and a proxy that counts what is asked of a store."""

from __future__ import annotations

import gzip
import http.client
import io
import tarfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq


def images(count: int, size: int) -> dict[str, bytes]:
    """Names and contents of files that count as images by their names."""
    random = np.random.default_rng(0)
    return {f"d/{i:03d}.jpg": random.bytes(size) for i in range(count)}


def tar_of(members: Mapping[str, bytes], compress: bool = False) -> bytes:
    """A tar, or a .tgz, of members in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return gzip.compress(buffer.getvalue(), 0, mtime=0) if compress else buffer.getvalue()


def parquet_of(columns: Mapping[str, list], rows: int, metadata: dict[str, str] | None = None) -> bytes:
    """A Parquet file of columns, with a number of rows in each row group."""
    buffer = io.BytesIO()
    pq.write_table(pa.table(dict(columns)).replace_schema_metadata(metadata), buffer, row_group_size=rows)
    return buffer.getvalue()


@dataclass
class Request:
    """What a client asked for, and how many bytes of content it got."""

    method: str
    path: str
    query: str
    range: str | None
    bytes: int


@dataclass
class Counter:
    """A server that passes requests on to another, and counts them."""

    endpoint: str
    requests: list[Request] = field(default_factory=list)

    def gets(self, key: str) -> list[Request]:
        """Requests for the content of an object whose path ends so."""
        return [r for r in self.requests if r.method == "GET" and r.path.endswith(key)]

    def bytes(self, key: str) -> int:
        """Bytes that came of such an object."""
        return sum(r.bytes for r in self.gets(key))


@contextmanager
def counting(endpoint: str) -> Iterator[Counter]:
    """A counting server on loopback, in front of the one at `endpoint`. The host header passes, as it is signed."""
    target = urlsplit(endpoint)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            connection = http.client.HTTPConnection(target.hostname or "", target.port, timeout=60)
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                connection.putheader(name, value)
            connection.endheaders(body or None)
            answer = connection.getresponse()
            data = answer.read()
            parts = urlsplit(self.path)
            got = Request(self.command, unquote(parts.path), parts.query, self.headers.get("Range"), len(data))
            counter.requests.append(got)
            self.send_response_only(answer.status, answer.reason)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            length = answer.getheader("Content-Length") if self.command == "HEAD" else str(len(data))
            self.send_header("Content-Length", length or "0")
            self.end_headers()
            self.wfile.write(data)
            connection.close()

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = pass_on  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    counter = Counter(f"http://127.0.0.1:{server.server_address[1]}")
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield counter
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
