"""Files that are copied with their checksum, or linked, and brought to the disk. They are their owner's alone: 0600, in folders of 0700."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from matyan.backups.manifest import File
from matyan.service import durable, private

PIECE_BYTES: Final = 1 << 20

Advance = Callable[[int], object]
"""Told of each number of bytes that was read."""


def copied(source: Path, target: Path, advance: Advance) -> File:
    """A new file with the same bytes and time.

    Raises:
        OSError: it cannot be read, or written.
    """
    digest, size = hashlib.sha256(), 0
    with open(source, "rb", buffering=0) as read:
        mtime_ns = os.fstat(read.fileno()).st_mtime_ns
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb", buffering=0) as write:
            while piece := read.read(PIECE_BYTES):
                digest.update(piece)
                left = memoryview(piece)
                while left:
                    left = left[write.write(left) :]
                size += len(piece)
                advance(len(piece))
            os.utime(descriptor, ns=(mtime_ns, mtime_ns))
    return File(size, mtime_ns, digest.hexdigest())


def linked(source: Path, target: Path) -> bool:
    """Whether it is a second name of the same file now; else nothing was done: not every file system, and not every two, have that."""
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        return False
    private.tighten(target)
    return True


def summed(path: Path, advance: Advance) -> File:
    """What it holds.

    Raises:
        OSError: it cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as read:
        mtime_ns = os.fstat(read.fileno()).st_mtime_ns
        while piece := read.read(PIECE_BYTES):
            digest.update(piece)
            size += len(piece)
            advance(len(piece))
    return File(size, mtime_ns, digest.hexdigest())


def walked(folder: Path) -> Iterator[tuple[str, os.stat_result]]:
    """The paths of all that is below it and is no folder, with slashes; links are not followed."""
    for place, folders, names in os.walk(folder):
        folders.sort()
        linked_folders = [name for name in folders if Path(place, name).is_symlink()]
        for name in sorted([*names, *linked_folders]):
            path = Path(place, name)
            yield path.relative_to(folder).as_posix(), path.lstat()


def is_plain(state: os.stat_result) -> bool:
    return stat.S_ISREG(state.st_mode)


def sync(path: Path) -> None:
    """A file's or a folder's bytes are on the disk when this returns."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        durable.sync(descriptor)
    finally:
        os.close(descriptor)


def sync_all(folder: Path) -> None:
    """The same of all that is in a folder, and of the folder. Behind all the writing: so most of it is on the disk by then."""
    for place, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(place, name))
        sync(Path(place))
