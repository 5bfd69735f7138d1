"""One run's connection without I/O: a frame in, whole or in pieces, its records to the producer, exactly one reply out.

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
from functools import partial
from hashlib import blake2b
from math import inf
from typing import ClassVar

from matyan._codec import (
    KINDS,
    NotJSON,
    Validated,
    Validator,
    error_reply,
    format_timestamp,
    total_bytes,
    validate,
)
from matyan.broker.base import Producer
from matyan.errors import NotFound, QueueFull, RecordsRefused
from matyan.service import telemetry
from matyan.service.logs import get_logger

log = get_logger()

OK = b'{"status":"ok","error":null}'

ANSWER_WITHIN_S = 40.0
"""Seconds. The SDK's sender gives up about 46 s after its first try and stays away for the rest of the run."""
COPY_AFTER_S = 14.0
"""Seconds. The SDK sends a frame again after 15 s: a reply that took so long may cross a copy of its frame on the wire."""
COPY_WITHIN_S = 2.0
"""Seconds for which such a copy is expected after the reply."""
MAX_WAITING_FRAMES = 64
"""Frames of one connection that may wait for their reply before its socket is no longer read. The SDK has one."""
MAX_WAITING_BYTES = 4 << 20
"""The same in bytes. One frame alone may have more (its limit is 96 MiB): if it stopped the reading, pings would go unanswered."""
_HEAD_BYTES = 64
"""By so many of its first bytes a frame is told from most others of its length."""
_KEEP_WHOLE_S = 1.0
"""Seconds for which a waiting frame is kept as it came; after that only its digest, which is enough to recognise a copy."""

_messages = telemetry.WS_MESSAGES.counts(KINDS)
_frames = telemetry.FRAMES.counts(
    ("ok", "partly", "not_json", "resend", "kept", "refused", "lost", "deleted")
)
_observe_ack = telemetry.ACK_SECONDS.observe


_new_digest = partial(blake2b, digest_size=16)


