"""How our records are compressed, and who can read them: the reference's workers consume with aiokafka, which alone
decompresses gzip and nothing else."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

from dev.broker import Broker
from dev.environments import reference_consumer
from tests.faults.load import OK
from tests.kafka.topics import create_topic, read_topic
from tests.needs import needed
from tests.services import frontier

CONSUME = """
import asyncio, json, sys
from aiokafka import AIOKafkaConsumer, TopicPartition

async def main(bootstrap, topic, count):
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap, enable_auto_commit=False)
    await consumer.start()
    try:
        place = TopicPartition(topic, 0)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        for _ in range(count):
            record = await asyncio.wait_for(consumer.getone(), 30)
            print(json.dumps([record.key.decode(), record.value.decode()]))
    finally:
        await consumer.stop()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """With aiokafka and nothing that decompresses for it."""
    return needed(reference_consumer, "MATYAN_TEST_REQUIRE_REFERENCE")


def consumed(
    python: Path, broker: Broker, topic: str, count: int
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(python), "-c", CONSUME, broker.bootstrap, topic, str(count)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def produced(broker: Broker, topic: str, **env: str) -> list[list[str]]:
    """Has a frontier write records, and gives their keys and values as librdkafka reads them."""
    create_topic(broker, topic)
    line: dict[str, Any] = {"type": "log_terminal_line", "line": "the same again " * 100}
    frame = json.dumps([line | {"step": step} for step in range(100)])
    with (
        frontier(broker, topic, **env) as service,
        connect(f"{service.url.replace('http', 'ws')}/api/v1/ws/runs/r") as socket,
    ):
        socket.send(frame)
        assert json.loads(socket.recv(60)) == OK
    return [
        [(message.key() or b"").decode(), (message.value() or b"").decode()]
        for message in read_topic(broker, topic)
    ]


@pytest.mark.parametrize("env", [{}, {"MATYAN_KAFKA_COMPRESSION": "gzip"}], ids=["default", "gzip"])
def test_the_references_consumer_reads_our_records(
    broker: Broker, python: Path, env: dict[str, str]
) -> None:
    """Byte for byte, in a plain installation; by default and with gzip."""
    topic = f"compression-{'-'.join(env.values()) or 'default'}"
    ours = produced(broker, topic, **env)
    assert len(ours) == 100
    done = consumed(python, broker, topic, len(ours))
    assert done.returncode == 0, done.stderr
    assert [json.loads(row) for row in done.stdout.splitlines()] == ours


@pytest.mark.parametrize("compression", ["lz4", "zstd", "snappy"])
def test_what_it_cannot_read_is_a_choice(broker: Broker, python: Path, compression: str) -> None:
    """It ends with the library's error; our own consumer reads all of them."""
    topic = f"compression-{compression}"
    assert len(produced(broker, topic, MATYAN_KAFKA_COMPRESSION=compression)) == 100
    done = consumed(python, broker, topic, 1)
    assert done.returncode != 0
    assert "UnsupportedCodecError" in done.stderr
