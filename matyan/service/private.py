"""Folders and files that are their owner's alone, 0700 and 0600: what runs hold is nobody else's to read.

Nothing here fails: a file system without rights, or a folder of another user, is used as it is.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

FOLDER_MODE = 0o700


def set_umask() -> None:
    """What this process makes from now on is its user's alone. For a service: a command writes files for its user."""
    os.umask(0o077)


def make(folder: Path) -> None:
    """Makes a folder if it can be; whoever writes in it says what is wrong with the place."""
    with suppress(OSError):
        folder.mkdir(FOLDER_MODE, parents=True, exist_ok=True)


def is_private(path: Path) -> bool:
    """Whether nobody but its owner may do anything with it."""
    return not path.stat().st_mode & 0o077


def tighten(path: Path) -> None:
    """Takes the rights of all others from one folder or file."""
    with suppress(OSError):
        mode = path.stat().st_mode
        # A folder that everybody shares by design, such as /tmp, stays one.
        if mode & 0o077 and not mode & stat.S_ISVTX:
            path.chmod(stat.S_IMODE(mode) & FOLDER_MODE)


def tighten_all(folder: Path) -> None:
    """The same for a folder and all that is in it; the folder itself last, so that one which was not finished shows."""
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            if not (inner := Path(place, name)).is_symlink():
                tighten(inner)
    tighten(folder)
