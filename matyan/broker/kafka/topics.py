"""Kafka's topics: which there are in a deployment, whether they are fit for our records, and making them so.

The one place that says what is wrong with a topic: a service asks at its start, `matyan topics check` and
`matyan doctor` when they are called. Blocking calls, for a thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from confluent_kafka import TopicCollection
from confluent_kafka.admin import (
    AclOperation,
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from matyan.broker.kafka.admin import NETWORK_S, Forbidden, NoTopic, cluster, no_topics, result
from matyan.broker.kafka.client import READ_BY_ALL
from matyan.errors import Unavailable
from matyan.settings import Settings, dead_letter_topic

NEEDED_MESSAGE_BYTES = 1_000_000
"""What a topic's max.message.bytes must admit: a record of 900 KiB (contract, section 6) with its key, a dead letter's
headers and the frame of its batch; and any batch that librdkafka makes, which is 1,000,000 bytes at most
(message.max.bytes and batch.size of its CONFIGURATION.md), since a batch that is too large fails as a whole."""

_GIVEN_MESSAGE_BYTES = 1_048_588
"""What our topics get: Kafka's own default, said aloud since a cluster may have another one."""

_POLICY, _DELETE = "cleanup.policy", "delete"
_SAFE_RETENTION_MS = 3 * 24 * 3_600_000
_SAFE_REPLICAS = 3
_SAFE_IN_SYNC_REPLICAS = 2


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic as it is. With `partitions` 0 there is none."""

    name: str
    partitions: int = 0
    replication: int = 0
    """Of the partition that has the fewest replicas."""
    in_sync: int = 0
    """Replicas in sync of the partition that has the fewest."""
    max_message_bytes: int | None = None
    """None: the broker does not let us read it; the same below."""
    min_insync_replicas: int | None = None
    cleanup_policy: str | None = None
    retention_ms: int | None = None
    """Below 0: for ever; the same of bytes."""
    retention_bytes: int | None = None
    compression_type: str | None = None
    """What the broker compresses records with as it takes them; producer: they stay as they come."""
    is_hidden: bool = False
    """Kafka does not let this user see it, whether it is there or not."""

    def trouble(self) -> list[str]:
        """Why our records cannot go through it, with what mends that."""
        if self.is_hidden:
            return [
                f"This user may not see the topic {self.name}: allow in Kafka's ACLs what it is used for, READ or WRITE "
                "(`matyan doctor` prints the commands), or create it where it is missing."
            ]
        if not self.partitions:
            return [no_topics([self.name])]
        found = []
        if (size := self.max_message_bytes) is not None and size < NEEDED_MESSAGE_BYTES:
            found.append(
                f"max.message.bytes of the topic {self.name} is {size}, and our records need "
                f"{NEEDED_MESSAGE_BYTES}: `matyan topics create --alter` sets it."
            )
        if "compact" in (self.cleanup_policy or ""):
            found.append(
                f"cleanup.policy of the topic {self.name} is {self.cleanup_policy}, which keeps the last record of each "
                "run and removes those before it: `matyan topics create --alter` sets delete."
            )
        least = self.min_insync_replicas or 1
        if self.replication < least:
            found.append(
                f"min.insync.replicas of the topic {self.name} is {least}, more than its {self.replication} replicas, "
                "so that no producer can write: set it to 1, or give the topic more replicas."
            )
        elif self.in_sync < least:
            found.append(
                f"A partition of the topic {self.name} has {self.in_sync} replicas in sync, fewer than "
                f"min.insync.replicas={least}, so that no producer can write to it: start the brokers that are away."
            )
        return found

    def removal(self) -> list[str]:
        """Why it removes records that nobody has stored, with what mends that."""
        if "compact" not in (self.cleanup_policy or ""):
            return []
        return [
            f"cleanup.policy of the topic {self.name} is {self.cleanup_policy}, which keeps the last record of each "
            "run and removes those before it: `matyan topics create --alter` sets delete"
        ]

    def advice(self) -> list[str]:
        """What works and can be made safer."""
        if not self.partitions:
            return []
        return [
            *self._retention_advice(),
            *self._replication_advice(),
            *self._compression_advice(),
        ]

    def _retention_advice(self) -> list[str]:
        found = []
        if self.retention_ms is not None and 0 <= self.retention_ms < _SAFE_RETENTION_MS:
            found.append(
                f"retention.ms={self.retention_ms} is unsafe: a record that no worker has stored after "
                f"{self.retention_ms / 3_600_000:.3g} hours is lost; give it {_SAFE_RETENTION_MS} (three days, the "
                "workers' longest outage) or more."
            )
        if self.retention_bytes is not None and self.retention_bytes >= 0:
            found.append(
                f"retention.bytes={self.retention_bytes} is unsafe: beyond that size the oldest records are removed, "
                "stored or not; set it to -1."
            )
        return found

    def _compression_advice(self) -> list[str]:
        # Kafka calls none of a topic "uncompressed".
        if self.compression_type in (None, "producer", "uncompressed", *READ_BY_ALL):
            return []
        return [
            f"compression.type={self.compression_type}: the broker compresses all records so, whatever MATYAN_KAFKA_COMPRESSION "
            "says, and a plain worker of the reference's ends at the first; set it to producer if such a worker reads it."
        ]

    def _replication_advice(self) -> list[str]:
        if self.max_message_bytes is None:
            return [
                "Its max.message.bytes cannot be read: allow DescribeConfigs to have it checked."
            ]
        if self.replication == 1:
            return ["One replica: what the disk of its broker loses is lost."]
        if self.min_insync_replicas == self.replication:
            return [
                f"min.insync.replicas={self.min_insync_replicas} of {self.replication} replicas: no producer can write "
                "while one broker is away."
            ]
        if self.replication >= _SAFE_REPLICAS and self.min_insync_replicas == 1:
            return [
                "min.insync.replicas=1: an acknowledged record can stand on one broker alone, and be lost with it; "
                "`matyan topics create --alter` sets 2."
            ]
        return []


def about_order(topic: Topic) -> str:
    """What more partitions do to the order of a run."""
    return (
        f"A run's records keep their order within one of the {topic.partitions} partitions. When partitions are added, a run "
        "that goes on moves to another one, and what it sends then can be stored before what still waits in the old one: "
        "nothing is lost or stored twice, but of a value that is written twice the older can win. Add partitions while "
        "`matyan offsets show` says lag 0 and no client sends."
    )


def troubles(topics: Sequence[Topic]) -> list[str]:
    """What is wrong with any of them, the missing ones in one sentence."""
    return _missing(topics) + [
        sentence for topic in topics if _is_known(topic) for sentence in topic.trouble()
    ]


def _is_known(topic: Topic) -> bool:
    return topic.is_hidden or topic.partitions > 0


def _missing(topics: Sequence[Topic]) -> list[str]:
    names = [topic.name for topic in topics if not _is_known(topic)]
    return [no_topics(names)] if names else []


def topic_names(settings: Settings, partitions: int = 6) -> dict[str, int]:
    """The topics of a deployment and how many partitions each gets; `partitions`: of the records'."""
    ingest, control = settings.kafka_data_ingestion_topic, settings.kafka_control_events_topic
    return {
        ingest: partitions,
        control: 1,
        dead_letter_topic(ingest): 1,
        dead_letter_topic(control): 1,
    }


