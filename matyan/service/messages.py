"""Answers about a store, as messages: at a data folder's socket, and as the body of an HTTP answer.

Each message is a length (4 bytes, big endian) and msgpack: `[ITEMS, [item, …]]`, the last one `[END]` or `[ERROR, class, text]`; `[END,
moments]` when what was read is of several moments of the store. No socket here, and nothing that knows what is asked.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Generator, Iterator
from typing import Any, Protocol

import msgpack

from matyan.errors import MatyanError

ITEMS, END, ERROR = 0, 1, 2
MESSAGE_BYTES = 1 << 30
HEADER = struct.Struct(">I")

_ANSWER_BYTES = 256 << 10
"""Rows of an answer are sent when they have so many bytes: each sending crosses from one thread to another."""
_ANSWER_S = 0.2
"""Or when so much time has passed: rows that take long are sent one by one, and a store that must be opened again waits no longer."""


def pack_message(message: object) -> bytes:
    """One message, its length first."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    return HEADER.pack(len(body)) + body


def unpack_message(body: bytes) -> Any:
    # Free values of users may hold anything that msgpack holds, non-string keys never.
    return msgpack.unpackb(body, raw=False, strict_map_key=False)


def message_length(header: bytes) -> int:
    """Raises ValueError when this is no header of ours."""
    (length,) = HEADER.unpack(header)
    if length > MESSAGE_BYTES:
        raise ValueError(f"a message of {length} bytes")
    return int(length)


class Stream(Protocol):
    """Bytes that come, as a file."""

    def read(self, size: int, /) -> bytes:
        """So many, fewer only at the end."""
        ...


def received(stream: Stream) -> bytes | None:
    """The body of the next message; None: the other side has gone.

    Raises:
        ValueError: what comes is no message.
    """
    header = stream.read(HEADER.size)
    if len(header) < HEADER.size:
        return None
    length = message_length(header)
    body = stream.read(length)
    return body if len(body) == length else None


def packed(item: object) -> bytes:
    data: bytes = msgpack.packb(item, use_bin_type=True, default=str)
    return data


def items(rows: list[bytes]) -> bytes:
    """`pack_message([ITEMS, rows])` of rows that are packed already."""
    head = b"\x92" + msgpack.packb(ITEMS) + msgpack.Packer().pack_array_header(len(rows))
    length = len(head) + sum(map(len, rows))
    return b"".join((length.to_bytes(4, "big"), head, *rows))


def end(moments: int) -> bytes:
    """The end of an answer, which saw so many moments of the store."""
    return pack_message([END] if moments == 1 else [END, moments])


def refusal(error: MatyanError) -> bytes:
    return pack_message([ERROR, type(error).__name__, str(error)])


class Pieces:
    """The rows of a read as messages of about `_ANSWER_BYTES`, or of what came in `_ANSWER_S`. A row that is None says no more than that
    the reading goes on."""

    def __init__(self, rows: Iterator[object]) -> None:
        self._rows = rows
        self._error: MatyanError | None = None

    def next(self) -> tuple[bytes, bool]:
        """The next message, empty when there is no row, and whether it is the last.

        Raises:
            MatyanError: what ended the rows; those before it were handed out.
        """
        if self._error is not None:
            raise self._error
        came: list[bytes] = []
        size, until = 0, time.monotonic() + _ANSWER_S
        try:
            for item in self._rows:
                if item is not None:
                    came.append(packed(item))
                    size += len(came[-1])
                if size >= _ANSWER_BYTES or time.monotonic() > until:
                    return items(came), False
        except MatyanError as error:
            if not came:
                raise
            self._error = error
            return items(came), False
        return items(came) if came else b"", True

    def close(self) -> None:
        if isinstance(self._rows, Generator):
            self._rows.close()
