"""The store of one machine: RocksDB by rocksdict, one owner a folder.

Ordered keys, read-your-writes, group commit and recovery from I/O errors live here. No key layout beyond the
three directory prefixes, and no waiting before a retry: the caller backs off.

Four facts of rocksdict 0.3.29 shape this module:

- `write()` holds the GIL, through the fsync too when it is a synced write. So the write is not synced, costs some
  25 µs on the trio thread, and `flush_wal(True)` (which releases the GIL) makes it durable in another thread.
- It has no transactions. Bodies run on the trio thread, one at a time, so nothing can come between the reads of one
  and its write, and its own writes are an overlay over the database. One that takes long lets the event loop turn
  in between; only the write itself, of what one transaction may hold, is a single call.
- The iterators of its `Snapshot` do not see the snapshot but the newest state. A plain iterator does stay at the moment
  that it was made at, so one iterator serves all reads of a `read`.
- Errors are plain `Exception`s that are told apart by their text: `_translated` is the only place that does.

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
import fcntl
import os
import threading
import time
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import outcome
import rocksdict
import trio

from matyan.errors import ConfigurationError, FolderInUse, Unavailable
from matyan.service import private
from matyan.service.descriptors import for_store
from matyan.service.logs import get_logger
from matyan.store.base import KeyValue, Snapshot, Transaction

T = TypeVar("T")

_logger = get_logger()

_MIB = 1 << 20

DIRECTORIES: dict[tuple[str, ...], bytes] = {
    ("data", "runs"): b"\x01",
    ("data", "indexes"): b"\x02",
    ("system",): b"\x03",
}

_LOCK_NAME = "matyan.lock"

_POINT_DELETES = 64
"""A cleared range of at most so many keys is deleted key by key: RocksDB sorts all range tombstones of its write
buffer anew after each one that is added, so many small ones make every read slow."""

_OWN_ITERATORS = 16
"""So many cleared ranges get an iterator each, which passes over nothing that was deleted behind its range."""

_SLICE = 4_096
"""Keys that are put into a batch in one go: some 2 ms."""
_SORTED_SLICE = 16_384
"""Keys that are sorted in one go: some 5 ms."""

_TURN_S = 0.01
"""How long a transaction holds the event loop before others have a turn."""

_STALL_POLL_S = 0.005


def _options(recovery: rocksdict.DBRecoveryMode) -> rocksdict.Options:
    """Tuned for one writer of values of 1 to 10 KB, on a laptop: a few tens of MB of memory, 2 threads."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    # By default it keeps every file of a store open, however many.
    options.set_max_open_files(for_store())
    options.set_wal_recovery_mode(recovery)
    # Two buffers of 16 MiB bound the memory; more of them than two only while a flush is late, in place of a stall.
    options.set_write_buffer_size(16 * _MIB)
    options.set_max_write_buffer_number(4)
    options.set_max_background_jobs(2)
    # A late compaction makes scans a little slower; a stalled write would hold up every client.
    # Each compaction writes the level below anew too: twice the files of the default at once save a seventh of the CPU.
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_level_zero_slowdown_writes_trigger(32)
    options.set_level_zero_stop_writes_trigger(64)
    options.set_max_bytes_for_level_base(64 * _MIB)
    options.set_bytes_per_sync(_MIB)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_keep_log_file_num(3)
    options.set_max_log_file_size(_MIB)
    # The default writes statistics into the database and the log every ten minutes; nobody reads them here.
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(32 * _MIB))
    table.set_block_size(16 * 1024)
    table.set_bloom_filter(10, False)
    table.set_cache_index_and_filter_blocks(True)
    table.set_pin_l0_filter_and_index_blocks_in_cache(True)
    # The cache has 64 shards, and keeps no block that is bigger than one, 512 KiB. The filter of a file of 400,000 keys is:
    # it would be read anew for each get of a key that is not there, such as most tombstones, in 0.2 ms.
    table.set_index_type(rocksdict.BlockBasedIndexType.two_level_index_search())
    table.set_partition_filters(True)
    table.set_metadata_block_size(16 * 1024)
    table.set_pin_top_level_index_and_filter(True)
    options.set_block_based_table_factory(table)
    return options


