"""A transaction: its own writes over the database, and how both become one at its end.

No thread and no sync: the database must not change while a transaction is under way, which is the store's affair.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Generator, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import rocksdict

from matyan.store.base import KeyValue, Range
from matyan.store.overlay import Overlay
from matyan.store.rocks.database import translated
from matyan.store.rocks.snapshot import walk

_POINT_DELETES: Final = 64
"""A cleared range of at most so many keys is deleted key by key: RocksDB sorts all range tombstones of its write
buffer anew after each one that is added, so many small ones make every read slow."""

_OWN_ITERATORS: Final = 16
"""So many cleared ranges get an iterator each, which passes over nothing that was deleted behind its range."""

_BATCHED_KEYS: Final = 4_096
"""So many keys are put into a batch in one go: some 2 ms."""
_SORTED_KEYS: Final = 16_384
"""So many keys are sorted in one go: some 5 ms."""


_MOST_KNOWN: Final = 16_384
_KNOWN_BYTES: Final = 256
"""So many rows, of so many bytes with their keys, are known without a read: 7 MB at most."""


class RocksTransaction(Overlay):
    """An overlay over the database, which does not change while a body runs.

    known: what transactions have read of this database, None for what is not there, and how it stands now: each batch asks for
    the same few rows of its runs again, and nobody else writes them.
    """

    __slots__ = ("_database", "_folder", "_known", "update", "update_guarded")

    prefetches = False

    if TYPE_CHECKING:

        def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None: ...

        def update_guarded(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None: ...

    def __init__(
        self, database: rocksdict.Rdict, folder: Path, known: dict[bytes, bytes | None]
    ) -> None:
        super().__init__()
        self._database = database
        self._folder = folder
        self._known = known
        if not TYPE_CHECKING:
            self.update = self.update_guarded = self._writes.update  # as `set`

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def _get_stored(self, key: bytes) -> bytes | None:
        if key in self._known:
            return self._known[key]
        try:
            value: bytes | None = self._database.get(key)
        except Exception as error:
            raise translated(error, self._folder) from error
        if len(self._known) >= _MOST_KNOWN:
            self._known.clear()
        self._know(key, value)
        return value

    def _know(self, key: bytes, value: bytes | None) -> None:
        if len(key) + len(value or b"") <= _KNOWN_BYTES:
            self._known[key] = value
        else:
            self._known.pop(key, None)

    def _scan_stored(
        self, begin: bytes, end: bytes, reverse: bool, most: int
    ) -> Iterator[KeyValue]:
        try:
            yield from walk(self._bounded(end), begin, end, reverse)
        except Exception as error:
            error.__traceback__ = None  # as in the snapshot
            raise translated(error, self._folder) from error

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
            raise translated(error, self._folder) from error

    def _bounded(self, end: bytes) -> rocksdict.RdictIter:
        """An iterator that does not look for a live key beyond `end` among what was deleted there."""
        options = rocksdict.ReadOptions()
        options.set_iterate_upper_bound(end)
        return self._database.iter(options)

    def commit(self) -> Generator[None, None, int]:
        """Writes it all at its end, or nothing; returns how many bytes. Yields now and then.

        Raises:
            Stalled: nothing was written, RocksDB wants a pause.
        """
        writes = self._writes
        if not writes and not self._begins:
            return 0
        batch = rocksdict.WriteBatch(raw_mode=True)
        put, delete = batch.put, batch.delete
        try:
            # Ranges first: a write that came before a range clear of its key was overwritten in the overlay.
            if self._begins:
                yield from self._deleting_ranges(batch)
            # In order, because RocksDB then takes half the time to insert them.
            ordered = (
                sorted(writes)
                if len(writes) <= _SORTED_KEYS
                else (yield from self._sorted_in_slices())
            )
            for place in range(0, len(ordered), _BATCHED_KEYS):
                for key in ordered[place : place + _BATCHED_KEYS]:
                    value = writes[key]
                    if value is None:
                        delete(key)
                    else:
                        put(key, value)
                yield
            size = batch.size_in_bytes()
            self._database.write(batch)
        except Exception as error:
            raise translated(error, self._folder) from error
        if self._begins:
            self._known.clear()
        for key in self._known.keys() & writes.keys():
            self._know(key, writes[key])
        return size

    def _deleting_ranges(self, batch: rocksdict.WriteBatch) -> Iterator[None]:
        """Puts the cleared ranges into `batch`, with a pause after each that holds something."""
        probe = self._bounded(self._ends[-1]) if len(self._begins) > _OWN_ITERATORS else None
        for begin, end in zip(self._begins, self._ends, strict=True):
            if probe is not None:
                # As in scan_each.
                if (probe.valid() and probe.key() < begin) or begin == self._begins[0]:
                    probe.seek(begin)
                if not probe.valid():
                    probe.status()
                    return
                if probe.key() >= end:
                    continue
            # No name for the walk: it would keep the iterator while others have a turn.
            keys = [
                key
                for key, _ in islice(
                    walk(self._bounded(end), begin, end, False), _POINT_DELETES + 1
                )
            ]
            if len(keys) > _POINT_DELETES:
                batch.delete_range(begin, end)
            else:
                for key in keys:
                    batch.delete(key)
            yield

    def _sorted_in_slices(self) -> Generator[None, None, list[bytes]]:
        """All keys of the overlay in order; a sort holds the interpreter."""
        writes = self._writes
        new = list(islice(reversed(writes), len(writes) - self._in_runs))
        for begin in range(0, len(new), _SORTED_KEYS):
            self._add_run(sorted(new[begin : begin + _SORTED_KEYS]))
            yield
        while len(self._runs) > 1:
            run = self._runs.pop()
            run += self._runs.pop()
            run.sort()
            self._runs.append(run)
            yield
        return self._runs[0] if self._runs else []
