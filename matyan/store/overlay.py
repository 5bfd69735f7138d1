"""A transaction's own writes, kept in memory over what is stored, so that its reads see them and its commit ships them at once.

For every engine: RocksDB has no transactions, and FoundationDB's client takes longer for each write than a dict does. No engine
here: what is stored comes through two methods that each engine has.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from matyan.store.base import KeyValue

_UNWRITTEN: Final[Any] = object()


class Overlay:
    """Made anew for each attempt at a transaction."""

    __slots__ = ("_begins", "_ends", "_in_runs", "_runs", "_writes", "set")

    if TYPE_CHECKING:

        def set(self, key: bytes, value: bytes) -> None: ...

    def __init__(self) -> None:
        # The newest write of each key (None: cleared), in the order of first writes. Keys never leave it, so a
        # sorted view can be brought up to date from its tail.
        self._writes: dict[bytes, bytes | None] = {}
        # The first `_in_runs` keys of it, as sorted lists each of which is twice as long as the next one at least, as in a
        # log-structured merge tree: one sorted list would be moved as a whole for each range that is looked at.
        self._runs: list[list[bytes]] = []
        self._in_runs = 0
        # Cleared ranges of what is stored, disjoint and ascending.
        self._begins: list[bytes] = []
        self._ends: list[bytes] = []
        if not TYPE_CHECKING:
            # The hottest call of the store: a dict's own method, without a frame of Python around it.
            self.set = self._writes.__setitem__

    def _get_stored(self, key: bytes) -> bytes | None:
        """What stands under `key`, whatever this transaction has written."""
        raise NotImplementedError

    def _scan_stored(
        self, begin: bytes, end: bytes, reverse: bool, most: int
    ) -> Iterator[KeyValue]:
        """The pairs that stand in [begin, end); most: nobody takes more of them (0: not known)."""
        raise NotImplementedError

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._writes.get(key, _UNWRITTEN)
        if value is not _UNWRITTEN:
            return value
        if self._begins:
            place = bisect_right(self._begins, key) - 1
            if place >= 0 and key < self._ends[place]:
                return None
        return self._get_stored(key)

    def clear(self, key: bytes) -> None:
        self._writes[key] = None

    def clear_range(self, begin: bytes, end: bytes) -> None:
        if begin >= end:
            return
        writes = self._writes
        for key in self._written(begin, end):
            writes[key] = None
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        """Sees the writes that were made before this call, not those made while it is consumed."""
        keys = self._written(begin, end)
        writes = [(key, self._writes[key]) for key in (reversed(keys) if reverse else keys)]
        # Of what is stored each write can take the place of one.
        most = limit + len(writes) if limit else 0
        stored = self._outside_cleared(begin, end, reverse, most)
        pairs = _merged(stored, writes, reverse) if writes else stored
        return islice(pairs, limit) if limit else pairs

    def _outside_cleared(
        self, begin: bytes, end: bytes, reverse: bool, most: int
    ) -> Iterator[KeyValue]:
        gaps = self._gaps(begin, end)
        for low, high in reversed(gaps) if reverse else gaps:
            yield from self._scan_stored(low, high, reverse, most)

    def _written(self, begin: bytes, end: bytes) -> list[bytes]:
        """The keys of the overlay in [begin, end), in order."""
        new = len(self._writes) - self._in_runs
        if new:
            self._add_run(sorted(islice(reversed(self._writes), new)))
        found: list[bytes] = []
        for run in self._runs:
            first = bisect_left(run, begin)
            if first < len(run) and run[first] < end:
                found += run[first : bisect_left(run, end, first)]
        found.sort()
        return found

    def _add_run(self, run: list[bytes]) -> None:
        self._in_runs += len(run)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            # Sorting two sorted lists is linear.
            run = self._runs.pop() + run
            run.sort()
        self._runs.append(run)

    def _gaps(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """[begin, end) without the cleared ranges."""
        gaps = []
        place = bisect_right(self._ends, begin)
        while place < len(self._begins) and self._begins[place] < end:
            if begin < self._begins[place]:
                gaps.append((begin, self._begins[place]))
            begin = self._ends[place]
            place += 1
        if begin < end:
            gaps.append((begin, end))
        return gaps


def _merged(
    stored: Iterator[KeyValue], writes: list[tuple[bytes, bytes | None]], reverse: bool
) -> Iterator[KeyValue]:
    """Both in one order; of a key that is in both, the write counts."""
    place = 0
    for pair in stored:
        key = pair[0]
        while place < len(writes) and (
            writes[place][0] > key if reverse else writes[place][0] < key
        ):
            written, value = writes[place]
            place += 1
            if value is not None:
                yield written, value
        if place < len(writes) and writes[place][0] == key:
            continue
        yield pair
    for written, value in writes[place:]:
        if value is not None:
            yield written, value
