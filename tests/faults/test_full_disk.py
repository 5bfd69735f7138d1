"""A disk that fills up under load: replies are held back, the commands still answer, and it goes on by itself."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from matyan.folder.wire import pack_message, socket_address
from tests.faults.load import OK, Client, metric
from tests.small_disk import small_disk
from tests.tracker import Tracker, asked, asked_lines, environment, matyan, running
from tests.until import wait_for

__all__ = ["small_disk"]

_SECONDS = 60
# So much is left to the load; RocksDB's log fills it within seconds.
_ROOM = 2 << 20

SDK_TRAINING = """
import sys, threading
from matyan_client import Run
run = Run(run_hash="sdk", repo=sys.argv[1], capture_terminal_logs=False)
ended = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
steps = 0
while not ended.wait(0.01):
    run.track(float(steps), name="loss", step=steps)
    steps += 1
run.close()
print(steps)
"""

# A tracker that never gives up a client which does not take its answer.
PATIENT_TRACKER = """
from matyan.cli import main
from matyan.folder import server
server.SEND_S = 3600.0
main.main()
"""


def fill_up(disk: Path) -> Path:
    """A file that leaves `_ROOM` bytes of the disk."""
    filler = disk / "filler"
    state = os.statvfs(disk)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - _ROOM)
    return filler


def put_artifact(tracker: Tracker, content: bytes) -> None:
    """Presigns and uploads, as a client without an SDK does."""
    body = json.dumps({"run_id": "raw-0", "artifact_path": "a.bin"}).encode()
    presign = urllib.request.Request(
        f"{tracker.url}/api/v1/rest/artifacts/presign",
        data=body,
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(presign, timeout=_SECONDS) as reply:
        url = json.loads(reply.read())["upload_url"]
    kind = {"Content-Type": "application/octet-stream"}
    put = urllib.request.Request(url, data=content, method="PUT", headers=kind)
    urllib.request.urlopen(put, timeout=_SECONDS).close()


@contextmanager
def sdk_training(url: str) -> Iterator[subprocess.Popen[str]]:
    """SDK_TRAINING in a process of its own, until its standard input is closed."""
    training = subprocess.Popen(
        [sys.executable, "-c", SDK_TRAINING, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=environment(),
    )
    try:
        yield training
    finally:
        training.kill()
        training.wait()


def test_a_disk_that_fills_up_loses_nothing_and_it_goes_on_by_itself(small_disk: Path) -> None:
    """Under the load of raw clients and of the SDK; whoever looks meanwhile is told what to do."""
    data = small_disk / "data"
    with running(data) as tracker, sdk_training(tracker.url) as training:
        clients = [Client(tracker.url, f"raw-{number}", per_frame=100) for number in range(2)]
        # Before the others, which may have filled the disk by the time that the SDK is imported.
        wait_for(lambda: bool(asked("runs", "--data", data)))
        for client in clients:
            client.start()
        wait_for(lambda: all(client.ledger.acknowledged for client in clients))
        filler = fill_up(small_disk)
        wait_for(tracker.unready)
        assert "is full: free" in tracker.unready()

        # A frame that comes now is not answered as stored, and its socket lives on.
        with connect(f"ws{tracker.url[4:]}/api/v1/ws/runs/late") as late:
            late.send(json.dumps([metric("late", "loss", 1.0, 0)]))
            with pytest.raises(TimeoutError):
                late.recv(timeout=2)
            acknowledged = {client.run_id: len(client.ledger.acknowledged) for client in clients}
            # The commands that read answer with what is stored, those that write with one sentence, and do nothing.
            rows = {row["run"]: row["points"] for row in asked("runs", "--counts", "--data", data)}
            assert all(rows[run] >= count > 0 for run, count in acknowledged.items())
            refused = matyan("delete", "raw-0", "--yes", "--data", data, check=1)
            assert "Nothing was done" in refused.stderr
            assert "is full: free" in refused.stderr
            assert len(refused.stderr.splitlines()) == 1
            with pytest.raises(urllib.error.HTTPError, match="503"):
                put_artifact(tracker, bytes(8 << 20))

            filler.unlink()
            assert json.loads(late.recv(timeout=_SECONDS)) == OK
        wait_for(lambda: not tracker.unready())
        for client in clients:
            client.finish()
        out, _ = training.communicate(timeout=_SECONDS)
        steps = int(out)
        put_artifact(tracker, b"small")
        assert tracker.stop() == 0

    assert {row["run"] for row in asked("runs", "--data", data)} == {
        "raw-0",
        "raw-1",
        "sdk",
        "late",
    }
    for client in clients:
        rows_ = asked_lines("export", client.run_id, "--format", "jsonl", "--data", data)
        assert client.ledger.faults(row["value"] for row in rows_) == []
        assert len(client.ledger.acknowledged) > acknowledged[client.run_id], "it did not go on"
    trained = asked_lines("export", "sdk", "--format", "jsonl", "--data", data)
    assert [(row["step"], row["value"]) for row in trained] == [(n, float(n)) for n in range(steps)]
    assert asked("show", "sdk", "--data", data)["meta"]["active"] is False


def test_a_tracker_stopped_on_a_full_disk_says_what_is_left(small_disk: Path) -> None:
    """Exit code 1 and a count; what was acknowledged is there when there is room again."""
    data = small_disk / "data"
    with running(data) as tracker:
        client = Client(tracker.url, "raw", per_frame=100)
        client.start()
        wait_for(lambda: bool(client.ledger.acknowledged))
        filler = fill_up(small_disk)
        wait_for(tracker.unready)
        assert tracker.stop() == 1
        assert '"left": 100' in "".join(tracker.output)
        client.finish()
    told = matyan("runs", "--data", data, check=2)
    assert "is full: free some space" in told.stderr
    filler.unlink()
    rows = asked_lines("export", "raw", "--format", "jsonl", "--data", data)
    assert client.ledger.faults(row["value"] for row in rows) == []


@contextmanager
def unread(data: Path, op: str, **arguments: str) -> Iterator[socket.socket]:
    """A command whose answer has begun and is left in its socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking:
        asking.settimeout(_SECONDS)
        with socket_address(data) as address:
            asking.connect(address)
        asking.sendall(pack_message({"op": op, **arguments}))
        assert asking.recv(1)
        yield asking


