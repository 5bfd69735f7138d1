"""Reads that take longer than the store remembers a moment: what they give while the store goes on changing."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from matyan.errors import Expired, NotFound
from matyan.rules.queries import Queries
from matyan.rules.sequences import Growth, Layout, Sequences, points
from matyan.store.base import KeyValue, Range, Snapshot
from matyan.store.view import RenewedView
from tests.ledger import Ledger, metric, record

layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])
TINY = Growth(early=6, latest=8, chunk=64, rewrite=1_000)
"""Many small chunks at the end, which are merged while they are read."""


class Short:
    """A snapshot that is forgotten after some pairs, and before that something is written."""

    def __init__(self, snap: Snapshot, lasts: int, meanwhile: Callable[[], object]) -> None:
        self._snap = snap
        self._left = lasts
        self._meanwhile = meanwhile
        self.prefetches = True

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None: ...

    def _spend(self) -> None:
        if self._left == 0:
            self._left = -1
            self._meanwhile()
        if self._left < 0:
            raise Expired("forgotten")
        self._left -= 1

    def get(self, key: bytes) -> bytes | None:
        self._spend()
        return self._snap.get(key)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        for pair in self._snap.scan(begin, end, limit=limit, reverse=reverse):
            self._spend()
            yield pair


def view_of(
    ledger: Ledger, lasts: Callable[[], int], meanwhile: Callable[[], object]
) -> RenewedView:
    def renew() -> Short:
        rows = dict(ledger.store.rows)
        at_that_time = Ledger(ledger.layout).store
        at_that_time.rows = rows
        return at_that_time.look(lambda snap: Short(snap, lasts(), meanwhile))

    return RenewedView(renew)


def queries(ledger: Ledger) -> Queries:
    return Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))


@layouts
@pytest.mark.parametrize("seed", range(40))
def test_points_that_are_read_over_many_moments(
    seed: int, layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each step once and in order; every one that was there at the beginning, and none that never was: whatever was
    appended, merged or rewritten meanwhile."""
    dice = random.Random(seed)
    monkeypatch.setattr(points, "READ_POINTS", dice.choice([1, 5, 20, 1_000]))
    ledger = Ledger(layout, TINY)
    written: dict[int, set[float]] = {}
    next_step = 0
    rewrites = dice.choice([0.0, 0.0, 0.1])

    def write() -> None:
        nonlocal next_step
        values = []
        for _ in range(dice.randint(1, 6)):
            if written and dice.random() < rewrites:
                step = dice.choice([*written])
            else:
                step = next_step = next_step + dice.choice([1, 1, 1, 3])
            value = dice.random()
            written.setdefault(step, set()).add(value)
            values.append(metric("m", value, step))
        ledger.apply(*values)

    for _ in range(dice.randint(20, 60)):
        write()
    before = set(written)
    left = 30

    def write_on() -> None:
        nonlocal left
        left -= 1
        if left > 0:
            write()

    view = view_of(ledger, lambda: dice.randint(1, 3), write_on)
    found = [
        row
        for block in queries(ledger)._sequences.points(view, "r", 0, "m")
        for row in block.rows()
    ]
    steps = [row[0] for row in found]
    assert steps == sorted(set(steps))
    assert before <= set(steps) <= set(written)
    for step, value, _, _ in found:
        assert value in written[step or 0]
    assert view.moments > 1


@layouts
@pytest.mark.parametrize("op", ["export", "logs"])
def test_a_run_that_is_deleted_while_it_is_read_is_an_error(op: str, layout: Layout) -> None:
    """What came until then would look like all of it."""
    ledger = Ledger(layout, TINY)
    ledger.apply(
        *(metric("m", 1.0, step) for step in range(100)),
        *(record("log_record", message=f"{i}", level=20, timestamp=1.0) for i in range(100)),
    )
    view = view_of(ledger, lambda: 20, lambda: ledger.apply(record("delete_run", at=5)))
    with pytest.raises(NotFound, match="deleted while"):
        list(getattr(queries(ledger), op)(view, run="r"))


def test_a_list_of_runs_over_many_moments_names_each_run_that_stays_once() -> None:
    """In order; one that was deleted meanwhile is no row of nothing."""
    ledger = Ledger()
    ledger.apply(*(record("create_run", f"r{n:03}", n, client_datetime=None) for n in range(500)))
    gone = iter(range(499, 0, -3))

    def delete() -> None:
        ledger.apply(record("delete_run", f"r{next(gone):03}", 600))

    rows: list[Any] = list(queries(ledger).runs(view_of(ledger, lambda: 50, delete)))
    names = [row["run"] for row in rows]
    assert names == sorted(set(names), reverse=True)
    left = {f"r{n:03}" for n in range(500)} - {f"r{n:03}" for n in range(499, 0, -3)}
    assert left <= set(names)
    assert all(row["name"] for row in rows)
