"""The broker inside one process: records wait in memory until the store has them, events and dead letters in the store.

No rules here and no retry. The ingest log is in memory only, because nothing in it was acknowledged: a frame's callback
is called when the store has committed the frame, so its client still has whatever a crash loses. Control events and dead
letters follow from what *was* committed: so the outbox writes them in the same transaction, and they stay in the store
until they are handled.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from math import inf
from types import NoneType

import msgpack
import trio

from matyan import __version__, _codec, readable
from matyan.broker.base import (
    Batch,
    Consumer,
    ControlEvent,
    DeadLetter,
    DeliveryCallback,
    Outbox,
    Partition,
    Producer,
    StandingLetter,
)
from matyan.broker.budget import Budget
from matyan.broker.numbered import next_number, rows
from matyan.errors import ConfigurationError, NotFound, Unavailable
from matyan.keys import LOCAL, Keys
from matyan.store.base import Snapshot, Store, Transaction

INGEST_TOPIC = "data-ingestion"
CONTROL_TOPIC = "control-events"

BATCH_BYTES = 8 << 20
"""Everything that waits is one batch, up to so many bytes of records: one sync acknowledges it all."""

GATHER_S = 0.002
"""How long after an acknowledgement the next batch waits for the clients that were just answered: one that sends in a loop
sends again at once, and one commit serves them all. A client that is alone never waits, nor does one that was not answered last.
Rejected: to let everybody wait for 2 or 3 ms, which saved a sixth of the CPU of 100 clients that send now and then,
and took three times as long to answer them."""
GATHER_BYTES = 64 << 10
"""A batch of this size is worth a sync of its own: it waits for nobody."""

CONTROL_BATCH_EVENTS = 1_000

_RETRY_S = 0.5
"""How soon a store that is away is asked again for control events."""


class LocalBroker:
    """Made by the composition root. It has no store: whoever reads or writes passes one."""

    def __init__(self, keys: Keys, capacity_bytes: int) -> None:
        self._keys = keys
        self._log = _Log(Budget(capacity_bytes))
        self._outbox = _StoreOutbox(keys, self._log)

    def producer(self) -> Producer:
        """The producer of data-ingestion; every call returns the same."""
        return self._log

    def redeliver(self, number: int, letter: DeadLetter, on_done: DeliveryCallback) -> Redelivery:
        """Hands over a dead letter's record again; the transaction that applies it takes the letter away.

        Raises:
            QueueFull: as `produce` does.
        """
        return self._log.redeliver(Redelivery(number), letter, on_done)

    def is_redelivered(self, number: int) -> bool:
        """Whether the dead letter is under way. What was read of it before that ended must not be handed over."""
        return self._log.is_redelivered(number)

    def requeue_event(self, number: int, event: bytes, tr: Transaction) -> None:
        """A control event that is the dead letter `number` is to be handled again, and is a letter no more."""
        self._outbox.put_events(tr, [event])
        tr.clear(self._keys.dead_letter(number))

    def ingest_consumer(self) -> Consumer:
        """The consumer of data-ingestion."""
        return _OneConsumer(lambda: _IngestPartition(self._log))

    def outbox(self) -> Outbox:
        """Writes events and dead letters inside the transaction."""
        return self._outbox

    def control_consumer(self, store: Store) -> Consumer:
        """The consumer of the control events that stand in `store`."""
        return _OneConsumer(lambda: _ControlPartition(store, self._keys, self._outbox))


# --- the ingest log ------------------------------------------------------------------------------

_Frame = tuple[bytes, Sequence[bytes], DeliveryCallback, int]
"""Key, values, callback and bytes of one `produce`."""


@dataclass(slots=True)
class Redelivery:
    """A dead letter on its way through the ingestion again."""

    number: int
    """The letter's number in the store; a letter that dies again keeps it."""
    died: bool = False
    """Whether the last transaction that settled it could not apply it."""