def require_topics(admin: AdminClient, names: Iterable[str]) -> None:
    """The question for readiness: they are there and keep what they are given. Another trouble is not asked for: it can
    be one record's, and traffic would leave a service that does what can be done.

    Raises:
        Unavailable: the broker does not answer, some are missing, or remove records.
    """
    topics = inspect_topics(admin, sorted(names))
    hidden = [sentence for topic in topics if topic.is_hidden for sentence in topic.trouble()]
    removed = [sentence for topic in topics for sentence in topic.removal()]
    _refuse(_missing(topics) + hidden + removed)


def require_access(admin: AdminClient, needs: Mapping[str, AclOperation]) -> dict[str, int]:
    """The number of partitions of each of these topics, on which this user may do what it needs.

    Raises:
        Unavailable: the broker does not answer, a topic is missing, or the user may not.
    """
    asked = admin.describe_topics(
        TopicCollection([*needs]), include_authorized_operations=True, request_timeout=NETWORK_S
    )
    counts = {}
    for name, operation in needs.items():
        found = result(asked[name], name)
        # None: of a broker that does not say.
        if found.authorized_operations and operation not in found.authorized_operations:
            raise Forbidden(
                f"The user of this service may not {operation.name} the topic {name}: allow it in Kafka's ACLs "
                "(`matyan doctor` prints the command)."
            )
        counts[name] = len(found.partitions)
    return counts


def require_fit_topics(admin: AdminClient, names: Sequence[str]) -> None:
    """The thorough question, for a start.

    Raises:
        Unavailable: the broker does not answer, or has not what our records need.
    """
    _refuse(troubles(inspect_topics(admin, names)))


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise Unavailable(" ".join(found))


