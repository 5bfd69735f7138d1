"""Sequences of points and objects: the one module that knows how they are stored.

It hides the two layouts (contract, section 4) behind one interface; above it nobody sees a "val" key or a
chunk. No rule of a record's kind, no context and no index here: those are records.py's and indexes.py's.

| what                           | compatible                     | packed                                |
|--------------------------------|--------------------------------|---------------------------------------|
| points of log_metric           | val, step, epoch, time keys    | chunks of up to 1,024 points          |
| objects, log lines and records | val, step, epoch, time keys    | the same                              |
| what is over 90,000 bytes      | parts; val is its outline      | the same                              |
| dtype, last, last_step         | trace keys                     | the same                              |

How chunks grow (packed). A sequence's chunks are, in the order of their numbers and of the log:

    full full full … full   merged merged … (< 32)   fresh fresh … (< 32)

An append adds one fresh chunk. The fresh ones together become one merged chunk, the merged ones together full
ones, always the whole tail at once and under new numbers, so that what was written later always has the higher
number. So a point is written two or three times, and a read scans few keys.

Sequences that grow in step would all be due in the same transaction. Therefore a transaction rewrites a bounded
number of points (Growth.rewrite): a sequence is due from `early` chunks on and served while there is room, and
regardless at `latest`; after the first round they are spread.

`last` keeps the last finite value that stood at a then highest step; 0.0 until there is one.
The next free step is the highest one + 1, and at least 0; where the highest is 2^63-1, the one behind the highest step
that has a free one behind it (`free_steps.py`).
"""

from __future__ import annotations

import math
import struct
from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple, Protocol

from matyan import readable
from matyan._codec import (
    CHUNK_POINTS,
    LINES,
    LOG_RECORDS,
    Columns,
    chunk_head,
    compatible_object,
    compatible_points,
    decode_chunk,
    encode_chunk,
    epoch_number,
    key_int,
    msgpack_float,
    msgpack_int,
)
from matyan.errors import ConfigurationError, InvalidRecord, Unavailable
from matyan.keys import CHUNK, POINT_FIELDS, Keys, pack_value, range_of, unpack, unpack_value
from matyan.rules import free_steps, limits
from matyan.rules.contexts import EMPTY
from matyan.rules.free_steps import Below, FreeSteps
from matyan.store.base import KeyValue, Snapshot, Transaction

Layout = Literal["compatible", "packed"]

STAMPS: Final[dict[Layout, int]] = {"compatible": 1, "packed": 2}

PART_BYTES = 90_000
CUT_BYTES = 60_000  # of a line that stands in parts, what a reader that knows none sees

FRESH, MERGED, FULL = 0, 1, 2

RATIO = 4  # of 3 on, sequences in step are all served between `early` and `latest`

READ_POINTS = 65_536  # points() hands out about so many at a time
CACHE_BYTES = 48 * 2**20
_STATE_BYTES = 1_500  # a state with its keys; a fresh chunk takes about 64 bytes and 12 a point

_MIN_STEP, _MAX_STEP = -(2**63), 2**63 - 1


def open_layout(tr: Transaction, keys: Keys, wanted: Layout | None) -> Layout:
    """Stamps a new store with the wanted layout, or checks an old one's; returns it.

    `wanted`: None is what the store has; a new one gets packed.

    Raises:
        ConfigurationError: the store has the other layout, or one that this version does not know.
    """
    stamp = tr.get(keys.layout())
    if stamp is not None:
        found = unpack_value(stamp)
    elif next(iter(tr.scan(*range_of(keys.runs), limit=1)), None) is not None:
        found = STAMPS["compatible"]  # runs and no stamp: the reference's worker wrote here
    else:
        found = STAMPS[wanted or "packed"]
    if found not in STAMPS.values():
        raise ConfigurationError(
            f"The store has the sequence layout {found!r}, which this version does not know: use the version that wrote it."
        )
    layout = next(name for name, number in STAMPS.items() if number == found)
    if wanted not in (None, layout):
        raise ConfigurationError(
            f"The store has the {layout} sequence layout, but {wanted} was asked for: set MATYAN_SEQUENCE_LAYOUT={layout}, or use another store."
        )
    if stamp is None:
        tr.set(keys.layout(), msgpack_int(found))
    return layout


