"""What a service says about itself: live (it works as a program) and ready (it can do its work now).

Liveness is never reachability: an engine that is away makes a service not ready, never dead. No HTTP here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import trio

from matyan.errors import MatyanError

OK: Final = "ok"

Check = Callable[[], Awaitable[None]]


class Health:
    """Asks the checks in the background and answers from what they said last.

    Args:
        interval_s: between two rounds.
        stale_s: an answer older than this counts as none, and a check that takes longer is given up.
    """

    def __init__(self, *, interval_s: float = 2.0, stale_s: float = 10.0) -> None:
        self.draining = False
        """Set when the service is going down: not ready any more."""
        self._interval_s = interval_s
        self._stale_s = stale_s
        self._checks: dict[str, Check] = {}
        self._live: dict[str, Callable[[], str | None]] = {}
        self._answers: dict[str, tuple[float, str]] = {}
        self._ticked: float | None = None

    def add(self, name: str, check: Check) -> None:
        """Adds a readiness check. It raises MatyanError with the reason when it fails."""
        self._checks[name] = check

    def add_live(self, name: str, dead: Callable[[], str | None]) -> None:
        """Adds a liveness check: why this part can never work again without a restart, or None."""
        self._live[name] = dead

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Asks each check again and again, each in a task of its own so that a slow one ages no other."""
        async with trio.open_nursery() as nursery:
            for name, check in self._checks.items():
                nursery.start_soon(self._keep_asking, name, check)
            task_status.started()
            while True:
                self._ticked = trio.current_time()
                await trio.sleep(self._interval_s)

    async def _keep_asking(self, name: str, check: Check) -> None:
        while True:
            answer = f"No answer came within {self._stale_s:g} s."
            with trio.move_on_after(self._stale_s):
                try:
                    await check()
                    answer = OK
                except MatyanError as error:
                    answer = str(error)
            self._answers[name] = (trio.current_time(), answer)
            await trio.sleep(self._interval_s)

    def live(self) -> dict[str, str]:
        """Each part and "ok" or why it must be restarted."""
        parts = {name: dead() or OK for name, dead in self._live.items()}
        late = 0.0 if self._ticked is None else trio.current_time() - self._ticked
        parts["loop"] = OK if late < self._stale_s else f"The loop has not turned for {late:.0f} s."
        return parts

    def ready(self) -> dict[str, str]:
        """Each check and "ok" or what is missing."""
        checks = {name: self._last_answer(name) for name in self._checks}
        if self.draining:
            checks["draining"] = "The service is shutting down."
        return checks

    def _last_answer(self, name: str) -> str:
        asked, answer = self._answers.get(name, (None, "Not asked yet."))
        if asked is not None and (age := trio.current_time() - asked) > self._stale_s:
            return f"No answer came for {age:.0f} s."
        return answer
