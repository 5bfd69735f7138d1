"""What the servers of this folder share: pinned jars from Maven Central, a process on a folder and a port, its end.

A server is a real program and neither a mock nor a container; nothing of the package needs these files.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol, TypeVar

HERE = Path(__file__).parent
TARGET = HERE / "target"


class Missing(Exception):
    """Something that this needs is not on the machine; the text says what."""


def fetch_jars(pom: Path) -> str:
    """The class path of a pom's pinned jars, fetched with Maven when the pom changed or nothing was fetched yet.

    Raises:
        Missing: Java or Maven is not installed, or Maven could not fetch the jars.
    """
    for program, why in (
        ("java", "Java 17 or newer runs the server"),
        ("mvn", "Maven fetches the server"),
    ):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not on the PATH: {why}")
    jars = TARGET / pom.stem
    stamp = jars / "pom.xml"
    jars.mkdir(parents=True, exist_ok=True)
    with (TARGET / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_bytes() != pom.read_bytes():
            done = subprocess.run(
                [
                    *("mvn", "-q", "-B", "dependency:copy-dependencies", "-f"),
                    pom,
                    f"-DoutputDirectory={jars}",
                ],
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise Missing(f"Maven could not fetch what {pom.name} names: {done.stdout[-2000:]}")
            shutil.copyfile(pom, stamp)
    return str(jars / "*")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


class Server:
    """One server process on one folder and one port, which stay the same across kill and start."""

    name: str
    """What an error calls it."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder.absolute()
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def spawn(
        self, command: Sequence[str | Path], environment: Mapping[str, str] | None = None
    ) -> None:
        """Starts the process, with this one's environment or another, and does not wait until it answers."""
        with self.log.open("ab") as log:
            # Its own process group: a Ctrl-C at the terminal reaches the script, which stops the server cleanly.
            self.process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until(self, answers: Callable[[], bool], timeout: float) -> None:
        """
        Raises:
            RuntimeError: it ended, or does not answer within `timeout` seconds; its log's end is in the text.
        """
        deadline = time.monotonic() + timeout
        while not (self.listens() and answers()):
            time.sleep(0.05)
            assert self.process is not None
            ended = self.process.poll()
            if ended is None and time.monotonic() < deadline:
                continue
            state = (
                f"ended with {ended}" if ended is not None else f"did not answer in {timeout:g} s"
            )
            self.kill()
            raise RuntimeError(
                f"{self.name} {state}:\n{self.log.read_text(errors='replace')[-3000:]}"
            )

    def listens(self) -> bool:
        with socket.socket() as sock:
            sock.settimeout(1)
            return sock.connect_ex(("127.0.0.1", self.port)) == 0

    def signal(self, number: int) -> None:
        assert self.process is not None, f"{self.name} is not running"
        os.kill(self.process.pid, number)

    def join(self) -> int:
        """Waits until it ends; returns its exit code."""
        assert self.process is not None, f"{self.name} is not running"
        return self.process.wait()

    def freeze(self) -> None:
        """SIGSTOP: its sockets stay open and nothing answers, as on a machine that hangs."""
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """kill -9; the folder stays and a start works on it again."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
            self.process.wait()
            self.process = None

    def stop(self, timeout: float = 20) -> None:
        """SIGTERM and wait; kill -9 when it does not end in `timeout` seconds."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.thaw()
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None


class Running(Protocol):
    """A server, or several."""

    def stop(self) -> None: ...

    def join(self) -> int: ...


S = TypeVar("S", bound=Running)


@contextlib.contextmanager
def stopped_at_end(server: S, start: Callable[[], None]) -> Iterator[S]:
    """A started server, stopped on leaving."""
    try:
        start()
        yield server
    finally:
        server.stop()


def run_until_interrupted(running: AbstractContextManager[S], greeting: Callable[[S], str]) -> int:
    """Runs a server for a terminal until it ends or Ctrl-C or SIGTERM comes; returns the exit code."""

    def stop(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        with running as server:
            print(greeting(server), flush=True)
            return server.join()
    except KeyboardInterrupt:
        return 0
    except (Missing, RuntimeError) as error:
        print(error, file=sys.stderr)
        return 2