@dataclass(frozen=True, slots=True)
class SequenceInfo:
    """The trace of one sequence."""

    ctx: int
    name: str
    dtype: str
    last: float
    last_step: int


class Entry(NamedTuple):
    """What is no point of a metric: an object, a terminal line, a log record."""

    step: int | None
    """None: the next free one, when it is written."""
    epoch: int | float | None
    time: float
    """Epoch seconds."""
    value: object


class _State:
    """One sequence as a writer has to know it. The keys are packed once."""

    __slots__ = (
        "chunks",
        "dtype",
        "free",
        "fresh",
        "fresh_before",
        "fresh_begin",
        "fresh_points",
        "last",
        "last_step",
        "merged",
        "merged_before",
        "merged_points",
        "next_n",
        "ordered",
        "parts",
        "parts_prefix",
        "points",
        "prefix",
        "trace_dtype",
        "trace_last",
        "trace_last_step",
        "weight",
    )

    def __init__(self, keys: Keys, run: str, ctx: int, name: str) -> None:
        self.prefix = keys.seq(run, ctx, name)
        self.parts_prefix = keys.parts(run, ctx, name)
        self.trace_dtype = keys.trace(run, ctx, name, "dtype")
        self.trace_last = keys.trace(run, ctx, name, "last")
        self.trace_last_step = keys.trace(run, ctx, name, "last_step")
        self.dtype: str | None = None
        self.last = 0.0
        self.last_step: int | None = None  # None: the sequence does not exist
        self.parts: bool | None = (
            False  # whether a large object may stand here; None: not looked yet
        )
        # Where a point without a step goes when the highest step is taken; None: not looked for yet.
        self.free: FreeSteps | None = None
        # The packed layout's tail: the merged chunks by their numbers, and the fresh ones, whose numbers are the
        # last ones, by their bytes (read from the store one by one they would cost more than the merge).
        # `…_before`: the points in front of the first chunk of that level.
        self.chunks = self.prefix + CHUNK
        self.next_n = 0
        self.points = 0
        self.ordered = True  # every step so far was higher than the one before it
        self.fresh: list[bytes] = []
        self.fresh_before = self.fresh_points = 0
        self.merged: list[int] = []
        self.merged_before = self.merged_points = 0
        self.weight = 0  # bytes in the cache, as the cache counted them

    @property
    def next_step(self) -> int:
        return _following(self.last_step)


class _Lines(_State):
    """The terminal lines of a run."""

    __slots__ = ("at", "sent", "trace_sent")

    def __init__(self, keys: Keys, run: str) -> None:
        super().__init__(keys, run, EMPTY, LINES)
        self.trace_sent = keys.trace(run, EMPTY, LINES, "sent")
        self.sent: int | None = None  # the step that the last line was sent with, in this session
        self.at = 0  # where it stands, as long as `sent` is one


_StateKey = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Growth:
    """When chunks are merged, in chunks of one level and in points."""

    early: int = 24
    latest: int = 32
    chunk: int = CHUNK_POINTS
    rewrite: int = 8_192
    """Points that a transaction may rewrite (some 0.1 MB, a fraction of a millisecond), and RATIO more for each
    that it appends."""


