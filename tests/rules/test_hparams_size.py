"""What one log_hparams writes: exactly what the frontier counts, and no more than one transaction of FoundationDB takes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given

from matyan._codec import decode_records
from matyan.keys import unpack
from matyan.store.base import KeyValue, Range, exhausted
from tests.codec.test_limits import RUN, SHAPES, accepted, hparams, rows_of, validate, values
from tests.ledger import Ledger, record

# FoundationDB 7.3 counts a transaction so (NativeAPI.actor.cpp, Transaction::getSize): what its mutations and its conflict
# ranges hold, and sizeof of each. The rows that `update` takes in one call have one write conflict range in common.
TRANSACTION_BYTES = 10_000_000
MUTATION_BYTES = 44
RANGE_BYTES = 24


class Measured:
    """A transaction on a dict that keeps what was written and counts it as FoundationDB does."""

    prefetches = False

    def __init__(self, stored: dict[bytes, bytes]) -> None:
        self._stored = stored
        self.get = stored.get
        self.rows: dict[bytes, bytes] = {}
        self.size = 0

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        keys = sorted((key for key in self._stored if begin <= key < end), reverse=reverse)
        return iter([(key, self._stored[key]) for key in keys[: limit or None]])

    def scan_each(self, ranges: Sequence[tuple[bytes, bytes]]) -> Iterator[KeyValue]:
        """In one scan: there may be 100,000 ranges."""
        rest = iter(ranges)
        begin, end = next(rest, (b"", b""))
        for pair in self.scan(ranges[0][0], ranges[-1][1]) if ranges else ():
            while pair[0] >= end:
                begin, end = next(rest)
            if pair[0] >= begin:
                yield pair

    def set(self, key: bytes, value: bytes) -> None:
        self.update([(key, value)])

    def clear(self, key: bytes) -> None:
        self.update([(key, None)])

    def update(self, pairs: Iterable[tuple[bytes, bytes | None]]) -> None:
        written = []
        for key, value in pairs:
            self.size += MUTATION_BYTES + len(key) + (len(key) + 1 if value is None else len(value))
            self.rows.pop(key, None)
            if value is None:
                self._stored.pop(key, None)
            else:
                self.rows[key] = self._stored[key] = value
            written.append(key)
        if written:
            self.size += RANGE_BYTES + len(min(written)) + len(max(written)) + 1

    update_guarded = update

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self.size += MUTATION_BYTES + RANGE_BYTES + 2 * (len(begin) + len(end))
        for rows in self.rows, self._stored:
            for key in [key for key in rows if begin <= key < end]:
                del rows[key]


class Store:
    """Where one log_hparams after another is written."""

    def __init__(self) -> None:
        self.rows: dict[bytes, bytes] = {}
        self._ledger = Ledger()
        self.apply(record("add_tag", RUN, tag_name="t"))

    def apply(self, *values: bytes) -> Measured:
        measured = Measured(self.rows)
        unit = self._ledger.rules.begin(measured, "T/0")
        for op in decode_records(values):
            unit.apply(op)
        exhausted(unit.ending())
        self._ledger.rules.committed(unit)
        return measured


@given(values)
def test_what_is_counted_is_what_is_written(value: dict[str, Any]) -> None:
    """Row for row, whatever it holds; but for updated_at, and with a directory's prefix as long as the longest."""
    frame = validate(hparams(value))
    if frame.rejected:
        return
    measured = Store().apply(frame.records[0])
    written = {
        (unpack(key, 1), row)
        for key, row in measured.rows.items()
        if unpack(key, 1)[0] not in ("activity", "shape")
        and unpack(key, 1)[1:3] != ("meta", "updated_at")
    }
    assert written == {(unpack(key, 3), row) for key, row in rows_of(value)}


def nearly_most(shape: Any) -> Any:
    """As many leaves of it as the frontier takes, but for some hundredths."""
    few = shape(500)
    stored = sum(len(key) + len(row) for key, row in rows_of(few))
    leaves = int(500 * min(4_000_000 / stored, 890_000 / len(json.dumps(few))))
    while not accepted(hparams(shape(leaves))):
        leaves -= leaves // 50
    return shape(leaves)


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


WORST: dict[str, Any] = {
    **{name: SHAPES[name] for name in ("indexed", "indexed texts", "at the top", "zeros")},
    "small numbers": lambda n: {"a": [1] * n},
    "short names at the top": lambda n: {f"{i:x}": 1 for i in range(n)},
    "short hyperparameters": lambda n: {"hparams": {f"{i:x}": 1 for i in range(n)}},
    "short hyperparameters beside others": lambda n: {
        "hparams": {f"{i:x}": 1 for i in range(n)},
        "b": 1,
    },
}


@pytest.mark.parametrize("shape", WORST.values(), ids=WORST)
def test_the_largest_one_fits_a_transaction(shape: Any) -> None:
    """New, sent again, and where all other names stood."""
    value = nearly_most(shape)
    (new,) = validate(hparams(value)).records
    (other,) = validate(hparams(renamed(value))).records
    store = Store()
    sizes = [store.apply(sent).size for sent in (new, new, other)]
    assert max(sizes) <= TRANSACTION_BYTES, sizes
