"""Text of strangers comes out harmless, and writing never stops the writer."""

from __future__ import annotations

import fcntl
import os
import pty
import threading
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.service.terminal import HELD_BYTES, Sink, StatusLine, clean, clean_lines
from tests.small_disk import small_disk
from tests.until import wait_for

__all__ = ["small_disk"]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\x1b[2Jb\tc\nd é", "a\\x1b[2Jb\\tc\\nd é"),
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("\x9b31m\x85\xad", "\\x9b31m\\x85\\xad"),
        ("user\u202etxt.exe\u2066\u200f", "user\\u202etxt.exe\\u2066\\u200f"),
        ("\ud800 \U000e0041 \ufeff", "\\ud800 \\U000e0041 \\ufeff"),
        ("Größe 损失 потеря 🙂", "Größe 损失 потеря 🙂"),
        (5, "5"),
    ],
)
def test_names_cannot_move_the_cursor(text, shown) -> None:
    """Escapes, C0, C1, format and bidi characters come out as backslash notation; letters of any language as they are."""
    assert clean(text) == shown


@given(st.text())
def test_nothing_invisible_passes(text) -> None:
    """Whatever the text: no character of Unicode's category C, no line or paragraph separator."""
    assert all(unicodedata.category(letter)[0] != "C" for letter in clean(text))
    assert not set("\u2028\u2029") & set(clean(text))
    assert clean_lines(text).count("\n") == text.count("\n")


