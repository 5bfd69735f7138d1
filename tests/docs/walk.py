"""Takes the steps of one page as a reader does: in a new folder, in one shell, on a network of its own where nothing else is.

    python -m tests.docs.walk docs/quick-start.md FOLDER

So the ports of the pages are free, and a command that asked another machine would fail. Where a machine allows no such network
(it wants user namespaces), the page runs on the machine's own loopback, one page at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.docs.page import ROOT, Command, Page, Step, read
from tests.tracker import environment

SECONDS = 300
"""For one command."""

_END = "\x02ended"
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r")


class Failure(Exception):
    """A step did not do what the page says."""


class Screen:
    """A terminal that somebody reads: what was printed on it."""

    def __init__(self) -> None:
        self.master, self.slave = pty.openpty()
        # Rows and columns: tables are as wide as on the page.
        fcntl.ioctl(self.slave, 0x5414, struct.pack("HHHH", 50, 120, 0, 0))
        self._raw = ""
        self._changed = threading.Condition()
        threading.Thread(target=self._read, daemon=True).start()

    @property
    def text(self) -> str:
        return _ESCAPES.sub("", self._raw)

    def wait(self, what: str, seconds: float, begin: int = 0, alive: object = None) -> bool:
        """Whether `what` stood in the raw text after `begin` within these seconds."""
        deadline = time.monotonic() + seconds
        with self._changed:
            while what not in self._raw[begin:]:
                left = deadline - time.monotonic()
                if left <= 0 or (isinstance(alive, subprocess.Popen) and alive.poll() is not None):
                    self._changed.wait(0.2)
                    return what in self._raw[begin:]
                self._changed.wait(min(left, 0.2))
        return True

    def mark(self) -> int:
        return len(self._raw)

    def since(self, begin: int) -> str:
        return _ESCAPES.sub("", self._raw[begin:])

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 65_536):
                with self._changed:
                    self._raw += data.decode(errors="replace")
                    self._changed.notify_all()


class Walker:
    """One reader of one page."""

    def __init__(self, page: Page, folder: Path) -> None:
        self.page = page
        self.folder = folder
        self.names: dict[str, str] = {}
        self.printed = ""
        self.servers: list[tuple[str, subprocess.Popen[bytes], Screen]] = []
        self.env = environment(
            PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            TERM="xterm",
            NO_COLOR="1",
            PYTHONWARNINGS="ignore::DeprecationWarning",
        )
        self.state = folder.parent / "shell.state"
        if "source" in page.needs:
            copy_tree(folder)

    def walk(self) -> None:
        try:
            for step in self.page.steps:
                if not step.not_run:
                    self.take(step)
            for command, _, _ in [*self.servers]:
                self.interrupt(command)
        finally:
            for _, process, _ in self.servers:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    def take(self, step: Step) -> None:
        began = time.monotonic()
        self._take(step)
        print(f"{step.line:5} {step.kind:10} {time.monotonic() - began:6.1f} s", flush=True)

    def _take(self, step: Step) -> None:
        if step.kind == "let":
            self.let(step)
        elif step.kind == "interrupt":
            self.interrupt(step.text)
        elif step.kind == "printed":
            text, _, beginning = step.text.partition(" by ")
            (screen,) = (
                found for command, _, found in self.servers if command.startswith(beginning)
            )
            if not screen.wait(text, SECONDS):
                raise self.failed(step, beginning, f"did not print {text!r}", screen)
        elif step.file:
            (self.folder / step.file).write_text(self.named(step.text))
        elif step.kind == "python":
            script = self.folder.parent / "block.py"
            script.write_text(self.named(step.text))
            self.run(step, Command(f"python {script}", ()), 0)
        else:
            commands = step.commands()
            for command in commands:
                if step.until is not None:
                    self.start(step, command)
                elif step.is_soon:
                    self.run_until(step, command)
                else:
                    self.run(step, command, step.code if command is commands[-1] else 0)

    def run_until(self, step: Step, command: Command) -> None:
        """Again and again, until it prints what is shown."""
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                return self.run(step, command, step.code)
            except Failure:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def run(self, step: Step, command: Command, code: int) -> None:
        screen = Screen()
        text = self.named(command.text)
        # What `cd` and `export` did before still holds, as in a terminal that stays open.
        script = (
            f'[ ! -e "{self.state}" ] || . "{self.state}"\n{text}\n__code=$?\n'
            f'{{ echo "cd $(printf %q "$PWD")"; export -p; }} > "{self.state}"\nexit $__code\n'
        )
        process = self._shell(script, screen)
        try:
            process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise self.failed(step, text, f"did not end in {SECONDS} s", screen) from None
        os.close(screen.slave)
        time.sleep(0.05)
        self.printed = screen.text
        if process.returncode != code:
            raise self.failed(step, text, f"ended with {process.returncode}, not {code}", screen)
        if missing := missing_line(command.shown, self.printed):
            raise self.failed(step, text, f"did not print {missing!r}", screen)

    def start(self, step: Step, command: Command) -> None:
        screen = Screen()
        text = self.named(command.text)
        process = self._shell(f'[ ! -e "{self.state}" ] || . "{self.state}"\n{text}\n', screen)
        self.servers.append((text, process, screen))
        assert step.until is not None
        if not screen.wait(step.until, SECONDS, alive=process):
            raise self.failed(step, text, f"did not print {step.until!r}", screen)
        self.printed = screen.text
        if missing := missing_line(command.shown, self.printed):
            raise self.failed(step, text, f"did not print {missing!r}", screen)

    def interrupt(self, beginning: str) -> None:
        """Ctrl-C, as a terminal sends it: to the whole group. A service of ours ends with 0 then."""
        for row in reversed(self.servers):
            command, process, screen = row
            if command.startswith(beginning):
                self.servers.remove(row)
                os.killpg(process.pid, signal.SIGINT)
                code = process.wait(SECONDS)
                self.printed = screen.text
                if code and "matyan" in command.split()[0]:
                    raise Failure(f"{command}: ended with {code} at Ctrl-C:\n{screen.text}")
                return
        raise Failure(f"{self.page.path}: no command in the background begins with {beginning!r}")

    def let(self, step: Step) -> None:
        name, _, pattern = step.text.partition(" be ")
        found = re.search(pattern, self.printed, re.MULTILINE)
        if found is None:
            raise Failure(
                f"{self.page.path}:{step.line}: {pattern!r} is not in:\n{self.printed[-2000:]}"
            )
        self.names[name] = found[1]

    def named(self, text: str) -> str:
        for name, value in self.names.items():
            text = re.sub(rf"\b{re.escape(name)}\b", value, text)
        return text

    def failed(self, step: Step, text: str, why: str, screen: Screen) -> Failure:
        others = "".join(
            f"\n--- {command}\n{other.text[-1500:]}" for command, _, other in self.servers
        )
        return Failure(
            f"{self.page.path}:{step.line}: $ {text}\n{why}\n{screen.text[-4000:]}{others}"
        )

    def _shell(self, script: str, screen: Screen) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=screen.slave,
            stderr=screen.slave,
            start_new_session=True,
        )


def missing_line(shown: tuple[str, ...], printed: str) -> str | None:
    """The first line of a page that was not printed after those before it. `…` stands for anything; blanks count as one."""
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in shown:
        words = " ".join(line.split())
        if not words.strip("… "):
            continue
        pattern = ".*".join(re.escape(part) for part in words.split("…"))
        if not any(re.search(pattern, printed_line) for printed_line in lines):
            return line
    return None


def copy_tree(folder: Path) -> None:
    """The source tree as a clone has it, with the environment and the fetched jars of the real one."""
    names = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    subprocess.run(
        ["cp", "-p", "--parents", *[n for n in names.splitlines() if (ROOT / n).is_file()], folder],
        cwd=ROOT,
        check=True,
    )
    (folder / ".venv").mkdir()
    for entry in Path(sys.executable).parent.parent.iterdir():
        if entry.name != ".ready":
            (folder / ".venv" / entry.name).symlink_to(entry)
    # Newer than every source, so that `make` sets nothing up: what the links lead to is the real tree's.
    (folder / ".venv" / ".ready").touch()
    if (ROOT / "dev/target").is_dir():
        (folder / "dev/target").symlink_to(ROOT / "dev/target")


# --- the network ---------------------------------------------------------------------------------


@contextlib.contextmanager
def quiet_network() -> Iterator[None]:
    """This process has a network of its own, with loopback alone; or the machine's, which no other page uses meanwhile."""
    if os.environ.get("MATYAN_TEST_OWN_NETWORK") == "1":
        raise_loopback()
        yield
        return
    with Path(tempfile.gettempdir(), f"matyan-docs-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def own_network() -> list[str]:
    """The words before a command that give it a network of its own; none where the machine does not allow it."""
    for words in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        with contextlib.suppress(OSError):
            if subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
                return words
    return []


def raise_loopback() -> None:
    """ip link set lo up."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        flags_of, set_flags, is_up = 0x8913, 0x8914, 1
        request = struct.pack("16sh14x", b"lo", 0)
        (flags,) = struct.unpack("16xh14x", fcntl.ioctl(sock, flags_of, request))
        fcntl.ioctl(sock, set_flags, struct.pack("16sh14x", b"lo", flags | is_up))


def main() -> int:
    path, folder = map(Path, sys.argv[1:])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with quiet_network():
        try:
            Walker(read(path.absolute()), folder).walk()
        except Failure as failure:
            print(failure)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
