"""The next free step of a sequence whose highest step is taken, the last one that int64 has: which steps below it are free.

No store here: the caller tells what is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

END: Final = 2**63
"""Behind the highest step."""

_PASSED_OVER: Final = 64
"""So many taken steps in a row are passed over one by one, then in strides that double: a search is short, whatever was sent."""

Below = Callable[[int], int | None]
"""The highest taken step below this one, or None."""


class FreeSteps:
    """Steps from `next` to below `end`, of which none is taken: those behind all that stand below the full end of int64."""

    __slots__ = ("end", "next")

    def __init__(self, next_: int, end: int) -> None:
        self.next = next_
        self.end = end

    def take(self) -> int | None:
        """The next of them, which is taken from now on; None when none is left."""
        if self.next >= self.end:
            return None
        self.next += 1
        return self.next - 1

    def taken(self, step: int) -> None:
        """Somebody chose a step; what comes next stands behind it."""
        if self.next <= step < self.end:
            self.next = step + 1


def find(below: Below, end: int = END) -> FreeSteps | None:
    """The free steps below `end` that come behind others; None when there are none from 0 on."""
    passed = 0
    while end > 0:
        highest = below(end)
        behind = 0 if highest is None else max(0, highest + 1)
        if behind < end:
            return FreeSteps(behind, end)
        assert highest is not None
        passed += 1
        end = highest - (2 ** (passed - _PASSED_OVER) if passed > _PASSED_OVER else 0)
    return None