def inspect_topics(admin: AdminClient, names: Sequence[str]) -> list[Topic]:
    """Each of `names` as it is on the broker.

    Raises:
        Unavailable: it does not answer.
    """
    known = cluster(admin).topics
    standing = [name for name in names if name in known]
    # Of all topics only those are listed that this user may see; asked for by name, each of the others tells why not.
    described = (
        admin.describe_topics(TopicCollection([*names]), request_timeout=NETWORK_S) if names else {}
    )
    configs = _configs(admin, standing) if standing else {}
    return [
        _topic(name, result(described[name], name), configs[name])
        if name in configs
        else Topic(name, is_hidden=_is_hidden(described[name], name))
        for name in names
    ]


def _is_hidden(soon: Any, name: str) -> bool:
    try:
        result(soon, name)
    except Forbidden:
        return True
    except NoTopic:
        return False
    return False  # it was made a moment ago


def _configs(
    admin: AdminClient, names: Sequence[str]
) -> dict[str, Mapping[str, ConfigEntry] | None]:
    """The settings of these topics; None where we may not read them."""
    asked = admin.describe_configs(
        [ConfigResource(ResourceType.TOPIC, name) for name in names], request_timeout=NETWORK_S
    )
    return {
        resource.name: _unless_forbidden(soon, resource.name) for resource, soon in asked.items()
    }


def _unless_forbidden(soon: Any, name: str) -> Any:
    try:
        return result(soon, name)
    except Forbidden:
        return None


def _topic(name: str, described: Any, config: Mapping[str, ConfigEntry] | None) -> Topic:
    rows = described.partitions
    topic = Topic(
        name,
        partitions=len(rows),
        replication=min(len(row.replicas) for row in rows),
        in_sync=min(len(row.isr) for row in rows),
    )
    if config is None:
        return topic
    return replace(
        topic,
        cleanup_policy=str(config["cleanup.policy"].value),
        retention_ms=int(config["retention.ms"].value or -1),
        retention_bytes=int(config["retention.bytes"].value or -1),
        compression_type=str(config["compression.type"].value),
        max_message_bytes=int(config["max.message.bytes"].value or 0),
        min_insync_replicas=int(config["min.insync.replicas"].value or 0),
    )


def create_topics(admin: AdminClient, topics: Mapping[str, int], replication: int) -> list[str]:
    """Makes those of `topics` (partitions by name) that are missing; returns their names.

    Raises:
        Unavailable: the broker does not answer, or does not make them (the text says why).
    """
    known = cluster(admin).topics
    missing = [name for name in topics if name not in known]
    if missing:
        config = {name: str(value) for name, value in topic_config(replication).items()}
        config[_POLICY] = _DELETE
        new = [NewTopic(name, topics[name], replication, config=config) for name in missing]
        for name, soon in admin.create_topics(new, request_timeout=NETWORK_S).items():
            result(soon, name)
    return missing


def alter_topics(admin: AdminClient, topics: Iterable[Topic]) -> list[str]:
    """Sets what `topic_config` says where the topic has less; returns the names of those that were changed.

    Raises:
        Unavailable: the broker does not answer, or refuses (the text says why).
    """
    resources = []
    for topic in topics:
        has = {
            "max.message.bytes": topic.max_message_bytes,
            "min.insync.replicas": topic.min_insync_replicas,
        }
        less: dict[str, int | str] = {
            name: value
            for name, value in topic_config(topic.replication).items()
            if (now := has[name]) is not None and now < value
        }
        if "compact" in (topic.cleanup_policy or ""):
            less[_POLICY] = _DELETE
        if less:
            entries = [
                ConfigEntry(name, str(value), incremental_operation=AlterConfigOpType.SET)
                for name, value in less.items()
            ]
            resources.append(
                ConfigResource(ResourceType.TOPIC, topic.name, incremental_configs=entries)
            )
    if resources:
        altered = admin.incremental_alter_configs(resources, request_timeout=NETWORK_S)
        for resource, soon in altered.items():
            result(soon, resource.name)
    return [resource.name for resource in resources]


def topic_config(replication: int) -> dict[str, int]:
    """The settings of our topics: with three replicas a record is acknowledged when two brokers have it, and one
    broker may be away."""
    config = {"max.message.bytes": _GIVEN_MESSAGE_BYTES}
    if replication >= _SAFE_REPLICAS:
        config["min.insync.replicas"] = _SAFE_IN_SYNC_REPLICAS
    return config
