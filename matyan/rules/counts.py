"""How many runs an experiment or a tag has: the row "run_count", which the reference's API server shows, and changes too.

That server reads a msgpack integer, adds one and writes it, so no atomic addition can stand there, and no sum over rows that
only we know. But all partitions add the same tag, and of batches that read and write one row all but one run again:
six partitions on FoundationDB lost half of their throughput. So where a store is shared a batch writes down what it owes,
in a row of its run that no other owner touches, and a small transaction behind it (`fold`) brings that into the count.
What a worker that was killed has left owing, the next owner of any partition finds when it begins. Where nobody else
writes, the count is changed at once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from matyan import readable
from matyan.keys import Keys, pack_value, range_of
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction

_ROWS: Final[dict[str, Callable[..., bytes]]] = {
    "experiments": Keys.experiment,
    "tags": Keys.tag,
}
_FOLDED_AT_ONCE: Final = 500
"""Owed rows: a transaction of some 0.1 MB, which others that owe make run again."""


def change(rows: RunRows[Transaction], family: str, uuid: str, by: int) -> None:
    """The run has joined (1) or left (-1) an experiment or a tag; `family` says which of the two it is."""
    tr, keys = rows.tr, rows.keys
    if not keys.are_shared:
        _add(tr, keys, family, uuid, by)
        return
    key = keys.owed_count(rows.run, family, uuid)
    owing = _integer(tr.get(key)) + by
    if owing:
        tr.set(key, pack_value(owing))
    else:
        tr.clear(key)


def owed(snap: Snapshot, keys: Keys) -> dict[tuple[str, str], int]:
    """What is not in the counts yet, by family and uuid."""
    prefix = keys.owed_count()
    sums: dict[tuple[str, str], int] = {}
    for key, packed in snap.scan(*range_of(prefix)):
        if (place := readable.elements(key, len(prefix), str, str, str)) is not None:
            sums[place[1:]] = sums.get(place[1:], 0) + _integer(packed)
    return sums


def fold(tr: Transaction, keys: Keys) -> bool:
    """Brings what is owed into the counts, whoever owes it; returns whether there may be more of it.

    A commit of unknown outcome can run it again: what was folded is owed no longer.
    """
    prefix = keys.owed_count()
    standing = [*tr.scan(*range_of(prefix), limit=_FOLDED_AT_ONCE)]
    sums: dict[tuple[str, str], int] = {}
    for key, packed in standing:
        tr.clear(key)
        place = readable.elements(key, len(prefix), str, str, str)
        if place is not None and place[1] in _ROWS:
            sums[place[1:]] = sums.get(place[1:], 0) + _integer(packed)
    for (family, uuid), by in sums.items():
        if by:
            _add(tr, keys, family, uuid, by)
    return len(standing) == _FOLDED_AT_ONCE


def _add(tr: Transaction, keys: Keys, family: str, uuid: str, by: int) -> None:
    key = _ROWS[family](keys, uuid, "run_count")
    packed = tr.get(key)
    # No row: another program has removed the experiment or tag, and a lone counter helps nobody.
    if packed is not None:
        tr.set(key, pack_value(max(0, _integer(packed) + by)))


def _integer(packed: bytes | None) -> int:
    found = readable.found(packed)
    return found if readable.is_int64(found) else 0
