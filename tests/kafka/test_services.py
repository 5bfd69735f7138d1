"""The services as processes, on a real broker: what was acknowledged is stored once, whoever is killed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import trio
from websockets.sync.client import connect

from dev.broker import Broker
from matyan import reader
from matyan.errors import NotFound
from tests.kafka.topics import read_topic
from tests.services import TOPIC, frontier, ingest_worker

RUNS, FRAMES, RECORDS = 5, 40, 5


def send(url: str, run: str, frames: int) -> None:
    """Log records without a step: applied twice, they would stand twice."""
    with connect(f"{url.replace('http', 'ws')}/api/v1/ws/runs/{run}") as socket:
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


def stored(data: Path) -> dict[str, list[str]]:
    """Each run's messages in the order of their steps. No worker may hold the folder."""
    found: dict[str, list[str]] = {}
    with reader.open(data) as opened:
        for run in (f"run-{n}" for n in range(RUNS)):
            try:
                blocks = list(opened.blocks(run, name="__log_records"))
            except NotFound:
                blocks = []
            rows = [row for block in blocks for row in block.objects or []]
            found[run] = [value["message"] for _, _, _, value in rows]
    return found


async def test_killed_worker_stores_everything_once(own_broker: Broker, tmp_path: Path) -> None:
    """The ingest worker is killed three times under load; every acknowledged record stands once, in order."""
    data = tmp_path / "data"
    with frontier(own_broker) as served:
        async with trio.open_nursery() as nursery:
            for number in range(RUNS):
                nursery.start_soon(
                    trio.to_thread.run_sync, send, served.url, f"run-{number}", FRAMES
                )
            for _ in range(3):
                with ingest_worker(own_broker, data, workers=2):
                    await trio.sleep(3)
        assert await trio.to_thread.run_sync(served.stop) == 0
    assert len(read_topic(own_broker, TOPIC)) == RUNS * FRAMES * RECORDS
    expected = [f"{n}/{i}" for n in range(FRAMES) for i in range(RECORDS)]
    found: dict[str, list[str]] = {}

    # The session of a killed member lasts 45 s; its partitions come to the next one only then.
    with trio.fail_after(120):
        while found != {f"run-{n}": expected for n in range(RUNS)}:
            with ingest_worker(own_broker, data, workers=2) as worker:
                await trio.sleep(15)
                assert await trio.to_thread.run_sync(worker.stop) == 0
            found = await trio.to_thread.run_sync(stored, data)
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
