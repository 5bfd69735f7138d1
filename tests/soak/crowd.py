"""The training programs: so many at a time, each ends well, is killed or is resumed under its run's id; some runs are deleted.

Decides by its dice alone what becomes of whom; what the programs know stands in their diaries.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.soak.deployment import Deployment
from tests.soak.trainer import FORKED
from tests.tracker import environment

START_S = 3.0
"""From one start to the next: each takes a second of a core to begin."""


@dataclass
class Program:
    process: subprocess.Popen[bytes]
    run: str
    killed_at: float | None
    """When it is to be killed, on the monotonic clock."""


class Crowd:
    """
    Args:
        size: programs at a time.
        rate: messages a second of each.
        life: seconds that one of them trains, about.
    """

    def __init__(
        self,
        deployment: Deployment,
        diaries: Path,
        *,
        size: int,
        rate: float,
        life: float,
        dice: random.Random,
    ) -> None:
        self.deployment = deployment
        self.diaries = diaries
        self.rate = rate
        self.life = life
        self.dice = dice
        self.happened: Counter[str] = Counter()
        self.sessions: dict[str, int] = {}
        """How many each run has had."""
        self.deleted: set[str] = set()
        """Runs whose deletion was asked for and taken."""
        self._programs: list[Program | None] = [None] * size
        self._orphans: set[int] = set()
        """Process groups of forked children that have outlived their parents."""
        self._deleting: dict[str, Future[str]] = {}
        self._next_start = 0.0
        self._pool = ThreadPoolExecutor(1)
        self._over = threading.Event()
        diaries.mkdir(parents=True, exist_ok=True)
        self._output = (diaries.parent / "programs.log").open("ab")

    @property
    def running(self) -> int:
        return sum(one is not None for one in self._programs)

    def tick(self) -> None:
        """Starts, kills, buries and deletes what is due."""
        now = time.monotonic()
        self._forget_orphans()
        for slot, program in enumerate(self._programs):
            if program is None:
                if now >= self._next_start:
                    self._programs[slot] = self._start(slot)
                    self._next_start = now + START_S
                continue
            code = program.process.poll()
            if code is not None:
                self._bury(program, code)
                self._programs[slot] = None
            elif program.killed_at is not None and now >= program.killed_at:
                program.process.kill()
        self._delete_some()

    def _bury(self, program: Program, code: int) -> None:
        words = {0: "finished", -signal.SIGKILL: "killed", 3: "gave up"}
        words[-signal.SIGTERM] = "told to end before it had begun"
        self.happened[words.get(code, f"ended with {code}")] += 1
        self._orphans.add(program.process.pid)
        self._forget_orphans()

    def _forget_orphans(self) -> None:
        """Those that have ended: their number may become another's."""
        for group in [*self._orphans]:
            try:
                os.killpg(group, 0)
            except (ProcessLookupError, PermissionError):
                self._orphans.discard(group)

    def _start(self, slot: int) -> Program:
        dice, frontiers = self.dice, self.deployment.frontiers
        busy = {one.run for one in self._programs if one} | self.deleted | self._deleting.keys()
        known = [run for run in self.sessions if run not in busy]
        resumes = bool(known) and dice.random() < 0.6
        run = dice.choice(known) if resumes else f"soak-{len(self.sessions):04}"
        session = self.sessions.get(run, 0)
        assert session < FORKED
        self.sessions[run] = session + 1
        self.happened["resumed" if resumes else "begun"] += 1
        number = slot % len(frontiers)
        seconds = self.life * dice.uniform(0.5, 1.5)
        words = [
            sys.executable,
            "-m",
            "tests.soak.trainer",
            "--run",
            run,
            "--session",
            str(session),
        ]
        words += ["--url", frontiers[number].url, "--frontier", str(number)]
        words += ["--api", self.deployment.api.url, "--diaries", str(self.diaries)]
        words += ["--seconds", f"{seconds:.1f}", "--rate", str(self.rate)]
        if dice.random() < 0.15:
            words += ["--fork-after", f"{seconds / 4:.1f}"]
            self.happened["forked"] += 1
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env=environment(),
            start_new_session=True,
        )
        killed = dice.random() < 0.4
        return Program(
            process, run, time.monotonic() + seconds * dice.uniform(0.2, 0.9) if killed else None
        )

    # --- deletions ---

    def _delete_some(self) -> None:
        for run, future in [*self._deleting.items()]:
            if future.done():
                del self._deleting[run]
                # Whatever it said: asked for again it is only said to be gone, and the oracle looks at the end.
                self.happened[f"deleted by {future.result()}"] += 1
                self.deleted.add(run)
        if self._deleting or len(self.deleted) >= len(self.sessions) // 10:
            return
        busy = {one.run for one in self._programs if one} | self.deleted
        quiet = [run for run in self.sessions if run not in busy and self._is_quiet(run)]
        if quiet:
            run = self.dice.choice(quiet)
            delete = self.dice.choice([self._by_api, self._by_command])
            self._deleting[run] = self._pool.submit(self._until_deleted, run, delete)

    def _is_quiet(self, run: str) -> bool:
        """Whether something of it was acknowledged, and no forked child of it goes on."""
        diaries = [*self.diaries.glob(f"{run}.*.diary")]
        return all(time.time() - one.stat().st_mtime > 10 for one in diaries) and any(
            b'["ok", ' in one.read_bytes() for one in diaries
        )

    def _until_deleted(self, run: str, delete: Callable[[str], str]) -> str:
        """Asks until it is done. Where an answer went lost and it is gone then, it was done; else its records are to come."""
        went_lost = False
        while not self._over.is_set():
            said = delete(run)
            if said == "done" or (said == "gone" and went_lost):
                return "the API" if delete == self._by_api else "the command"
            went_lost = went_lost or said == "lost"
            self._over.wait(2)
        return "nobody yet"

    def _by_api(self, run: str) -> str:
        url = f"{self.deployment.api.url}/api/v1/rest/runs/{run}"
        try:
            with urllib.request.urlopen(
                urllib.request.Request(url, method="DELETE"), timeout=30
            ) as answer:
                answer.read()
        except urllib.error.HTTPError as error:
            return "gone" if error.code == 404 else "lost"
        except OSError:
            return "lost"
        return "done"

    def _by_command(self, run: str) -> str:
        try:
            done = self.deployment.command("delete", run, "--yes", check=None)
        except (OSError, subprocess.SubprocessError):
            return "lost"
        if done.returncode == 0:
            return "done"
        return "gone" if "no run" in done.stderr else "lost"

    # --- the end ---

    def finish(self, seconds: float) -> None:
        """Tells all to come to their end, and kills those that have not after so long."""
        deadline = time.monotonic() + seconds
        self._forget_orphans()
        for group in [*self._orphans, *(one.process.pid for one in self._programs if one)]:
            try:
                os.killpg(group, signal.SIGTERM)
            except ProcessLookupError:
                continue
        for one in self._programs:
            if one is not None:
                try:
                    code = one.process.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    one.process.kill()
                    code = one.process.wait()
                self._bury(one, code)
        self._programs = [None] * len(self._programs)
        self._wait_for_orphans(deadline)
        for run, future in self._deleting.items():
            # Raises TimeoutError where nobody could delete it: then the deployment does not work any more.
            self.happened[f"deleted by {future.result(max(120, seconds))}"] += 1
            self.deleted.add(run)
        self._deleting.clear()
        self.end()

    def _wait_for_orphans(self, deadline: float) -> None:
        while self._orphans and time.monotonic() < deadline:
            time.sleep(0.2)
            self._forget_orphans()

    def end(self) -> None:
        """Kills all that is left, forked children too."""
        for one in self._programs:
            if one is not None:
                one.process.kill()
                one.process.wait()
                self._orphans.add(one.process.pid)
        self._forget_orphans()
        for group in self._orphans:
            os.killpg(group, signal.SIGKILL)
        self._orphans.clear()
        self._programs = [None] * len(self._programs)
        self._over.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
