"""The services of a deployment as real processes on a real broker, each with the topic that it is told."""

from __future__ import annotations

import json
import re
import urllib.error
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dev.broker import Broker
from dev.process import free_ports
from tests.tracker import MATYAN, Service, started

TOPIC = "data-ingestion"


class Frontier(Service):
    def unready(self) -> dict[str, str]:
        """What is not well with it, by /health/ready/; empty when all is."""
        try:
            said = self.get("/health/ready/")
        except urllib.error.HTTPError as refused:
            said = refused.read()
        return {name: why for name, why in json.loads(said)["checks"].items() if why != "ok"}

    def frames(self, outcome: str) -> int:
        """How many frames had this outcome, by the frontier's own count."""
        return counted(self, f'matyan_frontier_frames_total{{outcome="{outcome}"}} ')


def counted(service: Service, metric: str) -> int:
    """The sum of a service's counters whose lines in /metrics/ begin with `metric`."""
    lines = service.get("/metrics/").decode().splitlines()
    return int(sum(float(line.split()[-1]) for line in lines if line.startswith(metric)))


@contextmanager
def frontier(
    broker: Broker,
    topic: str = TOPIC,
    *,
    port: int | str = 0,
    command: Sequence[str] = (*MATYAN, "frontier"),
    **env: str,
) -> Iterator[Frontier]:
    """A frontier that listens. It may not have met the broker yet."""
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with started(words, "frontier on port", **kafka(broker, topic), **env) as process:
        found = re.search(r"frontier on port (\d+)", "".join(process.output))
        assert found is not None, "".join(process.output)
        yield Frontier(process.process, process.output, f"http://127.0.0.1:{found.group(1)}")


class Worker(Service):
    def applied(self) -> int:
        """Records that are in its store, by its own count."""
        try:
            return counted(self, "matyan_ingestion_messages_processed_total")
        except OSError:  # it is starting
            return 0


@contextmanager
def ingest_worker(
    broker: Broker, data: Path, topic: str = TOPIC, *, workers: int = 1, **env: str
) -> Iterator[Worker]:
    """An ingestion worker on the data folder `data`."""
    (port,) = free_ports(1)
    words = [*MATYAN, "ingest-worker", "--store", f"rocks:{data}"]
    words += ["--workers", str(workers), "--metrics-port", str(port)]
    with started(words, **kafka(broker, topic), HOST="127.0.0.1", **env) as process:
        yield Worker(process.process, process.output, f"http://127.0.0.1:{port}")


def kafka(broker: Broker, topic: str = TOPIC) -> dict[str, str]:
    """The environment that names the broker and the topic."""
    return {"KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "KAFKA_DATA_INGESTION_TOPIC": topic}
