"""A store in a dict: fast enough for hypothesis, and held to the contract suite like the real ones.

It has FoundationDB's semantics: transactions that run side by side and conflict by ranges of keys, limits of sizes and of
age, reads that are made in pages; and its faults, where they are wanted (`Faults`). `commit` is `transact` without an event
loop.
"""

from __future__ import annotations

import random
from bisect import bisect_left, bisect_right, insort
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from itertools import pairwise
from typing import TypeVar
from weakref import WeakSet

import trio

from matyan.errors import Expired, InvalidRecord, Unavailable
from matyan.store.base import KeyValue, Layout, Range, Snapshot, Transaction, View, exhausted
from matyan.store.view import RenewedView

T = TypeVar("T")

DIRECTORIES = {("data", "runs"): b"\x01", ("data", "indexes"): b"\x02", ("system",): b"\x03"}

KEY_BYTES = 10_000
VALUE_BYTES = 100_000
TRANSACTION_BYTES = 10_000_000
MOMENT_S = 5.0
"""FoundationDB's limits."""
PAGE_ROWS = 64


class Faults:
    """What goes wrong, decided by a seed, in the manner of FoundationDB's own buggify: of the kinds of faults some are on for
    the whole run, each at a rate of its own; the same seed is the same run.

    away: the store cannot be asked. again: the body has run, and runs again. lost, landed: nobody knows whether it was
    committed, and it was not, or was; the body runs again, or the caller is told. too_old: a read finds the moment
    forgotten. expired: a transaction is given up for its time, committed or not. turn: others have a turn.

    Args:
        rates: of the kinds that are to be on at these rates, whatever the seed; 1.0 is each time that it can be once.
    """

    KINDS = ("away", "again", "lost", "landed", "too_old", "expired", "turn")

    def __init__(self, seed: int, kinds: Iterable[str] = KINDS, **rates: float) -> None:
        self._random = random.Random(seed)
        self.seed = seed
        self.counts = dict.fromkeys(self.KINDS, 0)
        on = {
            # Of reads there are many in a transaction.
            kind: self._random.choice([0.01, 0.05, 0.25]) / (10 if kind == "too_old" else 1)
            for kind in kinds
            if self._random.random() < 0.6
        }
        self._rates = {**on, **rates}

    def happens(self, kind: str) -> bool:
        rate = self._rates.get(kind)
        if rate is None or self._random.random() >= rate:
            return False
        self.counts[kind] += 1
        return True

    def either(self) -> bool:
        return self._random.random() < 0.5

    def rows(self) -> int:
        """Of a page."""
        return self._random.choice([1, 2, 7, PAGE_ROWS])


class Twice(Faults):
    """Every body runs twice, and nothing else goes wrong."""

    def __init__(self) -> None:
        super().__init__(0, ())
        self._ran = False

    def rows(self) -> int:
        return PAGE_ROWS

    def happens(self, kind: str) -> bool:
        if kind == "again":
            self._ran = not self._ran
            return self._ran
        return False


class _Moment:
    """What stood in the store after a commit."""

    def __init__(self, version: int, rows: dict[bytes, bytes]) -> None:
        self.version = version
        self.rows = rows
        self._order: list[bytes] = []

    @property
    def order(self) -> list[bytes]:
        """Its keys, sorted."""
        if len(self._order) != len(self.rows):  # not asked for yet, or a test has changed the rows
            self._order = sorted(self.rows)
        return self._order

    def copy(self) -> _Moment:
        copied = _Moment(self.version, dict(self.rows))
        copied._order = self._order.copy()
        return copied

    def write(self, writes: dict[bytes, bytes | None]) -> None:
        """Becomes the next version; nobody may look at this one any more."""
        rows, order = self.rows, self.order
        self.version += 1
        new: list[bytes] = []
        for key, value in writes.items():
            if value is not None:
                if key not in rows:
                    new.append(key)
                rows[key] = value
            elif rows.pop(key, None) is not None:
                del order[bisect_left(order, key)]
        if len(new) > 64:
            order += new
            order.sort()
        else:
            for key in new:
                insort(order, key)


