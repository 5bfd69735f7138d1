"""Who may do what on a guarded broker: its rules (Kafka's ACLs), made and taken back by who may do all."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)

from dev.broker import USER, Broker

TOPIC, GROUP = ResourceType.TOPIC, ResourceType.GROUP
READ, WRITE = AclOperation.READ, AclOperation.WRITE


def guarded_environment(broker: Broker, **other: str) -> dict[str, str]:
    """The settings of a service that comes by the door with a password."""
    return {**broker.environment("plain-open"), **other}


def deny(broker: Broker, kind: ResourceType, name: str, operation: AclOperation) -> None:
    """Everything else stays allowed to that user."""
    rows = [(AclOperation.ALL, AclPermissionType.ALLOW), (operation, AclPermissionType.DENY)]
    admin = _admin(broker)
    made = admin.create_acls(
        [
            AclBinding(kind, name, ResourcePatternType.LITERAL, f"User:{USER}", "*", what, verdict)
            for what, verdict in rows
        ]
    )
    for soon in made.values():
        soon.result(10)


def allow_only(broker: Broker, kind: ResourceType, name: str, principal: str) -> None:
    """From now on somebody else alone may do something with it."""
    row = AclBinding(
        kind,
        name,
        ResourcePatternType.LITERAL,
        principal,
        "*",
        AclOperation.ALL,
        AclPermissionType.ALLOW,
    )
    admin = _admin(broker)
    for soon in admin.create_acls([row]).values():
        soon.result(10)


def allow(broker: Broker, kind: ResourceType, name: str) -> None:
    """Takes every rule about it back."""
    rows = AclBindingFilter(
        kind,
        name,
        ResourcePatternType.LITERAL,
        None,
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    admin = _admin(broker)
    for soon in admin.delete_acls([rows]).values():
        soon.result(10)


@contextmanager
def denied(
    broker: Broker, kind: ResourceType, name: str, operation: AclOperation
) -> Iterator[None]:
    deny(broker, kind, name, operation)
    wait_for_rules(broker)
    try:
        yield
    finally:
        allow(broker, kind, name)


def wait_for_rules(broker: Broker) -> None:
    """The broker's own threads hear of a rule a little later."""
    time.sleep(0.3)


def _admin(broker: Broker) -> AdminClient:
    return AdminClient({"bootstrap.servers": broker.bootstrap})
