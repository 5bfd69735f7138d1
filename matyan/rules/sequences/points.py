"""The points of metrics in the two layouts; see the head of this package for how each stores them."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from matyan import readable
from matyan._codec import (
    CHUNK_POINTS,
    Columns,
    chunk_head,
    compatible_points,
    decode_chunk,
    encode_chunk,
    key_int,
    read_values,
)
from matyan.errors import ConfigurationError, Unavailable
from matyan.keys import CHUNK, POINT_FIELDS, range_of, unpack
from matyan.rules.free_steps import Below
from matyan.rules.sequences.keyed import keyed, scan_steps
from matyan.rules.sequences.parts import has_parts
from matyan.rules.sequences.state import MAX_STEP, MIN_STEP, State
from matyan.store.base import Range, Snapshot, Transaction, scan

FRESH, MERGED, FULL = 0, 1, 2

READ_POINTS: Final = 65_536
"""`read` hands out about so many at a time."""


@dataclass(frozen=True, slots=True)
class Growth:
    """When chunks are merged, in chunks of one level and in points."""

    early: int = 24
    latest: int = 32
    chunk: int = CHUNK_POINTS
    rewrite: int = 8_192
    """Points that a transaction may rewrite (some 0.1 MB, a fraction of a millisecond), and RATIO more for each
    that it appends."""


class PointLayout(Protocol):
    """A layout of log_metric points."""

    def tails(self, prefix: bytes) -> tuple[Range, ...]:
        """What `load` reads."""

    def load(self, tr: Transaction, state: State) -> None:
        """Fills the layout's part of the state of a sequence."""

    def append(
        self, tr: Transaction, state: State, columns: Columns, ascending: bool, budget: int
    ) -> int:
        """Writes the points; state.last_step is still the one before them. `ascending`: all are above it and
        above each other. Returns how many stored points it rewrote."""

    def taken(self, tr: Transaction, prefix: bytes) -> Below:
        """The steps that points have elsewhere than under val keys."""

    def measure(self, snap: Snapshot, prefix: bytes) -> tuple[int, tuple[int, float] | None]:
        """How many points stand elsewhere than under val keys, and the step and value of their last one."""

    def read(
        self,
        snap: Snapshot,
        prefix: bytes,
        begin: int | None,
        end: int | None,
        *,
        values_only: bool = False,
    ) -> Iterator[Columns]:
        """values_only: times and epochs need not be read."""


class CompatiblePoints:
    """Four keys a point: what the reference's API server reads."""

    def tails(self, prefix: bytes) -> tuple[Range, ...]:
        return ()

    def load(self, tr: Transaction, state: State) -> None:
        pass

    def append(
        self, tr: Transaction, state: State, columns: Columns, ascending: bool, budget: int
    ) -> int:
        highest = MIN_STEP if state.last_step is None else state.last_step
        if not ascending:
            # Of a step that stands twice here only the later point is written, so that no epoch of the earlier
            # one is left behind.
            columns = columns.merged()
            if has_parts(tr, state):
                below = None if highest == MAX_STEP else highest + 1
                for step, _, _, _ in columns.between(None, below).rows():
                    tr.clear_range(*range_of(key_int(state.parts_prefix, step or 0)))
        # Guarded by the run's owner row and by the sequence's trace rows.
        tr.update_guarded(compatible_points(state.prefix, columns, highest))
        return 0

    def taken(self, tr: Transaction, prefix: bytes) -> Below:
        return lambda step: None

    def measure(self, snap: Snapshot, prefix: bytes) -> tuple[int, tuple[int, float] | None]:
        return 0, None

    def read(
        self,
        snap: Snapshot,
        prefix: bytes,
        begin: int | None,
        end: int | None,
        *,
        values_only: bool = False,
    ) -> Iterator[Columns]:
        columns = Columns()
        if values_only:
            # A quarter of the rows.
            vals = prefix + POINT_FIELDS["val"]
            rows = scan_steps(snap, vals, begin, end)
            while read_values(rows, len(vals), columns, READ_POINTS, readable.number):
                yield columns
                columns = Columns()
            if len(columns):
                yield columns
            return
        for step, epoch, time, packed in keyed(snap, prefix, begin, end):
            value = readable.number(packed)
            # A number is a point; what objects and logs store is none.
            if value is not None:
                columns.append(step, value, time, epoch)
                if len(columns) >= READ_POINTS:
                    yield columns
                    columns = Columns()
        if len(columns):
            yield columns


