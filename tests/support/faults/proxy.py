"""A reverse proxy on loopback in front of a real S3 server, which counts requests and injects faults.

Requests are passed on byte for byte with their Host header, so that signatures stay valid.
"""

from __future__ import annotations

import asyncio
import random
import re
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from aiohttp import ClientError, ClientSession, ClientTimeout, TCPConnector, web
from yarl import URL

HOST = "127.0.0.1"
PIECE = 64 << 10  # bytes passed on at once
HOP = {"connection", "keep-alive", "transfer-encoding", "upgrade", "expect", "proxy-connection", "te", "trailer"}
REFUSALS = {  # status, code and message, as S3 words them
    "busy": (503, "SlowDown", "Please reduce your request rate."),
    "denied": (403, "AccessDenied", "Access Denied."),
}


@dataclass(frozen=True)
class Faults:
    """The faults of a store. Shares are of requests, drawn from the proxy's seeded generator.

    Attributes:
        delay: seconds before each request is passed on.
        busy: share answered 503 SlowDown and not passed on.
        denied: share answered 403 AccessDenied and not passed on.
        cut: share of answers whose connection is closed after `cut_after` bytes of their body.
        cut_after: bytes; an answer that is shorter is cut half way.
        drop: share of connections closed before anything was answered, the request not passed on.
        methods: only requests of these; all if empty.
        keys: only paths (`/bucket/key`) in which this pattern is found.
    """

    delay: float = 0.0
    busy: float = 0.0
    denied: float = 0.0
    cut: float = 0.0
    cut_after: int = 1000
    drop: float = 0.0
    methods: tuple[str, ...] = ()
    keys: str = ""


@dataclass
class Counts:
    """What passed through the proxy, by method; `keys` is by (method, path)."""

    requests: Counter[str] = field(default_factory=Counter)
    received: Counter[str] = field(default_factory=Counter)  # bytes of bodies from clients
    sent: Counter[str] = field(default_factory=Counter)  # bytes of bodies to clients
    keys: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)  # injected: "busy", "denied", "cut", "drop", "delay"


class Proxy:
    """A running proxy, as a context manager.

    `faults` may be set at any time and applies from the next request on; `hook`, if there is one, is called
    with (method, path) before a request is passed on, from the proxy's thread.

    Attributes:
        endpoint: its URL, for AWS_ENDPOINT_URL_S3.
        counts: what has passed so far.
    """

    def __init__(self, upstream: str, faults: Faults | None = None, seed: int = 0) -> None:
        self._upstream, self.faults, self.counts = upstream.rstrip("/"), faults or Faults(), Counts()
        self.hook: Callable[[str, str], None] | None = None
        self.endpoint = ""
        self._random = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._session: ClientSession | None = None
        self._runner: web.ServerRunner | None = None

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._open(), self._loop).result(30)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def heal(self) -> None:
        """Ends all faults."""
        self.faults = Faults()

    async def _open(self) -> None:
        self._session = ClientSession(
            auto_decompress=False,
            connector=TCPConnector(limit=0, force_close=True),  # a restarted server has no old connections
            timeout=ClientTimeout(total=None, sock_connect=5),
        )
        self._runner = web.ServerRunner(web.Server(self._answer, max_line_size=1 << 16, max_field_size=1 << 16))
        await self._runner.setup()
        site = web.TCPSite(self._runner, HOST, 0, shutdown_timeout=1)
        await site.start()
        self.endpoint = f"http://{HOST}:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        if self._session:
            await self._session.close()
        if self._runner:
            await self._runner.cleanup()

    def _chosen(self, method: str, path: str) -> set[str]:
        """Draws the faults of a request."""
        faults = self.faults
        if (faults.methods and method not in faults.methods) or not re.search(faults.keys, path):
            return set()
        shares = {"drop": faults.drop, "busy": faults.busy, "denied": faults.denied, "cut": faults.cut}
        return {name for name, share in shares.items() if self._random.random() < share} | (
            {"delay"} if faults.delay else set()
        )

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.raw_path.split("?", 1)[0]
        faults, chosen = self.faults, self._chosen(request.method, path)
        self.counts.requests[request.method] += 1
        self.counts.keys[request.method, path] += 1
        if self.hook:
            self.hook(request.method, path)
        if "delay" in chosen:
            self.counts.faults["delay"] += 1
            await asyncio.sleep(faults.delay)
        if "drop" in chosen:
            return self._hang_up(request, "drop")
        if request.headers.get("Expect", "").lower() == "100-continue":
            await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            request.writer.output_size = 0
        for refusal in REFUSALS.keys() & chosen:
            async for _ in self._body(request):
                pass
            return self._refuse(refusal)
        return await self._pass(request, faults.cut_after if "cut" in chosen else None)

    def _refuse(self, refusal: str) -> web.Response:
        self.counts.faults[refusal] += 1
        status, code, message = REFUSALS[refusal]
        text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
        return web.Response(status=status, text=text, content_type="application/xml")

    async def _pass(self, request: web.BaseRequest, cut_after: int | None) -> web.StreamResponse:
        """Passes a request on and its answer back, up to `cut_after` bytes of it."""
        assert self._session
        headers = [(k, v) for k, v in request.headers.items() if k.lower() not in HOP]
        url = URL(self._upstream + request.raw_path, encoded=True)
        try:
            async with self._session.request(
                request.method,
                url,
                headers=headers,
                data=self._body(request) if request.can_read_body else None,
                allow_redirects=False,
                skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            ) as upstream:
                answer = web.StreamResponse(status=upstream.status, reason=upstream.reason)
                answer.headers.extend((k, v) for k, v in upstream.headers.items() if k.lower() not in HOP)
                if cut_after is not None:
                    cut_after = min(cut_after, (upstream.content_length or 0) // 2)
                return await self._send(request, upstream.content.iter_chunked(PIECE), answer, cut_after)
        except (ClientError, ConnectionError):  # of either side
            return self._hang_up(request)

    async def _body(self, request: web.BaseRequest) -> AsyncIterator[bytes]:
        async for piece in request.content.iter_chunked(PIECE):
            self.counts.received[request.method] += len(piece)
            yield piece

    async def _send(
        self, request: web.BaseRequest, pieces: Any, answer: web.StreamResponse, cut_after: int | None
    ) -> web.StreamResponse:
        await answer.prepare(request)
        sent = 0
        async for piece in pieces:
            if cut_after is not None and sent + len(piece) > cut_after:
                await answer.write(piece[: cut_after - sent])
                self.counts.sent[request.method] += cut_after - sent
                return self._hang_up(request, "cut")
            await answer.write(piece)
            sent += len(piece)
            self.counts.sent[request.method] += len(piece)
        if cut_after is not None:
            return self._hang_up(request, "cut")
        await answer.write_eof()
        return answer

    def _hang_up(self, request: web.BaseRequest, fault: str | None = None) -> web.StreamResponse:
        """Closes the connection without an answer."""
        if fault:
            self.counts.faults[fault] += 1
        if request.transport:
            request.transport.abort()
        return web.Response(status=502)  # to nobody
