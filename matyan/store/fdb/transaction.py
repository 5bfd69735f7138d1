"""Reads from a cluster, and a transaction: its own writes over them. For a thread: a read waits for its answer.

No retries and no commit loop: what a failed read means for the transaction, `store.py` decides.
"""

from __future__ import annotations

import time
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final

from matyan.errors import Unavailable
from matyan.store.base import KeyValue, Range
from matyan.store.fdb._calls import Pending
from matyan.store.fdb.client import Cluster
from matyan.store.overlay import Overlay

_FIRST_PAGE_BYTES: Final = 16_000
"""Of a range whose reader may stop early; further pages are as large as the client makes them, some 80 kB."""
_AHEAD: Final = 64
"""Ranges of one `scan_each` that are asked for together."""

_KEY: Final = itemgetter(0)


class Failure:
    """Which read of an attempt failed first. (Not a part of the attempt, which would hold itself then.)"""

    def __init__(self) -> None:
        self.code: int | None = None

    def note(self, code: int) -> Unavailable:
        """The error for the reader."""
        if self.code is None:
            self.code = code
        return Unavailable(f"A read from FoundationDB failed with the code {code}.")


class _Page:
    """The beginning of a range, read or being read."""

    __slots__ = ("_pending", "_read", "range")

    def __init__(self, range_: Range, pending: Pending) -> None:
        self.range = range_
        self._pending: Pending | None = pending
        self._read: tuple[list[KeyValue], bool] = [], False

    def pairs(self) -> tuple[list[KeyValue], bool]:
        """They, and whether there are more."""
        if self._pending is not None:
            self._read = self._pending.pairs()
            self._pending = None
        return self._read


class FdbSnapshot:
    """The reads of one of the binding's transactions.

    Args:
        snapshot: whether nothing that is read makes the transaction conflict.
        failed: makes the error that a reader gets of a failed read's code.
    """

    prefetches = True

    def __init__(
        self, cluster: Cluster, tr: Any, *, snapshot: bool, failed: Callable[[int], Unavailable]
    ) -> None:
        self._calls = cluster.calls
        self._tr = tr  # it owns what the pointer points to
        self._pointer: int = tr.tpointer
        self._error: Any = cluster.fdb.FDBError
        self._snapshot = snapshot
        self._failed = failed
        self._gets: dict[bytes, Pending] = {}
        self._pages: dict[tuple[bytes, bytes, bool], _Page] = {}
        # The begins of the ranges that were asked for whole, ascending, each with its end.
        self._whole: list[tuple[bytes, bytes]] = []
        self.answers = 0
        """How many reads were answered."""
        self.waited_s = 0.0
        """How long was waited for them."""

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        for key in keys:
            if key not in self._gets:
                self._gets[key] = self._calls.get(self._pointer, key, self._snapshot)
        for range_ in ranges:
            begin, end, limit, reverse = range_
            place = begin, end, reverse
            if begin < end and place not in self._pages:
                self._pages[place] = self._page(range_, _FIRST_PAGE_BYTES)
                if not limit and not reverse:
                    insort(self._whole, (begin, end))

    def get(self, key: bytes) -> bytes | None:
        pending = self._gets.get(key)
        if pending is None:
            page = self._around(key)
            if page is not None:
                pairs, more = self._read(page)
                if not more or (pairs and key <= pairs[-1][0]):
                    place = bisect_left(pairs, key, key=_KEY)
                    return pairs[place][1] if pairs[place:] and pairs[place][0] == key else None
            pending = self._calls.get(self._pointer, key, self._snapshot)
        began = time.perf_counter()
        try:
            value = pending.value()
        except self._error as error:
            raise self._failed(error.code) from error
        self._waited(began)
        return value

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        if begin >= end:
            return
        page = self._pages.get((begin, end, reverse))
        if page is None:
            inside = self._inside(begin, end)
            if inside is not None:
                pairs = [pair for pair in inside if begin <= pair[0] < end]
                if reverse:
                    pairs.reverse()
                yield from pairs[: limit or None]
                return
            page = self._page(Range(begin, end, limit, reverse), _FIRST_PAGE_BYTES)
        yielded = 0
        while True:
            pairs, more = self._read(page)
            for pair in pairs:
                yield pair
                yielded += 1
                if yielded == limit:
                    return
            # A page that was asked for with a smaller limit ends there.
            if not pairs or not (more or len(pairs) == page.range.limit):
                return
            begin, end = (begin, pairs[-1][0]) if reverse else (pairs[-1][0] + b"\x00", end)
            page = self._page(Range(begin, end, max(0, limit - yielded), reverse), 0)

    def _page(self, range_: Range, target_bytes: int) -> _Page:
        begin, end, limit, reverse = range_
        return _Page(
            range_,
            self._calls.get_range(
                self._pointer, begin, end, limit, target_bytes, self._snapshot, reverse
            ),
        )

    def _read(self, page: _Page) -> tuple[list[KeyValue], bool]:
        began = time.perf_counter()
        try:
            read = page.pairs()
        except self._error as error:
            raise self._failed(error.code) from error
        self._waited(began)
        return read

    def _waited(self, began: float) -> None:
        self.answers += 1
        self.waited_s += time.perf_counter() - began

    def _around(self, key: bytes) -> _Page | None:
        """The range with `key` in it that was asked for whole."""
        place = bisect_right(self._whole, key, key=_KEY) - 1
        if place < 0 or key >= self._whole[place][1]:
            return None
        begin, end = self._whole[place]
        return self._pages[begin, end, False]

    def _inside(self, begin: bytes, end: bytes) -> list[KeyValue] | None:
        """The pairs of a range that was read whole and has [begin, end) in it."""
        page = self._around(begin)
        if page is None or end > page.range.end:
            return None
        pairs, more = self._read(page)
        return None if more else pairs


