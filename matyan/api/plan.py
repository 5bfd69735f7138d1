"""Which runs a search looks at, newest first: what the indexes say of a query's facts. They narrow; the query decides."""

from __future__ import annotations

from collections.abc import Iterable

from matyan.api.query import Query
from matyan.api.runs import View
from matyan.rules import entities, indexes
from matyan.rules.entities import EXPERIMENTS, TAGS


def candidates(view: View, query: Query) -> list[str]:
    """Every run that can match, newest first."""
    narrowed = _narrowed(view, query)
    return [*view.newest_first()] if narrowed is None else view.by_date(narrowed)


def _narrowed(view: View, query: Query) -> Iterable[str] | None:
    """The runs of the fact that most likely has the fewest; None where no index helps."""
    facts = query.facts
    if facts.never:
        return ()
    if facts.hashes is not None:
        return facts.hashes
    if facts.tags:
        return _members(view, TAGS, facts.tags[0])
    if facts.experiments is not None:
        return {run for name in facts.experiments for run in _members(view, EXPERIMENTS, name)}
    if facts.flags.get("active"):
        return view.active()
    if facts.flags.get("archived"):
        return indexes.runs_under(view.snap, view.keys, "archived", True)
    if facts.sequences is not None:
        names = facts.sequences
        return {
            run for name in names for run in indexes.runs_under(view.snap, view.keys, "trace", name)
        }
    return None


def _members(view: View, family: str, name: str) -> list[str]:
    # Not by the index of names: a rename leaves it as it was.
    uuid = entities.uuid_of(view.snap, view.keys, family, name)
    return [] if uuid is None else [*entities.runs_of(view.snap, view.keys, family, uuid)]
