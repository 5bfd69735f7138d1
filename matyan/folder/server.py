"""What the CLI and `reader/` ask whoever has the store open, and the unix socket of a data folder at which they do.

Only requests, answers and their pace. What is read stands in `rules/queries.py`, what is written in `tracker.py` and
`kafka_changes.py`, the wire in `wire.py`. The socket's permissions (0600) are the access control.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import trio

from matyan.errors import ConfigurationError, MatyanError
from matyan.folder.lending import Lender
from matyan.folder.wire import LEND, SOCKET_NAME, message_length, socket_address, unpack_message
from matyan.service import messages
from matyan.service.logs import get_logger
from matyan.service.messages import Pieces
from matyan.store.base import Store

T = TypeVar("T")

Read = Callable[..., Iterator[object]]
"""Called with a Snapshot and the request's arguments, in the store's thread."""
Write = Callable[..., AsyncIterator[object]]
"""Called with the request's arguments, in the trio thread."""

_REQUEST_BYTES = 1 << 20
"""The longest request, with its header."""
_REQUEST_S = 10.0
"""A request must be complete within this time."""
SEND_S = 30.0
"""A client must take a piece of its answer within this time. Until then its answer holds a snapshot of the store, but no thread."""
_READS_AT_ONCE = 8
"""Not more: the ingestion needs threads, too."""

_log = get_logger()


class Answers:
    """Answers one request a connection."""

    def __init__(
        self, store: Store, reads: Mapping[str, Read], writes: Mapping[str, Write]
    ) -> None:
        self._store = store
        self._reads = reads
        self._writes = writes
        self._limit = trio.CapacityLimiter(_READS_AT_ONCE)
        self._lender = Lender(store)

    async def to(self, stream: trio.SocketStream) -> None:
        """One client. Whatever it sends, and whatever is raised for it, ends its connection and no other."""
        try:
            async with stream:
                await self._answer(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it left, or took nothing
        except Exception:  # noqa: BLE001 - an island: it is logged, and the others go on
            _log.exception("a command could not be answered")

    async def _answer(self, stream: trio.SocketStream) -> None:
        try:
            with trio.fail_after(_REQUEST_S):
                request = await _receive(stream)
        except trio.TooSlowError:
            return
        except ValueError as error:
            await _send(
                stream, messages.refusal(MatyanError(f"This is no request of a command: {error}."))
            )
            return
        if request is None:
            return
        op = request.pop("op", None)
        try:
            if op == LEND:
                await self._lender.serve(stream)
                return
            answer = await self._rows(stream, op, request)
        except MatyanError as error:
            answer = messages.refusal(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise
        except Exception as error:  # noqa: BLE001 - an island: it is logged and answered, and the others go on
            _log.exception("a command could not be answered", op=op)
            answer = messages.refusal(
                MatyanError(
                    f"{op!r} could not be answered ({type(error).__name__}: {error}): the log of the process that holds "
                    "this folder says where."
                )
            )
        await _send(stream, answer)

    async def _rows(
        self, stream: trio.SocketStream, op: object, arguments: dict[str, Any]
    ) -> bytes:
        """Sends the rows of the answer, but for its end, which it returns, with the last rows of a read: so most answers cross
        between threads once."""
        if not isinstance(op, str) or op not in {*self._reads, *self._writes}:
            raise _not_known(f"{op!r}")
        if op in self._reads:
            return await self._read(stream, op, arguments)
        rows = _called(op, partial(self._writes[op], **arguments))
        async with aclosing(cast("AsyncGenerator[object]", rows)) as items:
            async for item in items:
                await _send(stream, messages.items([messages.packed(item)]))
        return messages.end(1)

    async def _read(self, stream: trio.SocketStream, op: str, arguments: dict[str, Any]) -> bytes:
        async with self._store.snapshot() as snapshot:
            rows = _called(op, partial(self._reads[op], snapshot, **arguments))
            with closing(Pieces(rows)) as pieces:
                while True:
                    async with self._limit:
                        piece, is_last = await trio.to_thread.run_sync(pieces.next)
                    if is_last:
                        return piece + messages.end(snapshot.moments)
                    await _send(stream, piece)


class _Counted(trio.abc.Listener[trio.SocketStream]):
    """Tells of each connection in the moment that it is taken, before its task begins."""

    def __init__(self, inner: trio.SocketListener, came: Callable[[], None]) -> None:
        self._inner = inner
        self._came = came

    async def accept(self) -> trio.SocketStream:
        stream = await self._inner.accept()
        self._came()
        return stream

    async def aclose(self) -> None:
        await self._inner.aclose()


class LocalAPI(Answers):
    """Gives them at one data folder's socket. The owner of the folder's lock makes it, so no other can be serving."""

    def __init__(
        self, folder: Path, store: Store, reads: Mapping[str, Read], writes: Mapping[str, Write]
    ) -> None:
        super().__init__(store, reads, writes)
        self._folder = folder
        self._busy = 0
        self._idle = trio.Event()

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serves until it is cancelled, then takes the socket away."""
        self._listener = self._bind()
        task_status.started()
        try:
            await trio.serve_listeners(self._handle, [_Counted(self._listener, self._came)])
        finally:
            self._hide()

    async def finish(self) -> None:
        """Takes the socket away, and returns when everybody who had come by then is answered.

        Whoever comes later finds nobody here, and waits for the folder's lock instead.
        """
        self._hide()
        while self._busy or select.select([self._listener.socket.fileno()], [], [], 0)[0]:
            await self.idle()
            await trio.lowlevel.checkpoint()

    def _hide(self) -> None:
        with suppress(OSError):
            (self._folder / SOCKET_NAME).unlink()

    def _came(self) -> None:
        self._busy += 1

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
                f"The socket {self._folder / SOCKET_NAME} cannot be made ({error.strerror}): "
                "use a data folder on a local file system, with --data."
            ) from None
        return trio.SocketListener(trio.socket.from_stdlib_socket(bound))

    async def _handle(self, stream: trio.SocketStream) -> None:
        try:
            await self.to(stream)
        finally:
            self._busy -= 1
            if not self._busy:
                self._idle.set()


def _called(op: str, call: Callable[[], T]) -> T:
    """What yields the answer: so far the call has only taken its arguments.

    Raises:
        MatyanError: another version of the program would have asked so.
    """
    try:
        return call()
    except TypeError as error:
        raise _not_known(f"{op!r} as it was asked ({error})") from None


def _not_known(what: str) -> MatyanError:
    return MatyanError(
        f"The process that holds this folder does not know {what}: use the same version of matyan."
    )


async def _send(stream: trio.SocketStream, data: bytes) -> None:
    """
    Raises:
        trio.BrokenResourceError: the client has gone, or did not take it in time.
    """
    with trio.move_on_after(SEND_S) as scope:
        try:
            await stream.send_all(data)
        except trio.Cancelled:
            # In the midst of a message: nothing can follow it.
            stream.socket.close()
            raise
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("the client does not read")


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
            if length > _REQUEST_BYTES:
                raise ValueError("the request is too long")
    request = unpack_message(bytes(received[4:length]))
    if not isinstance(request, dict):
        raise ValueError("the request is no map")
    return request
