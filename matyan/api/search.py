"""Searches: which runs, metrics and objects match a query, as records of the stream, sent while the rest is still looked for.

A generator here yields bytes; b"" says no more than that it goes on, so that whoever drives it can stop it. What an index
says narrows what is looked at; the expression decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from matyan._codec import tree_records
from matyan.api import objects, points
from matyan.api.asked import Refused
from matyan.api.objects import Wish
from matyan.api.plan import candidates
from matyan.api.queried import QueriedRun, QueriedSequence
from matyan.api.query import EvaluationError, Query
from matyan.api.runs import METRIC, RunView, View, paged, text
from matyan.rules.sequences import SequenceInfo

_PROGRESS_S: Final = 0.5
_PULSE_S: Final = 0.1

SORTS: Final[dict[str, Callable[[RunView], Any]]] = {
    "run": lambda run: text(run.meta, "name"),
    "experiment": lambda run: run.experiment["name"] or "",
    "hash": lambda run: run.run,
    "date": lambda run: run.meta.get("created_at") or 0.0,
    "duration": lambda run: run.meta.get("duration") or 0.0,
    "description": lambda run: text(run.meta, "description"),
    "creator": lambda run: "",
}
"""What runs can be sorted by. Nobody knows who made a run."""


class Progress:
    """[checked, total] records between the objects of a stream, each under a name of its own."""

    def __init__(self, total: int, *, reported: bool) -> None:
        self._total = total
        self._reported = reported
        self._count = 0
        self._due = 0.0

    def told(self, checked: int, *, now: bool = False) -> bytes:
        """A record if one is due."""
        moment = time.monotonic()
        if not self._reported or not (now or moment >= self._due):
            return b""
        self._due = moment + _PROGRESS_S
        return self._record([checked, self._total])

    def end(self) -> bytes:
        return self._record([0, 0]) if self._reported else b""

    def _record(self, pair: list[int]) -> bytes:
        self._count += 1
        return tree_records(f"progress_{self._count - 1}", pair)


@dataclass(slots=True)
class _Failures:
    """Evaluations that ended in an error are no match; when nothing matches, the first one is the answer."""

    first: str = ""
    count: int = 0

    def add(self, run: str, error: EvaluationError) -> None:
        self.first = self.first or f"{error} (in run {run})"
        self.count += 1


@dataclass(frozen=True, slots=True)
class _Match:
    run: RunView
    sequences: list[SequenceInfo] = field(default_factory=list)


def _matches(
    view: View, query: Query, subject: str | None, runs: Iterable[str], failures: _Failures
) -> Iterator[_Match | None]:
    """The runs that match, and None for each that does not. subject: the kind of sequence that the query is about."""
    for name in runs:
        run = view.run(name)
        yield _match(run, query, subject, failures) if run.is_there else None


def _match(run: RunView, query: Query, subject: str | None, failures: _Failures) -> _Match | None:
    asked = QueriedRun(run)
    if subject is None:
        return _Match(run) if _holds(query, failures, run, asked, None) else None
    found = [
        info
        for info in run.of_kind(subject)
        if _holds(query, failures, run, asked, QueriedSequence(run, info))
    ]
    return _Match(run, found) if found else None


def _holds(
    query: Query,
    failures: _Failures,
    run: RunView,
    asked: QueriedRun,
    sequence: QueriedSequence | None,
) -> bool:
    try:
        return query.matches(asked, sequence)
    except EvaluationError as error:
        failures.add(run.run, error)
        return False


def _stream(
    view: View,
    query: Query,
    subject: str | None,
    found: list[str],
    shown: Callable[[_Match], bytes],
    *,
    limit: int = 0,
    reported: bool,
) -> Iterator[bytes]:
    """
    Raises:
        Refused: nothing matched, and on some runs the query failed; nothing was yielded then.
    """
    failures, progress = _Failures(), Progress(len(found), reported=reported)
    sent, pulse = 0, time.monotonic()
    for checked, match in enumerate(_matches(view, query, subject, found, failures), 1):
        if match is not None and (records := shown(match)):
            # The status of the answer is held until something matches: then it is a success.
            if not sent:
                yield progress.told(0, now=True)
            sent += 1
            yield records + progress.told(checked, now=True)
            if sent == limit:
                break
        elif sent:
            yield progress.told(checked)
        elif (now := time.monotonic()) > pulse + _PULSE_S:
            pulse = now
            yield b""
    if not sent and failures.count:
        raise Refused(
            400,
            f"The query failed on each of {failures.count:,} runs or sequences that it could have matched: {failures.first}.",
        )
    yield progress.end() if sent else progress.told(0, now=True) + progress.end()


def runs(
    view: View,
    query: Query,
    *,
    sort: tuple[tuple[str, bool], ...] = (),
    limit: int = 0,
    offset: str = "",
    skip_system: bool = True,
    params: bool = True,
    traces: bool = True,
    reported: bool = True,
) -> Iterator[bytes]:
    """Runs, newest first or by `sort`: (field, descending) pairs. offset: the id of the last run of the page before.

    Raises:
        Refused: the run at the offset is not there; or as `_stream`.
    """
    found = candidates(view, query)
    if sort:
        found = _sorted(view, found, sort)
    if offset:
        if offset not in found:
            found = _behind(view, found, offset, sort)
        else:
            found = [*paged(found, offset, 0)]

    def shown(match: _Match) -> bytes:
        run = match.run
        answer = {
            "params": run.params(skip_system=skip_system) if params else {},
            "traces": {METRIC: run.metrics() if traces else []},
            "props": run.props(),
        }
        return tree_records(run.run, answer)

    yield from _stream(view, query, None, found, shown, limit=limit, reported=reported)


def _sorted(view: View, found: list[str], sort: tuple[tuple[str, bool], ...]) -> list[str]:
    order = [(SORTS[name], descending) for name, descending in sort]
    keyed = [
        ([key(run) for key, _ in order], run.run) for run in map(view.run, found) if run.is_there
    ]
    # By the last field first: each sort keeps the order of the one before.
    for place in reversed(range(len(order))):
        keyed.sort(key=lambda row: row[0][place], reverse=order[place][1])
    return [run for _, run in keyed]


def _behind(
    view: View, found: list[str], offset: str, sort: tuple[tuple[str, bool], ...]
) -> list[str]:
    """What comes behind a run that does not match any more, in the order by date.

    Raises:
        Refused: it is not there, or the order is another one.
    """
    at = view.run(offset).created_at
    if at is None or sort:
        raise Refused(
            404, f"The run {offset} is not there any more: search again from the beginning."
        )
    return [run for run in found if ((view.run(run).created_at or 0.0), run) < (at, offset)]


def metrics(
    view: View,
    query: Query,
    *,
    most: int = 50,
    x_axis: str | None = None,
    skip_system: bool = True,
    reported: bool = True,
) -> Iterator[bytes]:
    """Metrics and their points, at most `most` of each.

    Raises:
        Refused: as `_stream`.
    """

    def shown(match: _Match) -> bytes:
        run = match.run
        found = [points.trace(run, info, most, x_axis) for info in match.sequences]
        traces = [one for one in found if one is not None]
        if not traces:
            return b""
        answer = {
            "params": run.params(skip_system=skip_system),
            "traces": traces,
            "props": run.props(),
        }
        return tree_records(run.run, answer)

    yield from _stream(view, query, METRIC, candidates(view, query), shown, reported=reported)


def kind(
    view: View,
    query: Query,
    kind: str,
    wish: Wish,
    *,
    skip_system: bool = True,
    reported: bool = True,
) -> Iterator[bytes]:
    """Images, texts, figures and so on.

    Raises:
        Refused: as `_stream`.
    """

    def shown(match: _Match) -> bytes:
        run = match.run
        found = [(info, objects.sampled(run, kind, info, wish)) for info in match.sequences]
        there = [(info, one) for info, one in found if one is not None]
        if not there:
            return b""
        answer = {
            "params": run.params(skip_system=skip_system),
            "traces": [objects.trace(run, info, one) for info, one in there],
            "props": run.props(),
            "ranges": objects.ranges(kind, [one for _, one in there], wish),
        }
        return tree_records(run.run, answer)

    yield from _stream(view, query, kind, candidates(view, query), shown, reported=reported)


def active(view: View, *, reported: bool = True) -> Iterator[bytes]:
    """The runs that go on, with the last values of their metrics."""
    found = view.by_date(view.active())
    progress = Progress(len(found), reported=reported)
    yield progress.told(0, now=True)
    for checked, name in enumerate(found, 1):
        run = view.run(name)
        if run.is_there and run.meta.get("active"):
            answer = {"traces": {METRIC: run.metrics()}, "props": run.props()}
            yield tree_records(name, answer) + progress.told(checked)
    yield progress.end()
