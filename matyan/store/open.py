"""Which store a name means, and opening it: the one place that knows `rocks:FOLDER` and where a data folder keeps its store.

An engine is imported when one of its stores is opened, so that a command which opens none starts at once.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from matyan.store.base import FolderStore

SYNTAX: Final = "rocks:FOLDER"
_ENGINE: Final = "rocks"
DATABASE: Final = "rocksdb"
"""The folder of the store in a data folder."""


def folder_of(name: str) -> Path:
    """The data folder that a store's name means.

    Raises:
        ValueError: it means none.
    """
    engine, _, folder = name.partition(":")
    if engine != _ENGINE or not folder:
        raise ValueError(f"expected {SYNTAX}")
    return Path(folder)


def name_of(folder: Path) -> str:
    """The inverse of `folder_of`."""
    return f"{_ENGINE}:{folder}"


def is_data_folder(folder: Path) -> bool:
    """Whether somebody has begun to make a store in it."""
    return (folder / DATABASE).is_dir()


def has_store(folder: Path) -> bool:
    """Whether a store was made in it; CURRENT is RocksDB's name for what it opens."""
    return (folder / DATABASE / "CURRENT").exists()


def open_store(folder: Path) -> FolderStore:
    """Opens the store in a data folder, making it when there is none.

    Raises:
        FolderInUse: another process holds it (the text names it).
        ConfigurationError: not a folder, not writable, full, or damaged.
    """
    from matyan.store.rocks import open_rocks

    return open_rocks(folder / DATABASE)
