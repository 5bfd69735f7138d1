"""The questions that a reader asks, whoever has the store open. What they cost and who answers is not decided here."""

from __future__ import annotations

import os
import time
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from matyan.errors import InvalidQuery, MatyanError, NotFound
from matyan.folder import client
from matyan.reader import live
from matyan.reader.blocks import Block, Points, block

if TYPE_CHECKING:
    import pyarrow

_METRIC = "metric"
_MARKED_COLUMNS = 76


class Artifact(Iterator[bytes]):
    """The bytes of an artifact, in pieces, once.

    Raises:
        NotFound: there are none, when the first piece is asked for.
    """

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def __next__(self) -> bytes:
        return next(self._pieces)

    def read(self) -> bytes:
        """All of them."""
        return b"".join(self._pieces)

    def save(self, file: str | os.PathLike[str]) -> Path:
        """Writes them to a file, in bounded memory; one that is not whole does not get the name."""
        path = Path(file)
        partial = path.with_name(f"{path.name}.part")
        try:
            with open(partial, "wb") as out:
                for piece in self._pieces:
                    out.write(piece)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
        return path


class Reader:
    """Asks whoever has a store open. Made by `open`; every call is a connection of its own.

    A query is an expression of the read API's language, such as `run.hparams.lr < 0.01 and "good" in run.tags`; a `datetime(…)` in it
    is of this process's time zone.
    """

    def __init__(self, connect: client.Connect, close: Callable[[], None] = lambda: None) -> None:
        self._connect = connect
        self.close = weakref.finalize(self, close)
        """Gives the store free, where this process has opened it; so do the end of the process, and a `with`."""
        self.moments = 1
        """How many moments of the store one of the answers so far shows, at most. 1: each of them is of one moment. More: it
        took longer than the store remembers a moment, and what was written meanwhile stands in it or not."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *ended: object) -> None:
        self.close()

    def ask(self, op: str, **arguments: Any) -> Iterator[Any]:
        """See `matyan.folder.client.ask`."""
        return client.ask(self._connect, op, arguments, self._saw)

    def _saw(self, moments: int) -> None:
        self.moments = max(self.moments, moments)

    def _one(self, op: str, **arguments: Any) -> Any:
        (answer,) = self.ask(op, **arguments)
        return answer

    @overload
    def runs(
        self, query: str, *, limit: int | None = None, metrics: bool = False
    ) -> pyarrow.Table: ...

    @overload
    def runs(
        self,
        query: None = None,
        *,
        experiment: str | None = None,
        tag: str | None = None,
        active: bool | None = None,
        archived: bool | None = None,
        heard_before: float | None = None,
        limit: int | None = None,
        counts: bool = False,
    ) -> Iterator[dict[str, Any]]: ...

    def runs(
        self,
        query: str | None = None,
        *,
        limit: int | None = None,
        metrics: bool = False,
        **filters: Any,
    ) -> Any:
        """The runs, newest first.

        With a query ("": all that are not archived) an Arrow table of those that match, a row each: `tables.runs_table` says its columns.
        With `metrics` the last value of each metric, too.

        Without one an iterator of rows: see `rows`.

        Raises:
            InvalidQuery: that is none.
            MatyanError: nothing matched, and on some runs the query failed.
        """
        if query is None:
            return self.rows(limit=limit, **filters)
        if filters:
            raise TypeError(f"a query has no {', '.join(filters)} beside it")
        # Long to import, and only tables need it.
        from matyan.reader.tables import runs_table

        return runs_table(self.found("query_runs", query, limit=limit, metrics=metrics or None))

    def rows(
        self,
        *,
        experiment: str | None = None,
        tag: str | None = None,
        active: bool | None = None,
        archived: bool | None = None,
        heard_before: float | None = None,
        limit: int | None = None,
        counts: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """The runs, newest first: run, name, experiment, tags, active, archived, created_at, last_record, duration; with
        `counts`, which takes its time, sequences and points too.

        last_record: when the run was last heard of, in epoch seconds, at most a minute behind; None: nobody noted it.
        heard_before: only active runs whose last_record is before that time.
        """
        filters = {
            "experiment": experiment,
            "tag": tag,
            "active": active,
            "archived": archived,
            "heard_before": heard_before,
            "limit": limit,
            "counts": counts or None,
        }
        # Only what was asked for: a process of an older version holds the folder until it is restarted.
        given = {name: value for name, value in filters.items() if value is not None}
        return self.ask("runs", **given)

    def find(self, runs: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The row of each of these runs, as `runs` gives it, once; each may be a unique beginning of an id.

        Raises:
            NotFound: there is no such run.
        """
        return self.ask("find", runs=[*runs])

    def show(self, run: str) -> dict[str, Any]:
        """One run: run, last_record, meta, attrs, tags, contexts, sequences. `run` may be a unique beginning of the id.

        Raises:
            NotFound: there is no such run.
        """
        shown: dict[str, Any] = self._one("show", run=run)
        return shown

    def artifacts(self, run: str) -> Iterator[dict[str, Any]]:
        """The artifacts of a run: path, content_type and, in a folder that holds them, bytes (None: never uploaded) and when they came, in epoch
        seconds, as modified."""
        return self.ask("artifacts", run=run)

    def artifact(self, run: str, path: str) -> Artifact:
        """The bytes of one of them, or of an image: `read()`, `save(file)`, or in pieces. The run's whole id.

        Raises:
            NotFound: there are none, when they are read.
        """
        return Artifact(self._pieces(run, path))

    def _pieces(self, run: str, path: str) -> Iterator[bytes]:
        return self.ask("artifact", run=run, path=path)

    def logs(self, run: str) -> Iterator[dict[str, Any]]:
        """Log records and terminal lines by time: kind ("record" or "line"), step, message, level, time."""
        return self.ask("logs", run=run)

    def blocks(
        self, run: str, *, name: str | None = None, context: dict[str, Any] | None = None
    ) -> Iterator[Block]:
        """Everything a run tracked, or its sequences called `name` (in `context`, when given), in bounded pieces."""
        for item in self.ask("export", run=run, name=name, context=context):
            yield block(item)

    def metric(self, run: str, name: str, context: dict[str, Any] | None = None) -> Points:
        """All points of one metric, merged and ordered by step. `context` None: the empty one.

        Raises:
            NotFound: there is no such run, or no such metric in it.
        """
        whole = Points(array("q"), array("d"), array("d"), [])
        found = False
        for one in self.blocks(run, name=name, context=context or {}):
            if one.points is not None:
                found = True
                whole.steps.extend(one.points.steps)
                whole.values.extend(one.points.values)
                whole.times.extend(one.points.times)
                whole.epochs.extend(one.points.epochs)
        if not found:
            raise NotFound(
                f"Run {run} has no metric {name!r} in that context: `matyan show {run}` lists them."
            )
        return whole

    # --- by a query ---------------------------------------------------------------------------------

    def found(self, op: str, query: str, **arguments: Any) -> Iterator[Any]:
        """What answers a question about all that matches a query, checked here first, so that an error can mark its place."""
        subject = arguments.get("kind") or (None if op == "query_runs" else _METRIC)
        check(query, subject)
        offset = _minutes_to_utc()
        given = {name: value for name, value in arguments.items() if value is not None}
        return self.ask(op, query=query, offset_minutes=offset, **given)

    def metrics(
        self, query: str = "", *, names: str | Sequence[str] | None = None
    ) -> pyarrow.Table:
        """All points of the metrics that match, in long form: `tables.point_batches` says its columns. A query may be about `run` and
        `metric`, such as `metric.name == "loss" and run.active`; names: only of metrics that are called so, one or several.

        Raises: as `runs`.
        """
        from matyan.reader.tables import points_table

        return points_table(self.point_batches(query, names=names))

    def point_batches(
        self, query: str = "", *, names: str | Sequence[str] | None = None
    ) -> Iterator[pyarrow.RecordBatch]:
        """The same in batches, for what is larger than memory."""
        from matyan.reader.tables import point_batches

        return point_batches(self.found("query_points", query, names=_listed(names)))

    def metric_values(
        self, query: str = "", *, names: str | Sequence[str] | None = None
    ) -> Iterator[dict[str, Any]]:
        """A row a metric that matches: run, name, context, last, last_step, points, and first, min and max of its finite points."""
        return self.found("query_values", query, names=_listed(names))

    def images(self, query: str = "") -> pyarrow.Table:
        """A row an image of the sequences that match: `tables.objects_table` says its columns. The query may be about `run` and `images`.
        `artifact(run, path)` has the bytes.

        Raises: as `runs`.
        """
        return self.objects("images", query)

    def objects(self, kind: str, query: str = "") -> pyarrow.Table:
        """The same of any kind: images, audios, texts, figures or distributions, by which name the query speaks of them."""
        from matyan.reader.tables import KINDS, objects_table

        if kind not in KINDS:
            raise MatyanError(f"{kind!r} is no kind of objects: name one of {', '.join(KINDS)}.")
        return objects_table(kind, self.found("query_objects", query, kind=kind))

    def follow(self, run: str, *, from_now: bool = False) -> Iterator[Block]:
        """What a run has logged, and goes on to log, as it comes, until it ends; the whole id, or a unique beginning. Log lines are
        objects of the sequence "logs", log records of "__log_records".

        A point is given once: one that is logged at a lower step than the last of its sequence before is not noticed.

        Args:
            from_now: leaves out what stands there already.

        Raises:
            NotFound: there is no such run, or it was deleted meanwhile.
            Unavailable: the process that answered has been away for half a minute.
        """
        (row,) = self.find([run])
        return live.follow(self, row["run"], from_now=from_now)

    # --- changes ------------------------------------------------------------------------------------

    def delete(self, run: str) -> dict[str, Any]:
        """Deletes a run and its blobs: `run`, and `blobs_pending`: whether its blobs are still being deleted.

        Raises:
            NotFound: there is no run of this id; a beginning of one is not enough.
        """
        deleted: dict[str, Any] = self._one("delete", run=run)
        return deleted

    def finish(self, run: str) -> dict[str, Any]:
        """Ends a run when it was last heard of: `run`, `was_active`: whether it had not ended before, and its `duration`.

        Raises:
            NotFound: there is no run of this id; a beginning of one is not enough.
        """
        finished: dict[str, Any] = self._one("finish", run=run)
        return finished

    def compact(self) -> dict[str, Any]:
        """Rewrites the store into its smallest form: its bytes on the disk `before` and `after`."""
        compacted: dict[str, Any] = self._one("compact")
        return compacted

    def dead_letters(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Records that could not be applied: id, topic, partition, offset, time, error_class, error_text, size, run, type."""
        return self.ask("dlq_list", limit=limit)

    def dead_letter(self, number: int) -> dict[str, Any]:
        """One dead letter with its `key` and `value` (bytes)."""
        letter: dict[str, Any] = self._one("dlq_show", id=number)
        return letter

    def replay(self, numbers: list[int] | None = None) -> Iterator[dict[str, Any]]:
        """Sends dead letters (None: all) through the ingestion again; yields id and outcome ("applied" or "dead again")."""
        return self.ask("dlq_replay", ids=numbers)


def _listed(names: str | Sequence[str] | None) -> list[str] | None:
    return [names] if isinstance(names, str) else None if names is None else [*names]


def check(query: str, subject: str | None) -> None:
    """
    Raises:
        InvalidQuery: it is none; its `place` is the line, marked.
    """
    from matyan.api.query import QueryError, parse

    try:
        parse(query, subject=subject)
    except QueryError as error:
        raise InvalidQuery(str(error), _marked(error.statement, error.line, error.offset)) from None


def _marked(statement: str, line: int, offset: int) -> str:
    """The line of a query, and below it a mark; the parser has put an opening parenthesis in front of it."""
    lines = statement.splitlines()
    if not 0 < line <= len(lines):
        return ""
    text, column = lines[line - 1], max(offset - 1, 0)
    if line == 1:
        text, column = text[1:], max(column - 1, 0)
    if line == len(lines):
        text = text.removesuffix(")")
    first = max(0, column - _MARKED_COLUMNS // 2)
    shown = text[first : first + _MARKED_COLUMNS]
    return f"  {shown}\n  {' ' * min(column - first, len(shown))}^"


def _minutes_to_utc() -> int:
    """As JavaScript's getTimezoneOffset() has it, now."""
    return -(time.localtime().tm_gmtoff // 60)
