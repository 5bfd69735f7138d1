"""FoundationDB 7.3: a store that any number of processes share.

The rows of the library (`client`), reads and one attempt at a transaction (`transaction`), and what becomes of it (`store`).
"""

from matyan.store.fdb.store import FdbStore, open_fdb

__all__ = ["FdbStore", "open_fdb"]
