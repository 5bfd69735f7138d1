"""How long to wait before the same is tried again."""

from __future__ import annotations

import random


class Backoff:
    """Waits that double from `first` to `cap` seconds, each shortened by up to half at random.

    The jitter keeps many workers from coming back to a store in the same moment; at least half of each wait
    is kept so that a row of short ones cannot turn into a busy loop.
    """

    def __init__(self, first: float = 0.05, cap: float = 5.0) -> None:
        self._first = first
        self._cap = cap
        self._wait = first

    def next(self) -> float:
        """Seconds to wait now."""
        wait, self._wait = self._wait, min(2 * self._wait, self._cap)
        return wait * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        self._wait = self._first
