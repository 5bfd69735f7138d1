"""The services as processes on a real broker and a real S3 server, with topics and a bucket of their own."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Producer

from dev.broker import TOPICS, Broker
from tests.kafka.topics import create_topic
from tests.services import serving
from tests.tracker import Service


@dataclass
class Deployment:
    broker: Broker
    env: Mapping[str, str]
    ingestion: str
    control: str

    def running(self, *words: str, **env: str) -> AbstractContextManager[Service]:
        """One service, as `services.serving` does."""
        return serving(*words, **{**self.env, **env})

    def produce(self, topic: str, values: Sequence[bytes], key: bytes | None = None) -> None:
        """Records as another program writes them, delivered when this returns."""
        producer = Producer(
            {"bootstrap.servers": self.broker.bootstrap, "partitioner": "murmur2_random"}
        )
        failed: list[Any] = []
        for value in values:
            producer.produce(
                topic, value, key, on_delivery=lambda error, _: error and failed.append(error)
            )
        assert producer.flush(60) == 0
        assert not failed

    def delete_run(self, run: str) -> None:
        """As the API server asks for it."""
        self.produce(self.ingestion, [record("delete_run", run)], run.encode())

    def run_deleted(self, *runs: str) -> None:
        """As the ingestion worker tells it."""
        self.produce(self.control, [event("run_deleted", run_id=run) for run in runs])


def record(kind: str, run: str, **payload: object) -> bytes:
    return json.dumps(
        {"type": kind, "run_id": run, "timestamp": MOMENT, "payload": payload}
    ).encode()


def event(kind: str, **payload: object) -> bytes:
    return json.dumps({"type": kind, "timestamp": MOMENT, "payload": payload}).encode()


MOMENT = "2026-01-02T03:04:05.678901Z"


def deploy(broker: Broker, **env: str) -> Deployment:
    """New topics on `broker`, and the environment of services that use them."""
    name = uuid.uuid4().hex[:12]
    for topic, partitions in TOPICS.items():
        create_topic(broker, f"{name}-{topic}", partitions)
    ingestion, control = f"{name}-data-ingestion", f"{name}-control-events"
    return Deployment(
        broker,
        {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
            "KAFKA_DATA_INGESTION_TOPIC": ingestion,
            "KAFKA_CONTROL_EVENTS_TOPIC": control,
            "METRICS_PORT": "0",
            **env,
        },
        ingestion,
        control,
    )
