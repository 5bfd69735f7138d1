"""Commands whose output nobody reads for a while, or any more: real pipes before real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.cli.test_main import fill, presign, send
from tests.tracker import Tracker, environment, matyan, running

# A tracker that gives up a client after a second, and commands that wait a fifth of one for who reads them.
_SEND_S = 1.0
TRACKER = f"""
from matyan.cli import main
from matyan.folder import server
server.SEND_S = {_SEND_S}
main.main()
"""
COMMAND = """
from matyan.cli import main
from matyan.folder import spool
spool.HELD_BYTES, spool.PATIENCE_S = 1 << 20, 0.2
main.main()
"""
_LINES = 30


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    """With a run whose logs and artifact are each more than the kernel and the command hold of them."""
    folder = tmp_path_factory.mktemp("unread") / "data"
    with running(folder, command=(sys.executable, "-c", TRACKER, "up")) as tracker:
        fill(tracker, "long-1", points=0)
        for first in range(0, _LINES, 10):
            lines = [(step, f"{step} ".ljust(400_000, "x")) for step in range(first, first + 10)]
            send(
                tracker,
                "long-1",
                *(
                    {"type": "log_terminal_line", "line": line, "step": step}
                    for step, line in lines
                ),
            )
        kind = {"Content-Type": "application/octet-stream"}
        body = bytes(range(256)) * (64 << 10)
        url = presign(tracker, "long-1", "model.pt")
        urlopen(Request(url, body, kind, method="PUT"), timeout=60).close()
        yield tracker


def unread(data: Path, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMAND, *arguments, "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        bufsize=0,
    )


def begin(process: subprocess.Popen[bytes]) -> bytes:
    """The first byte of its output."""
    assert process.stdout is not None
    first: bytes = process.stdout.read(1)
    return first


COMMANDS = [
    ("logs", "long-1"),
    ("logs", "long-1", "--json"),
    ("export", "long-1", "--format", "jsonl"),
    ("artifacts", "long-1", "--get", "model.pt"),
]


def test_what_nobody_reads_for_a_while_comes_whole_and_in_order(tracker) -> None:
    """`matyan logs RUN | less`, left alone for longer than the tracker waits for anybody."""
    paused = [unread(tracker.data, *words) for words in COMMANDS]
    begun = [begin(process) for process in paused]
    time.sleep(2 * _SEND_S)
    for words, process, first in zip(COMMANDS, paused, begun, strict=True):
        rest, err = process.communicate(timeout=60)
        out = first + rest
        assert (process.returncode, err) == (0, b""), words
        assert len(out) > 8 << 20
        assert out == matyan(*words, "--data", tracker.data, text=False).stdout, words


@pytest.mark.parametrize("pause", [0.0, 1.0])
def test_a_command_that_waits_for_its_reader_ends_at_once(tracker, pause) -> None:
    """By Ctrl-C, with 130; when its reader leaves, with 141."""
    words = ["logs", "long-1"], ["artifacts", "long-1", "--get", "model.pt"]
    interrupted = [unread(tracker.data, *each) for each in words]
    left = [unread(tracker.data, *each) for each in words]
    for process in interrupted + left:
        begin(process)
    time.sleep(pause)
    for process in interrupted:
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    for process in left:
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(30) == 141
    for process in interrupted + left:
        assert process.stderr is not None
        assert process.stderr.read().strip() == b""