class _Points(Protocol):
    """A layout of log_metric points."""

    def load(self, tr: Transaction, state: _State) -> None:
        """Fills the layout's part of the state of a sequence that exists."""

    def append(
        self, tr: Transaction, state: _State, columns: Columns, ascending: bool, budget: int
    ) -> int:
        """Writes the points; state.last_step is still the one before them. `ascending`: all are above it and
        above each other. Returns how many stored points it rewrote."""

    def taken(self, tr: Transaction, prefix: bytes) -> Below:
        """The steps that points have elsewhere than under val keys."""

    def measure(self, snap: Snapshot, prefix: bytes) -> tuple[int, tuple[int, float] | None]:
        """How many points stand elsewhere than under val keys, and the step and value of their last one."""

    def read(
        self, snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
    ) -> Iterator[Columns]: ...


class _Compatible:
    """Four keys a point: what the reference's API server reads."""

    def load(self, tr: Transaction, state: _State) -> None:
        # The reference's row names the step that was written last, which need not be the highest.
        vals = state.prefix + POINT_FIELDS["val"]
        for key, packed in tr.scan(*range_of(vals), limit=1, reverse=True):
            (step,) = unpack(key, len(vals))
            if state.last_step is None or step > state.last_step:
                state.last_step = step
                value = readable.number(packed)
                if value is not None and math.isfinite(value):
                    state.last = float(value)

    def append(
        self, tr: Transaction, state: _State, columns: Columns, ascending: bool, budget: int
    ) -> int:
        highest = _MIN_STEP if state.last_step is None else state.last_step
        if not ascending:
            # Of a step that stands twice here only the later point is written, so that no epoch of the earlier
            # one is left behind.
            columns = columns.merged()
            if _has_parts(tr, state):
                below = None if highest == _MAX_STEP else highest + 1
                for step, _, _, _ in columns.between(None, below).rows():
                    tr.clear_range(*range_of(key_int(state.parts_prefix, step or 0)))
        tr.update(compatible_points(state.prefix, columns, highest))
        return 0

    def taken(self, tr: Transaction, prefix: bytes) -> Below:
        return lambda step: None

    def measure(self, snap: Snapshot, prefix: bytes) -> tuple[int, tuple[int, float] | None]:
        return 0, None

    def read(
        self, snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
    ) -> Iterator[Columns]:
        columns = Columns()
        for step, epoch, time, packed in _keyed(snap, prefix, begin, end):
            value = readable.number(packed)
            # A number is a point; what objects and logs store is none.
            if value is not None:
                columns.append(step, value, time, epoch)
                if len(columns) >= READ_POINTS:
                    yield columns
                    columns = Columns()
        if len(columns):
            yield columns


class _Packed:
    """Chunks: see the head of this file."""

    def __init__(self, growth: Growth) -> None:
        self._growth = growth

    def load(self, tr: Transaction, state: _State) -> None:
        level = FRESH
        tail = tr.scan(*range_of(state.chunks), limit=2 * self._growth.latest, reverse=True)
        for i, (key, chunk) in enumerate(tail):
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
        self, tr: Transaction, state: _State, columns: Columns, ascending: bool, budget: int
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

    def _merge(self, tr: Transaction, state: _State, columns: Columns, budget: int) -> int:
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
            for n in state.merged:
                key = key_int(state.chunks, n)
                stored = tr.get(key)
                if stored is None:
                    # The cached state is gone with this transaction, so the next try sees what is there.
                    raise Unavailable("A sequence was changed by another program: trying again.")
                _decode(stored, gathered)
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
        self, snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
    ) -> Iterator[Columns]:
        ordered = True
        for _, chunk in snap.scan(*range_of(prefix + CHUNK), limit=1, reverse=True):
            ordered = _head(chunk)[1]
        columns = Columns()
        for _, chunk in snap.scan(*range_of(prefix + CHUNK)):
            _decode(chunk, columns)
            if ordered and len(columns) >= READ_POINTS:
                yield from _cut(columns, begin, end)
                columns = Columns()
        # Steps that came out of order can stand anywhere: only all of them together can be sorted.
        yield from _cut(columns if ordered else columns.merged(), begin, end)


