"""A store that another process of this machine has open, as an engine: its reads and transactions go through that process's socket.

Reads are of one moment, that of the session. A transaction's body reads such a moment and writes an overlay; at its end the other
side looks whether what was read still stands, and writes, or the body runs again (optimistic concurrency control).
"""

from __future__ import annotations

import contextlib
import socket
from bisect import bisect_left, bisect_right
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Iterator, Sequence
from itertools import islice
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeVar, cast

import trio

from matyan.errors import Unavailable
from matyan.folder.client import connect, error_of
from matyan.folder.lending import Seen, seen
from matyan.folder.wire import ERROR, LEND, pack_message, received, unpack_message
from matyan.store.base import KeyValue, Layout, Range, Snapshot, Transaction, View, exhausted
from matyan.store.open import FolderName
from matyan.store.overlay import Overlay
from matyan.store.rocks.store import DIRECTORIES

T = TypeVar("T")

_ANSWER_S: Final = 60.0
_FIRST_PAIRS: Final = 256
"""Of a scan: its reader often stops early. Each page after it may hold as many more."""
_MORE: Final = 8
_MOST_PAIRS: Final = 1_024
"""Of each range that is prefetched."""
_KNOWN_BYTES: Final = 32 << 20
"""So much of what was prefetched is kept, until all of it is forgotten."""
_ROW_BYTES: Final = 200
"""About what Python needs to keep a pair."""
_BEGIN = itemgetter(0)

_MOST_ATTEMPTS: Final = 50
"""Of a transaction that others come before each time."""
_AGAIN_S: Final = 0.002


def nobody_holds(folder: Path) -> Unavailable:
    return Unavailable(
        f"Nobody holds {folder}: start its worker, with: matyan ingest-worker --store {FolderName(folder)}."
    )


class _Session:
    """A connection to whoever has the store open. Used from one thread at a time."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            Unavailable: nobody has the store open, or it cannot be read now.
        """
        self._folder = folder
        try:
            self._socket = connect(folder)
        except Unavailable as error:
            raise nobody_holds(folder) from error
        self._socket.settimeout(_ANSWER_S)
        self._stream = cast("IO[bytes]", self._socket.makefile("rb", buffering=1 << 16))
        self._answer_to({"op": LEND})

    def ask(self, *request: object) -> Any:
        """
        Raises:
            MatyanError: what the other side says; Unavailable when it went away.
        """
        return self._answer_to(request)

    def _answer_to(self, message: object) -> Any:
        try:
            self._socket.sendall(pack_message(message))
            body = received(self._stream)
        except OSError as error:
            raise self._gone() from error
        if body is None:
            raise self._gone()
        kind, *answer = unpack_message(body)
        if kind == ERROR:
            raise error_of(*answer)
        return answer[0]

    def _gone(self) -> Unavailable:
        return Unavailable(
            f"The process that holds {self._folder} went away, or does not answer: try again."
        )

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._stream.close()
        self._socket.close()


class LentSnapshot:
    """Reads of one moment."""

    moments: Final = 1
    prefetches: Final = True

    def __init__(self, session: _Session) -> None:
        self._session = session
        # What was prefetched: values by key, and ranges that were read whole, by their begins.
        self._values: dict[bytes, bytes | None] = {}
        self._whole: list[tuple[bytes, bytes, list[KeyValue]]] = []
        self._known_bytes = 0

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        """Reads all that is not known yet in one round trip, which is what a read takes here."""
        new_keys = [key for key in keys if key not in self._values]
        new = [
            one
            for one in ranges
            if one.begin < one.end and self._inside(one.begin, one.end) is None
        ]
        if not new_keys and not new:
            return
        values, pages = self._session.ask("many", new_keys, [[*one] for one in new], _MOST_PAIRS)
        if self._known_bytes > _KNOWN_BYTES:
            self._values.clear()
            self._whole.clear()
            self._known_bytes = 0
        for key, value in zip(new_keys, values, strict=True):
            self._values[key] = value
            self._known_bytes += _ROW_BYTES + len(value or b"")
        for one, (pairs, is_whole) in zip(new, pages, strict=True):
            if is_whole and not (one.limit or one.reverse):
                self._whole.append((one.begin, one.end, [(key, value) for key, value in pairs]))
                self._known_bytes += sum(_ROW_BYTES + len(key) + len(value) for key, value in pairs)
        self._whole.sort(key=_BEGIN)

    def _inside(self, begin: bytes, end: bytes) -> Sequence[KeyValue] | None:
        """The pairs of a range, if it lies in one that was read whole; nested ones are not looked for."""
        place = bisect_right(self._whole, begin, key=_BEGIN) - 1
        if place < 0 or end > self._whole[place][1]:
            return None
        pairs = self._whole[place][2]
        return pairs[bisect_left(pairs, begin, key=_BEGIN) : bisect_left(pairs, end, key=_BEGIN)]

    def get(self, key: bytes) -> bytes | None:
        if key in self._values:
            return self._values[key]
        if (pairs := self._inside(key, key + b"\x00")) is not None:
            return pairs[0][1] if pairs else None
        value: bytes | None = self._session.ask("get", key)
        return value

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        if begin < end and (inside := self._inside(begin, end)) is not None:
            yield from islice(reversed(inside) if reverse else inside, limit or None)
            return
        most = _FIRST_PAIRS
        while begin < end:
            pairs, is_whole = self._session.ask("scan", begin, end, limit, reverse, most)
            yield from map(tuple, pairs)
            if is_whole:
                return
            last = pairs[-1][0]
            begin, end = (begin, last) if reverse else (last + b"\x00", end)
            limit = limit and limit - len(pairs)
            most *= _MORE


