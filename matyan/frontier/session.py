"""One run's connection without I/O: a frame in, its records to the producer, exactly one reply out.

Contract, section 1: resends and copies, holding a reply back, the answer after 40 s, a full queue, order.
No sockets, no WebSocket and no trio here: time comes in as an argument or from the clock that is passed
in, replies go out through `send`. What a message must look like is `_codec`'s affair.
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable
from hashlib import blake2b

from matyan import telemetry
from matyan._codec import KINDS, Frame, NotJSON, error_reply, format_timestamp, validate
from matyan.broker.base import Producer
from matyan.errors import NotFound, QueueFull, RecordsRefused
from matyan.logs import get_logger

log = get_logger()

OK = b'{"status":"ok","error":null}'

ANSWER_WITHIN = 40.0
"""Seconds. The SDK's sender gives up about 46 s after its first try and stays away for the rest of the run."""
COPY_AFTER = 14.0
"""Seconds. The SDK sends a frame again after 15 s: a reply at least this old may cross a copy on the wire."""
COPY_WITHIN = 2.0
"""Seconds for which such a copy is expected after the reply."""
MAX_WAITING = 64
"""Frames of one connection that may wait for their reply before its socket is no longer read. The SDK has one."""
MAX_WAITING_BYTES = 4 << 20
"""The same in bytes. One frame alone may be larger (a frame's limit is 16 MiB), or its pings would go unanswered."""
_KEEP_BYTES = 1.0
"""Seconds for which a waiting frame is kept as it came; then a digest of it is enough to know a copy."""

_KIND_COUNTERS = [telemetry.WS_MESSAGES.labels(kind) for kind in KINDS]
_FRAMES = {
    outcome: telemetry.FRAMES.labels(outcome)
    for outcome in ("ok", "partly", "not_json", "resend", "kept", "refused", "lost", "deleted")
}
_observe_ack = telemetry.ACK_SECONDS.observe
_count_ok = _FRAMES["ok"].inc


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def _encode(reply: dict[str, object]) -> bytes:
    return json.dumps(reply, separators=(",", ":")).encode()


class Taken:
    """A frame between its arrival and its reply. Its identity outlives the bytes: they may be 16 MiB."""

    __slots__ = (
        "_data",
        "_digest",
        "answered",
        "frame",
        "handed",
        "parked",
        "reply",
        "session",
        "since",
        "size",
    )

    def __init__(self, session: Session, data: bytes, frame: Frame | None, now: float) -> None:
        self.session = session
        self.frame = frame
        self.since = now
        self.size = len(data)
        self.reply: bytes | None = None
        self.handed = False
        """Whether the producer has it; then its delivery goes on whatever is answered."""
        self.parked = 0
        """Bytes that it holds while it waits for room."""
        self.answered = False
        self._data: bytes | None = data
        self._digest = b""

    def shrink(self) -> Taken:
        """Forgets the bytes and keeps what recognises a copy."""
        if self._data is not None:
            self._digest, self._data = _digest(self._data), None
        return self

    def same(self, data: bytes) -> bool:
        if len(data) != self.size:
            return False
        return data == self._data if self._data is not None else _digest(data) == self._digest

    def delivered(self, error: Exception | None) -> None:
        """The producer's callback."""
        frame = self.frame
        assert frame is not None
        if isinstance(error, RecordsRefused):
            _reject(frame, error)
            error = None
        if error is not None:
            if isinstance(error, NotFound):  # its run was deleted, which who dropped it has logged
                _FRAMES["deleted"].inc()
            else:
                _FRAMES["lost"].inc()
                log.error("a frame was given up", run=self.session.run, error=str(error))
            self.reply = self.answer(f"not stored: {error}")
        elif frame.rejected:
            _FRAMES["partly"].inc()
            self.reply = error_reply(frame)
        else:
            _count_ok()
            self.reply = OK
        # Its records are counted no more, and this may be remembered for a while.
        self.frame = None
        if not self.answered:
            self.session.flush()

    def answer(self, reason: str) -> bytes:
        """An error reply for the frame as a whole; it also names the items that were rejected."""
        reply: dict[str, object] = {"status": "error", "error": reason}
        if self.frame is not None and self.frame.rejected:
            named = json.loads(error_reply(self.frame))
            reply = {**named, "error": f"{reason}; {named['error']}"}
        return _encode(reply)


