"""Says which deleted runs are still written to: each with its id, once a minute at most. What is dropped is decided elsewhere."""

from __future__ import annotations

from typing import Any, Final

REPEAT_S: Final = 60.0
_MOST_RUNS: Final = 1_000


class DroppedLog:
    """
    Args:
        log: a structlog logger.
    """

    def __init__(self, log: Any) -> None:
        self._log = log
        self._due: dict[str, float] = {}
        self._untold: dict[str, int] = {}

    def tell(self, run: str, count: int, now: float) -> None:
        """So many records of `run` were dropped at `now` (a monotonic clock's seconds)."""
        count += self._untold.pop(run, 0)
        if now < self._due.get(run, now):
            self._untold[run] = count
            return
        if len(self._due) >= _MOST_RUNS:
            self._due.clear()
            self._untold.clear()
        self._due[run] = now + REPEAT_S
        self._log.warning("records of a deleted run are dropped", run=run, records=count)
