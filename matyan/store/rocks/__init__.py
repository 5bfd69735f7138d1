"""The store of one machine: RocksDB by rocksdict, one owner a folder.

`store.py` is the store, with group commit and recovery; below it stand a transaction's overlay, a moment's reads, the
thread that syncs, the database's options and errors, and the lock of the folder. No key layout beyond the three
directory prefixes, and no waiting before a retry: the caller backs off.

Four facts of rocksdict 0.3.29 shape this package:

- `write()` holds the GIL, through the fsync too when it is a synced write. So the write is not synced, costs some
  25 µs on the trio thread, and `flush_wal(True)` (which releases the GIL) makes it durable: in another thread where many
  writers share it or the disk is slow.
- It has no transactions. Bodies run on the trio thread, one at a time, so nothing can come between the reads of one
  and its write, and its own writes are an overlay over the database. One that takes long lets the event loop turn
  in between; only the write itself, of what one transaction may hold, is a single call.
- The iterators of its `Snapshot` do not see the snapshot but the newest state. A plain iterator does stay at the moment
  that it was made at, so one iterator serves all reads of a `read`.
- Errors are plain `Exception`s that are told apart by their text: `translated` is the only place that does.
"""

from matyan.store.rocks.store import RocksStore, open_rocks

__all__ = ["RocksStore", "open_rocks"]
