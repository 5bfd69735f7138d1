"""How many records one transaction takes, on an engine that gives a transaction little time. It knows no store and no clock."""

from __future__ import annotations

import sys
from typing import Final

_GROWS_AFTER: Final = 8
"""So many full transactions in a row that were in time."""
_ENOUGH: Final = 1 << 20
"""Records: no transaction takes more."""


class Pace:
    """Half as many after a transaction that took too long, twice as many when all goes well again."""

    def __init__(self) -> None:
        self.most = sys.maxsize
        """Records of one transaction."""
        self._in_time = 0

    def too_slow(self, records: int) -> None:
        """A transaction of so many took too long."""
        self.most = max(1, records // 2)
        self._in_time = 0

    def in_time(self, records: int) -> None:
        """A transaction of so many was in time; one that was far from full says nothing."""
        if records > self.most // 2:
            self._in_time += 1
            if self._in_time >= _GROWS_AFTER:
                self._in_time = 0
                self.most = 2 * self.most if self.most < _ENOUGH else sys.maxsize
