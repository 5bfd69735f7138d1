"""The unix socket in the data folder: what the CLI and `reader.py` ask the process that holds the store.

Only requests, answers and their pace. What is read stands in `queries.py`, what is written in `embedded.py`,
the wire in `reader.py`. The socket's permissions (0600) are the access control.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import trio

from matyan.errors import ConfigurationError, MatyanError
from matyan.logs import get_logger
from matyan.reader import (
    END,
    ERROR,
    ITEMS,
    SOCKET_NAME,
    message_length,
    pack_message,
    socket_address,
    unpack_message,
)
from matyan.store.base import Snapshot, Store

Read = Callable[..., Iterator[object]]
"""Called with a Snapshot and the request's arguments, in the store's thread."""
Write = Callable[..., AsyncIterator[object]]
"""Called with the request's arguments, in the trio thread."""

# Answers are sent when so many bytes have gathered: one crossing between threads each.
_ANSWER_BYTES = 256 << 10
_MAX_REQUEST = 1 << 20
_REQUEST_SECONDS = 10
# A reader holds a thread and a snapshot while its client is slow; the ingestion needs threads too.
_READS_AT_ONCE = 8

_log = get_logger()


class LocalAPI:
    """Serves one data folder's socket. The owner of the folder's lock makes it, so no other can be serving."""

    def __init__(
        self, folder: Path, store: Store, reads: Mapping[str, Read], writes: Mapping[str, Write]
    ) -> None:
        self._folder = folder
        self._store = store
        self._reads = reads
        self._writes = writes
        self._limit = trio.CapacityLimiter(_READS_AT_ONCE)
        self._busy = 0
        self._idle = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until it is cancelled, then takes the socket away."""
        listener = self._bind()
        task_status.started()
        try:
            await trio.serve_listeners(self._handle, [listener])
        finally:
            with suppress(OSError):
                (self._folder / SOCKET_NAME).unlink()

    async def idle(self) -> None:
        """Returns when nobody is being answered."""
        while self._busy:
            self._idle = trio.Event()
            await self._idle.wait()

    def _bind(self) -> trio.SocketListener:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            # Before bind() this decides the mode of the file that bind() makes: no moment of looser rights.
            os.fchmod(bound.fileno(), stat.S_IRUSR | stat.S_IWUSR)
            with socket_address(self._folder) as address:
                with suppress(FileNotFoundError):
                    os.unlink(address)
                bound.bind(address)
            bound.listen(128)
        except OSError as error:
            bound.close()
            raise ConfigurationError(
                f"cannot make the socket {self._folder / SOCKET_NAME} ({error.strerror}); "
                "use a data folder on a local file system, with --data"
            ) from None
        return trio.SocketListener(trio.socket.from_stdlib_socket(bound))

    async def _handle(self, stream: trio.SocketStream) -> None:
        self._busy += 1
        try:
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await self._answer(stream)
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(_REQUEST_SECONDS):
                request = await _receive(stream)
        except (trio.TooSlowError, ValueError):
            return
        if request is None:
            return
        op = request.pop("op", None)
        last = b""
        try:
            if op in self._reads:
                async with self._limit:
                    last = await self._read(stream, self._reads[op], request)
            elif op in self._writes:
                async for item in self._writes[op](**request):
                    await stream.send_all(pack_message([ITEMS, [item]]))
            else:
                raise MatyanError(
                    f"the process that holds this folder does not know {op!r}; use the same version of matyan"
                )
        except MatyanError as error:
            answer = [ERROR, type(error).__name__, str(error)]
        else:
            answer = [END]
        await stream.send_all(last + pack_message(answer))

    async def _read(
        self, stream: trio.SocketStream, read: Read, arguments: dict[str, Any]
    ) -> bytes:
        """Sends the rows that are read, but for the last ones, which it returns: most answers need no other crossing."""

        def body(snapshot: Snapshot) -> bytes:
            rows: list[bytes] = []
            size = 0
            for item in read(snapshot, **arguments):
                rows.append(msgpack.packb(item, use_bin_type=True))
                size += len(rows[-1])
                if size >= _ANSWER_BYTES:
                    trio.from_thread.run(stream.send_all, _items(rows))
                    rows, size = [], 0
            return _items(rows) if rows else b""

        return await self._store.read(body)


def _items(rows: list[bytes]) -> bytes:
    """`pack_message([ITEMS, rows])` of rows that are packed already."""
    head = b"\x92" + msgpack.packb(ITEMS) + msgpack.Packer().pack_array_header(len(rows))
    length = len(head) + sum(map(len, rows))
    return b"".join((length.to_bytes(4, "big"), head, *rows))


async def _receive(stream: trio.SocketStream) -> dict[str, Any] | None:
    """The request, or None when the client left. Raises ValueError when it is none."""
    received = bytearray()
    length: int | None = None
    while length is None or len(received) < length:
        piece = await stream.receive_some()
        if not piece:
            return None
        received += piece
        if length is None and len(received) >= 4:
            length = 4 + message_length(bytes(received[:4]))
            if length > _MAX_REQUEST:
                raise ValueError("the request is too long")
    request = unpack_message(bytes(received[4:length]))
    if not isinstance(request, dict):
        raise ValueError("the request is no map")
    return request
