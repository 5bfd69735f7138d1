"""What must hold among the rows of one sequence, in either layout: looked for in pages, judged in one transaction, mended.

What the kinds of findings mean stands in `rules/audit/findings.py`. A mend that moves a trace makes its writers forget what they
remember of the run: the caller sees to that.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import isfinite
from typing import Final, NamedTuple

from matyan import readable
from matyan._codec import (
    LINES,
    LOG_RECORDS,
    Columns,
    chunk_head,
    decode_chunk,
    key_int,
    msgpack_float,
    msgpack_int,
)
from matyan.keys import CHUNK, POINT_FIELDS, Keys, pack_value, range_of
from matyan.rules.sequences.keyed import highest
from matyan.rules.sequences.parts import joined
from matyan.rules.sequences.points import PointLayout
from matyan.rules.sequences.reads import SequenceReads
from matyan.rules.sequences.state import MAX_STEP, MIN_STEP
from matyan.store.base import Snapshot, Transaction

PAGE_STEPS: Final = 1_000
PAGE_BYTES: Final = 4 << 20
PAGE_CHUNKS: Final = 100
_MOST_UNSORTED: Final = 300_000
"""Points whose steps came out of order are only looked at together: of so many at most the highest is asked for."""

_MOST_PACKED: Final = 500_000
_MOST_KEYED: Final = 50_000
"""Points that are counted in one transaction, in chunks and in keys: well below a second."""


class Place(NamedTuple):
    """A sequence of a run."""

    run: str
    ctx: int
    name: str


class Steps(NamedTuple):
    """A page of a sequence: the steps that look wrong, what was found at once, and where the next page begins."""

    suspects: list[int]
    found: list[tuple[str, str]]
    """Kind and place."""
    next: int | None
    rows: int


class SequenceAudit:
    """Looks at the sequences of a store in one layout."""

    def __init__(self, keys: Keys, layout: PointLayout) -> None:
        self._keys = keys
        self._layout = layout
        self._reads = SequenceReads(keys, layout)

    # --- pages -----------------------------------------------------------------------------------

    def steps(self, snap: Snapshot, place: Place, begin: int) -> Steps:
        """The rows of the steps from `begin` on: which steps have not the rows that they must have."""
        prefix = self._keys.seq(*place)
        found: dict[str, dict[int, bytes]] = {}
        horizon = MAX_STEP
        rows = 0
        for field, packed in POINT_FIELDS.items():
            start, end = key_int(prefix + packed, begin), range_of(prefix + packed)[1]
            steps = found[field] = {}
            here = size = 0
            step = None
            for key, value in snap.scan(start, end):
                here, size = here + 1, size + len(value)
                if (step := _step(key, len(prefix + packed))) is not None:
                    # Objects are large, and are not looked into.
                    steps[step] = value if field == "step" else b""
                    if here >= PAGE_STEPS or size >= PAGE_BYTES:
                        horizon = min(horizon, step)
                        break
            rows += here
        vals, numbers, times, epochs = (found[field] for field in ("val", "step", "time", "epoch"))
        suspects = [
            step
            for step in sorted(vals.keys() | numbers.keys() | times.keys() | epochs.keys())
            if step <= horizon
            and (step not in vals or step not in times or numbers.get(step) != msgpack_int(step))
        ]
        return Steps(suspects, [], None if horizon == MAX_STEP else horizon + 1, rows)

    def chunks(self, snap: Snapshot, place: Place, begin: int) -> Steps:
        """The chunks from number `begin` on, in one moment: those that cannot be read, or do not follow each other."""
        chunks = self._keys.seq(*place) + CHUNK
        found: list[tuple[str, str]] = []
        before: int | None = 0 if begin == 0 else None
        highest_step: int | None = None
        # The one before the page's first, to see whether they follow each other.
        for _, chunk in snap.scan(chunks, key_int(chunks, begin), limit=1, reverse=True):
            try:
                _, _, count, stood = chunk_head(chunk)
                before = stood + count
                highest_step = _highest(chunk)
            except ValueError:
                before = None
        number, rows = begin, 0
        for key, chunk in snap.scan(key_int(chunks, begin), range_of(chunks)[1], limit=PAGE_CHUNKS):
            rows += 1
            numbered = readable.elements(key, len(chunks), int)
            if numbered is None:
                continue
            (number,) = numbered
            try:
                _, ordered, count, stood = chunk_head(chunk)
                columns = Columns()
                decode_chunk(chunk, columns)
            except ValueError as error:
                found.append(("chunk-unreadable", f"chunk {number}: {error}"))
                before = highest_step = None
                continue
            if before is not None and stood != before:
                found.append(
                    ("chunk-order", f"chunk {number}: {before} points before it, not {stood}")
                )
            steps = [step or 0 for step, *_ in columns.rows()]
            if ordered and (
                any(one >= other for one, other in pairwise(steps))
                or (highest_step is not None and steps and steps[0] <= highest_step)
            ):
                found.append(("chunk-order", f"chunk {number}: its steps do not rise"))
            before = stood + count
            highest_step = max(steps, default=highest_step)
        return Steps([], found, number + 1 if rows == PAGE_CHUNKS else None, rows)

    # --- judges ----------------------------------------------------------------------------------

    def step(self, tr: Snapshot, place: Place, step: int) -> Iterator[tuple[str, str, list[Write]]]:
        """What is wrong with one step's rows, and the writes that mend it."""
        prefix = self._keys.seq(*place)
        rows = {field: key_int(prefix + packed, step) for field, packed in POINT_FIELDS.items()}
        if tr.get(rows["val"]) is None:
            left = [field for field, key in rows.items() if tr.get(key) is not None]
            if left:
                yield (
                    "field-without-value",
                    f"step {step}: {', '.join(left)}",
                    [(rows[field], None) for field in left],
                )
            return
        if tr.get(rows["step"]) != (right := msgpack_int(step)):
            yield "value-without-step", f"step {step}", [(rows["step"], right)]
        if tr.get(rows["time"]) is None:
            yield "value-without-time", f"step {step}", []

    def parts(
        self, tr: Snapshot, place: Place, step: int
    ) -> Iterator[tuple[str, str, list[Write]]]:
        """What is wrong with the parts at a step."""
        parts = key_int(self._keys.parts(*place), step)
        stored = [*tr.scan(*range_of(parts))]
        if not stored:
            return
        packed = tr.get(key_int(self._keys.seq(*place) + POINT_FIELDS["val"], step))
        if packed is None:
            yield (
                "parts-without-value",
                f"step {step}: {len(stored)} parts",
                [(key, None) for key, _ in stored],
            )
            return
        outline = readable.found(packed)
        told = outline.get("__parts__") if isinstance(outline, dict) else None
        numbers = [readable.elements(key, len(parts), int) for key, _ in stored]
        whole = joined(value for _, value in stored) is not None
        if (
            (told is not None and told != len(stored))
            or not whole
            or numbers != [(number,) for number in range(len(stored))]
        ):
            yield "parts-incomplete", f"step {step}: {len(stored)} parts", []

    def trace(self, tr: Snapshot, place: Place) -> Iterator[tuple[str, str, list[Write]]]:
        """Whether the trace of a sequence says what stands in it."""
        run, ctx, name = place
        keys = self._keys
        last_step, last, dtype = (
            keys.trace(run, ctx, name, field) for field in ("last_step", "last", "dtype")
        )
        row = tr.get(last_step)
        reached = self._reached(tr, place)
        if reached is None:
            if row is not None:
                yield "points-missing", "", []
            return
        step, value = reached
        writes: list[Write] = []
        # A point's value is the last one where it is finite; an object has none, and a NaN leaves the one before it.
        finite = float(value) if value is not None and isfinite(value) else None
        if row is None:
            writes = [
                (last_step, msgpack_int(step)),
                (last, msgpack_float(0.0 if finite is None else finite)),
            ]
            if readable.text(tr.get(dtype)) is None:
                writes.append((dtype, pack_value(_dtype(name, value is not None))))
            yield "trace-missing", f"step {step} is the highest", writes
            return
        named = readable.found(row)
        if named != step or not readable.is_int64(named):
            writes.append((last_step, msgpack_int(step)))
            if finite is not None:
                writes.append((last, msgpack_float(finite)))
            yield "last-step", f"{named!r:.40}, and {step} is the highest", writes
        elif finite is not None and readable.number(tr.get(last)) != finite:
            yield "last-value", f"at step {step}", [(last, msgpack_float(finite))]

    def summary(
        self, tr: Snapshot, place: Place, *, is_wanted: bool
    ) -> Iterator[tuple[str, str, list[Write]]]:
        """Whether the trace's summary is that of the points; is_wanted: whether one that is missing is made. It is not where that would
        take long: a reader reads the points."""
        row = self._keys.trace(*place, "summary")
        last_step = readable.found(tr.get(self._keys.trace(*place, "last_step")))
        stored = tr.get(row)
        if not readable.is_int64(last_step) or (stored is None and not is_wanted):
            return
        if not self._can_be_counted(tr, place) or self._reached(tr, place) is None:
            return
        right = self._reads.counted(tr, *place).packed(last_step)
        if stored is None:
            yield "summary-missing", "", [(row, right)]
        elif stored != right:
            yield "summary", f"{readable.found(stored)!r:.80}", [(row, right)]

    def _can_be_counted(self, snap: Snapshot, place: Place) -> bool:
        """Whether all points can be read, and in a moment."""
        prefix = self._keys.seq(*place)
        points = 0
        for _, chunk in snap.scan(*range_of(prefix + CHUNK)):
            try:
                _, _, count, before = chunk_head(chunk)
            except ValueError:
                return False
            if before != points or points > _MOST_PACKED:
                return False
            points += count
        vals = snap.scan(*range_of(prefix + POINT_FIELDS["val"]), limit=_MOST_KEYED + 1)
        return sum(1 for _ in vals) <= _MOST_KEYED and self.can_be_measured(snap, place)

    def _reached(self, tr: Snapshot, place: Place) -> tuple[int, int | float | None] | None:
        """The highest step, and the value there: None of what is no point."""
        prefix = self._keys.seq(*place)
        keyed = highest(tr, prefix)
        found = None if keyed is None else (keyed[0], readable.number(keyed[1]))
        point = self._layout.measure(tr, prefix)[1]
        if point is not None and (found is None or point[0] >= found[0]):
            found = point
        return found

    def can_be_measured(self, snap: Snapshot, place: Place) -> bool:
        """Whether the highest step is found in a moment: not among very many points whose steps came out of order, nor where the
        last chunk is not what it says."""
        chunks = range_of(self._keys.seq(*place) + CHUNK)
        steps: list[int] = []
        for i, (_, chunk) in enumerate(snap.scan(*chunks, limit=2, reverse=True)):
            try:
                _, ordered, count, before = chunk_head(chunk)
                columns = Columns()
                decode_chunk(chunk, columns)
            except ValueError:
                return False
            if i == 0 and not ordered:
                return before + count <= _MOST_UNSORTED
            steps = [*(step or 0 for step, *_ in columns.rows()), *steps]
        return all(one < other for one, other in pairwise(steps))

    def is_empty(self, snap: Snapshot, place: Place) -> bool:
        """Whether nothing of the sequence stands but its trace."""
        begin, end = range_of(self._keys.seq(*place))
        return next(iter(snap.scan(begin, end, limit=1)), None) is None


Write = tuple[bytes, bytes | None]


def apply(tr: Transaction, writes: list[Write]) -> None:
    for key, value in writes:
        if value is None:
            tr.clear(key)
        else:
            tr.set(key, value)


def _step(key: bytes, start: int) -> int | None:
    found = readable.elements(key, start, int)
    return found[0] if found is not None and MIN_STEP <= found[0] <= MAX_STEP else None


def _highest(chunk: bytes) -> int | None:
    columns = Columns()
    decode_chunk(chunk, columns)
    return max((step or 0 for step, *_ in columns.rows()), default=None)


def _dtype(name: str, is_point: bool) -> str:
    if name == LINES:
        return LINES
    if name == LOG_RECORDS:
        return "log_records"
    return "float" if is_point else "custom"
