"""The ingest lane: WebSocket connections on non-blocking sockets, from the handshake to the close.

`wire.py` owns RFC 6455, `intake.py` who may hold bytes, `session.py` what is answered: this file owns bytes and deadlines.

A connection of the lane has no task. All their sockets stand in one epoll, and one task waits for that (`readiness.py`; where there
is no epoll it is a task each): a burst of frames wakes trio once, where a task each costs every frame a switch of tasks and two
system calls.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial, wraps
from math import inf
from time import perf_counter

import trio
from trio.lowlevel import notify_closing, wait_writable
from websockets.extensions.permessage_deflate import ServerPerMessageDeflateFactory
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import State
from websockets.server import ServerProtocol

from matyan._codec import check_run_id
from matyan.frontier.readiness import readiness
from matyan.frontier.session import OK, Incoming
from matyan.frontier.shared import RATE_BYTES, RATE_S, Shared
from matyan.frontier.states import (
    CLOSED,
    CLOSING,
    DRAINING,
    ENDING,
    HELD_BACK,
    LIFE_AFTER,
    NO_ROOM,
    NO_TURN,
    ON,
    OPEN,
    READING_AFTER,
    Life,
    Reading,
)
from matyan.frontier.wire import GOODBYE, SMALL_BYTES, Kind, Wire
from matyan.service import telemetry
from matyan.service.http1 import (
    LINGER_S,
    SEND_S,
    Head,
    detail,
    linger,
    refuse,
    send_within,
)
from matyan.service.islands import report
from matyan.service.logs import get_logger
from matyan.service.tls import Stream, TlsSocket, take_socket
from matyan.service.tokens import Token

log = get_logger()

INGEST_PATH = "/api/v1/ws/runs/"
FRAME_BYTES = 96 << 20
"""A message's limit, inflated (contract, section 6)."""
PING_AFTER_S = 20.0
"""Seconds of silence before the server pings. The SDK pings every 10 s, so this meets other clients only."""
PONG_WITHIN_S = 20.0
"""Seconds in which a pinged peer must say something: what `websockets` grants by default."""
CLOSE_WITHIN_S = 5.0
"""Seconds for which a client's close waits for the replies of its last frames; its own patience is 10 s."""
LEAVE_WITHIN_S = 1.5
"""Seconds in which whoever may not be here any more gets to a moment without an unanswered frame; then no more are taken."""
SWEEP_EVERY_S = 0.5
"""Seconds. One task watches the clock for every connection: a timer a frame would cost more than the frame."""
RECEIVE_BYTES = 64 << 10
RECEIVE_FULL_BYTES = 4 << 10
"""Read at once while there is no room: enough for the pings that are answered all the same."""
BURST_CONNECTIONS = 64
BURST_S = 0.01
"""Connections that are read one after the other, and for how long, before anybody else has a turn."""
TURN_BYTES = 256 << 10
"""So much of a message in pieces, inflated, one connection takes before anybody else has a turn."""

_COMPLAINTS = {
    CloseCode.PROTOCOL_ERROR,
    CloseCode.UNSUPPORTED_DATA,
    CloseCode.INVALID_DATA,
    CloseCode.POLICY_VIOLATION,
    CloseCode.MESSAGE_TOO_BIG,
    CloseCode.TRY_AGAIN_LATER,
}
"""Closes that somebody should look into: a frame of that connection was not taken."""

_GONE = frozenset({CLOSING, CLOSED})
"""Nothing is answered any more."""

_quiet = logging.getLogger("matyan.websockets")
_quiet.setLevel(logging.WARNING)


def _text_frame(payload: bytes) -> bytes:
    return Frame(Opcode.TEXT, payload).serialize(mask=False)


_OK_FRAME = _text_frame(OK)


