"""Kafka's administration: the offsets of a group, a topic's id, and the words for what is missing.

Which topics there are and whether they are fit is `kafka_topics.py`'s. Blocking calls, for a thread. Nothing here is on a record's way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from confluent_kafka.admin import (
    AdminClient,
    ClusterMetadata,
    OffsetSpec,
)

from matyan.errors import Unavailable

NETWORK_S = 10.0

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


def cluster(admin: AdminClient) -> ClusterMetadata:
    """The brokers and topics.

    Raises:
        Unavailable: no broker answers.
    """
    try:
        return admin.list_topics(timeout=NETWORK_S)
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}") from error


def describe_topic_soon(admin: AdminClient, topic: str) -> Future[Any]:
    """The topic's description (its id and partitions), when it is there."""
    soon: Future[Any] = admin.describe_topics(TopicCollection([topic]), request_timeout=NETWORK_S)[
        topic
    ]
    return soon


def describe_topic(admin: AdminClient, topic: str) -> Any:
    """The topic's description.

    Raises:
        Unavailable: the broker does not answer, or has no such topic (yet).
    """
    return result(describe_topic_soon(admin, topic), topic)


def read_place(
    admin: AdminClient, group: str, topic: str, partitions: Sequence[int]
) -> dict[int, Place]:
    """Where these partitions stand, by number.

    Raises:
        Unavailable: the broker does not answer, or has no such topic (yet).
    """
    tps = [TopicPartition(topic, partition) for partition in partitions]
    lows, highs = (
        admin.list_offsets(dict.fromkeys(tps, spec), request_timeout=NETWORK_S)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
    )
    (committed,) = admin.list_consumer_group_offsets(
        [ConsumerGroupTopicPartitions(group, tps)], request_timeout=NETWORK_S
    ).values()
    low = {tp.partition: result(soon, topic).offset for tp, soon in lows.items()}
    high = {tp.partition: result(soon, topic).offset for tp, soon in highs.items()}
    found = {tp.partition: tp for tp in answered(result(committed, topic).topic_partitions)}
    return {
        partition: Place(
            low[partition],
            high[partition],
            found[partition].offset if found[partition].offset >= 0 else None,
            (found[partition].metadata or "").startswith(_OURS),
        )
        for partition in partitions
    }


def answered(partitions: list[TopicPartition]) -> list[TopicPartition]:
    """A group's answer about partitions, whose errors stand in it one by one: the call as a whole does not fail.

    Raises:
        Unavailable: one is an error.
    """
    for tp in partitions:
        if tp.error is None:
            continue
        place = f"{tp.topic} [{tp.partition}]"
        if tp.error.code() == KafkaError.UNKNOWN_MEMBER_ID:
            raise Unavailable(
                f"Kafka takes no offset of {place} while the consumer group has members: stop them, and wait for those "
                "that were killed, which stay in it for their session (45 s by default)"
            )
        raise Unavailable(f"Kafka's consumer group does not answer for {place}: {tp.error.str()}")
    return partitions


class Forbidden(Unavailable):
    """The broker does not let this user do it."""


def result(soon: Future[Any], topic: str) -> Any:
    """What an admin call about `topic` gave.

    Raises:
        Forbidden: the user may not do that.
        Unavailable: the broker does not answer, has no such topic (yet), or refuses.
    """
    try:
        return soon.result(NETWORK_S + 1)
    except KafkaException as error:
        code, text = error.args[0].code(), error.args[0].str()
        if code in _NO_TOPIC:
            raise Unavailable(
                f"Kafka has no topic {topic}: `matyan topics create` makes it"
            ) from error
        if code in _FORBIDDEN:
            raise Forbidden(f"Kafka does not let us do that with {topic}: {text}") from error
        # librdkafka's own errors, of the connection mostly, are below 0; those of the protocol above.
        does = "does not answer" if code < 0 else f"refuses that for {topic}"
        raise Unavailable(f"Kafka {does}: {text}") from error
    except TimeoutError as error:
        # librdkafka's own limit comes first, unless the machine is too busy to tell.
        raise Unavailable("Kafka does not answer") from error


_NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})
_FORBIDDEN = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
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
            [ConsumerGroupTopicPartitions(group, tps)], request_timeout=NETWORK_S
        ).values()
        answered(result(soon, topic).topic_partitions)