class Sequences:
    """The sequences of a store in one layout, with a bounded cache of the states that its writer needs.

    One writer: whoever owns the partition that a run's records come from. An owner that lost its partition and
    got it back starts with a new object, since another may have written meanwhile; a run that another partition's owner
    has written is forgotten (`SequenceWrites.forget_run`). Reads need no state.
    """

    def __init__(
        self,
        keys: Keys,
        layout: Layout,
        *,
        cache_bytes: int = CACHE_BYTES,
        growth: Growth | None = None,
    ) -> None:
        self.keys = keys
        self.growth = growth or Growth()
        self.layout: _Points = _Packed(self.growth) if layout == "packed" else _Compatible()
        self.point_work = 1 if layout == "packed" else 8
        """What a point costs a transaction, in the measure of `cut_records`: about microseconds."""
        self._cache: dict[_StateKey, _State] = {}  # the longest unused first
        # Its keys, and those of states that a transaction has taken: most come back.
        self._of_run: dict[str, set[_StateKey]] = {}
        self._room = cache_bytes
        self._newest: SequenceWrites | None = None

    # --- writing ---

    def begin(self, tr: Transaction) -> SequenceWrites:
        """One transaction's work. A transaction whose body runs again begins again."""
        self._newest = SequenceWrites(self, tr)
        return self._newest

    def committed(self, writes: SequenceWrites) -> None:
        """Keeps what `writes` knows, now that it is stored.

        A transaction takes the states that it touches out of the cache, so one that is aborted, or whose outcome
        nobody knows, leaves nothing behind: its sequences are loaded again.
        """
        if writes is not self._newest:
            return  # a later transaction has begun and may have written the same sequences
        for key, state in writes.states.items():
            keys = self._of_run.get(key[0])
            if keys is None:
                keys = self._of_run[key[0]] = set()
            keys.add(key)
            state.weight = _STATE_BYTES + 64 * len(state.fresh) + 12 * state.fresh_points
            self._room -= state.weight
            self._cache[key] = state
        while self._room < 0:
            self._evict(next(iter(self._cache)))

    def forget_run(self, run: str) -> None:
        """Takes all states of a run out of the cache."""
        for key in self._of_run.pop(run, ()):
            self.take(key)

    def take(self, key: _StateKey) -> _State | None:
        """Takes a state out of the cache."""
        state = self._cache.pop(key, None)
        if state is not None:
            self._room += state.weight
        return state

    def _evict(self, key: _StateKey) -> None:
        self.take(key)
        keys = self._of_run[key[0]]
        keys.remove(key)
        if not keys:
            del self._of_run[key[0]]

    # --- reading ---

    def sequences(self, snap: Snapshot, run: str) -> Iterator[SequenceInfo]:
        """The traces of a run, by context and name; log and object sequences too."""
        prefix = self.keys.traces_prefix(run)
        fields: dict[str, Any] = {}
        at: tuple[int, str] | None = None
        for key, value in snap.scan(*range_of(prefix)):
            found = readable.elements(key, len(prefix), int, str, str)
            if found is None:
                continue
            ctx, name, field = found
            if at is not None and at != (ctx, name):
                yield _info(at, fields)
                fields = {}
            at = (ctx, name)
            fields[field] = readable.value(value)
        if at is not None:
            yield _info(at, fields)

    def summary(self, snap: Snapshot, run: str, info: SequenceInfo) -> tuple[int, float, int]:
        """How many steps of a sequence have a point or an object, the value of the last one, and its step.

        The value as it is, where the trace has the last finite one; for what holds no points that of the trace. Costs
        what `count` costs.
        """
        prefix = self.keys.seq(run, info.ctx, info.name)
        vals = range_of(prefix + POINT_FIELDS["val"])
        keyed = sum(1 for _ in snap.scan(*vals))
        points, last_point = self.layout.measure(snap, prefix)
        last, last_step = info.last, info.last_step
        for key, packed in snap.scan(*vals, limit=1, reverse=True):
            found = readable.elements(key, len(vals[0]) - 1, int)
            if found and found[0] >= last_step:
                value, last_step = readable.number(packed), found[0]
                last = last if value is None else float(value)
        if last_point is not None and last_point[0] >= last_step:
            last_step, last = last_point
        return keyed + points, last, last_step

    def count(self, snap: Snapshot, run: str, ctx: int, name: str) -> int:
        """How many steps of a sequence have a point or an object.

        Packed points cost one read when their steps only ever rose, and a read of all otherwise.
        """
        prefix = self.keys.seq(run, ctx, name)
        keyed = sum(1 for _ in snap.scan(*range_of(prefix + POINT_FIELDS["val"])))
        return keyed + self.layout.measure(snap, prefix)[0]

    def points(
        self,
        snap: Snapshot,
        run: str,
        ctx: int,
        name: str,
        begin: int | None = None,
        end: int | None = None,
    ) -> Iterator[Columns]:
        """The points of a log_metric sequence with begin <= step < end: each step once, in the steps' order."""
        return self.layout.read(snap, self.keys.seq(run, ctx, name), begin, end)

    def objects(
        self, snap: Snapshot, run: str, ctx: int, name: str
    ) -> Iterator[tuple[int, int | float | None, float, object]]:
        """(step, epoch, time, value) of an object or log sequence, in the steps' order, parts joined."""
        parts = _Beside(snap, self.keys.parts(run, ctx, name), None, None)
        for step, epoch, time, packed in _keyed(snap, self.keys.seq(run, ctx, name), None, None):
            value = _joined(parts.all_at(key_int(b"", step)))
            if value is None:
                value = readable.value(packed)
            if not readable.is_number(value):
                yield step, epoch, time, value


