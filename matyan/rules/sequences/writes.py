"""What one transaction appends to sequences: where an entry or a point without a step goes, and the traces."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from matyan import readable
from matyan._codec import (
    LINES,
    Columns,
    Summary,
    compatible_object,
    key_int,
    msgpack_float,
    msgpack_int,
)
from matyan.errors import InvalidRecord
from matyan.keys import pack_value, range_of
from matyan.rules import free_steps, limits
from matyan.rules.contexts import EMPTY
from matyan.rules.free_steps import Below
from matyan.rules.sequences.keyed import highest
from matyan.rules.sequences.parts import PART_BYTES, has_parts, outline
from matyan.rules.sequences.reads import SequenceReads
from matyan.rules.sequences.state import (
    MAX_STEP,
    LineState,
    State,
    StateCache,
    StateKey,
    following,
)
from matyan.rules.sequences.summaries import summary_of
from matyan.store.base import Transaction

RATIO: Final = 4
"""From 3 on, sequences that grow in step are all served between `early` and `latest`."""


@dataclass(slots=True)
class Entry:
    """What is no point of a metric: an object, a terminal line, a log record."""

    step: int | None
    """None: the next free one, when it is written."""
    epoch: int | float | None
    time: float
    """Epoch seconds."""
    value: object


class SequenceWrites:
    """What one transaction does to sequences. Made by Sequences.begin."""

    def __init__(
        self, reads: SequenceReads, cache: StateCache, tr: Transaction, rewrite: int
    ) -> None:
        self._keys = reads.keys
        self._layout = reads.layout
        self._cache = cache
        self._tr = tr
        self.budget = rewrite  # points that may still be rewritten
        self.states: dict[StateKey, State] = {}
        self.retyped: list[tuple[str, str | None, str]] = []
        """Name, dtype before (None: it is new) and dtype of the sequences that have another one now; for whoever takes them out."""

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
        is_new = not state.traced
        last_step, last, ascending = columns.follow(state.last_step, state.last)
        self.budget += RATIO * len(columns)
        self.budget -= self._layout.append(self._tr, state, columns, ascending, self.budget)
        if state.summary is not None:
            if ascending:
                state.summary.add(columns)
            else:
                self._lose_summary(state)
        self._trace(state, name, dtype, last_step, last)
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
        assert isinstance(state, LineState)
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
        self._tr.clear(self._keys.trace(run, EMPTY, LINES, "sent"))
        key = (run, EMPTY, LINES)
        state = self.states.get(key) or self._cache.take(key)
        if state is not None:
            assert isinstance(state, LineState)
            state.sent = None
            self.states[key] = state

    def _place(self, state: LineState, sent: int) -> int:
        """The step of a line that is to stand behind all others."""
        if state.last_step is None:
            return sent
        if state.last_step < MAX_STEP:
            return max(sent, state.last_step + 1)
        return self._next_free(state, LINES, state.last_step, [])

    def _placed(self, state: State, given: Columns, name: str) -> Columns:
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
        self, state: State, name: str, highest: int | None, unwritten: Sequence[int]
    ) -> int:
        """`unwritten`: steps that are taken and not stored yet, sorted.

        Raises:
            InvalidRecord: no free step is left.
        """
        if highest is None or highest < MAX_STEP:
            return following(highest)
        free = state.free
        if free is None or free.next >= free.end:
            end = free_steps.END if free is None else free.end
            free = state.free = free_steps.find(self._taken(state, unwritten), end)
        step = None if free is None else free.take()
        if step is None:
            raise InvalidRecord(f"{name}: no free step is left up to {MAX_STEP}")
        return step

    def _taken(self, state: State, unwritten: Sequence[int]) -> Below:
        """The taken steps of a sequence, wherever they stand."""
        points = self._layout.taken(self._tr, state.prefix)

        def below(step: int) -> int | None:
            keyed = highest(self._tr, state.prefix, step)
            place = bisect_left(unwritten, step)
            found = [
                points(step),
                None if keyed is None else keyed[0],
                *unwritten[max(0, place - 1) : place],
            ]
            return max((one for one in found if one is not None), default=None)

        return below

    def _put(self, state: State, name: str, dtype: str, step: int, entry: Entry) -> bool:
        """Stores what was sent as `entry` at `step`."""
        tr = self._tr
        value = entry.value
        if state.free is not None:
            state.free.taken(step)
        packed = limits.packed(value, name)
        parts = []
        if len(packed) > PART_BYTES:
            parts = [packed[i : i + PART_BYTES] for i in range(0, len(packed), PART_BYTES)]
            packed = pack_value(outline(name, value, len(parts)))
            limits.check(state.prefix, packed)
        is_new = not state.traced
        rewrite = state.last_step is not None and step <= state.last_step
        if rewrite and has_parts(tr, state):
            tr.clear_range(*range_of(key_int(state.parts_prefix, step)))
        if parts:
            prefix = key_int(state.parts_prefix, step)
            tr.update([(key_int(prefix, i), part) for i, part in enumerate(parts)])
            state.parts = True
        for key, stored in compatible_object(state.prefix, step, entry.epoch, entry.time, packed):
            if stored is not None:
                tr.set(key, stored)
            elif rewrite:
                tr.clear(key)
        if state.summary is not None:
            if not rewrite:
                state.summary.add_entries(1)
            elif step != state.last_step or state.points or state.summary.first is not None:
                # What stands at the last step is written anew again and again where it is a terminal line: that changes nothing.
                self._lose_summary(state)
        self._trace(state, name, dtype, state.last_step if rewrite else step, state.last)
        return is_new

    def forget_run(self, run: str) -> None:
        """This run was deleted in this transaction, or written by another owner before it: what was known about it
        counts no more."""
        self._cache.forget_run(run)
        for key in [key for key in self.states if key[0] == run]:
            del self.states[key]

    def _state(self, run: str, ctx: int, name: str) -> State:
        key = (run, ctx, name)
        state = self.states.get(key)
        if state is None:
            state = self._cache.take(key)
            if state is None:
                state = self._load(run, ctx, name)
            self.states[key] = state
        return state

    def _load(self, run: str, ctx: int, name: str) -> State:
        tr = self._tr
        keys = self._keys
        lines = LineState(keys, run) if (ctx, name) == (EMPTY, LINES) else None
        state = lines or State(keys, run, ctx, name)
        # All its keys at once: behind this prefix, the longest, come a step and a number. So its rows need no check but
        # where a value is as large as a client made it.
        limits.check(state.parts_prefix + bytes(18), b"")
        row = tr.get(state.trace_last_step)
        if row is not None:
            state.traced = True
            state.dtype = readable.text(tr.get(state.trace_dtype))
            last = readable.number(tr.get(state.trace_last))
            state.last = 0.0 if last is None else float(last)
            found = readable.found(row)
            state.last_step = found if readable.is_int64(found) else None
        named = state.last_step
        # Whatever the row says: the reference's names the step that was written last, which need not be the highest.
        keyed = highest(tr, state.prefix)
        if keyed is not None:
            state.reaches(keyed[0], readable.number(keyed[1]))
        self._layout.load(tr, state)
        if named is None and state.points:
            # A damaged row, or none: the points tell it.
            _, point = self._layout.measure(tr, state.prefix)
            if point is not None:
                state.reaches(*point)
        if state.last_step is not None:
            state.parts = None
        self._load_summary(state, named)
        # Not where another program has written since: the last line is its one then.
        if lines is not None and named is not None and named == state.last_step:
            sent = readable.found(tr.get(lines.trace_sent))
            pair = sent if isinstance(sent, list) else [sent, state.last_step]
            if len(pair) == 2 and all(map(readable.is_int64, pair)):
                lines.sent, lines.at = pair
        return state

    def _load_summary(self, state: State, named: int | None) -> None:
        """named: the last step as its row says."""
        if not state.traced and state.last_step is None:
            state.summary = Summary()  # nothing stands here
            return
        row = self._tr.get(state.trace_summary)
        if row is not None and named is not None and named == state.last_step:
            state.summary = summary_of(readable.found(row), named)
        if row is not None and state.summary is None:
            self._tr.clear(state.trace_summary)  # another program has written since

    def _lose_summary(self, state: State) -> None:
        """Something was written before the end: what stood there before, nobody has looked at."""
        state.summary = None
        self._tr.clear(state.trace_summary)

    def _trace(
        self, state: State, name: str, dtype: str, last_step: int | None, last: float
    ) -> None:
        tr = self._tr
        assert last_step is not None
        if state.summary is not None:
            tr.set(state.trace_summary, state.summary.packed(last_step))
        tr.set(state.trace_last_step, msgpack_int(last_step))
        tr.set(state.trace_last, msgpack_float(last))
        if dtype != state.dtype:
            packed = pack_value(dtype)
            limits.check(state.trace_dtype, packed)
            tr.set(state.trace_dtype, packed)
            self.retyped.append((name, state.dtype, dtype))
            state.dtype = dtype
        state.last_step = last_step
        state.last = last
        state.traced = True
