"""When the records of a partition that wait are handed to its task: in turns, one partition after another. No clock, no I/O.

A quiet consumer hands on at once what comes. In a busy one each turn puts the next one off by about the work that it makes:
so partitions gather the more, the more there is to do, and the fixed cost of transactions cannot eat up the time of their
contents. Nor do the partitions whose records came with one answer of the broker ask for their transactions all at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Protocol, TypeVar

TURN_S: Final = 0.001
"""The least time between two turns: some three times what a transaction costs whatever it holds."""
TURN_BYTES_S: Final = 100e6
"""A turn takes so much longer as its bytes need at this pace: about a worker's fastest."""
MOST_WAIT_S: Final = 0.02
"""Nothing waits longer for its turn: half of what freshness may take."""
MOST_WAITING_BYTES: Final = 1_000_000
"""So much is handed on at once: what one transaction takes."""


class Waiting(Protocol):
    """A partition, as far as its turn is concerned."""

    waiting_since: float | None
    """When the first record that waits came, in seconds of the caller's clock; None: none waits."""
    waiting_bytes: int


W = TypeVar("W", bound=Waiting)


class Turns:
    """The turns of one consumer's partitions."""

    def __init__(self) -> None:
        self._next = 0.0

    def due(self, partitions: Iterable[W], now: float) -> Iterator[W]:
        """Those whose records are to be handed on now; the caller does it. Who waits longest comes first."""
        waiting = [
            (part.waiting_since, part) for part in partitions if part.waiting_since is not None
        ]
        for since, part in sorted(waiting, key=lambda one: one[0]):
            if (
                now >= self._next
                or now >= since + MOST_WAIT_S
                or part.waiting_bytes >= MOST_WAITING_BYTES
            ):
                self._next = now + TURN_S + part.waiting_bytes / TURN_BYTES_S
                yield part

    def next_due(self, partitions: Iterable[Waiting], now: float) -> float | None:
        """In how many seconds one of those that wait is due; None: none waits."""
        since = [part.waiting_since for part in partitions if part.waiting_since is not None]
        return max(0.0, min(self._next, min(since) + MOST_WAIT_S) - now) if since else None
