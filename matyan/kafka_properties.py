"""The file of MATYAN_KAFKA_CONFIG: properties of librdkafka that an operator gives our clients besides the settings.

Lines of NAME=VALUE; those that begin with # are comments. What is refused here, and why, is stated once, in `_REFUSED`; what
librdkafka itself does not know or take is said by it when the clients are made (`broker/kafka/client.py`). The names are those
of librdkafka's CONFIGURATION.md.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Final

from matyan import parsing
from matyan.secret import read_small


class Properties(Mapping[str, str]):
    """What stands in the file. Its repr shows no value: passwords, keys and tokens can be among them."""

    def __init__(self, path: str = "", values: Mapping[str, str] | None = None) -> None:
        self.path = path
        self._values = dict(values or {})

    def __getitem__(self, name: str) -> str:
        return self._values[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __hash__(self) -> int:
        return hash((self.path, *self._values.items()))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Properties) and (self.path, self._values) == (
            other.path,
            other._values,
        )

    def __repr__(self) -> str:
        return f"({self.path or 'none'}: {', '.join(self._values)})" if self else "(none)"

    def of_producers(self) -> dict[str, str]:
        """Those that a producer takes and that are no settings; the same below."""
        return self._without(CONSUMERS)

    def of_consumers(self) -> dict[str, str]:
        return self._without(PRODUCERS)

    def of_all(self) -> dict[str, str]:
        """Those that every client takes, an admin client too."""
        return self._without(CONSUMERS | PRODUCERS)

    def unsafe(self) -> list[str]:
        """Those that let anybody be the broker, or be us, as they stand in the file: for trying things out alone."""
        return [
            f"{name}={value}"
            for name, value in self.items()
            if value.lower() in _UNSAFE.get(name, ())
        ]

    def _without(self, names: Collection[str]) -> dict[str, str]:
        return {
            name: value
            for name, value in self.items()
            if name not in names and name not in OF_SETTINGS
        }


CONSUMERS: Final = frozenset(
    {
        *("auto.commit.enable", "auto.commit.interval.ms", "auto.offset.reset", "check.crcs"),
        *("consume.callback.max.messages", "coordinator.query.interval.ms", "enable.auto.commit"),
        *("enable.auto.offset.store", "enable.partition.eof", "fetch.error.backoff.ms"),
        *("fetch.max.bytes", "fetch.message.max.bytes", "fetch.min.bytes"),
        *("fetch.queue.backoff.ms", "fetch.wait.max.ms", "group.id", "group.instance.id"),
        *("group.protocol", "group.protocol.type", "group.remote.assignor"),
        *("heartbeat.interval.ms", "isolation.level", "max.partition.fetch.bytes"),
        *("max.poll.interval.ms", "offset.store.method", "offset.store.path"),
        *("offset.store.sync.interval.ms", "partition.assignment.strategy"),
        *("queued.max.messages.kbytes", "queued.min.messages", "session.timeout.ms"),
    }
)
"""Properties of consumers alone: with one of them a producer would log a warning."""

PRODUCERS: Final = frozenset(
    {
        *("acks", "batch.num.messages", "batch.size", "compression.codec", "compression.level"),
        *("compression.type", "delivery.report.only.error", "delivery.timeout.ms"),
        *("enable.gapless.guarantee", "enable.idempotence", "linger.ms"),
        *("message.send.max.retries", "message.timeout.ms", "partitioner"),
        *("produce.offset.report", "queue.buffering.backpressure.threshold"),
        *("queue.buffering.max.kbytes", "queue.buffering.max.messages"),
        *("queue.buffering.max.ms", "queuing.strategy", "request.required.acks"),
        *("request.timeout.ms", "retries", "sticky.partitioning.linger.ms"),
        *("transaction.timeout.ms", "transactional.id"),
    }
)
"""Properties of producers alone."""

OF_SETTINGS: Final[Mapping[str, str]] = {
    "bootstrap.servers": "KAFKA_BOOTSTRAP_SERVERS",
    "metadata.broker.list": "KAFKA_BOOTSTRAP_SERVERS",
    "security.protocol": "KAFKA_SECURITY_PROTOCOL",
    "sasl.mechanism": "KAFKA_SASL_MECHANISM",
    "sasl.mechanisms": "KAFKA_SASL_MECHANISM",
    "sasl.username": "KAFKA_SASL_USERNAME",
    "sasl.password": "KAFKA_SASL_PASSWORD",
    "ssl.ca.location": "KAFKA_SSL_CAFILE",
    "ssl.certificate.location": "KAFKA_SSL_CERTFILE",
    "ssl.key.location": "KAFKA_SSL_KEYFILE",
    "ssl.key.password": "KAFKA_SSL_KEY_PASSWORD",
}
"""Properties that are settings, too: here they count as the setting, unless that is given."""

_ACKNOWLEDGED = "a reply says that every in-sync replica has the records"
_ONCE = "without it what is sent again could stand twice, or behind what came later"
_PATIENCE = "MATYAN_DELIVERY_TIMEOUT_S says how long is tried"
_BUDGET = "MATYAN_QUEUE_BYTES bounds what waits, so that a frame is taken whole or not at all"
_COMPRESSION = "MATYAN_KAFKA_COMPRESSION says it"
_STORED = "a partition goes on at the offset that is stored with its records"
_OFFSETS_FILE = "offsets are kept in the store and in Kafka"
_GROUP = "partitions are handed over by the cooperative protocol, as the workers are made for"
_PARTITIONS = (
    "clients must know within seconds that partitions were added, or a run's order suffers"
)
_TRANSACTIONS = "records are not written in transactions"
_FIXED = "our clients have their own"

_REFUSED: Final[Mapping[str, str]] = {
    "acks": _ACKNOWLEDGED,
    "request.required.acks": _ACKNOWLEDGED,
    "enable.idempotence": _ONCE,
    "enable.gapless.guarantee": _ONCE,
    "queuing.strategy": "a run's records keep their order",
    "partitioner": "a run's records must stand in one partition, the same for all programs",
    "message.timeout.ms": _PATIENCE,
    "delivery.timeout.ms": _PATIENCE,
    "retries": _PATIENCE,
    "message.send.max.retries": _PATIENCE,
    "request.timeout.ms": "the requests of a client that failed are waited for as long as its default says",
    "transactional.id": _TRANSACTIONS,
    "transaction.timeout.ms": _TRANSACTIONS,
    "queue.buffering.max.messages": _BUDGET,
    "queue.buffering.max.kbytes": _BUDGET,
    "message.max.bytes": "a record of 900 KiB must fit, and a batch must fit the topic's max.message.bytes",
    "delivery.report.only.error": _FIXED,
    "compression.type": _COMPRESSION,
    "compression.codec": _COMPRESSION,
    "group.id": "MATYAN_INGESTION_GROUP and MATYAN_CONTROL_GROUP name the groups",
    "group.instance.id": "MATYAN_INSTANCE_ID says it",
    "enable.auto.commit": _STORED,
    "auto.commit.enable": _STORED,
    "auto.commit.interval.ms": _STORED,
    "enable.auto.offset.store": _STORED,
    "auto.offset.reset": _STORED,
    "offset.store.method": _OFFSETS_FILE,
    "offset.store.path": _OFFSETS_FILE,
    "offset.store.sync.interval.ms": _OFFSETS_FILE,
    "isolation.level": "records of a transaction that was given up must not be stored",
    "partition.assignment.strategy": _GROUP,
    "group.protocol": _GROUP,
    "group.protocol.type": _GROUP,
    "group.remote.assignor": _GROUP,
    "enable.partition.eof": _FIXED,
    "topic.metadata.refresh.interval.ms": _PARTITIONS,
    "metadata.max.age.ms": _PARTITIONS,
    "allow.auto.create.topics": "`matyan topics create` makes topics, as our records need them",
    "enabled_events": _FIXED,
    "log.queue": _FIXED,
    "logger": _FIXED,
    "on_delivery": _FIXED,
    "on_commit": _FIXED,
    "opaque": _FIXED,
    "msg_order_cmp": _FIXED,
    "default.topic.config": "properties of topics stand in this file like all others",
    "default_topic_conf": "properties of topics stand in this file like all others",
}
_UNSAFE: Final[Mapping[str, Collection[str]]] = {
    "enable.sasl.oauthbearer.unsecure.jwt": ("true", "t", "1"),
    "enable.ssl.certificate.verification": ("false", "f", "0"),
    "ssl.endpoint.identification.algorithm": ("none",),
}
_MOST_IN_FLIGHT: Final = 5
_IN_FLIGHT: Final = frozenset({"max.in.flight", "max.in.flight.requests.per.connection"})


def _why_refused(name: str, value: str) -> str | None:
    if name in _IN_FLIGHT and not re.fullmatch(f"[1-{_MOST_IN_FLIGHT}]", value):
        return f"with more than {_MOST_IN_FLIGHT} requests in flight Kafka keeps no order (1 to {_MOST_IN_FLIGHT} is taken)"
    return _FIXED if name.endswith("_cb") else _REFUSED.get(name)


def gets_tokens(properties: Mapping[str, str]) -> bool:
    """Whether they say where the tokens of OAUTHBEARER come from."""
    return properties.get("sasl.oauthbearer.method", "").lower() == "oidc" or properties.get(
        "enable.sasl.oauthbearer.unsecure.jwt", ""
    ).lower() in ("true", "t", "1")


_NAME = re.compile(r"[A-Za-z0-9._-]+")


def read(raw: str) -> Properties:
    """The properties of the file `raw`, an empty text for none.

    Raises:
        ValueError: there is no such file, a line is none, or a property is refused; a fragment that shows no value.
    """
    path = parsing.text(raw)
    if not path:
        return Properties()
    text, trouble = read_small(path)
    if trouble:
        raise ValueError(f"expected a file of librdkafka's properties, and this is {trouble}")
    values: dict[str, str] = {}
    refused = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, equals, value = (word.strip() for word in line.partition("="))
        if not equals or not _NAME.fullmatch(name):
            raise ValueError(f"expected NAME=VALUE or a comment (#) in line {number}")
        if name in values:
            raise ValueError(f"expected each property once, and line {number} sets {name} again")
        try:
            values[name] = parsing.text(value)
        except ValueError as error:
            raise ValueError(f"line {number}, {name}: {error}") from None
        if why := _why_refused(name, value):
            refused.append(f"line {number} sets {name}, but {why}")
    if refused:
        raise ValueError(f"expected properties that matyan leaves to you: {'; '.join(refused)}")
    return Properties(path, values)
