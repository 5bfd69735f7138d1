"""Searches: which runs, metrics and objects match a query, as records of the stream, sent while the rest is still looked for.

A generator here yields bytes; b"" says no more than that it goes on, so that whoever drives it can stop it. What an index
says narrows what is looked at; the expression decides.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

from matyan._codec import tree_records
from matyan.api import objects, points
from matyan.api.asked import Refused
from matyan.api.objects import Wish
from matyan.api.plan import Plan, candidates
from matyan.api.queried import QueriedRun, QueriedSequence, duration
from matyan.api.query import EvaluationError, Query, TooManySteps
from matyan.api.runs import ENTITIES, METRIC, METRICS, PAGE_RUNS, WHOLE, RunView, View, paged
from matyan.rules.sequences import SequenceInfo

_PROGRESS_S: Final = 0.5
_MOST_POINTS: Final = 2_000_000
"""Of one run, which is one object of the stream: 64 MB."""
_MOST_ENDLESS: Final = 20
"""Evaluations that take too many steps, some 15 ms each, before anything has matched: more of them, and a search would be minutes of work."""

SORTS: Final[dict[str, Callable[[RunView], Any]]] = {
    "run": lambda run: run.text("name"),
    "experiment": lambda run: run.experiment["name"] or "",
    "hash": lambda run: run.run,
    "date": lambda run: run.created_at or 0.0,
    "duration": lambda run: duration(run) or 0.0,
    "description": lambda run: run.text("description"),
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
    endless: int = 0

    def add(self, run: str, error: EvaluationError) -> None:
        self.first = self.first or f"{error} (in run {run})"
        self.count += 1
        self.endless += isinstance(error, TooManySteps)

    def look(self) -> None:
        """Called as long as nothing matches.

        Raises:
            Refused: the query takes too long.
        """
        if self.endless >= _MOST_ENDLESS:
            raise Refused(
                400, f"The query takes too long, and nothing has matched so far: {self.first}."
            )

    def refuse(self) -> None:
        """Called when nothing matched.

        Raises:
            Refused: there were some.
        """
        if self.count:
            raise Refused(
                400,
                f"The query failed on each of {self.count:,} runs or sequences that it could have matched: {self.first}.",
            )


@dataclass(frozen=True, slots=True)
class _Match:
    run: RunView
    sequences: list[SequenceInfo] = field(default_factory=list)


def _matches(
    view: View, query: Query, subject: str | None, runs: Iterable[str], failures: _Failures
) -> Iterator[tuple[int, _Match | None]]:
    """How many runs were looked at, and a match or, as often as there was anything to judge, None. subject: the kind of sequence that
    the query is about."""
    asks = query.asks if subject is None else {*query.asks, METRICS}
    names, checked, matches_most = iter(runs), 0, False
    while page := list(islice(names, PAGE_RUNS)):
        view.say(page, WHOLE if matches_most else asks)
        matched = 0
        for run in map(view.run, page):
            checked += 1
            match = None
            if run.is_there and subject is None:
                if _holds(query, failures, run, QueriedRun(run), None):
                    match = _Match(run)
            elif run.is_there:
                asked, found = QueriedRun(run), []
                for info in run.of_kind(subject or METRIC):
                    if _holds(query, failures, run, asked, QueriedSequence(run, info)):
                        found.append(info)
                    yield checked, None
                match = _Match(run, found) if found else None
            matched += match is not None
            yield checked, match
        matches_most = 2 * matched > len(page)


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
    shown: Callable[[_Match], Iterator[bytes]],
    *,
    limit: int = 0,
    reported: bool,
) -> Iterator[bytes]:
    """
    Args:
        shown: yields b"" while it reads, and in the end the records of a match, if there are any.

    Raises:
        Refused: nothing matched, and on some runs the query failed; nothing was yielded then.
    """
    failures, progress = _Failures(), Progress(len(found), reported=reported)
    sent = 0
    for checked, match in _matches(view, query, subject, found, failures):
        records = b""
        if match is not None:
            for records in shown(match):
                if not records:
                    yield b""
        if records:
            # The status of the answer is held until something matches: then it is a success.
            head = b"" if sent else progress.told(0, now=True)
            sent += 1
            yield head + records + progress.told(checked, now=True)
            if sent == limit:
                break
        elif sent:
            yield progress.told(checked)
        else:
            failures.look()
            yield b""
    if not sent:
        failures.refuse()
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
    found = (yield from candidates(view, query.needs)).runs
    if offset and offset not in found:
        # It may not match any more: what comes behind it is known all the same.
        if view.run(offset).created_at is None:
            raise Refused(
                404, f"The run {offset} is not there any more: search again from the beginning."
            )
        found = view.by_date([*found, offset])
    if sort:
        found = yield from _sorted(view, found, sort)
    found = [*paged(found, offset, 0)]

    def shown(match: _Match) -> Iterator[bytes]:
        run = match.run
        view.say([run.run], WHOLE)
        answer = {
            "params": run.params(skip_system=skip_system) if params else {},
            "traces": {METRIC: run.metrics() if traces else []},
            "props": run.props(),
        }
        yield tree_records(run.run, answer)

    # The offset's own run is never among them: it is before the first.
    yield from _stream(view, query, None, found, shown, limit=limit, reported=reported)


def _sorted(
    view: View, found: list[str], sort: tuple[tuple[str, bool], ...]
) -> Generator[bytes, None, list[str]]:
    """Yields b"" while it reads; returns them in this order."""
    order = [(SORTS[name], descending) for name, descending in sort]
    keys: dict[str, list[Any]] = {}
    # In the order of keys: runs that stand beside each other are read together.
    for run in map(view.run, view.said(sorted(found), [name for name, _ in sort])):
        keys[run.run] = [key(run) for key, _ in order]
        yield b""
    keyed = [(keys[run], run) for run in found]
    # By the last field first: each sort keeps the order of the one before.
    for place in reversed(range(len(order))):
        keyed.sort(key=lambda row: row[0][place], reverse=order[place][1])
    return [run for _, run in keyed]


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

    def shown(match: _Match) -> Iterator[bytes]:
        run, traces = match.run, []
        fair = max(1, min(most, _MOST_POINTS // len(match.sequences)))
        for info in match.sequences:
            if (one := (yield from points.trace(run, info, fair, x_axis))) is not None:
                traces.append(one)
            yield b""
        if not traces:
            return
        answer = {
            "params": run.params(skip_system=skip_system),
            "traces": traces,
            "props": run.props(),
        }
        yield tree_records(run.run, answer)

    found = (yield from candidates(view, query.needs)).runs
    yield from _stream(view, query, METRIC, found, shown, reported=reported)


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

    def shown(match: _Match) -> Iterator[bytes]:
        run, there = match.run, []
        for info in match.sequences:
            if (one := objects.sampled(run, kind, info, wish)) is not None:
                there.append((info, one))
            yield b""
        if not there:
            return
        answer = {
            "params": run.params(skip_system=skip_system),
            "traces": [objects.trace(run, info, one) for info, one in there],
            "props": run.props(),
            "ranges": objects.ranges(kind, [one for _, one in there], wish),
        }
        yield tree_records(run.run, answer)

    found = (yield from candidates(view, query.needs)).runs
    yield from _stream(view, query, kind, found, shown, reported=reported)


def active(view: View, *, reported: bool = True) -> Iterator[bytes]:
    """The runs that go on, with the last values of their metrics."""
    found = view.by_date(view.active())
    progress = Progress(len(found), reported=reported)
    yield progress.told(0, now=True)
    for checked, name in enumerate(view.said(found, (*ENTITIES, METRICS)), 1):
        run = view.run(name)
        if run.is_there and run.meta.get("active"):
            answer = {"traces": {METRIC: run.metrics()}, "props": run.props()}
            yield tree_records(name, answer) + progress.told(checked)
    yield progress.end()


def found(
    view: View, query: Query, subject: str | None
) -> Iterator[tuple[RunView, list[SequenceInfo]] | None]:
    """Each run that matches, with its sequences of the kind `subject` that do (None: a run is judged by itself); None in between,
    as often as something was judged.

    Raises:
        Refused: as `_stream`.
    """
    failures, nothing = _Failures(), True
    looking = candidates(view, query.needs)
    try:
        while True:
            next(looking)
            yield None
    except StopIteration as end:
        plan: Plan = end.value
    for _, match in _matches(view, query, subject, plan.runs, failures):
        if match is None:
            if nothing:
                failures.look()
            yield None
        else:
            nothing = False
            yield match.run, match.sequences
    if nothing:
        failures.refuse()
