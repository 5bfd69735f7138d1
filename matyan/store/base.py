"""The store as the rules see it: ordered byte keys and transactions.

No key layout and no msgpack here; no batching and no retry of a caller's work but the engine's own
conflict loop. Engines: `rocks` (one machine).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, TypeVar

T = TypeVar("T")

KeyValue = tuple[bytes, bytes]

Layout = Literal["compatible", "packed"]
"""How the points of metrics are stored, which is `rules.sequences`' subject: an engine only says which one its new stores get."""


class Range(NamedTuple):
    """The arguments of a scan."""

    begin: bytes
    end: bytes
    limit: int = 0
    reverse: bool = False


class Snapshot(Protocol):
    """Reads that see one moment of the store. Used from one thread at a time.

    A range whose end does not stand behind its begin is empty, whatever an engine calls it. Any read raises Unavailable when
    the store cannot be read, and Expired when the engine has forgotten the moment.
    """

    @property
    def prefetches(self) -> bool:
        """Whether `prefetch` does anything: otherwise there is no need to find out what will be read."""
        ...

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        """Says what will be read: an engine whose reads take a round trip each begins all of these at once, and does not wait.

        From then on a get of one of `keys`, or of a key in one of the `ranges` that was read whole, and a scan that is one of
        `ranges`, or lies in one that was read whole, cost no round trip of their own. A transaction's own writes are seen
        as ever. An engine may read the first page of a range only (its reader often stops early); the scan reads on.
        What is prefetched counts as read, also where nobody asks for it; an error comes to whoever does.
        """
        ...

    def get(self, key: bytes) -> bytes | None:
        """The value of `key`, or None."""
        ...

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        """The pairs with begin <= key < end in key order (`reverse`: from the end); limit 0: all."""
        ...


def scan(snap: Snapshot, range_: Range) -> Iterator[KeyValue]:
    """`snap.scan` of it: what was prefetched is read as it was asked for."""
    begin, end, limit, reverse = range_
    return snap.scan(begin, end, limit=limit, reverse=reverse)


class View(Snapshot, Protocol):
    """A snapshot for reads that take as long as they take. Where the engine forgets a moment earlier, they go on at the
    next one: a scan behind the last pair that it gave, so that it gives each key once at most."""

    @property
    def moments(self) -> int:
        """How many moments of the store these reads have seen."""
        ...


class Transaction(Snapshot, Protocol):
    """Reads that see this transaction's own writes, and writes that land all or not at all.

    Whether a scan sees what is written to its range while it is consumed, is the engine's affair.
    """

    def set(self, key: bytes, value: bytes) -> None: ...

    def clear(self, key: bytes) -> None: ...

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        """Sets each key to its value in order, or clears it when the value is None: many in one call."""
        ...

    def update_guarded(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        """`update` of rows that other rows of this transaction guard: whoever writes them too, or decides by them, also
        reads a row that is set here by `set`, so that an engine need not look for conflicts in these."""
        ...

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        """The pairs of all `ranges`, which ascend and do not overlap: cheap where most of them hold nothing.

        What is written to the ranges while this is consumed may be seen or not.
        """
        ...

    def clear_range(self, begin: bytes, end: bytes) -> None:
        """Clears begin <= key < end."""
        ...


class Directories(Protocol):
    """Where the keys of a store begin."""

    @property
    def is_shared(self) -> bool:
        """Whether other processes may write it, too: what many transactions change is then changed where they do not meet."""
        ...

    def directory(self, path: tuple[str, ...]) -> bytes:
        """The key prefix of a directory (FoundationDB's directory layer, or a fixed one)."""
        ...


class Store(Directories, Protocol):
    """An open store. Made by the composition root, closed by it."""

    @property
    def default_layout(self) -> Layout:
        """What a new store of this engine gets where nobody wants one: compatible where other programs read its stores."""
        ...

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        """Runs `body` and commits: when this returns, its writes are durable.

        `body` is synchronous, has no side effect besides the transaction, and may run again: also after a commit of which
        nobody knows whether it happened, so that it must find out by what it reads. An exception that it raises rolls back
        and comes out unchanged, but for one that a read has raised: then the engine decides, whatever the body made
        of it, whether it runs again.

        Raises:
            InvalidRecord: what it wrote can never be stored: a key, a value or the whole transaction is too large.
            Expired: it took longer than the engine gives a transaction, more than once.
            Unavailable: the commit did not happen, or nobody knows whether it did.
        """
        ...

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        """The same for a body that yields wherever the event loop may turn: one that can take long. What it has read stands
        until it has ended, or it runs again.

        Raises:
            InvalidRecord, Expired, Unavailable: as `transact` does.
        """
        ...

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        """Runs a read-only `body` in a thread on a snapshot: one moment. It may run again.

        Raises:
            Expired: it took longer than the engine remembers a moment, more than once.
            Unavailable: the store cannot be read now.
        """
        ...

    def snapshot(self) -> AbstractAsyncContextManager[View]:
        """A view of the store for reads in several steps, each in a thread of the caller's choice, one at a time.

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

    async def checkpoint(self, target: Path) -> None:
        """Copies the store of this moment into the folder `target`, which it makes; by links, where that can be.

        Raises:
            Unavailable: the store cannot be used now.
        """
        ...


class ClusterStore(Store, Protocol):
    """A store that processes of many machines share."""

    async def versions(self) -> str:
        """Those of its servers and of this process's client, for a person.

        Raises:
            Unavailable: the cluster does not answer.
        """
        ...


def exhausted(work: Generator[object, None, T]) -> T:
    """The result of a body that yields, without a pause."""
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result
