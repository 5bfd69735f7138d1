"""The database below the store: its options, its opening, and what its errors mean.

Knows rocksdict and the files of a database; no transaction, no thread and no owner.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import rocksdict

from matyan.errors import ConfigurationError, Unavailable
from matyan.service.descriptors import for_store
from matyan.service.logs import get_logger

_logger = get_logger()

MIB: Final = 1 << 20


def database_options(recovery: rocksdict.DBRecoveryMode) -> rocksdict.Options:
    """Tuned for one writer of values of 1 to 10 KB, on a laptop: a few tens of MB of memory, 2 threads."""
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    # By default it keeps every file of a store open, however many.
    options.set_max_open_files(for_store())
    options.set_wal_recovery_mode(recovery)
    # Two buffers of 16 MiB bound the memory; more of them than two only while a flush is late, in place of a stall.
    options.set_write_buffer_size(16 * MIB)
    options.set_max_write_buffer_number(4)
    options.set_max_background_jobs(2)
    # A late compaction makes scans a little slower; a stalled write would hold up every client.
    # Each compaction writes the level below anew too: twice the files of the default at once save a seventh of the CPU.
    options.set_level_zero_file_num_compaction_trigger(8)
    options.set_level_zero_slowdown_writes_trigger(32)
    options.set_level_zero_stop_writes_trigger(64)
    options.set_max_bytes_for_level_base(64 * MIB)
    options.set_bytes_per_sync(MIB)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_bottommost_compression_type(rocksdict.DBCompressionType.zstd())
    options.set_keep_log_file_num(3)
    options.set_max_log_file_size(MIB)
    # The default writes statistics into the database and the log every ten minutes; nobody reads them here.
    options.set_stats_dump_period_sec(0)
    options.set_stats_persist_period_sec(0)
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(rocksdict.Cache(32 * MIB))
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


def write_options() -> rocksdict.WriteOptions:
    options = rocksdict.WriteOptions()
    # A stalled write would sleep on the trio thread: it comes back as "Incomplete" instead and `transact` waits.
    options.no_slowdown = True
    return options


class Stalled(Exception):
    """RocksDB wants writers to wait for its flushes and compactions; nothing was written."""


def translated(error: BaseException, folder: Path) -> BaseException:
    """What this error of RocksDB means to the caller; any error that is not RocksDB's is returned unchanged."""
    text = str(error)
    if isinstance(error, rocksdict.DbClosedError):
        return Unavailable(f"The store in {folder} is closed.")
    if type(error) is not Exception:
        return error
    if "Write stall" in text:
        return Stalled(text)
    if text.startswith("Corruption") or "No such file" in text:
        return damaged(folder, text)
    if "No space left" in text or "Disk quota" in text:
        return Unavailable(
            f"The disk of {folder} is full: free some space; a tracker that runs goes on by itself."
        )
    return Unavailable(f"The store in {folder} cannot be used now: {text}.")


def damaged(folder: Path, reason: str) -> ConfigurationError:
    return ConfigurationError(
        f"The store in {folder} is damaged ({reason}): nothing was changed in it; restore the folder from a backup, or "
        "move it away to start an empty one."
    )


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
        raise damaged(folder, "the file CURRENT is missing")
    modes = rocksdict.DBRecoveryMode
    try:
        try:
            database = rocksdict.Rdict(
                str(folder), database_options(modes.tolerate_corrupted_tail_records())
            )
        except Exception as error:
            if not torn or not str(error).startswith("Corruption"):
                raise
            database = rocksdict.Rdict(str(folder), database_options(modes.point_in_time()))
            _logger.warning("the log ended in a torn record", folder=str(folder), reason=str(error))
        database.set_write_options(write_options())
    except Exception as error:
        raise translated(error, folder) from error
    return database


def compact(
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
        raise translated(error, folder) from error


def checkpoint(database: rocksdict.Rdict, folder: Path, target: Path) -> None:
    """A copy of the database of this moment in the folder `target`, which must not be there: its tables are links to those of the
    database, where both are on one file system. For a thread, with room on the disk as for opening.
    """
    try:
        # It releases the lock of Python and leaves little to write to the checkpoint, which holds it all the time that it takes.
        database.flush()
        made = rocksdict.Checkpoint(database)
        try:
            made.create_checkpoint(str(target))
        finally:
            del made  # it keeps the database open
    except Exception as error:
        error.__traceback__ = None
        raise translated(error, folder) from error


def check_room(folder: Path) -> None:
    """Opening replays the log into new files: so there must be room for as much again.

    Raises:
        Unavailable: there is not.
    """
    needed = MIB + sum(path.stat().st_size for path in folder.glob("*.log"))
    free = os.statvfs(folder)
    if free.f_bavail * free.f_frsize < needed:
        raise Unavailable(
            f"The disk of {folder} is full: free {needed / MIB:.0f} MiB; a tracker that runs goes on by itself."
        )
