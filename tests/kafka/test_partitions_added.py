"""Partitions are added to a topic while records wait and producers of both counts are at work, on a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import trio
from confluent_kafka.admin import AdminClient, NewPartitions

from dev.broker import Broker
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.producer import KafkaProducer, open_producer
from matyan.rules.sequences import Layout, Sequences
from matyan.settings import Settings
from matyan.store.base import Snapshot
from tests.kafka.crew import Crew, OpenStore, open_crew, open_store
from tests.kafka.topics import read_topic
from tests.ledger import metric
from tests.until import until

__all__ = ["open_store"]

RUNS = [f"run-{n}" for n in range(12)]
FRAME = 5


async def add_partitions(broker: Broker, topic: str, count: int) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})

    def add() -> None:
        admin.create_partitions([NewPartitions(topic, count)])[topic].result(10)
        while len(admin.list_topics(topic, timeout=10).topics[topic].partitions) < count:
            pass

    await trio.to_thread.run_sync(add)


class Steps:
    """Points of each run, one step after the other, whoever of several producers sends them."""

    def __init__(self) -> None:
        self.sent = 0

    def frame(self, producer: KafkaProducer) -> None:
        for run in RUNS:
            steps = range(self.sent, self.sent + FRAME)
            values = [metric("loss", float(step), step, run) for step in steps]
            producer.produce(run.encode(), values, lambda error: None)
        self.sent += FRAME

    async def wrong(self, crew: Crew, layout: Layout) -> list[str]:
        """What is not stored as it was sent."""
        sequences = Sequences(crew.keys, layout)
        wanted = [(step, float(step)) for step in range(self.sent)]

        def look(snap: Snapshot) -> list[str]:
            found = []
            for run in RUNS:
                blocks = sequences.points(snap, run, 0, "loss")
                stored = [row[:2] for block in blocks for row in block.rows()]
                last = [(info.last_step, info.last) for info in sequences.sequences(snap, run)]
                if stored != wanted:
                    found.append(f"{run}: {len(stored)} of {len(wanted)} points")
                elif last != [(self.sent - 1, float(self.sent - 1))]:
                    found.append(f"{run}: last {last}")
            return found

        return await crew.store.read(look)


@pytest.mark.parametrize("layout", ["packed", "compatible"])
async def test_partitions_that_are_added_cost_no_point(
    settings: Settings,
    broker: Broker,
    make_topic: Callable[..., str],
    open_store: OpenStore,
    layout: Layout,
) -> None:
    """From 6 to 12: records wait in the old ones, some producers know of the new ones and some do not yet."""
    topic, steps = make_topic(6), Steps()
    config = producer_config(settings)
    async with open_producer(config, topic, 64 << 20) as knows_six:
        for _ in range(20):
            steps.frame(knows_six)
        assert await knows_six.flush(trio.current_time() + 60) == 0
        await add_partitions(broker, topic, 12)
        async with (
            open_producer(config, topic, 64 << 20) as knows_twelve,
            open_crew(settings, topic, open_store, layout=layout) as crew,
        ):
            await crew.start("one")
            await crew.start("two")
            for turn in range(60):
                for producer in (knows_six, knows_twelve):
                    steps.frame(producer)
                await trio.sleep(0.05 if turn % 10 else 0.3)
            for producer in (knows_six, knows_twelve):
                assert await producer.flush(trio.current_time() + 60) == 0

            async def is_well() -> bool:
                return not await steps.wrong(crew, layout)

            with trio.move_on_after(60):
                await until(is_well, 60)
            assert await steps.wrong(crew, layout) == []
    places: dict[str, set[int | None]] = {}
    for message in await trio.to_thread.run_sync(read_topic, broker, topic):
        places.setdefault((message.key() or b"").decode(), set()).add(message.partition())
    assert any(len(partitions) > 1 for partitions in places.values())
