"""What one iterator sees: the reads of a moment of the database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
        _seek_before(iterator, end)
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


def _seek_before(iterator: rocksdict.RdictIter, end: bytes) -> None:
    """To the last key before `end`."""
    iterator.seek_for_prev(end)
    if iterator.valid() and iterator.key() == end:
        iterator.prev()


class RocksSnapshot:
    """One iterator, made on the trio thread between two writes, is the moment that all reads see."""

    moments = 1
    prefetches = False

    def __init__(self, database: rocksdict.Rdict, folder: Path) -> None:
        self._iterator = database.iter()
        self._folder = folder
        self._mover: object = None
        """Who has moved the iterator last: a scan, or nobody whom it still serves."""

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def get(self, key: bytes) -> bytes | None:
        iterator = self._iterator
        self._mover = None
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
        page_size, me = 16, object()
        while begin < end:
            size = min(page_size, limit) if limit else page_size
            goes_on, self._mover = self._mover is me, None
            try:
                page = self._page(begin, end, reverse, size, goes_on=goes_on)
            except Exception as error:
                # Its frames would keep the iterator, and so the database, open.
                error.__traceback__ = None
                raise translated(error, self._folder) from error
            self._mover = me
            yield from page
            if len(page) < size or (limit and not (limit := limit - size)):
                return
            if reverse:
                end = page[-1][0]
            else:
                begin = page[-1][0] + b"\x00"
            page_size = min(page_size * 2, 128)

    def _page(
        self, begin: bytes, end: bytes, reverse: bool, size: int, *, goes_on: bool
    ) -> list[KeyValue]:
        """The first pairs of [begin, end). goes_on: the iterator still stands at the last one before them."""
        iterator = self._iterator
        key, value, valid = iterator.key, iterator.value, iterator.valid
        move = iterator.prev if reverse else iterator.next
        if goes_on:
            move()
        elif reverse:
            _seek_before(iterator, end)
        else:
            iterator.seek(begin)
        page: list[KeyValue] = []
        while valid() and (begin <= (k := key()) if reverse else (k := key()) < end):
            page.append((k, value()))
            if len(page) == size:
                return page
            move()
        if not valid():
            iterator.status()  # a damaged block ends an iterator like the end of the data
        return page
