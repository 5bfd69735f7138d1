"""Entries that are too large for one value: how they stand in parts, and what readers see that know no parts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from matyan import readable
from matyan._codec import LOG_RECORDS
from matyan.keys import range_of
from matyan.rules.sequences.state import State
from matyan.store.base import Range, Transaction, scan

PART_BYTES: Final = 90_000
CUT_BYTES: Final = 60_000
"""So much of a line that stands in parts is seen by a reader that knows no parts."""


def any_part(parts_prefix: bytes) -> Range:
    """What `has_parts` reads."""
    return Range(*range_of(parts_prefix), limit=1)


def has_parts(tr: Transaction, state: State) -> bool:
    if state.parts is None:
        state.parts = next(scan(tr, any_part(state.parts_prefix)), None) is not None
    return state.parts


def joined(parts: Iterator[bytes]) -> object:
    """The value that stands in these parts; None when there are none, or not all of them."""
    return readable.found(b"".join(parts) or None)


def outline(name: str, value: object, parts: int) -> object:
    """What stands as val where the value itself stands in parts: for readers that do not know them."""
    if isinstance(value, str):
        return _cut_text(value)
    assert isinstance(value, dict)
    if name == LOG_RECORDS and isinstance(value.get("message"), str):
        message = _cut_text(value["message"])
        return {**value, "message": message, "args": None, "logger_info": None}
    return {"type": value.get("type"), "data": None, "__parts__": parts}


def _cut_text(text: str) -> str:
    encoded = text.encode()
    # A character that is cut in two goes.
    return f"{encoded[:CUT_BYTES].decode(errors='ignore')} … [cut, {len(encoded)} bytes]"
