"""The directories of the contract on the tests' cluster: emptied, opened and read."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import pytest

from matyan.store.base import KeyValue, Snapshot
from matyan.store.fdb import FdbStore, open_fdb
from matyan.store.fdb.client import open_cluster
from matyan.store.fdb.store import DIRECTORIES
from tests.fdb import CLUSTER

MARK: Final = ("matyan-tests-may-empty-this",)
"""A directory that says that the cluster is the tests' own."""


def empty(cluster_file: str) -> None:
    """Removes the contract's directories.

    A cluster that holds runs, and was never emptied by these tests, is somebody's: the test fails.
    """
    cluster = open_cluster(cluster_file, 730)
    database, layer = cluster.database, cluster.fdb.directory
    if not layer.exists(database, MARK):
        if any(layer.exists(database, path) for path in DIRECTORIES):
            pytest.exit(
                f"The FoundationDB cluster of {cluster_file} holds a store of runs, which these tests would remove: "
                "set FDB_CLUSTER_FILE to a cluster of their own.",
                returncode=2,
            )
        layer.create(database, MARK)
    for path in ("data",), ("system",):
        layer.remove_if_exists(database, path)


@asynccontextmanager
async def the_store() -> AsyncIterator[FdbStore]:
    """The store that the services use."""
    store = await open_fdb(CLUSTER)
    try:
        yield store
    finally:
        await store.aclose()


async def pairs(store: FdbStore, path: tuple[str, ...]) -> list[KeyValue]:
    """All that stands in one of its directories, without the directory's own prefix."""
    prefix = store.directory(path)

    def look(snap: Snapshot) -> list[KeyValue]:
        return [(key[len(prefix) :], value) for key, value in snap.scan(prefix, prefix + b"\xff")]

    return await store.read(look)
