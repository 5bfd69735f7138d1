"""The store as the rules see it: ordered byte keys and transactions.

No key layout and no msgpack here; no batching and no retry of a caller's work but the engine's own
conflict loop. Engines: `rocks` (one machine).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeVar

T = TypeVar("T")

KeyValue = tuple[bytes, bytes]


class Snapshot(Protocol):
    """Reads that see one moment of the store. Used from one thread at a time."""

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        """The pairs with begin <= key < end in key order (`reverse`: from the end); limit 0: all."""
        ...


class Transaction(Snapshot, Protocol):
    """Reads that see this transaction's own writes, and writes that land all or not at all."""

    def set(self, key: bytes, value: bytes) -> None: ...

    def clear(self, key: bytes) -> None: ...

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Sets each key to its value in order, or clears it when the value is None: many in one call."""
        ...

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        """The pairs of all `ranges`, which ascend and do not overlap: cheap where most of them hold nothing.

        What is written to the ranges while this is consumed may be seen or not.
        """
        ...

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Clears begin <= key < end."""
        ...


class Store(Protocol):
    """An open store. Made by the composition root, closed by it."""

    def directory(self, path: tuple[str, ...]) -> bytes:
        """The key prefix of a directory (FoundationDB's directory layer, or a fixed one)."""
        ...

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        """Runs `body` and commits: when this returns, its writes are durable.

        `body` is synchronous, has no side effect besides the transaction, and may run again.
        An exception that it raises rolls back and comes out unchanged.

        Raises:
            Unavailable: the commit did not happen, or nobody knows whether it did.
        """
        ...

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        """The same for a body that yields wherever the event loop may turn: one that can take long. No other
        transaction begins before it has ended.

        Raises:
            Unavailable: as `transact` does.
        """
        ...

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        """Runs a read-only `body` in a thread on a snapshot.

        Raises:
            Unavailable: the store cannot be read now.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[Snapshot]:
        """A moment of the store for reads in several steps, each in a thread of the caller's choice, one at a time.

        What was read lazily must be closed before it is left. It is held no longer than the store can bear: when the
        store must be opened again, whoever is inside is cancelled.

        Raises:
            Unavailable: the store cannot be read now, or could not be any longer.
        """
        ...

    async def aclose(self) -> None: ...


class FolderStore(Store, Protocol):
    """A store in a folder of this machine, with what can be done for its disk."""

    @property
    def writes(self) -> int:
        """How many commits it has made: whether it is quiet."""
        ...

    def disk_bytes(self) -> int:
        """The sizes of all its files."""
        ...

    async def compact(self, ranges: Sequence[tuple[bytes, bytes]] | None = None) -> None:
        """Rewrites these ranges of keys, or everything, so that the space of what was deleted comes back.

        Raises:
            Unavailable: the store cannot be used now.
        """
        ...
