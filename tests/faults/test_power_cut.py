"""A power cut loses nothing that was acknowledged: every reply leaves after the sync that covers it.

A library preloaded into the real process logs its calls in order. Between the last bytes of a frame and its
reply there must stand a write to the write-ahead log and, after it, a whole fdatasync of that log.
"""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest
from websockets.sync.client import connect

from tests.faults.broken_tracker import broken_tracker
from tests.tracker import MATYAN, asked, running

HERE = Path(__file__).parent
FRAMES = 60
CONNECTIONS = 6


@pytest.fixture(scope="module")
def preload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The logging library, compiled."""
    library = tmp_path_factory.mktemp("calls") / "calls.so"
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(HERE / "calls.c"), "-ldl"],
        check=True,
    )
    return library


def send_frames(url: str, connection: int) -> None:
    run = f"cut-{connection}"
    with connect(f"{url.replace('http', 'ws')}/api/v1/ws/runs/{run}", compression=None) as socket:
        for step in range(FRAMES):
            socket.send(
                json.dumps(
                    {
                        "type": "log_metric",
                        "run_id": run,
                        "name": "loss",
                        "value": step / 7,
                        "step": step,
                        "epoch": None,
                        "context": None,
                        "dtype": "float",
                        "client_datetime": "2026-01-02T03:04:05.678901+00:00",
                    }
                )
            )
            assert json.loads(socket.recv()) == {"status": "ok", "error": None}


def replies_and_unsafe_ones(log: Path) -> tuple[int, int]:
    """How many replies left, and how many of them before a sync of the write-ahead log covered their frame."""
    replies = unsafe = 0
    received: dict[str, int] = {}  # socket -> position of its last recv
    written = -1  # position of the last write to the write-ahead log
    covered_from = -1  # what was received before here is written and synced
    begun: dict[str, int] = {}  # log file -> position of the last write before its sync began
    for position, line in enumerate(log.read_text().splitlines()):
        what, _fd, size, path = line.split("\t")
        if what == "recv" and path.startswith("socket:"):
            received[path] = position
        elif what == "write" and path.endswith(".log") and "/rocksdb/" in path:
            written = position
        elif what == "sync-begin" and path.endswith(".log"):
            begun[path] = written
        elif what == "sync-end" and path.endswith(".log"):
            covered_from = max(covered_from, begun[path])
        elif what == "send" and path in received and int(size) == REPLY_BYTES:
            replies += 1
            unsafe += received[path] > covered_from
    return replies, unsafe


REPLY_BYTES = 2 + len('{"status":"ok","error":null}')


def observed(tmp_path: Path, preload: Path, command: Sequence[str]) -> tuple[int, int]:
    log = tmp_path / "calls.log"
    env = {"LD_PRELOAD": str(preload), "MATYAN_TEST_CALLS_LOG": str(log)}
    data = tmp_path / "data"
    with running(data, command=command, **env) as tracker:
        clients = [
            threading.Thread(target=send_frames, args=(tracker.url, number))
            for number in range(CONNECTIONS)
        ]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        points = [row["points"] for row in asked("runs", "--counts", "--data", data)]
    assert points == [FRAMES] * CONNECTIONS
    return replies_and_unsafe_ones(log)


def test_every_reply_leaves_after_the_sync_that_covers_it(tmp_path: Path, preload: Path) -> None:
    """No reply stands in the log before its frame was written and synced."""
    replies, unsafe = observed(tmp_path, preload, (*MATYAN, "up"))
    assert replies == FRAMES * CONNECTIONS
    assert unsafe == 0


def test_without_the_sync_the_same_test_fails(tmp_path: Path, preload: Path) -> None:
    """The negative control: with the sync switched off, replies are unsafe."""
    replies, unsafe = observed(tmp_path, preload, broken_tracker("no-sync"))
    assert replies == FRAMES * CONNECTIONS
    assert unsafe > 0
