"""The wire between a command and whoever has the store open: a data folder's socket, and the messages (`service/messages.py`).

One request a connection: a map with "op" and its arguments. `client.py` asks, `server.py` answers.

Behind the request "lend" the connection is a session on one moment of the store (`lent.py`, `lending.py`), with one answer `[ITEMS, what]`
or error for it and for each further message: `["get", key]`, `["scan", begin, end, limit, reverse, most]`, `["many", keys, ranges, most]`, `["commit", reads, scans, clears, writes]`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matyan.service.messages import (
    END,
    ERROR,
    HEADER,
    ITEMS,
    message_length,
    pack_message,
    received,
    unpack_message,
)

__all__ = [
    "END",
    "ERROR",
    "HEADER",
    "ITEMS",
    "LEND",
    "SOCKET_NAME",
    "message_length",
    "pack_message",
    "received",
    "socket_address",
    "unpack_message",
]

SOCKET_NAME = "matyan.sock"
LEND = "lend"
_SOCKET_PATH_BYTES = 107
"""sun_path of Linux holds 108 with the final zero."""


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
