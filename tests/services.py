"""The services of a deployment as real processes on a real broker, each with the topic that it is told."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.broker import Broker, Cluster
from dev.process import free_ports
from tests.tracker import MATYAN, Service, started

TOPIC = "data-ingestion"


class Frontier(Service):
    def frames(self, outcome: str) -> int:
        """How many frames had this outcome, by the frontier's own count."""
        return int(sum(self.metric(f'matyan_frontier_frames_total{{outcome="{outcome}"}}')))


@contextmanager
def frontier(
    broker: Broker | Cluster,
    topic: str = TOPIC,
    *,
    port: int | str = 0,
    command: Sequence[str] = (*MATYAN, "frontier"),
    **env: str,
) -> Iterator[Frontier]:
    """A frontier that listens. It may not have met the broker yet."""
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with started(words, "frontier on port", **{**kafka(broker, topic), **env}) as process:
        found = re.search(r"frontier on port (\d+)", "".join(process.output))
        assert found is not None
        yield Frontier(process.process, process.output, f"http://127.0.0.1:{found.group(1)}")


class Worker(Service):
    def applied(self) -> int:
        """Records that are in its store, by its own count."""
        return int(sum(self.metric("matyan_ingestion_messages_processed_total")))


@contextmanager
def ingest_worker(
    broker: Broker | Cluster, data: Path, topic: str = TOPIC, *, workers: int = 1, **env: str
) -> Iterator[Worker]:
    """An ingestion worker on the data folder `data`."""
    words = ("ingest-worker", "--store", f"rocks:{data}", "--workers", str(workers))
    with serving(*words, **{**kafka(broker, topic), **env}) as service:
        yield Worker(service.process, service.output, service.url)


@contextmanager
def serving(*words: str, **env: str) -> Iterator[Service]:
    """A service that may not listen yet; killed at the end unless the test stopped it."""
    (port,) = free_ports(1)
    option = "--port" if words[0] in ("frontier", "api") else "--metrics-port"
    command = [*MATYAN, *words, "--host", "127.0.0.1", option, str(port)]
    with started(command, **env) as process:
        yield Service(process.process, process.output, f"http://127.0.0.1:{port}")


def kafka(broker: Broker | Cluster, topic: str = TOPIC) -> dict[str, str]:
    """The environment that names the broker and the topic."""
    return {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "KAFKA_DATA_INGESTION_TOPIC": topic}