class SequenceWrites:
    """What one transaction does to sequences. Made by Sequences.begin."""

    def __init__(self, sequences: Sequences, tr: Transaction) -> None:
        self._sequences = sequences
        self._layout = sequences.layout
        self._tr = tr
        self.budget = sequences.growth.rewrite  # points that may still be rewritten
        self.states: dict[_StateKey, _State] = {}

    def append_points(self, run: str, ctx: int, name: str, dtype: str, columns: Columns) -> bool:
        """Stores points in the log's order; those without a step get the next free one. `columns` stays as it is.

        Returns whether the sequence is new: then the caller writes its trace index.

        Raises:
            InvalidRecord: no free step is left.
        """
        state = self._state(run, ctx, name)
        if columns.stepless:
            given = columns
            columns = Columns()
            columns.extend(given)
            try:
                columns.fill_steps(state.next_step)
            except OverflowError:
                columns = self._placed(state, given, name)
        elif state.free is not None:
            for step, _, _, _ in columns.between(state.free.next, state.free.end).rows():
                state.free.taken(step or 0)
        is_new = state.last_step is None
        last_step, last, ascending = columns.follow(state.last_step, state.last)
        self.budget += RATIO * len(columns)
        self.budget -= self._layout.append(self._tr, state, columns, ascending, self.budget)
        self._trace(state, dtype, last_step, last)
        return is_new

    def append_object(self, run: str, ctx: int, name: str, dtype: str, entry: Entry) -> bool:
        """Stores one object or log record.

        Returns whether the sequence is new, as append_points does.

        Raises:
            InvalidRecord: no free step is left, msgpack cannot hold the value, or what cannot stand in parts is too
                large.
        """
        state = self._state(run, ctx, name)
        step = entry.step
        if step is None:
            step = self._next_free(state, name, state.last_step, [])
        return self._put(state, name, dtype, step, entry)

    def append_line(self, run: str, line: str, sent: int, time: float) -> bool:
        """Stores a terminal line that was sent with the step `sent`.

        The SDK counts from 0 in each session, and sends its unfinished last line again and again at one step: a line
        with the step of the one before it, in the same session, takes its place; any other stands behind all.

        Returns whether the sequence is new, as append_points does.

        Raises:
            InvalidRecord: no free step is left, or the line is no valid Unicode.
        """
        state = self._state(run, EMPTY, LINES)
        assert isinstance(state, _Lines)
        again = sent == state.sent
        if not again:
            state.at = self._place(state, sent)
        is_new = self._put(state, LINES, LINES, state.at, Entry(sent, None, time, line))
        if not again:
            state.sent = sent
            # Where the line is not the last one, its step stands beside.
            row = msgpack_int(sent) if state.at == state.last_step else pack_value([sent, state.at])
            self._tr.set(state.trace_sent, row)
        return is_new

    def begin_session(self, run: str) -> None:
        """A client begins to count its lines from 0: none of them is the last one again."""
        self._tr.clear(self._sequences.keys.trace(run, EMPTY, LINES, "sent"))
        key = (run, EMPTY, LINES)
        state = self.states.get(key) or self._sequences.take(key)
        if state is not None:
            assert isinstance(state, _Lines)
            state.sent = None
            self.states[key] = state

    def _place(self, state: _Lines, sent: int) -> int:
        """The step of a line that is to stand behind all others."""
        if state.last_step is None:
            return sent
        if state.last_step < _MAX_STEP:
            return max(sent, state.last_step + 1)
        return self._next_free(state, LINES, state.last_step, [])

    def _placed(self, state: _State, given: Columns, name: str) -> Columns:
        """The points, those without a step at the next free ones, though the highest step is taken or among them."""
        highest = state.last_step
        before: list[int] = []  # the steps of the points so far, sorted
        columns = Columns()
        for step, value, time, epoch in given.rows():
            if step is None:
                step = self._next_free(state, name, highest, before)
            elif state.free is not None:
                state.free.taken(step)
            insort(before, step)
            highest = before[-1] if highest is None else max(highest, before[-1])
            columns.append(step, value, time, epoch)
        return columns

    def _next_free(
        self, state: _State, name: str, highest: int | None, unwritten: Sequence[int]
    ) -> int:
        """`unwritten`: steps that are taken and not stored yet, sorted.

        Raises:
            InvalidRecord: no free step is left.
        """
        if highest is None or highest < _MAX_STEP:
            return _following(highest)
        free = state.free
        if free is None or free.next >= free.end:
            end = free_steps.END if free is None else free.end
            free = state.free = free_steps.find(self._taken(state, unwritten), end)
        step = None if free is None else free.take()
        if step is None:
            raise InvalidRecord(f"{name}: no free step is left up to {_MAX_STEP}")
        return step

    def _taken(self, state: _State, unwritten: Sequence[int]) -> Below:
        """The taken steps of a sequence, wherever they stand."""
        points = self._layout.taken(self._tr, state.prefix)
        vals = state.prefix + POINT_FIELDS["val"]
        begin, end = range_of(vals)

        def below(step: int) -> int | None:
            to = end if step > _MAX_STEP else key_int(vals, step)
            keyed = [
                unpack(key, len(vals))[0]
                for key, _ in self._tr.scan(begin, to, limit=1, reverse=True)
            ]
            place = bisect_left(unwritten, step)
            found = [points(step), *keyed, *unwritten[max(0, place - 1) : place]]
            return max((one for one in found if one is not None), default=None)

        return below

    def _put(self, state: _State, name: str, dtype: str, step: int, entry: Entry) -> bool:
        """Stores what was sent as `entry` at `step`."""
        tr = self._tr
        _, epoch, time, value = entry
        if state.free is not None:
            state.free.taken(step)
        packed = limits.packed(value, name)
        parts = []
        if len(packed) > PART_BYTES:
            parts = [packed[i : i + PART_BYTES] for i in range(0, len(packed), PART_BYTES)]
            packed = pack_value(_outline(name, value, len(parts)))
            limits.check(state.prefix, packed)
        is_new = state.last_step is None
        rewrite = state.last_step is not None and step <= state.last_step
        if rewrite and _has_parts(tr, state):
            tr.clear_range(*range_of(key_int(state.parts_prefix, step)))
        if parts:
            prefix = key_int(state.parts_prefix, step)
            tr.update([(key_int(prefix, i), part) for i, part in enumerate(parts)])
            state.parts = True
        for key, stored in compatible_object(state.prefix, step, epoch, time, packed):
            if stored is not None:
                tr.set(key, stored)
            elif rewrite:
                tr.clear(key)
        self._trace(state, dtype, step if is_new or not rewrite else state.last_step, state.last)
        return is_new

    def forget_run(self, run: str) -> None:
        """This run was deleted in this transaction, or written by another owner before it: what was known about it
        counts no more."""
        self._sequences.forget_run(run)
        for key in [key for key in self.states if key[0] == run]:
            del self.states[key]

    def _state(self, run: str, ctx: int, name: str) -> _State:
        key = (run, ctx, name)
        state = self.states.get(key)
        if state is None:
            state = self._sequences.take(key)
            if state is None:
                state = self._load(run, ctx, name)
            self.states[key] = state
        return state

    def _load(self, run: str, ctx: int, name: str) -> _State:
        tr = self._tr
        keys = self._sequences.keys
        lines = _Lines(keys, run) if (ctx, name) == (EMPTY, LINES) else None
        state = lines or _State(keys, run, ctx, name)
        # All its keys at once: behind this prefix, the longest, come a step and a number. So its rows need no check but
        # where a value is as large as a client made it.
        limits.check(state.parts_prefix + bytes(18), b"")
        row = tr.get(state.trace_last_step)
        if row is not None:
            state.dtype = readable.text(tr.get(state.trace_dtype))
            last = readable.number(tr.get(state.trace_last))
            state.last = 0.0 if last is None else float(last)
            state.last_step = readable.found(row)
            if not readable.is_int64(state.last_step):
                # A damaged row: the points tell it.
                info = SequenceInfo(ctx, name, "", 0.0, 0)
                _, state.last, state.last_step = self._sequences.summary(tr, run, info)
            state.parts = None
            self._layout.load(tr, state)
            if lines is not None:
                sent = readable.found(tr.get(lines.trace_sent))
                pair = sent if isinstance(sent, list) else [sent, state.last_step]
                if len(pair) == 2 and all(map(readable.is_int64, pair)):
                    lines.sent, lines.at = pair
        return state

    def _trace(self, state: _State, dtype: str, last_step: int | None, last: float) -> None:
        tr = self._tr
        assert last_step is not None
        tr.set(state.trace_last_step, msgpack_int(last_step))
        tr.set(state.trace_last, msgpack_float(last))
        if dtype != state.dtype:
            packed = pack_value(dtype)
            limits.check(state.trace_dtype, packed)
            tr.set(state.trace_dtype, packed)
            state.dtype = dtype
        state.last_step = last_step
        state.last = last


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


