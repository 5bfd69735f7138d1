"""The services as processes, on a real broker: what was acknowledged is stored once, whoever is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trio
from websockets.sync.client import connect

from dev.broker import Broker
from matyan.keys import Keys
from matyan.sequences import Sequences
from matyan.store.rocks import open_rocks
from tests.kafka.topics import read_topic

RUNS, FRAMES, RECORDS = 5, 40, 5


def launch(broker: Broker, *words: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap, "METRICS_PORT": "0"}
    return subprocess.Popen(
        [sys.executable, "-m", "matyan", *words],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )


@contextmanager
def running(broker: Broker, *words: str) -> Iterator[subprocess.Popen[str]]:
    process = launch(broker, *words)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def send(port: int, run: str, frames: int) -> None:
    """Log records without a step: applied twice, they would stand twice."""
    with connect(f"ws://127.0.0.1:{port}/api/v1/ws/runs/{run}") as socket:
        for number in range(frames):
            socket.send(
                json.dumps(
                    [
                        {
                            "type": "log_record",
                            "message": f"{number}/{index}",
                            "level": 20,
                            "timestamp": 1.0,
                        }
                        for index in range(RECORDS)
                    ]
                )
            )
            assert json.loads(socket.recv(60)) == {"status": "ok", "error": None}


async def stored(folder: Path) -> dict[str, list[str]]:
    """Each run's messages in the order of their steps. Nobody may hold the folder."""
    store = open_rocks(folder / "rocksdb")
    try:
        keys = Keys(store)
        sequences = Sequences(keys, "packed")
        found: dict[str, list[str]] = {}
        for run in (f"run-{n}" for n in range(RUNS)):

            def read(snap: object, run: str = run) -> list[str]:
                rows = sequences.objects(snap, run, 0, "__log_records")  # type: ignore[arg-type]
                return [value["message"] for _, _, _, value in rows]  # type: ignore[index]

            found[run] = await store.read(read)
        return found
    finally:
        await store.aclose()


async def test_killed_worker_stores_everything_once(own_broker: Broker, tmp_path: Path) -> None:
    """The ingest worker is killed three times under load; every acknowledged record stands once, in order."""
    store = f"rocks:{tmp_path / 'store'}"
    worker_words = ("ingest-worker", "--store", store, "--workers", "2")
    with running(own_broker, "frontier", "--host", "127.0.0.1", "--port", "0") as frontier:
        assert frontier.stdout is not None
        line = await trio.to_thread.run_sync(frontier.stdout.readline)
        port = int(line.split()[-1])
        async with trio.open_nursery() as nursery:
            for number in range(RUNS):
                nursery.start_soon(trio.to_thread.run_sync, send, port, f"run-{number}", FRAMES)
            for _ in range(3):
                with running(own_broker, *worker_words):
                    await trio.sleep(3)
        frontier.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(frontier.wait) == 0
    assert len(read_topic(own_broker, "data-ingestion")) == RUNS * FRAMES * RECORDS
    expected = [f"{n}/{i}" for n in range(FRAMES) for i in range(RECORDS)]
    found: dict[str, list[str]] = {}

    # The session of a killed member lasts 45 s; its partitions come to the next one only then.
    with trio.fail_after(120):
        while found != {f"run-{n}": expected for n in range(RUNS)}:
            with running(own_broker, *worker_words) as worker:
                await trio.sleep(15)
                worker.send_signal(signal.SIGTERM)
                assert await trio.to_thread.run_sync(worker.wait) == 0
            found = await stored(tmp_path / "store")
            assert all(messages == expected[: len(messages)] for messages in found.values())


async def test_frontier_imports_no_store(tmp_path: Path) -> None:
    """The frontier's process holds neither a store's engine nor the code that handles blob content on disk."""
    code = (
        "import sys, matyan.services, matyan.broker.kafka, matyan.blobs.s3, matyan.frontier.edge\n"
        "bad = [m for m in sys.modules if m.startswith(('rocksdict', 'matyan.store.rocks', 'matyan.blobs.folder',"
        " 'matyan.records', 'matyan.workers.ingest', 'fdb'))]\n"
        "assert not bad, bad"
    )
    await trio.run_process([sys.executable, "-c", code])


async def test_frozen_broker_holds_replies_back_and_loses_nothing(
    own_broker: Broker, tmp_path: Path
) -> None:
    """While the broker is frozen no frame is acknowledged; thawed, each frame stands in the topic once, in order."""
    with running(own_broker, "frontier", "--host", "127.0.0.1", "--port", "0") as frontier:
        assert frontier.stdout is not None
        line = await trio.to_thread.run_sync(frontier.stdout.readline)
        port = int(line.split()[-1])
        with trio.fail_after(90):
            async with trio.open_nursery() as nursery:
                for number in range(RUNS):
                    nursery.start_soon(trio.to_thread.run_sync, send, port, f"run-{number}", 400)
                await trio.sleep(1)
                own_broker.freeze()
                await trio.sleep(10)
                own_broker.thaw()
    texts: dict[str, list[str]] = {}
    for message in read_topic(own_broker, "data-ingestion"):
        record = json.loads(message.value() or b"")
        texts.setdefault(record["run_id"], []).append(record["payload"]["message"])
    expected = [f"{n}/{i}" for n in range(400) for i in range(RECORDS)]
    assert texts == {f"run-{n}": expected for n in range(RUNS)}
