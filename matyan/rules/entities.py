"""Experiments and tags: rows of their own, their names, and which runs they belong to.

A counter changes only when an association does, so a repeated record changes nothing. A run has one
experiment and any number of tags. The meta fields of the run are `runs.py`'s.

The API server renames and deletes them meanwhile. It deletes the rows of an experiment with all ("experiment_runs", …) and
leaves ("run_experiment", run) behind; so whether a run belongs to one is what ("experiment_runs" or "tag_runs", uuid, run)
says, the row that both programs write with every change of a counter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid5

from matyan import readable
from matyan.keys import Keys, pack_value, range_of
from matyan.rules import counts, documents, indexes, trees
from matyan.rules.documents import Fields
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction

# Ours and never to change: the uuids of new experiments and tags are v5 ones under this namespace, so that a transaction that
# runs twice writes the same bytes.
NAMESPACE: Final = UUID("5d4c4d1e-8d0b-5f3a-9c53-6d6174796e21")

EXPERIMENTS: Final = "experiments"
TAGS: Final = "tags"
"""The two families."""

_TRUE = pack_value(True)


@dataclass(frozen=True, slots=True)
class _Family:
    """Where a family's rows stand."""

    name: str
    field: Callable[..., bytes]
    by_name: Callable[[Keys, str], bytes]
    member: Callable[..., bytes]
    """The row of one run; without one what all of them start with."""
    defaults: Mapping[str, object]


_EXPERIMENTS = _Family(
    "experiments", Keys.experiment, Keys.experiment_by_name, Keys.experiment_run, {}
)
_TAGS = _Family(TAGS, Keys.tag, Keys.tag_by_name, Keys.tag_run, {"color": ""})


def _find(snap: Snapshot, keys: Keys, family: _Family, name: str) -> str | None:
    return readable.text(snap.get(family.by_name(keys, name)))


MemberKey = Callable[[str], bytes]
"""The key of a row that a run has when it is a member."""


def members_of_experiment(snap: Snapshot, keys: Keys, name: str) -> MemberKey | None:
    """By what a run is in the experiment that is called `name` now; None: there is none."""
    return _members(snap, keys, _EXPERIMENTS, name)


def members_of_tag(snap: Snapshot, keys: Keys, name: str) -> MemberKey | None:
    """By what a run has the tag that is called `name` now; None: there is none."""
    return _members(snap, keys, _TAGS, name)


def _members(snap: Snapshot, keys: Keys, family: _Family, name: str) -> MemberKey | None:
    uuid = _find(snap, keys, family, name)
    return None if uuid is None else lambda run: family.member(keys, uuid, run)


def _find_or_create(tr: Transaction, keys: Keys, family: _Family, name: str, now: float) -> str:
    uuid = _find(tr, keys, family, name)
    return _create(tr, keys, family, name, now, {}) if uuid is None else uuid


def _create(
    tr: Transaction,
    keys: Keys,
    family: _Family,
    name: str,
    now: float,
    fields: Mapping[str, object],
) -> str:
    uuid = _new_uuid(tr, keys, family, name, now)
    row = {
        "name": name,
        "description": "",
        "is_archived": False,
        "run_count": 0,
        "created_at": now,
        "updated_at": now,
        **family.defaults,
        **fields,
    }
    for field, value in row.items():
        trees.put(tr, family.field(keys, uuid, field), value)
    trees.put(tr, family.by_name(keys, name), uuid)
    return uuid


def _new_uuid(snap: Snapshot, keys: Keys, family: _Family, name: str, now: float) -> str:
    """The uuid of what is called `name` from `now` on, the causing record's timestamp: whoever was called so before and was
    renamed has another one."""
    uuid = str(uuid5(NAMESPACE, f"{now!r} {name}"))
    # That one was made in the same microsecond: the record comes again, or another worker's did. Or it was deleted, and runs have
    # to leave it yet.
    while _has_rows(snap, family.field(keys, uuid)) or _has_rows(snap, family.member(keys, uuid)):
        uuid = str(uuid5(NAMESPACE, f"{uuid} {name}"))
    return uuid


def _has_rows(snap: Snapshot, prefix: bytes) -> bool:
    return next(iter(snap.scan(*range_of(prefix), limit=1)), None) is not None


