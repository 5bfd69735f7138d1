"""The thread that syncs the log."""

from __future__ import annotations

import threading
from collections.abc import Callable

import outcome
import trio

_Ended = Callable[[outcome.Outcome[None]], None]


class Syncer:
    """A thread that does one thing at a time and tells the trio thread.

    Not `trio.to_thread`: that costs some 200 µs of CPU a call, twice as much as the sync itself, this 20.
    """

    def __init__(self) -> None:
        self._start = threading.Lock()
        self._start.acquire()
        self._job: tuple[trio.lowlevel.TrioToken, Callable[[], None], _Ended] | None = None
        # A daemon, so that a program that never closes its store can end.
        threading.Thread(target=self._run, name="matyan sync", daemon=True).start()

    def start(self, job: Callable[[], None], ended: _Ended) -> None:
        """Runs `job` in the thread, then `ended` with its outcome in the trio thread; the one before has ended."""
        self._job = trio.lowlevel.current_trio_token(), job, ended
        self._start.release()

    def stop(self) -> None:
        """Ends the thread; its last job has ended."""
        self._job = None
        self._start.release()

    def _run(self) -> None:
        while True:
            self._start.acquire()
            if self._job is None:
                return
            token, job, ended = self._job
            try:
                token.run_sync_soon(ended, outcome.capture(job))
            except trio.RunFinishedError:
                return
