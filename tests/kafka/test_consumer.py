"""Where a partition starts, and what a worker sends beside its transaction, on a real broker."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from typing import Any

import pytest
import trio
from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient

from dev.broker import Broker
from matyan.broker.base import ControlEvent, DeadLetter, Partition
from matyan.broker.kafka import admin as kafka_admin
from matyan.broker.kafka import consumer as kafka_consumer
from matyan.broker.kafka.admin import Group, Place
from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
from matyan.broker.kafka.letters import open_letters
from matyan.broker.kafka.outbox import KafkaOutbox
from matyan.broker.kafka.producer import open_producer
from matyan.errors import OffsetConflict, Unavailable
from matyan.settings import Settings
from tests.kafka.topics import create_topic, read_topic
from tests.until import until, wait_for


async def fill(settings: Settings, topic: str, records: int) -> None:
    async with open_producer(producer_config(settings), topic, 1 << 20) as producer:
        producer.produce(b"run", [b"%d" % n for n in range(records)], lambda error: None)
        assert await producer.flush(trio.current_time() + 30) == 0


def commit_as_another_program(broker: Broker, topic: str, offset: int) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    place = ConsumerGroupTopicPartitions(f"group-{topic}", [TopicPartition(topic, 0, offset)])
    for soon in admin.alter_consumer_group_offsets([place]).values():
        soon.result(10)


async def start_at(settings: Settings, topic: str, stored: int | None) -> tuple[int, bytes]:
    """Where a partition of this stored offset starts, and the first record that it gives."""
    consumer = KafkaConsumer(consumer_config(settings, f"group-{topic}"), topic)
    with trio.fail_after(60):
        async with consumer.partitions() as assigned, await anext(assigned) as partition:
            offset = await partition.start(stored)
            return offset, (await first(partition))


async def first(partition: Partition) -> bytes:
    async for batch in partition.batches():
        return batch.values[0]
    raise AssertionError("the partition was revoked")


async def test_without_stored_offset_it_takes_over_from_another_program(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """A fresh store goes on where the reference's worker committed; over our own commit it starts at the beginning."""
    topic = make_topic()
    await fill(settings, topic, 20)
    assert await start_at(settings, topic, None) == (0, b"0")
    commit_as_another_program(broker, topic, 7)
    assert await start_at(settings, topic, None) == (7, b"7")
    Group(consumer_config(settings, "none"), f"group-{topic}").commit(topic, "an id", {0: 9})
    assert await start_at(settings, topic, None) == (0, b"0")
    assert await start_at(settings, topic, 3) == (3, b"3")


