"""Nested values: one key per scalar leaf, below a prefix (contract, section 4, "tree").

Knows markers and stale keys; knows no run, no index and no meaning of any path. A prefix is a
packed key without an end, so that more tuple elements can be appended to it as bytes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final

from matyan import readable
from matyan._codec import pack, read_tree
from matyan.keys import EMPTY_DICT, EMPTY_LIST, LEAF, pack_value, range_of
from matyan.rules import limits
from matyan.store.base import KeyValue, Snapshot, Transaction

Path = tuple[str | int, ...]

_PIECE: Final = 256
"""Rows of one `update`: some 50 µs."""

_MARKERS = (LEAF, EMPTY_DICT, EMPTY_LIST)
_LEAF_KEY, _DICT_KEY, _LIST_KEY = _MARKER_KEYS = tuple(pack((marker,)) for marker in _MARKERS)
_TRUE = pack_value(True)
# In the tuple layer an int begins with 0x0b..0x1d, whatever its size; a list item is an int.
_FIRST_ITEM = b"\x0b"
_AFTER_ITEMS = b"\x1e"


class _Missing:
    """Nothing is stored there; None is a value."""


MISSING: Final = _Missing()


def replace(tr: Transaction, prefix: bytes, path: Path, value: object) -> None:
    """Makes `value` (what JSON can hold) the whole of what stands at `path`, which must not be empty.

    A leaf or an empty container above `path` was replaced by this write, so its keys go too.

    Raises:
        InvalidRecord: a key or a value is over its limit, or msgpack cannot hold it; nothing was written.
    """
    for _ in replacing(tr, prefix, path, value):
        pass


def replacing(tr: Transaction, prefix: bytes, path: Path, value: object) -> Iterator[None]:
    """`replace`, with a pause wherever others may have a turn."""
    rows = []
    for row in _rows(prefix + pack(path), value):
        rows.append(row)
        yield
    for depth in range(1, len(path)):
        ancestor = prefix + pack(path[:depth])
        for marker in _MARKER_KEYS:
            tr.clear(ancestor + marker)
        tr.clear_range(ancestor + _FIRST_ITEM, ancestor + _AFTER_ITEMS)
    tr.clear_range(*range_of(prefix + pack(path)))
    yield from writing(tr, rows)


def replacing_each(tr: Transaction, prefix: bytes, values: Mapping[str, object]) -> Iterator[None]:
    """Makes each of `values` the whole of what stands under its name; pauses as `replacing` does.

    Raises:
        InvalidRecord: as `replace` does.
    """
    places = sorted((prefix + pack((name,)), name) for name in values)
    yield
    rows: dict[bytes, bytes] = {}
    for place, name in places:
        for key, packed in _rows(place, values[name]):
            rows[key] = packed
            yield
    stale = []
    for key, _ in tr.scan_each([range_of(place) for place, _ in places]):
        # What is written anew needs no clearing: in a transaction both would count.
        if key not in rows:
            stale.append((key, None))
        yield
    yield from writing(tr, stale)
    yield from writing(tr, [*rows.items()])


def writing(tr: Transaction, pairs: Sequence[tuple[bytes, bytes | None]]) -> Iterator[None]:
    """`tr.update` in pieces, with a pause after each. Not row by row: FoundationDB counts a transaction's conflict ranges
    with it, of which `update` needs one, and of the largest log_hparams only so much fits."""
    for begin in range(0, len(pairs), _PIECE):
        tr.update(pairs[begin : begin + _PIECE])
        yield


def put(tr: Transaction, key: bytes, value: object) -> None:
    """Writes one packed value under a whole key.

    Raises:
        InvalidRecord: msgpack cannot hold the value.
    """
    tr.set(key, limits.packed(value))


def _rows(here: bytes, value: object) -> Iterator[KeyValue]:
    if isinstance(value, dict):
        if not value:
            yield _checked(here + _DICT_KEY, _TRUE)
        for name, child in value.items():
            yield from _rows(here + pack((name,)), child)
    elif isinstance(value, list):
        if not value:
            yield _checked(here + _LIST_KEY, _TRUE)
        for index, child in enumerate(value):
            yield from _rows(here + pack((index,)), child)
    else:
        yield _checked(here + _LEAF_KEY, limits.packed(value))


def _checked(key: bytes, packed: bytes) -> KeyValue:
    limits.check(key, packed)
    return key, packed


def read(snap: Snapshot, prefix: bytes, without: Collection[str] = ()) -> object:
    """The value below `prefix`, or MISSING. Keys that are none of a tree's are skipped; so is what stands under the names in `without`,
    unread."""
    rows = _rows_without(snap, prefix, without) if without else snap.scan(*range_of(prefix))
    return read_tree(rows, len(prefix), readable.MOST_DEPTH, readable.value, MISSING)


def _rows_without(snap: Snapshot, prefix: bytes, names: Collection[str]) -> Iterator[KeyValue]:
    begin, end = range_of(prefix)
    places = iter(sorted(range_of(prefix + pack((name,))) for name in names))
    here, behind = next(places)
    while True:
        for row in snap.scan(begin, end):
            while row[0] >= behind:
                here, behind = next(places, (end, end))
            if row[0] >= here:
                begin = behind
                break
            yield row
        else:
            return
