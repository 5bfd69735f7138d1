"""The fdbserver behind the tests' cluster file, where it is this machine's: frozen, killed and started again as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.until import wait_for

_LOOPBACK = ("127.0.0.1:", "localhost:", "[::1]:")


@dataclass
class Server:
    pid: int
    argv: list[str]
    folder: Path
    environment: dict[str, str]

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        if self.is_alive():
            os.kill(self.pid, signal.SIGCONT)

    def is_alive(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return False
        return state != "Z"

    def kill(self) -> None:
        """As a crash does. Returns when it is gone; whoever supervises it may have started another one by then."""
        os.kill(self.pid, signal.SIGKILL)
        wait_for(lambda: not self.is_alive())

    def start(self) -> None:
        """Again, with the words, the folder and the environment that it had, unless its supervisor was faster."""
        time.sleep(0.2)
        for pid in _servers():
            if _argv(pid) == self.argv:
                self.pid = pid
                return
        self.pid = subprocess.Popen(
            self.argv,
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ).pid

    def restore(self) -> None:
        """It runs, whatever was done to it."""
        self.thaw()
        if not self.is_alive():
            self.start()


def server_of(cluster_file: str) -> Server:
    """The one process of a cluster of one; skips with its reason when it is not this machine's to kill."""
    lines = Path(cluster_file).read_text().splitlines()
    text = next(line for line in lines if line and not line.startswith("#"))
    coordinators = text.rpartition("@")[2].strip().split(",")
    if len(coordinators) != 1 or not coordinators[0].startswith(_LOOPBACK):
        pytest.skip(f"the cluster {coordinators} is not one server of this machine")
    port = coordinators[0].rpartition(":")[2]
    for pid in _servers():
        argv = _argv(pid)
        if any(word.rpartition(":")[2] == port for word in argv[1:]):
            try:
                environment = Path(f"/proc/{pid}/environ").read_bytes()
                folder = Path(f"/proc/{pid}/cwd").readlink()
            except PermissionError:
                pytest.skip(f"the server {pid} is another user's")
            variables = (
                entry.partition("=") for entry in environment.decode().split("\0") if entry
            )
            return Server(pid, argv, folder, {name: value for name, _, value in variables})
    pytest.skip(f"no fdbserver of this machine serves port {port}")


def _servers() -> list[int]:
    return [
        int(entry.name)
        for entry in Path("/proc").iterdir()
        if entry.name.isdigit() and Path(_argv(int(entry.name))[0]).name == "fdbserver"
    ]


def _argv(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode().rstrip("\0").split("\0")
    except OSError:
        return [""]