class Pipe:
    """A pipe with a sink at one end."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.lost = 0
        self.sink = Sink(self.writing, "utf-8", self._told, self._count)

    def _told(self, lost: int, why: str) -> str:
        return f"lost {lost}: {why}\n"

    def _count(self, lost: int) -> None:
        self.lost += lost

    def read(self, end: bytes) -> bytes:
        """What comes, until it ends with `end`."""
        got = b""
        while not got.endswith(end):
            got += os.read(self.reading, 65_536)
        return got


@contextmanager
def a_pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    try:
        yield pipe
        pipe.sink.close()
    finally:
        os.close(pipe.writing)
        os.close(pipe.reading)


def test_what_is_written_comes_in_order() -> None:
    with a_pipe() as pipe:
        for number in range(1_000):
            pipe.sink.write(f"line {number} é\n")
        got = pipe.read(b"line 999 \xc3\xa9\n").decode()
    assert got == "".join(f"line {number} é\n" for number in range(1_000))
    assert pipe.lost == 0


def test_a_pipe_that_nobody_reads_stops_nobody() -> None:
    """A bounded part waits, the rest is counted; who reads again gets what waited whole, and then the count."""
    line = "x" * 99 + "\n"
    with a_pipe() as pipe:
        for _ in range(5 * HELD_BYTES // 100):
            pipe.sink.write(line)
        assert pipe.sink.is_behind
        lost = pipe.lost
        assert lost > 3 * HELD_BYTES // 100
        first = b""
        while len(first) < HELD_BYTES // 2:
            first += os.read(pipe.reading, 65_536)
        pipe.sink.write("the end\n")
        rest = pipe.read(b"the end\n")
    lines = (first + rest).decode().splitlines(keepends=True)
    *told, end = [one for one in lines if one != line]
    assert end == "the end\n"
    # Some may have been told before the pipe was full, as often as the writer was quick.
    assert 1 <= len(told) < lost / 100
    assert sum(int(one.removesuffix(": nobody read them\n")[5:]) for one in told) == lost
    assert len(lines) - len(told) - 1 + lost == 5 * HELD_BYTES // 100


def test_a_non_blocking_descriptor_loses_nothing() -> None:
    """Whoever shares a terminal or a pipe may have made it non-blocking: a full one is waited for."""
    with a_pipe() as pipe:
        flags = fcntl.fcntl(pipe.writing, fcntl.F_GETFL)
        fcntl.fcntl(pipe.writing, fcntl.F_SETFL, flags | os.O_NONBLOCK)
        for number in range(5_000):
            pipe.sink.write(f"{number} {'x' * 100}\n")
        pipe.sink.write("end\n")
        got = pipe.read(b"end\n").decode().splitlines()
    assert [int(one.split()[0]) for one in got[:-1]] == list(range(5_000))


def _closed_pipe() -> int:
    reading, writing = os.pipe()
    os.close(reading)
    return writing


@pytest.mark.parametrize("gone", [_closed_pipe, lambda: os.open("/dev/full", os.O_WRONLY)])
def test_a_place_that_takes_nothing_costs_lines_and_no_exception(gone) -> None:
    """Each failure is counted; a place that takes text again is told the sum first."""
    with a_pipe() as pipe:
        works = os.dup(pipe.writing)
        fails = gone()
        os.dup2(fails, pipe.writing)
        pipe.sink.write("one\n")
        pipe.sink.write("two\nthree\n")
        wait_for(lambda: pipe.lost == 3)
        os.dup2(works, pipe.writing)
        os.close(works)
        os.close(fails)
        pipe.sink.write("four\n")
        told, four = pipe.read(b"four\n").decode().splitlines()
    assert told.startswith("lost 3: ")
    assert four == "four"


def test_half_a_line_is_ended_before_the_next(small_disk: Path) -> None:
    """A disk that fills up in the midst of a line: what comes later begins on a line of its own."""
    filler = small_disk / "filler"
    with open(small_disk / "log", "wb") as log:
        sink = Sink(log.fileno(), "utf-8")
        sink.write("first\n")
        wait_for(lambda: not sink.is_behind)
        with open(filler, "wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                pass
        sink.write("x" * 10_000 + "\n")
        wait_for(lambda: not sink.is_behind)
        filler.unlink()
        sink.write("last\n")
        sink.close()
    lines = (small_disk / "log").read_text().splitlines()
    assert (lines[0], lines[-1]) == ("first", "last")
    assert set(lines[1]) == {"x"}
    assert len(lines) == 3


def test_letters_that_an_encoding_lacks_are_replaced() -> None:
    reading, writing = os.pipe()
    sink = Sink(writing, "ascii")
    sink.write("é \ud800\n")
    sink.close()
    assert os.read(reading, 100) == b"\\xe9 \\ud800\n"
    os.close(reading)
    os.close(writing)


def test_the_status_line_stays_below_the_log() -> None:
    """A log line takes the status away, is written, and the status comes back."""
    with a_pipe() as pipe:
        status = StatusLine(pipe.sink)
        status.show("1 connection")
        wait_for(lambda: not pipe.sink.is_behind)
        status.write("a warning\n")
        seen = pipe.read(b"g\n1 connection")
    assert seen == b"\r\x1b[K1 connection\r\x1b[Ka warning\n1 connection"


def test_a_terminal_that_takes_nothing_stops_neither_the_log_nor_its_status_line() -> None:
    """One that was stopped, or whose window hangs; when it goes on it shows the newest state, not all of them."""
    master, slave = pty.openpty()
    sink = Sink(slave, "utf-8")
    line = StatusLine(sink)
    wrote = threading.Event()

    def write() -> None:
        for number in range(2_000):
            line.show(f"state {number}")
            line.write(f"{number} {'x' * 100}\n")
        wrote.set()

    threading.Thread(target=write, daemon=True).start()
    try:
        assert wrote.wait(30), "the log waited for its terminal"
        assert sink.is_behind
        seen = b""
        while b"1999 xxx" not in seen:
            seen += os.read(master, 65_536)
        lines = [part for part in seen.split(b"\n") if b" xxx" in part]
        assert len(lines) == 2_000
        wait_for(lambda: not sink.is_behind)
        line.show("the newest")
        while b"the newest" not in seen:
            seen += os.read(master, 65_536)
        # While it was behind, states were only brought along by log lines.
        assert seen.count(b"\x1b[Kstate ") < 2_000
    finally:
        sink.close()
        os.close(master)
        os.close(slave)
