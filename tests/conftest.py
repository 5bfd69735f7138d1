"""A real Kafka broker for the tests that want one: one for the session, and more for those that kill theirs."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from dev.broker import Broker, Missing, classpath
from matyan.settings import Settings, load
from tests.kafka.topics import create_topic

# A run in the background of a shell ignores Ctrl-C, and so would every process that a test starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# No test asserts a speed: hypothesis would, of its own, on a machine that is busy or draws its first text.
hypothesis.settings.register_profile(
    "untimed", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("untimed")


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
