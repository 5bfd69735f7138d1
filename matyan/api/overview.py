"""What there is in a store as a whole: how many runs and when, which parameters and sequences, experiments and tags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from math import isfinite
from typing import Any, Final

from matyan._codec import context_text
from matyan.api.runs import KINDS, METRIC, RunView, View, kind_of, number, text
from matyan.rules import entities, indexes, shapes
from matyan.rules.documents import Fields
from matyan.rules.entities import EXPERIMENTS, TAGS

_HOUR_S: Final = 3_600
_DAY_S: Final = 24 * _HOUR_S


def activity(view: View, offset_minutes: int) -> dict[str, Any]:
    """Runs by the day of their beginning, where the caller's clock stands `offset_minutes` behind UTC."""
    dates = [at for at, _ in indexes.dated(view.snap, view.keys)]
    return {
        "num_experiments": sum(1 for _ in entities.listed(view.snap, view.keys, EXPERIMENTS)),
        "num_runs": len(dates),
        "num_archived_runs": _count(view, "archived"),
        "num_active_runs": _count(view, "active"),
        "activity_map": _map(dates, offset_minutes, _DAY_S, "%Y-%m-%dT00:00:00"),
    }


def experiment_activity(view: View, uuid: str, offset_minutes: int) -> dict[str, Any]:
    """The same of one experiment, by the hour."""
    found = list(_members(view, EXPERIMENTS, uuid))
    dates = [one.meta["created_at"] for one in found]
    return {
        "num_runs": len(found),
        "num_archived_runs": sum(1 for one in found if one.meta.get("is_archived")),
        "num_active_runs": sum(1 for one in found if one.meta.get("active")),
        "activity_map": _map(dates, offset_minutes, _HOUR_S, "%Y-%m-%dT%H:00:00"),
    }


def _count(view: View, fact: str) -> int:
    return sum(1 for _ in indexes.runs_under(view.snap, view.keys, fact, True))


def _map(dates: Iterable[float], offset_minutes: int, unit_s: int, form: str) -> dict[str, int]:
    # Counted by number first: to write a date takes much longer than to count it.
    counted = Counter((at - 60 * offset_minutes) // unit_s for at in dates if isfinite(at))
    days: dict[str, int] = {}
    for unit, count in sorted(counted.items()):
        with suppress(ValueError, OverflowError, OSError):  # a clock that was far off
            days[datetime.fromtimestamp(unit * unit_s, UTC).strftime(form)] = count
    return days


def params(
    view: View, kinds: Sequence[str], *, with_params: bool
) -> Generator[bytes, None, dict[str, Any]]:
    """All parameters merged, and which names and contexts there are of each kind of sequence. Yields b"" while it reads."""
    merged: dict[str, Any] = {}
    found: dict[str, dict[str, dict[str, Any]]] = {
        kind: {} for kind in (METRIC, *KINDS) if kind in kinds
    }
    known = dict(shapes.all_of(view.snap, view.keys))
    params_seen: set[int | None] = set()
    sequences_seen: set[int | None] = set()
    for run in view.newest_first():
        shape = known.get(run)
        # A run with the parameters, or the sequences, of one that was looked at has nothing new.
        is_new = with_params and (shape is None or shape.params not in params_seen)
        has_new = bool(found) and (shape is None or shape.sequences not in sequences_seen)
        if not (is_new or has_new):
            continue
        one = view.run(run)
        yield b""
        if not one.is_there:
            continue
        if is_new:
            _merge(merged, one.params())
            params_seen.add(shape and shape.params)
        if has_new:
            _add_sequences(found, one)
            sequences_seen.add(shape and shape.sequences)
    lists = {
        kind: {name: [*contexts.values()] for name, contexts in names.items()}
        for kind, names in found.items()
    }
    # Never a null: the web app's first page dies of one.
    return {"params": merged, **lists} if with_params else lists


def _add_sequences(found: dict[str, dict[str, dict[str, Any]]], run: RunView) -> None:
    for info in run.traces:
        if (names := found.get(kind_of(info) or "")) is not None:
            context = run.context(info)
            names.setdefault(info.name, {}).setdefault(context_text(context), context)


def _merge(into: dict[str, Any], params: dict[str, Any]) -> None:
    """The newest run's value of each path stands, unless others have more below it."""
    for name, value in params.items():
        there = into.setdefault(name, value)
        if there is value or not isinstance(value, dict):
            continue
        into[name] = merged = dict(there) if isinstance(there, dict) else {}
        _merge(merged, value)


# --- experiments and tags --------------------------------------------------------------------------


def experiment(uuid: str, fields: Fields) -> dict[str, Any]:
    return {
        "id": uuid,
        "name": text(fields, "name"),
        "description": text(fields, "description"),
        "run_count": fields.get("run_count") or 0,
        "archived": bool(fields.get("is_archived")),
        "creation_time": number(fields.get("created_at")),
    }


def tag(uuid: str, fields: Fields) -> dict[str, Any]:
    return {
        "id": uuid,
        "name": text(fields, "name"),
        "color": text(fields, "color"),
        "description": text(fields, "description"),
        "run_count": fields.get("run_count") or 0,
        "archived": bool(fields.get("is_archived")),
    }


def experiment_runs(view: View, uuid: str) -> Iterator[dict[str, Any]]:
    """Newest first."""
    for one in _members(view, EXPERIMENTS, uuid):
        yield {**_dated(one), "archived": bool(one.meta.get("is_archived"))}


def tag_runs(view: View, uuid: str) -> Iterator[dict[str, Any]]:
    """Newest first."""
    for one in _members(view, TAGS, uuid):
        yield {**_dated(one), "experiment": one.experiment["name"]}


def _members(view: View, family: str, uuid: str) -> Iterator[RunView]:
    found = entities.runs_of(view.snap, view.keys, family, uuid)
    return (one for one in map(view.run, view.by_date(found)) if one.is_there)


def _dated(run: RunView) -> dict[str, Any]:
    return {
        "run_id": run.run,
        "name": text(run.meta, "name"),
        "creation_time": run.meta.get("created_at"),
        "end_time": run.meta.get("finalized_at"),
    }
