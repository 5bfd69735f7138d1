"""Which layout a store has: the stamp that says it, written once and checked ever after."""

from __future__ import annotations

from typing import Final

from matyan._codec import msgpack_int
from matyan.errors import ConfigurationError
from matyan.keys import Keys, range_of, unpack_value
from matyan.store.base import Layout, Snapshot, Transaction

STAMPS: Final[dict[Layout, int]] = {"compatible": 1, "packed": 2}


def open_layout(tr: Transaction, keys: Keys, wanted: Layout | None, default: Layout) -> Layout:
    """`find_layout`, and the stamp of a store that had none."""
    layout = find_layout(tr, keys, wanted, default)
    if tr.get(keys.layout()) is None:
        tr.set(keys.layout(), msgpack_int(STAMPS[layout]))
    return layout


def find_layout(snap: Snapshot, keys: Keys, wanted: Layout | None, default: Layout) -> Layout:
    """The layout of an old store, checked, or the wanted one of a new store.

    `wanted`: None is what the store has; a new one gets `default`, its engine's.

    Raises:
        ConfigurationError: the store has the other layout, or one that this version does not know.
    """
    stamp = snap.get(keys.layout())
    if stamp is not None:
        found = unpack_value(stamp)
    elif next(iter(snap.scan(*range_of(keys.runs), limit=1)), None) is not None:
        found = STAMPS["compatible"]  # runs and no stamp: the reference's worker wrote here
    else:
        found = STAMPS[wanted or default]
    if found not in STAMPS.values():
        raise ConfigurationError(
            f"The store has the sequence layout {found!r}, which this version does not know: use the version that wrote it."
        )
    layout = next(name for name, number in STAMPS.items() if number == found)
    if wanted not in (None, layout):
        raise ConfigurationError(
            f"The store has the {layout} sequence layout, but {wanted} was asked for: set MATYAN_SEQUENCE_LAYOUT={layout}, or use another store."
        )
    return layout
