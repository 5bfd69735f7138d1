"""`matyan ingest-worker` as a test wants it: another group or session, a promise broken, a death at one moment.

python -m tests.faults.broken_worker PROMISE --store rocks:FOLDER ...

MATYAN_TEST_CONSUMER: a JSON object of librdkafka's properties that the consumer gets besides.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from matyan.broker.base import ControlEvent, DeadLetter
from matyan.broker.kafka import consumer as kafka_consumer
from matyan.broker.kafka import outbox
from matyan.cli.main import main
from matyan.settings import Settings
from matyan.workers import ingest
from tests.broken_ingestion import IgnoresStoredOffset


def broken_worker(promise: str = "none") -> tuple[str, ...]:
    """The command that starts it."""
    return (sys.executable, "-m", "tests.faults.broken_worker", promise)


def consumer_config(settings: Settings, group: str) -> dict[str, Any]:
    config = kafka_config(settings, group)
    return config | json.loads(os.environ.get("MATYAN_TEST_CONSUMER", "{}"))


def die(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class DiesAfterAnnouncing(outbox.KafkaOutbox):
    async def before(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        await super().before(events, dead)
        if events:
            die()


if __name__ == "__main__":
    kafka_config, kafka_consumer.consumer_config = kafka_consumer.consumer_config, consumer_config
    from_kafka = partial(kafka_consumer.KafkaConsumer, offsets_are_stored=False)
    match sys.argv[1]:
        case "none":
            pass
        case "redelivered":
            # Starts at the offset in Kafka, so that the store gets again what was not committed there.
            kafka_consumer.KafkaConsumer = from_kafka
        case "redelivered-without-stored-offset":
            kafka_consumer.KafkaConsumer = from_kafka
            ingest.IngestWorker = IgnoresStoredOffset
        case "dies-after-the-commit":
            kafka_consumer._Partition.committed = die
        case "dies-when-revoked":
            kafka_consumer._Member._on_revoke = die
        case "dies-after-announcing":
            outbox.KafkaOutbox = DiesAfterAnnouncing
        case promise:
            sys.exit(f"no promise of that name: {promise}")
    sys.argv[:] = ["matyan", "ingest-worker", *sys.argv[2:]]
    main()