def _following(highest: int | None) -> int:
    return 0 if highest is None else max(0, highest + 1)


def _highest(tr: Transaction, prefix: bytes, below: int) -> array[int]:
    """The highest CHUNK_POINTS steps of packed points below this one, sorted; all of them when they are less. Reads every
    chunk, since steps that came out of order can stand anywhere, and keeps few."""
    end = None if below > _MAX_STEP else below
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


def _info(at: tuple[int, str], fields: dict[str, Any]) -> SequenceInfo:
    dtype, last, last_step = (fields.get(field) for field in ("dtype", "last", "last_step"))
    return SequenceInfo(
        *at,
        dtype if isinstance(dtype, str) else "float",
        float(last) if readable.is_number(last) else 0.0,
        last_step if readable.is_int64(last_step) else 0,
    )


def _last(columns: Columns) -> tuple[int, float] | None:
    """Step and value of the last of points that are in the steps' order."""
    if not len(columns):
        return None
    (step,) = struct.unpack("<q", columns.steps_bytes()[-8:])
    (value,) = struct.unpack("<d", columns.values_bytes()[-8:])
    return step, value


def _has_parts(tr: Transaction, state: _State) -> bool:
    if state.parts is None:
        found = tr.scan(*range_of(state.parts_prefix), limit=1)
        state.parts = next(iter(found), None) is not None
    return state.parts


