"""A moment of a data folder in files that nobody changes, for a backup: made by whoever has the store open, kept as long as the one
who asked for it listens.

First the store's checkpoint, then the blobs, and none of these is deleted in between: so every blob that a row of the checkpoint names
and that had come is there. The other way round, those that come in between would be missing. A blob that comes later and a row
that is written later are left out or not, each by itself: a blob whose row is not there is one that no run has, and the job
`cleanup-orphan-blobs` removes it. What is made of these files is `backups/`' affair.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Final

import trio

from matyan.blobs.folder import FolderBlobs
from matyan.errors import Unavailable
from matyan.service import private
from matyan.store.base import FolderStore
from matyan.store.open import DATABASE

FOLDER: Final = "checkpoints"
"""In the data folder."""
BEAT_S = 0.2
"""How often it is seen whether the other side still listens."""


async def checkpoint(
    folder: Path, store: FolderStore, blobs: FolderBlobs | None
) -> AsyncIterator[object]:
    """Yields where it stands: `path`, a data folder with a store alone, and `blobs`, the folder of the blobs, or None where there
    are none here; from the data folder on, which may have another path for the other side. Then words that say nothing, until
    that one hangs up; then it is gone.

    Raises:
        Unavailable: the store or the folder cannot be used now.
    """
    place: Path | None = None
    kept: Path | None = None
    try:
        place = await trio.to_thread.run_sync(_make, folder)
        moment = partial(store.checkpoint, place / DATABASE)
        if blobs is None:
            await moment()
        else:
            kept = await blobs.kept_from(moment)
        yield {
            "path": _from(folder, place),
            "blobs": kept and _from(folder, kept),
        }
        while True:
            await trio.sleep(BEAT_S)
            yield None
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(_remove, place, kept)


def remove_old(folder: Path) -> None:
    """Removes what a process that was killed has left. Whoever calls it holds the folder."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _make(folder: Path) -> Path:
    try:
        (folder / FOLDER).mkdir(private.FOLDER_MODE, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=folder / FOLDER))
    except OSError as error:
        raise Unavailable(
            f"Nothing can be written in {folder} ({error.strerror}): free some space or mend its permissions, and try again."
        ) from None


def _from(folder: Path, place: Path) -> str:
    return os.path.relpath(place, folder)


def _remove(place: Path | None, kept: Path | None) -> None:
    for folder in (place, kept):
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