async def test_offsets_that_contradict_each_other_are_errors(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """A stored offset beyond the end, or behind another program's commit, names the command that mends it."""
    topic = make_topic()
    await fill(settings, topic, 20)
    with pytest.RaisesGroup(OffsetConflict, allow_unwrapped=True) as beyond:
        await start_at(settings, topic, 21)
    assert "matyan offsets reset --store STORE --partition 0 --to end" in repr(beyond.value)
    commit_as_another_program(broker, topic, 9)
    with pytest.RaisesGroup(OffsetConflict, allow_unwrapped=True) as behind:
        await start_at(settings, topic, 3)
    assert "--partition 0 --to stored" in repr(behind.value)


async def test_offsets_of_a_batch_follow_gaps(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """Each record keeps its own offset where transactions of other producers leave gaps in the log."""
    topic = make_topic()
    producer = Producer({"bootstrap.servers": broker.bootstrap, "transactional.id": topic})
    producer.init_transactions(60)
    for first in (0, 3):
        producer.begin_transaction()
        for number in range(first, first + 3):
            producer.produce(topic, b"%d" % number)
        producer.commit_transaction(60)
    consumer = KafkaConsumer(consumer_config(settings, f"group-{topic}"), topic)
    found: dict[int, bytes] = {}
    with trio.fail_after(60):
        async with consumer.partitions() as assigned, await anext(assigned) as partition:
            await partition.start(None)
            async for batch in partition.batches():
                found |= dict(zip(batch.offsets, batch.values, strict=True))
                if len(found) == 6:
                    assert batch.next_offset == 7
                    break
    assert found == {0: b"0", 1: b"1", 2: b"2", 4: b"3", 5: b"4", 6: b"5"}


async def test_a_partition_that_is_revoked_while_it_is_located_is_left(
    settings: Settings, make_topic: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another member joins while the broker is slow to say where to start: `start` ends, it does not wait for ever."""
    topic, answers, places = make_topic(2), threading.Event(), Group.places

    def places_late(*arguments: Any) -> dict[int, Place]:
        assert answers.wait(60)
        return places(*arguments)

    monkeypatch.setattr(Group, "places", places_late)
    config = consumer_config(settings, f"group-{topic}")
    outcomes: dict[int, str] = {}

    async def own(held: AbstractAsyncContextManager[Partition]) -> None:
        async with held as partition:
            try:
                await partition.start(None)
            except Unavailable as error:
                outcomes[partition.partition] = str(error)
            else:
                outcomes[partition.partition] = "started"

    with trio.fail_after(90):
        first = KafkaConsumer(config, topic, drain_s=0.2)
        async with first.partitions() as assigned, trio.open_nursery() as owners:
            for _ in range(2):
                owners.start_soon(own, await anext(assigned))
            async with KafkaConsumer(config, topic).partitions() as others:
                await anext(others)
                answers.set()
                await until(lambda: len(outcomes) == 2)
    assert sorted(outcome.split()[-1] for outcome in outcomes.values()) == ["revoked.", "started"]


def test_an_answer_that_does_not_come_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A question to the broker that is not even given up in time is asked again, and crashes nothing."""
    monkeypatch.setattr(kafka_admin, "NETWORK_S", -1)
    with pytest.raises(Unavailable, match="Kafka does not answer"):
        kafka_admin.result(Future(), "topic")


def test_an_error_is_not_taken_for_no_offset() -> None:
    """A group's answer about one partition that is an error: the worker asks again, and does not begin at the start."""

    class Refused(TopicPartition):
        error = KafkaError(KafkaError.UNSTABLE_OFFSET_COMMIT)

    well = TopicPartition("topic", 2, 17)
    assert kafka_admin.answered([well]) == [well]
    with pytest.raises(Unavailable, match=r"topic \[3\]"):
        kafka_admin.answered([well, Refused("topic", 3)])


@pytest.mark.parametrize("again_s", [0.3, 60.0], ids=["while-it-stays", "when-it-leaves"])
async def test_a_commit_that_was_lost_is_repeated(
    settings: Settings,
    make_topic: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch,
    again_s: float,
) -> None:
    """No record comes after it, so no other commit does: lag displays, and whoever takes over, would stay behind."""
    topic, lost = make_topic(), threading.Event()
    commit = kafka_consumer._Partition.commit

    def lose_the_first(part: Any, rd: Any) -> None:
        if part._done == 20 and not lost.is_set():
            part._committed = part._done
            lost.set()
        else:
            commit(part, rd)

    monkeypatch.setattr(kafka_consumer._Partition, "commit", lose_the_first)
    monkeypatch.setattr(kafka_consumer, "_COMMIT_AGAIN_S", again_s)
    await fill(settings, topic, 20)
    with trio.fail_after(60):
        consumer = KafkaConsumer(consumer_config(settings, f"group-{topic}"), topic)
        async with consumer.partitions() as assigned, await anext(assigned) as partition:
            await partition.start(None)
            async for batch in partition.batches():
                partition.committed(batch.next_offset)
                if batch.next_offset == 20:
                    break
            await until(lost.is_set)
            if again_s < 1:
                await until_committed(settings, topic, 20)
        await until_committed(settings, topic, 20)


async def test_an_owner_that_has_all_tells_kafka_what_is_stored(
    settings: Settings, make_topic: Callable[..., str]
) -> None:
    """The last owner died between the store's commit and Kafka's, and no record comes any more."""
    topic = make_topic()
    await fill(settings, topic, 20)
    with trio.fail_after(60):
        consumer = KafkaConsumer(consumer_config(settings, f"group-{topic}"), topic)
        async with consumer.partitions() as assigned, await anext(assigned) as partition:
            await partition.start(20)
            await until_committed(settings, topic, 20)


async def until_committed(settings: Settings, topic: str, offset: int) -> None:
    group = Group(consumer_config(settings, "none"), f"group-{topic}")
    await trio.to_thread.run_sync(
        wait_for, lambda: group.places(topic, [0])[0].committed == offset, 50
    )


async def test_outbox_delivers_events_and_dead_letters(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    """A dead letter carries the original bytes and key, and headers that say where it came from and why."""
    topic = make_topic()
    create_topic(broker, f"{topic}-dlq")
    outbox = KafkaOutbox(settings)
    event = ControlEvent("run_deleted", 1.5, {"run_id": "r"})
    await outbox.before(
        [event], [DeadLetter(topic, 3, 17, b"r", b"not a record", "Malformed", "no JSON")]
    )
    (letter,) = read_topic(broker, f"{topic}-dlq")
    assert (letter.key(), letter.value()) == (b"r", b"not a record")
    headers = dict(letter.headers() or [])
    assert headers["topic"] == topic.encode()
    assert (headers["partition"], headers["offset"]) == (b"3", b"17")
    assert (headers["error_class"], headers["error_text"]) == (b"Malformed", b"no JSON")
    assert headers.keys() >= {"version", "time"}
    events = [json.loads(m.value() or b"") for m in read_topic(broker, "control-events")]
    assert {"run_id": "r"} in [row["payload"] for row in events]


@pytest.mark.parametrize("size", [999_900, 1_048_000])
async def test_a_letter_holds_whatever_a_topic_holds(
    settings: Settings, broker: Broker, make_topic: Callable[..., str], size: int
) -> None:
    """Up to the topic's own limit, and beyond the client's: with its headers, and beside other letters."""
    topic = make_topic()
    create_topic(broker, f"{topic}-dlq", config={"max.message.bytes": "1100000"})
    values = [os.urandom(size), b"small", os.urandom(size)]
    letters = [DeadLetter(topic, 0, i, b"r", value, "E", "why") for i, value in enumerate(values)]
    await KafkaOutbox(settings).before([], letters)
    assert {one.value() for one in read_topic(broker, f"{topic}-dlq")} == {*values}


@pytest.mark.parametrize("limit", [500_000, 20_000, 600])
async def test_a_dead_letter_topic_that_is_too_small_stops_nothing(
    settings: Settings, broker: Broker, make_topic: Callable[..., str], limit: int
) -> None:
    """It gets the beginning of the record and the place of the whole; the other letters are whole."""
    topic = make_topic()
    create_topic(broker, f"{topic}-dlq", config={"max.message.bytes": str(limit)})
    large = os.urandom(999_900)
    letters = [
        DeadLetter(topic, 2, 7, b"r", large, "bug", "why"),
        DeadLetter(topic, 2, 8, b"r", b"small", "E", "why"),
    ]
    await KafkaOutbox(settings).before([], letters)
    found = {
        int(headers["offset"]): (one, headers)
        for one in read_topic(broker, f"{topic}-dlq")
        for headers in [dict(one.headers() or [])]
    }
    assert found[8][0].value() == b"small"
    letter, headers = found[7]
    value = letter.value() or b""
    assert large.startswith(value)
    assert limit / 4 < len(value) < limit or limit == 600
    assert headers["cut"] == b"999900"
    assert headers["error_class"] == b"bug"
    ids = [f"{topic}-dlq/0/{one.offset()}" for one, _ in found.values()]
    with open_letters(replace(settings, kafka_data_ingestion_topic=topic)) as standing:
        rows = {row["offset"]: row for row in standing.dead_letters()}
        outcomes = {row["id"]: row["outcome"] for row in standing.replay()}
    assert rows[7]["size"] == 999_900
    assert [name for name in ids if "not sent" in outcomes[name]] == [rows[7]["id"]]


async def test_a_dead_letter_topic_that_takes_nothing_stops_nothing(
    settings: Settings, broker: Broker, make_topic: Callable[..., str]
) -> None:
    topic = make_topic()
    create_topic(broker, f"{topic}-dlq", config={"max.message.bytes": "10"})
    with trio.fail_after(60):
        await KafkaOutbox(settings).before([], [DeadLetter(topic, 2, 7, b"r", b"x", "E", "why")])
    assert read_topic(broker, f"{topic}-dlq") == []
