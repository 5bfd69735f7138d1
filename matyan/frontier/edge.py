"""The listener: takes connections, reads each request's head and decides who answers: the ingest lane (`lane.py`), this file (probes),
or Hypercorn and the app (`web.py`). And the drain of all of them.

No WebSocket, no routes and no store here. Quart and Hypercorn are imported after the first connection can already be taken, since
that costs 0.7 s.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING

import trio

from matyan.blobs.base import Blobs
from matyan.broker.base import Producer
from matyan.frontier.lane import INGEST_PATH, SWEEP_EVERY_S, Lane
from matyan.frontier.shared import Shared, count_request, tell_refused
from matyan.service import telemetry
from matyan.service.asgi import ASGIApp
from matyan.service.certificates import Certificates, files_of
from matyan.service.descriptors import for_connections
from matyan.service.doors import Refusal
from matyan.service.health import Health
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
)
from matyan.service.islands import island
from matyan.service.logs import get_logger
from matyan.service.probes import probe
from matyan.service.tls import HANDSHAKE_RECORD, HANDSHAKE_S, Stream, TlsStream, shake_hands
from matyan.service.tokens import Tokens
from matyan.settings import Settings

if TYPE_CHECKING:
    from matyan.frontier.web import WebServer

log = get_logger()

TOLD_CONNECTIONS = 16
"""So many connections at a time beyond the limit are told that there are too many; others are closed without a word."""
TOLD_S = 1.0
"""How long the request of such a connection is waited for, before it is told."""
TELL_HANDSHAKES_S = 30.0
"""Handshakes that fail for one reason are logged once in so long."""

_PLAIN = "This port speaks TLS: call it by https:// (or wss://)."
_handshakes = telemetry.TLS_HANDSHAKES.counts(("ok", "plain", "failed", "late", "gone"))


class Frontier:
    """One listener with all that it has open. Made by the composition root, run by `serve`, ended by `drain`.

    Args:
        blobs: where artifacts are presigned; an engine that also takes and gives the bytes is served here.
        tokens: who may come in; None: whoever the settings say.
        beside: see `Shared`.

    Raises:
        ConfigurationError: a setting says who may come in, and cannot be understood; or the tokens file is not there.
    """

    def __init__(
        self,
        producer: Producer,
        blobs: Blobs,
        health: Health,
        settings: Settings,
        tokens: Tokens | None = None,
        beside: Callable[[], ASGIApp] | None = None,
    ) -> None:
        self.shared = Shared(producer, blobs, health, settings, tokens, beside)
        self.lane = Lane(self.shared, lambda: self.empty.set())
        self.web: WebServer | None = None
        self.web_loaded = trio.Event()
        self.most_connections = for_connections()
        files = files_of(settings)
        self.certificates = None if files is None else Certificates(files)
        """Of a listener under TLS."""
        self.handshakes_told: dict[str, float] = {}
        """When a handshake that failed for this reason, one of OpenSSL's, was logged last."""
        self.streams: set[Stream] = set()
        """Connections that are not, or not yet, on the ingest lane."""
        self.idle: set[Stream] = set()
        """Those of them that have no request at hand."""
        self.empty = trio.Event()
        self.accepting = trio.CancelScope()
        self.nursery: trio.Nursery | None = None


