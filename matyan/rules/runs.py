"""A run as a whole: its meta fields with their indexes, its activity, its owner, its tombstone, its end.

Points, attributes, tags and experiments are other modules' subjects; which record does what is `records.py`'s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from matyan import readable
from matyan._codec import pack
from matyan.keys import LEAF, Keys, pack_value, range_of
from matyan.rules import indexes, shapes, trees
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction

# What the fields hold, unless they are null.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "name": str,
    "description": str,
    "created_at": (int, float),
    "updated_at": (int, float),
    "finalized_at": (int, float),
    "is_archived": bool,
    "active": bool,
    "experiment_id": str,
    "client_start_ts": (int, float),
    "duration": (int, float),
}

_DROPPED_BYTES: Final = 500_000
"""Of index rows that one transaction clears of a run in a store that is shared: some 1.5 MB as FoundationDB counts."""

# The meta fields that readers filter by, and the names of their indexes.
_INDEXED = {"is_archived": "archived", "active": "active"}


def create(rows: RunRows[Transaction], now: float) -> None:
    """Writes a new run's meta and indexes; `now` is the causing record's timestamp, epoch seconds."""
    put_meta(
        rows,
        now,
        {
            "name": f"Run: {rows.run}",
            "description": "",
            "created_at": now,
            "finalized_at": None,
            "is_archived": False,
            "active": True,
            "experiment_id": None,
            "client_start_ts": None,
            "duration": None,
        },
    )
    indexes.put(rows, "created_at", now)
    put_activity(rows, now)
    shapes.put(rows, shapes.EMPTY)


def put_meta(rows: RunRows[Transaction], now: float, fields: Mapping[str, object]) -> None:
    """Writes these meta fields, updated_at and the indexes that follow them; no fields: updated_at alone.

    Raises:
        InvalidRecord: a value is over its limit.
    """
    tr, keys, run = rows.tr, rows.keys, rows.run
    for field, value in fields.items():
        trees.put(tr, keys.meta(run, field), value)
        index = _INDEXED.get(field)
        if index is not None:
            indexes.drop(rows, index, not value)
            indexes.put(rows, index, value)
    tr.set(keys.meta(run, "updated_at"), pack_value(now))


def get_meta(rows: RunRows[Snapshot], field: str) -> Any:
    """One meta field; None also when it was never written."""
    packed = rows.tr.get(rows.keys.meta(rows.run, field))
    return None if packed is None else _field(field, readable.value(packed))


_LISTED_ENDS = {
    pack((name, LEAF)): name for name in ("name", "active", "is_archived", "created_at", "duration")
}
"""How the keys of the fields end that a list of runs shows."""


def read_listed(rows: RunRows[Snapshot]) -> dict[str, Any]:
    """The fields that a list of runs shows, in one scan that builds no tree."""
    prefix = rows.keys.meta_prefix(rows.run)
    start = len(prefix)
    fields = {}
    for key, packed in rows.tr.scan(*range_of(prefix)):
        if (name := _LISTED_ENDS.get(key[start:])) is not None:
            fields[name] = _field(name, readable.value(packed))
    return fields


def _field(name: str, value: object) -> object:
    """The value, or None where this field cannot have it."""
    types = _TYPES.get(name, object)
    # For Python a bool is an int.
    fits = isinstance(value, types) and (
        types is bool or types is object or type(value) is not bool
    )
    return value if fits else None


def exists(rows: RunRows[Snapshot]) -> bool:
    return rows.tr.get(rows.keys.meta(rows.run, "created_at")) is not None


def put_activity(rows: RunRows[Transaction], now: float) -> None:
    rows.tr.set(rows.keys.activity(rows.run), pack_value(now))


def get_activity(rows: RunRows[Snapshot]) -> float | None:
    """When the run's last record came, at most a minute behind; None for a run that another program wrote."""
    packed = rows.tr.get(rows.keys.activity(rows.run))
    found = readable.number(packed)
    return None if found is None else float(found)


def put_owner(rows: RunRows[Transaction], owner: str) -> bool:
    """Notes where the run's latest records come from, "topic_id/partition"; returns whether that is new."""
    key, packed = rows.keys.owner(rows.run), pack_value(owner)
    if rows.tr.get(key) == packed:
        return False
    rows.tr.set(key, packed)
    return True


def admission_keys(keys: Keys, run: str, remembered: float | None) -> tuple[bytes, ...]:
    """What is read of a run before a record of it is taken; `remembered`: the activity that is known of it."""
    always = keys.tombstone(run), keys.owner(run)
    if remembered is not None:
        return always
    return *always, keys.meta(run, "created_at"), keys.activity(run)


def is_deleted(rows: RunRows[Snapshot]) -> bool:
    return rows.tr.get(rows.keys.tombstone(rows.run)) is not None


def deleting(rows: RunRows[Transaction], now: float) -> Iterator[None]:
    """Clears all rows of the run but those of its tags and experiment, and leaves a tombstone; with a pause wherever
    others may have a turn. Where a store is shared most of many index rows are left to `go_on_deleting`: they are those of
    sequences and parameters, the last ones in the order of keys, and 36,000 sequences are more than one transaction takes."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    tr.clear_range(*keys.run_range(run))
    if not keys.are_shared:
        yield from indexes.dropping_all(rows)
    elif indexes.drop_some(rows, _DROPPED_BYTES):
        tr.set(keys.owed_deletion(run), pack_value(True))
    tr.clear(keys.activity(run))
    tr.clear(keys.owner(run))
    tr.clear(keys.shape(run))
    tr.set(keys.tombstone(run), pack_value(now))


def go_on_deleting(tr: Transaction, keys: Keys) -> bool:
    """Clears more index rows of a run that is being deleted; returns whether there may be more to do. It may run twice."""
    prefix = keys.owed_deletion()
    owed = next(iter(tr.scan(*range_of(prefix), limit=1)), None)
    if owed is None:
        return False
    run = readable.elements(owed[0], len(prefix), str)
    if run is None or not indexes.drop_some(RunRows(tr, keys, *run), _DROPPED_BYTES):
        tr.clear(owed[0])
    return True


def read_meta(rows: RunRows[Snapshot]) -> dict[str, Any]:
    """All meta fields; {} when there is no such run."""
    fields = trees.read(rows.tr, rows.keys.meta_prefix(rows.run))
    if not isinstance(fields, dict):
        return {}
    return {name: _field(name, value) for name, value in fields.items()}


def list_runs(snap: Snapshot, keys: Keys, *, newest_first: bool = False) -> Iterator[str]:
    """All runs by created_at."""
    return indexes.runs_under(snap, keys, "created_at", reverse=newest_first)
