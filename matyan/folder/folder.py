"""A data folder: the store in it, its compaction, and the socket at which commands read it.

The same for whoever feeds it: `tracker.py` (the frontier of the same process) or Kafka (`kafka_folder.py`). What only one
of them can answer it adds itself.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from math import nan
from pathlib import Path
from shutil import disk_usage
from typing import Final

import trio

from matyan.blobs.folder import FolderBlobs
from matyan.errors import ConfigurationError, FolderInUse
from matyan.folder.checkpoint import checkpoint, remove_old
from matyan.folder.compaction import Compaction
from matyan.folder.opened import Opened, open_up
from matyan.folder.server import LocalAPI, Read, Write
from matyan.keys import LOCAL, Keys
from matyan.rules.sequences import Layout
from matyan.service import private, telemetry
from matyan.store.base import FolderStore
from matyan.store.open import open_folder_store

MOVES: Final = "moving"
"""Where pushes and pulls keep what was sent, and uploads on their way."""
RESTORING: Final = "restoring"
"""In a folder that is made of a backup: what has not got its place yet."""

_LOCK_POLL_S = 0.1
"""How often a lock that another process holds is looked at."""
_GRACE_S = 2.0
"""How long commands that are being answered may take before the folder is given free."""


class DataFolder(Opened):
    """An open data folder. Made by `open_folder`."""

    store: FolderStore

    def __init__(
        self,
        path: Path,
        store: FolderStore,
        keys: Keys,
        layout: Layout,
        id: str,
        feeders: set[str],
    ) -> None:
        super().__init__(store, keys, layout, id)
        self.path = path
        self.fed_by_kafka = bool(feeders - {LOCAL})
        """Whether records of a topic of Kafka were applied to it."""
        self.fed_by_tracker = LOCAL in feeders
        """Whether `matyan up` has stored records in it."""
        self.compaction = Compaction(store, keys, path)

    def api(
        self,
        writes: Mapping[str, Write],
        reads: Mapping[str, Read] | None = None,
        blobs: FolderBlobs | None = None,
    ) -> LocalAPI:
        """The socket: the reads of every store, and those of its feeder. blobs: those that lie in the folder, where they do."""
        reads = {**self.reads(), **(reads or {})}
        ours: dict[str, Write] = {
            "compact": self._compact,
            "checkpoint": partial(checkpoint, self.path, self.store, blobs),
        }
        return LocalAPI(self.path, self.store, reads, {**ours, **self.jobs.writes(), **writes})

    async def _compact(self) -> AsyncIterator[object]:
        """Compacts the whole store, with what it took before and takes after, in bytes."""
        before = self.store.disk_bytes()
        await self.store.compact()
        yield {"before": before, "after": self.store.disk_bytes()}


@asynccontextmanager
async def open_folder(
    path: Path, layout: Layout | None, *, strict: bool = False, patience_s: float = 0.0
) -> AsyncIterator[DataFolder]:
    """Opens a data folder, made when it is not there; leaving closes it.

    `layout`: None is what the folder has, else its engine's default; when `strict`, that default alone. `patience_s`: how long another process may go on holding it;
    a command that reads a folder without a service holds it for a moment.

    Raises:
        FolderInUse: another process holds it.
        ConfigurationError: it cannot be opened, or has the other layout.
    """
    if (path / RESTORING).is_dir() and any((path / RESTORING).iterdir()):
        raise ConfigurationError(
            f"{path} holds a backup that was not restored to its end: run `matyan restore` again, or name another folder."
        )
    private.make(path)
    store = await _wait_and_open(path, trio.current_time() + patience_s)
    private.tighten(path)
    try:
        await trio.to_thread.run_sync(remove_old, path)
        opened = await open_up(store, layout or (store.default_layout if strict else None))
        with _measured(path):
            yield DataFolder(
                path, store, opened.keys, opened.layout, opened.id, await opened.feeders()
            )
    finally:
        await store.aclose()


@contextmanager
def _measured(path: Path) -> Iterator[None]:
    """Shows how full its disk is, as that is when it is asked."""
    name = str(path)

    def disk(part: str) -> float:
        try:
            return float(getattr(disk_usage(path), part))
        except (
            OSError
        ):  # the folder was moved away under us: the other metrics are shown all the same
            return nan

    telemetry.FOLDER_FREE_BYTES.labels(name).set_function(partial(disk, "free"))
    telemetry.FOLDER_DISK_BYTES.labels(name).set_function(partial(disk, "total"))
    try:
        yield
    finally:
        telemetry.FOLDER_FREE_BYTES.remove(name)
        telemetry.FOLDER_DISK_BYTES.remove(name)


async def _wait_and_open(path: Path, deadline: float) -> FolderStore:
    while True:
        try:
            return open_folder_store(path)
        except FolderInUse:
            if trio.current_time() >= deadline:
                raise
            await trio.sleep(_LOCK_POLL_S)


async def finish_commands(api: LocalAPI) -> None:
    """Waits a moment for the commands that are being answered."""
    with trio.move_on_after(_GRACE_S):
        await api.finish()
