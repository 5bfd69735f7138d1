"""The store itself: one transaction at a time, group commit, and recovery from I/O errors.

**What an acknowledgement means.** `transact` returns when a sync that *began* after its write has ended well; many
transactions may share one sync. A transaction that wrote nothing, and a `read`, wait likewise for the sync of what they
can have seen, so nobody acts on a state that a power cut could take back.

**After an I/O error.** RocksDB refuses writes once one has failed, and says so for ever. Every transaction that
is not yet synced gets `Unavailable`: its batch is in the log wholly or not at all, and nobody knows which. The next caller
opens the database again, which replays the log and writes what it finds to synced files before anything can read it: from then on what
is there is durable. So the only surprise is a transaction that landed though its caller was told `Unavailable`. Its
caller runs the body again, and a body that must not land twice reads a mark that the first run would have set (the
stored offset): it finds it there and does nothing. A caller that keeps state beside the store must
read it anew after `Unavailable`, for the same reason. A sync that failed is never asked for again on the
same file: after a failed fsync the kernel may call lost pages clean, and the next fsync would succeed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Final, TypeVar

import outcome
import rocksdict
import trio

from matyan.errors import ConfigurationError, Unavailable
from matyan.service import durable, private
from matyan.store.base import Layout, Snapshot, Transaction, View
from matyan.store.rocks.database import (
    Stalled,
    check_room,
    checkpoint,
    compact,
    open_database,
    translated,
)
from matyan.store.rocks.lock import boot_id, last_boot_of, lock_folder, note_boot
from matyan.store.rocks.snapshot import RocksSnapshot
from matyan.store.rocks.syncer import Syncer
from matyan.store.rocks.transaction import RocksTransaction

T = TypeVar("T")

DIRECTORIES: Final[dict[tuple[str, ...], bytes]] = {
    ("data", "runs"): b"\x01",
    ("data", "indexes"): b"\x02",
    ("system",): b"\x03",
}

_TURN_S: Final = 0.01
"""How long a transaction holds the event loop before others have a turn."""

_STALL_POLL_S: Final = 0.005

_SMALL_BYTES: Final = 16 << 10
_QUICK_SYNC_S: Final = 0.001
_STILL_SHARE: Final = 0.05
"""For a sole writer of small commits the event loop itself syncs: to hand that to a thread, and to be woken by it, costs more than most
disks take for it. While a large one is synced, which takes longer, the loop has the next frames to read. What a sync takes beyond
_QUICK_SYNC_S holds everybody up: then the thread syncs, until all that was this share of the time."""


def _at_once(body: Callable[[Transaction], T], tr: Transaction) -> Generator[None, None, T]:
    return body(tr)
    yield


async def _taking_turns(work: Generator[None, None, T]) -> T:
    """Does the work, and lets the event loop turn whenever it has taken _TURN_S."""
    due = time.perf_counter() + _TURN_S
    try:
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            if time.perf_counter() >= due:
                await trio.lowlevel.checkpoint()
                due = time.perf_counter() + _TURN_S
    finally:
        work.close()  # or the traceback of a cancellation would keep its iterators


class RocksStore:
    """Made by `open_rocks`. All calls come from one trio thread."""

    default_layout: Final[Layout] = "packed"
    is_shared: Final = False

    def __init__(
        self, folder: Path, lock: IO[str], database: rocksdict.Rdict, *, sync: bool
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._database: rocksdict.Rdict | None = database
        self._known: dict[bytes, bytes | None] = {}
        """What transactions know of this database."""
        self._sync = sync
        self._closed = False
        self._failure: BaseException | None = None
        self._mending = trio.Lock()
        self._readers = 0
        self._compactions = 0
        self._cut = 0
        """How often compactions were ended early."""
        self._holders: set[trio.CancelScope] = set()
        """Those that hold a snapshot over several steps, at the pace of somebody outside of this process."""
        # Writes are numbered. `_synced` is the newest that is on the disk.
        self._written = 0
        self._synced = 0
        self._syncing = False
        """Whether the thread does."""
        self._syncer = Syncer()
        self._writer: trio.lowlevel.Task | None = None
        """Who has written last."""
        self._aside_until = 0.0
        """When the loop may sync again."""
        self._turn_due = 0.0
        self._transacting = False
        self._next = trio.lowlevel.ParkingLot()
        """Parks those whose transaction waits for the one that is under way."""
        self._progress = trio.lowlevel.ParkingLot()
        """Parks whoever waits for a sync, or for the last reader, to end."""

    def directory(self, path: tuple[str, ...]) -> bytes:
        """The one byte that the keys of this directory begin with."""
        return DIRECTORIES[path]

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        return await self.transact_in_turns(partial(_at_once, body))

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        # What a body has read must stand until it is written: one at a time.
        while self._transacting:
            await self._next.park()
        self._transacting = True
        try:
            while True:
                transaction = RocksTransaction(await self._usable(), self._folder, self._known)
                self._readers += 1  # it holds iterators while others have a turn
                try:
                    result, size = await _taking_turns(self._attempt(transaction, body))
                    break
                except Stalled:
                    pass
                finally:
                    self._reader_ends()
                await trio.sleep(_STALL_POLL_S)
        finally:
            self._transacting = False
            if self._next:
                self._next.unpark()
        if size and self._sync:
            self._written += 1
            self._sync_here_if_quick(size)
        if self._written > self._synced:
            await self._durable(self._written)
        elif time.perf_counter() >= self._turn_due:
            # Not each time: a turn of the loop costs a tenth of a small commit.
            await trio.lowlevel.checkpoint()
            self._turn_due = time.perf_counter() + _TURN_S
        return result

    def _attempt(
        self,
        transaction: RocksTransaction,
        body: Callable[[Transaction], Generator[None, None, T]],
    ) -> Generator[None, None, tuple[T, int]]:
        """Body and commit; returns the body's result and how many bytes were written.

        Raises:
            Stalled: nothing was written, RocksDB wants a pause.
        """
        result = yield from body(transaction)
        if self._failure is not None:
            raise self._failure
        try:
            return result, (yield from transaction.commit())
        except Unavailable as error:
            self._failure = error
            raise

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        scope = trio.CancelScope()
        async with self._moment() as snapshot:
            self._holders.add(scope)
            try:
                with scope:
                    yield snapshot
            finally:
                self._holders.discard(scope)
        if scope.cancelled_caught:
            raise Unavailable(
                f"The store in {self._folder} had to be opened again meanwhile: run the same command again."
            )

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        async with self._moment() as snapshot:
            return await trio.to_thread.run_sync(body, snapshot)

    @contextlib.asynccontextmanager
    async def _moment(self) -> AsyncIterator[RocksSnapshot]:
        if self._mending.locked():
            # It waits for the readers that there are: no new ones meanwhile.
            async with self._mending:
                pass
        database = self._database
        if database is None or (self._failure is not None and self._written > self._synced):
            database = await self._usable()
        snapshot = RocksSnapshot(database, self._folder)
        self._readers += 1
        try:
            if self._written > self._synced:
                await self._durable(self._written)
            yield snapshot
        finally:
            snapshot.close()
            self._reader_ends()

    async def compact(self, ranges: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        """Rewrites these ranges of keys, or everything, into their smallest form: what was deleted is gone from the disk.

        Takes a while and may run beside the other calls; ends early when the store is closed.

        Raises:
            Unavailable: the store cannot be used now.
        """
        database = await self._usable()
        cut, ended = self._cut, trio.Event()
        outcomes: list[outcome.Outcome[None]] = []
        token = trio.lowlevel.current_trio_token()

        def end(result: outcome.Outcome[None]) -> None:
            outcomes.append(result)
            self._compactions -= 1
            self._reader_ends()
            ended.set()

        # Not `to_thread`: a caller that gives up must not wait for the end, and the database stays open until then.
        self._compactions += 1
        self._readers += 1
        trio.lowlevel.start_thread_soon(
            partial(compact, database, self._folder, ranges),
            lambda result: token.run_sync_soon(end, result),
        )
        await ended.wait()
        outcomes[0].unwrap()
        if self._cut != cut:
            raise Unavailable(f"The store in {self._folder} was closed while it was compacted.")

    async def checkpoint(self, target: Path) -> None:
        """Copies what is stored into the folder `target`: everything that was acknowledged by now, and of what comes meanwhile a part.

        Raises:
            Unavailable: the store cannot be used now, or its disk is full.
        """
        database = await self._usable()
        self._readers += 1
        try:
            if self._written > self._synced:
                await self._durable(self._written)
            await trio.to_thread.run_sync(check_room, self._folder)
            await trio.to_thread.run_sync(checkpoint, database, self._folder, target)
        finally:
            self._reader_ends()

    @property
    def writes(self) -> int:
        """How many transactions have written so far: the same number twice is a moment of quiet."""
        return self._written

    def disk_bytes(self) -> int:
        """The sizes of all files of the store, the log included."""
        total = 0
        with os.scandir(self._folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # a compaction may delete it right now
                    total += entry.stat().st_size
        return total

    async def aclose(self) -> None:
        """Waits for what is being written and read, and gives the folder free."""
        self._closed = True
        with trio.CancelScope(shield=True):
            async with self._mending:  # not while it is being opened again
                await self._close_database()
        if not self._lock.closed:
            # RocksDB makes its files with whatever umask the program has that opened it.
            private.tighten_all(self._folder)
            self._syncer.stop()
            self._lock.close()

    # --- durability ---

    async def _durable(self, written: int) -> None:
        """Returns when a sync that began after write number `written` has ended well."""
        while self._synced < written:
            if not self._syncing:
                if self._failure is not None:
                    # Seen by everyone who waits before `_usable` can have mended it: that needs a thread.
                    raise self._failure
                self._start_sync()
            await self._progress.park()

    def _sync_here_if_quick(self, size: int) -> None:
        """Syncs at once, without the thread, where no other writer can share the sync, the commit is small and the disk was quick lately."""
        before, self._writer = self._writer, trio.lowlevel.current_task()
        if self._syncing or before is not self._writer or size > _SMALL_BYTES:
            return
        began = time.perf_counter()
        if began < self._aside_until:
            return
        assert self._database is not None
        ended = outcome.capture(self._sync_log, self._database)
        slow = time.perf_counter() - began - _QUICK_SYNC_S
        if slow > 0:
            self._aside_until = began + slow / _STILL_SHARE
        self._sync_ended(self._written, ended)

    def _sync_log(self, database: rocksdict.Rdict) -> None:
        database.flush_wal(True)
        if durable.FULL_SYNC is not None:
            # RocksDB, as rocksdict has built it, leaves the log in a Mac's drive. Which file asks for the rest does not matter.
            durable.sync(self._lock.fileno())

    def _start_sync(self) -> None:
        assert self._database is not None
        self._syncing = True
        ended = partial(self._sync_ended, self._written)
        self._syncer.start(partial(self._sync_log, self._database), ended)

    def _sync_ended(self, covered: int, ended: outcome.Outcome[None]) -> None:
        self._syncing = False
        if isinstance(ended, outcome.Error):
            self._failure = translated(ended.error, self._folder)
        else:
            self._synced = covered
            if self._written > covered and self._failure is None:
                self._start_sync()
        self._progress.unpark_all()

    # --- recovery ---

    def _reader_ends(self) -> None:
        self._readers -= 1
        if not self._readers and self._progress:
            self._progress.unpark_all()

    async def _usable(self) -> rocksdict.Rdict:
        """The open database; after a failure it is opened again."""
        if self._failure is None and self._database is not None:
            return self._database
        async with self._mending:
            if self._closed:
                raise Unavailable(f"The store in {self._folder} is closed.")
            if self._failure is not None or self._database is None:
                # The old database stays open, and readable, until there is room to open a new one.
                await trio.to_thread.run_sync(check_room, self._folder)
                await self._close_database()
                self._known.clear()
                self._database = await trio.to_thread.run_sync(
                    partial(open_database, self._folder, torn=True)
                )
                self._synced = self._written
                self._failure = None
            assert self._database is not None
            return self._database

    async def _close_database(self) -> None:
        if self._compactions and self._database is not None:
            # It does no more work in the background, compactions included: fit for closing and nothing else.
            self._database.cancel_all_background(False)
            self._cut += 1
        for holder in self._holders:
            holder.cancel()
        while self._readers or self._syncing:
            await self._progress.park()
        database, self._database = self._database, None
        if database is not None:
            # After a failure the last flush fails too; what it would have kept is in the log.
            with contextlib.suppress(Exception):
                await trio.to_thread.run_sync(database.close)


def open_rocks(folder: Path, *, sync: bool = True) -> RocksStore:
    """Opens the store in `folder`, making it when there is none.

    `sync=False` acknowledges without waiting for the disk: for measurements and for the test that must fail then.

    Raises:
        FolderInUse: another process holds it (the text names it).
        ConfigurationError: not a folder, not writable, full, or damaged.
    """
    folder = folder.absolute()
    lock = lock_folder(folder)
    last_boot, boot = last_boot_of(lock), boot_id()
    note_boot(lock, last_boot)
    try:
        database = open_database(folder, torn=boot != last_boot)
    except Unavailable as error:
        lock.close()
        raise ConfigurationError(str(error)) from error
    except BaseException:
        lock.close()
        raise
    note_boot(lock, boot)
    private.tighten_all(folder)
    return RocksStore(folder, lock, database, sync=sync)
