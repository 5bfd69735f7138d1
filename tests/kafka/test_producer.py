"""The producer against a real broker."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import trio
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource

from dev.broker import Broker
from matyan._codec import murmur2
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.producer import KafkaProducer, open_producer
from matyan.errors import QueueFull, RecordsRefused, Unavailable
from matyan.settings import Settings, load
from tests.kafka.topics import read_topic
from tests.until import until

CAPACITY = 256 << 20


class Replies:
    """What on_done was called with, frame by frame, in order."""

    def __init__(self) -> None:
        self.all: list[tuple[int, Exception | None]] = []

    def of(self, frame: int) -> Callable[[Exception | None], None]:
        return lambda error: self.all.append((frame, error))

    async def wait_for(self, count: int, seconds: float = 30) -> None:
        await until(lambda: len(self.all) >= count, seconds)


def frame(run: int, number: int, records: int) -> list[bytes]:
    return [b"%d/%d/%d" % (run, number, index) for index in range(records)]


async def test_frames_arrive_whole_and_in_order(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """Each frame is acknowledged once, and a key's records stand in one partition in the order of their frames."""
    topic, replies = make_topic(6), Replies()
    async with open_producer(producer_config(settings), topic, CAPACITY) as producer:
        for number in range(50):
            for run in range(20):
                producer.produce(b"run-%d" % run, frame(run, number, 7), replies.of(number))
        await replies.wait_for(1000)
        assert producer.queued_bytes == 0
        assert await producer.flush(trio.current_time()) == 0
    assert {error for _, error in replies.all} == {None}
    by_key: dict[bytes, list[bytes]] = {}
    partitions: dict[bytes, set[int]] = {}
    for message in read_topic(broker, topic):
        by_key.setdefault(message.key(), []).append(message.value())
        partitions.setdefault(message.key(), set()).add(message.partition())
    for run in range(20):
        key = b"run-%d" % run
        assert by_key[key] == [value for n in range(50) for value in frame(run, n, 7)]
        assert len(partitions[key]) == 1


