"""The reference's worker and API server, `matyan-backend` 0.3.0, as processes on the tests' cluster, unmodified."""

from __future__ import annotations

import json
import struct
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dev.environments import reference_api, reference_worker
from dev.process import free_ports
from tests.cluster.workers import ClusterDeployment
from tests.fdb import CLUSTER
from tests.needs import needed
from tests.services import serving
from tests.tracker import Process, started
from tests.until import wait_for

GROUP = "ingestion-workers"
"""The consumer group of its workers."""


def environment(deployment: ClusterDeployment) -> dict[str, str]:
    return {
        "FDB_CLUSTER_FILE": str(Path(CLUSTER).absolute()),
        "KAFKA_BOOTSTRAP_SERVERS": deployment.broker.bootstrap,
        "KAFKA_DATA_INGESTION_TOPIC": deployment.topic,
        "KAFKA_CONTROL_EVENTS_TOPIC": f"{deployment.topic}-control",
        "METRICS_PORT": "0",
    }


@contextmanager
def worker(deployment: ClusterDeployment, **env: str) -> Iterator[Process]:
    command = needed(reference_worker, "MATYAN_TEST_REQUIRE_REFERENCE")
    with started(command, **{**environment(deployment), **env}) as process:
        yield process


@dataclass
class Api:
    url: str

    def get(self, path: str) -> Any:
        return json.loads(self._ask(path, None))

    def post(self, path: str, body: object) -> Any:
        return json.loads(self._ask(path, json.dumps(body).encode()))

    def put(self, path: str, body: object) -> Any:
        return json.loads(self._ask(path, json.dumps(body).encode(), "PUT"))

    def stream(self, path: str) -> dict[Any, Any]:
        """An answer in the binary form, as one tree."""
        return tree(self._ask(path, None))

    def _ask(self, path: str, body: bytes | None, method: str | None = None) -> bytes:
        headers = {"Content-Type": "application/json"}
        url = f"{self.url}/api/v1/rest/{path}"
        request = urllib.request.Request(url, body, headers, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            found: bytes = answer.read()
            return found

    def answers(self) -> bool:
        try:
            self.get("version/")
        except OSError:
            return False
        return True


@contextmanager
def api(deployment: ClusterDeployment) -> Iterator[Api]:
    """An API server that answers."""
    command = needed(reference_api, "MATYAN_TEST_REQUIRE_REFERENCE")
    (port,) = free_ports(1)
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with started(words, **environment(deployment)) as process:
        found = Api(f"http://127.0.0.1:{port}")
        wait_for(lambda: process.process.poll() is not None or found.answers())
        assert process.process.poll() is None, "".join(process.output)
        yield found


@contextmanager
def our_api(deployment: ClusterDeployment) -> Iterator[Api]:
    """Ours, on the same store and with the same settings."""
    with serving("api", "--store", "fdb:", **environment(deployment)) as service:
        wait_for(lambda: not service.unready())
        yield Api(service.url)


def tree(data: bytes) -> dict[Any, Any]:
    """What a stream of (path, value) pairs says: a list is a dict by int, which is enough to compare.

    Each pair is two byte strings behind their lengths (little endian, 4 bytes). An element of a path ends in FE, an int is FE and 8
    bytes, big endian; a value is a type and, little endian, what it holds.
    """
    found: dict[Any, Any] = {}
    at = 0

    def take() -> bytes:
        nonlocal at
        (size,) = struct.unpack_from("<I", data, at)
        at += 4 + size
        return data[at - size : at]

    while at < len(data):
        *path, last = _path(take())
        inner = found
        for element in path:
            inner = inner.setdefault(element, {})
        inner[last] = _value(take())
    return found


def _path(data: bytes) -> list[str | int]:
    elements: list[str | int] = []
    at = 0
    while at < len(data):
        if data[at] == 0xFE:
            elements.append(int.from_bytes(data[at + 1 : at + 9], "big", signed=True))
            at += 10
        else:
            end = data.index(0xFE, at)
            elements.append(data[at:end].decode())
            at = end + 1
    return elements


def _value(data: bytes) -> Any:
    kind, rest = data[0], data[1:]
    match kind:
        case 0:
            return None
        case 1:
            return bool(rest[0])
        case 2:
            return int.from_bytes(rest, "little", signed=True)
        case 3:
            return struct.unpack("<d", rest)[0]
        case 4:
            return rest.decode()
        case 5:
            return rest
        case _:
            return {}
