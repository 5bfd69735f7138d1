"""A topic of one partition in a list, and consumers of it that can be revoked and told to deliver again."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import trio

from matyan.broker.base import Batch, ControlEvent, DeadLetter, Partition
from matyan.errors import Unavailable
from matyan.store.base import Transaction


class Topic:
    topic = "data-ingestion"
    topic_id = "T"
    partition = 0

    def __init__(self, *values: bytes) -> None:
        self.values = list(values)
        self.news = trio.Event()

    def append(self, *values: bytes) -> None:
        self.values += values
        self.news.set()
        self.news = trio.Event()


class MemoryPartition:
    """Delivers from where it was started, or from `deliver_from` whatever it was told: a broker that repeats."""

    def __init__(self, log: Topic, batch: int, deliver_from: int | None) -> None:
        self.topic, self.topic_id, self.partition = log.topic, log.topic_id, log.partition
        self.revoked = trio.Event()
        self.starts: list[int | None] = []
        self.acknowledged: list[int] = []
        self.paused = False
        self.pauses = 0
        self._log = log
        self._batch = batch
        self._deliver_from = deliver_from
        self._position = 0

    async def start(self, stored: int | None) -> int:
        await trio.lowlevel.checkpoint()
        self.starts.append(stored)
        self._position = stored or 0
        if self._deliver_from is not None:
            self._position, self._deliver_from = self._deliver_from, None
        return self._position

    async def batches(self) -> AsyncIterator[Batch]:
        while not self.revoked.is_set():
            begin, end = self._position, min(self._position + self._batch, len(self._log.values))
            if begin < end:
                self._position = end
                values = self._log.values[begin:end]
                yield Batch(range(begin, end), [b"key"] * len(values), values, end)
            else:
                await self._log.news.wait()

    def committed(self, next_offset: int) -> None:
        self.acknowledged.append(next_offset)

    def pause(self) -> None:
        assert not self.paused
        self.paused = True
        self.pauses += 1

    def resume(self) -> None:
        assert self.paused
        self.paused = False


class MemoryConsumer:
    def __init__(
        self, log: Topic, *, batch: int = 1_000_000, deliver_from: int | None = None
    ) -> None:
        self.held = MemoryPartition(log, batch, deliver_from)
        self.was_left = False

    @asynccontextmanager
    async def partitions(
        self,
    ) -> AsyncIterator[AsyncIterator[AbstractAsyncContextManager[Partition]]]:
        yield self._assigned()

    async def _assigned(self) -> AsyncIterator[AbstractAsyncContextManager[Partition]]:
        yield self._hold()
        await trio.sleep_forever()

    @asynccontextmanager
    async def _hold(self) -> AsyncIterator[Partition]:
        try:
            yield self.held
        finally:
            self.was_left = True


class MemoryOutbox:
    """Delivers before the transaction, as Kafka does; fails as often as it is told to."""

    def __init__(self, fails: int = 0) -> None:
        self.events: list[ControlEvent] = []
        self.dead: list[DeadLetter] = []
        self.within_calls: list[tuple[Sequence[ControlEvent], Sequence[DeadLetter]]] = []
        self._fails = fails

    async def before(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        await trio.lowlevel.checkpoint()
        if self._fails:
            self._fails -= 1
            raise Unavailable("the broker is away")
        self.events += events
        self.dead += dead

    def within(
        self,
        tr: Transaction,
        events: Sequence[ControlEvent],
        dead: Sequence[DeadLetter],
        offsets: Sequence[int] = (),
    ) -> None:
        self.within_calls.append((events, dead))
