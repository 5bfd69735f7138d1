"""Kafka's administration: the offsets of a group, a topic's id, and the words for what is missing.

Which topics there are and whether they are fit is `topics.py`'s. Blocking calls, for a thread. Nothing here is on a record's way.
"""

from __future__ import annotations

import logging
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from confluent_kafka import (
    Consumer,
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

from matyan.broker.kafka.client import LIBRDKAFKA_LOGGER, connection
from matyan.broker.kafka.reasons import DISCONNECTED, MOST_TELLING, connection_reason
from matyan.errors import Unavailable

NETWORK_S = 10.0
PATIENCE_S = 10.0
"""How long a group is waited for that its broker does not know yet."""
_AGAIN_S = 0.2

T = TypeVar("T")

_OURS = "matyan "


def metadata(topic_id: str, store_id: str = "") -> str:
    """What the offsets that we commit to Kafka carry, so that another program's, and another store's, are told from ours."""
    return f"{_OURS}{topic_id} {store_id}".rstrip()


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
    store: str | None = None
    """The id of the store that stands there; None: none, as of an older version."""


class _Heard:
    """What librdkafka says of a client's connections: its errors by code, and as its logger the one line that no error tells."""

    def __init__(self, logger: Any) -> None:
        self.errors: dict[int, str] = {}
        self._logger = logger

    def hear(self, error: KafkaError) -> None:
        self.errors[error.code()] = error.str()

    def log(self, level: int, form: str, *words: Any) -> None:
        """A line of librdkafka's log. `words`: its facility, the client and the line."""
        facility, line = str(words[0]), str(words[-1])
        if facility == "FAIL" and DISCONNECTED in line:
            # "[thrd:kafka:9092/bootstrap]: kafka:9092/bootstrap: Disconnected …"
            self.errors.setdefault(KafkaError._TRANSPORT, line.partition("]: ")[2])
        self._logger.log(level, form, *words)


class Admin(AdminClient):
    """An admin client that remembers why it does not reach its brokers."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = connection(config)
        self._heard = _Heard(self._config.get("logger", logging.getLogger(LIBRDKAFKA_LOGGER)))
        told: dict[str, Any] = {
            **self._config,
            "error_cb": self._heard.hear,
            "logger": self._heard,
        }
        super().__init__(told)

    def why_away(self) -> str | None:
        """The most telling of what the connections failed with since the last call, with the address; None: nothing.

        It may connect once more, for some seconds.
        """
        self.poll(0)
        heard, self._heard.errors = self._heard.errors, {}
        for code in (*MOST_TELLING, *heard):
            if code in heard and code != KafkaError._ALL_BROKERS_DOWN:
                return connection_reason(code, heard[code], self._config)
        return None


def open_admin(config: Mapping[str, Any]) -> Admin:
    """An admin client with what `config`, of any client, says of the connection."""
    return Admin(config)


def _away(admin: AdminClient, error: KafkaException) -> str:
    why = admin.why_away() if isinstance(admin, Admin) else None
    return f"Kafka does not answer: {why or error.args[0].str()}."


def cluster(admin: AdminClient) -> ClusterMetadata:
    """The brokers and topics.

    Raises:
        Unavailable: no broker answers.
    """
    try:
        return admin.list_topics(timeout=NETWORK_S)
    except KafkaException as error:
        raise Unavailable(_away(admin, error)) from error


def describe_topic_soon(admin: AdminClient, topic: str) -> Future[Any]:
    """The topic's description (its id, its partitions, what this user may do with it), when it is there."""
    soon: Future[Any] = admin.describe_topics(
        TopicCollection([topic]), include_authorized_operations=True, request_timeout=NETWORK_S
    )[topic]
    return soon


def describe_topic(admin: AdminClient, topic: str) -> Any:
    """The topic's description.

    Raises:
        Unavailable: the broker does not answer, or has no such topic (yet).
    """
    return result(describe_topic_soon(admin, topic), topic)


def answered(partitions: list[TopicPartition]) -> list[TopicPartition]:
    """A group's answer about partitions, whose errors stand in it one by one: the call as a whole does not fail.

    Raises:
        Unavailable: one is an error.
    """
    for tp in partitions:
        if tp.error is None:
            continue
        place = f"{tp.topic} [{tp.partition}]"
        raise Unavailable(f"Kafka's consumer group does not answer for {place}: {tp.error.str()}.")
    return partitions


def patiently(ask: Callable[[], T], patience_s: float = PATIENCE_S) -> T:
    """Asks again for a while: a broker that has started just now, or has taken a group over, answers before it knows the group.

    Raises:
        Unavailable: it still does not know.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            return ask()
        except Unavailable:
            if time.monotonic() >= deadline:
                raise
            time.sleep(_AGAIN_S)


class Forbidden(Unavailable):
    """The broker does not let this user do it."""


class NoTopic(Unavailable):
    """The broker has no such topic (yet)."""


def result(soon: Future[Any], topic: str) -> Any:
    """What an admin call about `topic` gave.

    Raises:
        Forbidden: the user may not do that.
        NoTopic: there is no such topic (yet).
        Unavailable: the broker does not answer, or refuses.
    """
    try:
        return soon.result(NETWORK_S + 1)
    except KafkaException as error:
        raise _unavailable(error, topic) from error
    except TimeoutError as error:
        # librdkafka's own limit comes first, unless the machine is too busy to tell.
        raise Unavailable(
            "Kafka does not answer: look at KAFKA_BOOTSTRAP_SERVERS, and whether the broker runs."
        ) from error


def no_topics(names: Sequence[str]) -> str:
    """The sentence about topics that are missing."""
    them = "it" if len(names) == 1 else "them"
    return f"Kafka has no topic {', '.join(names)}: `matyan topics create` makes {them}."


def _unavailable(error: KafkaException, topic: str) -> Unavailable:
    code, text = error.args[0].code(), error.args[0].str()
    if code in _NO_TOPIC:
        return NoTopic(no_topics([topic]))
    if code == KafkaError.UNKNOWN_MEMBER_ID:
        return Unavailable(
            f"Kafka takes no offset of {topic} while the consumer group has members: stop them, and wait for those that "
            "were killed, which stay in it for their session (45 s by default)."
        )
    if code in _FORBIDDEN:
        return Forbidden(
            f"Kafka does not let us do that with {topic}: {text}. Allow it in Kafka's ACLs."
        )
    # librdkafka's own errors, of the connection mostly, are below 0; those of the protocol above.
    does = "does not answer" if code < 0 else f"refuses that for {topic}"
    return Unavailable(f"Kafka {does}: {text}.")


_NO_TOPIC = frozenset({KafkaError.UNKNOWN_TOPIC_OR_PART, KafkaError._UNKNOWN_TOPIC})
_FORBIDDEN = frozenset(
    {KafkaError.TOPIC_AUTHORIZATION_FAILED, KafkaError.CLUSTER_AUTHORIZATION_FAILED}
)


class Group:
    """A consumer group, as seen by somebody who is no member.

    While the group's coordinator moves, librdkafka's admin client ends the process when it is asked for the group's
    offsets or members (its issue 5040 and pull request 5397). So a consumer that never joins reads and commits the
    offsets, and the members come from the older `list_groups`.
    """

    def __init__(self, config: Mapping[str, Any], name: str) -> None:
        """config: of any client; it says how to connect."""
        self.name = name
        self.admin = open_admin(config)
        self._outsider = Consumer(
            {**connection(config), "group.id": name, "enable.auto.commit": False}
        )

    def places(self, topic: str, partitions: Iterable[int]) -> dict[int, Place]:
        """Where these partitions stand, by number.

        Raises:
            Unavailable: the broker does not answer, or has no such topic (yet).
        """
        tps = [TopicPartition(topic, partition) for partition in partitions]
        try:
            # Or list_offsets would be refused for minutes once a leader has moved: it does not look at the topic again.
            self.admin.list_topics(topic, timeout=NETWORK_S)
            lows, highs = (
                self.admin.list_offsets(dict.fromkeys(tps, spec), request_timeout=NETWORK_S)
                for spec in (OffsetSpec.earliest(), OffsetSpec.latest())
            )
            committed = self._outsider.committed(tps, timeout=NETWORK_S)
        except KafkaException as error:
            raise _unavailable(error, topic) from error
        low = {tp.partition: result(soon, topic).offset for tp, soon in lows.items()}
        high = {tp.partition: result(soon, topic).offset for tp, soon in highs.items()}
        return {
            tp.partition: Place(
                low[tp.partition],
                high[tp.partition],
                tp.offset if tp.offset >= 0 else None,
                (tp.metadata or "").startswith(_OURS),
                _store_in(tp),
            )
            for tp in answered(committed)
        }

    def stores(self, topic: str) -> dict[int, str | None]:
        """The id of the store whose worker committed last, of each partition.

        Raises:
            Unavailable: the broker does not answer, or has no such topic (yet).
        """
        try:
            known = self.admin.list_topics(topic, timeout=NETWORK_S).topics[topic]
            tps = [TopicPartition(topic, number) for number in known.partitions]
            committed = self._outsider.committed(tps, timeout=NETWORK_S) if tps else []
        except KafkaException as error:
            raise _unavailable(error, topic) from error
        return {tp.partition: _store_in(tp) for tp in answered(committed)}

    def owners(self, topic: str, timeout_s: float = NETWORK_S) -> dict[str, set[int]] | None:
        """The partitions of `topic` that each member has, by member id; None while the group rebalances.

        Raises:
            Unavailable: the broker does not answer.
        """
        try:
            groups = self.admin.list_groups(self.name, timeout=timeout_s)
        except KafkaException as error:
            raise _unavailable(error, topic) from error
        if any(group.state != "Stable" for group in groups):
            return None
        return {
            member.id or "": _assigned(member.assignment or b"").get(topic, set())
            for group in groups
            for member in group.members
        }

    def commit(
        self, topic: str, topic_id: str, offsets: Mapping[int, int], store_id: str = ""
    ) -> None:
        """Commits `offsets`, by partition, as ours and this store's.

        Raises:
            Unavailable: the broker does not answer, or the group has members.
        """
        tps = [
            TopicPartition(topic, partition, offset, metadata(topic_id, store_id))
            for partition, offset in offsets.items()
        ]
        try:
            committed = self._outsider.commit(offsets=tps, asynchronous=False) if tps else []
        except KafkaException as error:
            raise _unavailable(error, topic) from error
        answered(committed)


def _store_in(committed: TopicPartition) -> str | None:
    words = (committed.metadata or "").split(" ")
    return words[2] if words[0] == _OURS.strip() and len(words) > 2 else None


def _assigned(assignment: bytes) -> dict[str, set[int]]:
    """Reads Kafka's ConsumerProtocolAssignment: a version, and an array of topics with their partitions."""
    found = {}
    topics, at = struct.unpack_from(">i", assignment, 2)[0] if assignment else 0, 6
    for _ in range(topics):
        (length,) = struct.unpack_from(">h", assignment, at)
        name = assignment[at + 2 : at + 2 + length].decode()
        (count,) = struct.unpack_from(">i", assignment, at + 2 + length)
        at += 6 + length
        found[name] = set(struct.unpack_from(f">{count}i", assignment, at))
        at += 4 * count
    return found
