"""Another program's SQLite database, read without a lock and without a file beside it.

A database at rest is read in place (`immutable`: SQLite takes no lock and makes no file then). One that has a journal or a write-ahead
log beside it is read from a copy of all of them, since only SQLite itself knows what of these counts, and would write to say so.
"""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from matyan.errors import ConfigurationError

_BESIDE: Final = ("-wal", "-journal")
_TRIES: Final = 5


def is_database(path: Path) -> bool:
    try:
        with open(path, "rb") as file:
            return file.read(16) == b"SQLite format 3\0"
    except OSError:
        return False


def tables(path: Path) -> set[str]:
    """None where it is no database, or cannot be read."""
    if not is_database(path):
        return set()
    try:
        with opened(path) as database:
            return {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
    except ConfigurationError:
        return set()


@contextmanager
def opened(path: Path) -> Iterator[sqlite3.Connection]:
    """The database, to read.

    Raises:
        ConfigurationError: it cannot be read, or it changes all the time.
    """
    try:
        if any(_size(path, ending) for ending in _BESIDE):
            with (
                tempfile.TemporaryDirectory(prefix="matyan-import-") as folder,
                closing(_connected(_copied(path, Path(folder)), "mode=rw")) as connection,
            ):
                yield connection
        else:
            with closing(_connected(path, "mode=ro&immutable=1")) as connection:
                yield connection
    except (sqlite3.Error, OSError) as error:
        raise ConfigurationError(
            f"{path} cannot be read as a SQLite database ({error}): if a program writes to it now, import again when that is over."
        ) from error


def files(path: Path) -> list[Path]:
    """The database, and what may stand beside it."""
    return [path, *(path.with_name(path.name + ending) for ending in _BESIDE)]


def _connected(path: Path, mode: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        f"file:{quote(str(path.resolve()))}?{mode}", uri=True, check_same_thread=False
    )
    connection.text_factory = lambda data: data.decode(errors="replace")
    connection.row_factory = sqlite3.Row
    return connection


def _size(path: Path, ending: str) -> int:
    try:
        return path.with_name(path.name + ending).stat().st_size
    except OSError:
        return 0


def _states(path: Path) -> list[Any]:
    found: list[Any] = []
    for file in files(path):
        try:
            status = file.stat()
            found.append((status.st_size, status.st_mtime_ns))
        except OSError:
            found.append(None)
    return found


def _copied(path: Path, folder: Path) -> Path:
    """A copy of all files at one moment."""
    for _ in range(_TRIES):
        before = _states(path)
        copy = folder / path.name
        for file in files(path):
            copied = folder / file.name
            copied.unlink(missing_ok=True)
            if file.exists():
                shutil.copyfile(file, copied)
        if _states(path) == before:
            return copy
    raise ConfigurationError(
        f"{path} changes faster than it can be copied: import again when the program that writes to it has ended."
    )
