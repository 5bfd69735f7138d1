"""The listener: an upgrade of the ingest path goes to the ingest lane, anything else to Hypercorn and the app.

The lane is the Sans-I/O layer of `websockets` on non-blocking sockets: it owns RFC 6455, this file owns
bytes, deadlines and memory, `session.py` owns what is answered. No validation, no routes and no store here;
Quart and Hypercorn are imported after the first connection can already be taken, since that costs 0.7 s.

A connection of the lane has no task. All their sockets stand in one epoll, and one task waits for that: a burst of
frames wakes trio once, where a task each would cost every frame a switch of tasks and two system calls.
"""

from __future__ import annotations

import logging
import select
import socket
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING
from urllib.parse import unquote

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN, SERVER, Protocol
from websockets.server import ServerProtocol

from matyan import telemetry
from matyan._codec import check_run_id, text_message
from matyan.broker.base import Producer
from matyan.doors import doors_of
from matyan.errors import Unavailable
from matyan.frontier.session import OK, Desk, Session
from matyan.logs import get_logger
from matyan.probes import (
    LINGER_SECONDS,
    SEND_SECONDS,
    About,
    Answer,
    Head,
    TooLong,
    detail,
    linger,
    parse_head,
    probe,
    read_head,
    refusal_of_head,
    response,
    send_within,
)

if TYPE_CHECKING:
    from matyan.blobs.base import Blobs
    from matyan.frontier.app import WebServer
    from matyan.health import Health
    from matyan.settings import Settings

log = get_logger()

INGEST_PATH = "/api/v1/ws/runs/"
FRAME_BYTES = 16 << 20
"""A message's limit, inflated (contract, section 6)."""
PING_AFTER = 20.0
"""Seconds of silence before the server pings. The SDK pings every 10 s, so this meets other clients only."""
PONG_WITHIN = 20.0
"""Seconds in which a pinged peer must say something: what `websockets` grants by default."""
CLOSE_WITHIN = 5.0
"""Seconds for which a client's close waits for the replies of its last frames; its own patience is 10 s."""
MESSAGE_WITHIN = 300.0
"""Seconds in which a message must be complete once it has begun: 16 MiB at 0.5 Mbit/s."""
SWEEP_EVERY = 0.5
"""Seconds. One task watches the clock for every connection: a timer a frame would cost more than the frame."""
RECEIVE_BYTES = 64 << 10
BURST = 64
"""Connections that are read one after the other before anybody else has a turn."""

_COMPLAINTS = {
    CloseCode.PROTOCOL_ERROR,
    CloseCode.UNSUPPORTED_DATA,
    CloseCode.INVALID_DATA,
    CloseCode.POLICY_VIOLATION,
    CloseCode.MESSAGE_TOO_BIG,
}
"""Closes that somebody should look into: a frame of that connection was not taken."""

_quiet = logging.getLogger("matyan.websockets")
_quiet.setLevel(logging.WARNING)


def _text_frame(payload: bytes) -> bytes:
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


_OK_FRAME = _text_frame(OK)


def _wire_bytes(payload: int) -> int:
    """What a client's frame of so many bytes of payload takes: two bytes, a longer length, the mask."""
    return payload + 6 + (0 if payload < 126 else 2 if payload < 1 << 16 else 8)


