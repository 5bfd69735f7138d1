"""What each service's process holds, and what it does where there is no Kafka."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import trio

from dev.process import free_ports
from tests.tracker import MATYAN, started


async def test_frontier_imports_no_store() -> None:
    """The frontier's process holds neither a store's engine nor the code that handles blob content on disk."""
    code = (
        "import sys, matyan.cli.frontier, matyan.broker.kafka.producer, matyan.blobs.s3, matyan.frontier.edge\n"
        "bad = [m for m in sys.modules if m.startswith(('rocksdict', 'matyan.store.rocks', 'matyan.blobs.folder',"
        " 'matyan.rules.records', 'matyan.workers.ingest', 'fdb'))]\n"
        "assert not bad, bad"
    )
    await trio.run_process([sys.executable, "-c", code])


@pytest.mark.parametrize(
    "words",
    [
        ["frontier", "--port", "0"],
        ["ingest-worker", "--store", "rocks:."],
        ["control-worker"],
        ["control-worker", "--store", "fdb:none"],
    ],
    ids=lambda words: words[0],
)
def test_a_service_without_kafka_names_it_and_can_be_stopped(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long before the client gives up it says which brokers it waits for; SIGTERM ends it at once, with exit code 0."""
    monkeypatch.chdir(tmp_path)
    (port,) = free_ports(1)
    nobody = f"127.0.0.1:{port}"
    env = {"KAFKA_BOOTSTRAP_SERVERS": nobody, "METRICS_PORT": "0", "SHUTDOWN_FLUSH_TIMEOUT": "60"}
    with started([*MATYAN, *words], "no answer yet", **env) as service:
        assert any(nobody in line for line in service.output if "waits at its start" in line)
        service.process.terminate()
        assert service.process.wait(30) == 0