class FdbTransaction(Overlay):
    """One attempt at a transaction. What it reads, it would conflict with; its writes are handed over by `write`.

    Rows of `update_guarded` have no write conflict range of their own, those of one `update` have one together: a range a row
    would double what a commit sends, and the resolver's work. Two owners of a run conflict all the same, by its owner and
    trace rows, which each of them reads, and which are set one by one.
    """

    __slots__ = ("_calls", "_pointer", "_ranges", "_reads", "_unranged")

    prefetches = True

    def __init__(self, cluster: Cluster, tr: Any, failure: Failure) -> None:
        super().__init__()
        # Reads are answered with this transaction's writes here, in the overlay.
        tr.options.set_read_your_writes_disable()
        self._reads = FdbSnapshot(cluster, tr, snapshot=False, failed=failure.note)
        self._calls = cluster.calls
        self._pointer: int = tr.tpointer
        self._unranged: set[bytes] = set()
        self._ranges: list[tuple[bytes, bytes]] = []

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        pairs = list(pairs)
        if pairs:
            keys = [key for key, _ in pairs]
            self._ranges.append((min(keys), max(keys) + b"\x00"))
            self.update_guarded(pairs)

    def update_guarded(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        pairs = list(pairs)
        self._writes.update(pairs)
        self._unranged.update(map(_KEY, pairs))

    @property
    def has_read(self) -> bool:
        """Whether the cluster has answered."""
        return self._reads.answers > 0

    @property
    def waited_s(self) -> float:
        """How long was waited for reads."""
        return self._reads.waited_s

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        self._reads.prefetch(keys, ranges)

    def _get_stored(self, key: bytes) -> bytes | None:
        return self._reads.get(key)

    def _scan_stored(
        self, begin: bytes, end: bytes, reverse: bool, most: int
    ) -> Iterator[KeyValue]:
        return self._reads.scan(begin, end, limit=most, reverse=reverse)

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        for place in range(0, len(ranges), _AHEAD):
            some = ranges[place : place + _AHEAD]
            self._reads.prefetch([], [Range(begin, end) for begin, end in some])
            for begin, end in some:
                yield from self.scan(begin, end)

    def write(self) -> int:
        """Hands the writes to the client; returns the bytes of all keys and values, 0: there are none."""
        if not self._writes and not self._begins:
            return 0
        cleared = [*zip(self._begins, self._ends, strict=True)]
        return self._calls.write(self._pointer, cleared, self._writes, self._unranged, self._ranges)
