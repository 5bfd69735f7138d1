"""What people read, made safe on the way out: one door for all text that others have named, and writes that neither raise nor wait.

Names, messages, paths and error texts come from strangers. Whatever a command, a prompt, an error or a log line of ours shows of
them passes `clean`. No formats here: tables and plots are `views.py`'s, log lines `logs.py`'s.
"""

from __future__ import annotations

import io
import os
import re
import select
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

HELD_BYTES: Final = 1 << 20
"""What a sink keeps of the text that it could not write yet."""
CLOSE_S: Final = 2.0
"""How long a process that ends waits for its sinks to write the rest of their text."""


def clean(text: object) -> str:
    """One line that cannot move the cursor, change a colour or turn the reading direction: what Unicode does not call printable
    (controls, escapes, format and bidi characters, lone surrogates) comes out in backslash notation."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode()
        for letter in plain
    )


def clean_lines(text: str) -> str:
    """The same of a text whose line ends are ours."""
    return "\n".join(map(clean, text.split("\n")))


def out(*cells: object) -> None:
    """Prints one line on standard output, with tabs between the cells."""
    print("\t".join(map(clean, cells)), flush=True)


def note(text: str) -> None:
    """Says something to the person at standard error: progress, advice, what went wrong."""
    print(clean_lines(text), file=sys.stderr, flush=True)


def progress(text: str) -> None:
    """Says how far something is, in a line of standard error that the next one takes; nothing where that is no terminal. An empty
    text clears the line."""
    if takes_styles(sys.stderr):
        print(f"\r\x1b[K{clean(text)}", end="", file=sys.stderr, flush=True)


def ask(question: str, *, abort: bool = False) -> bool:
    """A question on standard error, answered with y or n; `abort`: no ends the command."""
    import click  # a tracker asks nothing

    return click.confirm(clean(question), abort=abort, err=True)


def is_utf8(stream: Any) -> bool:
    return str(getattr(stream, "encoding", "")).lower().startswith("utf")


def takes_styles(stream: Any) -> bool:
    """Whether it is a terminal whose user wants colours and knows what draws them (https://no-color.org)."""
    unwanted = os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
    return bool(stream.isatty() and not unwanted)


def forget_odd_sizes() -> None:
    """Takes away what COLUMNS and LINES say where it is no size: rich fails at "²", and prints nothing in 0 columns."""
    for name in ("COLUMNS", "LINES"):
        if not re.fullmatch("[1-9][0-9]{0,4}", os.environ.get(name, "1")):
            del os.environ[name]


def forgive_encodings() -> None:
    """Lets standard output and error replace what their encoding lacks: a terminal keeps its columns with one sign a letter, a
    program behind a pipe gets the letter in backslash notation."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace" if stream.isatty() else "backslashreplace")


class Shown:
    """The bytes of a file as a terminal may see them: whole lines, cleaned."""

    def write(self, data: bytes) -> int:
        sys.stdout.write(clean_lines(data.decode(errors="backslashreplace")))
        return len(data)


def open_standard_streams() -> None:
    """Puts /dev/null where standard streams were closed (`matyan up 2>&-`): else the next file or socket that is opened, the database's
    among them, would get the number, and whatever a library prints to standard error would go into it."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # The lowest free number is what open() gives.
            os.open(os.devnull, os.O_RDWR)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 - it lives as long as the process
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115 - like it
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115 - like it


def _ignore(lost: int) -> None:
    """The default: nobody counts the lines that were lost."""


class Sink:
    """A descriptor for text that may be lost but must not stop whoever writes it: closed pipes, terminals that are gone, full disks,
    pipes that nobody reads.

    `write` only hands over; a thread writes. At most HELD_BYTES wait there. Lines that could not be written are counted, and told
    about as soon as a write works again.

    Args:
        told: makes the line that says how many lines were lost and why; None: nothing says so.
        count: told of each number of lost lines, at once and from any thread.
    """

    def __init__(
        self,
        descriptor: int,
        encoding: str,
        told: Callable[[int, str], str] | None = None,
        count: Callable[[int], None] = _ignore,
    ) -> None:
        self._descriptor = descriptor
        self._encoding = encoding
        self._told = told
        self._count = count
        self._turn = threading.Condition()
        # Guarded by `_turn`.
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._lost = 0
        self._why = ""
        self._closed = False
        # The thread's own.
        self._room = select.poll()
        self._room.register(descriptor, select.POLLOUT)
        self._torn = False
        self._thread = threading.Thread(target=self._run, name="matyan output", daemon=True)
        self._thread.start()

    @property
    def is_behind(self) -> bool:
        """Whether something waits to be written."""
        return self._held > 0

    def write(self, text: str) -> int:
        """Hands over text that ends with its line; it is dropped when too much waits."""
        data = self._encoded(text)
        with self._turn:
            if self._held + len(data) > HELD_BYTES:
                self._count_lost(data, "nobody read them")
            else:
                self._held += len(data)
                self._waiting.append(data)
                self._turn.notify()
        return len(text)

    def flush(self) -> None:
        """Nothing: a file's, for those who print to one."""

    def close(self, patience_s: float = CLOSE_S) -> None:
        """Waits a moment for what was handed over."""
        with self._turn:
            self._closed = True
            self._turn.notify()
        self._thread.join(patience_s)

    def _count_lost(self, data: bytes, why: str) -> None:
        lines = data.count(b"\n")
        self._lost += lines
        self._why = why
        self._count(lines)

    def _run(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._closed)
                if not self._waiting:
                    return
            # What is lost while nobody reads is told in one line, not in many.
            self._room.poll()
            with self._turn:
                data = self._waiting[0]
                lost, why = self._lost, self._why
            told = (
                not lost
                or self._told is None
                or self._write_all(self._encoded(self._told(lost, why))) is None
            )
            failure = self._write_all(data)
            with self._turn:
                if told:
                    self._lost -= lost
                if failure is not None:
                    self._count_lost(data, failure)
                # Only now: until it is written it counts as held.
                self._waiting.popleft()
                self._held -= len(data)

    def _write_all(self, data: bytes) -> str | None:
        """Writes it all; why that failed, or None."""
        left = memoryview(b"\n" + data if self._torn else data)
        whole = len(left)
        while left:
            try:
                left = left[os.write(self._descriptor, left) :]
            except BlockingIOError:
                # Another program that has this terminal or pipe made it non-blocking for all.
                self._room.poll()
            except OSError as error:
                self._torn = self._torn or len(left) < whole
                return error.strerror or type(error).__name__
        self._torn = False
        return None

    def _encoded(self, text: str) -> bytes:
        return text.encode(self._encoding, "backslashreplace")


def announce(text: str) -> None:
    """What a service says on standard output when it starts, whether anybody takes it or not."""
    sink = Sink(1, getattr(sys.stdout, "encoding", None) or "utf-8")
    sink.write(f"{clean_lines(text)}\n")
    sink.close()


class StatusLine:
    """The last line of a terminal, kept below the log lines that are written to it: each takes the status away and brings it back."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._text = ""

    def write(self, text: str) -> int:
        """A file's: text that ends with its line."""
        self._sink.write(f"\r\x1b[K{text}{self._text}")
        return len(text)

    def flush(self) -> None:
        """Nothing: a file's."""

    def show(self, text: str) -> None:
        self._text = text
        # A terminal that was stopped gets the newest state when it goes on, not all of them.
        if not self._sink.is_behind:
            self._sink.write(f"\r\x1b[K{text}")