class _Keys:
    """Keys and ranges of keys that were read, or written."""

    def __init__(self) -> None:
        self.keys: set[bytes] = set()
        self.ranges: list[tuple[bytes, bytes]] = []

    def meets(self, other: _Keys) -> bool:
        return (
            not self.keys.isdisjoint(other.keys)
            or self._covers(other)
            or other._covers(self)
            or any(
                begin < there_end and there < end
                for begin, end in self.ranges
                for there, there_end in other.ranges
            )
        )

    def _covers(self, other: _Keys) -> bool:
        if not self.ranges:
            return False
        keys = sorted(other.keys)
        return any(bisect_left(keys, begin) < bisect_left(keys, end) for begin, end in self.ranges)

    def size(self) -> int:
        return sum(2 * len(key) + 1 for key in self.keys) + sum(
            len(begin) + len(end) for begin, end in self.ranges
        )


class MemoryTransaction:
    """Reads of a moment, and writes over it. As a snapshot it is only read."""

    def __init__(self, store: MemoryStore, moment: _Moment) -> None:
        self.prefetches = store.prefetches
        self.failure: Expired | None = None
        """Why a read has failed."""
        self.writes: dict[bytes, bytes | None] = {}
        self.bytes = 0
        self.read = _Keys()
        self.written = _Keys()
        self.version = moment.version
        self.ended = False
        store.looking.add(self)
        self._store = store
        self._moment = moment
        self._until = store.now() + MOMENT_S
        self._order: list[bytes] = []  # of `writes`
        self._said_keys: set[bytes] = set()
        self._said: set[Range] = set()
        self._whole: list[tuple[bytes, bytes]] = []  # sorted

    # --- reads ---

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        assert self.prefetches
        assert max(map(len, keys), default=0) <= KEY_BYTES
        assert max((len(one.end) for one in ranges), default=0) <= KEY_BYTES
        self._said_keys.update(keys)
        self.read.keys.update(keys)
        for one in ranges:
            self._said.add(one)
            if not one.limit and one.begin < one.end:
                insort(self._whole, (one.begin, one.end))
                self.read.ranges.append((one.begin, one.end))
        self._store.spend_trip()

    def get(self, key: bytes) -> bytes | None:
        if self._store.on_get is not None:
            self._store.on_get(key)
        if key in self.writes:
            return self.writes[key]
        if key not in self._said_keys and not self._lies_in_whole(key, key):
            self._store.spend_trip()
            self._store.trips.append(key)
        self._check_age()
        self.read.keys.add(key)
        return self._moment.rows.get(key)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        first = Range(begin, end, limit, reverse) in self._said or self._lies_in_whole(begin, end)
        while begin < end:
            if not first:
                self._store.spend_trip()
                self._store.trips.append(begin)
            first = False
            self._check_age()
            page, begin, end = self._page(begin, end, reverse, self._store.page_rows())
            for pair in page:
                yield pair
                if limit and not (limit := limit - 1):
                    return

    def _page(
        self, begin: bytes, end: bytes, reverse: bool, rows: int
    ) -> tuple[list[KeyValue], bytes, bytes]:
        """Some pairs of the range, and what is left of it. It sees what is written by now, and so it may see what was
        written while it was consumed."""
        order = self._moment.order
        low, high = bisect_left(order, begin), bisect_left(order, end)
        stored = (
            order[max(low, high - rows) : high]
            if reverse
            else order[low : low + rows][: high - low]
        )
        if len(stored) < rows:
            page_begin, page_end = begin, end
        elif reverse:
            page_begin, page_end = stored[0], end
        else:
            page_begin, page_end = begin, stored[-1] + b"\x00"
        self.read.ranges.append((page_begin, page_end))
        written = self._order[
            bisect_left(self._order, page_begin) : bisect_left(self._order, page_end)
        ]
        keys = sorted({*stored, *written}, reverse=reverse)
        pairs = [(key, self.writes.get(key, self._moment.rows.get(key))) for key in keys]
        page = [(key, value) for key, value in pairs if value is not None]
        return page, (begin if reverse else page_end), (page_begin if reverse else end)

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        assert all(one[1] <= other[0] for one, other in pairwise(ranges))
        # At once, as a real one does.
        self._store.spend_trip()
        for begin, end in ranges:
            self._said.add(Range(begin, end))
            yield from self.scan(begin, end)

    def _lies_in_whole(self, begin: bytes, end: bytes) -> bool:
        place = bisect_right(self._whole, (begin, b"\xff" * 8))
        return any(
            one <= begin and (end < other or begin < end == other)
            for one, other in self._whole[max(0, place - 3) : place]
        )

    def _check_age(self) -> None:
        if self._store.now() > self._until or self._store.fault("too_old"):
            self.failure = Expired("The transaction is too old.")
            raise self.failure

    # --- writes ---

    def set(self, key: bytes, value: bytes) -> None:
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        self._write(key, value)
        self.written.keys.add(key)

    def clear(self, key: bytes) -> None:
        self._write(key, None)
        self.written.keys.add(key)

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        keys = self.update_guarded(pairs)
        if keys:
            self.written.ranges.append((min(keys), max(keys) + b"\x00"))

    def update_guarded(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> list[bytes]:
        keys = []
        for key, value in pairs:
            assert value is None or isinstance(value, bytes)
            self._write(key, value)
            keys.append(key)
        return keys

    def clear_range(self, begin: bytes, end: bytes) -> None:
        if begin >= end:
            return
        order = self._moment.order
        for key in order[bisect_left(order, begin) : bisect_left(order, end)]:
            self._overlay(key, None)
        for key in self._order[bisect_left(self._order, begin) : bisect_left(self._order, end)]:
            self.writes[key] = None
        self.bytes += len(begin) + len(end)
        self.written.ranges.append((begin, end))

    def _write(self, key: bytes, value: bytes | None) -> None:
        self._overlay(key, value)
        self.bytes += len(key) + len(value or b"")

    def _overlay(self, key: bytes, value: bytes | None) -> None:
        if key not in self.writes:
            insort(self._order, key)
        self.writes[key] = value

    def check_size(self) -> None:
        for key, value in self.writes.items():
            if len(key) > KEY_BYTES or len(value or b"") > VALUE_BYTES:
                raise InvalidRecord("A key or a value is too large.")
        if self.bytes + self.read.size() + self.written.size() > TRANSACTION_BYTES:
            raise InvalidRecord("The transaction is too large.")


class MemoryStore:
    """
    Args:
        prefetches: whether callers are to say what they will read.
        clock: seconds; added to it is what reads cost.
        round_trip_s: what each read costs that was not said before.
        threads: whether `read` uses one, as a real one does: then no two runs are the same.
    """

    default_layout: Layout = "packed"
    is_shared = False

    def __init__(
        self,
        faults: Faults | None = None,
        *,
        prefetches: bool = True,
        clock: Callable[[], float] = lambda: 0.0,
        round_trip_s: float = 0.0,
        threads: bool = True,
    ) -> None:
        self._threads = threads
        self.prefetches = prefetches
        self.on_get: Callable[[bytes], object] | None = None
        """Told each key that a transaction gets."""
        self.trips: list[bytes] = []
        """The keys at which reads began that were not said before."""
        self.faults = faults
        self.conflicts = 0
        self._clock = clock
        self._round_trip_s = round_trip_s
        self._spent = 0.0
        self._newest = _Moment(0, {})
        self.looking: WeakSet[MemoryTransaction] = WeakSet()
        """What may read a moment."""
        self._commits: list[_Keys] = []
        """What each commit wrote: it made the moment of the next version."""

    # --- for tests ---

    @property
    def rows(self) -> dict[bytes, bytes]:
        return self._newest.rows

    @rows.setter
    def rows(self, rows: dict[bytes, bytes]) -> None:
        everything = _Keys()
        everything.ranges.append((b"", b"\xff" * 8))
        self._commits.append(everything)
        self._newest = _Moment(self._newest.version + 1, rows)

    def commit(self, body: Callable[[Transaction], T]) -> T:
        return exhausted(self._transacting(partial(_at_once, body)))

    def look(self, body: Callable[[Snapshot], T]) -> T:
        snapshot = MemoryTransaction(self, self._newest)
        try:
            return body(snapshot)
        finally:
            snapshot.ended = True

    def now(self) -> float:
        return self._clock() + self._spent

    def spend_trip(self) -> None:
        self._spent += self._round_trip_s

    def spend(self, seconds: float) -> None:
        self._spent += seconds

    def fault(self, kind: str) -> bool:
        return self.faults is not None and self.faults.happens(kind)

    def page_rows(self) -> int:
        return PAGE_ROWS if self.faults is None else self.faults.rows()

    # --- a store ---

    def directory(self, path: tuple[str, ...]) -> bytes:
        return DIRECTORIES[path]

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        return await self.transact_in_turns(partial(_at_once, body))

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        work = self._transacting(body)
        try:
            while True:
                try:
                    is_point = next(work)
                except StopIteration as end:
                    result: T = end.value
                    return result
                if is_point or self.fault("turn"):
                    await trio.lowlevel.checkpoint()
        finally:
            work.close()

    def _transacting(
        self, body: Callable[[Transaction], Generator[None, None, T]]
    ) -> Generator[bool | None, None, T]:
        """Yields wherever others may have a turn; True where they must."""
        expired = 0
        while True:
            yield True
            if self.fault("away"):
                raise Unavailable("The store is away.")
            transaction = MemoryTransaction(self, self._newest)
            try:
                result = yield from body(transaction)
            except Exception:
                transaction.ended = True
                if transaction.failure is None:
                    raise
                expired += 1
                if expired > 1:
                    raise Expired("The transaction is too old, again.") from None
                continue
            yield True
            if self._commit(transaction):
                yield True
                return result

    def _commit(self, transaction: MemoryTransaction) -> bool:
        """Whether it is committed; otherwise the body is to run again."""
        if transaction.failure is not None or self.fault("again"):
            transaction.ended = True
            return False
        if self.fault("expired"):
            if self.faults is not None and self.faults.either():
                self._land(transaction)
            raise Expired("The transaction has timed out.")
        if self.fault("lost"):
            return self._nobody_knows()
        if not self._land(transaction):
            self.conflicts += 1
            return False
        return self._nobody_knows() if self.fault("landed") else True

    def _nobody_knows(self) -> bool:
        if self.faults is not None and self.faults.either():
            raise Unavailable("Nobody knows whether it was committed.")
        return False

    def _land(self, transaction: MemoryTransaction) -> bool:
        transaction.ended = True
        transaction.check_size()
        if not transaction.writes:
            return True
        if any(transaction.read.meets(one) for one in self._commits[transaction.version :]):
            return False
        if not all(one.ended for one in self.looking):
            self._newest = self._newest.copy()
        self._newest.write(transaction.writes)
        self._commits.append(transaction.written)
        return True

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        if self.fault("away"):
            await trio.lowlevel.checkpoint()
            raise Unavailable("The store is away.")

        def attempt() -> T:
            try:
                return self.look(body)
            except Expired:
                return self.look(body)

        if self._threads:
            return await trio.to_thread.run_sync(attempt)
        await trio.lowlevel.checkpoint()
        return attempt()

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        await trio.lowlevel.checkpoint()
        yield RenewedView(lambda: MemoryTransaction(self, self._newest))

    async def aclose(self) -> None: ...


def _at_once(body: Callable[[Transaction], T], tr: Transaction) -> Generator[None, None, T]:
    return body(tr)
    yield
