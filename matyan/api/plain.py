"""JSON answers: strict, with null for the numbers that JSON has no word for; and empty ones."""

from __future__ import annotations

import json
from typing import Any

from quart import Response

from matyan.api.asked import Refused


def dumped(value: Any) -> str:
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except ValueError:
        return json.dumps(finite(value), ensure_ascii=False, separators=(",", ":"))


def finite(value: Any) -> Any:
    """The same with None for NaN and infinities."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {name: finite(child) for name, child in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(child) for child in value]
    return value


def answer(value: Any, status: int = 200) -> Response:
    return Response(dumped(value), status, content_type="application/json")


def empty(status: int, headers: dict[str, str] | None = None) -> Response:
    """An answer that has no body, such as 204 or 304."""
    # Quart asks asyncio for a body that is not given, and there is none here.
    response = Response("", status, headers)
    # What they would say is no fact of the resource (RFC 9110, 8.6 and 15.4.5).
    del response.headers["Content-Length"], response.headers["Content-Type"]
    return response


def refusal(error: Refused) -> Response:
    return answer(error.body(), error.status)
