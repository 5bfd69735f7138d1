"""An answer that is read from the store in a thread while it is sent: bounded memory, and an end soon after its client has gone."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, suppress
from functools import partial
from typing import Final, TypeVar

import trio

from matyan.api.gone import ClientGone, Commits, IsGone, WatchedSnapshot, client_of_request
from matyan.api.runs import View
from matyan.errors import MatyanError
from matyan.keys import Keys
from matyan.rules.sequences import Sequences
from matyan.service.http1 import SEND_S
from matyan.service.logs import get_logger
from matyan.store.base import Snapshot, Store

T = TypeVar("T")

_PIECE_BYTES: Final = 128 << 10
"""The web app's decoder copies what it has at each piece that arrives."""
_PIECE_S: Final = 0.05
"""What is ready waits no longer, and whether the client is still there is asked as often."""
_AT_ONCE: Final = 4
"""Reads in threads. The ingestion needs some, too; and whoever wants Python's lock may have to wait for each of these in turn."""
_SWITCH_S: Final = 0.0001
"""For how long a thread keeps Python's lock that another one waits for, while something is read: it costs the ingestion a tenth of
its CPU where many write. By default 5 ms, which the ingestion would pay at each turn of
its loop while a search runs: an acknowledgement took 15 ms for 0.7 then, and still 8 by half a millisecond."""

Rows = Callable[[View], Iterator[bytes]]

_log = get_logger()


class Reads:
    """Reads one store for the API. Streams need `run`.

    Args:
        commits: how many this process has made: while it makes some, reads leave room for it.
    """

    def __init__(
        self, store: Store, keys: Keys, sequences: Sequences, commits: Commits = lambda: 0
    ) -> None:
        self.store = store
        self._commits = commits
        self.keys = keys
        self._sequences = sequences
        self._limit = trio.CapacityLimiter(_AT_ONCE)
        self._reading = 0
        self._switch_s = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads for the streams until it is cancelled. A snapshot's scope must end in the task that began it, and a body's
        iterator is moved on by whoever sends it."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Of a read in a thread."""
        async with self._limit:
            if not self._reading:
                self._switch_s = sys.getswitchinterval()
                sys.setswitchinterval(_SWITCH_S)
            self._reading += 1
            try:
                yield
            finally:
                self._reading -= 1
                if not self._reading:
                    sys.setswitchinterval(self._switch_s)

    def view(self, snap: Snapshot, is_gone: IsGone) -> View:
        return View(WatchedSnapshot(snap, is_gone, self._commits), self.keys, self._sequences)

    async def one(self, body: Callable[[View], T]) -> T:
        """What `body` returns, of one moment.

        Raises:
            Unavailable, Expired: as `Store.read` does.
            ClientGone: there is nobody to answer.
        """
        is_gone = client_of_request()
        async with self._turn():
            return await self.store.read(lambda snap: body(self.view(snap, is_gone)))

    async def stream(self, rows: Rows, is_gone: IsGone | None = None) -> AsyncIterator[bytes]:
        """Returns what `rows` yields when the first piece of it is there; it must be iterated over or closed.

        Raises:
            MatyanError: what was raised before that.
        """
        to_send, pieces = trio.open_memory_channel[bytes | MatyanError](0)
        is_gone = is_gone or client_of_request()
        self._nursery.start_soon(partial(self._read, rows, is_gone, to_send))
        try:
            first = await anext(pieces, b"")
        except BaseException:
            pieces.close()  # or the reader would keep its moment of the store for as long as a client may take
            raise
        if isinstance(first, MatyanError):
            raise first

        async def body() -> AsyncIterator[bytes]:
            async with pieces:
                yield first
                async for piece in pieces:
                    if isinstance(piece, MatyanError):
                        # So the connection ends within the body: half a stream must not look whole.
                        raise piece
                    yield piece

        return body()

    async def _read(
        self, rows: Rows, is_gone: IsGone, to_send: trio.MemorySendChannel[bytes | MatyanError]
    ) -> None:
        """One stream. Whatever is raised for it ends it and no other."""
        async with to_send:
            try:
                async with self.store.snapshot() as snap:
                    with closing(_Source(rows(self.view(snap, is_gone)))) as source:
                        is_last = False
                        while not (is_last or is_gone()):
                            async with self._turn():
                                piece, is_last = await trio.to_thread.run_sync(source.next)
                            if piece:
                                with trio.fail_after(SEND_S):
                                    await to_send.send(piece)
            except (trio.BrokenResourceError, trio.TooSlowError, ClientGone):
                pass  # the client has gone, or does not read
            except MatyanError as error:
                with suppress(trio.BrokenResourceError):
                    await to_send.send(error)
            except Exception as error:  # noqa: BLE001 - an island: it is logged and ends this answer alone
                _log.exception("an answer ended in an error")
                with suppress(trio.BrokenResourceError):
                    await to_send.send(
                        MatyanError(f"{type(error).__name__}: the log of this process says where.")
                    )


class _Source:
    """The rows in pieces of about _PIECE_BYTES, or of what came in _PIECE_S; empty where nothing did. The first goes as it comes: what
    it says may be all that somebody waits for."""

    def __init__(self, rows: Iterator[bytes]) -> None:
        self._rows = rows
        self._begun = False

    def next(self) -> tuple[bytes, bool]:
        """The next piece, and whether it is the last one."""
        came: list[bytes] = []
        size, until = 0, time.monotonic() + _PIECE_S
        for row in self._rows:
            came.append(row)
            size += len(row)
            if row and not self._begun:
                self._begun = True
                break
            if size >= _PIECE_BYTES or time.monotonic() > until:
                break
        else:
            return b"".join(came), True
        return b"".join(came), False

    def close(self) -> None:
        close = getattr(self._rows, "close", None)
        if close is not None:
            close()
