"""A store that another process reads and writes through whoever has it open: this is the side that has it. `lent.py` is the other.

A session is one connection and one moment of the store. It is served by a thread of its own on a plain socket, since each read of the
other side waits for its answer. A transaction over there is checked here: what it has read must still stand so.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Generator, Sequence
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from itertools import islice
from typing import IO, Any, Final, cast

import trio

from matyan.errors import MatyanError, Unavailable
from matyan.folder.wire import ERROR, ITEMS, pack_message, received, unpack_message
from matyan.service.logs import get_logger
from matyan.store.base import KeyValue, Snapshot, Store, Transaction

MOST_SESSIONS: Final = 256
"""At a time; each has a thread and two descriptors while it lasts. An answer of the read API whose client does not take it holds one."""
PAGE_BYTES: Final = 256 << 10
"""Of pairs in one answer."""
MANY_BYTES: Final = 8 << 20
"""Of the ranges that are asked for together."""
_ANSWER_S: Final = 60.0
"""The other side must take an answer within this time."""

Request = list[Any]

_log = get_logger()


class Lender:
    """Serves sessions of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._sessions = 0
        self._limit = trio.CapacityLimiter(MOST_SESSIONS)

    async def serve(self, stream: trio.SocketStream) -> None:
        """One session, until the other side ends it.

        Raises:
            Unavailable: the store cannot be read now, or has too many sessions.
        """
        # At once: whoever waits here does so in a thread, and of these there are few for all that the other process does.
        if self._sessions == MOST_SESSIONS:
            raise Unavailable(
                f"The process that has this store open serves {MOST_SESSIONS} readers already: ask again later."
            )
        self._sessions += 1
        try:
            await self._session(stream)
        finally:
            self._sessions -= 1

    async def _session(self, stream: trio.SocketStream) -> None:
        async with self._store.snapshot() as snap:
            # The number may be another's when this one was closed; the copy is the thread's own.
            connection = socket.socket(fileno=os.dup(stream.socket.fileno()))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_hang_up_at_end, connection)
                serve = partial(self._serve, connection, snap)
                # The snapshot may not end before its last read: whoever wants an end wakes the thread.
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(serve, limiter=self._limit)
                nursery.cancel_scope.cancel()

    def _serve(self, connection: socket.socket, snap: Snapshot) -> None:
        with connection, suppress(OSError):
            connection.setblocking(True)
            connection.settimeout(None)
            # Whoever asked waits for this: what came behind the request would have been read with it.
            connection.sendall(pack_message([ITEMS, None]))
            with cast("IO[bytes]", connection.makefile("rb", buffering=1 << 16)) as stream:
                while (body := received(stream)) is not None:
                    connection.settimeout(_ANSWER_S)
                    connection.sendall(self._answer(snap, unpack_message(body)))
                    connection.settimeout(None)

    def _answer(self, snap: Snapshot, request: Request) -> bytes:
        try:
            kind, *arguments = request
            match kind:
                case "get":
                    return pack_message([ITEMS, snap.get(*arguments)])
                case "scan":
                    return pack_message([ITEMS, page(snap, *arguments)])
                case "many":
                    return pack_message([ITEMS, many(snap, *arguments)])
                case "commit":
                    commit = partial(checked, *arguments)
                    return pack_message(
                        [ITEMS, trio.from_thread.run(self._store.transact_in_turns, commit)]
                    )
            raise MatyanError(
                f"{kind!r} is no request of this version of matyan: use the same everywhere."
            )
        except MatyanError as error:
            return pack_message([ERROR, type(error).__name__, str(error)])
        except Exception as error:  # noqa: BLE001 - an island: it is logged and answered, and the others go on
            _log.exception("a store that was lent could not be used")
            return pack_message([ERROR, "MatyanError", f"{type(error).__name__}: {error}"])


async def _hang_up_at_end(connection: socket.socket) -> None:
    try:
        await trio.sleep_forever()
    finally:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def page(
    snap: Snapshot, begin: bytes, end: bytes, limit: int, reverse: bool, most: int
) -> tuple[list[KeyValue], bool]:
    """The first pairs of a scan, at most `most` of them and about PAGE_BYTES, and whether these are all."""
    pairs: list[KeyValue] = []
    size = 0
    for pair in snap.scan(begin, end, limit=limit, reverse=reverse):
        if size >= PAGE_BYTES or len(pairs) >= most:
            return pairs, False
        pairs.append(pair)
        size += len(pair[0]) + len(pair[1])
    return pairs, True


def many(
    snap: Snapshot,
    keys: Sequence[bytes],
    ranges: Sequence[tuple[bytes, bytes, int, bool]],
    most: int,
) -> tuple[list[bytes | None], list[tuple[list[KeyValue], bool]]]:
    """The values of these keys, and the first page of each of these ranges; of the last ones nothing, where it is too much."""
    pages: list[tuple[list[KeyValue], bool]] = []
    size = 0
    for begin, end, limit, reverse in ranges:
        if size >= MANY_BYTES:
            pages.append(([], False))
            continue
        found = page(snap, begin, end, limit, reverse, most)
        size += sum(len(key) + len(value) for key, value in found[0])
        pages.append(found)
    return [snap.get(key) for key in keys], pages


def checked(
    reads: Sequence[tuple[bytes, bytes]],
    scans: Sequence[tuple[bytes, bytes, bool, int, bool, bytes]],
    clears: Sequence[tuple[bytes, bytes]],
    writes: Sequence[tuple[bytes, bytes | None]],
    tr: Transaction,
) -> Generator[None, None, bool]:
    """Writes what a transaction has written elsewhere, if all that it has read stands as it was; returns whether.

    Args:
        reads: key, and `seen` of its value.
        scans: begin, end, reverse, how many pairs were read, whether there were no more, and `seen` of them.
    """
    for key, was in reads:
        if seen(tr.get(key)) != was:
            return False
    for begin, end, reverse, count, is_whole, was in scans:
        pairs = tr.scan(begin, end, limit=count + is_whole, reverse=reverse)
        found = Seen()
        for pair in islice(pairs, count):
            found.add(pair)
        if found.digest() != was or (is_whole and next(iter(pairs), None) is not None):
            return False
        yield
    for begin, end in clears:
        tr.clear_range(begin, end)
    tr.update((key, value) for key, value in writes)
    return True


def seen(value: bytes | None) -> bytes:
    """What tells one value of a row from another; empty: there is no row."""
    return b"" if value is None else blake2b(value, digest_size=16).digest()


class Seen:
    """The same of pairs, one after the other."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=16)

    def add(self, pair: KeyValue) -> None:
        for part in pair:
            self._hash.update(len(part).to_bytes(8, "big"))
            self._hash.update(part)

    def digest(self) -> bytes:
        return self._hash.digest()
