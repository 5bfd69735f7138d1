"""Workers of one consumer group on one store, which a test starts, stops, freezes and robs of their store.

RocksDB has one owner: the workers are tasks of this process, each with its own `KafkaConsumer` and `IngestWorker`, on
one open store, also where it is FoundationDB's. Its workers as processes: tests/cluster.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, TypeVar
from uuid import uuid4

import pytest
import trio
from confluent_kafka import Consumer as RdConsumer
from confluent_kafka import Message

from matyan.broker.kafka import consumer as kafka_consumer
from matyan.broker.kafka.admin import describe_topic, open_admin
from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
from matyan.broker.kafka.outbox import KafkaOutbox
from matyan.errors import Unavailable
from matyan.keys import Keys, range_of, unpack_value
from matyan.rules.records import Rules
from matyan.rules.sequences import Layout, Sequences, open_layout
from matyan.settings import Settings
from matyan.store.base import Snapshot, Store, Transaction
from matyan.store.rocks import open_rocks
from matyan.workers.ingest import IngestWorker
from tests import fdb
from tests.kafka.load import Load, Numbers, faults, stored_numbers
from tests.until import until

T = TypeVar("T")
B = TypeVar("B")
OpenStore = Callable[[], AbstractAsyncContextManager[Store]]

SESSION_S = 3.0
"""How long the group waits for a member that is silent."""


class Door:
    """The store as one worker sees it."""

    def __init__(self, store: Store) -> None:
        self.away = False
        self.waiting = 0
        """Calls that wait because the worker is frozen."""
        self.commits = 0
        self.within = 0
        """Transactions that have passed it and have not ended."""
        self._store = store
        self._thawed: trio.Event | None = None

    def freeze(self) -> None:
        self._thawed = trio.Event()

    def thaw(self) -> None:
        if self._thawed is not None:
            self._thawed.set()
            self._thawed = None

    async def _enter(self) -> None:
        if self.away:
            raise Unavailable("the store is away")
        if self._thawed is not None:
            self.waiting += 1
            await self._thawed.wait()
            self.waiting -= 1

    @property
    def is_shared(self) -> bool:
        return self._store.is_shared

    def directory(self, path: tuple[str, ...]) -> bytes:
        return self._store.directory(path)

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        return await self._let_through(self._store.transact, body)

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        return await self._let_through(self._store.transact_in_turns, body)

    async def _let_through(self, transact: Callable[[B], Awaitable[T]], body: B) -> T:
        await self._enter()
        self.within += 1
        try:
            outcome = await transact(body)
        finally:
            self.within -= 1
        self.commits += 1
        return outcome

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        await self._enter()
        return await self._store.read(body)

    async def aclose(self) -> None: ...


class _Client(RdConsumer):
    """A client whose polling can be frozen; its other threads go on, as in a process whose one thread hangs."""

    gates: ClassVar[dict[str, threading.Event]] = {}

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._gate = self.gates[config["client.id"]]

    def consume(self, *args: Any, **kwargs: Any) -> list[Message[bytes, bytes]]:
        self._gate.wait()
        return super().consume(*args, **kwargs)


class Member:
    def __init__(self, worker: IngestWorker, door: Door, polling: threading.Event) -> None:
        self.worker = worker
        self.door = door
        self.polling = polling
        self.ended = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.worker.run(task_status=task_status)
        self.ended.set()


class Crew:
    """Made by `open_crew`."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        store: Store,
        layout: Layout,
        nursery: trio.Nursery,
        consumer: dict[str, Any],
        worker: Callable[..., IngestWorker],
    ) -> None:
        self.members: dict[str, Member] = {}
        self.store = store
        self.keys = Keys(store)
        self.topic = topic
        self.group = f"group-{topic}"
        self._admin = open_admin(consumer_config(settings, self.group))
        self._settings = settings
        self._layout: Layout = layout
        self._nursery = nursery
        self._consumer = consumer
        self._worker = worker

    async def start(self, name: str) -> Member:
        config = consumer_config(self._settings, self.group) | {
            "client.id": f"{self.topic}-{name}",
            "session.timeout.ms": int(SESSION_S * 1_000),
            "heartbeat.interval.ms": 500,
            "max.poll.interval.ms": int(SESSION_S * 1_000),
        }
        polling = _Client.gates[config["client.id"]] = threading.Event()
        polling.set()
        door = Door(self.store)
        worker = self._worker(
            KafkaConsumer(config, self.topic, **self._consumer),
            door,
            self.keys,
            lambda: Rules(self.keys, Sequences(self.keys, self._layout)),
            KafkaOutbox(self._settings),
        )
        member = self.members[name] = Member(worker, door, polling)
        await self._nursery.start(member.run)
        return member

    async def stop(self, name: str) -> None:
        """As SIGTERM does: it drains and leaves the group."""
        member = self.members.pop(name)
        member.worker.stop()
        with trio.fail_after(60):
            await member.ended.wait()

    async def freeze(self, name: str) -> None:
        """As SIGSTOP does, in the moment before a commit: it neither polls nor gets on with the store."""
        member = self.members[name]
        member.door.freeze()
        await until(lambda: member.door.waiting, 60)
        member.polling.clear()

    def thaw(self, name: str) -> None:
        self.members[name].door.thaw()
        self.members[name].polling.set()

    def topic_id(self) -> str:
        return str(describe_topic(self._admin, self.topic).topic_id)

    async def stored_offsets(self, topic_id: str | None = None) -> dict[int, int]:
        """The stored offset of each partition of the topic that stands there now, or of an older one."""
        if topic_id is None:
            topic_id = await trio.to_thread.run_sync(self.topic_id)
        return await stored_offsets(self.store, topic_id)

    def keys_of_tags(self, run: str) -> tuple[bytes, bytes]:
        """The range of a run's tags."""
        return range_of(self.keys.run_tags_prefix(run))

    async def numbers(self, load: Load) -> Numbers:
        return await stored_numbers(self.store, load.produced, self._layout)

    async def faults(self, load: Load) -> list[str]:
        return faults(load.produced, await self.numbers(load))

    async def caught_up(self, load: Load, seconds: float = 90) -> None:
        """Returns when everything that was delivered by now is stored; what is wrong at the end is the error."""
        with suppress(TimeoutError):
            await until(lambda: self._is_well(load), seconds)
        assert await self.faults(load) == []

    async def _is_well(self, load: Load) -> bool:
        return not await self.faults(load)


