"""The lock of a store's folder: one process holds it, and the next one is told which."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
import uuid
from pathlib import Path
from typing import IO, Final

from matyan.errors import ConfigurationError, FolderInUse
from matyan.service import private

_LOCK_NAME: Final = "matyan.lock"


def boot_id() -> str:
    """Names the time since the machine was started; where that is not known, each start of the program is one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def lock_folder(folder: Path) -> IO[str]:
    """Takes the folder for this process. The lock goes with the process, however that ends; the text in the file
    tells a second process whom to name, and in which boot of the machine the store was last open."""
    try:
        folder.mkdir(private.FOLDER_MODE, parents=True, exist_ok=True)
        file = (folder / _LOCK_NAME).open("a+", encoding="utf-8")
    except (FileExistsError, NotADirectoryError):
        raise ConfigurationError(
            f"The data folder {folder} cannot be made because a file is in its place: name another folder."
        ) from None
    except OSError as error:
        raise ConfigurationError(
            f"The data folder {folder} cannot be written ({error.strerror}): mend its permissions or name another."
        ) from None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.readline().strip() or "another process"
        file.close()
        raise FolderInUse(
            f"The data folder {folder} is in use by {holder}: stop that process or name another folder.",
            holder,
        ) from None
    return file


def last_boot_of(lock: IO[str]) -> str:
    lock.seek(0)
    return "".join(lock.readlines()[1:]).strip()


def note_boot(lock: IO[str], boot: str) -> None:
    # A full disk is no reason to refuse: the lock itself needs no room.
    with contextlib.suppress(OSError):
        lock.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(f"process {os.getpid()}, running since {since}\n{boot}\n")
        lock.flush()
