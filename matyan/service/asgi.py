"""The words of ASGI, for a type checker, and what every app that answers before a body's end needs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio

from matyan.service.http1 import Answer

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


async def answered(
    answer: Answer, receive: Receive, send: Send, *, head_only: bool = False
) -> None:
    """Sends a small answer to a request, whose body is not read."""
    headers = [
        (b"content-type", answer.content_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in answer.headers),
    ]
    async with rest_discarded(receive):
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if head_only else answer.body})
