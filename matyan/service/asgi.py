"""The words of ASGI, for a type checker, and what every app that answers before a body's end needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def rest_discarded(receive: Receive) -> AsyncIterator[None]:
    """Takes what still comes while an answer goes out, and ends the answer when the client has gone.

    Hypercorn passes the body through a bounded queue and waits for room in it even to close: with nobody
    at its other end the connection would stay for ever.
    """
    async with trio.open_nursery() as nursery:

        async def discard() -> None:
            while not (await receive())["type"].endswith(".disconnect"):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(discard)
        yield
        nursery.cancel_scope.cancel()
