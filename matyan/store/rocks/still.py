"""A database that nobody writes, such as a checkpoint: opened to be read, and nothing in its folder changes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import rocksdict

from matyan.store.rocks.database import database_options, translated
from matyan.store.rocks.snapshot import RocksSnapshot
from matyan.store.rocks.store import DIRECTORIES


class RocksStill(RocksSnapshot):
    """Its one moment, and where its keys begin."""

    is_shared = False

    def directory(self, path: tuple[str, ...]) -> bytes:
        """As a store has it."""
        return DIRECTORIES[path]


@contextmanager
def open_still(folder: Path) -> Iterator[RocksStill]:
    """
    Raises:
        ConfigurationError: it is damaged.
        Unavailable: it cannot be opened.
    """
    options = database_options(rocksdict.DBRecoveryMode.tolerate_corrupted_tail_records())
    try:
        database = rocksdict.Rdict(
            str(folder), options, access_type=rocksdict.AccessType.read_only()
        )
    except Exception as error:
        raise translated(error, folder) from error
    try:
        still = RocksStill(database, folder)
        try:
            yield still
        finally:
            still.close()
    finally:
        database.close()
