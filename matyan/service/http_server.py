"""A port that speaks HTTP: takes connections, reads each request's head, judges it, and decides who answers: this file (probes), whoever
takes the connection over (a lane of WebSockets), or Hypercorn and an app (`web.py`).

No routes, no WebSocket and no store here. Quart and Hypercorn are imported after the first connection can already be taken, since
that costs 0.7 s.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import contextmanager, suppress
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Protocol

import trio

from matyan.service import telemetry
from matyan.service.certificates import Certificates, Files
from matyan.service.descriptors import for_connections
from matyan.service.doors import Refusal
from matyan.service.doorway import tell_refused
from matyan.service.entrance import Entrance
from matyan.service.http1 import (
    BadRequest,
    Head,
    detail,
    linger,
    peer_address,
    read_head,
    refuse,
    response,
    send_within,
    turned_away,
)
from matyan.service.islands import island
from matyan.service.logs import get_logger
from matyan.service.probes import About, probe
from matyan.service.telemetry import count_request
from matyan.service.tls import HANDSHAKE_RECORD, HANDSHAKE_S, Stream, TlsStream, shake_hands
from matyan.service.tokens import Token

if TYPE_CHECKING:
    from matyan.service.web import WebServer

log = get_logger()

TOLD_CONNECTIONS = 16
"""So many connections at a time beyond the limit are told that there are too many; others are closed without a word."""
TOLD_S = 1.0
"""How long the request of such a connection is waited for, before it is told."""
TELL_HANDSHAKES_S = 30.0
"""Handshakes that fail for one reason are logged once in so long."""

_PLAIN = "This port speaks TLS: call it by https:// (or wss://)."
_handshakes = telemetry.TLS_HANDSHAKES.counts(("ok", "plain", "failed", "late", "gone"))


class Lane(Protocol):
    """Takes connections over, with the request that asks for that."""

    @property
    def connections(self) -> Sized:
        """Those that it has open."""
        ...

    def takes(self, head: Head) -> bool: ...

    async def open(self, stream: Stream, head: Head, token: Token | None) -> None:
        """Has the connection until its end."""
        ...


class HttpServer:
    """One listener with all that it has open, but for what its lane has.

    Args:
        load_web: makes what answers all that no probe and no lane does; called in a thread, since it imports much.
        wants_page: called with path and Accept; whether a request for a probe's path is for the app.
        files: of the certificate; None: no TLS.
        base_path: what a proxy may leave in front of every path, such as /tracker.
        draining: set when no more requests are to be answered on connections that are open.
    """

    def __init__(
        self,
        about: About,
        entrance: Entrance,
        load_web: Callable[[], WebServer],
        *,
        wants_page: Callable[[str, str], bool],
        files: Files | None,
        draining: trio.Event,
        lane: Lane | None = None,
        base_path: str = "",
    ) -> None:
        self._about = about
        self._entrance = entrance
        self._load_web = load_web
        self._wants_page = wants_page
        self._draining = draining
        self._lane = lane
        self._base_path = base_path
        self.web: WebServer | None = None
        self.web_loaded = trio.Event()
        self.most_connections = for_connections()
        self.certificates = None if files is None else Certificates(files)
        """Of a listener under TLS."""
        self._handshakes_told: dict[str, float] = {}
        """When a handshake that failed for this reason, one of OpenSSL's, was logged last."""
        self.streams: set[Stream] = set()
        """Connections that are not, or not yet, on the lane."""
        self.idle: set[Stream] = set()
        """Those of them that have no request at hand."""
        self._empty = trio.Event()
        self._accepting = trio.CancelScope()

    async def serve(
        self,
        listeners: Sequence[trio.SocketListener],
        *,
        task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Serves until it is cancelled; closes the listeners."""
        self._accepting, self.web_loaded = trio.CancelScope(), trio.Event()
        self._entrance.listening_on(listener.socket.getsockname()[0] for listener in listeners)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_web)
            if self.certificates is not None:
                nursery.start_soon(self.certificates.watch)
            with self._accepting:
                await trio.serve_listeners(
                    partial(island, self.handle),
                    list(listeners),
                    handler_nursery=nursery,
                    task_status=task_status,
                )

    async def stop(self) -> None:
        """Takes no more connections, and closes those that have no request at hand."""
        self._draining.set()
        self._accepting.cancel()
        for stream in list(self.idle):
            await trio.aclose_forcefully(stream)

    async def emptied(self) -> None:
        """Returns when every connection has ended, the lane's too."""
        while self.streams or self._taken_over():
            self._empty = trio.Event()
            await self._empty.wait()

    def tell_empty(self) -> None:
        """The lane has none any more."""
        self._empty.set()

    async def force(self) -> None:
        """Closes what is open, as it is."""
        for stream in list(self.streams):
            await trio.aclose_forcefully(stream)

    def _taken_over(self) -> int:
        return 0 if self._lane is None else len(self._lane.connections)

    async def _run_web(self) -> None:
        web = await trio.to_thread.run_sync(self._load_web)
        async with trio.open_nursery() as nursery:
            await nursery.start(web.run)
            self.web = web
            self.web_loaded.set()

    async def handle(self, transport: trio.SocketStream) -> None:
        over = len(self.streams) + self._taken_over() - self.most_connections
        if over >= TOLD_CONNECTIONS:
            return
        stream: Stream | None = transport
        if self.certificates is not None:
            with self._counted(transport):
                stream = await self._secured(self.certificates, transport)
        if stream is None:
            return
        async with stream:
            with self._counted(stream):
                await (self._converse if over < 0 else self._tell_too_many)(stream)

    @contextmanager
    def _counted(self, stream: Stream) -> Iterator[None]:
        self.streams.add(stream)
        try:
            yield
        finally:
            self.streams.discard(stream)
            if not self.streams:
                self._empty.set()

    async def _secured(
        self, certificates: Certificates, transport: trio.SocketStream
    ) -> TlsStream | None:
        """The connection under TLS; None: it does not come to that."""
        outcome = "gone"
        self.idle.add(transport)
        try:
            with trio.move_on_after(HANDSHAKE_S) as scope:
                first = await transport.socket.recv(1, socket.MSG_PEEK)
                if first and first[0] != HANDSHAKE_RECORD:
                    outcome = "plain"
                    await refuse(transport, detail(400, _PLAIN))
                elif first:
                    stream = await shake_hands(transport, certificates.context)
                    outcome = "ok"
                    return stream
            if scope.cancelled_caught:
                outcome = "late"
        except ssl.SSLError as error:
            outcome = "failed"
            self._tell_failed(transport, error.reason or "")
            await linger(transport)
        except OSError as error:
            raise trio.BrokenResourceError from error
        finally:
            self.idle.discard(transport)
            _handshakes[outcome] += 1
        return None

    def _tell_failed(self, transport: trio.SocketStream, reason: str) -> None:
        now = trio.current_time()
        # Whoever reaches the port can cause it without end: all are counted.
        if now >= self._handshakes_told.get(reason, -inf) + TELL_HANDSHAKES_S:
            self._handshakes_told[reason] = now
            log.warning("a TLS handshake failed", peer=peer_address(transport), reason=reason)

    async def _tell_too_many(self, stream: Stream) -> None:
        log.warning("too many connections", most=self.most_connections)
        # Some clients are confused by an answer that comes before their request.
        with suppress(BadRequest), trio.move_on_after(TOLD_S):
            await read_head(stream, b"", first=True)
        await refuse(
            stream,
            detail(
                503,
                f"This process has {self.most_connections} connections already, and may have no more: close some, "
                "or raise its limit of open files (ulimit -n).",
            ),
        )

    async def _converse(self, stream: Stream) -> None:
        """Answers one request after the other, until the connection is over or the lane has it."""
        rest, first = b"", True
        while True:
            self.idle.add(stream)
            try:
                head = await read_head(stream, rest, first=first)
            except BadRequest as error:
                count_request("other", "unmatched", error.answer.status, 0.0)
                await refuse(stream, error.answer)
                return
            finally:
                self.idle.discard(stream)
            if head is None:
                return
            head = head.below(self._base_path)
            visitor = self._judge_client(stream, head) or self._entrance.judge(
                head.method, head.path, head.query, head.headers
            )
            if isinstance(visitor, Refusal):
                await self._turn_away(stream, head, visitor)
                return
            if self._lane is not None and self._lane.takes(head):
                await self._lane.open(stream, head, visitor.token)
                return
            left = await self._answer(stream, head)
            if left is None or self._draining.is_set():
                await linger(stream)
                return
            rest, first = left, False

    async def _turn_away(self, stream: Stream, head: Head, refusal: Refusal) -> None:
        tell_refused(head.method, head.path, refusal)
        await self._entrance.hold(refusal, peer_address(stream), self._draining)
        headers = (*refusal.headers, *self._entrance.doors.cors(head.headers))
        await refuse(stream, turned_away(refusal.status, refusal.sentence, headers))

    def _judge_client(self, stream: Stream, head: Head) -> Refusal | None:
        """Whether the client must show a certificate and has not. An orchestrator's health check has none to show."""
        certificates = self.certificates
        if (
            certificates is None
            or not certificates.asks_clients
            or head.path.startswith("/health/")
        ):
            return None
        if isinstance(stream, TlsStream) and stream.has_certificate:
            return None
        return Refusal(
            403,
            "A client must show a certificate here, signed by one of the authorities in MATYAN_TLS_CLIENT_CA_FILE.",
        )

    async def _answer(self, stream: Stream, head: Head) -> bytes | None:
        """Answers a request; returns what was read behind it, or None when the connection takes no other."""
        begun = trio.current_time()
        # A page across origins needs the CORS headers, which are the app's.
        page = None
        accept = head.headers.get("accept", "")
        if head.bare and "origin" not in head.headers and not self._wants_page(head.path, accept):
            page = probe(self._about, head.path, accept)
        if page is None:
            await self.web_loaded.wait()
            assert self.web is not None
            return await self.web.answer(stream, head)
        keep = head.keeps_alive and not self._draining.is_set()
        await send_within(stream, response(page, keep_alive=keep, head_only=head.method == "HEAD"))
        count_request(head.method, head.path, page.status, trio.current_time() - begun)
        return head.rest if keep else None
