"""The unmodified SDK through frontier, Kafka and ingestion worker into the store."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import trio

from dev.broker import Broker
from matyan import reader
from tests import training
from tests.faults.load import AT_LENGTH
from tests.kafka.topics import create_topic, read_runs
from tests.services import frontier, ingest_worker
from tests.until import until

RUNS = [f"run-{number:02}" for number in range(50)]
STEPS = 1_000 if AT_LENGTH else 60
PROCESSES = 3


async def test_50_runs_in_parallel_are_stored_once(
    broker: Broker, make_topic: Callable[..., str], tmp_path: Path
) -> None:
    """Every message of each run is in the topic once and in order, and in the store once: points, parameters, tags,
    objects, and log records in the order in which they were logged."""
    topic, data = make_topic(6), tmp_path / "data"
    create_topic(broker, f"{topic}-dlq")
    with (
        frontier(broker, topic) as served,
        ingest_worker(broker, data, topic, workers=2) as worker,
    ):
        trainings = [
            training.start(served.url, RUNS[number::PROCESSES], steps=STEPS)
            for number in range(PROCESSES)
        ]
        reports = {}
        for started in trainings:
            reports |= await trio.to_thread.run_sync(started.report)
        assert await trio.to_thread.run_sync(served.stop) == 0
        sent = sum(len(training.messages(run, STEPS)) for run in RUNS)
        await until(lambda: worker.applied() >= sent, 120)
        assert worker.applied() == sent
        assert await trio.to_thread.run_sync(worker.stop) == 0
    assert [reports[run]["unsent"] for run in RUNS] == [0] * len(RUNS)
    records = await trio.to_thread.run_sync(read_runs, broker, topic)
    assert [fault for run in RUNS for fault in training.faults(records[run], run, STEPS)] == []
    with reader.open(data) as opened:
        faults = [
            fault
            for run in RUNS
            for fault in training.stored_faults(opened.show(run), opened.blocks(run), run, STEPS)
        ]
        assert faults == []
        assert {row["run"] for row in opened.runs()} == set(RUNS)
