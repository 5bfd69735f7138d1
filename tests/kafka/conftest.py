"""A real broker for these tests: one for the session, and more for those that kill theirs."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from dev.broker import Broker, Missing, classpath
from matyan.settings import Settings, load


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    """Skips with the reason where the broker cannot be run, or fails when MATYAN_TEST_REQUIRE_KAFKA is set."""
    try:
        classpath()
    except Missing as reason:
        if os.environ.get("MATYAN_TEST_REQUIRE_KAFKA") == "1":
            pytest.fail(f"MATYAN_TEST_REQUIRE_KAFKA=1, but {reason}")
        pytest.skip(str(reason))


@pytest.fixture(scope="session")
def broker(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """The session's broker. Tests make their own topics on it and do not stop it."""
    broker = Broker(tmp_path_factory.mktemp("kafka"))
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def own_broker(kafka_jars: None, tmp_path: Path) -> Iterator[Broker]:
    """A broker that a test may freeze, kill and start again."""
    broker = Broker(tmp_path / "kafka")
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture
def settings(broker: Broker) -> Settings:
    return load({"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap})


@pytest.fixture
def make_topic(broker: Broker) -> Callable[..., str]:
    """make_topic(partitions, config): the name of a new topic on the session's broker."""

    def make(partitions: int = 1, config: dict[str, str] | None = None) -> str:
        name = f"t-{uuid.uuid4().hex[:12]}"
        create_topic(broker, name, partitions, config)
        return name

    return make


def create_topic(
    broker: Broker, name: str, partitions: int = 1, config: dict[str, str] | None = None
) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.create_topics(
        [NewTopic(name, partitions, 1, config=config or {})]
    ).values():
        future.result(10)
    while len(admin.list_topics(name, timeout=10).topics[name].partitions) < partitions:
        pass


def read_topic(broker: Broker, name: str, timeout: float = 30) -> list[Message[bytes, bytes]]:
    """Every record that stands in the topic now, partition by partition, read without a group."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker.bootstrap,
            "group.id": f"reader-{uuid.uuid4().hex}",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
        }
    )
    try:
        records: list[Message[bytes, bytes]] = []
        for partition in consumer.list_topics(name, timeout=timeout).topics[name].partitions:
            consumer.assign([TopicPartition(name, partition, 0)])
            at_end = False
            while not at_end:
                for message in consumer.consume(10_000, 0.2):
                    if message.error() is None:
                        records.append(message)
                    else:
                        at_end = True
        return records
    finally:
        consumer.close()


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    """Waits until the world outside trio has come so far."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)