class _Log:
    """The frames that are not acknowledged, in order: first those that a batch holds, then those that wait."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._given: deque[_Frame] = deque()
        self._waiting: deque[_Frame] = deque()
        # The offset of the first record in `_given` (else in `_waiting`), and of the first in `_waiting`.
        self._head: int | None = None
        self._next = 0
        self._redelivered: dict[DeliveryCallback, Redelivery] = {}
        self._waiting_bytes = 0
        # Deleted runs that still send -> the offset from which on their records are not stored.
        self._deleted: dict[bytes, int] = {}
        # The runs whose frames were acknowledged last and that have not sent since; and when that was.
        self._absent: set[bytes] = set()
        self._answered = -inf
        self._stranger = False
        """Whether the last frame was of a run that is not among them."""
        self._arrival = trio.lowlevel.ParkingLot()
        self._settled = trio.lowlevel.ParkingLot()
        self._empty = trio.lowlevel.ParkingLot()

    # the producer's side

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        size = _codec.total_bytes(values)
        self.budget.queue(size)
        self._waiting_bytes += size
        self._waiting.append((key, values, on_done, size))
        self._stranger = key not in self._absent
        if self._stranger:
            self._absent.clear()
        else:
            self._absent.discard(key)
        # The first frame of a batch wakes the consumer, which then waits until the batch is due; of the next ones only
        # the one that makes it due wakes it.
        if self._arrival and (len(self._waiting) == 1 or self._is_due()):
            self._arrival.unpark_all()

    def redeliver(
        self, redelivery: Redelivery, letter: DeadLetter, on_done: DeliveryCallback
    ) -> Redelivery:
        def done(error: Exception | None) -> None:
            del self._redelivered[done]
            on_done(error)

        self.produce(letter.key or b"", [letter.value], done)
        self._redelivered[done] = redelivery
        return redelivery

    def is_redelivered(self, number: int) -> bool:
        return any(one.number == number for one in self._redelivered.values())

    def redelivered(self, offsets: Sequence[int]) -> dict[int, Redelivery]:
        """Which of the records at `offsets` are dead letters that were handed over again."""
        found: dict[int, Redelivery] = {}
        if self._redelivered:
            offset = self._head or 0
            for _, values, on_done, _ in self._given:
                if offset in offsets and on_done in self._redelivered:
                    found[offset] = self._redelivered[on_done]
                offset += len(values)
        return found

    async def coalesce(self) -> None:
        """Waits while a batch is being committed that holds nothing of the runs whose frames come in. These frames wait for
        its end anyway, and to read them in one burst then is cheaper than to wake up for each. It waits no longer than
        GATHER_S, so that a store that is away stops no reader."""
        if self._stranger and self._given:
            with trio.move_on_after(GATHER_S):
                await self._settled.park()
        self._stranger = False

    @property
    def queued_bytes(self) -> int:
        return self.budget.queued

    def fatal(self) -> str | None:
        return None

    async def flush(self, deadline: float) -> int:
        with trio.move_on_at(deadline):
            while self._given or self._waiting:
                await self._empty.park()
        return sum(len(frame[1]) for frames in (self._given, self._waiting) for frame in frames)

    # the consumer's side

    def restart(self, stored: int) -> int:
        """Everything that is not acknowledged waits again, numbered so that the first record after what the store
        has is number `stored`. Returns how many records of the first frame the store has already."""
        if self._head is None:
            self._head = stored
        # A crash between the store's commit and `committed` left these unacknowledged.
        self.committed(stored)
        if stored < self._head or (stored > self._head and not self._given):
            raise ConfigurationError(
                f"The store stands at offset {stored}, this process at {self._head}: its folder was exchanged under a "
                "running process; stop it and start it on the folder that you mean."
            )
        self._waiting.extendleft(reversed(self._given))
        self._waiting_bytes = sum(size for _, _, _, size in self._waiting)
        self._given.clear()
        self._next = self._head
        return stored - self._head

    async def take(self, skip: int) -> Batch:
        """The next batch, without its first `skip` records; as soon as it is due."""
        while not self._waiting:
            await self._arrival.park()
        if not self._is_due():
            with trio.move_on_at(self._answered + GATHER_S):
                await self._arrival.park()
        keys: list[bytes | None] = []
        values: list[bytes] = []
        waiting, given, size = self._waiting, self._given, 0
        while waiting and (size + waiting[0][3] <= BATCH_BYTES or not values):
            frame = waiting.popleft()
            given.append(frame)
            key, its_values, _, its_size = frame
            keys += [key] * len(its_values)
            values += its_values
            size += its_size
        self._waiting_bytes -= size
        first = self._next
        self._next = first + len(values)
        if skip:
            del keys[:skip], values[:skip]
        return Batch(range(first + skip, self._next), keys, values, self._next)

    def _is_due(self) -> bool:
        return (
            not self._absent
            or self._waiting_bytes >= GATHER_BYTES
            or trio.current_time() >= self._answered + GATHER_S
        )

    def committed(self, next_offset: int) -> None:
        """Acknowledges the frames that end at or before `next_offset`."""
        given, budget = self._given, self.budget
        head = self._head
        assert head is not None
        absent = self._absent = set()
        self._answered = trio.current_time()
        while given and (end := head + len(given[0][1])) <= next_offset:
            key, _, on_done, size = given.popleft()
            absent.add(key)
            # All is in order before the call: the callback may produce, and if it raises it must not be called again.
            self._head = head = end
            budget.settle(size)
            on_done(self._verdict(key, end) if self._deleted else None)
        if not given:
            self._deleted.clear()
        budget.tell_room()
        if self._settled:
            self._settled.unpark_all()
        if self._empty and not given and not self._waiting:
            self._empty.unpark_all()

    def dropped(self, run: str, first: int) -> None:
        self._deleted[run.encode()] = first

    def _verdict(self, key: bytes, end: int) -> NotFound | None:
        """What the sender of the frame that ends before the offset `end` is told."""
        if end <= self._deleted.get(key, end):
            return None
        return NotFound(f"run {key.decode()} was deleted; take a new run id")


class _IngestPartition:
    topic = INGEST_TOPIC
    topic_id = LOCAL
    partition = 0

    def __init__(self, log: _Log) -> None:
        self._log = log
        self._skip = 0
        self.revoked = trio.Event()

    async def start(self, stored: int | None) -> int:
        await trio.lowlevel.checkpoint()
        self._skip = self._log.restart(stored or 0)
        return stored or 0

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            # Under load a frame always waits: so this is where the wish to leave is heard.
            await trio.lowlevel.checkpoint_if_cancelled()
            batch = await self._log.take(self._skip)
            self._skip = 0
            yield batch

    def committed(self, next_offset: int) -> None:
        self._log.committed(next_offset)

    def dropped(self, run: str, first: int) -> None:
        self._log.dropped(run, first)

    def pause(self) -> None:
        """Nothing to do: frames wait in memory, within the budget."""

    def resume(self) -> None:
        """Nothing to do."""

    async def leave(self) -> None:
        """Nothing to do: what was given and not committed waits for the next `start`."""


# --- control events and dead letters in the store ------------------------------------------------


class _StoreOutbox:
    def __init__(self, keys: Keys, log: _Log) -> None:
        self._keys = keys
        self._log = log
        self.events_written = trio.lowlevel.ParkingLot()
        self.news = False
        """Whether events were written since the consumer last looked."""

    async def before(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        """Nothing to do: `within` writes them with what caused them."""

    def within(
        self,
        tr: Transaction,
        events: Sequence[ControlEvent],
        dead: Sequence[DeadLetter],
        offsets: Sequence[int] = (),
    ) -> None:
        if events:
            self.put_events(tr, [event.to_bytes() for event in events])
        again = self._log.redelivered(offsets)
        if not dead and not again:
            return
        fresh = [letter for letter in dead if letter.offset not in again]
        if fresh:
            first = next_number(tr, self._keys.dead_letter)
            for number, letter in enumerate(fresh, first):
                tr.set(self._keys.dead_letter(number), _pack_letter(letter))
        letters = {letter.offset: letter for letter in dead}
        for offset, redelivery in again.items():
            redelivery.died = offset in letters
            key = self._keys.dead_letter(redelivery.number)
            if redelivery.died:
                tr.set(key, _pack_letter(letters[offset]))
            else:
                tr.clear(key)

    def put_events(self, tr: Transaction, events: Sequence[bytes]) -> None:
        first = next_number(tr, self._keys.control_event)
        for number, event in enumerate(events, first):
            tr.set(self._keys.control_event(number), event)
        # The transaction commits before the consumer can run, or not at all and then it finds nothing.
        self.news = True
        self.events_written.unpark_all()


class _ControlPartition:
    topic = CONTROL_TOPIC
    topic_id = LOCAL
    partition = 0

    def __init__(self, store: Store, keys: Keys, outbox: _StoreOutbox) -> None:
        self._store = store
        self._keys = keys
        self._outbox = outbox
        # Numbers of events that were given out and stand in the store. When none stands, numbers begin at 0 again.
        self._given: deque[int] = deque()
        self._handled = 0
        self.revoked = trio.Event()

    async def start(self, stored: int | None) -> int:
        await trio.lowlevel.checkpoint()
        self._given.clear()
        self._handled = 0
        return stored or 0

    async def batches(self) -> AsyncIterator[Batch]:
        while True:
            try:
                await self._remove_handled()
                # Before the read: an event that is written while it runs is news again.
                self._outbox.news = False
                first = self._given[-1] + 1 if self._given else 0
                found = await self._store.read(self._standing(first))
            except Unavailable:
                # As Kafka's consumer goes on polling while a broker is away.
                await trio.sleep(_RETRY_S)
                continue
            if found:
                numbers = [number for number, _ in found]
                self._given.extend(numbers)
                values = [value for _, value in found]
                yield Batch(numbers, [None] * len(found), values, numbers[-1] + 1)
            elif not self._outbox.news:
                await self._outbox.events_written.park()

    def _standing(self, first: int) -> Callable[[Snapshot], list[tuple[int, bytes]]]:
        def body(snap: Snapshot) -> list[tuple[int, bytes]]:
            return [*rows(snap, self._keys.control_event, first, CONTROL_BATCH_EVENTS)]

        return body

    def committed(self, next_offset: int) -> None:
        """They are removed when the next batch is asked for: a crash before that repeats them, which is harmless."""
        self._handled = next_offset

    async def _remove_handled(self) -> None:
        """Removes durably what was handled.

        Raises:
            Unavailable: not yet; the next call tries again.
        """
        handled = [number for number in self._given if number < self._handled]
        if not handled:
            return

        def body(tr: Transaction) -> None:
            for number in handled:
                tr.clear(self._keys.control_event(number))

        await self._store.transact(body)
        for _ in handled:
            self._given.popleft()
        self._handled = 0

    def pause(self) -> None:
        """Nothing to do: events stand in the store."""

    def resume(self) -> None:
        """Nothing to do."""

    async def leave(self) -> None:
        """Removes what was handled, if it can be."""
        with trio.CancelScope(shield=True), suppress(Unavailable):
            await self._remove_handled()


def dead_letters(snap: Snapshot, keys: Keys) -> Iterator[StandingLetter[int]]:
    """All that stand in the store, oldest first."""
    for number, value in rows(snap, keys.dead_letter):
        yield _unpack_letter(number, value)


def dead_letter(snap: Snapshot, keys: Keys, number: int) -> StandingLetter[int] | None:
    """One of them."""
    value = snap.get(keys.dead_letter(number))
    return None if value is None else _unpack_letter(number, value)


def _pack_letter(letter: DeadLetter) -> bytes:
    """A msgpack map: the record's bytes and key, and the fields that are headers on Kafka (contract, section 3)."""
    fields = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "key": letter.key,
        "value": letter.value,
        "error_class": letter.error_class,
        "error_text": letter.error_text,
        "version": __version__,
        "time": time.time(),
    }
    packed: bytes = msgpack.packb(fields, use_bin_type=True)
    return packed