async def test_partition_is_murmur2(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """A run lands where Kafka's Java client puts it: (murmur2(key) & 0x7fffffff) % partitions."""
    topic, replies = make_topic(6), Replies()
    async with open_producer(producer_config(settings), topic, CAPACITY) as producer:
        for run in range(100):
            producer.produce(b"run-%d" % run, [b"x"], replies.of(run))
        await replies.wait_for(100)
    for message in read_topic(broker, topic):
        assert message.partition() == (murmur2(message.key()) & 0x7FFFFFFF) % 6


def key_in(partition: int) -> bytes:
    """A run of this partition of six."""
    keys = (b"run-%d" % run for run in range(1_000))
    return next(key for key in keys if (murmur2(key) & 0x7FFFFFFF) % 6 == partition)


async def test_what_librdkafka_would_not_send_stays(own_broker: Broker) -> None:
    """Behind unanswered records of its partition a frame waits here, those of other partitions go; not for ever, and in order."""
    settings = load({"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap})
    topic, replies = "data-ingestion", Replies()
    async with open_producer(producer_config(settings), topic, CAPACITY, lambda: 6) as producer:
        producer.produce(key_in(0), frame(0, 0, 10), replies.of(0))
        producer.produce(key_in(1), frame(1, 5, 1), replies.of(5))
        await replies.wait_for(2)
        own_broker.freeze()
        for number in (1, 2, 3):
            producer.produce(key_in(0), frame(0, number, 10), replies.of(number))
        producer.produce(key_in(1), frame(1, 4, 7), replies.of(4))
        await until(lambda: len(producer._rd) == 17, 5)
        await until(lambda: len(producer._rd) == 37, 5)
        own_broker.thaw()
        await replies.wait_for(6)
    # What a client that failed had sent without an answer may stand there twice.
    values = dict.fromkeys((one.key(), one.value()) for one in read_topic(own_broker, topic))
    ordered = [value for n in range(4) for value in frame(0, n, 10)]
    assert [value for key, value in values if key == key_in(0)] == ordered
    assert [value for key, value in values if key == key_in(1)] == [
        *frame(1, 5, 1),
        *frame(1, 4, 7),
    ]
    assert [error for _, error in replies.all] == [None] * 6


async def test_a_partition_begins_with_one_record_alone(own_broker: Broker) -> None:
    """Nothing else of it is handed over before that has its answer; those of other partitions go, and the rest follows."""
    settings = load({"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap})
    topic, replies = "data-ingestion", Replies()
    async with open_producer(producer_config(settings), topic, CAPACITY, lambda: 6) as producer:
        producer.produce(key_in(1), frame(1, 0, 1), replies.of(0))
        await replies.wait_for(1)
        own_broker.freeze()
        for number in (1, 2, 3):
            producer.produce(key_in(0), frame(0, number, 10), replies.of(number))
        producer.produce(key_in(1), frame(1, 4, 7), replies.of(4))
        await trio.sleep(1)
        assert len(producer._rd) == 8
        own_broker.thaw()
        await replies.wait_for(5)
    values = [(one.key(), one.value()) for one in read_topic(own_broker, topic)]
    ordered = [value for n in (1, 2, 3) for value in frame(0, n, 10)]
    assert [value for key, value in values if key == key_in(0)] == ordered


async def test_a_run_s_order_is_kept_when_partitions_are_added(own_broker: Broker) -> None:
    """A frame that stays holds up those of its run that seem to be of another partition by now."""
    settings = load({"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap})
    topic, replies, count = "data-ingestion", Replies(), 6
    key = key_in(0)
    assert (murmur2(key) & 0x7FFFFFFF) % 7 != 0
    async with open_producer(producer_config(settings), topic, CAPACITY, lambda: count) as producer:
        producer.produce(key, frame(0, 0, 10), replies.of(0))
        await replies.wait_for(1)
        own_broker.freeze()
        for number in range(1, 10):
            count = 6 if number < 4 else 7
            producer.produce(key, frame(0, number, 10), replies.of(number))
        await until(lambda: len(producer._rd) == 90, 5)
        own_broker.thaw()
        await replies.wait_for(10)
    # What a client that failed had sent without an answer may stand there twice.
    values = dict.fromkeys(message.value() for message in read_topic(own_broker, topic))
    assert [*values] == [value for n in range(10) for value in frame(0, n, 10)]


async def test_full_queue_takes_nothing_and_says_when_there_is_room(own_broker: Broker) -> None:
    """With the broker frozen the budget fills, a frame over it is refused whole, and room is told once it thaws."""
    settings = load({"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap})
    replies, room = Replies(), trio.Event()
    async with open_producer(producer_config(settings), "data-ingestion", 200_000) as producer:
        producer.budget.on_room(room.set)
        producer.produce(b"run", [b"first"], replies.of(0))
        await replies.wait_for(1)
        own_broker.freeze()
        for number in range(1, 10):
            producer.produce(b"run", [b"x" * 10_000], replies.of(number))
        with pytest.raises(QueueFull, match="of 200,000 bytes"):
            producer.produce(b"run", [b"x" * 10_000], replies.of(10))
        before = producer.queued_bytes
        assert 180_000 < before <= 200_000
        assert not room.is_set()
        own_broker.thaw()
        with trio.fail_after(30):
            await room.wait()
        await replies.wait_for(10)
    assert [number for number, _ in replies.all] == list(range(10))
    assert len(read_topic(own_broker, "data-ingestion")) == 10


async def test_broker_killed_and_restarted(own_broker: Broker) -> None:
    """What was handed over before, during and after the broker's absence is delivered once, in order."""
    settings = load({"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap})
    replies = Replies()
    async with open_producer(producer_config(settings), "data-ingestion", CAPACITY) as producer:

        async def load_it() -> None:
            for number in range(300):
                producer.produce(b"run", frame(0, number, 10), replies.of(number))
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(load_it)
            await trio.sleep(1)
            own_broker.kill()
            await trio.sleep(1)
            await trio.to_thread.run_sync(own_broker.start)
        await replies.wait_for(300)
    assert replies.all == [(number, None) for number in range(300)]
    values = [message.value() for message in read_topic(own_broker, "data-ingestion")]
    assert values == [value for number in range(300) for value in frame(0, number, 10)]


async def test_delivery_timeout_gives_up_with_the_reason(own_broker: Broker) -> None:
    """A frame that could not be delivered in MATYAN_DELIVERY_TIMEOUT_S ends with an error, and its bytes are free."""
    settings = load(
        {"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap, "MATYAN_DELIVERY_TIMEOUT_S": "2"}
    )
    replies = Replies()
    async with open_producer(producer_config(settings), "data-ingestion", CAPACITY) as producer:
        producer.produce(b"run", [b"first"], replies.of(0))
        await replies.wait_for(1)
        own_broker.kill()
        producer.produce(b"run", [b"lost", b"too"], replies.of(1))
        assert await producer.flush(trio.current_time() + 0.2) == 2
        await replies.wait_for(2)
        assert producer.queued_bytes == 0
        assert producer.fatal() is None
    error = replies.all[1][1]
    assert isinstance(error, Unavailable)
    assert "2 of 2 records" in str(error)


def limit_messages(broker: Broker, topic: str, size: int) -> None:
    """Sets the topic's max.message.bytes."""
    set_topic(broker, topic, "max.message.bytes", str(size))


def set_topic(broker: Broker, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)


async def test_fatal_error_replaces_the_client(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """After a fatal error another client delivers every record that the first did not, once and in order; while
    none of them delivers anything, live is red."""
    topic, replies = make_topic(1), Replies()
    async with open_producer(producer_config(settings), topic, CAPACITY) as producer:
        await deliver_through_a_refusal(producer, replies, broker, topic)
    values = [message.value() for message in read_topic(broker, topic)]
    assert values == [v for n in range(200) for v in frame(0, n, 5)]


async def deliver_through_a_refusal(
    producer: KafkaProducer, replies: Replies, broker: Broker, topic: str
) -> None:
    for number in range(100):
        producer.produce(b"run", frame(0, number, 5), replies.of(number))
    await replies.wait_for(100)
    # Whatever a client sends when it has connected is older than that: a refusal that is fatal, at will.
    limit = "message.timestamp.before.max.ms"
    await trio.to_thread.run_sync(set_topic, broker, topic, limit, "0")
    for number in range(100, 200):
        producer.produce(b"run", frame(0, number, 5), replies.of(number))
        if number % 20 == 0:
            await trio.sleep(0.05)
    await until(lambda: producer.fatal() is not None, 60)
    assert "GAPLESS" in (producer.fatal() or "")
    assert producer.refusal() is None
    await trio.to_thread.run_sync(set_topic, broker, topic, limit, "9223372036854775807")
    await replies.wait_for(200, 90)
    assert {error for _, error in replies.all} == {None}
    assert producer.fatal() is None
    assert producer.queued_bytes == 0


async def open_lane(producer: KafkaProducer) -> None:
    """The first record of the run `run`, which goes alone, is delivered."""
    replies = Replies()
    producer.produce(b"run", [b"opens"], replies.of(0))
    await replies.wait_for(1)


async def test_frames_wait_together_until_they_fill_a_request(
    settings: Settings, make_topic: Callable[..., str]
) -> None:
    """64 KiB of what goes over the wire: two frames of 100 messages of today's SDK. But the first few do not wait."""
    replies, values = Replies(), [b"%0270d" % number for number in range(100)]
    async with open_producer(producer_config(settings), make_topic(1), CAPACITY) as producer:
        await open_lane(producer)
        for number in range(4):
            producer.produce(b"run", [b"x"], replies.of(number))
        producer.produce(b"run", values, replies.of(4))
        assert len(producer._rd) < 100  # the first records, or what librdkafka has to tell of them
        producer.produce(b"run", values, replies.of(5))
        assert len(producer._rd) > 100
        await replies.wait_for(6)
    assert replies.all == [(number, None) for number in range(6)]


async def test_trio_is_woken_once_a_poll(
    settings: Settings, make_topic: Callable[..., str]
) -> None:
    """2,000 frames of one burst cost a few entries into the trio loop, not one each."""
    replies = Replies()
    async with open_producer(producer_config(settings), make_topic(6), CAPACITY) as producer:
        turns = 0
        finish = producer._finish

        def counted() -> None:
            nonlocal turns
            turns += 1
            finish()

        producer._finish = counted
        started = time.monotonic()
        for run in range(2_000):
            producer.produce(b"run-%d" % run, [b"x"], replies.of(run))
        await replies.wait_for(2_000)
        assert turns < 400, f"{turns} in {time.monotonic() - started:.2f} s"


async def test_a_large_frame_is_handed_over_in_slices(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """The loop turns in between, and what comes behind it on its connection stays behind it."""
    topic, replies = make_topic(3), Replies()
    values = [b"%02d" % number + b"x" * 900_000 for number in range(90)]
    many = frame(0, 2, 10_000)
    async with open_producer(producer_config(settings), topic, CAPACITY) as producer:
        await open_lane(producer)
        producer.produce(b"run", values, replies.of(0))
        producer.produce(b"run", [b"behind"], replies.of(1))
        producer.produce(b"run", many, replies.of(2))
        turns = 0
        while producer._gathered:
            await trio.lowlevel.checkpoint()
            turns += 1
        assert turns > 20
        await replies.wait_for(3, 60)
        assert producer.queued_bytes == 0
    assert replies.all == [(0, None), (1, None), (2, None)]
    found = [message.value() for message in read_topic(broker, topic)]
    assert found == [b"opens", *values, b"behind", *many]


async def test_a_frame_that_is_handed_over_in_part_goes_on_with_the_next_client(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """The client is replaced between two slices: all is delivered once, in order."""
    topic, replies = make_topic(1), Replies()
    values = [b"%02d" % number + b"x" * 900_000 for number in range(60)]
    async with open_producer(producer_config(settings), topic, CAPACITY) as producer:
        await open_lane(producer)
        producer.produce(b"run", values, replies.of(0))
        producer.produce(b"run", [b"behind"], replies.of(1))
        await trio.lowlevel.checkpoint()
        assert producer._gathered
        first = producer._rd
        producer._replace_soon()
        producer._replacing = True
        await replies.wait_for(2, 60)
        assert producer._rd is not first
    assert replies.all == [(0, None), (1, None)]
    assert [message.value() for message in read_topic(broker, topic)] == [
        b"opens",
        *values,
        b"behind",
    ]


async def test_a_frame_between_two_slices_goes_on_though_its_partition_was_quiet_for_long(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """Its answer frees the partition, so it must not wait for that."""
    topic, replies = make_topic(1), Replies()
    values = frame(0, 0, 5_000)
    async with open_producer(producer_config(settings), topic, CAPACITY) as producer:
        await open_lane(producer)
        producer.produce(b"run", values, replies.of(0))
        (lane,) = producer._gathered
        lane.open_until = 0.0
        await replies.wait_for(1)
    assert [message.value() for message in read_topic(broker, topic)] == [b"opens", *values]


async def test_who_hears_that_a_frame_was_given_up_may_send_another_one(
    own_broker: Broker,
) -> None:
    """At once, in the same partition, and one that the client refuses at once."""
    settings = load(
        {"KAFKA_BOOTSTRAP_SERVERS": own_broker.bootstrap, "MATYAN_DELIVERY_TIMEOUT_S": "4"}
    )
    replies, large = Replies(), bytes(20_000)
    config = {**producer_config(settings), "message.max.bytes": 10_000}
    async with open_producer(config, "data-ingestion", CAPACITY) as producer:
        producer.produce(b"other", [b"connects"], replies.of(0))
        await replies.wait_for(1)
        own_broker.freeze()

        def send_another(error: Exception | None) -> None:
            replies.of(1)(error)
            producer.produce(b"run", [large, b"small"], replies.of(2))

        producer.produce(b"run", [b"lost"], send_another)
        await replies.wait_for(2)
        own_broker.thaw()
        await replies.wait_for(3)
        assert producer.queued_bytes == 0
    assert isinstance(replies.all[1][1], Unavailable)
    assert isinstance(replies.all[2][1], RecordsRefused)


async def test_an_error_of_the_block_comes_out_as_it_is(settings: Settings) -> None:
    with pytest.raises(QueueFull, match=r"^mine$"):
        async with open_producer(producer_config(settings), "data-ingestion", CAPACITY):
            raise QueueFull("mine")


async def test_an_error_of_its_task_ends_the_block(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And is the caller's to handle: it does not end trio's whole run as an internal error."""

    async def keep_no_time(producer: KafkaProducer) -> None:
        raise ArithmeticError("no time")

    monkeypatch.setattr(KafkaProducer, "keep_time", keep_no_time)
    with trio.fail_after(30), pytest.raises(ArithmeticError, match="no time"):
        async with open_producer(producer_config(settings), "data-ingestion", CAPACITY):
            await trio.sleep_forever()
