"""A store in a dict: fast enough for hypothesis, and held to the contract suite like the real ones.

Its `commit` is `transact` without an event loop.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TypeVar

import trio

from matyan.store.base import KeyValue, Layout, Range, Snapshot, Transaction

T = TypeVar("T")

_DIRECTORIES = {("data", "runs"): b"\x01", ("data", "indexes"): b"\x02", ("system",): b"\x03"}


def exhaust(turns: Generator[None, None, T]) -> T:
    """Its result, without a pause."""
    while True:
        try:
            next(turns)
        except StopIteration as end:
            result: T = end.value
            return result


class _Rows:
    """Sorted rows; a transaction works on a copy."""

    prefetches = False

    def __init__(
        self, rows: dict[bytes, bytes], on_get: Callable[[bytes], object] | None = None
    ) -> None:
        self.rows = dict(rows)
        self._on_get = on_get

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def get(self, key: bytes) -> bytes | None:
        if self._on_get is not None:
            self._on_get(key)
        return self.rows.get(key)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        found = sorted((row for row in self.rows.items() if begin <= row[0] < end), reverse=reverse)
        yield from found[: limit or None]

    def set(self, key: bytes, value: bytes) -> None:
        assert isinstance(key, bytes)
        assert isinstance(value, bytes)
        self.rows[key] = value

    def clear(self, key: bytes) -> None:
        self.rows.pop(key, None)

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        for key, value in pairs:
            if value is None:
                self.clear(key)
            else:
                self.set(key, value)

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        assert all(one[1] <= other[0] for one, other in pairwise(ranges))
        for begin, end in ranges:
            yield from self.scan(begin, end)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        for key in [key for key in self.rows if begin <= key < end]:
            del self.rows[key]


class MemoryStore:
    default_layout: Layout = "packed"

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self.on_get: Callable[[bytes], object] | None = None
        """Told each key that a transaction gets."""

    def directory(self, path: tuple[str, ...]) -> bytes:
        return _DIRECTORIES[path]

    def commit(self, body: Callable[[Transaction], T]) -> T:
        tr = _Rows(self.rows, self.on_get)
        outcome = body(tr)
        self.rows = tr.rows
        return outcome

    def look(self, body: Callable[[Snapshot], T]) -> T:
        return body(_Rows(self.rows))

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        await trio.lowlevel.checkpoint()
        return self.commit(body)

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        return await self.transact(lambda tr: exhaust(body(tr)))

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        return await trio.to_thread.run_sync(self.look, body)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[Snapshot]:
        await trio.lowlevel.checkpoint()
        yield _Rows(self.rows)

    async def aclose(self) -> None: ...