def _contained(method: Callable[..., None]) -> Callable[..., None]:
    """An entrance to a connection: what is raised behind it ends that connection alone. The two that each frame takes, `readable` and
    `_reply`, are contained where they are called or by themselves: a wrapper costs every frame a call."""

    @wraps(method)
    def entrance(connection: Connection, *args: object) -> None:
        try:
            method(connection, *args)
        except Exception as error:  # noqa: BLE001 - it ends this connection alone
            connection.crash(error)

    return entrance


class Connection:
    """One ingest connection after its handshake.

    Replies are written from the producer's callback straight into the socket; only when that would block a
    writer task is started, and reading stops until it is through.
    """

    __slots__ = (
        "_budget",
        "_clock",
        "_deadline",
        "_event",
        "_event_since",
        "_farewell",
        "_goodbye",
        "_has_waited",
        "_heard",
        "_incoming",
        "_intake",
        "_lane",
        "_life",
        "_log",
        "_messages",
        "_opened",
        "_out",
        "_pinged",
        "_reading",
        "_session",
        "_sock",
        "_token",
        "_window",
        "_wire",
        "account",
    )

    def __init__(
        self,
        lane: Lane,
        sock: socket.socket | TlsSocket,
        wire: Wire,
        run: str,
        token: Token | None,
    ) -> None:
        self._lane = lane
        self._token = token
        self._intake = lane.shared.intake
        self._budget = lane.shared.sessions.budget
        self._clock = lane.shared.sessions.clock
        self._sock = sock
        self._wire = wire
        self.account = lane.shared.account_of(token)
        self._session = lane.shared.session(run, self._reply, self.account)
        lane.opened += 1
        self._log = log.bind(run=run, connection=lane.opened)
        self._opened = self._heard = self._clock()
        self._pinged = 0.0
        self._out = bytearray()
        self._life: Life = OPEN
        self._reading: Reading = HELD_BACK
        # The close frame that waits for the replies, and when the state it makes is over, whatever the client does.
        self._farewell = b""
        self._goodbye: tuple[int, str] = (CloseCode.GOING_AWAY, GOODBYE)
        self._deadline = inf
        self._messages = 0
        # The message that comes in in pieces; what of it waits for room, for a turn or for a thread.
        self._incoming: Incoming | None = None
        self._event: tuple[Kind, bytes] | None = None
        self._event_since = 0.0
        # Whether that waited for long enough: it is taken, and not held if there is no room.
        self._has_waited = False
        # Where the watch on an unfinished message began: the time, the bytes that had come, the number of messages.
        self._window: tuple[float, int, int] | None = None

    @_contained
    def open(self, begun: bytes) -> None:
        """Begins to read. begun: what came behind the handshake."""
        self._lane.connections.add(self)
        telemetry.WS_CONNECTIONS.inc()
        self._log.debug("connected")
        self._set_reading(ON)
        if begun:
            self._received(begun, full=self._budget.full)

    def readable(self) -> None:
        """Reads once; ends the connection when its peer has. What it raises is for `crash`."""
        budget = self._budget
        full = budget.held >= budget.capacity
        try:
            data = self._sock.recv(
                RECEIVE_FULL_BYTES if full and self._may_lack_room() else RECEIVE_BYTES
            )
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._received(data, full=full)
        else:
            self.drop()

    def _may_lack_room(self) -> bool:
        """Whether what comes next may have to wait where it costs memory."""
        incoming = self._incoming
        if incoming is not None and not incoming.is_kept:
            return False
        return not self._intake.may_gather(is_first=self._session.is_first)

    def crash(self, error: Exception) -> None:
        """Ends the connection, for a reason that nobody foresaw."""
        report(error, self._log)
        self.drop()

    def drop(self) -> None:
        """Closes the socket as it is and leaves the session, whose frames go on being delivered."""
        if self._life is CLOSED:
            return
        self._set_life(CLOSED)
        lane = self._lane
        lane.remove(self._sock.fileno())
        notify_closing(self._sock)
        self._sock.close()
        self._session.leave()
        if self.account is not None:
            self.account.disconnect()
        self._incoming = None
        self._intake.leave(self)
        lane.connections.discard(self)
        if not lane.connections:
            lane.on_empty()
        telemetry.WS_CONNECTIONS.dec()
        telemetry.WS_CONNECTION_SECONDS.observe(self._clock() - self._opened)
        close = self._wire.close_rcvd or self._wire.close_sent
        code = close.code if close else CloseCode.ABNORMAL_CLOSURE
        telemetry.SOCKET_CLOSES.labels(str(int(code)) if code < 3000 else "other").inc()
        said = close.reason if close else "no close frame"
        tell = self._log.warning if code in _COMPLAINTS else self._log.debug
        tell("closed", code=int(code), reason=said, messages=self._messages)

    def _set_life(self, life: Life) -> None:
        assert life in LIFE_AFTER[self._life], (self._life, life)
        self._life = life

    def _set_reading(self, reading: Reading) -> None:
        before = self._reading
        assert reading in READING_AFTER[before], (before, reading)
        self._reading = reading
        if reading is ON:
            self._lane.add(self._sock.fileno(), self)
        elif before is ON:
            self._lane.remove(self._sock.fileno())

    def _received(self, data: bytes, *, full: bool) -> None:
        self._heard = now = self._clock()
        wire, account = self._wire, self.account
        if account is not None:
            full = full or not self._intake.has_share(account)
        # One whole message in one read, as the SDK sends: 0.1 µs in place of the 5 that the wire takes.
        message = None if full else wire.whole(data)
        if message is None:
            wire.feed(data)
            self._take_events(now)
            self._send_from_wire(now)
        elif not self._take(message, now):
            self._send_from_wire(now)
        elif account is None and not self._out and len(self._session.waiting) < 2:
            return  # nobody is busy with one message
        if self._reading is ON and (self._out or self._session.crowded):
            self._set_reading(HELD_BACK)

    def _send_from_wire(self, now: float) -> None:
        """Sends what the wire has to say, a close frame not before the replies that are due."""
        if self._life is CLOSED:
            return
        wire = self._wire
        says = wire.data_to_send()
        if wire.is_open:
            if says:
                self._write(says)
            if self._life is DRAINING:
                self._send_farewell_if_answered()
        elif self._life is CLOSING:
            self._end_if_through()
        else:
            if says:
                self._set_life(ENDING)
                self._farewell = says
                if wire.close_rcvd is not None:
                    self._deadline = now + CLOSE_WITHIN_S
            # Also when it ended before: what was at hand then, in a thread or waiting for its turn, may be through.
            self._send_farewell_if_answered()

    def _take_events(self, now: float) -> None:
        """Takes what the wire has, until it needs more bytes or this connection must wait."""
        wire = self._wire
        wire.splits_small = self._budget.held >= self._budget.capacity and self._may_lack_room()
        taken = 0
        while self._reading is ON or self._reading is HELD_BACK:
            # What waited for room came earlier: since then its client waits for the reply.
            came = now if self._event is None else self._event_since
            event, self._event = self._event or wire.next(), None
            if event is None:
                break
            # A ping that came before the message is answered first: the message's reply may be at hand at once.
            if wire.is_open and (pongs := wire.data_to_send()):
                self._write(pongs)
            taken += len(event[1])
            if taken > TURN_BYTES:
                self._event, self._event_since = event, came
                self._set_reading(NO_TURN)
                self._lane.turns.send_nowait(self._take_turn)
                break
            if not self._take_event(*event, came):
                self._event, self._event_since = event, came
                self._set_reading(NO_ROOM)
                begins = event[0] is Kind.PIECE and not self._intake.has_begun(self)
                self._intake.wait(self, begins=begins)
            self._has_waited = False
        if wire.failed and self._incoming is not None and self._reading is not NO_TURN:
            self._incoming = None
            self._intake.end(self)
        if self._life is CLOSED:
            # A reply could not be sent: nobody will ask for what is at hand.
            self._incoming = None
            self._intake.leave(self)
        else:
            self._count()

    def _count(self) -> None:
        held = self._wire.held + (0 if self._incoming is None else self._incoming.held)
        if self._event is not None:
            held += len(self._event[1])
        self._intake.count(self, held)

    def _take_event(self, kind: Kind, data: bytes, now: float) -> bool:
        """False: there is no room for it now."""
        if kind is Kind.WHOLE:
            return self._take_whole(data, now)
        if kind is Kind.BEGIN:
            self._incoming = self._session.begin(self._wire.declared, now)
        elif kind is Kind.PIECE:
            return self._take_piece(data)
        else:
            self._end_message()
        return True

    def _take_whole(self, data: bytes, now: float) -> bool:
        session = self._session
        intake = self._intake
        room = intake.has_share(self.account) and intake.may_take(is_first=session.is_first)
        may_wait = not (room or self._has_waited) and session.may_wait(data, now)
        if may_wait and session.needs_room(data, now):
            return False
        self._take(data, now, room=room)
        return True

    def _take_piece(self, piece: bytes) -> bool:
        incoming, intake = self._incoming, self._intake
        assert incoming is not None
        if incoming.is_kept and piece and not self._has_room(incoming, len(piece)):
            if incoming.needs_room(piece) and not self._has_waited and incoming.may_wait():
                return False
            incoming.keep_digest_only()
            intake.end(self)
        if not incoming.feed(piece):
            self._judge(incoming, Kind.PIECE)
        return True

    def _has_room(self, incoming: Incoming, came: int) -> bool:
        intake = self._intake
        if intake.has_begun(self):
            return intake.may_go_on(self, came)
        if incoming.size + came <= SMALL_BYTES:
            may_gather = intake.may_gather(is_first=self._session.is_first)
            return may_gather and intake.has_share(self.account)
        size = self._wire.declared or came
        return intake.may_begin(self, size, in_turn=not self._has_waited) and intake.may_go_on(
            self, came
        )

    def _end_message(self) -> None:
        incoming = self._incoming
        assert incoming is not None
        # Its records are counted where they go.
        self._incoming = None
        self._intake.count(self, self._wire.held)
        if not incoming.end(self._clock()):
            self._incoming = incoming
            self._judge(incoming, Kind.END)
            return
        self._messages += 1
        self._intake.end(self)

    def _judge(self, incoming: Incoming, then: Kind) -> None:
        """Has a large item looked at in a thread, and goes on where it stopped."""
        self._set_reading(NO_TURN)
        self._event = (then, b"")
        self._spawn(partial(self._work_in_a_thread, incoming))

    async def _work_in_a_thread(self, incoming: Incoming) -> None:
        await trio.to_thread.run_sync(incoming.judge)
        self._take_turn()

    @_contained
    def _take_turn(self) -> None:
        self._set_reading(HELD_BACK)
        if self._life is not CLOSED:
            self._continue()

    @_contained
    def _continue(self) -> None:
        now = self._clock()
        self._take_events(now)
        self._send_from_wire(now)
        self._resume_if_possible()

    def try_again(self) -> bool:
        """There may be room. False: not for this one."""
        self._set_reading(HELD_BACK)
        self._continue()
        return self._reading is not NO_ROOM

    @_contained
    def stop_waiting(self) -> None:
        """There was no room for long enough: reads on, whether there is now or not."""
        self._set_reading(HELD_BACK)
        self._has_waited = True
        self._continue()

    @_contained
    def evict(self) -> None:
        """Makes room: goes without what waits here, and closes where there is nothing to go on with."""
        if self._reading is NO_ROOM:
            self._intake.forget(self)
            self.stop_waiting()
            return
        self._wire.fail(
            CloseCode.TRY_AGAIN_LATER,
            f"no room: unfinished messages hold {self._budget.held:,} of {self._budget.capacity:,} bytes (MATYAN_QUEUE_BYTES)",
        )
        self._continue()

    def _take(self, message: bytes, now: float, *, room: bool = True) -> bool:
        """Hands a message to the session; False: it is no text and the connection fails."""
        self._messages += 1
        try:
            self._session.receive(message, now, room=room)
        except UnicodeDecodeError as error:
            self._wire.fail(CloseCode.INVALID_DATA, f"not UTF-8 at position {error.start}")
            return False
        return True

    def _reply(self, payload: bytes) -> None:
        life = self._life
        if life is CLOSING:
            return
        try:
            self._write(_OK_FRAME if payload is OK else _text_frame(payload))
            if life is not OPEN:
                self._send_farewell_if_answered()
            if self._reading is HELD_BACK:
                self._resume_if_possible()
        except Exception as error:  # noqa: BLE001 - it ends this connection alone
            self.crash(error)

    @_contained
    def drain(self) -> None:
        """Says 1001 as soon as the frames at hand are answered.

        A frame that crosses the close frame on the wire is still stored: its client cannot send it again.
        """
        if self._life is OPEN:
            self._set_life(DRAINING)
        self._session.drain()
        self._send_farewell_if_answered()

    @_contained
    def force(self) -> None:
        """The drain's deadline: closes with frames unanswered."""
        if self._life not in _GONE:
            self._send_farewell()
        self.drop()

    def _send_farewell_if_answered(self) -> None:
        unfinished = self._incoming is not None or self._event is not None
        if not (self._session.waiting or unfinished or self._life in _GONE):
            self._send_farewell()

    def _send_farewell(self) -> None:
        """Sends the close frame; then the sweeper drops what the peer does not end by itself."""
        if not self._farewell:
            self._wire.send_close(*self._goodbye)
            self._farewell = self._wire.data_to_send()
        farewell, self._farewell = self._farewell, b""
        self._set_life(CLOSING)
        self._deadline = self._clock() + LINGER_S
        self._write(farewell)

    @_contained
    def sweep(self, now: float) -> None:
        """The deadlines of a connection, its token's among them; called twice a second."""
        if self._life is OPEN or self._life is DRAINING:
            objection = self._lane.shared.entrance.objection(self._token)
            if objection is not None:
                self._leave(objection, now)
        if self._life is CLOSING:
            self._sweep_closing(now)
        elif self._life is ENDING:
            if now >= self._deadline:
                self._send_farewell()
        elif self._reading is ON and self._life is not CLOSED:
            self._watch_peer(now)

    def _leave(self, reason: str, now: float) -> None:
        """Ends the connection as a drain does; a client that always has a frame on its way would never let that come to its end."""
        if self._life is OPEN:
            self._goodbye = (CloseCode.POLICY_VIOLATION, reason)
            self._deadline = now + LEAVE_WITHIN_S
            self.drain()
        elif now >= self._deadline:
            self._deadline = inf
            self._wire.fail(*self._goodbye)
            if self._reading is NO_ROOM:
                # What waits was not taken, and is not any more.
                self._event = None
                self._intake.forget(self)
                self._set_reading(HELD_BACK)
            self._continue()

    def _sweep_closing(self, now: float) -> None:
        if now >= self._deadline:
            self.drop()
        # A peer that was refused in the middle of a message may still be sending it. asyncio (of Python 3.11) breaks
        # when the end comes before its buffer is empty, and with it the SDK's sender: so not before it is quiet.
        elif self._wire.failed and now >= self._heard + SWEEP_EVERY_S:
            self._end_sending()

    def _watch_peer(self, now: float) -> None:
        """Closes on a peer that sends its message too slowly, pings one that is silent, drops one that does not answer."""
        if self._is_too_slow(now):
            self._wire.fail(
                CloseCode.POLICY_VIOLATION,
                f"a message must end, or bring {RATE_BYTES:,} bytes, in each {RATE_S:.0f} s",
            )
            self._continue()
        elif self._pinged > self._heard:
            if now >= self._pinged + PONG_WITHIN_S and not self._session.waiting:
                self.drop()
        elif now >= self._heard + PING_AFTER_S:
            self._pinged = now
            self._wire.send_ping()
            self._write(self._wire.data_to_send())

    def _is_too_slow(self, now: float) -> bool:
        """Whether the message that is coming in comes too slowly."""
        if self._wire.is_between:
            self._window = None
            return False
        # Pings and empty fragments are no part of it.
        brought = self._wire.taken + self._wire.held
        since, came, messages = self._window or (now, brought, self._messages)
        if messages != self._messages or brought - came >= RATE_BYTES:
            since, came = now, brought
        self._window = (since, came, self._messages)
        return now >= since + RATE_S

    def _write(self, data: bytes) -> None:
        if self._life is CLOSED:
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
            self._spawn(self._write_rest)
        elif self._life is CLOSING:
            self._end_if_through()

    def _spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Starts a task of this connection; what it raises ends this connection alone."""

        async def contained() -> None:
            try:
                await task()
            except Exception as error:  # noqa: BLE001 - it ends this connection alone
                self.crash(error)

        self._lane.spawn(contained)

    async def _write_rest(self) -> None:
        out = self._out
        try:
            with trio.move_on_after(SEND_S):
                while out:
                    await wait_writable(self._sock)
                    with suppress(BlockingIOError):
                        del out[: self._sock.send(out)]
        except (OSError, trio.ClosedResourceError):
            pass
        self._written()

    @_contained
    def _written(self) -> None:
        if self._out:
            self.drop()
            return
        self._end_if_through()
        self._resume_if_possible()

    def _end_if_through(self) -> None:
        """Ends the connection once the farewell is out: at once after both close frames, else `sweep` lingers."""
        if self._life is CLOSING and not self._out and self._wire.closed:
            self.drop()

    def _end_sending(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.drop()

    def _resume_if_possible(self) -> None:
        if self._reading is not HELD_BACK or self._life is CLOSED:
            return
        if not (self._out or self._session.crowded):
            self._set_reading(ON)
            self._heard = self._clock()
            self._window = None


class Lane:
    """The connections of the ingest lane: which of their sockets are read, their turns and tasks.

    Args:
        on_empty: called when the last one has ended.
    """

    def __init__(self, shared: Shared, on_empty: Callable[[], None]) -> None:
        self.shared = shared
        self.on_empty = on_empty
        self.connections: set[Connection] = set()
        self.opened = 0
        """How many there have been: the last one's number."""
        # What goes on in the loop's next turns, one of them a turn.
        self.turns, self._turns = trio.open_memory_channel[Callable[[], None]](inf)
        self._sockets: dict[int, Connection] = {}
        # Declined by default: a frame of 100 messages costs the training process 120 µs to deflate and this one 14 of
        # its 100 µs to inflate. Never with context takeover, which keeps 86 KB a connection.
        self._extensions = (
            ServerPerMessageDeflateFactory(
                server_no_context_takeover=True, client_no_context_takeover=True
            ),
        ) * shared.settings.ws_deflate

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves the connections until it is cancelled; then they are closed as they are."""
        self._readiness = readiness(self.shared.settings.readiness, self.spawn)
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._read_sockets)
                self._nursery.start_soon(self._take_turns)
                task_status.started()
        finally:
            for connection in list(self.connections):
                connection.drop()
            self._readiness.close()

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        self._nursery.start_soon(task)

    def add(self, fd: int, connection: Connection) -> None:
        """Reads from a socket from now on."""
        self._sockets[fd] = connection
        self._readiness.add(fd)

    def remove(self, fd: int) -> None:
        if self._sockets.pop(fd, None) is not None:
            self._readiness.remove(fd)

    def drain(self) -> None:
        """Each connection ends when its frames are answered."""
        for connection in list(self.connections):
            connection.drain()

    def force(self) -> None:
        """The drain's deadline."""
        for connection in list(self.connections):
            connection.force()

    def sweep(self, now: float) -> None:
        """The deadlines of all connections; called each SWEEP_EVERY_S."""
        for connection in list(self.connections):
            connection.sweep(now)

    async def _read_sockets(self) -> None:
        """Calls `readable` of whose socket has something to read."""
        connections = self._sockets
        wait, ready = self._readiness.wait, self._readiness.ready
        producer = self.shared.sessions.producer
        while True:
            await wait()
            until = perf_counter() + BURST_S
            for fd, _ in ready(BURST_CONNECTIONS):
                # One that was read before it may have ended it.
                connection = connections.get(fd)
                if connection is not None:
                    try:
                        connection.readable()
                    except Exception as error:  # noqa: BLE001 - it ends this connection alone
                        connection.crash(error)
                if perf_counter() > until:
                    break
            await producer.coalesce()

    async def _take_turns(self) -> None:
        async for work in self._turns.clone():
            work()

    def takes(self, head: Head) -> bool:
        """Whether this request asks for the ingest path's WebSocket."""
        # An upgrade elsewhere, or to something else, is not followed: that is a request like any other.
        may_upgrade = head.method == "GET" and head.version == "HTTP/1.1"
        return may_upgrade and "upgrade" in head.headers and head.path.startswith(INGEST_PATH)

    async def open(self, stream: Stream, head: Head, token: Token | None = None) -> None:
        """Answers the handshake; takes the connection of whoever came in with `token`, or refuses it."""
        run = head.path.removeprefix(INGEST_PATH)
        reason = check_run_id(run)
        if reason is not None:
            await refuse(stream, detail(400, f"run id: {reason}"))
            return
        if self.shared.draining.is_set():
            await refuse(stream, detail(503, "This process is shutting down: connect again."))
            return
        handshake = ServerProtocol(extensions=self._extensions, logger=_quiet)
        handshake.receive_data(_handshake(head))
        events = handshake.events_received()
        if not events:
            await refuse(stream, detail(400, "This is no WebSocket handshake."))
            return
        request = events[0]
        assert isinstance(request, Request)
        handshake.send_response(handshake.accept(request))
        account = self.shared.account_of(token)
        refusal = None if account is None else account.connect()
        if refusal is not None:
            await refuse(stream, detail(refusal.status, refusal.sentence, refusal.headers))
            return
        with ExitStack() as unless_open:
            if account is not None:
                unless_open.callback(account.disconnect)
            await send_within(stream, b"".join(handshake.data_to_send()))
            if handshake.state is not State.OPEN:
                await linger(stream)
                return
            unless_open.pop_all()
        wire = Wire(FRAME_BYTES, deflate=bool(handshake.extensions))
        connection = Connection(self, take_socket(stream), wire, run, token)
        connection.open(head.rest)
        if self.shared.draining.is_set():
            connection.drain()  # the drain began while the answer was being sent


def _handshake(head: Head) -> bytes:
    """The head for `websockets`: what its answer depends on, or nothing when it can be no handshake.

    What the answer depends on is ASCII by its grammar; `websockets` writes it into the answer, and fails at other bytes.
    """
    fields = [
        (name, value)
        for name, value in head.fields
        if name.lower() in _HANDSHAKE or name.lower().startswith(b"sec-websocket-")
    ]
    if head.length != 0 or not all(value.isascii() for _, value in fields):
        return b"\r\n"
    lines = [b"GET / HTTP/1.1", *(name + b": " + value for name, value in fields)]
    return b"\r\n".join((*lines, b"", b""))


_HANDSHAKE = frozenset({b"connection", b"upgrade"})
