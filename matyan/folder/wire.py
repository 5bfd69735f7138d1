"""The wire between a command and whoever has the store open: a data folder's socket, and the messages (`service/messages.py`).

One request a connection: a map with "op" and its arguments. `client.py` asks, `server.py` answers.

Behind the request "lend" the connection is a session on one moment of the store (`lent.py`, `lending.py`), with one answer `[ITEMS, what]`
or error for it and for each further message: `["get", key]`, `["scan", begin, end, limit, reverse, most]`, `["many", keys, ranges, most]`, `["commit", reads, scans, clears, writes]`.
"""

from __future__ import annotations

import os
import tempfile
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
_SOCKET_PATH_BYTES = 103
"""sun_path of Macs and BSDs holds 104 with the final zero, that of Linux 108."""
_DESCRIPTORS = Path("/proc/self/fd")


@contextmanager
def socket_address(folder: Path, descriptors: Path = _DESCRIPTORS) -> Iterator[str]:
    """An address of the socket in `folder` that is short enough for bind() and connect().

    A longer one is reached through the folder's descriptor; on systems where descriptors have no names, through a link in a
    folder for temporary files.
    """
    direct = str(folder / SOCKET_NAME)
    if len(os.fsencode(direct)) <= _SOCKET_PATH_BYTES:
        yield direct
        return
    if not descriptors.is_dir():
        with tempfile.TemporaryDirectory(prefix="matyan-") as short:
            link = Path(short, "data")
            link.symlink_to(folder.absolute(), target_is_directory=True)
            yield str(link / SOCKET_NAME)
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"{descriptors}/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)