_FIELDS: dict[str, type | tuple[type, ...]] = {
    "topic": str,
    "partition": int,
    "offset": int,
    "key": (bytes, NoneType),
    "value": bytes,
    "error_class": str,
    "error_text": str,
}


def _unpack_letter(number: int, value: bytes) -> StandingLetter[int]:
    """A row that holds no letter is one of its own: its bytes are all that is known."""
    try:
        row = msgpack.unpackb(value)
    except (TypeError, ValueError):
        row = None
    if not isinstance(row, dict) or not all(
        isinstance(row.get(field), types) for field, types in _FIELDS.items()
    ):
        text = "this row of the store is damaged"
        row = {"topic": "", "partition": 0, "offset": 0, "key": None, "value": value}
        row |= {"error_class": "Unreadable", "error_text": text}
    version, moment = row.get("version"), row.get("time")
    return StandingLetter(
        number,
        DeadLetter(**{field: row[field] for field in _FIELDS}),
        version if isinstance(version, str) else "",
        moment if readable.is_number(moment) else 0.0,
    )


# --- one partition, always assigned --------------------------------------------------------------


class _OneConsumer:
    """A consumer whose only partition is assigned at once and never revoked."""

    def __init__(self, open_partition: Callable[[], _IngestPartition | _ControlPartition]) -> None:
        self._open_partition = open_partition

    @asynccontextmanager
    async def partitions(
        self,
    ) -> AsyncIterator[AsyncIterator[AbstractAsyncContextManager[Partition]]]:
        yield _Assigned(self._held)

    @asynccontextmanager
    async def _held(self) -> AsyncIterator[Partition]:
        partition = self._open_partition()
        try:
            yield partition
        finally:
            await partition.leave()


class _Assigned:
    """Yields the partition once, then waits for an assignment that does not come."""

    def __init__(self, hold: Callable[[], AbstractAsyncContextManager[Partition]]) -> None:
        self._hold = hold
        self._yielded = False

    def __aiter__(self) -> _Assigned:
        return self

    async def __anext__(self) -> AbstractAsyncContextManager[Partition]:
        if self._yielded:
            await trio.sleep_forever()
        self._yielded = True
        return self._hold()