class Readers:
    """The sockets of the ingest lane, in one epoll."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer
        self._epoll = select.epoll()
        self._links: dict[int, Link] = {}

    def add(self, fd: int, link: Link) -> None:
        self._links[fd] = link
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        if self._links.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    async def run(self) -> None:
        """Calls `readable` of whose socket has something to read; ends with its cancellation."""
        links, poll = self._links, self._epoll.poll
        while True:
            await wait_readable(self._epoll)
            for fd, _ in poll(0, BURST):
                # One that was read before it may have ended it.
                if fd in links:
                    links[fd].readable()
            await self._producer.rest()

    def close(self) -> None:
        self._epoll.close()


class Link:
    """One ingest connection after its handshake.

    Replies are written from the producer's callback straight into the socket; only when that would block a
    writer task is started, and reading stops until it is through.
    """

    __slots__ = (
        "_closed",
        "_deadline",
        "_draining",
        "_farewell",
        "_farewell_by",
        "_frontier",
        "_heard",
        "_held_bytes",
        "_log",
        "_messages",
        "_opened",
        "_out",
        "_parted",
        "_parts",
        "_paused",
        "_pinged",
        "_protocol",
        "_session",
        "_sock",
        "_unfinished_since",
    )

    def __init__(
        self, frontier: Frontier, sock: socket.socket, protocol: Protocol, run: str
    ) -> None:
        self._frontier = frontier
        self._sock = sock
        self._protocol = protocol
        self._session = Session(frontier.desk, run, self._reply)
        frontier.connections += 1
        self._log = log.bind(run=run, connection=frontier.connections)
        self._opened = self._heard = trio.current_time()
        self._pinged = 0.0
        self._out = bytearray()
        self._parts: bytearray | None = None
        self._farewell: list[bytes] = []
        self._farewell_by = inf
        self._deadline = inf
        self._paused = self._draining = self._parted = self._closed = False
        self._messages = 0
        self._unfinished_since = inf
        # Bytes that the protocol has and gave no frame for yet. What is compressed comes out in another size: then
        # this is never 0 again, and the protocol gets everything.
        self._held_bytes = 1 if protocol.extensions else 0

    def open(self, begun: bytes) -> None:
        """Begins to read. begun: what came behind the handshake."""
        self._frontier.links.add(self)
        telemetry.WS_CONNECTIONS.inc()
        self._log.debug("connected")
        self._frontier.readers.add(self._sock.fileno(), self)
        if begun:
            self._received(begun)

    def readable(self) -> None:
        """Reads once; ends the connection when its peer has."""
        try:
            data = self._sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(data)
        else:
            self.drop()

    def drop(self) -> None:
        """Closes the socket as it is and leaves the session, whose frames go on being delivered."""
        if self._closed:
            return
        self._closed = True
        frontier = self._frontier
        frontier.readers.remove(self._sock.fileno())
        notify_closing(self._sock)
        self._sock.close()
        self._session.leave()
        frontier.links.discard(self)
        if not frontier.links:
            frontier.emptied.set()
        telemetry.WS_CONNECTIONS.dec()
        telemetry.WS_CONNECTION_SECONDS.observe(trio.current_time() - self._opened)
        close = self._protocol.close_rcvd or self._protocol.close_sent
        code = close.code if close else CloseCode.ABNORMAL_CLOSURE
        telemetry.SOCKET_CLOSES.labels(str(int(code)) if code < 3000 else "other").inc()
        said = close.reason if close else "no close frame"
        tell = self._log.warning if code in _COMPLAINTS else self._log.debug
        tell("closed", code=int(code), reason=said, messages=self._messages)

    def _received(self, data: bytes) -> None:
        self._consume(data)
        if (self._out or self._session.crowded) and not (self._paused or self._closed):
            self._paused = True
            self._frontier.readers.remove(self._sock.fileno())

    def _consume(self, data: bytes) -> None:
        self._heard = now = trio.current_time()
        protocol = self._protocol
        at_boundary = not self._held_bytes and self._parts is None and protocol.state is OPEN
        # One whole message in one read, as the SDK sends: 0.1 µs in place of the 8 that the protocol takes.
        message = text_message(data) if at_boundary else None
        if message is None:
            self._parse(data, now)
        elif self._take(message, now):
            return
        writes = protocol.data_to_send()
        if not writes:
            return
        if protocol.state is OPEN:
            self._write(b"".join(writes))
        elif self._parted:
            self._end_if_through()
        else:
            self._farewell += writes
            if protocol.close_rcvd is not None:
                self._farewell_by = now + CLOSE_WITHIN
            self._part_if_answered()

    def _parse(self, data: bytes, now: float) -> None:
        protocol = self._protocol
        protocol.receive_data(data)
        events = protocol.events_received()
        self._held_bytes += len(data)
        for frame in events:
            assert isinstance(frame, Frame)
            self._held_bytes -= _wire_bytes(len(frame.data))
            opcode = frame.opcode
            if opcode is Opcode.TEXT or opcode is Opcode.CONT:
                if frame.fin and self._parts is None:
                    message = frame.data
                else:
                    if self._parts is None:
                        self._parts = bytearray()
                    self._parts += frame.data
                    if not frame.fin:
                        continue
                    message, self._parts = self._parts, None
                if not self._take(bytes(message), now):
                    break
            elif opcode is Opcode.BINARY:
                protocol.fail(CloseCode.UNSUPPORTED_DATA, "messages are text frames")
                break
        if events and self._parts is None:
            self._unfinished_since = inf
        elif self._unfinished_since == inf:
            self._unfinished_since = now

    def _take(self, message: bytes, now: float) -> bool:
        """Hands a message to the session; False: it is no text and the connection fails."""
        self._messages += 1
        try:
            self._session.receive(message, now)
        except UnicodeDecodeError as error:
            self._protocol.fail(CloseCode.INVALID_DATA, f"not UTF-8 at position {error.start}")
            return False
        return True

    def _reply(self, payload: bytes) -> None:
        if self._parted:
            return
        self._write(_OK_FRAME if payload is OK else _text_frame(payload))
        if self._draining or self._farewell:
            self._part_if_answered()
        if self._paused:
            self._resume_if_possible()

    def drain(self) -> None:
        """Says 1001 as soon as the frames at hand are answered.

        A frame that crosses the close frame on the wire is still stored: its client cannot send it again.
        """
        self._draining = True
        self._part_if_answered()

    def force(self) -> None:
        """The drain's deadline: closes with frames unanswered."""
        if not self._parted:
            self._part()
        self.drop()

    def _part_if_answered(self) -> None:
        if not self._session.waiting and not self._parted:
            self._part()

    def _part(self) -> None:
        """Sends the close frame; then the sweeper drops what the peer does not end by itself."""
        if not self._farewell:
            self._protocol.send_close(CloseCode.GOING_AWAY, "the server is shutting down")
            self._farewell = self._protocol.data_to_send()
        farewell, self._farewell = self._farewell, []
        self._parted = True
        self._deadline = trio.current_time() + LINGER_SECONDS
        self._write(b"".join(farewell))

    def sweep(self, now: float) -> None:
        """The deadlines of a connection; called twice a second."""
        if now >= self._deadline:
            self.drop()
        elif self._parted:
            # A peer that was refused in the middle of a message may still be sending it. asyncio (of Python 3.11) breaks
            # when the end comes before its buffer is empty, and with it the SDK's sender: so not before it is quiet.
            if not self._closed and self._protocol.eof_sent and now >= self._heard + SWEEP_EVERY:
                self._end_sending()
        elif self._farewell:
            if now >= self._farewell_by:
                self._part()
        elif self._paused:
            return
        elif self._pinged > self._heard:
            if now >= self._pinged + PONG_WITHIN and not self._session.waiting:
                self.drop()
        elif now >= self._heard + PING_AFTER:
            self._pinged = now
            self._protocol.send_ping(b"")
            self._write(b"".join(self._protocol.data_to_send()))
        elif now >= self._unfinished_since + MESSAGE_WITHIN:
            self._protocol.fail(
                CloseCode.POLICY_VIOLATION,
                f"a message must be complete within {MESSAGE_WITHIN:.0f} s",
            )
            self._farewell = self._protocol.data_to_send()
            self._part_if_answered()

    def _write(self, data: bytes) -> None:
        if self._closed:
            return
        if self._out:
            self._out += data
            return
        try:
            sent = self._sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.drop()
            return
        if sent < len(data):
            self._out += data[sent:]
            self._frontier.spawn(self._write_rest)
        else:
            self._end_if_through()

    async def _write_rest(self) -> None:
        out = self._out
        try:
            with trio.move_on_after(SEND_SECONDS):
                while out:
                    await wait_writable(self._sock)
                    with suppress(BlockingIOError):
                        del out[: self._sock.send(out)]
        except (OSError, trio.ClosedResourceError):
            pass
        if out:
            self.drop()
            return
        self._end_if_through()
        self._resume_if_possible()

    def _end_if_through(self) -> None:
        """Ends the connection once the farewell is out: at once after both close frames, else `sweep` lingers."""
        if self._parted and not self._out and self._protocol.close_rcvd is not None:
            self.drop()

    def _end_sending(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.drop()

    def _resume_if_possible(self) -> None:
        if self._paused and not (self._closed or self._out or self._session.crowded):
            self._paused = False
            self._heard = trio.current_time()
            self._frontier.readers.add(self._sock.fileno(), self)


class Returned:
    """A stream that gives back what was already read of it, for Hypercorn's TCPServer.

    Hypercorn shields its sends and gives them no deadline, and closes with unread bytes in the socket: here
    a send ends after SEND_SECONDS, and a close lingers.
    """

    def __init__(self, stream: trio.SocketStream, begun: bytes) -> None:
        self.socket = stream.socket
        self._stream = stream
        self._begun = begun
        self._ended = trio.Event()
        self._closing = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if self._begun:
            begun, self._begun = self._begun, b""
            return begun
        try:
            while data := await self._stream.receive_some(max_bytes):
                if not self._closing:
                    return bytes(data)
        except trio.BusyResourceError:
            # The close reads by now: this reader was busy with a request, or just woken, when that began.
            raise trio.ClosedResourceError from None
        self._ended.set()
        return b""

    async def send_all(self, data: bytes) -> None:
        await send_within(self._stream, data)

    async def send_eof(self) -> None:
        # No checkpoint and below a shield: Hypercorn closes from within the request, and Quart-trio cancels the
        # request when it sees that close. Half of it would leave the connection open for ever.
        try:
            self.socket.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        if self._closing:
            return
        self._closing = True
        with trio.CancelScope(shield=True, deadline=trio.current_time() + LINGER_SECONDS):
            if not self._ended.is_set():
                try:
                    await linger(self._stream)
                except trio.BusyResourceError:  # Hypercorn's own reader sees the end
                    await self._ended.wait()
        await trio.aclose_forcefully(self._stream)


class Frontier:
    """What one service has open, and what its connections share.

    Args:
        blobs: where artifacts are presigned; an engine that also takes and gives the bytes is served here.
    """

    def __init__(
        self,
        producer: Producer,
        blobs: Blobs,
        health: Health,
        settings: Settings,
    ) -> None:
        self.desk = Desk(producer, trio.current_time)
        self.blobs = blobs
        self.health = health
        self.settings = settings
        self.doors = doors_of(settings)
        self.about = About("frontier", health, settings.metrics_enabled)
        self.readers = Readers(producer)
        self.links: set[Link] = set()
        self.streams: set[trio.SocketStream] = set()
        """Connections that are not, or not yet, on the ingest lane."""
        self.connections = 0
        """How many there have been on the lane: the last one's number."""
        self.idle: set[trio.SocketStream] = set()
        """Those of them that have no request at hand."""
        self.emptied = trio.Event()
        # Declined by default: a frame of 100 messages costs the training process 120 µs to deflate and this one 14 of
        # its 100 µs to inflate. Never with context takeover, which keeps 86 KB a connection.
        self.extensions = (
            ServerPerMessageDeflateFactory(
                server_no_context_takeover=True, client_no_context_takeover=True
            ),
        ) * settings.ws_deflate
        self.web: WebServer | None = None
        self.web_loaded = trio.Event()
        self.accepting = trio.CancelScope()
        self.draining = trio.Event()
        self.nursery: trio.Nursery | None = None
        health.add("queue", self._check_queue)
        health.add_live("producer", producer.fatal)
        telemetry.QUEUE_CAPACITY.set(producer.budget.capacity)

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        assert self.nursery is not None
        self.nursery.start_soon(task)

    async def _check_queue(self) -> None:
        budget = self.desk.budget
        if budget.held > 0.8 * budget.capacity:
            raise Unavailable(
                f"{budget.held:,} of {budget.capacity:,} bytes (MATYAN_QUEUE_BYTES) are held"
            )


async def serve(
    frontier: Frontier,
    listeners: Sequence[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until it is cancelled or drained; closes the listeners."""
    frontier.accepting, frontier.web_loaded = trio.CancelScope(), trio.Event()
    frontier.readers = Readers(frontier.desk.producer)
    frontier.doors = frontier.doors.listening_on(
        listener.socket.getsockname()[0] for listener in listeners
    )
    try:
        async with trio.open_nursery() as nursery:
            frontier.nursery = nursery
            nursery.start_soon(frontier.readers.run)
            nursery.start_soon(_sweep, frontier)
            nursery.start_soon(_load_web, frontier)
            with frontier.accepting:
                await trio.serve_listeners(
                    partial(_handle, frontier),
                    list(listeners),
                    handler_nursery=nursery,
                    task_status=task_status,
                )
    finally:
        for link in list(frontier.links):
            link.drop()
        frontier.readers.close()


async def drain(frontier: Frontier, deadline: float) -> int:
    """Takes no more, answers what it has, says goodbye, ends `serve`; returns the records left undelivered.

    Args:
        deadline: trio's time at which the sockets that are still open are closed as they are.
    """
    frontier.health.draining = True
    frontier.draining.set()
    frontier.accepting.cancel()
    for link in list(frontier.links):
        link.drain()
    for stream in list(frontier.idle):
        await trio.aclose_forcefully(stream)
    if frontier.web is not None:
        await frontier.web.terminate()
    with trio.move_on_at(deadline):
        while frontier.links or frontier.streams:
            frontier.emptied = trio.Event()
            await frontier.emptied.wait()
    for link in list(frontier.links):
        link.force()
    for stream in list(frontier.streams):
        await trio.aclose_forcefully(stream)
    left = await frontier.desk.producer.flush(deadline) + frontier.desk.parked_records()
    if frontier.nursery is not None:
        frontier.nursery.cancel_scope.cancel()
    return left


async def _sweep(frontier: Frontier) -> None:
    while True:
        await trio.sleep(SWEEP_EVERY)
        now = trio.current_time()
        frontier.desk.sweep(now)
        for link in list(frontier.links):
            link.sweep(now)
        telemetry.QUEUE_BYTES.set(frontier.desk.budget.held)


async def _load_web(frontier: Frontier) -> None:
    app = await trio.to_thread.run_sync(import_module, "matyan.frontier.app")
    web: WebServer = app.WebServer(frontier)
    async with trio.open_nursery() as nursery:
        await nursery.start(web.run)
        frontier.web = web
        frontier.web_loaded.set()


async def _handle(frontier: Frontier, stream: trio.SocketStream) -> None:
    frontier.streams.add(stream)
    try:
        returned = await _greet(frontier, stream)
        if returned is not None:
            await frontier.web_loaded.wait()
            assert frontier.web is not None
            await frontier.web.handle(returned)
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
        return
    finally:
        frontier.streams.discard(stream)
        if not frontier.streams:
            frontier.emptied.set()


async def _greet(frontier: Frontier, stream: trio.SocketStream) -> Returned | None:
    """Answers probes until a request is for Hypercorn. None: it is over, or the lane has it."""
    rest = b""
    while True:
        frontier.idle.add(stream)
        try:
            read = await read_head(stream, rest)
        except (TooLong, trio.TooSlowError) as error:
            await _refuse(stream, refusal_of_head(error))
            return None
        finally:
            frontier.idle.discard(stream)
        if read is None:
            return None
        head = parse_head(*read)
        if head is None:
            return Returned(stream, b"".join(read))
        refusal = frontier.doors.judge(head.method, head.path, head.headers)
        if refusal is not None:
            log.warning("refused at the door", path=head.path[:255], reason=refusal.sentence)
            count_request(head.method, "unmatched", refusal.status, 0.0)
            await _refuse(stream, detail(refusal.status, refusal.sentence))
            return None
        if head.path.startswith(INGEST_PATH) and "upgrade" in head.headers:
            await _open_lane(frontier, stream, head)
            return None
        begun = trio.current_time()
        page = None
        # A page across origins needs the CORS headers, which are the app's.
        if head.bare and "origin" not in head.headers:
            page = probe(frontier.about, head.path)
        if page is None:
            return Returned(stream, head.raw + head.rest)
        keep = head.keeps_alive and not frontier.draining.is_set()
        answer = response(page, keep_alive=keep, head_only=head.method == "HEAD")
        await send_within(stream, answer)
        count_request(head.method, head.path, page.status, trio.current_time() - begun)
        if not keep:
            await linger(stream)
            return None
        rest = head.rest


async def _open_lane(frontier: Frontier, stream: trio.SocketStream, head: Head) -> None:
    run = unquote(head.path.removeprefix(INGEST_PATH))
    reason = check_run_id(run)
    if reason is not None:
        await _refuse(stream, detail(400, f"run id: {reason}"))
        return
    if frontier.draining.is_set():
        await _refuse(stream, detail(503, "this process is shutting down: connect again"))
        return
    handshake = ServerProtocol(extensions=frontier.extensions, logger=_quiet)
    handshake.receive_data(head.raw)
    events = handshake.events_received()
    if not events:
        await _refuse(stream, detail(400, "this is no WebSocket handshake"))
        return
    request = events[0]
    assert isinstance(request, Request)
    handshake.send_response(handshake.accept(request))
    await send_within(stream, b"".join(handshake.data_to_send()))
    if handshake.state is not OPEN:
        await linger(stream)
        return
    # A new protocol for the data: the one of the handshake keeps the request for as long as it lives.
    protocol = Protocol(SERVER, state=OPEN, max_size=FRAME_BYTES, logger=_quiet)
    protocol.extensions = handshake.extensions
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    Link(frontier, sock, protocol, run).open(head.rest)


async def _refuse(stream: trio.SocketStream, answer: Answer) -> None:
    await send_within(stream, response(answer, keep_alive=False))
    await linger(stream)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"})


def count_request(method: str, template: str, status: int, seconds: float) -> None:
    """Counts one HTTP request under the route's template, so that labels stay few."""
    labels = (method if method in _METHODS else "other", template, f"{status // 100}xx")
    telemetry.HTTP_REQUESTS.labels(*labels).inc()
    telemetry.HTTP_SECONDS.labels(*labels).observe(seconds)
