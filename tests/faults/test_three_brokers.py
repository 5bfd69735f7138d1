"""Three brokers of which two must have a record (min.insync.replicas 2), killed one, two and all three at a time under load.

The oracles are the topic and the worker's store: each record that went into a socket stands in both once, and a run's in
the order in which they were sent.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dev.broker import Broker, Cluster
from matyan import reader
from tests.faults.load import AT_LENGTH, Client, wait_for_load
from tests.faults.test_kill_services import faults_of_all_that_left, load
from tests.kafka.topics import create_topic, read_topic
from tests.services import frontier, ingest_worker
from tests.until import wait_for

ROUNDS, AWAY_S = (5, 10.0) if AT_LENGTH else (1, 1.5)

STARTS_S = 240.0
"""Three brokers that start at once, recover their logs and elect leaders, on a machine that is busy."""


@pytest.fixture
def cluster(kafka_jars: None, tmp_path: Path) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path / "kafka")
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def acknowledged(clients: list[Client]) -> int:
    return sum(len(client.ledger.acknowledged) for client in clients)


def kill(nodes: list[Broker], clients: list[Client]) -> None:
    """Kills them under load and starts them again; while two of three are left the load goes on, with fewer it is held."""
    wait_for_load(clients)
    for node in nodes:
        node.kill()
    if len(nodes) == 1:
        wait_for_load(clients)
    else:
        time.sleep(1)  # what was acknowledged at that moment may still be on its way
        before = acknowledged(clients)
        time.sleep(AWAY_S)
        assert acknowledged(clients) == before
    for node in nodes:
        node.launch()
    wait_for_load(clients, STARTS_S)


def values_of(opened: reader.Reader, run: str) -> list[float]:
    return [value for block in opened.blocks(run) if block.points for value in block.points.values]


def test_nothing_acknowledged_is_lost_and_nothing_stands_twice(
    cluster: Cluster, tmp_path: Path
) -> None:
    """Each broker in turn, pairs of them, and all: no socket is closed, all that was sent is stored, once and in order."""
    chance, data = random.Random(20260102), tmp_path / "data"
    topic = "three"
    create_topic(cluster, topic, 6, replicas=3)
    create_topic(cluster, f"{topic}-dlq", replicas=3)
    with (
        frontier(cluster, topic, SHUTDOWN_FLUSH_TIMEOUT="60") as served,
        ingest_worker(cluster, data, topic, workers=2) as worker,
    ):
        with load(int(served.url.rpartition(":")[2]), 3) as clients:
            for _ in range(ROUNDS):
                for many in (1, 2, 3):
                    kill(chance.sample(cluster.nodes, many), clients)
        assert served.stop() == 0
        stands = len(read_topic(cluster, topic))
        wait_for(lambda: worker.applied() >= stands, 240)
        assert worker.applied() == stands
        assert worker.stop() == 0
    assert faults_of_all_that_left(cluster, topic, clients) == []
    assert [client.closes for client in clients] == [[]] * 3
    with reader.open(data) as opened:
        stored = {client.run_id: values_of(opened, client.run_id) for client in clients}
    assert [
        f"{client.run_id}: {fault}"
        for client in clients
        for fault in client.ledger.faults(stored[client.run_id])
    ] == []
