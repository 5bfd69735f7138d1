"""Which store this is, and whose records it holds: two stores of one consumer group would each hold a part of the runs.

The rows ("store",) and ("ingest", topic_id, …) of the contract's section 4. What is refused because of them stands in
the callers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from uuid import uuid4

from matyan.keys import Keys, pack_value, range_of, unpack, unpack_value
from matyan.store.base import Snapshot, Transaction


def store_id() -> Callable[[Transaction, Keys], str]:
    """The body of a transaction that returns the store's id, and gives it one when it has none."""
    # Made outside of the body, which may run twice.
    return partial(_store_id, str(uuid4()))


def _store_id(new: str, tr: Transaction, keys: Keys) -> str:
    packed = tr.get(keys.store())
    if packed is None:
        tr.set(keys.store(), pack_value(new))
        return new
    return str(unpack_value(packed))


def known_store_id(snap: Snapshot, keys: Keys) -> str:
    """The store's id; empty when it has none yet."""
    packed = snap.get(keys.store())
    return "" if packed is None else str(unpack_value(packed))


def feeders(snap: Snapshot, keys: Keys) -> set[str]:
    """The ids of the topics whose records were applied to this store; `LOCAL`: a frontier in the same process."""
    prefix = keys.ingest_prefix()
    return {unpack(key, len(prefix))[0] for key, _ in snap.scan(*range_of(prefix))}
