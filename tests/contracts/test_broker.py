"""What every broker engine promises. An engine joins as a `Harness` in `harness`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
import trio

from matyan.broker.base import Batch, Consumer, Partition, Producer
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
from matyan.broker.kafka.producer import open_producer
from matyan.broker.local import LocalBroker
from matyan.errors import QueueFull
from matyan.keys import Keys
from matyan.store.rocks import open_rocks

CAPACITY = 1_000_000


@dataclass
class Harness:
    """A topic of one partition, and ways to take part in it."""

    producer: Producer
    consumer: Callable[[], Consumer]


@pytest.fixture(params=["local", "kafka"])
async def harness(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Harness]:
    if request.param == "kafka":
        settings = request.getfixturevalue("settings")
        topic = request.getfixturevalue("make_topic")()
        async with open_producer(producer_config(settings), topic, CAPACITY, lambda: 1) as producer:
            config = consumer_config(settings, f"group-{topic}")
            yield Harness(producer, lambda: KafkaConsumer(config, topic))
        return
    store = open_rocks(tmp_path_factory.mktemp("store"))
    broker = LocalBroker(Keys(store), CAPACITY)
    yield Harness(broker.producer(), broker.ingest_consumer)
    await store.aclose()


@asynccontextmanager
async def own(consumer: Consumer) -> AsyncIterator[Partition]:
    """The first partition that is assigned, held until the block is left."""
    async with consumer.partitions() as assigned, await anext(assigned) as partition:
        yield partition


async def take(partition: Partition, records: int) -> list[Batch]:
    """Batches until they hold so many records; commits nothing."""
    taken: list[Batch] = []
    batches = partition.batches()
    with trio.fail_after(60):
        while sum(map(len, taken)) < records:
            taken.append(await anext(batches))
    return taken


def values(batches: list[Batch]) -> list[bytes]:
    return [value for batch in batches for value in batch.values]


class Delivery:
    """A callback that keeps what it was called with."""

    def __init__(self) -> None:
        self.results: list[Exception | None] = []

    def __call__(self, error: Exception | None) -> None:
        self.results.append(error)


async def test_records_arrive_once_in_order_with_their_keys(harness: Harness) -> None:
    """Frames come out in the order in which they went in; offsets ascend up to next_offset."""
    done = Delivery()
    async with own(harness.consumer()) as partition:
        first = await partition.start(None)
        for i in range(50):
            harness.producer.produce(
                b"run-%d" % (i % 3), [b"%d-%d" % (i, j) for j in range(4)], done
            )
        batches = await take(partition, 200)
        partition.committed(batches[-1].next_offset)
        assert values(batches) == [b"%d-%d" % (i, j) for i in range(50) for j in range(4)]
        keys = [key for batch in batches for key in batch.keys]
        assert keys == [b"run-%d" % (i % 3) for i in range(50) for j in range(4)]
        offsets = [offset for batch in batches for offset in batch.offsets]
        assert offsets == sorted(set(offsets))
        assert offsets[0] >= first
        assert all(batch.offsets[-1] < batch.next_offset for batch in batches)
        assert await harness.producer.flush(trio.current_time() + 60) == 0
    assert done.results == [None] * 50
    assert harness.producer.queued_bytes == 0


async def test_what_was_not_committed_comes_again_from_the_stored_offset(harness: Harness) -> None:
    """The next owner that starts at the stored offset gets everything from there, with the same offsets."""
    for i in range(10):
        harness.producer.produce(b"run", [b"%d" % i], Delivery())
    async with own(harness.consumer()) as partition:
        await partition.start(None)
        first = await take(partition, 10)
        offsets = [offset for batch in first for offset in batch.offsets]
        stored = offsets[4]
    async with own(harness.consumer()) as partition:
        assert await partition.start(stored) == stored
        harness.producer.produce(b"run", [b"10"], Delivery())
        again = await take(partition, 7)
        assert values(again) == [b"%d" % i for i in range(4, 11)]
        assert [offset for batch in again for offset in batch.offsets][:6] == offsets[4:]
        partition.committed(again[-1].next_offset)


async def test_the_budget_is_kept_and_room_is_announced(harness: Harness) -> None:
    """A frame that does not fit is refused whole, and one call says when there is room again."""
    producer = harness.producer
    room, done = trio.Event(), Delivery()
    producer.budget.on_room(room.set)
    frames = 0
    while not producer.budget.held + 61_000 > producer.budget.capacity:
        producer.produce(b"run", [b"x" * 30_000], done)
        frames += 1
    with pytest.raises(QueueFull):
        producer.produce(b"run", [b"x" * 61_000], done)
    assert producer.queued_bytes == producer.budget.held
    assert producer.queued_bytes >= frames * 30_000
    assert not room.is_set()
    async with own(harness.consumer()) as partition:
        await partition.start(None)
        batches = await take(partition, frames)
        partition.committed(batches[-1].next_offset)
        with trio.fail_after(60):
            await room.wait()
        producer.produce(b"run", [b"after"], done)
        (batch,) = await take(partition, 1)
        assert batch.values == [b"after"]
        partition.committed(batch.next_offset)
        assert await producer.flush(trio.current_time() + 60) == 0
    assert done.results == [None] * (frames + 1)


async def test_waiting_for_records_can_be_given_up(harness: Harness) -> None:
    """Cancelling a wait loses nothing: the records that come later are given to who asks next."""
    async with own(harness.consumer()) as partition:
        await partition.start(None)
        with trio.move_on_after(0.05) as scope:
            await anext(partition.batches())
        assert scope.cancelled_caught
        harness.producer.produce(b"run", [b"late"], Delivery())
        (batch,) = await take(partition, 1)
        assert batch.values == [b"late"]
        partition.committed(batch.next_offset)


async def test_pausing_and_resuming_loses_nothing(harness: Harness) -> None:
    """What is produced while a partition stands paused is there after it was resumed."""
    async with own(harness.consumer()) as partition:
        await partition.start(None)
        partition.pause()
        harness.producer.produce(b"run", [b"meanwhile"], Delivery())
        partition.resume()
        (batch,) = await take(partition, 1)
        assert batch.values == [b"meanwhile"]
        partition.committed(batch.next_offset)


async def test_a_healthy_producer_names_no_fatal_error(harness: Harness) -> None:
    """fatal() is None, and an empty queue flushes at once."""
    assert harness.producer.fatal() is None
    assert await harness.producer.flush(trio.current_time()) == 0