async def serve(
    frontier: Frontier,
    listeners: Sequence[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until it is cancelled or drained; closes the listeners."""
    frontier.accepting, frontier.web_loaded = trio.CancelScope(), trio.Event()
    shared = frontier.shared
    shared.entrance.listening_on(listener.socket.getsockname()[0] for listener in listeners)
    async with trio.open_nursery() as nursery:
        frontier.nursery = nursery
        await nursery.start(frontier.lane.run)
        nursery.start_soon(shared.intake.run)
        nursery.start_soon(shared.pacer.run)
        nursery.start_soon(_sweep, frontier)
        nursery.start_soon(_load_web, frontier)
        if frontier.certificates is not None:
            nursery.start_soon(frontier.certificates.watch)
        with frontier.accepting:
            await trio.serve_listeners(
                partial(island, partial(_handle, frontier)),
                list(listeners),
                handler_nursery=nursery,
                task_status=task_status,
            )


async def drain(frontier: Frontier, deadline: float) -> int:
    """Takes no more, answers what it has, says goodbye, ends `serve`; returns the records left undelivered.

    Args:
        deadline: trio's time at which the sockets that are still open are closed as they are.
    """
    shared = frontier.shared
    shared.health.draining = True
    shared.draining.set()
    frontier.accepting.cancel()
    frontier.lane.drain()
    for stream in list(frontier.idle):
        await trio.aclose_forcefully(stream)
    with trio.move_on_at(deadline):
        while frontier.lane.connections or frontier.streams:
            frontier.empty = trio.Event()
            await frontier.empty.wait()
    frontier.lane.force()
    for stream in list(frontier.streams):
        await trio.aclose_forcefully(stream)
    left = await shared.sessions.producer.flush(deadline) + shared.sessions.parked_records()
    if frontier.nursery is not None:
        frontier.nursery.cancel_scope.cancel()
    return left


async def _sweep(frontier: Frontier) -> None:
    shared = frontier.shared
    while True:
        await trio.sleep(SWEEP_EVERY_S)
        now = trio.current_time()
        shared.entrance.tokens.look()
        shared.sessions.sweep(now)
        frontier.lane.sweep(now)
        shared.intake.sweep(now)
        telemetry.QUEUE_BYTES.set(shared.sessions.budget.held)


async def _load_web(frontier: Frontier) -> None:
    def load() -> WebServer:
        made: WebServer = import_module("matyan.frontier.web").WebServer(frontier.shared)
        return made

    web = await trio.to_thread.run_sync(load)
    async with trio.open_nursery() as nursery:
        await nursery.start(web.run)
        frontier.web = web
        frontier.web_loaded.set()


async def _handle(frontier: Frontier, transport: trio.SocketStream) -> None:
    over = len(frontier.streams) + len(frontier.lane.connections) - frontier.most_connections
    if over >= TOLD_CONNECTIONS:
        return
    stream: Stream | None = transport
    if frontier.certificates is not None:
        with _counted(frontier, transport):
            stream = await _secured(frontier, frontier.certificates, transport)
    if stream is None:
        return
    async with stream:
        with _counted(frontier, stream):
            await (_converse if over < 0 else _tell_too_many)(frontier, stream)


@contextmanager
def _counted(frontier: Frontier, stream: Stream) -> Iterator[None]:
    frontier.streams.add(stream)
    try:
        yield
    finally:
        frontier.streams.discard(stream)
        if not frontier.streams:
            frontier.empty.set()


async def _secured(
    frontier: Frontier, certificates: Certificates, transport: trio.SocketStream
) -> TlsStream | None:
    """The connection under TLS; None: it does not come to that."""
    outcome = "gone"
    frontier.idle.add(transport)
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
        _tell_failed(frontier, transport, error.reason or "")
        await linger(transport)
    except OSError as error:
        raise trio.BrokenResourceError from error
    finally:
        frontier.idle.discard(transport)
        _handshakes[outcome] += 1
    return None


def _tell_failed(frontier: Frontier, transport: trio.SocketStream, reason: str) -> None:
    now = trio.current_time()
    # Whoever reaches the port can cause it without end: all are counted.
    if now >= frontier.handshakes_told.get(reason, -inf) + TELL_HANDSHAKES_S:
        frontier.handshakes_told[reason] = now
        log.warning("a TLS handshake failed", peer=peer_address(transport), reason=reason)


async def _tell_too_many(frontier: Frontier, stream: Stream) -> None:
    log.warning("too many connections", most=frontier.most_connections)
    # Some clients are confused by an answer that comes before their request.
    with suppress(BadRequest), trio.move_on_after(TOLD_S):
        await read_head(stream, b"", first=True)
    await refuse(
        stream,
        detail(
            503,
            f"This process has {frontier.most_connections} connections already, and may have no more: close some, "
            "or raise its limit of open files (ulimit -n).",
        ),
    )


async def _converse(frontier: Frontier, stream: Stream) -> None:
    """Answers one request after the other, until the connection is over or the lane has it."""
    rest, first = b"", True
    while True:
        frontier.idle.add(stream)
        try:
            head = await read_head(stream, rest, first=first)
        except BadRequest as error:
            count_request("other", "unmatched", error.answer.status, 0.0)
            await refuse(stream, error.answer)
            return
        finally:
            frontier.idle.discard(stream)
        if head is None:
            return
        visitor = _judge_client(frontier, stream, head) or frontier.shared.entrance.judge(
            head.method, head.path, head.query, head.headers
        )
        if isinstance(visitor, Refusal):
            await _turn_away(frontier.shared, stream, head, visitor)
            return
        if _asks_for_the_lane(head):
            await frontier.lane.open(stream, head, visitor.token)
            return
        left = await _answer(frontier, stream, head)
        if left is None or frontier.shared.draining.is_set():
            await linger(stream)
            return
        rest, first = left, False


async def _turn_away(shared: Shared, stream: Stream, head: Head, refusal: Refusal) -> None:
    tell_refused(head.method, head.path, refusal)
    await shared.entrance.hold(refusal, peer_address(stream), shared.draining)
    headers = (*refusal.headers, *shared.entrance.doors.cors(head.headers))
    await refuse(stream, detail(refusal.status, refusal.sentence, headers))


def _judge_client(frontier: Frontier, stream: Stream, head: Head) -> Refusal | None:
    """Whether the client must show a certificate and has not. An orchestrator's health check has none to show."""
    certificates = frontier.certificates
    if certificates is None or not certificates.asks_clients or head.path.startswith("/health/"):
        return None
    if isinstance(stream, TlsStream) and stream.has_certificate:
        return None
    return Refusal(
        403,
        "A client must show a certificate here, signed by one of the authorities in MATYAN_TLS_CLIENT_CA_FILE.",
    )


def _asks_for_the_lane(head: Head) -> bool:
    # An upgrade elsewhere, or to something else, is not followed: that is a request like any other.
    may_upgrade = head.method == "GET" and head.version == "HTTP/1.1"
    return may_upgrade and "upgrade" in head.headers and head.path.startswith(INGEST_PATH)


async def _answer(frontier: Frontier, stream: Stream, head: Head) -> bytes | None:
    """Answers a request; returns what was read behind it, or None when the connection takes no other."""
    begun = trio.current_time()
    # A page across origins needs the CORS headers, which are the app's.
    page = None
    accept = head.headers.get("accept", "")
    if (
        head.bare
        and "origin" not in head.headers
        and not frontier.shared.wants_page(head.path, accept)
    ):
        page = probe(frontier.shared.about, head.path, accept)
    if page is None:
        await frontier.web_loaded.wait()
        assert frontier.web is not None
        return await frontier.web.answer(stream, head)
    keep = head.keeps_alive and not frontier.shared.draining.is_set()
    await send_within(stream, response(page, keep_alive=keep, head_only=head.method == "HEAD"))
    count_request(head.method, head.path, page.status, trio.current_time() - begun)
    return head.rest if keep else None