def _cut(columns: Columns, begin: int | None, end: int | None) -> Iterator[Columns]:
    if begin is not None or end is not None:
        columns = columns.between(begin, end)
    if len(columns):
        yield columns


def _keyed(
    snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
) -> Iterator[tuple[int, int | float | None, float, bytes]]:
    """(step, epoch, time, packed value) of what stands in val/step/epoch/time keys.

    The fields stand in ranges of their own, each in the steps' order: they are walked side by side.
    """
    times = _Beside(snap, prefix + POINT_FIELDS["time"], begin, end)
    epochs = _Beside(snap, prefix + POINT_FIELDS["epoch"], begin, end)
    vals = prefix + POINT_FIELDS["val"]
    for key, value in _scan_steps(snap, vals, begin, end):
        packed_step = key[len(vals) :]
        try:
            (step,) = unpack(packed_step)
        except ValueError:
            continue
        if type(step) is int and _MIN_STEP <= step <= _MAX_STEP:
            time = readable.number(times.at(packed_step))
            epoch = epochs.at(packed_step)
            yield (
                step,
                None if epoch is None else _epoch(epoch),
                0.0 if time is None else float(time),
                value,
            )


def _epoch(packed: bytes) -> int | float | None:
    try:
        return epoch_number(readable.number(packed))
    except OverflowError:
        return None


