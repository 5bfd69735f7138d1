"""`kill -9` and SIGTERM of the frontier, and `kill -9` of the broker, under load: what was acknowledged is in Kafka.

The oracle is the topic: each acknowledged record stands there once, and a run's records in the order in which they were sent.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import pytest

from dev.broker import Broker, Cluster
from dev.process import free_ports
from tests.faults.broken_frontier import broken_frontier
from tests.faults.load import AT_LENGTH, Client, wait_for_load
from tests.kafka.topics import read_runs
from tests.services import TOPIC, frontier
from tests.tracker import MATYAN

KILLS = 40 if AT_LENGTH else 5
BROKER_KILLS, BROKER_AWAY_S = (3, 30.0) if AT_LENGTH else (1, 3.0)
OURS = (*MATYAN, "frontier")


@contextmanager
def load(port: int, clients: int) -> Iterator[list[Client]]:
    """So many raw clients at work, each on a run of its own; stopped on leaving."""
    working = [Client(f"http://127.0.0.1:{port}", f"killed-{number}") for number in range(clients)]
    for client in working:
        client.start()
    try:
        yield working
    finally:
        stopping = [threading.Thread(target=client.finish) for client in working]
        for thread in stopping:
            thread.start()
        for thread in stopping:
            thread.join()


def faults(broker: Broker | Cluster, topic: str, clients: Iterable[Client]) -> list[str]:
    """How what stands in the topic contradicts what was acknowledged and sent; empty when it does not."""
    runs = read_runs(broker, topic)
    return [
        f"{client.run_id}: {fault}"
        for client in clients
        for fault in client.ledger.faults(
            record["payload"]["value"] for record in runs.get(client.run_id, [])
        )
    ]


def faults_of_all_that_left(
    broker: Broker | Cluster, topic: str, clients: Iterable[Client]
) -> list[str]:
    """The same, where what went into a socket is as good as acknowledged."""
    for client in clients:
        client.ledger.acknowledged |= client.ledger.left
    return faults(broker, topic, clients)


def kill_many_times(
    broker: Broker, topic: str, kills: int, seed: int, command: Sequence[str] = OURS
) -> list[str]:
    """Kills the frontier again and again under load; returns what is wrong with what stands in the topic."""
    chance = random.Random(seed)
    (port,) = free_ports(1)
    with load(port, 6) as clients:
        for _ in range(kills):
            with frontier(broker, topic, port=port, command=command) as served:
                wait_for_load(clients)
                time.sleep(chance.uniform(0.0, 0.5))  # a random moment under load
                served.process.kill()
    return faults(broker, topic, clients)


def test_a_killed_frontier_loses_nothing_acknowledged(
    broker: Broker, make_topic: Callable[..., str]
) -> None:
    """What was acknowledged is in Kafka once, in order; a frame without an answer is there or not, in its place."""
    assert kill_many_times(broker, make_topic(6), KILLS, seed=20260102) == []


def test_an_acknowledgement_before_the_delivery_is_caught(
    broker: Broker, make_topic: Callable[..., str]
) -> None:
    """The negative control: with frames acknowledged before Kafka has them, the same test finds losses."""
    hasty = broken_frontier("acknowledge-early")
    for seed in range(5):
        found = kill_many_times(broker, make_topic(6), 2, seed, command=hasty)
        if any("acknowledged and lost" in fault for fault in found):
            return
    pytest.fail("acknowledgements sent before the delivery went unnoticed")


def test_a_killed_broker_gets_everything_once(own_broker: Broker) -> None:
    """The broker is killed under load and comes back: every frame that was sent stands there once, in order, and no
    connection was closed. (After 40 s a frame is answered before it is stored, and kept.)"""
    with frontier(own_broker) as served:
        port = int(served.url.rsplit(":", 1)[1])
        with load(port, 6) as clients:
            for _ in range(BROKER_KILLS):
                wait_for_load(clients)
                own_broker.kill()
                time.sleep(BROKER_AWAY_S)
                own_broker.start()
                wait_for_load(clients)
        assert served.stop() == 0
    assert faults_of_all_that_left(own_broker, TOPIC, clients) == []
    assert [client.closes for client in clients] == [[]] * 6
    assert all(client.ledger.sent == client.ledger.left for client in clients)


def test_sigterm_under_load_keeps_everything_that_was_sent(
    broker: Broker, make_topic: Callable[..., str]
) -> None:
    """Each connection ends with a close frame 1001, the exit code is 0, and every record that a client could send is in
    Kafka: also of the frame that crossed the close frame on the wire."""
    topic = make_topic(6)
    with frontier(broker, topic, SHUTDOWN_FLUSH_TIMEOUT="60") as served:
        port = int(served.url.rsplit(":", 1)[1])
        with load(port, 40) as clients:
            wait_for_load(clients)
            assert served.stop() == 0, "".join(served.output)
    assert [client.closes for client in clients] == [[1001]] * 40
    assert faults_of_all_that_left(broker, topic, clients) == []