def _now() -> bytes:
    """The timestamp of a record that is taken now."""
    return format_timestamp(time.time_ns() // 1000)


def _encode(reply: dict[str, object]) -> bytes:
    return json.dumps(reply, separators=(",", ":")).encode()


class PendingFrame:
    """A frame between its arrival and its reply. A copy of it is recognised even when its bytes, up to 96 MiB, were let go.

    Args:
        data: its bytes; of one that came in pieces none, see `identify`.
        since: when it began to arrive: from then on its client waits for the reply.
        now: when it was complete.
    """

    __slots__ = (
        "_data",
        "_digest",
        "_head",
        "completed",
        "copy_until",
        "frame",
        "handed",
        "missing",
        "parked",
        "reply",
        "session",
        "since",
        "size",
        "weight",
    )

    def __init__(
        self, session: Session, data: bytes, frame: Validated | None, since: float, now: float
    ) -> None:
        self.session = session
        self.frame = frame
        self.since = since
        self.completed = now
        self.size = len(data)
        self.reply: bytes | None = None
        self.handed = False
        """Whether the producer has it; then its delivery goes on whatever is answered."""
        self.missing = False
        """Whether it found no room, so that only its digest is kept. A copy of it can still be stored in its place."""
        self.weight = 0
        """Bytes that it counts for in its session."""
        self.copy_until = inf
        """Until when a copy of it may begin to arrive: without end while it is not answered."""
        self._data: bytes | None = data

    # Few frames need these: they are set by `identify`, and by `Session._park`.
    _head: bytes
    _digest: bytes
    parked: int
    """Bytes that it holds while it waits for room."""

    def identify(self, size: int, head: bytes, digest: bytes) -> None:
        """Keeps what recognises a copy in place of the bytes."""
        self.size, self._head, self._digest, self._data = size, head, digest, None

    def shrink(self) -> PendingFrame:
        """Forgets the bytes and keeps what recognises a copy."""
        if self._data is not None:
            data = self._data
            self.identify(len(data), data[:_HEAD_BYTES], _new_digest(data).digest())
        return self

    def same(self, data: bytes) -> bool:
        if len(data) != self.size:
            return False
        if self._data is not None:
            return data == self._data
        return _new_digest(data).digest() == self._digest

    def same_digest(self, size: int, digest: bytes) -> bool:
        return size == self.size and self.shrink()._digest == digest

    def begins_with(self, head: bytes) -> bool:
        """Whether a frame that begins with `head` can be a copy of it."""
        own = self._head if self._data is None else self._data[:_HEAD_BYTES]
        common = min(len(own), len(head))
        return own[:common] == head[:common]

    def is_due(self, began: float) -> bool:
        """Whether a copy that began to arrive then is one that its client sent before the reply came."""
        return began <= self.copy_until

    def delivered(self, error: Exception | None) -> None:
        """The producer's callback."""
        frame = self.frame
        assert frame is not None
        if error is None and not frame.rejected:
            _frames["ok"] += 1
            self.reply = OK
        else:
            self.reply = self._complaint(frame, error)
        # The records are let go: this object may be remembered for a while.
        self.frame = None
        if self.copy_until == inf:
            self.session.flush()

    def _complaint(self, frame: Validated, error: Exception | None) -> bytes:
        """The reply where not all is stored."""
        if isinstance(error, RecordsRefused):
            _reject(frame, error)
        elif error is not None:
            if isinstance(
                error, NotFound
            ):  # its run was deleted: whoever dropped the records has logged that
                _frames["deleted"] += 1
            else:
                _frames["lost"] += 1
                log.error("a frame was given up", run=self.session.run, error=str(error))
            return self.answer(f"not stored: {str(error).removesuffix('.')}")
        _frames["partly"] += 1
        return error_reply(frame)

    def answer(self, reason: str) -> bytes:
        """An error reply for the frame as a whole; it also names the items that were rejected."""
        reply: dict[str, object] = {"status": "error", "error": reason}
        if self.frame is not None and self.frame.rejected:
            named = json.loads(error_reply(self.frame))
            reply = {**named, "error": f"{reason}; {named['error']}"}
        return _encode(reply)


class Incoming:
    """A message that arrives in pieces and is judged as they come. Whoever feeds it counts what it holds.

    It can also go on without being held. At its end it is then known by its digest alone: as a copy of a frame that
    waits, or as a frame that is missing.
    """

    __slots__ = ("_candidates", "_digest", "_head", "_session", "_validator", "began", "size")

    def __init__(
        self, session: Session, validator: Validator, candidates: list[PendingFrame], now: float
    ) -> None:
        self.began = now
        self._session = session
        self._validator: Validator | None = validator
        self._candidates = candidates
        self._digest = _new_digest()
        self._head = b""
        self.size = 0

    @property
    def is_kept(self) -> bool:
        """Whether more than its digest is held."""
        return self._validator is not None

    @property
    def held(self) -> int:
        """Bytes."""
        return 0 if self._validator is None else self._validator.held

    def needs_room(self, piece: bytes) -> bool:
        """Whether the next `piece` must be held. False: so far the message looks like a copy of a frame that is held or
        answered."""
        head = (self._head + piece)[:_HEAD_BYTES]
        self._candidates = [one for one in self._candidates if one.begins_with(head)]
        return not self._candidates or any(one.missing for one in self._candidates)

    def may_wait(self) -> bool:
        """Whether its connection may stay unread until there is room. Call `needs_room` first."""
        return not self._session.misses or bool(self._candidates)

    def keep_digest_only(self) -> None:
        """Lets go of all but the digest."""
        self._validator = None

    def feed(self, piece: bytes) -> bool:
        """Takes the next piece. False: call `judge`, then this again with b""."""
        if len(self._head) < _HEAD_BYTES:
            self._head += piece[: _HEAD_BYTES - len(self._head)]
        self.size += len(piece)
        self._digest.update(piece)
        return self._validator is None or self._validator.feed(piece)

    def judge(self) -> None:
        """The part that takes up to a second: to be called in a thread."""
        assert self._validator is not None
        self._validator.judge()

    def end(self, now: float) -> bool:
        """Hands it to the session. False: call `judge`, then this again."""
        if self._validator is not None and not self._validator.end():
            return False
        digest = self._digest.digest()
        for one in self._candidates:
            if one.is_due(self.began) and one.same_digest(self.size, digest):
                self._session.count_resend()
                if one.missing and self._validator is not None:
                    self._session.take(one, self._validator)
                return True
        pending = self._session.pending(self._session, b"", None, self.began, now)
        pending.identify(self.size, self._head, digest)
        self._session.take(pending, self._validator)
        return True


class Sessions:
    """The sessions of one process, and what they share: the producer, its budget, and the queue of those that wait for room in it."""

    def __init__(self, producer: Producer, clock: Callable[[], float]) -> None:
        self.producer = producer
        self.budget = producer.budget
        self.clock = clock
        self.alive: set[Session] = set()
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
        late = sum(session.sweep(now) for session in list(self.alive))
        if late:
            log.warning(
                "frames answered before they are stored",
                frames=late,
                waited_s=ANSWER_WITHIN_S,
                queued_bytes=self.producer.queued_bytes,
                parked_bytes=self.budget.parked,
            )

    def parked_records(self) -> int:
        """Records that wait for room."""
        return sum(session.parked_records() for session in self.alive)

    def waiting(self, now: float) -> tuple[int, float]:
        """How many frames wait for their reply, and for how many seconds the oldest of them has."""
        waiting = [session.waiting for session in self.alive if session.waiting]
        oldest = min((frames[0].completed for frames in waiting), default=now)
        return sum(map(len, waiting)), now - oldest

    def _on_room(self) -> None:
        # First come, first served, a whole session at a time: order within a connection is kept.
        while self._parked and next(iter(self._parked)).hand_over():
            pass


class Session:
    """The frames of one connection. `send` takes each reply, JSON in UTF-8, in the order of the frames."""

    pending: ClassVar[type[PendingFrame]] = PendingFrame
    __slots__ = (
        "_key",
        "_late",
        "_send",
        "_sessions",
        "_unhanded",
        "misses",
        "waiting",
        "waiting_bytes",
    )

    def __init__(self, sessions: Sessions, run: str, send: Callable[[bytes], None]) -> None:
        self._sessions = sessions
        self._key = run.encode()
        self._send = send
        # Lists and not deques: 5,000 idle sessions; an empty deque is 600 bytes.
        self.waiting: list[PendingFrame] = []
        self.waiting_bytes = 0
        self.misses = 0
        """How many of those that wait are missing."""
        self._unhanded: list[PendingFrame] = []
        self._late: list[PendingFrame] = []
        sessions.alive.add(self)

    @property
    def run(self) -> str:
        return self._key.decode()

    def now(self) -> float:
        return self._sessions.clock()

    @property
    def crowded(self) -> bool:
        """Whether the socket must not be read further for now."""
        count = len(self.waiting)
        return count >= MAX_WAITING_FRAMES or (count > 1 and self.waiting_bytes > MAX_WAITING_BYTES)

    @property
    def is_first(self) -> bool:
        """Whether no frame that waits is held, so that the next one would be the only one."""
        return len(self.waiting) == self.misses

    def receive(self, data: bytes, now: float, *, room: bool = True) -> None:
        """Takes one whole text message.

        Args:
            room: False: a message with something to store is not held, and so is missing.

        Raises:
            UnicodeDecodeError: it is not UTF-8, so no text message: close with 1007.
        """
        original = self._original_of(data, now) if self.waiting or self._late else None
        if original is not None:
            self.count_resend()
            if not (original.missing and room):
                return
        try:
            frame = validate(data, self._key, _now())
        except NotJSON as error:
            data.decode()
            pending = self.pending(self, data, None, now, now)
            self._add(pending)
            self._answer_not_json(pending, str(error))
            return
        if frame.rejected:
            data.decode()
        pending = original or self.pending(self, data, None, now, now)
        if room or not frame.records:
            self._publish(pending, frame)
        else:
            self._add_missing(pending.shrink())

    def begin(self, declared: int | None, now: float) -> Incoming:
        """A message that arrives in pieces, of `declared` bytes where that is known."""
        candidates = [
            one
            for one in (*self.waiting, *self._late)
            if one.is_due(now) and declared in (None, one.size)
        ]
        return Incoming(self, Validator(self._key, _now()), candidates, now)

    def count_resend(self) -> None:
        """A copy of a frame has come."""
        _frames["resend"] += 1

    def take(self, pending: PendingFrame, validator: Validator | None) -> None:
        """Takes a message that arrived in pieces; None: it was not held, and is the copy of nothing."""
        if validator is None:
            self._add_missing(pending)
            return
        try:
            frame = validator.result()
        except NotJSON as error:
            self._add(pending)
            self._answer_not_json(pending, str(error))
        else:
            self._publish(pending, frame)

    def needs_room(self, data: bytes, now: float) -> bool:
        """Whether a whole message must be held. False: it is a copy of a frame that is held or answered."""
        original = self._original_of(data, now)
        return original is None or original.missing

    def may_wait(self, data: bytes, now: float) -> bool:
        """Whether the connection may stay unread until there is room for this message."""
        return not self.misses or self._original_of(data, now) is not None

    def _original_of(self, data: bytes, now: float) -> PendingFrame | None:
        """The frame of which `data` is a copy that its client sent before the reply came; or None."""
        for one in (*self.waiting, *self._late):
            if one.is_due(now) and one.same(data):
                return one
        return None

    def _add(self, pending: PendingFrame) -> None:
        """A frame that waits for its reply, or one that was missing and is here now."""
        if pending.missing:
            pending.missing = False
            self.misses -= 1
        else:
            self.waiting.append(pending)
        pending.weight = pending.size
        self.waiting_bytes += pending.weight

    def _publish(self, pending: PendingFrame, frame: Validated) -> None:
        pending.frame = frame
        self._add(pending)
        if frame.rejected:
            _count_rejected(frame)
        if not frame.records:
            pending.delivered(None)
            return
        if self.misses:
            # This frame came after the missing ones: if their copies were stored behind it, they would be out of order.
            self.refuse_missing(pending)
        if self._unhanded or not self._hand_over(pending):
            self._park(pending)

    def _add_missing(self, pending: PendingFrame) -> None:
        pending.missing = True
        self.misses += 1
        self.waiting.append(pending)

    def refuse_missing(self, behind: PendingFrame | None = None) -> None:
        """Refuses the frames that are missing, and no longer waits for their copies; `behind`: only those before this one."""
        for pending in self.waiting:
            if pending is behind:
                break
            if pending.missing:
                self._answer_refused(pending)
        self.flush()

    def sweep(self, now: float) -> int:
        """Answers what has waited for 40 s, and forgets what need not be remembered; returns how many it answered."""
        if self._late:
            self._late = [pending for pending in self._late if pending.copy_until > now]
        if not self.waiting:
            return 0
        late = 0
        budget = self._sessions.budget
        keep = _KEEP_WHOLE_S if 2 * budget.held < budget.capacity else 0.0
        for pending in self.waiting:
            age = now - pending.since
            if age >= ANSWER_WITHIN_S and pending.reply is None:
                late += 1
                if pending.handed:
                    _frames["kept"] += 1
                    pending.reply = pending.answer(
                        f"not stored yet: the broker has not confirmed it within {ANSWER_WITHIN_S:.0f} s; "
                        "kept and still being delivered"
                    )
                elif pending.missing:
                    self._answer_refused(pending)
                else:
                    self._refuse(pending)
            elif age >= keep:
                pending.shrink()
        self.flush()
        return late

    def flush(self) -> None:
        """Sends the replies that are due; none overtakes the reply of an earlier frame."""
        waiting = self.waiting
        while waiting and waiting[0].reply is not None:
            pending = waiting.pop(0)
            reply = pending.reply
            assert reply is not None
            pending.copy_until = -inf
            self.waiting_bytes -= pending.weight
            now = self._sessions.clock()
            _observe_ack(now - pending.completed)
            if now - pending.since >= COPY_AFTER_S:
                pending.copy_until = now + COPY_WITHIN_S
                self._late.append(pending.shrink())
            self._send(reply)
        if not waiting and self._send is _nobody:
            self._sessions.alive.discard(self)

    def drain(self) -> None:
        """The server shuts down: nothing is waited for any more but what is being delivered."""
        self.refuse_missing()

    def leave(self) -> None:
        """The client has gone: nothing is answered any more, what was taken goes on being delivered."""
        self._send = _nobody
        self._late.clear()
        for pending in self.waiting:
            pending.shrink()
        self.refuse_missing()

    def parked_records(self) -> int:
        return sum(
            len(pending.frame.records) for pending in self._unhanded if pending.frame is not None
        )

    def hand_over(self) -> bool:
        """Hands over what waited for room, in order; False when the queue is full again."""
        while self._unhanded:
            pending = self._unhanded[0]
            if not self._hand_over(pending):
                return False
            self._forget_parked(pending)
        return True

    def _forget_parked(self, pending: PendingFrame) -> None:
        self._unhanded.remove(pending)
        self._sessions.budget.park(-pending.parked)
        if not self._unhanded:
            self._sessions.unpark(self)

    def _hand_over(self, pending: PendingFrame) -> bool:
        frame = pending.frame
        assert frame is not None
        try:
            self._sessions.producer.produce(self._key, frame.records, pending.delivered)
        except QueueFull:
            return False
        pending.handed = True
        kinds = frame.kinds
        if len(kinds) == 1:
            _messages[KINDS[kinds[0]]] += 1
        else:
            for kind, count in Counter(kinds).items():
                _messages[KINDS[kind]] += count
        return True

    def _park(self, pending: PendingFrame) -> None:
        sessions = self._sessions
        assert pending.frame is not None
        pending.parked = total_bytes(pending.frame.records)
        self._unhanded.append(pending)
        sessions.park(self)
        sessions.budget.park(pending.parked)

    def _refuse(self, pending: PendingFrame) -> None:
        self._forget_parked(pending)
        self._answer_refused(pending)

    def _answer_not_json(self, pending: PendingFrame, reason: str) -> None:
        _frames["not_json"] += 1
        pending.reply = _encode({"status": "error", "error": reason, "accepted": 0, "rejected": []})
        self.flush()

    def _answer_refused(self, pending: PendingFrame) -> None:
        _frames["refused"] += 1
        if pending.missing:
            pending.missing = False
            self.misses -= 1
        pending.reply = pending.answer(f"refused, not stored: {self._no_room()}")
        pending.frame = None

    def _no_room(self) -> str:
        return f"the queue of {self._sessions.budget.capacity:,} bytes is full"


def _nobody(reply: bytes) -> None:
    """Where the replies to a client that has gone end."""


_FIELD = re.compile(r"[a-z0-9_]{1,32}")


def _reject(frame: Validated, error: RecordsRefused) -> None:
    """Names the items whose records the broker did not take, as if the validation had refused them."""
    before = {index for index, _, _ in frame.rejected}
    valid = (index for index in range(frame.count) if index not in before)
    for index, kind, record in zip(valid, frame.kinds, frame.records, strict=True):
        if record in error.records:
            frame.rejected.append((index, KINDS[kind], str(error)))
    frame.rejected.sort()


def _count_rejected(frame: Validated) -> None:
    # The words of a client are no labels: they are without number.
    for (kind, member), count in Counter(
        (kind, reason.partition(": ")[0]) for _, kind, reason in frame.rejected
    ).items():
        field = member if _FIELD.fullmatch(member) else "message"
        telemetry.REJECTED.labels(kind if kind in KINDS else "unknown", field).inc(count)
