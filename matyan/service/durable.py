"""Syncing to the disk: what has returned from here outlives a power cut.

`fsync` does that on Linux. On a Mac it leaves the bytes in the drive's own cache, and F_FULLFSYNC empties that (Apple, fsync(2)); all
of it, whichever files they are of.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final

FULL_SYNC: Final[int | None] = getattr(fcntl, "F_FULLFSYNC", None)
"""The fcntl() that empties the drive's cache; None: `fsync` has done so."""

_UNKNOWN: Final = {errno.EINVAL, errno.ENOTTY, errno.ENOTSUP, errno.EOPNOTSUPP}
"""What a file system that has no such call answers, such as a network's."""


def sync(descriptor: int, full_sync: int | None = FULL_SYNC) -> None:
    """Returns when what was written to the file stands on the disk.

    Raises:
        OSError: it cannot be written.
    """
    if full_sync is not None:
        try:
            fcntl.fcntl(descriptor, full_sync)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
        else:
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Returns when the names in it stand on the disk.

    Raises:
        OSError: as `sync`.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)
