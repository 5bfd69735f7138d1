"""Kafka's administration: topics, the offsets of a group, and the words for what is missing.

Blocking calls, for a thread. Nothing here is on a record's way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic, OffsetSpec  # type: ignore[attr-defined]

from matyan.errors import Unavailable
from matyan.settings import Settings

_NETWORK_S = 10.0

_OURS = "matyan "


def metadata(topic_id: str) -> str:
    """What the offsets that we commit to Kafka carry, so that another program's are told from ours."""
    return _OURS + topic_id


@dataclass(frozen=True, slots=True)
class Place:
    """Where a partition stands in Kafka."""

    low: int
    """The first offset that is kept."""
    high: int
    """The offset that the next record gets."""
    committed: int | None
    """The group's offset, or None."""
    is_ours: bool
    """Whether `committed` carries our metadata."""


_SHARED = frozenset(
    {
        "bootstrap.servers",
        "client.id",
        "logger",
        "reconnect.backoff.max.ms",
        "sasl.mechanism",
        "sasl.password",
        "sasl.username",
        "security.protocol",
        "socket.keepalive.enable",
    }
)


def open_admin(config: Mapping[str, Any]) -> AdminClient:
    """An admin client with what `config`, of any client, says of the connection."""
    return AdminClient({name: value for name, value in config.items() if name in _SHARED})


def describe_topic_soon(admin: AdminClient, topic: str) -> Future[Any]:
    """The topic's description (its id and partitions), when it is there."""
    soon: Future[Any] = admin.describe_topics(TopicCollection([topic]), request_timeout=_NETWORK_S)[
        topic
    ]
    return soon


def describe_topic(admin: AdminClient, topic: str) -> Any:
    """The topic's description.

    Raises:
        Unavailable: the broker does not answer, or has no such topic (yet).
    """
    return _result(describe_topic_soon(admin, topic), topic)


def read_place(
    admin: AdminClient, group: str, topic: str, partitions: Sequence[int]
) -> dict[int, Place]:
    """Where these partitions stand, by number.

    Raises:
        Unavailable: the broker does not answer, or has no such topic (yet).
    """
    tps = [TopicPartition(topic, partition) for partition in partitions]
    lows, highs = (
        admin.list_offsets(dict.fromkeys(tps, spec), request_timeout=_NETWORK_S)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
    )
    (committed,) = admin.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, tps)], request_timeout=_NETWORK_S
    ).values()
    low = {tp.partition: _result(soon, topic).offset for tp, soon in lows.items()}
    high = {tp.partition: _result(soon, topic).offset for tp, soon in highs.items()}
    found = {tp.partition: tp for tp in _result(committed, topic).topic_partitions}
    return {
        partition: Place(
            low[partition],
            high[partition],
            found[partition].offset if found[partition].offset >= 0 else None,
            (found[partition].metadata or "").startswith(_OURS),
        )
        for partition in partitions
    }


def _result(soon: Future[Any], topic: str) -> Any:
    try:
        return soon.result(_NETWORK_S + 1)
    except KafkaException as error:
        if error.args[0].code() in _NO_TOPIC:
            raise Unavailable(
                f"Kafka has no topic {topic}: `matyan topics create` makes it"
            ) from error
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error


_NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})


def topic_names(settings: Settings) -> dict[str, int]:
    """The topics of a deployment and how many partitions `create_topics` gives each."""
    ingest, control = settings.kafka_data_ingestion_topic, settings.kafka_control_events_topic
    return {ingest: 6, control: 1, f"{ingest}-dlq": 1, f"{control}-dlq": 1}


def create_topics(admin: AdminClient, topics: Mapping[str, int], replication: int) -> list[str]:
    """Makes those of `topics` that are missing; returns their names.

    Raises:
        Unavailable: the broker does not answer, or does not make them.
    """
    missing = [name for name in topics if name not in known_topics(admin)]
    if missing:
        new = [NewTopic(name, topics[name], replication) for name in missing]
        for name, soon in admin.create_topics(new, request_timeout=_NETWORK_S).items():
            _result(soon, name)
    return missing


def known_topics(admin: AdminClient) -> set[str]:
    """The topics that the broker has.

    Raises:
        Unavailable: it does not answer.
    """
    try:
        return set(admin.list_topics(timeout=_NETWORK_S).topics)
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error


def require_topics(admin: AdminClient, topics: Iterable[str]) -> None:
    """
    Raises:
        Unavailable: the broker does not answer, or some are missing.
    """
    missing = sorted(set(topics) - known_topics(admin))
    if missing:
        raise Unavailable(
            f"Kafka has no topic {', '.join(missing)}: `matyan topics create` makes them"
        )


def commit_offsets(
    admin: AdminClient, group: str, topic: str, topic_id: str, offsets: Mapping[int, int]
) -> None:
    """Commits `offsets`, by partition, as ours.

    Raises:
        Unavailable: the broker does not answer, or the group has members.
    """
    tps = [
        TopicPartition(topic, partition, offset, metadata(topic_id))
        for partition, offset in offsets.items()
    ]
    if tps:
        (soon,) = admin.alter_consumer_group_offsets(
            [ConsumerGroupTopicPartitions(group, tps)], request_timeout=_NETWORK_S
        ).values()
        _result(soon, topic)