def test_an_answer_that_nobody_reads_does_not_keep_it_from_going_on(small_disk: Path) -> None:
    """The old database closes when no snapshot of it is left; who sends the answer would hold one for an hour."""
    data = small_disk / "data"
    length, lines = 100_000, 40
    with running(data, command=(sys.executable, "-c", PATIENT_TRACKER, "up")) as tracker:
        with connect(f"ws{tracker.url[4:]}/api/v1/ws/runs/talkative") as talking:
            for step in range(lines):
                line = {"type": "log_terminal_line", "line": "x" * length, "step": step}
                talking.send(json.dumps([{**line, "run_id": "talkative"}]))
                assert json.loads(talking.recv(timeout=_SECONDS)) == OK
        with unread(data, "logs", run="talkative") as answer:
            client = Client(tracker.url, "raw", per_frame=100)
            client.start()
            wait_for(lambda: bool(client.ledger.acknowledged))
            filler = fill_up(small_disk)
            wait_for(tracker.unready)
            filler.unlink()
            wait_for(lambda: not tracker.unready())
            came = 1
            while piece := answer.recv(1 << 16):
                came += len(piece)
            assert came < length * lines, "it was not cut short"
        client.finish()
        assert tracker.stop() == 0
    rows = asked_lines("export", "raw", "--format", "jsonl", "--data", data)
    assert client.ledger.faults(row["value"] for row in rows) == []
