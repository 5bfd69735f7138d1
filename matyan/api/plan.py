"""Which runs a search looks at, newest first: what the indexes say of a query's needs. They narrow; the query decides.

Every source of runs is an index of the store, and one that would take longer than looking at what is left is not read. `Plan.told` is what
`explain=true` answers with.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Final

from matyan.api.query.facts import Begins, Either, Every, Is, Need, Within
from matyan.api.runs import View
from matyan.rules import entities, indexes
from matyan.rules.entities import EXPERIMENTS, TAGS
from matyan.store.base import exhausted

_FEW: Final = 64
"""Runs that are looked at sooner than an index is."""
_DEAR: Final = 20
"""A row of an index costs a part of what a look at a run does: so many times what is left may be read to narrow it further."""
_BY_DATE: Final = 2_000
"""So many runs are put in order by a read of each; more by going through the index of dates, in which they stand in order."""
_MOST: Final = 50_000
"""An index that has more runs narrows too little: the first match should not wait for it."""
_PAUSE: Final = 1_000
"""Rows of an index between two looks whether the client is still there."""
_MOST_KEY: Final = 1_024
"""Bytes of what is looked up, packed. A longer hparam may stand in no index, since the key of its row could not hold it."""

_ORDER: Final = (
    "hash",
    "hparam",
    "tag",
    "experiment",
    "active",
    "archived",
    "sequence",
    "created_at",
)
"""Of the indexes, from the one that most likely has the fewest runs on."""


@dataclass(slots=True)
class Plan:
    runs: list[str]
    """Every run that can match, newest first."""
    used: list[dict[str, Any]] = field(default_factory=list)

    def told(self) -> dict[str, Any]:
        """
        Returns:
            {"candidates": how many runs the query is evaluated on,
            "narrowed_by": [{"index", "of": what was looked up, "runs": how many it has}, ...] in the order in which they were read; without any
            every run of the store is a candidate}.
        """
        return {"candidates": len(self.runs), "narrowed_by": self.used}


def candidates(view: View, need: Need) -> Generator[bytes, None, Plan]:
    """Every run that can match, newest first. Yields b"" while it looks, as a search does."""
    used: list[dict[str, Any]] = []
    planner = _Planner(view, used)
    narrowed = yield from planner.narrowed(need, _MOST)
    without = yield from planner.left_out(need)
    if narrowed is not None:
        return Plan((yield from _by_date(view, narrowed - without)), used)
    found: list[str] = []
    for page in _pages(view.newest_first()):
        found += (run for run in page if run not in without)
        yield b""
    return Plan(found, used)


def explained(view: View, need: Need) -> dict[str, Any]:
    """What `explain=true` answers with, see `Plan.told`."""
    return exhausted(candidates(view, need)).told()


def _by_date(view: View, wanted: set[str]) -> Generator[bytes, None, list[str]]:
    if len(wanted) <= _BY_DATE:
        return view.by_date(wanted)
    found: list[str] = []
    for page in _pages(view.newest_first()):
        found += (run for run in page if run in wanted)
        yield b""
        if len(found) == len(wanted):
            break
    return found


def _pages(rows: Iterator[str]) -> Iterator[list[str]]:
    while page := list(islice(rows, _PAUSE)):
        yield page


@dataclass(slots=True)
class _Planner:
    _view: View
    _used: list[dict[str, Any]]

    def narrowed(self, need: Need, most: int) -> Generator[bytes, None, set[str] | None]:
        """The runs that may have what is needed; None: any run, or more than `most`."""
        if isinstance(need, Every):
            return (yield from self._all_of(need, most))
        if isinstance(need, Either):
            found: set[str] = set()
            used = len(self._used)
            for part in need.parts:
                more = yield from self.narrowed(part, most)
                if more is None:
                    del self._used[used:]
                    return None
                found |= more
            return found
        source = self._source(need)
        if source is None:
            return None
        found = set()
        for page in _pages(islice(source, most + 1)):
            found.update(page)
            yield b""
        if len(found) > most:
            return None
        self._used.append({"index": _name(need), "of": _told(need), "runs": len(found)})
        return found

    def _all_of(self, need: Every, most: int) -> Generator[bytes, None, set[str] | None]:
        found: set[str] | None = None
        for part in sorted(need.parts, key=_rank):
            if found is not None:
                if len(found) <= _FEW:
                    break
                most = _DEAR * len(found)
            more = yield from self.narrowed(part, most)
            if more is not None:
                found = more if found is None else found & more
        return found

    def left_out(self, need: Need) -> Generator[bytes, None, set[str]]:
        """The runs of which an index says that they have not what is needed."""
        found: set[str] = set()
        for part in need.parts if isinstance(need, Every) else (need,):
            if isinstance(part, Every):
                found |= yield from self.left_out(part)
            if isinstance(part, Is) and part.index in _FLAGS and not part.value:
                for page in _pages(self._under(part.index, True)):
                    found.update(page)
                    yield b""
                self._used.append({"index": part.index, "of": False, "runs_without": len(found)})
        return found

    def _source(self, need: Is | Within | Begins) -> Iterator[str] | None:
        """None: no index helps."""
        snap, keys = self._view.snap, self._view.keys
        if isinstance(need, Begins):
            fits = len(keys.index(need.text)) <= _MOST_KEY
            return indexes.runs_beginning(snap, keys, "trace", need.text) if fits else None
        if isinstance(need, Within):
            fact = (need.index, need.name) if need.index == "hparam" else (need.index,)
            if len(keys.index(*fact)) > _MOST_KEY:
                return None
            return indexes.runs_within(snap, keys, *fact, low=need.low, high=need.high)
        if need.index == "hash":
            return iter((need.value,))
        if len(keys.index(need.name, need.value)) > _MOST_KEY:
            return None
        if need.index == "hparam":
            found = (self._under("hparam", need.name, one) for one in _same(need.value))
            return chain.from_iterable(found)
        if need.index in _FAMILIES:
            return self._members(_FAMILIES[need.index], need.value)
        # Who is not under True need not be under False: another program may have written neither.
        return self._under(_FACTS[need.index], need.value) if need.value else None

    def _under(self, *fact: object) -> Iterator[str]:
        return indexes.runs_under(self._view.snap, self._view.keys, *fact)

    def _members(self, family: str, name: str) -> Iterator[str]:
        # Not by the index of names: a rename leaves it as it was.
        snap, keys = self._view.snap, self._view.keys
        uuid = entities.uuid_of(snap, keys, family, name)
        return iter(()) if uuid is None else entities.runs_of(snap, keys, family, uuid)


_FLAGS: Final = frozenset(("active", "archived"))
_FAMILIES: Final = {"tag": TAGS, "experiment": EXPERIMENTS}
_FACTS: Final = {"active": "active", "archived": "archived", "sequence": "trace"}


def _same(value: str | int | float) -> Iterable[str | int | float]:
    """What equals a value in Python: True, 1 and 1.0 are three keys, and so are 0.0 and -0.0."""
    if isinstance(value, str):
        return (value,)
    found: dict[str, int | float] = {}
    if value in (0, 1):
        found["boolean"] = bool(value)
    if value == value and abs(value) < 2**64 and value == int(value):
        found["integer"] = int(value)
    if isinstance(value, float) or (abs(value) <= sys.float_info.max and float(value) == value):
        found["float"] = float(value) or 0.0
    if value == 0:
        found["negative"] = -0.0
    return found.values()


def _rank(need: Need) -> int:
    if isinstance(need, (Every, Either)):
        return max((_rank(part) for part in need.parts), default=0)
    # A range may hold most runs.
    is_range = isinstance(need, (Within, Begins))
    return _ORDER.index(_name(need)) + (len(_ORDER) if is_range else 0)


def _name(need: Is | Within | Begins) -> str:
    return "sequence" if isinstance(need, Begins) else need.index


def _told(need: Is | Within | Begins) -> Any:
    if isinstance(need, Begins):
        return {"begins": need.text}
    if isinstance(need, Within):
        bounds = {"from": need.low, "to": need.high}
        return {"name": need.name, **bounds} if need.name else bounds
    return {"name": need.name, "value": need.value} if need.name else need.value
