"""What times say about a topic: how old its oldest record is, and up to which offset its records are older than a moment.

Blocking calls, for a thread.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from confluent_kafka import Consumer, KafkaException, TopicPartition

from matyan.broker.kafka.admin import NETWORK_S, describe_topic, open_admin
from matyan.broker.kafka.client import client_config
from matyan.errors import Unavailable
from matyan.settings import Settings

_GROUP = "matyan-jobs"
"""A consumer must name one; nothing is committed to it."""


class LogTimes:
    """One topic's. Made by `open_log_times`."""

    def __init__(
        self, consumer: Consumer, topic: str, topic_id: str, partitions: list[int]
    ) -> None:
        self._consumer = consumer
        self._topic = topic
        self.topic_id = topic_id
        self._partitions = partitions

    def oldest(self) -> float | None:
        """When the oldest record came that the topic still has, in epoch seconds; None: it has none."""
        wanted = {}
        for partition in self._partitions:
            low, high = self._bounds(partition)
            if low < high:
                wanted[partition] = TopicPartition(self._topic, partition, low)
        oldest = None
        for tp in wanted.values():
            self._consumer.assign([tp])
            message = self._consumer.poll(NETWORK_S)
            if message is None or message.error() is not None:
                raise Unavailable(
                    f"Kafka gave nothing of {self._topic} for {NETWORK_S:g} s: try again when its brokers are well."
                )
            at = message.timestamp()[1] / 1_000
            oldest = at if oldest is None else min(oldest, at)
        return oldest

    def is_applied(self, stored: Mapping[int, int], moment: float) -> bool:
        """Whether all records that came before `moment` stand below the stored offsets of their partitions."""
        asked = [
            TopicPartition(self._topic, partition, round(moment * 1_000))
            for partition in self._partitions
        ]
        for tp in self._consumer.offsets_for_times(asked, timeout=NETWORK_S):
            low, high = self._bounds(tp.partition)
            first_later = tp.offset if tp.offset >= 0 else high
            if stored.get(tp.partition, low) < first_later:
                return False
        return True

    def _bounds(self, partition: int) -> tuple[int, int]:
        low, high = self._consumer.get_watermark_offsets(
            TopicPartition(self._topic, partition), timeout=NETWORK_S
        )
        return low, high


@contextmanager
def open_log_times(settings: Settings) -> Iterator[LogTimes]:
    """Of the topic of the clients' records.

    Raises:
        Unavailable: Kafka does not answer, or has no such topic.
    """
    topic = settings.kafka_data_ingestion_topic
    described = describe_topic(open_admin(client_config(settings)), topic)
    consumer = Consumer(
        client_config(
            settings,
            **{"group.id": _GROUP, "enable.auto.commit": False, "log_level": 2},
        )
    )
    try:
        yield LogTimes(
            consumer, topic, str(described.topic_id), [row.id for row in described.partitions]
        )
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}.") from error
    finally:
        consumer.close()
