"""Asks whoever has the store open: one request, its answers as they come.

No store and no trio here; what can be asked is named in `reader/`, how it is written in `wire.py`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any

from matyan import errors
from matyan.errors import ConfigurationError, MatyanError, Unavailable
from matyan.folder.spool import Spool
from matyan.folder.wire import SOCKET_NAME, socket_address
from matyan.service import messages
from matyan.service.messages import Stream, pack_message, received, unpack_message

_GONE = "The process that was asked went away while it answered: run the same command again."
_NO_ANSWER = "What came is no answer that this version can read: see to the place that was asked, and run the same version there."


Connect = Callable[[], socket.socket]
"""Makes a connection to whoever has the store open. Raises Unavailable: nobody answers."""


def ask(
    connect: Connect,
    op: str,
    arguments: dict[str, Any],
    on_end: Callable[[int], None] = lambda moments: None,
) -> Iterator[Any]:
    """Sends one request and yields its answers as they come. Whoever takes them may pause: they wait here, and hold nobody up.

    `on_end`: told how many moments of the store the answers show, when they are all there.

    Raises:
        MatyanError: what the other side says, or an argument that no message holds; Unavailable when it went away.
    """
    request = _request(op, arguments)
    with connect() as connection:
        try:
            connection.sendall(request)
        except OSError as error:
            raise Unavailable(_GONE) from error
        with connection.makefile("rb", buffering=1 << 18) as stream:
            yield from answered(stream, partial(_hang_up, connection), on_end)


def answered(
    stream: Stream, hang_up: Callable[[], None], on_end: Callable[[int], None]
) -> Iterator[Any]:
    """The rows of an answer that comes as messages. hang_up: ends the stream, called from another thread.

    Raises:
        MatyanError: what the other side says; Unavailable when it went away.
    """
    with closing(Spool(_messages(stream), hang_up)) as came:
        yield from _rows(came, on_end)


def is_answered(folder: Path) -> bool:
    """Whether somebody holds the folder and takes requests.

    Raises:
        ConfigurationError: its socket belongs to another user.
    """
    try:
        connect(folder).close()
    except Unavailable:
        return False
    return True


def _rows(came: Iterable[bytes], on_end: Callable[[int], None]) -> Iterator[Any]:
    for message in came:
        match _unpacked(message):
            case [messages.END]:
                on_end(1)
                return
            case [messages.END, int(moments)]:
                on_end(moments)
                return
            case [messages.ERROR, str(name), str(text)]:
                raise error_of(name, text)
            case [messages.ITEMS, list(rows)]:
                yield from rows
            case _:
                raise ConfigurationError(_NO_ANSWER)
    raise Unavailable(_GONE)


def _unpacked(message: bytes) -> object:
    try:
        return unpack_message(message)
    except ValueError:
        return None


def connect(folder: Path) -> socket.socket:
    """
    Raises:
        Unavailable: nobody holds the folder.
        ConfigurationError: its socket belongs to another user.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(folder) as address:
            connection.connect(address)
    except PermissionError:
        connection.close()
        raise ConfigurationError(
            f"{folder / SOCKET_NAME} belongs to another user: run this command as the user who runs matyan up."
        ) from None
    except OSError as error:
        connection.close()
        raise Unavailable(
            f"Nobody answers at {folder / SOCKET_NAME} ({error}): run the same command again."
        ) from error
    return connection


def _messages(stream: Stream) -> Iterator[bytes]:
    """The whole messages that come, until the other side goes.

    Raises:
        ConfigurationError: what comes is none.
    """
    try:
        while (body := received(stream)) is not None:
            yield body
    except (OSError, HTTPException):
        return
    except ValueError:
        raise ConfigurationError(_NO_ANSWER) from None


def _hang_up(connection: socket.socket) -> None:
    """Wakes whoever reads from it, in any thread."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _request(op: str, arguments: dict[str, Any]) -> bytes:
    """
    Raises:
        MatyanError: msgpack cannot hold an argument, and neither does any store: a word of a command line that is no UTF-8,
            an integer beyond 64 bits.
    """
    try:
        return pack_message({"op": op, **arguments})
    except UnicodeEncodeError as error:
        raise MatyanError(f"{error.object!r} is no valid Unicode: no name is written so.") from None
    except OverflowError:
        raise MatyanError(
            f"{op!r} was asked with a number beyond 64 bits: choose a smaller one."
        ) from None


def error_of(name: str, text: str) -> MatyanError:
    """The error that the other side names."""
    kind = getattr(errors, name, None)
    known = isinstance(kind, type) and issubclass(kind, MatyanError)
    return kind(text) if known and kind is not None else MatyanError(text)
