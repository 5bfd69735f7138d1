"""What breaks: one thing after another is killed, frozen, locked out, or has its disk filled, and is given back."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AclOperation, ResourceType

from tests.kafka.rules import GROUP, READ, TOPIC, WRITE, allow, deny
from tests.soak.deployment import CONTROL, GROUPS, INGESTION, Deployment

_MARGIN = 1 << 20


@dataclass(frozen=True)
class Fault:
    kind: str
    """killed, frozen, full or locked out."""
    what: str
    inflict: Callable[[], AbstractContextManager[None]]
    seconds: float
    """How long it lasts, of an hour's soak; shorter ones have it shorter."""

    def __str__(self) -> str:
        return f"{self.what} {self.kind}"


def plan(deployment: Deployment, disks: dict[str, Path]) -> list[Fault]:
    """Every fault, in order.

    What kills a process of ours comes first, so that its successor has long to be judged by. Then the workers get the most
    that they have to catch up with: what memory that takes once it keeps, and the same later must take no more.
    """
    d = deployment

    def killed(name: str, seconds: float = 20) -> Fault:
        return Fault("killed", name, partial(_killed, d, name), seconds)

    def frozen(name: str, seconds: float) -> Fault:
        return Fault("frozen", name, partial(_frozen, d, name), seconds)

    def locked_out(who: str, *what: object, seconds: float = 30) -> Fault:
        return Fault("locked out", who, partial(_locked_out, d, *what), seconds)

    def full(what: str, name: str) -> Fault:
        return Fault("full", f"{what}'s disk", partial(_full, d, disks[name], what), 40)

    last = f"broker {len(d.kafka.nodes)}"
    shared = "worker 2" in d.processes
    group = partial(locked_out, "the workers' group", GROUP, GROUPS[INGESTION], READ)
    reading = partial(locked_out, "the workers' reading", TOPIC, INGESTION, READ)
    return [
        killed("worker 1"),
        *([killed("worker 2", 5)] if shared else []),
        group(seconds=60),
        reading(seconds=60),
        killed("frontier 2", 5),
        killed("frontier 1", 15),
        killed("read API", 5),
        killed("control worker", 30),
        locked_out("the frontiers", TOPIC, INGESTION, WRITE),
        killed("broker 1", 30),
        *([full(last, "broker")] if "broker" in disks else []),
        frozen("frontier 1", 12),
        *([full("S3", "s3")] if "s3" in disks else []),
        frozen("worker 1", 60),
        killed("S3", 30),
        group(seconds=45),
        *([_foundation(d, "frozen", 12), _foundation(d, "killed", 10)] if d.foundation else []),
        *([full("the store", "store")] if "store" in disks else []),
        frozen("frontier 2", 35),
        frozen(last, 30),
        reading(seconds=45),
        locked_out("the control worker", TOPIC, CONTROL, READ, seconds=45),
        frozen("S3", 25),
        locked_out("the workers' events", TOPIC, CONTROL, WRITE),
        frozen("control worker", 40),
    ]


@contextmanager
def _killed(deployment: Deployment, name: str) -> Iterator[None]:
    deployment.kill(name)
    try:
        yield
    finally:
        deployment.launch(name)


@contextmanager
def _frozen(deployment: Deployment, name: str) -> Iterator[None]:
    server = dict(deployment.servers())[name]
    server.freeze()
    try:
        yield
    finally:
        server.thaw()


@contextmanager
def _locked_out(
    deployment: Deployment, kind: ResourceType, name: str, operation: AclOperation
) -> Iterator[None]:
    _insist(partial(deny, deployment.kafka, kind, name, operation))
    try:
        yield
    finally:
        _insist(partial(allow, deployment.kafka, kind, name))


def _insist(ask: Callable[[], None]) -> None:
    """Brokers that have just come back may take their time."""
    for tries_left in range(9, -1, -1):
        try:
            ask()
        except (KafkaException, TimeoutError):
            if not tries_left:
                raise
        else:
            return


@contextmanager
def _full(deployment: Deployment, disk: Path, what: str) -> Iterator[None]:
    """A file takes what is left. A broker may end of that, and is started when there is room again."""
    name = what if what in dict(deployment.servers()) else ""
    deployment.ended |= {name} - {""}
    filler = disk / "filler"
    _fill(filler)
    try:
        yield
    finally:
        filler.unlink()
        if name:
            time.sleep(1)  # one that is about to end does
            deployment.launch(name)


def _fill(filler: Path) -> None:
    """Takes the last page, beside whoever writes there at the same moment."""
    state = os.statvfs(filler.parent)
    rest = state.f_bavail * state.f_frsize - _MARGIN
    with filler.open("wb", buffering=0) as file:
        if rest > 0:
            os.posix_fallocate(file.fileno(), 0, rest)
            file.seek(rest)
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))


def _foundation(deployment: Deployment, kind: str, seconds: float) -> Fault:
    server = deployment.foundation
    assert server is not None

    @contextmanager
    def inflicted() -> Iterator[None]:
        (server.freeze if kind == "frozen" else server.kill)()
        try:
            yield
        finally:
            server.restore()

    return Fault(kind, "FoundationDB", inflicted, seconds)
