"""Rights in Kafka (its ACLs): what each service does, whether this user may do it, and the commands that allow it.

Asked and tried without leaving anything behind. Blocking calls, for a thread.
"""

from __future__ import annotations

import shlex
import threading
import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient

from matyan.broker.kafka.admin import NETWORK_S, Forbidden, NoTopic, result
from matyan.broker.kafka.client import connection
from matyan.errors import Unavailable
from matyan.settings import Settings, dead_letter_topic

READ, WRITE = AclOperation.READ, AclOperation.WRITE

_NO_PARTITION: Final = 2**31 - 2


@dataclass(frozen=True, slots=True)
class Right:
    """To READ or WRITE a topic, or to READ with a group."""

    operation: AclOperation
    kind: Literal["topic", "group"]
    name: str

    def __str__(self) -> str:
        return f"{self.operation.name} the {self.kind} {self.name}"


def rights_of(settings: Settings) -> dict[str, list[Right]]:
    """What each service needs, by its command."""
    ingest, control = settings.kafka_data_ingestion_topic, settings.kafka_control_events_topic
    return {
        "frontier": [Right(WRITE, "topic", ingest)],
        "ingest-worker": [
            Right(READ, "topic", ingest),
            Right(READ, "group", settings.ingestion_group),
            Right(WRITE, "topic", dead_letter_topic(ingest)),
            Right(WRITE, "topic", control),
        ],
        "control-worker": [
            Right(READ, "topic", control),
            Right(READ, "group", settings.control_group),
            Right(WRITE, "topic", dead_letter_topic(control)),
        ],
        "api": [Right(WRITE, "topic", ingest), Right(WRITE, "topic", control)],
    }


def missing_rights(
    admin: AdminClient, config: Mapping[str, Any], rights: Collection[Right], topic: str
) -> list[Right]:
    """Those of `rights` that this user has not. A topic that is not there is passed over: others say so.

    config: of any client. topic: one that a group is tried with.

    Raises:
        Unavailable: the broker does not answer.
    """
    names = sorted({right.name for right in rights if right.kind == "topic"})
    asked = admin.describe_topics(
        TopicCollection(names), include_authorized_operations=True, request_timeout=NETWORK_S
    )
    allowed: dict[tuple[str, str], Collection[AclOperation]] = {}
    for name in names:
        try:
            # None: of a broker that does not say.
            found = result(asked[name], name).authorized_operations or (READ, WRITE)
        except Forbidden:
            found = ()
        except NoTopic:
            found = (READ, WRITE)
        allowed["topic", name] = found
    for right in rights:
        if right.kind == "group":
            may = _may_commit(config, right.name, topic)
            allowed["group", right.name] = (READ,) if may else ()
    return [right for right in rights if right.operation not in allowed[right.kind, right.name]]


def _may_commit(config: Mapping[str, Any], group: str, topic: str) -> bool:
    """Tries to commit an offset of a partition that cannot be: the broker asks first whether the group may be used, then
    whether there is such a partition. So nothing changes, and the group's members notice nothing.

    Raises:
        Unavailable: the broker does not answer.
    """
    said: list[KafkaError] = []

    def hear(error: KafkaError | None, partitions: Sequence[TopicPartition]) -> None:
        said.extend([one.error for one in partitions if one.error] or ([error] if error else []))

    outsider = Consumer(
        {**connection(config), "group.id": group, "enable.auto.commit": False, "on_commit": hear}
    )
    deadline = time.monotonic() + NETWORK_S
    try:
        outsider.commit(offsets=[TopicPartition(topic, _NO_PARTITION, 0)], asynchronous=True)
        while not said and time.monotonic() < deadline:
            # Who may not even see the group hears it here, and its commit waits for a coordinator on and on.
            message = outsider.poll(0.1)
            if message is not None and (error := message.error()) is not None:
                said.append(error)
    except KafkaException as error:
        said.append(error.args[0])
    finally:
        # Not waited for: with a commit that waits it takes as long as a session.
        threading.Thread(target=outsider.close, daemon=True).start()
    if not said or said[0].code() < 0:
        why = said[0].str() if said else f"no answer in {NETWORK_S:g} s"
        raise Unavailable(f"Kafka's consumer group {group} does not answer: {why}.")
    return said[0].code() != KafkaError.GROUP_AUTHORIZATION_FAILED


def principal(settings: Settings) -> str:
    """Whom Kafka takes us for, as an ACL names it; PRINCIPAL where only the brokers know."""
    if settings.kafka_security_protocol.startswith("SASL") and settings.kafka_sasl_username:
        return f"User:{settings.kafka_sasl_username}"
    if settings.kafka_security_protocol in ("", "PLAINTEXT"):
        return "User:ANONYMOUS"
    return "User:PRINCIPAL"


def commands(settings: Settings, missing: Collection[Right]) -> Iterator[str]:
    """Command lines of Kafka's own tool that give `missing`: one for each topic and group."""
    operations = defaultdict[tuple[str, str], list[str]](list)
    for right in missing:
        operations[right.kind, right.name].append(right.operation.name.capitalize())
    for (kind, name), names in operations.items():
        words = ["kafka-acls", "--bootstrap-server", settings.kafka_bootstrap_servers]
        words += ["--command-config", "ADMIN.properties", "--add"]
        words += ["--allow-principal", principal(settings)]
        for operation in dict.fromkeys(names):
            words += ["--operation", operation]
        yield shlex.join([*words, f"--{kind}", name])
