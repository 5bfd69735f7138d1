"""What one log_hparams writes: exactly what the frontier counts, and no more than one transaction of FoundationDB takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given

from matyan._codec import decode_records
from matyan.keys import unpack
from matyan.rules.records import Unit
from matyan.store.base import KeyValue, Transaction
from tests.codec.test_limits import RUN, SHAPES, accepted, hparams, rows_of, validate, values
from tests.ledger import Ledger, record

# FoundationDB 7.3 counts a transaction so (NativeAPI.actor.cpp, Transaction::getSize): what its mutations and its conflict
# ranges hold, and sizeof of each. The rows that `update` takes in one call have one write conflict range in common.
TRANSACTION_BYTES = 10_000_000
MUTATION_BYTES = 44
RANGE_BYTES = 24


class Measured:
    """A transaction that keeps what was written and counts it as FoundationDB does."""

    prefetches = False

    def __init__(self, tr: Transaction) -> None:
        self._tr = tr
        self.get, self.scan = tr.get, tr.scan
        self.prefetch = tr.prefetch
        self.rows: dict[bytes, bytes] = {}
        self.size = 0

    def _covers(self, begin: bytes, end: bytes) -> None:
        self.size += len(begin) + len(end) + RANGE_BYTES

    def _write(self, key: bytes, value: bytes | None) -> None:
        self.size += MUTATION_BYTES + len(key) + (len(key) + 1 if value is None else len(value))
        self._tr.update_guarded([(key, value)])  # what it conflicts with is counted here
        self.rows.pop(key, None)
        if value is not None:
            self.rows[key] = value

    def set(self, key: bytes, value: bytes) -> None:
        self._write(key, value)
        self._covers(key, key + b"\x00")

    def clear(self, key: bytes) -> None:
        self._write(key, None)
        self._covers(key, key + b"\x00")

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        pairs = list(pairs)
        for key, value in pairs:
            self._write(key, value)
        if pairs:
            written = [key for key, _ in pairs]
            self._covers(min(written), max(written) + b"\x00")

    update_guarded = update

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        """In one scan: there may be 100,000 ranges."""
        rest = iter(ranges)
        begin, end = next(rest, (b"", b""))
        for pair in self._tr.scan(ranges[0][0], ranges[-1][1]) if ranges else ():
            while pair[0] >= end:
                begin, end = next(rest)
            if pair[0] >= begin:
                yield pair

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self.size += MUTATION_BYTES + len(begin) + len(end)
        self._covers(begin, end)
        self._tr.clear_range(begin, end)
        self.rows = {key: row for key, row in self.rows.items() if not begin <= key < end}


def applied(ledger: Ledger, *values: bytes) -> Measured:
    def body(tr: Any) -> tuple[Measured, Unit]:
        measured = Measured(tr)
        unit = ledger.rules.begin(measured, "T/0")
        for op in decode_records(values):
            unit.apply(op)
        return measured, unit

    measured, unit = ledger.store.commit(body)
    ledger.rules.committed(unit)
    return measured


def begun() -> Ledger:
    ledger = Ledger()
    ledger.apply(record("add_tag", RUN, tag_name="t"))
    return ledger


@given(values)
def test_what_is_counted_is_what_is_written(value: dict[str, Any]) -> None:
    """Row for row, whatever it holds; but for updated_at, and with a directory's prefix as long as the longest."""
    frame = validate(hparams(value))
    if frame.rejected:
        return
    measured = applied(begun(), frame.records[0])
    written = {
        (unpack(key, 1), row)
        for key, row in measured.rows.items()
        if unpack(key, 1)[0] != "activity" and unpack(key, 1)[1:3] != ("meta", "updated_at")
    }
    assert written == {(unpack(key, 3), row) for key, row in rows_of(value)}


def largest(shape: Any) -> int:
    """How many leaves the frontier takes of it."""
    fits, over = 0, 300_000
    while over - fits > 50:
        middle = (fits + over) // 2
        fits, over = (middle, over) if accepted(hparams(shape(middle))) else (fits, middle)
    return fits


def renamed(node: Any) -> Any:
    """The same with other names of its leaves."""
    if isinstance(node, list):
        return [renamed(item) for item in node]
    if not isinstance(node, dict):
        return node
    return {
        name[:-1] + chr(ord("g") + int(name[-1], 16))
        if not isinstance(child, dict | list) and name[-1] in "0123456789abcdef"
        else name: renamed(child)
        for name, child in node.items()
    }


MORE_SHAPES: dict[str, Any] = SHAPES | {
    "small numbers": lambda n: {"a": [1] * n},
    "short names": lambda n: {"a": {f"{i:x}": 1 for i in range(n)}},
    "short names at the top": lambda n: {f"{i:x}": 1 for i in range(n)},
    "short hyperparameters": lambda n: {"hparams": {f"{i:x}": 1 for i in range(n)}},
    "short hyperparameters beside others": lambda n: {
        "hparams": {f"{i:x}": 1 for i in range(n)},
        "b": 1,
    },
}


@pytest.mark.parametrize("shape", MORE_SHAPES.values(), ids=MORE_SHAPES)
def test_the_largest_one_fits_a_transaction(shape: Any) -> None:
    """New, sent again, and where all other names stood."""
    value = shape(largest(shape))
    (new,) = validate(hparams(value)).records
    (other,) = validate(hparams(renamed(value))).records
    ledger = begun()
    sizes = [applied(ledger, sent).size for sent in (new, new, other)]
    assert max(sizes) <= TRANSACTION_BYTES, sizes
