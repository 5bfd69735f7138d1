"""Every connection is an island: whatever its handler raises is logged once and ends that connection alone.

Cancelled and KeyboardInterrupt pass, also out of a group which holds a handler's exceptions beside them. What is
answered and how the connection is closed is the caller's affair.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from matyan.service.logs import get_logger

log = get_logger()


async def island(
    handle: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream
) -> None:
    """Handles a connection, as a handler of trio.serve_listeners, which closes it."""
    try:
        peer = stream.socket.getpeername()
    except OSError:  # it has gone already
        peer = None
    try:
        await handle(stream)
    except* (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
        pass  # the peer's doing, or a drain's
    except* Exception as group:  # noqa: BLE001 - this is the shore
        report(group, log, peer=peer)


def report(error: Exception, bound: Any, **about: object) -> None:
    """Logs what ended a connection: one line, since a peer may be able to cause it at will."""
    first = error
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    frames = traceback.extract_tb(first.__traceback__)
    bound.error(
        "a connection ended with an error",
        error=type(first).__name__,
        reason=str(first)[:200],
        at=f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else None,
        **about,
    )
