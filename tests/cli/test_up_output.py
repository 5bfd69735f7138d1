"""Whatever becomes of what a tracker prints, it goes on taking data, says what it lost, and ends with the right code."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import socket
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.small_disk import small_disk
from tests.tracker import MATYAN, asked, environment
from tests.until import wait_for

__all__ = ["small_disk"]

METRIC = json.dumps(
    {
        "type": "log_metric",
        "name": "loss",
        "value": 1.0,
        "step": 0,
        "epoch": None,
        "context": None,
        "dtype": "float",
        "client_datetime": "2026-01-02T03:04:05+00:00",
    }
)


@contextmanager
def up(data: Path, port: int, stdout: int, stderr: int) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*MATYAN, "up", "--data", str(data), "--port", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        env=environment(),
        start_new_session=True,
    )
    try:
        wait_for(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, "it ended"
        yield process
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    try:
        return "ok" in _get(port, "/health/ready/")
    except OSError:
        return False


def _get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
        text: str = response.read().decode()
        return text


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def store(port: int, run: str) -> None:
    """One point, acknowledged."""
    with connect(f"ws://127.0.0.1:{port}/api/v1/ws/runs/{run}") as socket_:
        socket_.send(METRIC)
        assert json.loads(socket_.recv(timeout=20)) == {"status": "ok", "error": None}


def complain(port: int) -> None:
    """Makes the tracker log a warning: a text frame that is no UTF-8."""
    with connect(f"ws://127.0.0.1:{port}/api/v1/ws/runs/bad") as socket_:
        socket_.send(b"\xff", text=True)
        with pytest.raises(ConnectionClosed):
            socket_.recv(timeout=20)


def lost(port: int) -> float:
    found = re.search(r"^matyan_log_lines_lost_total (\S+)$", _get(port, "/metrics/"), re.MULTILINE)
    assert found is not None
    return float(found.group(1))


def _pipe_without_reader(stack: ExitStack) -> tuple[int, int]:
    """`matyan up 2>&1 | head -0`."""
    reading, writing = os.pipe()
    os.close(reading)
    stack.callback(os.close, writing)
    return writing, writing


def _terminal_that_is_gone(stack: ExitStack) -> tuple[int, int]:
    """Whoever had it closed it: each write is EIO, each read an end."""
    master, slave = pty.openpty()
    os.close(master)
    stack.callback(os.close, slave)
    return slave, slave


def _full_disk(stack: ExitStack) -> tuple[int, int]:
    full = os.open("/dev/full", os.O_WRONLY)
    stack.callback(os.close, full)
    return full, full


def _full_pipe(stack: ExitStack) -> tuple[int, int]:
    """A reader that stopped reading: `matyan up 2>&1 | less`, left alone."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writing, True)
    stack.callback(os.close, reading)
    stack.callback(os.close, writing)
    return writing, writing


@pytest.mark.parametrize(
    "place", [_pipe_without_reader, _terminal_that_is_gone, _full_disk, _full_pipe]
)
def test_a_place_that_takes_no_output_stops_no_tracker(tmp_path, place) -> None:
    """It stores, logs, drains and ends with 0; what is lost stands in a metric."""
    port = _free_port()
    with ExitStack() as stack:
        stdout, stderr = place(stack)
        with up(tmp_path / "data", port, stdout, stderr) as process:
            store(port, "first")
            complain(port)
            if place is not _full_pipe:  # there it still may be read
                wait_for(lambda: lost(port) >= 1)
            store(port, "second")
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0
    assert {row["run"] for row in asked("runs", "--data", tmp_path / "data")} >= {"first", "second"}


def test_a_log_on_a_disk_that_fills_up(small_disk: Path) -> None:
    """The log's disk is not the data's: lines are lost while it is full, and told when there is room."""
    port = _free_port()
    data = small_disk.parent / "data"
    with open(small_disk / "log", "wb") as log, up(data, port, log.fileno(), log.fileno()):
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        # The rest of the log's last page.
        log.write(b"\n" * (-os.fstat(log.fileno()).st_size % 4096))
        log.flush()
        complain(port)
        wait_for(lambda: lost(port) >= 1)
        filler.unlink()
        complain(port)
        wait_for(lambda: b"log lines were lost" in (small_disk / "log").read_bytes())
        told = [
            json.loads(line)
            for line in (small_disk / "log").read_text().splitlines()
            if "log lines were lost" in line
        ]
        assert told[0]["lines"] == lost(port) >= 1
        assert told[0]["reason"] == "No space left on device"


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_standard_streams_that_are_closed_are_no_places_for_the_database(tmp_path, closed) -> None:
    """A descriptor below 3 that is free would be given to the next file that is opened, and log lines would go into it."""
    port = _free_port()
    words = ["up", "--data", str(tmp_path / "data"), "--port", str(port)]
    process = subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *MATYAN, *words],
        env=environment(),
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: process.poll() is not None or _answers(port))
        complain(port)
        places = {number: os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)}
        assert set(places.values()) <= {"/dev/null"}, places
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()


def test_a_name_of_strangers_does_not_move_the_cursor_of_the_log(tmp_path) -> None:
    """The reason of a close frame, in the console log of a tracker in a terminal."""
    port = _free_port()
    master, slave = pty.openpty()
    seen = b""
    with up(tmp_path / "data", port, slave, slave) as process:
        os.close(slave)
        with connect(f"ws://127.0.0.1:{port}/api/v1/ws/runs/bad") as socket_:
            socket_.close(1002, "\x1b]0;owned\x07\x9b2J\u202e")
        while b"owned" not in seen:
            seen += os.read(master, 65_536)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    os.close(master)
    text = seen.decode()
    assert "\\x1b]0;owned\\x07\\x9b2J\\u202e" in text
    assert not {"\x1b]", "\x07", "\x9b", "\u202e"} & set(
        re.findall(r"\x1b\]|[\x07\x9b\u202e]", text)
    )