def _join(rows: RunRows[Transaction], family: _Family, uuid: str) -> None:
    """The run is one of those of an experiment or tag, and counted as one."""
    tr, keys = rows.tr, rows.keys
    member = family.member(keys, uuid, rows.run)
    if tr.get(member) is None:
        counts.change(rows, family.name, uuid, 1)
    tr.set(member, _TRUE)


def _leave(rows: RunRows[Transaction], family: _Family, uuid: str) -> None:
    """The opposite of `_join`."""
    tr, keys = rows.tr, rows.keys
    member = family.member(keys, uuid, rows.run)
    if tr.get(member) is not None:
        counts.change(rows, family.name, uuid, -1)
    tr.clear(member)


_FAMILIES: Final = {family.name: family for family in (_EXPERIMENTS, _TAGS)}


def read(snap: Snapshot, keys: Keys, family: str, uuid: str) -> Fields:
    """What is stored of an experiment or a tag; {}: there is none of this id."""
    return documents.fields_at(snap, _FAMILIES[family].field(keys, uuid))


def listed(snap: Snapshot, keys: Keys, family: str) -> Iterator[tuple[str, Fields]]:
    """All experiments, or tags, by uuid."""
    return documents.all_at(snap, keys.entities_prefix(family))


def uuid_of(snap: Snapshot, keys: Keys, family: str, name: str) -> str | None:
    """Whose name this is now."""
    return _find(snap, keys, _FAMILIES[family], name)


def make(
    tr: Transaction, keys: Keys, family: str, name: str, now: float, fields: Mapping[str, object]
) -> str:
    """A new experiment or tag, whose name must be free; its uuid.

    Raises:
        InvalidRecord: a value is over its limit.
    """
    return _create(tr, keys, _FAMILIES[family], name, now, fields)


def change(
    tr: Transaction, keys: Keys, family: str, uuid: str, now: float, fields: Mapping[str, object]
) -> None:
    """Writes these fields of an experiment or tag that is there; a new name must be free. The index rows of its runs stay under
    the old name: readers go by its members.

    Raises:
        InvalidRecord: a value is over its limit.
    """
    of = _FAMILIES[family]
    before = readable.text(tr.get(of.field(keys, uuid, "name")))
    name = fields.get("name", before)
    if name != before:
        if before is not None:
            tr.clear(of.by_name(keys, before))
        trees.put(tr, of.by_name(keys, str(name)), uuid)
    for field, value in {**fields, "updated_at": now}.items():
        trees.put(tr, of.field(keys, uuid, field), value)


def remove(tr: Transaction, keys: Keys, family: str, uuid: str) -> None:
    """Takes an experiment or tag away: nobody reads of it any more, nothing joins it, and its name is free. What says that runs
    belong to it is left to `removals.py`."""
    of = _FAMILIES[family]
    name = readable.text(tr.get(of.field(keys, uuid, "name")))
    if name is not None and _find(tr, keys, of, name) == uuid:
        tr.clear(of.by_name(keys, name))
    tr.clear_range(*range_of(of.field(keys, uuid)))


