"""What people write in the web app beside runs: dashboards, their apps, reports, notes, the project and its pinned sequences.

A document is one row a field in the system's key space (contract, section 4); only the read API writes them. Which fields a kind has
is the API's affair.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from operator import itemgetter
from typing import Any, Final, Literal

from matyan import readable
from matyan.keys import Keys, range_of
from matyan.rules import trees
from matyan.store.base import Snapshot, Transaction

Family = Literal["dashboards", "dashboard_apps", "reports", "notes"]

CREATED: Final = "created_at"
UPDATED: Final = "updated_at"

Fields = dict[str, Any]


def read(snap: Snapshot, keys: Keys, family: Family, id: str) -> Fields:
    """The fields of one; {}: there is none."""
    return fields_at(snap, keys.document(family, id))


def listed(snap: Snapshot, keys: Keys, family: Family) -> Iterator[tuple[str, Fields]]:
    """All of a family, by id."""
    return all_at(snap, keys.document(family))


def fields_at(snap: Snapshot, prefix: bytes) -> Fields:
    """A row a field behind `prefix`: what experiments and tags have, too."""
    return {
        found[0]: readable.value(packed)
        for key, packed in snap.scan(*range_of(prefix))
        if (found := readable.elements(key, len(prefix), str)) is not None
    }


def all_at(snap: Snapshot, prefix: bytes) -> Iterator[tuple[str, Fields]]:
    """The same of all ids behind `prefix`."""
    rows = (
        (*found, packed)
        for key, packed in snap.scan(*range_of(prefix))
        if (found := readable.elements(key, len(prefix), str, str)) is not None
    )
    for id, fields in itertools.groupby(rows, key=itemgetter(0)):
        yield id, {field: readable.value(packed) for _, field, packed in fields}


def put(
    tr: Transaction, keys: Keys, family: Family, id: str, now: float, fields: Mapping[str, object]
) -> None:
    """Writes these fields of a document, new or not; the others stay.

    Raises:
        InvalidRecord: a value is over its limit.
    """
    created = {} if tr.get(keys.document(family, id, CREATED)) is not None else {CREATED: now}
    for field, value in {**fields, **created, UPDATED: now}.items():
        trees.put(tr, keys.document(family, id, field), value)


def remove(tr: Transaction, keys: Keys, family: Family, id: str) -> None:
    tr.clear_range(*range_of(keys.document(family, id)))


def pinned(snap: Snapshot, keys: Keys) -> list[Any]:
    """The sequences that stand on top of every run's page."""
    found = readable.found(snap.get(keys.pinned_sequences()))
    return found if isinstance(found, list) else []


def pin(tr: Transaction, keys: Keys, sequences: list[Any]) -> None:
    """
    Raises:
        InvalidRecord: they are over the limit of a value.
    """
    trees.put(tr, keys.pinned_sequences(), sequences)


def project(snap: Snapshot, keys: Keys) -> Fields:
    """What is known of the project."""
    read = trees.read(snap, keys.project())
    return read if isinstance(read, dict) else {}
