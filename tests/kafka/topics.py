"""Making and reading topics by the plain client."""

from __future__ import annotations

import json
import uuid
from typing import Any

from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from dev.broker import Broker, Cluster


def create_topic(
    broker: Broker | Cluster,
    name: str,
    partitions: int = 1,
    config: dict[str, str] | None = None,
    replicas: int = 1,
) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    for future in admin.create_topics(
        [NewTopic(name, partitions, replicas, config=config or {})]
    ).values():
        future.result(10)
    while len(admin.list_topics(name, timeout=10).topics[name].partitions) < partitions:
        pass


def read_topic(
    broker: Broker | Cluster, name: str, timeout: float = 30
) -> list[Message[bytes, bytes]]:
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


def read_runs(broker: Broker | Cluster, name: str) -> dict[str, list[dict[str, Any]]]:
    """The records that stand in the topic now, by run, each run's in the order of the log."""
    runs: dict[str, list[dict[str, Any]]] = {}
    for message in read_topic(broker, name):
        record = json.loads(message.value() or b"")
        assert (message.key() or b"").decode() == record["run_id"]
        runs.setdefault(record["run_id"], []).append(record)
    return runs
