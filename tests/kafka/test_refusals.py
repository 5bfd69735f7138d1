"""A broker that answers and refuses: what it may take later is kept as while it is away, and in its order."""

from __future__ import annotations

import os
import uuid

import trio
from confluent_kafka.admin import AdminClient

from dev.broker import Broker
from matyan._codec import murmur2
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.producer import KafkaProducer, open_producer
from matyan.errors import RecordsRefused, Unavailable
from matyan.settings import load
from tests.kafka.rules import TOPIC, WRITE, allow, deny, guarded_environment
from tests.kafka.test_producer import CAPACITY, Replies, frame, limit_messages
from tests.kafka.topics import create_topic, read_topic
from tests.until import until


def new_topic(broker: Broker, partitions: int = 3) -> str:
    name = f"t-{uuid.uuid4().hex[:12]}"
    create_topic(broker, name, partitions)
    return name


def delete_topic(broker: Broker, name: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for soon in admin.delete_topics([name]).values():
        soon.result(10)


async def produce_for(
    producer: KafkaProducer, replies: Replies, seconds: float, first: int = 0
) -> int:
    """Frames of five runs in turn, for so long; returns the next number."""
    end = trio.current_time() + seconds
    number = first
    while trio.current_time() < end:
        producer.produce(b"run-%d" % (number % 5), frame(number % 5, number, 3), replies.of(number))
        number += 1
        await trio.sleep(0.005)
    return number


def faults(broker: Broker, topic: str, count: int) -> list[str]:
    """What is wrong with the log, when each of `count` frames of `produce_for` must stand in it once, in its order."""
    found: dict[bytes, list[bytes]] = {}
    for message in read_topic(broker, topic):
        found.setdefault(message.key() or b"", []).append(message.value() or b"")
    wrong = []
    for run in range(5):
        wanted = [value for n in range(run, count, 5) for value in frame(run, n, 3)]
        got = found.get(b"run-%d" % run, [])
        if got != wanted:
            wrong.append(
                f"run {run}: {len(got)} of {len(wanted)}, missing {sorted(set(wanted) - set(got))[:5]}, "
                f"{len(got) - len(set(got))} twice"
            )
    return wrong


async def test_a_denied_write_is_waited_for(guarded_broker: Broker) -> None:
    """WRITE is denied in the midst of a load and allowed again: every frame is delivered once, each run's in order;
    meanwhile the producer says why, and is alive."""
    broker, replies = guarded_broker, Replies()
    topic = new_topic(broker)
    config = producer_config(load(guarded_environment(broker)))
    async with open_producer(config, topic, CAPACITY) as producer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_for, producer, replies, 8.0)
            await trio.sleep(1)
            await trio.to_thread.run_sync(deny, broker, TOPIC, topic, WRITE)
            await until(lambda: producer.refusal() is not None)
            assert "uthorization" in (producer.refusal() or "")
            await trio.sleep(4)
            assert producer.refusal() is not None
            assert producer.fatal() is None
            await trio.to_thread.run_sync(allow, broker, TOPIC, topic)
        await until(lambda: not producer.queued_bytes, 60)
        assert producer.refusal() is None
    assert {error for _, error in replies.all} == {None}
    assert faults(broker, topic, len(replies.all)) == []


async def test_a_write_that_stays_denied_is_given_up_in_time(guarded_broker: Broker) -> None:
    """After MATYAN_DELIVERY_TIMEOUT_S, with the broker's own reason; then nothing is left that is not ready."""
    broker, replies = guarded_broker, Replies()
    topic = new_topic(broker)
    deny(broker, TOPIC, topic, WRITE)
    env = guarded_environment(broker, MATYAN_DELIVERY_TIMEOUT_S="3")
    async with open_producer(producer_config(load(env)), topic, CAPACITY) as producer:
        producer.produce(b"run", frame(0, 0, 2), replies.of(0))
        await until(lambda: producer.refusal() is not None)
        assert replies.all == []
        producer.produce(b"run", frame(0, 1, 2), replies.of(1))
        await replies.wait_for(1)
        await replies.wait_for(2)
        assert producer.queued_bytes == 0
        assert producer.fatal() is None
        await until(lambda: producer.refusal() is None)
    assert [number for number, _ in replies.all] == [0, 1]
    for _, error in replies.all:
        assert isinstance(error, Unavailable)
        assert "uthorization" in str(error)


async def test_a_topic_that_is_deleted_and_made_again_is_waited_for(broker: Broker) -> None:
    """Longer than the client itself waits for a topic (30 s): nothing is given up, all that was not delivered before
    stands in the new one, in order."""
    replies, topic = Replies(), new_topic(broker)
    config = producer_config(load({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}))
    # The client's own patience, shortened: what follows from its end is what counts.
    config["topic.metadata.propagation.max.ms"] = 2_000
    async with open_producer(config, topic, CAPACITY) as producer:
        first = await produce_for(producer, replies, 0.5)
        await until(lambda: not producer.queued_bytes)
        await trio.to_thread.run_sync(delete_topic, broker, topic)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_for, producer, replies, 8.0, first)
            await until(lambda: producer.refusal() is not None)
            assert "topic" in (producer.refusal() or "")
            await trio.sleep(4)
            # Fewer partitions than before, too.
            await trio.to_thread.run_sync(create_topic, broker, topic, 2)
        await until(lambda: not producer.queued_bytes, 60)
    assert {error for _, error in replies.all} == {None}
    after: dict[bytes, list[int]] = {}
    for message in read_topic(broker, topic):
        number = int((message.value() or b"").split(b"/")[1])
        after.setdefault(message.key() or b"", []).append(number)
    last = len(replies.all)
    for run in range(5):
        numbers = after[b"run-%d" % run]
        assert numbers == sorted(numbers)
        assert set(range(first, last)[(run - first) % 5 :: 5]) <= set(numbers)


