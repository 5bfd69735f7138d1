"""The space of deleted runs comes back: their ranges of keys are compacted once little else is done.

Which runs those are is read from the store, so that a process that ended between a deletion and its compaction loses
nothing but time. How RocksDB compacts is the store's affair.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import trio

from matyan import readable
from matyan.errors import Unavailable
from matyan.keys import Keys, pack_value, range_of, unpack
from matyan.service.logs import get_logger
from matyan.store.base import FolderStore, Snapshot

QUIET_S: Final = 2.0
"""Without a write for so long, it is quiet enough."""
PATIENCE_S: Final = 300.0
"""A tracker that is never quiet gets its space back after so long."""
_ROOM_BYTES: Final = 2 << 30
"""Free space that one step of a compaction may need; less when the store is smaller."""
_MOST_RANGES: Final = 64
"""Of deleted runs; from more on everything is compacted at once."""

_log = get_logger()


class Compaction:
    """
    Args:
        folder: the store's, to see how much room its disk has.
    """

    def __init__(self, store: FolderStore, keys: Keys, folder: Path) -> None:
        self._store = store
        self._keys = keys
        self._folder = folder
        self._news = trio.Event()
        self._news.set()  # a process before this one may have left some

    def deleted(self) -> None:
        """A run was deleted."""
        self._news.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Compacts after deletions until it is cancelled."""
        task_status.started()
        while True:
            await self._news.wait()
            self._news = trio.Event()
            await self._quiet()
            try:
                await self._compact()
            except Unavailable as error:
                _log.info("the space of deleted runs stays taken for now", reason=str(error))

    async def _quiet(self) -> None:
        with trio.move_on_after(PATIENCE_S):
            before = None
            while before != self._store.writes:
                before = self._store.writes
                await trio.sleep(QUIET_S)

    async def _compact(self) -> None:
        ranges, newest = await self._store.read(self._due)
        if newest is None:
            return
        before = self._store.disk_bytes()
        room = os.statvfs(self._folder)
        if room.f_bavail * room.f_frsize < min(before, _ROOM_BYTES):
            raise Unavailable(f"The disk of {self._folder} is nearly full: free some space.")
        await self._store.compact(ranges if len(ranges) <= 2 * _MOST_RANGES else None)
        await self._store.transact(lambda tr: tr.set(self._keys.compacted(), pack_value(newest)))
        freed = before - self._store.disk_bytes()
        _log.info("deleted runs were compacted", freed_bytes=max(0, freed))

    def _due(self, snap: Snapshot) -> tuple[list[tuple[bytes, bytes]], float | None]:
        """The ranges of the runs that were deleted since the last compaction, and when the newest of them was."""
        since = readable.number(snap.get(self._keys.compacted()))
        prefix = self._keys.tombstones_prefix()
        ranges: list[tuple[bytes, bytes]] = []
        newest: float | None = None
        for key, packed in snap.scan(*range_of(prefix)):
            moment = readable.number(packed)
            if moment is None or (since is not None and moment <= since):
                continue
            newest = moment if newest is None else max(newest, moment)
            run = unpack(key, len(prefix))[0]
            ranges.append(self._keys.run_range(run))
            ranges.append(range_of(self._keys.reverse_index_prefix(run)))
        return ranges, newest
