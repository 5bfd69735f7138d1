"""An app that is made when its store is there: until then it says so."""

from __future__ import annotations

from collections.abc import Callable

from matyan.api.asked import error_body
from matyan.service.asgi import ASGIApp, Receive, Scope, Send, answered
from matyan.service.http1 import json_answer


class Late:
    """
    Args:
        why: why the app is not there yet, as a sentence.
    """

    def __init__(self, why: Callable[[], str]) -> None:
        self.app: ASGIApp | None = None
        self._why = why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "lifespan":
                await _live(receive, send)
            case "http" if self.app is not None:
                await self.app(scope, receive, send)
            case "http":
                await answered(json_answer(503, error_body(503, self._why())), receive, send)
            case _:
                await send({"type": "websocket.close"})  # before it was accepted: 403


async def _live(receive: Receive, send: Send) -> None:
    """Nothing begins with the server, and nothing ends with it (ASGI, "Lifespan Protocol")."""
    for event in ("startup", "shutdown"):
        await receive()
        await send({"type": f"lifespan.{event}.complete"})
