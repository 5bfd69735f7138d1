"""What readers see of sequences: their traces, how many points they have, and the points and entries themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from matyan import readable
from matyan._codec import Columns, Summary, key_int, read_traces
from matyan.keys import POINT_FIELDS, Keys, range_of
from matyan.rules.sequences.keyed import Beside, keyed
from matyan.rules.sequences.parts import joined
from matyan.rules.sequences.points import PointLayout
from matyan.rules.sequences.summaries import summary_of
from matyan.store.base import Snapshot


class SequenceInfo(NamedTuple):
    """The trace of one sequence."""

    ctx: int
    name: str
    dtype: str
    last: float
    last_step: int
    summary: Summary | None = None
    """None: `SequenceReads.summary` must read the points."""


class SequenceReads:
    """Reads in one layout. They need no state."""

    def __init__(self, keys: Keys, layout: PointLayout) -> None:
        self.keys = keys
        self.layout = layout

    def sequences(self, snap: Snapshot, run: str) -> Iterator[SequenceInfo]:
        """The traces of a run, by context and name; log and object sequences too."""
        prefix = self.keys.traces_prefix(run)
        rows = snap.scan(*range_of(prefix))
        for at, fields in read_traces(rows, len(prefix), readable.value):
            yield _info(at, fields)

    def sequence(self, snap: Snapshot, run: str, ctx: int, name: str) -> SequenceInfo | None:
        """The trace of one sequence, or None."""
        start = len(self.keys.traces_prefix(run))
        rows = snap.scan(*range_of(self.keys.traces_prefix(run, ctx, name)))
        return next((_info(*found) for found in read_traces(rows, start, readable.value)), None)

    def summary(self, snap: Snapshot, run: str, info: SequenceInfo) -> Summary:
        """How many steps of a sequence have a point or an object, and the first, lowest and highest finite value of its points.

        Costs nothing where the trace has it, and a read of all points otherwise.
        """
        return info.summary or self.counted(snap, run, info.ctx, info.name)

    def counted(self, snap: Snapshot, run: str, ctx: int, name: str) -> Summary:
        """The same from the points, whatever the trace has."""
        summary = Summary()
        for columns in self.points(snap, run, ctx, name):
            summary.add(columns)
        summary.add_entries(self._steps(snap, run, ctx, name) - summary.count)
        return summary

    def last(self, snap: Snapshot, run: str, info: SequenceInfo) -> tuple[float, int]:
        """The value of the last point, and its step: the value as it is, where the trace has the last finite one; of what holds
        no points that of the trace."""
        prefix = self.keys.seq(run, info.ctx, info.name)
        last, last_step = info.last, info.last_step
        vals = range_of(prefix + POINT_FIELDS["val"])
        for key, packed in snap.scan(*vals, limit=1, reverse=True):
            found = readable.elements(key, len(vals[0]) - 1, int)
            if found and found[0] >= last_step:
                value, last_step = readable.number(packed), found[0]
                last = last if value is None else float(value)
        last_point = self.layout.measure(snap, prefix)[1]
        if last_point is not None and last_point[0] >= last_step:
            last_step, last = last_point
        return last, last_step

    def count(self, snap: Snapshot, run: str, info: SequenceInfo) -> int:
        """How many steps of a sequence have a point or an object.

        Where the trace does not have it, packed points cost one read when their steps only ever rose; a read of all otherwise.
        """
        if info.summary is not None:
            return info.summary.count
        return self._steps(snap, run, info.ctx, info.name)

    def _steps(self, snap: Snapshot, run: str, ctx: int, name: str) -> int:
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
        *,
        values_only: bool = False,
    ) -> Iterator[Columns]:
        """The points of a log_metric sequence with begin <= step < end: each step once, in the steps' order. values_only: they may have
        neither time nor epoch, which costs a quarter in the compatible layout."""
        prefix = self.keys.seq(run, ctx, name)
        return self.layout.read(snap, prefix, begin, end, values_only=values_only)

    def object_steps(self, snap: Snapshot, run: str, ctx: int, name: str) -> Iterator[int]:
        """The steps of an object or log sequence, in their order: cheaper than `objects`."""
        vals = self.keys.seq(run, ctx, name) + POINT_FIELDS["val"]
        for key, _ in snap.scan(*range_of(vals)):
            if (found := readable.elements(key, len(vals), int)) is not None:
                yield found[0]

    def objects(
        self,
        snap: Snapshot,
        run: str,
        ctx: int,
        name: str,
        begin: int | None = None,
        end: int | None = None,
    ) -> Iterator[tuple[int, int | float | None, float, object]]:
        """(step, epoch, time, value) of an object or log sequence with begin <= step < end, in the steps' order, parts
        joined."""
        parts = Beside(snap, self.keys.parts(run, ctx, name), begin, end)
        for step, epoch, time, packed in keyed(snap, self.keys.seq(run, ctx, name), begin, end):
            value = joined(parts.all_at(key_int(b"", step)))
            if value is None:
                value = readable.value(packed)
            if not readable.is_number(value):
                yield step, epoch, time, value


def _info(at: tuple[int, str], fields: dict[str, Any]) -> SequenceInfo:
    get = fields.get
    dtype, last, last_step = get("dtype"), get("last"), get("last_step")
    return SequenceInfo(
        at[0],
        at[1],
        dtype if isinstance(dtype, str) else "float",
        float(last) if readable.is_number(last) else 0.0,
        last_step if readable.is_int64(last_step) else 0,
        summary_of(get("summary"), last_step),
    )