class Desk:
    """What the sessions of one process share: the producer, its budget, and the queue of those that wait for room in it."""

    def __init__(self, producer: Producer, clock: Callable[[], float]) -> None:
        self.producer = producer
        self.budget = producer.budget
        self.clock = clock
        self.sessions: set[Session] = set()
        # Ordered, and one entry a session however often its frames were refused.
        self._parked: dict[Session, None] = {}
        self.budget.on_room(self._on_room)

    def park(self, session: Session) -> None:
        """This session waits for room, behind those that do already."""
        self._parked.setdefault(session)

    def unpark(self, session: Session) -> None:
        """Nothing of this session waits for room any more."""
        self._parked.pop(session, None)

    def sweep(self, now: float) -> None:
        """To be called about twice a second: answers what has waited for too long."""
        late = sum(session.sweep(now) for session in list(self.sessions))
        if late:
            log.warning(
                "frames answered before they are stored",
                frames=late,
                waited_s=ANSWER_WITHIN,
                queued_bytes=self.producer.queued_bytes,
                parked_bytes=self.budget.parked,
            )

    def parked_records(self) -> int:
        """Records that wait for room."""
        return sum(session.parked_records() for session in self.sessions)

    def _on_room(self) -> None:
        # First come, first served, a whole session at a time: order within a connection is kept.
        while self._parked and next(iter(self._parked)).hand_over():
            pass


