"""What the benchmarks share: where they work, server processes, their CPU and memory from /proc, disk use, medians and tables.

Nothing here knows what is measured. Linux only.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

TICKS = os.sysconf("SC_CLK_TCK")
BUILD = Path(__file__).resolve().parent.parent / "build"


@contextmanager
def workplace(name: str) -> Iterator[Path]:
    """A scratch folder under build/. SIGTERM ends the benchmark as Ctrl-C does, so that the servers under test end with it."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    BUILD.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f"{name}-", dir=BUILD) as scratch:
        yield Path(scratch)


def heading(*packages: str) -> str:
    """What every report begins with."""
    return f"{describe(*packages)}; {busy():.1f} cores busy before the start"


def describe(*packages: str) -> str:
    """Machine and versions, in one line."""
    model = next(
        (
            line.split(":")[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{os.cpu_count()} × {model}",
        f"{memory:.0f} GiB",
        platform.platform(),
        f"Python {platform.python_version()}",
    ]
    for package in packages:
        try:
            parts.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    return ", ".join(parts)


def busy(seconds: float = 1.0) -> float:
    """Cores that are in use before the measurement begins: what else the machine is doing."""

    def used() -> int:
        fields = [int(n) for n in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
        return sum(fields[:3]) + sum(fields[5:8])

    before = used()
    time.sleep(seconds)
    return (used() - before) / TICKS / seconds


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**changes: str) -> dict[str, str]:
    """The caller's, but with compiled modules kept as an installation has them, and no proxy."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "NO_PROXY": "127.0.0.1,localhost", **changes}


def cpu_of(pid: int) -> float:
    """CPU seconds of a process so far, user and system, its ended children's too; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return 0.0
    return sum(map(int, fields[11:15])) / TICKS


class Server:
    """A server under test: one process and what it starts, killed as a group in the end."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        ready: str,
        env: Mapping[str, str] | None = None,
        folder: Path,
        timeout: float = 120,
    ) -> None:
        """Starts it and waits until the URL `ready` answers 200; the seconds are `started_in`.

        Raises:
            RuntimeError: it ended or did not answer; its output's end is in the text.
        """
        self.log = folder.with_name(folder.name + ".log")
        begun = time.perf_counter()
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(word) for word in command],
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=dict(env if env is not None else environment()),
                cwd=folder,
                start_new_session=True,
            )
        while not answers(ready):
            if self.process.poll() is not None or time.perf_counter() - begun > timeout:
                self.stop()
                raise RuntimeError(
                    f"{command[0]} did not get ready: {self.log.read_text()[-2000:]}"
                )
            time.sleep(0.01)
        self.started_in = time.perf_counter() - begun

    def pids(self) -> list[int]:
        """The process and all below it."""
        parents: dict[int, list[int]] = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                except OSError:
                    continue
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
        found = [self.process.pid]
        for pid in found:
            found += parents.get(pid, [])
        return found

    def cpu(self) -> float:
        """CPU seconds so far, user and system, of all of them."""
        return sum(map(cpu_of, self.pids()))

    def memory(self, kind: str = "Rss") -> int:
        """Resident bytes of all of them; kind "Pss" counts pages that they share once."""
        total = 0
        for pid in self.pids():
            try:
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            except OSError:
                continue
            total += next(int(line.split()[1]) for line in lines if line.startswith(kind + ":"))
        return total * 1024

    def quiet(self, timeout: float = 60) -> None:
        """Waits until it uses less than a tenth of a core: some go on starting after they are ready."""
        deadline = time.perf_counter() + timeout
        used = -1.0
        while used < 0 or (self.cpu() - used > 0.05 and time.perf_counter() < deadline):
            used = self.cpu()
            time.sleep(0.5)

    def stop(self, timeout: float = 30) -> int:
        """SIGTERM to the first, and SIGKILL to the group when that is not enough; the exit code."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout)
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        return self.process.wait()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()


OPENER = urllib.request.build_opener(
    urllib.request.ProxyHandler({}),
    # A bench's own server, whose certificate it has just made.
    urllib.request.HTTPSHandler(context=ssl._create_unverified_context()),
)


def answers(url: str) -> bool:
    try:
        with OPENER.open(url, timeout=2) as reply:
            return bool(reply.status == 200)
    except (OSError, urllib.error.URLError):
        return False


def post(url: str, body: object) -> Any:
    request = urllib.request.Request(
        url, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with OPENER.open(request, timeout=30) as reply:
        return json.load(reply)


def disk_bytes(folder: Path) -> int:
    """The sizes of all files below."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def settle(folder: Path) -> None:
    """fsync of every file below: until then an acknowledged point may stand in the page cache only."""
    for file in folder.rglob("*"):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A markdown table; the first column is text, the others are aligned right."""
    lines = [[str(cell) for cell in row] for row in rows]
    widths = [max([len(name), *(len(row[i]) for row in lines)]) for i, name in enumerate(columns)]

    def line(cells: Sequence[str]) -> str:
        first, *rest = cells
        padded = [
            first.ljust(widths[0]),
            *(c.rjust(w) for c, w in zip(rest, widths[1:], strict=True)),
        ]
        return "| " + " | ".join(padded) + " |"

    rule = (
        "|" + "|".join("-" * (w + 1) + ("-" if i == 0 else ":") for i, w in enumerate(widths)) + "|"
    )
    return "\n".join([line(list(columns)), rule, *map(line, lines)])


def number(value: float | None) -> str:
    """Three digits that count, thousands separated."""
    if value is None:
        return "–"
    if abs(value) >= 1000:
        return f"{round(value, 2 - len(str(int(abs(value)))) + 1):,.0f}"
    return f"{value:.3g}"


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure that the first row has."""
    return {key: statistics.median(row[key] for row in rows) for key in rows[0]}


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
