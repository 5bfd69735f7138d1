"""Makes a data folder of a backup.

Every file is copied, those too that nobody ever writes again: as links the two would share their bytes on the disk, and what damages one
would damage its only way back. The store's tables are never changed in their place, but its log and its manifest are.

The files come into a folder of their own in the data folder, and when all are there and on the disk, into their places, the store last: what
has a store is whole, and what was cut off before that is removed by the next attempt.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from matyan.backups import files
from matyan.backups.make import BLOBS, COPIED, Report
from matyan.backups.manifest import Manifest
from matyan.backups.shelf import Backup
from matyan.errors import ConfigurationError, MatyanError
from matyan.folder.folder import RESTORING as WORK
from matyan.service import private
from matyan.store.open import DATABASE, open_still


def restore(backup: Backup, manifest: Manifest, folder: Path, report: Report) -> None:
    """Makes the data folder `folder` of a backup whose checksums are right.

    Raises:
        ConfigurationError: the folder is not empty, or cannot be written.
        MatyanError: what was read of the backup is damaged; nothing is left in the folder.
    """
    known = {DATABASE, BLOBS, *COPIED}
    if strangers := {name.partition("/")[0] for name in manifest.files} - known:
        raise MatyanError(
            f"The backup {backup.name} has {sorted(strangers)[0]} in it, which no backup of this version has: restore another one."
        )
    is_new = not folder.exists()
    try:
        private.make(folder)
        with _alone(folder):
            _clear(folder)
            try:
                _copy(backup, manifest, folder / WORK, report)
                with open_still(folder / WORK):
                    pass  # it can be
                _place(folder)
            except BaseException:
                with suppress(
                    MatyanError, OSError
                ):  # where the store has its place already, it stays
                    _clear(folder)
                raise
        private.tighten(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{folder} cannot be written ({error.strerror}): mend that, or name another folder with --to; nothing was restored."
        ) from error
    finally:
        if is_new:
            with suppress(OSError):  # when something is in it
                folder.rmdir()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """
    Raises:
        MatyanError: another process restores into it.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MatyanError(
                f"Another process restores into {folder}: wait until that has ended."
            ) from None
        yield
    finally:
        os.close(descriptor)


def _clear(folder: Path) -> None:
    """Removes what a restore that was cut off has left.

    Raises:
        ConfigurationError: something else is there.
    """
    there = set(os.listdir(folder))
    ours = {WORK, BLOBS, *COPIED} if WORK in there else set()
    # As file systems have at their root.
    if others := there - ours - {"lost+found"}:
        raise ConfigurationError(
            f"{folder} is not empty ({sorted(others)[0]} is in it): name a new or an empty folder with --to."
        )
    for name in there & ours - {WORK}:
        _remove(folder / name)
    _remove(folder / WORK)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _copy(backup: Backup, manifest: Manifest, work: Path, report: Report) -> None:
    done, total = 0, manifest.bytes

    def advance(count: int) -> None:
        nonlocal done
        done += count
        report("restoring", done, total)

    work.mkdir(private.FOLDER_MODE)
    for name, file in manifest.files.items():
        target = work / name
        for folder in reversed(target.relative_to(work).parents):
            (work / folder).mkdir(private.FOLDER_MODE, exist_ok=True)
        # Its time, too: by that the next backup knows it again.
        made = files.copied(backup.data / name, target, advance)
        if made.sha256 != file.sha256:
            raise MatyanError(
                f"{name} of the backup {backup.name} was read with another checksum than a moment ago: see to the disk of "
                f"{backup.path}, and restore another backup."
            )
    report("writing to the disk", total, total)
    files.sync_all(work)


def _place(folder: Path) -> None:
    work = folder / WORK
    names = sorted(os.listdir(work), key=lambda name: name == DATABASE)
    for name in names:
        if name == DATABASE:
            files.sync(folder)
        (work / name).rename(folder / name)
    files.sync(folder)
    work.rmdir()