class _ReadScan:
    """What a transaction has read of a range."""

    def __init__(self, begin: bytes, end: bytes, reverse: bool) -> None:
        self.place = begin, end, reverse
        self.count = 0
        self.is_whole = False
        self.pairs = Seen()

    def packed(self) -> tuple[object, ...]:
        return *self.place, self.count, self.is_whole, self.pairs.digest()


class LentTransaction(Overlay):
    """An overlay over a moment, with what was read of that."""

    __slots__ = ("_reads", "_scans", "_snapshot")

    prefetches = False

    def __init__(self, snapshot: Snapshot) -> None:
        super().__init__()
        self._snapshot = snapshot
        self._reads: dict[bytes, bytes | None] = {}
        self._scans: list[_ReadScan] = []

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        """Nothing to do."""

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._writes.update(pairs)

    if TYPE_CHECKING:

        def update_guarded(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None: ...

    else:
        update_guarded = update

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        for begin, end in ranges:
            yield from self.scan(begin, end)

    def _get_stored(self, key: bytes) -> bytes | None:
        if key not in self._reads:
            self._reads[key] = self._snapshot.get(key)
        return self._reads[key]

    def _scan_stored(
        self, begin: bytes, end: bytes, reverse: bool, most: int
    ) -> Iterator[KeyValue]:
        read = _ReadScan(begin, end, reverse)
        self._scans.append(read)
        for pair in self._snapshot.scan(begin, end, limit=most, reverse=reverse):
            read.count += 1
            read.pairs.add(pair)
            yield pair
        read.is_whole = not most or read.count < most

    def commit(self, session: _Session) -> bool:
        """Whether it was written; False: what it has read stands so no longer."""
        writes = [*self._writes.items()]
        clears = [*zip(self._begins, self._ends, strict=True)]
        if not writes and not clears:
            return True
        reads = [(key, seen(value)) for key, value in self._reads.items()]
        scans = [read.packed() for read in self._scans]
        return bool(session.ask("commit", reads, scans, clears, writes))


class LentStore:
    """The RocksDB store in a data folder that another process holds. Nothing is open here between two calls."""

    default_layout: Final[Layout] = "packed"
    is_shared: Final = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def directory(self, path: tuple[str, ...]) -> bytes:
        return DIRECTORIES[path]

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        for attempt in range(_MOST_ATTEMPTS):
            is_done, result = await trio.to_thread.run_sync(self._attempt, body)
            if is_done:
                return result
            await trio.sleep(_AGAIN_S * attempt)
        raise Unavailable(
            f"The store in {self._folder} is busy: others change the same rows all the time. Try again."
        )

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        return await self.transact(lambda tr: exhausted(body(tr)))

    def _attempt(self, body: Callable[[Transaction], T]) -> tuple[bool, T]:
        with contextlib.closing(_Session(self._folder)) as session:
            transaction = LentTransaction(LentSnapshot(session))
            result = body(transaction)
            return transaction.commit(session), result

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        def run() -> T:
            with contextlib.closing(_Session(self._folder)) as session:
                return body(LentSnapshot(session))

        return await trio.to_thread.run_sync(run)

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        session = await trio.to_thread.run_sync(_Session, self._folder)
        try:
            yield LentSnapshot(session)
        finally:
            session.close()

    async def aclose(self) -> None:
        """Nothing is open."""
        await trio.lowlevel.checkpoint()
