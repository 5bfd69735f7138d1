"""Real servers for the tests that want one, Kafka and S3: one for the session, and more for those that kill theirs."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from dev import broker as kafka
from dev import s3 as s3_
from dev.broker import DOORS, Broker
from dev.process import stopped_at_end
from dev.s3 import S3, Versity
from matyan.settings import Settings, load
from tests.kafka.topics import create_topic
from tests.needs import needed

# Hundreds of processes are started, and each would compile everything that it imports anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Servers that live for a minute: what the second compiler takes to make them fast for hours, they do not give back.
os.environ.setdefault("JDK_JAVA_OPTIONS", "-XX:TieredStopAtLevel=1")

# A run in the background of a shell ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a speed: hypothesis would, of its own, on a machine that is busy or draws its first text.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders of long tests first: with files side by side, short ones are left to fill up the end.

    `--no-loadscope-reorder` tells xdist to keep that order; its own begins with the files of most tests.
    """
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/faults/", "tests/kafka/")))


@pytest.fixture(scope="session")
def kafka_jars() -> None:
    needed(kafka.classpath, "MATYAN_TEST_REQUIRE_KAFKA")


@pytest.fixture(scope="session")
def s3_jars() -> None:
    needed(s3_.classpath, "MATYAN_TEST_REQUIRE_S3")


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


@pytest.fixture(scope="session")
def guarded_broker(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A broker with each door there is, and rules about who may do what (tests/kafka/rules.py). Tests make their own topics
    on it."""
    broker = Broker(tmp_path_factory.mktemp("guarded-kafka"), doors=[*DOORS])
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def s3(s3_jars: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The session's S3 server, in memory, so that every key is legal. Tests make their own buckets on it."""
    with s3_.running(tmp_path_factory.mktemp("s3"), in_memory=True) as server:
        yield server


@pytest.fixture(scope="session")
def versity(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """The session's second S3 server, by other people. Tests make their own buckets on it."""
    needed(s3_.versity, "MATYAN_TEST_REQUIRE_S3")
    server = Versity(tmp_path_factory.mktemp("versity"))
    with stopped_at_end(server, server.start):
        yield server


@pytest.fixture
def own_s3(s3_jars: None, tmp_path: Path) -> Iterator[S3]:
    """An S3 server on a folder, which a test may freeze, kill and start again."""
    with s3_.running(tmp_path / "s3") as server:
        yield server


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
