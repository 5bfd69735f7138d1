"""Which store a name means, and opening it: the one place that knows `rocks:FOLDER`, `fdb:[CLUSTER_FILE]` and where a data
folder keeps its store.

An engine is imported when one of its stores is opened, so that a command which opens none starts at once.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from matyan.errors import NoStore
from matyan.settings import Settings
from matyan.store.base import ClusterStore, FolderStore, Store

if TYPE_CHECKING:
    from matyan.store.rocks.still import RocksStill

_ROCKS, _FDB = "rocks:", "fdb:"
SYNTAX: Final = f"{_ROCKS}FOLDER or {_FDB}[CLUSTER_FILE]"
DATABASE: Final = "rocksdb"
"""The folder of the store in a data folder."""


@dataclass(frozen=True, slots=True)
class FolderName:
    """The store in a data folder of this machine."""

    folder: Path

    def __str__(self) -> str:
        return f"{_ROCKS}{self.folder}"


@dataclass(frozen=True, slots=True)
class ClusterName:
    """The store of a FoundationDB cluster."""

    file: str
    """The path of its cluster file; empty: the one that is set, FDB_CLUSTER_FILE."""

    def __str__(self) -> str:
        return f"{_FDB}{self.file}"


StoreName = FolderName | ClusterName


def is_named(text: str) -> bool:
    """Whether it begins as a store's name does, and so is no folder's."""
    return text.startswith((_ROCKS, _FDB))


def named(text: str) -> StoreName:
    """The store that a name means.

    Raises:
        ValueError: it means none.
    """
    if text.startswith(_FDB):
        return ClusterName(text.removeprefix(_FDB))
    folder = text.removeprefix(_ROCKS)
    if folder == text or not folder:
        raise ValueError(f"expected {SYNTAX}")
    return FolderName(Path(folder))


def is_data_folder(folder: Path) -> bool:
    """Whether somebody has begun to make a store in it."""
    return (folder / DATABASE).is_dir()


def has_store(folder: Path) -> bool:
    """Whether a store was made in it; CURRENT is RocksDB's name for what it opens."""
    return (folder / DATABASE / "CURRENT").exists()


def open_folder_store(folder: Path) -> FolderStore:
    """Opens the store in a data folder, making it when there is none.

    Raises:
        FolderInUse: another process holds it (the text names it).
        ConfigurationError: not a folder, not writable, full, or damaged.
    """
    from matyan.store.rocks import open_rocks

    return open_rocks(folder / DATABASE)


def open_still(folder: Path) -> AbstractContextManager[RocksStill]:
    """A store that nobody writes, a checkpoint's, in a data folder: opened to be read, by Python and for some moments.

    Raises:
        ConfigurationError: it is damaged.
        Unavailable: it cannot be opened.
    """
    from matyan.store.rocks import still

    return still.open_still(folder / DATABASE)


async def open_cluster_store(
    name: ClusterName, settings: Settings, *, create: bool
) -> ClusterStore:
    """Opens the store of a FoundationDB cluster.

    Args:
        create: whether to make one when there is none.

    Raises:
        NoStore: there is none, and none is to be made.
        ConfigurationError: no client library, or no cluster file that can be used.
        Unavailable: the cluster does not answer: try again.
    """
    from matyan.store.fdb import open_fdb

    return await open_fdb(
        name.file or settings.fdb_cluster_file, settings.fdb_api_version, create=create
    )


async def open_store(name: StoreName, settings: Settings, *, create: bool) -> Store:
    """The store of either kind. Raises what the two above do, and NoStore for a data folder, too."""
    if isinstance(name, ClusterName):
        return await open_cluster_store(name, settings, create=create)
    if not create and not has_store(name.folder):
        raise NoStore(f"There is no store in {name.folder} yet: start what feeds it.")
    return open_folder_store(name.folder)
