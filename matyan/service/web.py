"""Hypercorn behind the listener, and what confines it: it gets one request at a time, on a stream that ends where our parser says so,
and the deadlines that it lacks.

No routes here, and no listener (`http_server.py`). Imported late: Quart and Hypercorn cost a start 0.7 s.
"""

from __future__ import annotations

import logging
import select
from typing import Any, cast

import trio
from hypercorn.config import Config
from hypercorn.events import Event, Updated
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.utils import wrap_app

from matyan.service.asgi import ASGIApp
from matyan.service.http1 import LINGER_S, BadRequest, Chunked, Head, Sized, send_within
from matyan.service.tls import Stream, TlsStream


class Exchange:
    """One request and its response: what a connection is to Hypercorn's TCPServer.

    The listener keeps the connection and says where each request ends, so that Hypercorn never reads a head that our
    parser has not read, and never decides how long a connection may idle. Its sends are shielded and have no
    deadline: here a send ends after SEND_S.
    """

    def __init__(self, stream: Stream, head: Head) -> None:
        self.socket = stream.socket
        self.rest = head.rest
        """What was read beyond the request's end."""
        self.reusable = False
        """Whether the connection may carry another request."""
        self.limit = trio.CancelScope()
        """Around the server: what is still at work a moment after the response is not waited for."""
        self._stream = stream
        self._head = head.forwarded()
        self._body = Chunked() if head.length is None else Sized(head.length)
        self._reading = trio.CancelScope()
        self._over = trio.Event()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """The head, then the body; when that has ended, nothing until the response has ended too."""
        if self._head:
            head, self._head = self._head, b""
            return head
        if self._body.ended:
            await self._over.wait()
            return b""
        data, self.rest = self.rest, b""
        if not data:
            with trio.CancelScope() as self._reading:
                data = bytes(await self._stream.receive_some(max_bytes))
        try:
            used = self._body.feed(data)
        except BadRequest:
            return b""  # an end within the body: Hypercorn says 400 to that
        self.rest = data[used:]
        return data[:used]

    async def send_all(self, data: bytes) -> None:
        try:
            await send_within(self._stream, data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.end(reusable=False)
            raise

    async def send_eof(self) -> None:
        self.end(reusable=False)

    async def aclose(self) -> None:
        self.end(reusable=False)

    def is_gone(self) -> bool:
        """Whether the client has closed its side: an answer that takes long is for nobody then. Asked of the kernel, so what the
        client may have sent behind its request stays where it is."""
        if (number := self.socket.fileno()) < 0:
            return True  # closed on our side meanwhile
        asked = select.poll()
        asked.register(number, select.POLLRDHUP)
        return bool(asked.poll(0))

    def end(self, *, reusable: bool) -> None:
        """The response has ended, or never will; the first call counts."""
        if self._over.is_set():
            return
        self.reusable = reusable
        self._over.set()
        self._reading.cancel()
        self.limit.deadline = trio.current_time() + LINGER_S


class SecureExchange(Exchange):
    """The same under TLS: by what a stream can be asked, Hypercorn sees that the request's scheme is https."""

    @property
    def transport_stream(self) -> SecureExchange:
        return self

    async def do_handshake(self) -> None:
        """It was done before the head was read."""

    def selected_alpn_protocol(self) -> str:
        return "http/1.1"


class OneRequest(TCPServer):
    """Hypercorn's server of a connection, for an Exchange: it hears from the protocol when the response has ended."""

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, Updated) and event.idle:
            cast(Exchange, self.stream).end(reusable=True)
        else:
            await super().protocol_send(event)


class WebServer:
    """Hypercorn around an app, one request at a time: `http_server.py` has the listener and the connections."""

    def __init__(self, app: ASGIApp) -> None:
        # To a type checker Hypercorn's words for ASGI are others.
        self._app = wrap_app(cast(Any, app), 0, "asgi")
        self._config = Config()
        self._config.include_server_header = False
        # The logger as it is: by default Hypercorn adds a handler of its own, and each error is written twice.
        self._config.errorlog = logging.getLogger("hypercorn.error")
        self._state: dict[str, Any] = {}

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keeps the app alive (ASGI's lifespan) until it is cancelled."""
        lifespan = Lifespan(self._app, self._config, self._state)
        async with trio.open_nursery() as nursery:
            await nursery.start(lifespan.handle_lifespan)
            await lifespan.wait_for_startup()
            task_status.started()

    async def answer(self, stream: Stream, head: Head) -> bytes | None:
        """Answers a request; returns what was read behind it, or None when the connection takes no other."""
        kind = SecureExchange if isinstance(stream, TlsStream) else Exchange
        exchange = kind(stream, head)
        await self.handle(exchange)
        return exchange.rest if exchange.reusable else None

    async def handle(self, exchange: Exchange) -> None:
        # Hypercorn names the type of its TLS streams alone, but takes any.
        stream = cast("trio.SSLStream[trio.SocketStream]", exchange)
        with exchange.limit:
            state = {**self._state, "is_gone": exchange.is_gone}
            await OneRequest(self._app, self._config, WorkerContext(None), state, stream).run()
