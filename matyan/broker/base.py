"""The broker as the frontier and the workers see it: a topic's partitions of ordered records.

No validation and no rules here. Engines: `local.py` (in the process), `kafka/` (a deployment).
The words are Kafka's: a *stored* offset is the one in the store's transaction, a *committed* offset
is the consumer group's, for lag displays only.

In all engines a task waits for a state in one way: `while not STATE: await LOT.park()`, and whoever changes the state
unparks them. A trio.Event is for what happens once.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar, runtime_checkable

import trio

from matyan._codec import format_timestamp
from matyan.broker.budget import Budget
from matyan.errors import InvalidRecord
from matyan.store.base import Transaction

Id = TypeVar("Id", int, str)

_YEARS_US = -62_135_596_800_000_000, 253_402_300_799_999_999
"""Years 1 to 9999 in microseconds since the epoch: what ISO 8601 has four digits for."""

DeliveryCallback = Callable[[Exception | None], None]


class Producer(Protocol):
    """Takes frames of records for one topic. All calls come from the trio thread."""

    budget: Budget
    """Where it counts what is queued; whoever feeds it counts there too (MATYAN_QUEUE_BYTES)."""

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        """Hands over all `values` with one `key`, in order, or none of them.

        `on_done(None)` is called once, in the trio thread, when every one is delivered (Kafka: acks
        from all in-sync replicas; local: committed in the store); `on_done(error)` when they were given up,
        or were dropped because their run is deleted (local: NotFound).
        A callback and not an awaitable: it writes the reply at once, without waking a task a frame.

        Raises:
            QueueFull: the budget of bytes is used up; nothing was handed over. The budget tells when there is room.
        """
        ...

    async def coalesce(self) -> None:
        """To be awaited after each burst of frames, before more are read. It returns at once; or a few milliseconds
        later, where single frames would wait for each other anyway and are cheaper to read in one burst."""
        ...

    @property
    def queued_bytes(self) -> int:
        """Bytes that are handed over and not delivered."""
        ...

    def fatal(self) -> str | None:
        """Why this producer can never deliver again, or None."""
        ...

    async def flush(self, deadline: float) -> int:
        """Waits until all is delivered or trio.current_time() >= deadline; returns the records left."""
        ...


@dataclass(slots=True)
class Batch:
    """Consecutive records of one partition, in the log's order."""

    offsets: Sequence[int]
    keys: Sequence[bytes | None]
    values: Sequence[bytes]
    next_offset: int
    """The offset after the last record; offsets in between may be missing (compaction, transactions)."""

    def __len__(self) -> int:
        return len(self.values)


class Partition(Protocol):
    """One partition while this consumer owns it."""

    topic: str
    topic_id: str
    """Kafka's topic id as text, or "local"."""
    partition: int

    async def start(self, stored: int | None) -> int:
        """Seeks to the stored offset, or where the consumer group stands when there is none; returns it.

        Raises:
            OffsetConflict: the stored offset is beyond the end, or behind one that another program committed.
            Unavailable: the broker does not answer.
        """
        ...

    def batches(self) -> AsyncIterator[Batch]:
        """Batches by bytes and age, from the started position on; ends when the partition is revoked or drained."""
        ...

    def committed(self, next_offset: int) -> None:
        """The store has committed everything below `next_offset`: acknowledge (local), commit the offset (Kafka)."""
        ...

    def pause(self) -> None:
        """The caller backs off; the consumer goes on polling (counted as paused seconds)."""
        ...

    def resume(self) -> None: ...

    @property
    def revoked(self) -> trio.Event:
        """Set when the partition is leaving: finish the batch at hand, start no other."""
        ...


@runtime_checkable
class Answering(Protocol):
    """A partition whose producers wait for the store, and so can be told what it did not take."""

    def dropped(self, run: str, first: int) -> None:
        """The run is deleted: its records from the offset `first` on are not stored. Called before `committed`."""
        ...


class Consumer(Protocol):
    """A member of one consumer group on one topic."""

    def partitions(
        self,
    ) -> AbstractAsyncContextManager[AsyncIterator[AbstractAsyncContextManager[Partition]]]:
        """Yields each partition as it is assigned; its inner context is left when the owner is through with it.

        The consumer answers a revocation only when that partition's context was left, or at its deadline.
        """
        ...


@dataclass(frozen=True, slots=True)
class ControlEvent:
    """A row of the contract's table of control events."""

    type: str
    timestamp: float
    """Epoch seconds: the causing record's timestamp, so that a repeat is byte-identical."""
    payload: dict[str, object]

    def to_bytes(self) -> bytes:
        """The record of the topic control-events (contract, section 3)."""
        # With its offset from UTC a record's timestamp can lie behind the year 9999.
        first, last = _YEARS_US
        moment = min(max(round(self.timestamp * 1e6), first), last)
        record = {
            "type": self.type,
            "timestamp": format_timestamp(moment).decode(),
            "payload": self.payload,
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, value: bytes) -> ControlEvent:
        """The inverse of `to_bytes`, for the reference's records too.

        Raises:
            InvalidRecord: not such a record.
        """
        try:
            record = json.loads(value)
            kind, payload = record["type"], record["payload"]
            moment = datetime.fromisoformat(record["timestamp"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise InvalidRecord(f"not a control event: {error!r}") from error
        if not isinstance(kind, str) or not isinstance(payload, dict):
            raise InvalidRecord("not a control event: type must be a string and payload an object")
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return cls(kind, moment.timestamp(), payload)


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A record that can never be applied, with what the headers of the contract name."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes
    error_class: str
    error_text: str


@dataclass(frozen=True, slots=True)
class StandingLetter(Generic[Id]):
    """A dead letter as it stands in the store or in its topic."""

    id: Id
    """Its number in the store; TOPIC/PARTITION/OFFSET on Kafka."""
    letter: DeadLetter
    version: str
    """The program's version that gave the record up."""
    time: float
    """When it did, in epoch seconds."""
    cut_from: int | None = None
    """The record's bytes, where the letter holds only its beginning: its topic takes no larger one."""

    def row(self) -> dict[str, Any]:
        """What a list shows of it: all but its bytes."""
        letter = self.letter
        run, kind = _names_in(letter.value)
        return {
            "id": self.id,
            "topic": letter.topic,
            "partition": letter.partition,
            "offset": letter.offset,
            "run": run,
            "type": kind,
            "size": len(letter.value) if self.cut_from is None else self.cut_from,
            "error_class": letter.error_class,
            "error_text": letter.error_text,
            "version": self.version,
            "time": self.time,
        }


def _names_in(record: bytes) -> tuple[str | None, str | None]:
    """Run and type of a record, as far as it can be read: it may be broken."""
    try:
        body = json.loads(record)
    except (ValueError, RecursionError):
        return None, None
    if not isinstance(body, dict):
        return None, None
    run, kind = body.get("run_id"), body.get("type")
    return _text(run), _text(kind)


def _text(value: object) -> str | None:
    # JSON can name a lone surrogate, which no answer can carry.
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


class Outbox(Protocol):
    """Where a worker's side effects go, so that a crash repeats them instead of losing them.

    Kafka delivers them before the transaction; the local broker writes them inside it.
    """

    async def before(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        """Called before the transaction; returns when they are durable.

        Raises:
            Unavailable: try again.
        """
        ...

    def within(
        self,
        tr: Transaction,
        events: Sequence[ControlEvent],
        dead: Sequence[DeadLetter],
        offsets: Sequence[int] = (),
    ) -> None:
        """Called inside the transaction, may run again with it. `offsets`: the records that it settles."""
        ...