class Session:
    """The frames of one connection. `send` takes each reply, JSON in UTF-8, in the order of the frames."""

    __slots__ = ("_desk", "_key", "_late", "_send", "_unhanded", "waiting", "waiting_bytes")

    def __init__(self, desk: Desk, run: str, send: Callable[[bytes], None]) -> None:
        self._desk = desk
        self._key = run.encode()
        self._send = send
        # Lists and not deques: 5,000 idle sessions; an empty deque is 600 bytes.
        self.waiting: list[Taken] = []
        self.waiting_bytes = 0
        self._unhanded: list[Taken] = []
        self._late: list[tuple[float, Taken]] = []
        desk.sessions.add(self)

    @property
    def run(self) -> str:
        return self._key.decode()

    @property
    def crowded(self) -> bool:
        """Whether the socket must not be read further for now."""
        count = len(self.waiting)
        return count >= MAX_WAITING or (count > 1 and self.waiting_bytes > MAX_WAITING_BYTES)

    def receive(self, data: bytes, now: float) -> None:
        """Takes one whole text message.

        Raises:
            UnicodeDecodeError: it is not UTF-8, so no text message: close with 1007.
        """
        if (self.waiting or self._late) and self._is_copy(data, now):
            _FRAMES["resend"].inc()
            return
        frame: Frame | None
        try:
            frame = validate(data, self._key, format_timestamp(time.time_ns() // 1000))
        except NotJSON as error:
            data.decode()
            frame, reason = None, str(error)
        taken = Taken(self, data, frame, now)
        self.waiting.append(taken)
        self.waiting_bytes += taken.size
        if frame is None:
            _FRAMES["not_json"].inc()
            taken.reply = _encode(
                {"status": "error", "error": reason, "accepted": 0, "rejected": []}
            )
            self.flush()
            return
        if frame.rejected:
            data.decode()
            _count_rejected(frame)
        if not frame.records:
            taken.delivered(None)
        elif self._unhanded or not self._hand_over(taken):
            self._park(taken)

    def sweep(self, now: float) -> int:
        """Answers what has waited for 40 s, and forgets what need not be remembered; returns how many it answered."""
        if self._late:
            self._late = [(until, taken) for until, taken in self._late if until > now]
        if not self.waiting:
            return 0
        late = 0
        for taken in self.waiting:
            age = now - taken.since
            if age >= ANSWER_WITHIN and taken.reply is None:
                late += 1
                if taken.handed:
                    _FRAMES["kept"].inc()
                    taken.reply = taken.answer(
                        f"not stored yet: the broker has not confirmed it within {ANSWER_WITHIN:.0f} s; "
                        "kept and still being delivered"
                    )
                else:
                    self._refuse(taken)
            elif age >= _KEEP_BYTES:
                taken.shrink()
        self.flush()
        return late

    def flush(self) -> None:
        """Sends the replies that are due: a frame's reply never overtakes an earlier frame's."""
        waiting = self.waiting
        while waiting and waiting[0].reply is not None:
            taken = waiting.pop(0)
            reply = taken.reply
            assert reply is not None
            taken.answered = True
            self.waiting_bytes -= taken.size
            now = self._desk.clock()
            took = now - taken.since
            _observe_ack(took)
            if took >= COPY_AFTER:
                self._late.append((now + COPY_WITHIN, taken.shrink()))
            self._send(reply)
        if not waiting and self._send is _nobody:
            self._desk.sessions.discard(self)

    def leave(self) -> None:
        """The client has gone: nothing is answered any more, what was taken goes on being delivered."""
        self._send = _nobody
        self._late.clear()
        for taken in self.waiting:
            taken.shrink()
        self.flush()

    def parked_records(self) -> int:
        return sum(len(taken.frame.records) for taken in self._unhanded if taken.frame is not None)

    def hand_over(self) -> bool:
        """Hands over what waited for room, in order; False when the queue is full again."""
        while self._unhanded:
            taken = self._unhanded[0]
            if not self._hand_over(taken):
                return False
            self._forget_parked(taken)
        return True

    def _forget_parked(self, taken: Taken) -> None:
        self._unhanded.remove(taken)
        self._desk.budget.park(-taken.parked)
        if not self._unhanded:
            self._desk.unpark(self)

    def _hand_over(self, taken: Taken) -> bool:
        frame = taken.frame
        assert frame is not None
        try:
            self._desk.producer.produce(self._key, frame.records, taken.delivered)
        except QueueFull:
            return False
        taken.handed = True
        kinds = frame.kinds
        if len(kinds) == 1:
            _KIND_COUNTERS[kinds[0]].inc()
        else:
            for kind, count in Counter(kinds).items():
                _KIND_COUNTERS[kind].inc(count)
        return True

    def _park(self, taken: Taken) -> None:
        desk = self._desk
        assert taken.frame is not None
        taken.parked = sum(map(len, taken.frame.records))
        self._unhanded.append(taken)
        desk.park(self)
        desk.budget.park(taken.parked)
        # Who reads sockets stops at a full budget; this is for whoever does not.
        if desk.budget.parked > 2 * desk.budget.capacity:
            self._refuse(taken)
            self.flush()

    def _refuse(self, taken: Taken) -> None:
        self._forget_parked(taken)
        _FRAMES["refused"].inc()
        taken.reply = taken.answer(
            f"refused, not stored: the queue of {self._desk.budget.capacity:,} bytes is full"
        )
        taken.frame = None

    def _is_copy(self, data: bytes, now: float) -> bool:
        if any(taken.same(data) for taken in self.waiting):
            return True
        return any(now <= until and taken.same(data) for until, taken in self._late)


def _nobody(reply: bytes) -> None:
    """Where the replies to a client that has gone end."""


_FIELD = re.compile(r"[a-z0-9_]{1,32}")


def _reject(frame: Frame, error: RecordsRefused) -> None:
    """Names the items whose records the broker did not take, as if the validation had refused them."""
    before = {index for index, _, _ in frame.rejected}
    valid = (index for index in range(frame.count) if index not in before)
    for index, kind, record in zip(valid, frame.kinds, frame.records, strict=True):
        if record in error.records:
            frame.rejected.append((index, KINDS[kind], str(error)))
    frame.rejected.sort()


def _count_rejected(frame: Frame) -> None:
    # The words of a client are no labels: they are without number.
    for _, kind, reason in frame.rejected:
        member, colon, _ = reason.partition(": ")
        member = member if colon and _FIELD.fullmatch(member) else "message"
        telemetry.REJECTED.labels(kind if kind in KINDS else "unknown", member).inc()