def _write_options() -> rocksdict.WriteOptions:
    options = rocksdict.WriteOptions()
    # A stalled write would sleep on the trio thread: it comes back as "Incomplete" instead and `transact` waits.
    options.no_slowdown = True
    return options


class _Stalled(Exception):
    """RocksDB wants writers to wait for its flushes and compactions; nothing was written."""


def _translated(error: BaseException, folder: Path) -> BaseException:
    """What this error of RocksDB means to the caller; any error that is not RocksDB's is returned unchanged."""
    text = str(error)
    if isinstance(error, rocksdict.DbClosedError):
        return Unavailable(f"The store in {folder} is closed.")
    if type(error) is not Exception:
        return error
    if "Write stall" in text:
        return _Stalled(text)
    if text.startswith("Corruption") or "No such file" in text:
        return _damaged(folder, text)
    if "No space left" in text or "Disk quota" in text:
        return Unavailable(
            f"The disk of {folder} is full: free some space; a tracker that runs goes on by itself."
        )
    return Unavailable(f"The store in {folder} cannot be used now: {text}.")


def _damaged(folder: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The store in {folder} is damaged ({reason}): nothing was changed in it; restore the folder from a backup, or "
        "move it away to start an empty one."
    )


# --- the folder ----------------------------------------------------------------------------------


