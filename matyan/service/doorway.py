"""The door around an ASGI app: every request is judged, and browsers of other origins get what they must be told."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import trio

from matyan.service.asgi import ASGIApp, Receive, Scope, Send, rest_discarded
from matyan.service.doors import Refusal
from matyan.service.entrance import Entrance
from matyan.service.http1 import turned_away
from matyan.service.logs import get_logger
from matyan.service.telemetry import count_request

TOKEN = "matyan.token"
"""Where a request's scope has the `Token` of whoever sent it, or None."""

log = get_logger()


class Doorway:
    """Around every route: who may come in, and the answers to browsers of other origins (Fetch standard, "CORS protocol").

    The listener judges what it reads itself by the same entrance; here comes whatever Hypercorn or another server takes.
    """

    def __init__(self, inner: ASGIApp, entrance: Entrance, draining: trio.Event) -> None:
        self._inner = inner
        self._entrance = entrance
        self._draining = draining

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in {"http", "websocket"}:
            await self._inner(scope, receive, send)
            return
        doors = self._entrance.doors
        headers = _joined(scope["headers"])
        method = scope.get("method", "GET")
        if kind == "websocket":
            headers["upgrade"] = "websocket"  # another server may have taken it off
        # Without an Origin too: no cache may give that answer to a page.
        fields = [("Vary", "Origin"), *doors.cors(headers)]
        added = [(name.lower().encode(), value.encode("latin-1")) for name, value in fields]

        async def send_with_added(event: dict[str, Any]) -> None:
            if event["type"].endswith("http.response.start"):
                event = {**event, "headers": [*event.get("headers", ()), *added]}
            await send(event)

        query = scope["query_string"].decode("latin-1")
        visitor = self._entrance.judge(method, scope["path"], query, headers)
        if isinstance(visitor, Refusal):
            await self._turn_away(visitor, scope, receive, send_with_added)
        elif doors.is_preflight(method, headers):
            preflight = [
                (b"access-control-allow-methods", b"GET, HEAD, POST, PUT, DELETE, OPTIONS")
            ]
            asked = headers.get("access-control-request-headers")
            if asked is not None:
                preflight.append((b"access-control-allow-headers", asked.encode("latin-1")))
            preflight.append((b"access-control-max-age", b"600"))
            await send_with_added(
                {"type": "http.response.start", "status": 204, "headers": preflight}
            )
            await send({"type": "http.response.body", "body": b""})
        else:
            await self._inner({**scope, TOKEN: visitor.token}, receive, send_with_added)

    async def _turn_away(
        self, refusal: Refusal, scope: Scope, receive: Receive, send: Send
    ) -> None:
        tell_refused(scope.get("method", "GET"), scope["path"], refusal)
        address = (scope.get("client") or ("",))[0]
        await self._entrance.hold(refusal, address, self._draining)
        await _refuse(refusal, scope, receive, send)


def _joined(pairs: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """An ASGI scope's headers as `Doors.judge` takes them."""
    headers: dict[str, str] = {}
    for raw, value in pairs:
        name, text = raw.decode("latin-1").lower(), value.decode("latin-1").strip()
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


async def _refuse(refusal: Refusal, scope: Scope, receive: Receive, send: Send) -> None:
    answer = turned_away(refusal.status, refusal.sentence)
    headers = [
        (b"content-type", answer.content_type.encode()),
        (b"content-length", str(len(answer.body)).encode()),
        *((name.lower().encode(), value.encode()) for name, value in refusal.headers),
    ]
    prefix = "" if scope["type"] == "http" else "websocket."
    if prefix and "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close"})  # before it was accepted that is a 403
        return
    if not prefix and scope["http_version"].startswith("1"):
        headers.append((b"connection", b"close"))  # its body is not read
    async with rest_discarded(receive):
        await send(
            {
                "type": f"{prefix}http.response.start",
                "status": answer.status,
                "headers": headers,
            }
        )
        await send({"type": f"{prefix}http.response.body", "body": answer.body})


def tell_refused(method: str, path: str, refusal: Refusal) -> None:
    """Counts a request that was not let in, and logs it. What has to do with tokens anybody can cause at will: that is counted (`entrance.py`)."""
    tell = log.debug if refusal.status == 401 else log.warning
    tell("refused at the door", path=path[:255], reason=refusal.sentence)
    count_request(method, "unmatched", refusal.status, 0.0)
