"""Strict JSON (RFC 8259) of whatever stands in a store: the one encoder of all `--json`, of `export --format jsonl` and of the log.

JSON has no NaN and no infinities: they are the strings "NaN", "Infinity" and "-Infinity", as in the JSON mapping of Protocol Buffers.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any


def _foreign(value: object) -> str:
    """msgpack knows more than JSON: bytes come as text, with backslash notation where they are no UTF-8."""
    return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)


def number(value: float) -> str:
    """A float or an integer as JSON text."""
    return repr(value) if math.isfinite(value) else f'"{_word(value)}"'


def dumps(
    value: object,
    *,
    indent: int | None = None,
    ascii: bool = True,
    default: Callable[[object], Any] = _foreign,
) -> str:
    """`value` as JSON that every parser takes and no terminal obeys.

    Args:
        ascii: False lets letters through that Unicode calls printable.
        default: makes a value that JSON knows out of one that it does not know.
    """

    def encoded(value: object) -> str:
        return json.dumps(
            value, indent=indent, ensure_ascii=ascii, allow_nan=False, default=default
        )

    try:
        text = encoded(value)
    except (ValueError, TypeError):
        # Rare, so that the usual case pays for no walk: a float that is not finite, or a key that is no text.
        text = encoded(_strict(value, default))
    # The line ends between values are ours; in texts they stand escaped.
    return text if text.replace("\n", "").isprintable() else "".join(map(_visible, text))


def _visible(letter: str) -> str:
    return letter if letter.isprintable() or letter == "\n" else json.dumps(letter)[1:-1]


def _strict(value: object, default: Callable[[object], Any]) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else _word(value)
    if value is None or isinstance(value, (str, int)):
        return value
    if isinstance(value, Mapping):
        return {_key(key, default): _strict(inner, default) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(inner, default) for inner in value]
    return _strict(default(value), default)


def _key(key: object, default: Callable[[object], Any]) -> str:
    if isinstance(key, str):
        return key
    strict = _strict(key, default)
    return strict if isinstance(strict, str) else json.dumps(strict)


def _word(value: float) -> str:
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
