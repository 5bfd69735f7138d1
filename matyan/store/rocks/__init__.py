"""The store of one machine."""

from matyan.store.rocks.store import RocksStore, open_rocks

__all__ = ["RocksStore", "open_rocks"]
