"""Rows that are numbered in the order in which they came, under one prefix of the store: what waits in it for somebody.

`make` is the packer of such a row's key (`keys.py`); what the rows hold is their readers' affair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from matyan import _codec
from matyan.store.base import Snapshot, Transaction

Make = Callable[[int], bytes]

_END: Final = (1 << 63) - 1
"""The end of a scan: beyond every number that a row can get."""


def rows(snap: Snapshot, make: Make, first: int = 0, limit: int = 0) -> Iterator[tuple[int, bytes]]:
    """Number and value of the rows from `first` on; a damaged key is none. limit: 0 for all."""
    for key, value in snap.scan(make(first), make(_END), limit=limit):
        try:
            number = _number(make, key)
        except ValueError:
            continue
        yield number, value


def next_number(tr: Transaction, make: Make) -> int:
    """One after the last that stands, read in the transaction: so a rerun writes the same."""
    for key, _ in tr.scan(make(0), make(_END), limit=1, reverse=True):
        return _number(make, key) + 1
    return 0


def _number(make: Make, key: bytes) -> int:
    """In the tuple layer a 0 is one byte."""
    number: int = _codec.unpack(key, len(make(0)) - 1)[0]
    return number
