"""The wire between a command and whoever has the store open: the name of a data folder's socket, and the messages.

One request a connection. Each message is a length (4 bytes, big endian) and msgpack. The request is a map with "op" and its
arguments; each answer is `[ITEMS, [item, …]]`, the last `[END]` or `[ERROR, class, text]`; `[END, moments]` when what was
read is of several moments of the store. `client.py` asks, `server.py` answers.

Behind the request "lend" the connection is a session on one moment of the store (`lent.py`, `lending.py`), with one answer `[ITEMS, what]`
or error for it and for each further message: `["get", key]`, `["scan", begin, end, limit, reverse, most]`, `["commit", reads, scans, clears, writes]`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import msgpack

SOCKET_NAME = "matyan.sock"
ITEMS, END, ERROR = 0, 1, 2
LEND = "lend"
MESSAGE_BYTES = 1 << 30
HEADER = struct.Struct(">I")
_SOCKET_PATH_BYTES = 107
"""sun_path of Linux holds 108 with the final zero."""


def pack_message(message: object) -> bytes:
    """One message of the wire, its length first."""
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


def received(stream: IO[bytes]) -> bytes | None:
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


@contextmanager
def socket_address(folder: Path) -> Iterator[str]:
    """An address of the socket in `folder` that is short enough for bind() and connect().

    A unix socket's path holds 107 bytes; a longer one is reached through the folder's descriptor.
    """
    direct = str(folder / SOCKET_NAME)
    if len(os.fsencode(direct)) <= _SOCKET_PATH_BYTES:
        yield direct
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
