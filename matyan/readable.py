"""What readers get of a stored row, whatever stands there: another program wrote it, or a disk damaged it.

A key that is none of the layout's is skipped, a value that cannot be read is marked; nothing here raises. To a writer,
None says no more than that nothing can be read there: it is no leave to begin anew.
"""

from __future__ import annotations

import struct
from datetime import datetime
from typing import Any, Final, TypeGuard

from matyan.keys import unpack, unpack_value

MOST_DEPTH: Final = 128
"""Of a nested value. Records hold 64 levels; Python's JSON and msgpack end somewhere beyond 500."""

_DOUBLE = 0xCB  # msgpack's float 64
_unpack_double = struct.Struct(">d").unpack_from

_PLAIN = frozenset((float, str, int, bool, type(None)))
_UNREADABLE = object()
# What msgpack raises, and what comes of a date that is none.
_ERRORS = (ArithmeticError, OSError, TypeError, ValueError)


def elements(key: bytes, start: int, *types: type) -> tuple[Any, ...] | None:
    """The tuple elements behind `start`; None when they are not exactly of these types (a bool is no int)."""
    try:
        items = unpack(key, start)
    except ValueError:
        return None
    return items if tuple(map(type, items)) == types else None


def value(packed: bytes) -> Any:
    """The value, made of what JSON can hold."""
    got = _unpacked(packed)
    return f"[unreadable: {len(packed)} bytes]" if got is _UNREADABLE else got


def found(packed: bytes | None) -> Any:
    """The value, or None where none stands that can be read."""
    got = _UNREADABLE if packed is None else _unpacked(packed)
    return None if got is _UNREADABLE else got


def number(packed: bytes | None) -> int | float | None:
    """The number that stands there, or None."""
    if packed is None:
        return None
    # Points are read here, so not by way of `found`; and nearly all are doubles.
    if len(packed) == 9 and packed[0] == _DOUBLE:
        double: float = _unpack_double(packed, 1)[0]
        return double
    try:
        got = unpack_value(packed)
    except _ERRORS:
        return None
    return got if type(got) is float or type(got) is int else None


def text(packed: bytes | None) -> str | None:
    """The text that stands there, or None."""
    got = found(packed)
    return got if isinstance(got, str) else None


def is_number(got: object) -> TypeGuard[int | float]:
    return type(got) is float or type(got) is int


def is_int64(got: object) -> TypeGuard[int]:
    return type(got) is int and -(2**63) <= got < 2**63


def _unpacked(packed: bytes) -> object:
    try:
        got = unpack_value(packed)
        return got if type(got) in _PLAIN else _plain(got, 0)
    except _ERRORS:
        return _UNREADABLE


def _plain(got: object, depth: int) -> object:
    if type(got) in _PLAIN:
        return got
    if depth == MOST_DEPTH:
        return "[nested too deep]"
    if isinstance(got, dict):
        return {_name(key): _plain(child, depth + 1) for key, child in got.items()}
    if isinstance(got, list):
        return [_plain(child, depth + 1) for child in got]
    if isinstance(got, datetime):
        return got.isoformat()
    if isinstance(got, bytes):
        return f"[{len(got)} bytes]"
    return f"[{type(got).__name__}]"


def _name(key: object) -> str:
    return key if isinstance(key, str) else str(_plain(key, MOST_DEPTH))
