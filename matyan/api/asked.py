"""What a request asks: its parameters as values, and the errors that are the caller's fault.

The web app sends its parameters form-encoded; one that is empty means its default.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from werkzeug.datastructures import MultiDict

from matyan.errors import MatyanError

CODES: Final = {
    400: "bad_request",
    404: "not_found",
    409: "conflict",
    413: "bad_request",
    415: "bad_request",
    422: "validation_error",
    500: "internal_error",
    503: "unavailable",
}

TIMEZONE: Final = "X-Timezone-Offset"

_TRUE: Final = {"true", "1"}
_FALSE: Final = {"false", "0"}

Range = tuple[int | None, int | None]
"""Steps from the first to before the second; None: no bound."""


class Refused(MatyanError):
    """The request cannot be answered: status, a sentence, and what the web app wants beside it."""

    def __init__(self, status: int, sentence: str, **beside: object) -> None:
        super().__init__(sentence)
        self.status = status
        self.beside = beside

    def body(self) -> dict[str, object]:
        """`message` is what the web app shows, `detail` what its reports do."""
        return error_body(self.status, str(self)) | self.beside


def error_body(status: int, sentence: str) -> dict[str, object]:
    code = CODES.get(status, "bad_request" if status < 500 else "internal_error")
    return {
        "error": {"code": code, "message": sentence},
        "message": sentence,
        "detail": sentence,
    }


def flag(args: Mapping[str, str], name: str, default: bool) -> bool:
    """
    Raises:
        Refused: it is no boolean.
    """
    text = args.get(name, "").strip().lower()
    if not text:
        return default
    if text in _TRUE or text in _FALSE:
        return text in _TRUE
    raise Refused(422, f"{name}: expected true or false, got {args[name][:50]!r}.")


def several(args: MultiDict[str, str], name: str) -> list[str]:
    """What a parameter that may be repeated says; an empty one says nothing."""
    return [text for text in args.getlist(name) if text.strip()]


def whole(args: Mapping[str, str], name: str, default: int, *, least: int = 0) -> int:
    """A whole number of int64.

    Raises:
        Refused: it is none, or below `least`.
    """
    text = args.get(name, "").strip()
    if not text:
        return default
    number = _number(text, name)
    if number < least:
        raise Refused(422, f"{name}: expected a whole number from {least} on, got {number}.")
    return number


def steps(args: Mapping[str, str], name: str) -> Range:
    """`start:stop`, stop exclusive, either may be missing.

    Raises:
        Refused: it is none.
    """
    text = args.get(name, "").strip()
    if not text:
        return None, None
    first, colon, last = text.partition(":")
    if not colon:
        raise Refused(422, f"{name}: expected start:stop, got {text[:50]!r}.")
    return (
        _number(first, name) if first.strip() else None,
        _number(last, name) if last.strip() else None,
    )


def _number(text: str, name: str) -> int:
    digits = text.strip()
    # int() takes underscores and letters of other scripts, and more digits than it should.
    if not (digits.lstrip("+-").isdecimal() and digits.isascii() and len(digits) < 21):
        raise Refused(422, f"{name}: expected a whole number, got {text[:50]!r}.")
    number = int(digits) if digits.count("-") + digits.count("+") < 2 else 1 << 63
    if not -(1 << 63) <= number < 1 << 63:
        raise Refused(422, f"{name}: {digits} is beyond 64 bits.")
    return number


def timezone(text: str) -> int:
    """Minutes from local time to UTC, as JavaScript's getTimezoneOffset() has it: -240 in UTC+4. text: of the header."""
    try:
        offset = int(float(text)) if text.strip() else 0
    except (ValueError, OverflowError):
        offset = 0
    # No place on Earth is further away; what is, is no time zone.
    return offset if abs(offset) <= 24 * 60 else 0


def body(data: bytes | str) -> Any:
    """The JSON of a request.

    Raises:
        Refused: it is none.
    """
    try:
        text = data.decode() if isinstance(data, bytes) else data
        asked = json.loads(text)
        if "\\u" in text:
            # Half of a surrogate pair can be escaped, and can be written nowhere.
            json.dumps(asked, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not JSON in UTF-8.") from None
    return asked


def members(data: bytes | str, **types: type | tuple[type, ...]) -> dict[str, Any]:
    """An object's members that are not null and that have a name among `types`.

    Raises:
        Refused: it is no object, or a member has another type.
    """
    asked = body(data)
    if not isinstance(asked, dict):
        raise Refused(422, "The body is not a JSON object.")
    found = {}
    for name, type_ in types.items():
        value = asked.get(name)
        if value is None:
            continue
        if not isinstance(value, type_) or (isinstance(value, bool) and type_ is not bool):
            raise Refused(422, f"{name}: not what is expected here.")
        found[name] = value
    return found


def texts(data: bytes | str) -> list[str]:
    """A list of texts, such as run ids.

    Raises:
        Refused: it is none.
    """
    asked = body(data)
    if not isinstance(asked, list) or not all(isinstance(item, str) for item in asked):
        raise Refused(422, "The body is not a JSON list of texts.")
    return asked


def wanted_sequences(data: bytes | str) -> list[tuple[str, dict[str, Any]]]:
    """A list of `{name, context}`.

    Raises:
        Refused: it is none.
    """
    asked = body(data)
    if not isinstance(asked, list):
        raise Refused(422, "The body is not a JSON list of {name, context}.")
    return [sequence(item) for item in asked]


def sequence(item: object) -> tuple[str, dict[str, Any]]:
    """
    Raises:
        Refused: it is no `{name, context}`.
    """
    if isinstance(item, dict) and isinstance(item.get("name"), str):
        context = item.get("context") or {}
        if isinstance(context, dict):
            return item["name"], context
    raise Refused(422, "Expected {name, context}, with a text and an object.")