def _boot() -> str:
    """Names the time since the machine was started; where that is not known, each start of the program is one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return str(uuid.uuid4())


def _lock(folder: Path) -> IO[str]:
    """Takes the folder for this process. The lock goes with the process, however that ends; the text in the file
    tells a second process whom to name, and in which boot of the machine the store was last open."""
    try:
        folder.mkdir(private.FOLDER, parents=True, exist_ok=True)
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


def _last_boot(lock: IO[str]) -> str:
    lock.seek(0)
    return "".join(lock.readlines()[1:]).strip()


def _note(lock: IO[str], boot: str) -> None:
    # A full disk is no reason to refuse: the lock itself needs no room.
    with contextlib.suppress(OSError):
        lock.truncate(0)
        since = time.strftime("%Y-%m-%d %H:%M:%S")
        lock.write(f"process {os.getpid()}, running since {since}\n{boot}\n")
        lock.flush()


def open_database(folder: Path, *, torn: bool) -> rocksdict.Rdict:
    """
    Args:
        torn: what was not synced may have been lost since the last write (a power cut, a failed sync): then the
            log may be damaged from any place on that was not acknowledged, and ends there. Without such a cause damage in its
            midst has hit acknowledged records: it is an error, and nothing is replayed.
    """
    names = os.listdir(folder)
    if "CURRENT" not in names and any(
        name.startswith("MANIFEST") or name.endswith((".sst", ".log")) for name in names
    ):
        # RocksDB would take this for a new database and delete the files of the old one.
        raise _damaged(folder, "the file CURRENT is missing")
    modes = rocksdict.DBRecoveryMode
    try:
        try:
            database = rocksdict.Rdict(
                str(folder), _options(modes.tolerate_corrupted_tail_records())
            )
        except Exception as error:
            if not torn or not str(error).startswith("Corruption"):
                raise
            database = rocksdict.Rdict(str(folder), _options(modes.point_in_time()))
            _logger.warning("the log ended in a torn record", folder=str(folder), reason=str(error))
        database.set_write_options(_write_options())
    except Exception as error:
        raise _translated(error, folder) from error
    return database


def open_rocks(folder: Path, *, sync: bool = True) -> RocksStore:
    """Opens the store in `folder`, making it when there is none.

    `sync=False` acknowledges without waiting for the disk: for measurements and for the test that must fail then.

    Raises:
        FolderInUse: another process holds it (the text names it).
        ConfigurationError: not a folder, not writable, full, or damaged.
    """
    folder = folder.absolute()
    lock = _lock(folder)
    last_boot, boot = _last_boot(lock), _boot()
    _note(lock, last_boot)
    try:
        database = open_database(folder, torn=boot != last_boot)
    except Unavailable as error:
        lock.close()
        raise ConfigurationError(str(error)) from error
    except BaseException:
        lock.close()
        raise
    _note(lock, boot)
    private.tighten_all(folder)
    return RocksStore(folder, lock, database, sync=sync)


# --- reading -------------------------------------------------------------------------------------


def _walk(
    iterator: rocksdict.RdictIter, begin: bytes, end: bytes, reverse: bool
) -> Iterator[KeyValue]:
    """The pairs of [begin, end) on an iterator that nobody else moves meanwhile."""
    key, value, valid = iterator.key, iterator.value, iterator.valid
    if reverse:
        iterator.seek_for_prev(end)
        if valid() and key() == end:
            iterator.prev()
        while valid() and (k := key()) >= begin:
            yield k, value()
            iterator.prev()
    else:
        iterator.seek(begin)
        while valid() and (k := key()) < end:
            yield k, value()
            iterator.next()
    if not valid():
        iterator.status()  # a damaged block ends an iterator like the end of the data


class _RocksSnapshot:
    """One iterator, made on the trio thread between two writes, is the moment that all reads see."""

    def __init__(self, database: rocksdict.Rdict, folder: Path) -> None:
        self._iterator = database.iter()
        self._folder = folder

    def get(self, key: bytes) -> bytes | None:
        iterator = self._iterator
        try:
            iterator.seek(key)
            if iterator.valid():
                return iterator.value() if iterator.key() == key else None
            iterator.status()
        except Exception as error:
            error.__traceback__ = None  # as in a scan
            raise _translated(error, self._folder) from error
        return None

    def close(self) -> None:
        """Lets the iterator go: a database with a live iterator does not close."""
        del self._iterator

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        # The one iterator may be moved by another read between two items: so it is read a page at a time.
        page_size = 16
        while begin < end:
            size = min(page_size, limit) if limit else page_size
            try:
                page = list(islice(_walk(self._iterator, begin, end, reverse), size))
            except Exception as error:
                # Its frames would keep the iterator, and so the database, open.
                error.__traceback__ = None
                raise _translated(error, self._folder) from error
            yield from page
            if len(page) < size or (limit and not (limit := limit - size)):
                return
            if reverse:
                end = page[-1][0]
            else:
                begin = page[-1][0] + b"\x00"
            page_size = min(page_size * 2, 128)


_UNWRITTEN: Any = object()


class _RocksTransaction:
    """An overlay over the database, which does not change while a body runs."""

    __slots__ = (
        "_begins",
        "_database",
        "_ends",
        "_folder",
        "_in_runs",
        "_runs",
        "_writes",
        "set",
        "update",
    )

    if TYPE_CHECKING:

        def set(self, key: bytes, value: bytes) -> None: ...

        def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None: ...

    def __init__(self, database: rocksdict.Rdict, folder: Path) -> None:
        self._database = database
        self._folder = folder
        # The newest write of each key (None: cleared), in the order of first writes. Keys never leave it, so a
        # sorted view can be brought up to date from its tail.
        self._writes: dict[bytes, bytes | None] = {}
        # The first `_in_runs` keys of it, as sorted lists each of which is twice as long as the next one at least, as in a
        # log-structured merge tree: one sorted list would be moved as a whole for each range that is looked at.
        self._runs: list[list[bytes]] = []
        self._in_runs = 0
        # Cleared ranges of the database, disjoint and ascending.
        self._begins: list[bytes] = []
        self._ends: list[bytes] = []
        if not TYPE_CHECKING:
            # The hottest calls of the store: a dict's own methods, without a frame of Python around them.
            self.set = self._writes.__setitem__
            self.update = self._writes.update

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._writes.get(key, _UNWRITTEN)
        if value is not _UNWRITTEN:
            return value
        if self._begins:
            place = bisect_right(self._begins, key) - 1
            if place >= 0 and key < self._ends[place]:
                return None
        try:
            value = self._database.get(key)
        except Exception as error:
            raise _translated(error, self._folder) from error
        return value

    def clear(self, key: bytes) -> None:
        self._writes[key] = None

    def clear_range(self, begin: bytes, end: bytes) -> None:
        if begin >= end:
            return
        writes = self._writes
        for key in self._written(begin, end):
            writes[key] = None
        first, last = bisect_left(self._ends, begin), bisect_right(self._begins, end)
        if first < last:
            begin, end = min(begin, self._begins[first]), max(end, self._ends[last - 1])
        self._begins[first:last] = [begin]
        self._ends[first:last] = [end]

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        """Sees the writes that were made before this call, not those made while it is consumed."""
        keys = self._written(begin, end)
        writes = [(key, self._writes[key]) for key in (reversed(keys) if reverse else keys)]
        stored = self._stored(self._gaps(begin, end), reverse)
        pairs = _merged(stored, writes, reverse) if writes else stored
        return islice(pairs, limit) if limit else pairs

    def _written(self, begin: bytes, end: bytes) -> list[bytes]:
        """The keys of the overlay in [begin, end), in order."""
        new = len(self._writes) - self._in_runs
        if new:
            self._add_run(sorted(islice(reversed(self._writes), new)))
        found: list[bytes] = []
        for run in self._runs:
            first = bisect_left(run, begin)
            if first < len(run) and run[first] < end:
                found += run[first : bisect_left(run, end, first)]
        found.sort()
        return found

    def _add_run(self, run: list[bytes]) -> None:
        self._in_runs += len(run)
        while self._runs and len(self._runs[-1]) < 2 * len(run):
            # Sorting two sorted lists is linear.
            run = self._runs.pop() + run
            run.sort()
        self._runs.append(run)

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        if not ranges:
            return
        # One iterator that only goes forward tells where something stands: a scan of its own costs each range one.
        written = self._written(ranges[0][0], ranges[-1][1])
        probe = self._bounded(ranges[-1][1])
        try:
            probe.seek(ranges[0][0])
            for begin, end in ranges:
                if probe.valid() and probe.key() < begin:
                    probe.seek(begin)
                place = bisect_left(written, begin)
                if (place < len(written) and written[place] < end) or (
                    probe.valid() and probe.key() < end
                ):
                    yield from self.scan(begin, end)
            if not probe.valid():
                probe.status()
        except Exception as error:
            error.__traceback__ = None  # as in the snapshot
            raise _translated(error, self._folder) from error

    def _gaps(self, begin: bytes, end: bytes) -> list[tuple[bytes, bytes]]:
        """[begin, end) without the cleared ranges."""
        gaps = []
        place = bisect_right(self._ends, begin)
        while place < len(self._begins) and self._begins[place] < end:
            if begin < self._begins[place]:
                gaps.append((begin, self._begins[place]))
            begin = self._ends[place]
            place += 1
        if begin < end:
            gaps.append((begin, end))
        return gaps

    def _stored(self, gaps: list[tuple[bytes, bytes]], reverse: bool) -> Iterator[KeyValue]:
        try:
            for begin, end in reversed(gaps) if reverse else gaps:
                yield from _walk(self._bounded(end), begin, end, reverse)
        except Exception as error:
            error.__traceback__ = None  # as in the snapshot
            raise _translated(error, self._folder) from error

    def _bounded(self, end: bytes) -> rocksdict.RdictIter:
        """An iterator that does not look for a live key beyond `end` among what was deleted there."""
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(end)
        return self._database.iter(options)

    def commit(self) -> Generator[None, None, bool]:
        """Writes it all at its end, or nothing; returns whether there was anything to write. Yields now and then.

        Raises:
            _Stalled: nothing was written, RocksDB wants a pause.
        """
        writes = self._writes
        if not writes and not self._begins:
            return False
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        try:
            # Ranges first: a write that came before a range clear of its key was overwritten in the overlay.
            probe = self._bounded(self._ends[-1]) if len(self._begins) > _OWN_ITERATORS else None
            for begin, end in zip(self._begins, self._ends, strict=True):
                if probe is not None:
                    # As in scan_each.
                    if (probe.valid() and probe.key() < begin) or begin == self._begins[0]:
                        probe.seek(begin)
                    if not probe.valid():
                        probe.status()
                        break
                    if probe.key() >= end:
                        continue
                keys = [
                    key
                    for key, _ in islice(
                        _walk(self._bounded(end), begin, end, False), _POINT_DELETES + 1
                    )
                ]
                if len(keys) > _POINT_DELETES:
                    batch.delete_range(begin, end)
                else:
                    for key in keys:
                        delete(key)
                yield
            # In order, because RocksDB then takes half the time to insert them.
            ordered = (
                sorted(writes)
                if len(writes) <= _SORTED_SLICE
                else (yield from self._sorted_in_slices())
            )
            for place in range(0, len(ordered), _SLICE):
                for key in ordered[place : place + _SLICE]:
                    value = writes[key]
                    if value is None:
                        delete(key)
                    else:
                        put(key, value)
                yield
            self._database.write(batch)
        except Exception as error:
            raise _translated(error, self._folder) from error
        return True

    def _sorted_in_slices(self) -> Generator[None, None, list[bytes]]:
        """All keys of the overlay in order; a sort holds the interpreter."""
        writes = self._writes
        new = list(islice(reversed(writes), len(writes) - self._in_runs))
        for begin in range(0, len(new), _SORTED_SLICE):
            self._add_run(sorted(new[begin : begin + _SORTED_SLICE]))
            yield
        while len(self._runs) > 1:
            run = self._runs.pop()
            run += self._runs.pop()
            run.sort()
            self._runs.append(run)
            yield
        return self._runs[0] if self._runs else []


def _merged(
    stored: Iterator[KeyValue], writes: list[tuple[bytes, bytes | None]], reverse: bool
) -> Iterator[KeyValue]:
    """Both in one order; of a key that is in both, the write counts."""
    place = 0
    for pair in stored:
        key = pair[0]
        while place < len(writes) and (
            writes[place][0] > key if reverse else writes[place][0] < key
        ):
            written, value = writes[place]
            place += 1
            if value is not None:
                yield written, value
        if place < len(writes) and writes[place][0] == key:
            continue
        yield pair
    for written, value in writes[place:]:
        if value is not None:
            yield written, value


# --- the store -----------------------------------------------------------------------------------


_Ended = Callable[[outcome.Outcome[None]], None]


class _Syncer:
    """A thread that does one thing at a time and tells the trio thread.

    Not `trio.to_thread`: that costs some 200 µs of CPU a call, twice as much as the sync itself, this 20.
    """

    def __init__(self) -> None:
        self._start = threading.Lock()
        self._start.acquire()
        self._job: tuple[trio.lowlevel.TrioToken, Callable[[], None], _Ended] | None = None
        # A daemon, so that a program that never closes its store can end.
        threading.Thread(target=self._run, name="matyan sync", daemon=True).start()

    def start(self, job: Callable[[], None], ended: _Ended) -> None:
        """Runs `job` in the thread, then `ended` with its outcome in the trio thread; the one before has ended."""
        self._job = trio.lowlevel.current_trio_token(), job, ended
        self._start.release()

    def stop(self) -> None:
        """Ends the thread; its last job has ended."""
        self._job = None
        self._start.release()

    def _run(self) -> None:
        while True:
            self._start.acquire()
            if self._job is None:
                return
            token, job, ended = self._job
            try:
                token.run_sync_soon(ended, outcome.capture(job))
            except trio.RunFinishedError:
                return


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

    def __init__(
        self, folder: Path, lock: IO[str], database: rocksdict.Rdict, *, sync: bool
    ) -> None:
        self._folder = folder
        self._lock = lock
        self._database: rocksdict.Rdict | None = database
        self._sync = sync
        self._closed = False
        self._failure: BaseException | None = None
        self._mending = trio.Lock()
        self._readers = 0
        self._compactions = 0
        self._cut = 0
        """How often compactions were ended early."""
        self._holders: set[trio.CancelScope] = set()
        """Who holds a snapshot over several steps, at the pace of somebody outside of this process."""
        # Writes are numbered. `_synced` is the newest that is on the disk.
        self._written = 0
        self._synced = 0
        self._syncing = False
        self._syncer = _Syncer()
        self._transacting = False
        self._next = trio.lowlevel.ParkingLot()
        """Parks whose transaction waits for the one that is under way."""
        self._progress = trio.lowlevel.ParkingLot()
        """Parks who waits for a sync, or for the last reader, to end."""

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
                transaction = _RocksTransaction(await self._usable(), self._folder)
                self._readers += 1  # it holds iterators while others have a turn
                try:
                    result, wrote = await _taking_turns(self._attempt(transaction, body))
                    break
                except _Stalled:
                    pass
                finally:
                    self._reader_ends()
                await trio.sleep(_STALL_POLL_S)
        finally:
            self._transacting = False
            if self._next:
                self._next.unpark()
        if wrote and self._sync:
            self._written += 1
        if self._written == self._synced:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._durable(self._written)
        return result

    def _attempt(
        self,
        transaction: _RocksTransaction,
        body: Callable[[Transaction], Generator[None, None, T]],
    ) -> Generator[None, None, tuple[T, bool]]:
        """Body and commit; returns the body's result and whether there was anything to write.

        Raises:
            _Stalled: nothing was written, RocksDB wants a pause.
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
    async def snapshot(self) -> AsyncIterator[Snapshot]:
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
    async def _moment(self) -> AsyncIterator[_RocksSnapshot]:
        if self._mending.locked():
            # It waits for the readers that there are: no new ones meanwhile.
            async with self._mending:
                pass
        database = self._database
        if database is None or (self._failure is not None and self._written > self._synced):
            database = await self._usable()
        snapshot = _RocksSnapshot(database, self._folder)
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

        # Not `to_thread`: who gives up waiting must not wait for the end, and the database stays open until then.
        self._compactions += 1
        self._readers += 1
        trio.lowlevel.start_thread_soon(
            partial(_compact, database, self._folder, ranges),
            lambda result: token.run_sync_soon(end, result),
        )
        await ended.wait()
        outcomes[0].unwrap()
        if self._cut != cut:
            raise Unavailable(f"The store in {self._folder} was closed while it was compacted.")

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

    def _start_sync(self) -> None:
        assert self._database is not None
        self._syncing = True
        ended = partial(self._sync_ended, self._written)
        self._syncer.start(partial(self._database.flush_wal, True), ended)

    def _sync_ended(self, covered: int, ended: outcome.Outcome[None]) -> None:
        self._syncing = False
        if isinstance(ended, outcome.Error):
            self._failure = _translated(ended.error, self._folder)
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
                await trio.to_thread.run_sync(_check_room, self._folder)
                await self._close_database()
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


def _compact(
    database: rocksdict.Rdict, folder: Path, ranges: Sequence[tuple[bytes, bytes]] | None
) -> None:
    options = rocksdict.CompactOptions()
    options.set_bottommost_level_compaction(rocksdict.BottommostLevelCompaction.force())
    # The usual compactions go on, or writers would have to wait for them.
    options.set_exclusive_manual_compaction(False)
    try:
        database.flush()
        for begin, end in [(None, None)] if ranges is None else ranges:
            database.compact_range(begin, end, options)
    except Exception as error:
        raise _translated(error, folder) from error


def _check_room(folder: Path) -> None:
    """Opening replays the log into new files: so there must be room for as much again.

    Raises:
        Unavailable: there is not.
    """
    needed = _MIB + sum(path.stat().st_size for path in folder.glob("*.log"))
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < needed:
        raise Unavailable(
            f"The disk of {folder} is full: free {needed / _MIB:.0f} MiB; a tracker that runs goes on by itself."
        )
