"""FoundationDB for tests: the cluster of FDB_CLUSTER_FILE, where there is one; each store in a directory of its own."""

from __future__ import annotations

import os
import random
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from typing import Final, TypeVar
from uuid import uuid4

import trio

from matyan.errors import MatyanError
from matyan.store.base import KeyValue, Snapshot, Transaction
from matyan.store.fdb.client import Cluster, open_cluster
from matyan.store.fdb.store import DIRECTORIES, FdbStore, _Reading, _Transacting, open_fdb

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

    @property
    def rows(self) -> dict[bytes, bytes]:
        """All that stands in its directories, read now: to change it changes nothing in the store."""
        return self.look(lambda snap: dict(self._pairs(snap)))

    @rows.setter
    def rows(self, rows: dict[bytes, bytes]) -> None:
        def body(tr: Transaction) -> None:
            for prefix in self._directories.values():
                tr.clear_range(prefix, prefix + b"\xff")
            tr.update(rows.items())

        self.commit(body)

    def _pairs(self, snap: Snapshot) -> Iterator[KeyValue]:
        for prefix in self._directories.values():
            yield from snap.scan(prefix, prefix + b"\xff")


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


@contextmanager
def fdb_stores() -> Iterator[Callable[[], SyncFdbStore]]:
    """Makes empty stores, as many as a test likes: all in one directory, which is removed afterwards.

    Each is a part of it, since the directory layer would take longer than most tests of a rule do. Their prefixes are as
    short as that layer's, since limits of keys count them.
    """
    cluster = open_cluster(CLUSTER, 730)
    root = ("matyan-test", str(uuid4()))
    place = _short_directory(cluster, root)
    numbers = count()

    def make() -> SyncFdbStore:
        return SyncFdbStore(
            cluster, {path: place + next(numbers).to_bytes(2, "big") for path in DIRECTORIES}
        )

    try:
        yield make
    finally:
        cluster.fdb.directory.remove_if_exists(cluster.database, root)


def _short_directory(cluster: Cluster, path: tuple[str, ...]) -> bytes:
    """Makes a directory whose prefix has one byte, which nobody else uses."""
    layer = cluster.fdb.directory_impl.DirectoryLayer(allow_manual_prefixes=True)
    for place in random.sample(range(0x40, 0x80), 64):
        try:
            layer.create(cluster.database, path, prefix=bytes([place]))
        except ValueError:  # in use
            continue
        return bytes([place])
    raise RuntimeError("no prefix is free")


def remove(store: FdbStore, root: tuple[str, ...]) -> None:
    cluster = store._cluster
    cluster.fdb.directory.remove_if_exists(cluster.database, root)


async def _try() -> str | None:
    """Why there is no cluster to test on."""
    if not CLUSTER:
        return (
            "FDB_CLUSTER_FILE is not set: give the cluster file of a FoundationDB 7.3 cluster that is the tests' own, since "
            "they remove what stands in it."
        )
    try:
        async with fdb_store():
            return None
    except MatyanError as error:
        return str(error)


if __name__ == "__main__":
    # `make test-fdb`: tests that are all left out would look like tests that pass.
    why = trio.run(_try)
    sys.exit(None if why is None else f"make test-fdb: {why}")
