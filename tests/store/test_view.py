"""A view of an engine that forgets its moments: what a long read gets when the store changes under it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.errors import Expired
from matyan.store.base import KeyValue, Range
from matyan.store.view import RenewedView


class Moment:
    """Gives so many pairs and values, then it is forgotten."""

    prefetches = False

    def __init__(self, rows: dict[bytes, bytes], lasts: int) -> None:
        self._rows = dict(rows)
        self._left = lasts

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def _spend(self) -> None:
        if not self._left:
            raise Expired("forgotten")
        self._left -= 1

    def get(self, key: bytes) -> bytes | None:
        self._spend()
        return self._rows.get(key)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        found = sorted(
            (row for row in self._rows.items() if begin <= row[0] < end), reverse=reverse
        )
        for pair in found[: limit or None]:
            self._spend()
            yield pair


@given(st.integers(0, 30), st.integers(1, 9), st.integers(0, 12), st.booleans(), st.integers(0, 31))
def test_a_scan_over_many_moments_gives_each_key_once_and_in_order(
    rows: int, lasts: int, limit: int, reverse: bool, begin: int
) -> None:
    """From both ends, limited or not, wherever it is cut; and counts the moments."""
    stored = {b"%02d" % i: b"" for i in range(rows)}
    view = RenewedView(lambda: Moment(stored, lasts))
    found = [key for key, _ in view.scan(b"%02d" % begin, b"99", limit=limit, reverse=reverse)]
    expected = sorted((key for key in stored if key >= b"%02d" % begin), reverse=reverse)
    assert found == expected[: limit or None]
    assert view.moments == max(1, -(-len(found) // lasts))


def test_a_scan_goes_on_in_the_store_as_it_has_become() -> None:
    """Behind the last pair that it gave: what came there is seen, what came before is not."""
    rows = {b"a": b"1", b"c": b"1", b"e": b"1"}
    view = RenewedView(lambda: Moment(rows, 2))
    scan = view.scan(b"", b"z")
    assert [next(scan), next(scan)] == [(b"a", b"1"), (b"c", b"1")]
    rows |= {b"b": b"2", b"d": b"2", b"e": b"2"}
    assert list(scan) == [(b"d", b"2"), (b"e", b"2")]
    assert view.moments == 2


def test_two_scans_of_a_view_go_on_at_the_same_moment() -> None:
    """Walked side by side, each of them keeps its own place."""
    rows = {b"%d" % i: b"" for i in range(8)}
    view = RenewedView(lambda: Moment(rows, 3))
    pairs = zip(view.scan(b"", b"z"), view.scan(b"", b"z"), strict=True)
    assert all(one == other for one, other in pairs)
    assert view.moments == 6


def test_an_engine_that_is_too_slow_for_any_moment_is_not_asked_for_ever() -> None:
    view = RenewedView(lambda: Moment({b"a": b""}, 0))
    with pytest.raises(Expired):
        view.get(b"a")
    with pytest.raises(Expired):
        next(view.scan(b"", b"z"))
