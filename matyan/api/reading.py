"""What readers ask of a store: whole and exact values, where the streams for the web app sample points, and write large integers as text.

The same questions at a data folder's socket and over HTTP (`routes/reading.py`); `matyan.reader` and the CLI ask them. Each answer is
a row or many, as msgpack holds them; None among them says that it goes on. No HTTP here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from matyan._codec import LINES, Columns
from matyan.api.runs import KINDS, METRIC, RunView, View
from matyan.errors import InvalidQuery, MatyanError, NotFound
from matyan.keys import Keys
from matyan.rules import contexts
from matyan.rules.queries import Queries, columns
from matyan.rules.sequences import SequenceInfo, Sequences
from matyan.store.base import Snapshot

Read = Callable[..., Iterator[object]]
"""Called with a Snapshot and the request's arguments, in a thread."""
Row = dict[str, Any]

_LOST: Final = -(1 << 63)


class Reading:
    """Answers over one store."""

    def __init__(self, keys: Keys, sequences: Sequences) -> None:
        self._keys = keys
        self._sequences = sequences
        self.queries = Queries(keys, sequences)

    def reads(self) -> Mapping[str, Read]:
        """What can be asked."""
        return {
            "runs": self.queries.runs,
            "find": self.queries.find,
            "show": self.queries.show,
            "artifacts": self.queries.artifacts,
            "logs": self.queries.logs,
            "export": self.queries.export,
            "query_runs": self.runs,
            "query_points": self.points,
            "query_objects": self.objects,
            "query_values": self.values,
            "news": self.news,
        }

    def _view(self, snap: Snapshot) -> View:
        return View(snap, self._keys, self._sequences)

    def _found(
        self, snap: Snapshot, subject: str | None, query: str, offset_minutes: int
    ) -> Iterator[tuple[RunView, list[SequenceInfo]] | None]:
        """
        Raises:
            InvalidQuery: it does not parse.
            MatyanError: nothing matched, and on some runs it failed.
        """
        # Most commands ask for no search, and quart is long to import.
        from matyan.api.query import QueryError, parse
        from matyan.api.search import found

        try:
            parsed = parse(query, subject=subject, offset_minutes=offset_minutes)
        except QueryError as error:
            raise InvalidQuery(str(error)) from None
        return found(self._view(snap), parsed, subject)

    def runs(
        self,
        snap: Snapshot,
        *,
        query: str,
        offset_minutes: int = 0,
        limit: int | None = None,
        metrics: bool = False,
    ) -> Iterator[Row | None]:
        """A row a run that matches, newest first: run, name, description, experiment, tags, created_at, finalized_at, duration, active,
        archived, attrs; with `metrics` [name, context, last] of each metric, too."""
        if limit == 0:
            return
        sent = 0
        for match in self._found(snap, None, query, offset_minutes):
            if match is None:
                yield None
                continue
            run, _ = match
            meta, props = run.meta, run.props()
            row = {
                "run": run.run,
                "name": props["name"],
                "description": props["description"],
                "experiment": run.experiment["name"],
                "tags": [tag["name"] for tag in run.tags],
                "created_at": props["creation_time"],
                "finalized_at": props["end_time"],
                "duration": meta.get("duration"),
                "active": props["active"],
                "archived": props["archived"],
                "attrs": run.params(),
            }
            if metrics:
                row["metrics"] = [
                    [info.name, run.context(info), info.last] for info in run.of_kind(METRIC)
                ]
            yield row
            sent += 1
            if sent == limit:
                return

    def points(
        self,
        snap: Snapshot,
        *,
        query: str,
        offset_minutes: int = 0,
        names: list[str] | None = None,
    ) -> Iterator[Row | None]:
        """All points of the metrics that match, of those called `names` alone where given, in bounded pieces: run, name, context, and
        the columns as `_columns` has them."""
        for match in self._found(snap, METRIC, query, offset_minutes):
            if match is None:
                yield None
                continue
            run, infos = match
            for info in _named(infos, names):
                head = _head(run, info)
                for block in _points(run, info):
                    yield {**head, **_columns(block)}

    def objects(
        self, snap: Snapshot, *, kind: str, query: str, offset_minutes: int = 0
    ) -> Iterator[Row | None]:
        """A row an image, text and so on of the sequences that match: run, name, context, step, epoch, time, index, value, as it was
        logged. kind: one of `matyan.api.runs.KINDS`."""
        if kind not in KINDS:
            raise MatyanError(f"{kind!r} is no kind of objects: name one of {', '.join(KINDS)}.")
        for match in self._found(snap, kind, query, offset_minutes):
            if match is None:
                yield None
                continue
            run, infos = match
            for info in infos:
                head = _head(run, info)
                place = run.run, info.ctx, info.name
                for step, epoch, when, value in self._sequences.objects(snap, *place):
                    at = {**head, "step": step, "epoch": epoch, "time": when}
                    for index, one in enumerate(value if isinstance(value, list) else [value]):
                        yield {**at, "index": index, "value": one}
                    yield None

    def values(
        self,
        snap: Snapshot,
        *,
        query: str,
        offset_minutes: int = 0,
        names: list[str] | None = None,
    ) -> Iterator[Row | None]:
        """A row a metric that matches: run, name, context, and what `_values` says of it."""
        for match in self._found(snap, METRIC, query, offset_minutes):
            if match is None:
                yield None
                continue
            run, infos = match
            for info in _named(infos, names):
                yield {**_head(run, info), **_values(run, info)}

    def news(
        self, snap: Snapshot, *, run: str, seen: list[tuple[int, str, int]] | None
    ) -> Iterator[Row]:
        """What a run has logged behind the steps that were seen, and at the end a row with `active`.

        Args:
            seen: [place, name, step] of the rows that came before; None: only where each sequence stands is wanted.

        A row: place, name, context, dtype, step, the last one; and `columns` of points, or `objects` as [step, epoch, time, value].

        Raises:
            NotFound: there is no such run.
        """
        one = self._view(snap).run(self.queries.exact(snap, run))
        if not one.is_there:
            raise NotFound(f"Run {run} was deleted.")
        known = {(ctx, name): step for ctx, name, step in seen or ()}
        for info in one.traces:
            place = info.ctx, info.name
            head = {
                "place": info.ctx,
                "name": info.name,
                "context": one.context(info),
                "dtype": info.dtype,
                "step": info.last_step,
            }
            # The last line of a terminal is written again at its step while it grows.
            begin = known.get(place, _LOST) + (place != (contexts.EMPTY, LINES))
            if seen is None:
                yield head
            elif place not in known or info.last_step >= begin:
                begun = None if place not in known else begin
                for block in _points(one, info, begun):
                    yield {**head, **columns(block)}
                for row in self._sequences.objects(snap, run, *place, begun):
                    yield {**head, "step": row[0], "objects": [row]}
        yield {"active": bool(one.meta.get("active"))}


