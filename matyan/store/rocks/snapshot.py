"""What one iterator sees: the reads of a moment of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import rocksdict

from matyan.store.base import KeyValue, Range
from matyan.store.rocks.database import translated


def walk(
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


class RocksSnapshot:
    """One iterator, made on the trio thread between two writes, is the moment that all reads see."""

    moments = 1
    prefetches = False

    def __init__(self, database: rocksdict.Rdict, folder: Path) -> None:
        self._iterator = database.iter()
        self._folder = folder

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def get(self, key: bytes) -> bytes | None:
        iterator = self._iterator
        try:
            iterator.seek(key)
            if iterator.valid():
                return iterator.value() if iterator.key() == key else None
            iterator.status()
        except Exception as error:
            error.__traceback__ = None  # as in a scan
            raise translated(error, self._folder) from error
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
                page = list(islice(walk(self._iterator, begin, end, reverse), size))
            except Exception as error:
                # Its frames would keep the iterator, and so the database, open.
                error.__traceback__ = None
                raise translated(error, self._folder) from error
            yield from page
            if len(page) < size or (limit and not (limit := limit - size)):
                return
            if reverse:
                end = page[-1][0]
            else:
                begin = page[-1][0] + b"\x00"
            page_size = min(page_size * 2, 128)
