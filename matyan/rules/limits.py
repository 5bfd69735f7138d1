"""How large a stored key and value may be, and the one place that checks it.

FoundationDB takes no value over 100,000 bytes and no key over 10,000; a write of one would fail for ever. The frontier
refuses what is too large (contract, section 6), but other programs write records too: so whatever the rules write goes
through `Limited`, and a record that would store more is an InvalidRecord.
"""

from __future__ import annotations

from collections.abc import Iterable

from matyan._codec import MAX_KEY_BYTES, MAX_VALUE_BYTES
from matyan.errors import InvalidRecord
from matyan.keys import pack_value
from matyan.store.base import Transaction


def check(key: bytes, value: bytes) -> None:
    """Raises InvalidRecord when one of them is over its limit."""
    if len(key) > MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
        raise _refusal(key, value)


def _refusal(key: bytes, value: bytes) -> InvalidRecord:
    if len(key) > MAX_KEY_BYTES:
        return InvalidRecord(f"a key of {len(key)} bytes is over the limit of {MAX_KEY_BYTES}")
    return InvalidRecord(f"a value of {len(value)} bytes is over the limit of {MAX_VALUE_BYTES}")


def packed(value: object, name: str = "a value") -> bytes:
    """`pack_value` of a value that came in a record; `name` is what an error calls it.

    Raises:
        InvalidRecord: msgpack cannot hold it.
    """
    try:
        return pack_value(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidRecord(f"{name}: {error}") from None


class Limited:
    """A transaction that takes no write over the limits."""

    __slots__ = (
        "_set",
        "_update",
        "_update_guarded",
        "clear",
        "clear_range",
        "get",
        "prefetch",
        "prefetches",
        "scan",
        "scan_each",
    )

    def __init__(self, tr: Transaction) -> None:
        self._set = tr.set
        self._update = tr.update
        self._update_guarded = tr.update_guarded
        self.prefetches = tr.prefetches
        self.prefetch = tr.prefetch
        self.get = tr.get
        self.scan = tr.scan
        self.scan_each = tr.scan_each
        self.clear = tr.clear
        self.clear_range = tr.clear_range

    def set(self, key: bytes, value: bytes) -> None:
        # `check`, without its call: each row that is no point's comes this way.
        if len(key) > MAX_KEY_BYTES or len(value) > MAX_VALUE_BYTES:
            raise _refusal(key, value)
        self._set(key, value)

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._update(_checked(pairs))

    def update_guarded(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        self._update_guarded(_checked(pairs))


def _checked(pairs: Iterable[tuple[bytes, bytes | None]]) -> list[tuple[bytes, bytes | None]]:
    pairs = list(pairs)
    for key, value in pairs:
        check(key, value or b"")
    return pairs