def _named(infos: list[SequenceInfo], names: list[str] | None) -> Iterator[SequenceInfo]:
    return (info for info in infos if names is None or info.name in names)


def _head(run: RunView, info: SequenceInfo) -> Row:
    return {"run": run.run, "name": info.name, "context": run.context(info)}


def _points(run: RunView, info: SequenceInfo, begin: int | None = None) -> Iterator[Columns]:
    view = run.view
    return view.sequences.points(view.snap, run.run, info.ctx, info.name, begin)


def _columns(block: Columns) -> Row:
    """Little endian: steps int64, values and times float64; epochs float64, NaN for a point without one, None when no point has one."""
    return {
        "steps": block.steps_bytes(),
        "values": block.values_bytes(),
        "times": block.times_bytes(),
        "epochs": block.epochs_as_doubles() if any(block.epoch_mask()) else None,
    }


def _values(run: RunView, info: SequenceInfo) -> Row:
    """last and last_step, the number of `points`, and first, min and max of the finite ones, None where there are none."""
    view = run.view
    found = view.sequences.summary(view.snap, run.run, info)
    return {
        "last": None if found.first is None else info.last,
        "last_step": info.last_step if found.count else None,
        "first": found.first,
        "min": found.min,
        "max": found.max,
        "points": found.count,
    }