def _scan_steps(
    snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
) -> Iterator[KeyValue]:
    low, high = range_of(prefix)
    if begin is not None:
        low = key_int(prefix, begin)
    if end is not None:
        high = key_int(prefix, end)
    return iter(snap.scan(low, high))


class _Beside:
    """A range whose keys go on with a step, walked along with another one's steps."""

    def __init__(self, snap: Snapshot, prefix: bytes, begin: int | None, end: int | None) -> None:
        self._pairs = _scan_steps(snap, prefix, begin, end)
        self._start = len(prefix)
        self._head = next(self._pairs, None)

    def at(self, packed_step: bytes) -> bytes | None:
        """The value at the step, or None. Steps are asked for in their order."""
        while self._head is not None:
            here = self._head[0][self._start :]
            if here >= packed_step:
                return self._head[1] if here == packed_step else None
            self._head = next(self._pairs, None)
        return None

    def all_at(self, packed_step: bytes) -> Iterator[bytes]:
        """The values of all keys that begin with the step: no packed integer is the beginning of another."""
        end = self._start + len(packed_step)
        while self._head is not None:
            here = self._head[0][self._start : end]
            if here > packed_step:
                return
            value = self._head[1]
            self._head = next(self._pairs, None)
            if here == packed_step:
                yield value


def _joined(parts: Iterator[bytes]) -> object:
    """The value that stands in these parts; None when there are none, or not all of them."""
    return readable.found(b"".join(parts) or None)


def _outline(name: str, value: object, parts: int) -> object:
    """What stands as val where the value itself stands in parts: for readers that do not know them."""
    if isinstance(value, str):
        return _cut_text(value)
    assert isinstance(value, dict)
    if name == LOG_RECORDS and isinstance(value.get("message"), str):
        message = _cut_text(value["message"])
        return {**value, "message": message, "args": None, "logger_info": None}
    return {"type": value.get("type"), "data": None, "__parts__": parts}


def _cut_text(text: str) -> str:
    encoded = text.encode()
    # A character that is cut in two goes.
    return f"{encoded[:CUT_BYTES].decode(errors='ignore')} … [cut, {len(encoded)} bytes]"
