"""What a read costs, and in which order its rows come."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from typing import Any

import pytest

from matyan.rules import queries
from matyan.rules.queries import Queries
from matyan.rules.sequences import Layout, Sequences
from matyan.store.base import KeyValue, Snapshot
from tests.ledger import Ledger, metric, record

pytestmark = pytest.mark.usefixtures("bodies")


class Counted:
    """A snapshot that counts what is read of it."""

    prefetches = False

    def __init__(self, snap: Snapshot) -> None:
        self._snap = snap
        self.rows = 0

    def get(self, key: bytes) -> bytes | None:
        self.rows += 1
        return self._snap.get(key)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        for pair in self._snap.scan(begin, end, limit=limit, reverse=reverse):
            self.rows += 1
            yield pair


def read(ledger: Ledger, op: str, **arguments: Any) -> tuple[list[Any], int]:
    """Its rows, and how many rows of the store were read for them."""
    found = Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))

    def look(snap: Snapshot) -> tuple[list[Any], int]:
        counted = Counted(snap)
        return list(getattr(found, op)(counted, **arguments)), counted.rows

    return ledger.store.look(look)


@pytest.mark.parametrize("layout", ["packed", "compatible"])
def test_the_list_of_runs_costs_what_it_prints(layout: Layout) -> None:
    """A run of many metrics, points and log lines costs it no more than an empty one; what is shared is read once."""
    ledger = Ledger(layout)
    ledger.apply(
        *(record("create_run", f"r{n}", client_datetime="2026-01-01T00:00:00") for n in range(50))
    )
    ledger.apply(
        *(record("set_run_property", f"r{n}", experiment="e", name="n") for n in range(50))
    )
    before, cost = read(ledger, "runs")
    assert cost <= 50 * 15
    ledger.apply(*(metric(f"m{n}", 1.0, step, run="r7") for n in range(300) for step in range(2)))
    ledger.apply(*(record("log_terminal_line", "r7", line="x", step=n) for n in range(1_000)))
    after, cost_then = read(ledger, "runs")
    assert cost_then == cost
    assert len(after) == 50
    assert [row | {"last_record": 0} for row in after] == [
        row | {"last_record": 0} for row in before
    ]
    counted, _ = read(ledger, "runs", counts=True)
    assert {row["run"]: (row["sequences"], row["points"]) for row in counted if row["points"]} == {
        "r7": (301, 1_600)
    }


def test_logs_come_by_time_whatever_the_clocks_say() -> None:
    """Records of clocks that run apart, lines of a third one: each row once, in the order of the times."""
    drawn = random.Random(5)
    times = [drawn.choice((0.0, 3_600.0, -3_600.0)) + n for n in range(500)]
    ledger = Ledger()
    ledger.apply(
        *(
            record("log_record", message=str(n), level=20, timestamp=at)
            for n, at in enumerate(times)
        )
    )
    ledger.apply(
        *(record("log_terminal_line", at=n * 10.0, line=str(n), step=n) for n in range(50))
    )
    rows, _ = read(ledger, "logs", run="r")
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    assert sorted(int(row["message"]) for row in rows if row["kind"] == "record") == [*range(500)]
    assert [int(row["message"]) for row in rows if row["kind"] == "line"] == [*range(50)]


def test_times_that_are_none_have_a_place() -> None:
    """NaN stands where the record came; infinities at the ends; negative ones before 1970."""
    ledger = Ledger()
    for n, at in enumerate((math.nan, 1.7e18, -5.0, math.inf, -math.inf, 7.0)):
        ledger.apply(record("log_record", at=6.0 + n, message=str(n), level=20, timestamp=at))
    rows, _ = read(ledger, "logs", run="r")
    said = [row["message"] for row in rows]
    assert [one for one in said if one != "0"] == ["4", "2", "5", "1", "3"]
    json.dumps(rows)


def test_logs_keep_little_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the window rows leave in the order that there is: the first long before the last was read."""
    monkeypatch.setattr(queries, "LOG_WINDOW_ROWS", 10)
    ledger = Ledger()
    ledger.apply(
        *(record("log_terminal_line", at=float(n), line="x", step=n) for n in range(1_000))
    )
    found = Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))

    def first(snap: Snapshot) -> int:
        counted = Counted(snap)
        next(found.logs(counted, run="r"))
        return counted.rows

    assert ledger.store.look(first) < 300
