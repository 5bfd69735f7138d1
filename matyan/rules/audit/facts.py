"""Which facts of a run its indexes must hold: derived from what stands among the run's rows and in those of entities.

A fact is what `indexes.put` takes, such as ("tag", name). Facts are compared by their keys: 1, 1.0 and True are three, and a NaN is
one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from matyan import readable
from matyan._codec import pack
from matyan.keys import EMPTY_DICT, EMPTY_LIST, LEAF, Keys, range_of
from matyan.rules import entities, indexes, runs
from matyan.rules.records import HPARAMS
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot

Fact = tuple[Any, ...]

META_FACTS: Final = {"is_archived": "archived", "active": "active", "created_at": "created_at"}
"""Meta fields that have an index, and its name."""
_META_FIELDS = {index: field for field, index in META_FACTS.items()}


def of_meta(field: str, packed: bytes | None) -> Fact | None:
    """The fact that a meta row makes."""
    index = META_FACTS.get(field)
    if index is None:
        return None
    found = readable.found(packed)
    if index == "created_at":
        return (index, float(found)) if readable.is_number(found) else None
    return (index, found) if isinstance(found, bool) else None


def of_hparam(rows: RunRows[Snapshot], name: str, packed: bytes | None) -> Fact | None:
    """The fact that a top-level value of the hparams makes."""
    found = readable.found(packed)
    if not isinstance(found, str | int | float):
        return None
    fact = ("hparam", name, found)
    return fact if indexes.fits(rows, *fact) else None


def is_true(rows: RunRows[Snapshot], fact: Fact) -> bool:
    """Whether the run holds this fact."""
    return any(_same(rows.keys, fact, true) for true in _candidates(rows, fact))


def _same(keys: Keys, one: Fact, other: Fact) -> bool:
    return keys.index(*one) == keys.index(*other)


def _candidates(rows: RunRows[Snapshot], fact: Fact) -> Iterator[Fact]:
    """Among which `fact` is when it is true."""
    kind, *rest = fact
    if kind in _META_FIELDS:
        field = _META_FIELDS[kind]
        if (found := of_meta(field, rows.tr.get(rows.keys.meta(rows.run, field)))) is not None:
            yield found
    elif kind == "hparam" and len(rest) == 2 and isinstance(rest[0], str):
        yield from _hparam(rows, rest[0])
    elif kind == "trace" and len(rest) == 1 and isinstance(rest[0], str):
        if has_trace(rows, rest[0]):
            yield fact
    elif kind == "experiment":
        if (name := entities.experiment_of(rows)) is not None:
            yield (kind, name)
    elif kind == "tag":
        yield from ((kind, name) for name in entities.tags_of(rows))


def _hparam(rows: RunRows[Snapshot], name: str) -> Iterator[Fact]:
    place = rows.keys.attrs(rows.run, HPARAMS, name)
    markers = [place + pack((marker,)) for marker in (LEAF, EMPTY_LIST, EMPTY_DICT)]
    # A value that stands beside others is passed over by whoever reads the tree, unless they are no more than markers.
    here = dict(rows.tr.scan(*range_of(place), limit=4))
    if markers[0] in here and here.keys() <= set(markers):
        fact = of_hparam(rows, name, here[markers[0]])
        if fact is not None:
            yield fact


def has_trace(rows: RunRows[Snapshot], name: str) -> bool:
    """Whether a sequence of that name has a trace, in any context: two reads for each context that has sequences."""
    keys, run, snap = rows.keys, rows.run, rows.tr
    prefix = keys.traces_prefix(run)
    begin, end = range_of(prefix)
    while (first := next(iter(snap.scan(begin, end, limit=1)), None)) is not None:
        found = readable.elements(first[0], len(prefix), int, str, str)
        if found is None:
            begin = first[0] + b"\x00"
            continue
        ctx = found[0]
        if snap.get(keys.trace(run, ctx, name, "last_step")) is not None:
            return True
        begin = range_of(keys.traces_prefix(run, ctx))[1]
    return False


def exists(rows: RunRows[Snapshot]) -> bool:
    """Whether anything of the run is there, and it was not deleted."""
    return not runs.is_deleted(rows) and has_rows(rows)


def has_rows(rows: RunRows[Snapshot]) -> bool:
    return next(iter(rows.tr.scan(*rows.keys.run_range(rows.run), limit=1)), None) is not None
