"""FoundationDB for tests: the cluster of FDB_CLUSTER_FILE, where there is one; each store in a directory of its own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar
from uuid import uuid4

import trio

from matyan.store.base import Snapshot, Transaction
from matyan.store.fdb.store import FdbStore, _Reading, _Transacting, open_fdb

T = TypeVar("T")

CLUSTER: Final = os.environ.get("FDB_CLUSTER_FILE", "")
"""Without one the engine is left out: FoundationDB's server is in no package registry."""
ENGINES: Final = ["fdb"] if CLUSTER else []


class SyncFdbStore(FdbStore):
    """With `transact` and `read` for tests that have no event loop."""

    def commit(self, body: Callable[[Transaction], T]) -> T:
        return _Transacting(self._cluster, body).run()

    def look(self, body: Callable[[Snapshot], T]) -> T:
        return _Reading(self._cluster, body).run()


@asynccontextmanager
async def fdb_store() -> AsyncIterator[FdbStore]:
    """An empty store, removed afterwards."""
    root = ("matyan-test", str(uuid4()))
    store = await open_fdb(CLUSTER, root=root)
    try:
        yield store
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(remove, store, root)


def remove(store: FdbStore, root: tuple[str, ...]) -> None:
    cluster = store._cluster
    cluster.fdb.directory.remove_if_exists(cluster.database, root)
