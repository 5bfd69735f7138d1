"""Real processes of ours for tests: a command to its end, a service until its signal, a tracker on a free port."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import tls

MATYAN = (sys.executable, "-m", "matyan")
_SECONDS = 60


def environment(**extra: str) -> dict[str, str]:
    """This process's, without what a developer's shell may set for a tracker or the SDK."""
    names = ("MATYAN_", "KAFKA_", "FDB_", "S3_", "BLOB_")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith(names)},
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


def matyan(*arguments: str | Path, check: int | None = 0, **kwargs: Any) -> Any:
    """Runs one command to its end; `check` is the exit code that it must have (None: any)."""
    kwargs.setdefault("env", environment())
    kwargs.setdefault("text", True)
    done = subprocess.run(
        [*MATYAN, *map(str, arguments)],
        capture_output=True,
        timeout=_SECONDS,
        check=False,
        **kwargs,
    )
    assert check is None or done.returncode == check, (arguments, done)
    return done


def asked(*arguments: str | Path) -> Any:
    """What a command prints with --json."""
    return json.loads(matyan(*arguments, "--json").stdout)


def asked_lines(*arguments: str | Path) -> list[Any]:
    """What a command prints, one JSON value a line."""
    return [json.loads(line) for line in matyan(*arguments).stdout.splitlines()]


@dataclass
class Process:
    process: subprocess.Popen[str]
    output: list[str]
    """What it has printed so far; grows."""

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(number)
        return self.process.wait(_SECONDS)


@contextmanager
def started(command: Sequence[str], greeting: str = "", **env: str) -> Iterator[Process]:
    """A process that has printed a line which holds `greeting`; killed at the end unless the test stopped it."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(**env),
    )
    output: list[str] = []
    greeted = threading.Event()

    def drain() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            output.append(line)
            if greeting in line:
                greeted.set()
        greeted.set()

    reader = threading.Thread(target=drain, daemon=True)
    reader.start()
    try:
        if greeting:
            assert greeted.wait(_SECONDS)
            assert any(greeting in line for line in output), "".join(output)
        yield Process(process, output)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        reader.join()


@dataclass
class Service(Process):
    url: str

    def get(self, path: str) -> bytes:
        context = tls.client_context() if self.url.startswith("https:") else None
        with urllib.request.urlopen(self.url + path, timeout=10, context=context) as response:
            body: bytes = response.read()
            return body

    def unready(self) -> str:
        """Why it is not ready, by /health/ready/; empty when it is."""
        try:
            said = self.get("/health/ready/")
        except urllib.error.HTTPError as refused:
            said = refused.read()
        except OSError:  # it does not listen yet
            return "does not listen"
        checks = json.loads(said)["checks"]
        return "; ".join(f"{name}: {why}" for name, why in checks.items() if why != "ok")

    def metric(self, name: str) -> list[float]:
        """The values of a metric, one for each set of labels or that of the set in `name`; none while it does not listen."""
        try:
            lines = self.get("/metrics/").decode().splitlines()
        except OSError:
            return []
        rows = [line.rpartition(" ") for line in lines]
        return [
            float(value) for is_, _, value in rows if is_ == name or is_.startswith(f"{name}{{")
        ]


@dataclass
class Tracker(Service):
    data: Path


@contextmanager
def running(
    data: Path, *arguments: str, command: Sequence[str] = (*MATYAN, "up"), **env: str
) -> Iterator[Tracker]:
    """A tracker that answers; killed at the end unless the test stopped it."""
    words = [*command, "--data", str(data), "--port", "0", *arguments]
    with started(words, "Ctrl-C", **env) as process:
        found = re.search(r"https?://\S+:\d+", "".join(process.output))
        assert found is not None
        yield Tracker(process.process, process.output, found.group(), data)