class PackedPoints:
    """Chunks: see the head of this file."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth

    def tails(self, prefix: bytes) -> tuple[Range]:
        return (Range(*range_of(prefix + CHUNK), limit=2 * self._growth.latest, reverse=True),)

    def load(self, tr: Transaction, state: State) -> None:
        level = FRESH
        (tail,) = self.tails(state.prefix)
        for i, (key, chunk) in enumerate(scan(tr, tail)):
            (n,) = unpack(key, len(state.chunks))
            chunk_level, ordered, count, before = _head(chunk)
            level = max(level, chunk_level)
            if i == 0:
                state.next_n = n + 1
                state.points = state.fresh_before = state.merged_before = before + count
                state.ordered = ordered
            if level == FULL:
                break
            state.merged_before = before
            if level == MERGED:
                state.merged.insert(0, n)
                state.merged_points += count
            else:
                state.fresh.insert(0, chunk)
                state.fresh_before = before
                state.fresh_points += count

    def append(
        self, tr: Transaction, state: State, columns: Columns, ascending: bool, budget: int
    ) -> int:
        size = len(columns)
        state.ordered = state.ordered and ascending
        points = state.fresh_points + size
        count = len(state.fresh) + 1
        growth = self._growth
        due = count >= growth.early or points >= growth.chunk
        overdue = count >= growth.latest or points >= 4 * growth.chunk or size > growth.chunk
        if overdue or (due and points <= budget):
            return self._merge(tr, state, columns, budget)
        chunk = encode_chunk(columns, ordered=state.ordered, before=state.points)
        tr.set(key_int(state.chunks, state.next_n), chunk)
        state.fresh.append(chunk)
        state.fresh_points = points
        state.next_n += 1
        state.points += size
        return 0

    def _merge(self, tr: Transaction, state: State, columns: Columns, budget: int) -> int:
        """Replaces the fresh chunks, and the merged ones when they are due, by ones that hold `columns` too."""
        fresh = state.fresh_points + len(columns)
        total = state.merged_points + fresh
        merged = len(state.merged) + 1
        level, before = MERGED, state.fresh_before
        gathered = Columns()
        growth = self._growth
        due = merged >= growth.early or total >= 4 * growth.chunk
        if fresh >= growth.chunk or merged >= growth.latest or (due and total <= budget):
            level, before = FULL, state.merged_before
            # In one scan: nothing stands between them, since what they were merged from is gone.
            places = [key_int(state.chunks, n) for n in state.merged]
            stored = [*tr.scan(places[0], places[-1] + b"\x00")] if places else []
            if [key for key, _ in stored] != places:
                # The cached state is gone with this transaction, so the next try sees what is there.
                raise Unavailable("A sequence was changed by another program: it is tried again.")
            for key, chunk in stored:
                _decode(chunk, gathered)
                tr.clear(key)
            state.merged = []
            state.merged_points = 0
        for i, chunk in enumerate(state.fresh):
            _decode(chunk, gathered)
            tr.clear(key_int(state.chunks, state.next_n - len(state.fresh) + i))
        state.fresh = []
        state.fresh_points = 0
        gathered.extend(columns)
        if not state.ordered:
            gathered = gathered.merged()

        size = len(gathered)
        pieces = -(-size // growth.chunk)
        for i in range(pieces):
            start, end = i * size // pieces, (i + 1) * size // pieces
            chunk = encode_chunk(
                gathered, start, end, level=level, ordered=state.ordered, before=before + start
            )
            tr.set(key_int(state.chunks, state.next_n + i), chunk)
        if level == MERGED:
            state.merged.append(state.next_n)
            state.merged_points += size
        else:
            state.merged_before = before + size
        state.next_n += pieces
        state.points = state.fresh_before = before + size
        return size

    def taken(self, tr: Transaction, prefix: bytes) -> Below:
        # The highest ones below what was asked for last; more only when all of them were passed over.
        window: array[int] = array("q")
        is_all = False

        def below(step: int) -> int | None:
            nonlocal window, is_all
            place = bisect_left(window, step)
            if place == 0 and not is_all:
                window = _highest(tr, prefix, step)
                is_all = len(window) < CHUNK_POINTS
                place = len(window)
            return window[place - 1] if place else None

        return below

    def measure(self, snap: Snapshot, prefix: bytes) -> tuple[int, tuple[int, float] | None]:
        for _, chunk in snap.scan(*range_of(prefix + CHUNK), limit=1, reverse=True):
            _, ordered, count, before = _head(chunk)
            columns = Columns()
            if ordered:
                _decode(chunk, columns)
                return before + count, _last(columns)
            for columns in self.read(snap, prefix, None, None):
                # All in one piece, since they had to be sorted.
                return len(columns), _last(columns)
        return 0, None

    def read(
        self,
        snap: Snapshot,
        prefix: bytes,
        begin: int | None,
        end: int | None,
        *,
        values_only: bool = False,
    ) -> Iterator[Columns]:
        ordered = True
        for _, chunk in snap.scan(*range_of(prefix + CHUNK), limit=1, reverse=True):
            ordered = _head(chunk)[1]
        columns = Columns()
        seen = 0  # points in the chunks so far
        sorted_ = ordered  # whether the points come in the steps' order, each step once
        last: int | None = None  # the last step that was handed out
        for _, chunk in snap.scan(*range_of(prefix + CHUNK)):
            _, is_ordered, count, before = _head(chunk)
            if not is_ordered or before < seen:
                # At a later moment of a view: steps have come out of order, or chunks that were read already were merged into
                # this one. Whatever was merged got a higher number, so nothing is passed over.
                ordered, sorted_ = ordered and is_ordered, False
            seen = before + count
            _decode(chunk, columns)
            if ordered and len(columns) >= READ_POINTS:
                ready = columns if sorted_ else _behind(columns.merged(), last)
                columns = Columns()
                if (end_point := _last(ready)) is not None:
                    last = end_point[0]
                yield from _cut(ready, begin, end)
        # Steps that came out of order can stand anywhere: only all of them together can be sorted.
        yield from _cut(columns if sorted_ else _behind(columns.merged(), last), begin, end)


def _behind(columns: Columns, step: int | None) -> Columns:
    """The points behind a step."""
    if step is None:
        return columns
    return Columns() if step == MAX_STEP else columns.between(step + 1, None)


def _head(chunk: bytes) -> tuple[int, bool, int, int]:
    try:
        return chunk_head(chunk)
    except ValueError as error:
        raise _unreadable(error) from error


def _decode(chunk: bytes, into: Columns) -> None:
    try:
        decode_chunk(chunk, into)
    except ValueError as error:
        raise _unreadable(error) from error


def _unreadable(error: ValueError) -> ConfigurationError:
    return ConfigurationError(
        f"The store holds a chunk that cannot be read ({error}): use the version that wrote it, or restore the store from a backup."
    )


def _highest(tr: Transaction, prefix: bytes, below: int) -> array[int]:
    """The highest CHUNK_POINTS steps of packed points below this one, sorted; all of them when they are less. Reads every
    chunk, since steps that came out of order can stand anywhere, and keeps few."""
    end = None if below > MAX_STEP else below
    lowest: int | None = None
    gathered = Columns()
    for _, chunk in tr.scan(*range_of(prefix + CHUNK)):
        columns = Columns()
        _decode(chunk, columns)
        gathered.extend(columns.between(lowest, end))
        if len(gathered) >= READ_POINTS:
            gathered = gathered.merged()
            steps = array("q", gathered.steps_bytes())
            lowest = steps[-CHUNK_POINTS:][0]
            gathered = gathered.between(lowest, None)
    return array("q", gathered.merged().steps_bytes())[-CHUNK_POINTS:]


def _last(columns: Columns) -> tuple[int, float] | None:
    """Step and value of the last of points that are in the steps' order."""
    if not len(columns):
        return None
    (step,) = struct.unpack("<q", columns.steps_bytes()[-8:])
    (value,) = struct.unpack("<d", columns.values_bytes()[-8:])
    return step, value


def _cut(columns: Columns, begin: int | None, end: int | None) -> Iterator[Columns]:
    if begin is not None or end is not None:
        columns = columns.between(begin, end)
    if len(columns):
        yield columns