async def test_only_the_record_that_is_too_large_is_refused(broker: Broker) -> None:
    """max.message.bytes was lowered: neighbours in the batch, in the frame and in the run are delivered once and in
    order, and the error names the record."""
    replies, topic = Replies(), new_topic(broker)
    config = producer_config(load({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}))
    large = os.urandom(20_000)  # no compression makes it small
    async with open_producer(config, topic, CAPACITY) as producer:
        first = await produce_for(producer, replies, 0.3)
        await until(lambda: not producer.queued_bytes)
        await trio.to_thread.run_sync(limit_messages, broker, topic, 10_000)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_for, producer, replies, 3.0, first)
            for number in range(4):
                values = [b"before-%d" % number, large, b"after-%d" % number]
                producer.produce(b"mixed", values, replies.of(-number - 1))
                await trio.sleep(0.2)
        await until(lambda: not producer.queued_bytes, 60)
        assert producer.fatal() is None
    errors = {number: error for number, error in replies.all if error is not None}
    assert sorted(errors) == [-4, -3, -2, -1]
    for error in errors.values():
        assert isinstance(error, RecordsRefused)
        assert error.records == {large}
        assert "too large" in str(error)
    assert faults(broker, topic, len(replies.all) - 4) == []
    mixed = [one.value() for one in read_topic(broker, topic) if one.key() == b"mixed"]
    assert mixed == [b"%b-%d" % (w, n) for n in range(4) for w in (b"before", b"after")]


async def test_a_batch_that_is_too_large_together_is_delivered_apart(broker: Broker) -> None:
    """Each record fits, their batch does not: nothing is refused."""
    replies, topic = Replies(), new_topic(broker, 1)
    config = producer_config(load({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap}))
    limit_messages(broker, topic, 10_000)
    values = [os.urandom(6_000) for _ in range(30)]
    async with open_producer(config, topic, CAPACITY) as producer:
        for number in range(3):
            producer.produce(b"run", values[10 * number : 10 * number + 10], replies.of(number))
        await replies.wait_for(3, 60)
    assert replies.all == [(0, None), (1, None), (2, None)]
    assert [one.value() for one in read_topic(broker, topic)] == values


async def test_what_comes_behind_the_first_refused_batch_stays_behind_it(broker: Broker) -> None:
    """A broker accepts any first record of a producer that it doesn't know: a small frame on its way when the first batch of
    its partition is refused, because it is too large, must not stand before it."""
    topic, by_partition = new_topic(broker, 8), {}
    for number in range(100):
        key = b"run-%d" % number
        by_partition.setdefault((murmur2(key) & 0x7FFFFFFF) % 8, key)
    await trio.to_thread.run_sync(limit_messages, broker, topic, 10_000)
    config, replies = (
        producer_config(load({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap})),
        Replies(),
    )
    large = [os.urandom(6_000) for _ in range(3)]
    async with open_producer(config, topic, CAPACITY, lambda: 8) as producer:
        producer.produce(by_partition.pop(0), [b"connects"], replies.of(0))
        await replies.wait_for(1)
        for number, key in enumerate(by_partition.values(), 1):
            producer.produce(key, large, replies.of(number))
            await trio.sleep(0.0003 * number)  # so that it finds the first request on its way
            producer.produce(key, [b"last"], replies.of(number + 10))
            await replies.wait_for(2 * number + 1, 60)
    found: dict[bytes, list[bytes]] = {}
    for message in read_topic(broker, topic):
        found.setdefault(message.key() or b"", []).append(message.value() or b"")
    assert all(found[key] == [*large, b"last"] for key in by_partition.values())


async def test_what_is_refused_while_records_go_apart_keeps_its_place(
    guarded_broker: Broker,
) -> None:
    """A batch was too large, so records go one by one; WRITE is denied and allowed again and again in that time: every
    frame is delivered once, each run's in order, and only what is too large alone is refused."""
    broker, replies = guarded_broker, Replies()
    topic = new_topic(broker)
    large = os.urandom(20_000)
    await trio.to_thread.run_sync(limit_messages, broker, topic, 10_000)
    config = producer_config(load(guarded_environment(broker)))
    async with open_producer(config, topic, CAPACITY) as producer:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(produce_for, producer, replies, 6.0)
            for number in range(8):
                producer.produce(b"run-0-too", [b"a", large, b"b"], replies.of(-number - 1))
                await trio.sleep(0.2)
                await trio.to_thread.run_sync(deny, broker, TOPIC, topic, WRITE)
                await trio.sleep(0.1)
                await trio.to_thread.run_sync(allow, broker, TOPIC, topic)
        await until(lambda: not producer.queued_bytes, 60)
        assert producer.fatal() is None
    refused = {number: error for number, error in replies.all if error is not None}
    assert sorted(refused) == list(range(-8, 0))
    for error in refused.values():
        assert isinstance(error, RecordsRefused)
    assert faults(broker, topic, len(replies.all) - 8) == []
    small = [one.value() for one in read_topic(broker, topic) if one.key() == b"run-0-too"]
    assert small == [b"a", b"b"] * 8