async def stored_offsets(store: Store, topic_id: str) -> dict[int, int]:
    keys = Keys(store)

    def look(snap: Snapshot) -> dict[int, int]:
        found = {}
        for partition in range(6):
            packed = snap.get(keys.ingest(topic_id, partition))
            if packed is not None:
                found[partition] = int(unpack_value(packed))
        return found

    return await store.read(look)


@asynccontextmanager
async def rocks_store(folder: Path) -> AsyncIterator[Store]:
    """An empty store in a new folder of `folder`."""
    store = open_rocks(folder / uuid4().hex)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()


@pytest.fixture(params=["rocks", *fdb.ENGINES])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens empty stores of one engine."""
    return fdb.fdb_store if request.param == "fdb" else partial(rocks_store, tmp_path)


@asynccontextmanager
async def open_crew(
    settings: Settings,
    topic: str,
    open_store: OpenStore,
    *,
    layout: Layout = "packed",
    consumer: dict[str, Any] | None = None,
    worker: Callable[..., IngestWorker] = IngestWorker,
) -> AsyncIterator[Crew]:
    """A crew without members on a new store; those that run at the end are stopped.

    consumer: what `KafkaConsumer` is given besides. worker: the class of its workers.
    """
    kafka_consumer.RdConsumer, client = _Client, kafka_consumer.RdConsumer
    try:
        async with open_store() as store:
            await store.transact(
                lambda tr: open_layout(tr, Keys(store), layout, store.default_layout)
            )
            async with trio.open_nursery() as nursery:
                crew = Crew(settings, topic, store, layout, nursery, consumer or {}, worker)
                try:
                    yield crew
                finally:
                    for name in list(crew.members):
                        crew.thaw(name)
                for name in list(crew.members):
                    await crew.stop(name)
    finally:
        kafka_consumer.RdConsumer = client