def part(rows: RunRows[Transaction], family: str, uuid: str) -> None:
    """The run is none of those of an experiment or tag that was removed, with nothing left to count."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    if family == TAGS:
        tr.clear(keys.run_tag(run, uuid))
        tr.clear(keys.tag_of_run(run, uuid))
        # By the names of the others: the rows of one that was renamed stand under what it was called before.
        facts = [("tag", name) for name in tags_of(rows)]
        for _ in indexes.replacing_all(rows, ("tag",), facts):
            pass
    elif experiment_uuid(rows) == uuid:
        tr.clear(keys.experiment_of_run(run))
        indexes.drop_all(rows, "experiment")
    tr.clear(_FAMILIES[family].member(keys, uuid, run))
    tr.clear(keys.owed_count(run, family, uuid))


def runs_of(snap: Snapshot, keys: Keys, family: str, uuid: str, *, limit: int = 0) -> Iterator[str]:
    """The runs of an experiment, or with a tag, by id; at most `limit` (0: all)."""
    prefix = _FAMILIES[family].member(keys, uuid)
    for key, _ in snap.scan(*range_of(prefix), limit=limit):
        if (found := readable.elements(key, len(prefix), str)) is not None:
            yield found[0]


# --- experiments ----------------------------------------------------------------------------------


class Names:
    """The names of experiments and tags in one snapshot, each read once: a list of runs meets the same few again and again."""

    def __init__(self, snap: Snapshot, keys: Keys) -> None:
        self._snap = snap
        self._keys = keys
        self._names: dict[bytes, str | None] = {}

    def experiment_of(self, run: str) -> str | None:
        """The name of the run's experiment."""
        uuid = experiment_uuid(RunRows(self._snap, self._keys, run))
        return None if uuid is None else self._name(self._keys.experiment(uuid, "name"))

    def tags_of(self, run: str) -> list[str]:
        """The names of the run's tags, sorted."""
        uuids = tag_uuids(RunRows(self._snap, self._keys, run))
        names = (self._name(self._keys.tag(uuid, "name")) for uuid in uuids)
        return sorted(name for name in names if name is not None)

    def _name(self, key: bytes) -> str | None:
        if key not in self._names:
            self._names[key] = readable.text(self._snap.get(key))
        return self._names[key]


def experiment_of(rows: RunRows[Snapshot]) -> str | None:
    """The name of the run's experiment."""
    return Names(rows.tr, rows.keys).experiment_of(rows.run)


def experiment_uuid(rows: RunRows[Snapshot]) -> str | None:
    return readable.text(rows.tr.get(rows.keys.experiment_of_run(rows.run)))


def set_experiment(rows: RunRows[Transaction], name: str, now: float) -> str:
    """Moves the run into the experiment `name`, made when it is new; returns its uuid."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    uuid = _find_or_create(tr, keys, _EXPERIMENTS, name, now)
    if experiment_uuid(rows) != uuid:
        leave_experiment(rows)
        tr.set(keys.experiment_of_run(run), pack_value(uuid))
        indexes.put(rows, "experiment", name)
    _join(rows, _EXPERIMENTS, uuid)
    return uuid


def leave_experiment(rows: RunRows[Transaction]) -> None:
    uuid = experiment_uuid(rows)
    if uuid is not None:
        rows.tr.clear(rows.keys.experiment_of_run(rows.run))
        indexes.drop_all(rows, "experiment")
        _leave(rows, _EXPERIMENTS, uuid)


# --- tags -----------------------------------------------------------------------------------------


def tags_of(rows: RunRows[Snapshot]) -> list[str]:
    """The names of the run's tags, sorted."""
    return Names(rows.tr, rows.keys).tags_of(rows.run)


def tag_uuids(rows: RunRows[Snapshot]) -> Iterator[str]:
    prefix = rows.keys.tag_of_run(rows.run)
    for key, _ in rows.tr.scan(*range_of(prefix)):
        if found := readable.elements(key, len(prefix), str):
            yield found[0]


def add_tag(rows: RunRows[Transaction], name: str, now: float) -> str:
    """Tags the run with `name`, which is made when it is new; returns its uuid."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    uuid = _find_or_create(tr, keys, _TAGS, name, now)
    tr.set(keys.run_tag(run, uuid), _TRUE)
    tr.set(keys.tag_of_run(run, uuid), _TRUE)
    indexes.put(rows, "tag", name)
    _join(rows, _TAGS, uuid)
    return uuid


def remove_tag(rows: RunRows[Transaction], name: str) -> None:
    uuid = _find(rows.tr, rows.keys, _TAGS, name)
    if uuid is not None:
        indexes.drop(rows, "tag", name)
        _detach(rows, uuid)


def _detach(rows: RunRows[Transaction], uuid: str) -> None:
    tr, keys, run = rows.tr, rows.keys, rows.run
    tr.clear(keys.run_tag(run, uuid))
    tr.clear(keys.tag_of_run(run, uuid))
    _leave(rows, _TAGS, uuid)


def forgetting_run(rows: RunRows[Transaction]) -> Iterator[None]:
    """The run is being deleted: takes it out of its experiment and off its tags; with a pause wherever others may have
    a turn."""
    leave_experiment(rows)
    for uuid in list(tag_uuids(rows)):
        _detach(rows, uuid)
        yield
