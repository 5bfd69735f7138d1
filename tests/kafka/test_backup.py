"""The folder of a Kafka worker, backed up and restored: it catches up by the offsets that are stored in it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from dev.broker import Broker
from tests.kafka.deployment import MOMENT, Deployment, deploy, record
from tests.kafka.test_folder import worker_words
from tests.tracker import asked, asked_lines, environment, matyan
from tests.until import wait_for

RUNS = ("aa-first", "bb-second", "cc-third")


def log(deployment: Deployment, values: range) -> None:
    """Points without a step: each record that is applied makes one of its own."""
    for run in RUNS:
        fields = {"step": None, "epoch": None, "context": {}, "dtype": "float"}
        deployment.produce(
            deployment.ingestion,
            [
                record(
                    "log_metric", run, name="loss", value=float(n), client_datetime=MOMENT, **fields
                )
                for n in values
            ],
            run.encode(),
        )


def points(data: Path, run: str) -> list[float]:
    if not (data / "rocksdb" / "CURRENT").exists() or run not in {
        row["run"] for row in asked("runs", "--data", data)
    }:
        return []
    return [row["value"] for row in asked_lines("export", run, "--format", "jsonl", "--data", data)]


def test_a_restored_worker_catches_up(broker: Broker, tmp_path: Path) -> None:
    """Backup, more records, a kill, the folder lost, restored: all records are there, none twice, and the group is still its own."""
    deployment, data, to = deploy(broker), tmp_path / "data", tmp_path / "to"
    log(deployment, range(50))
    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: all(len(points(data, run)) == 50 for run in RUNS))
        made = matyan("backup", f"rocks:{data}", "--to", to, "--json")
        assert "are in S3, and not in the backup" in made.stderr
        log(deployment, range(50, 80))
        wait_for(lambda: all(len(points(data, run)) == 80 for run in RUNS))
        worker.stop(signal.SIGKILL)
    kept = json.loads(made.stdout)
    assert kept["blobs"] == "s3"
    ((_, offsets),) = kept["offsets"].items()
    assert sum(offsets.values()) == 3 * 50
    log(deployment, range(80, 100))

    data.rename(tmp_path / "lost")
    said = matyan("restore", to, "--to", data)
    assert f"matyan ingest-worker --store rocks:{data}" in said.stderr
    assert "never run both" in said.stderr
    assert not (data / "blobs").exists()
    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: all(len(points(data, run)) >= 100 for run in RUNS))
        assert worker.stop() == 0
    for run in RUNS:
        assert points(data, run) == [float(n) for n in range(100)]
    assert matyan("check", "--data", data).stdout == ""
    shown = matyan(
        *("offsets", "show", "--store", f"rocks:{data}", "--json"),
        env=environment(**deployment.env),
    )
    rows = json.loads(shown.stdout)
    assert sum(row["stored"] or 0 for row in rows) == 3 * 100
    assert {row["lag"] or 0 for row in rows} == {0}
