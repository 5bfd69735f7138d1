"""How many records a transaction takes on an engine that gives it little time."""

from __future__ import annotations

import sys

from matyan.workers.pace import Pace


def test_it_halves_at_once_and_doubles_after_a_while() -> None:
    """And has no limit where nothing was ever too slow, and again when all goes well for long."""
    pace = Pace()
    for _ in range(100):
        pace.in_time(1_000)
    assert pace.most == sys.maxsize
    pace.too_slow(1_000)
    assert pace.most == 500
    for _ in range(7):
        pace.in_time(500)
    assert pace.most == 500
    pace.in_time(500)
    assert pace.most == 1_000
    pace.too_slow(1_000)
    pace.too_slow(500)
    assert pace.most == 250
    for _ in range(8 * 14):
        pace.in_time(pace.most)
    assert pace.most == sys.maxsize


def test_small_transactions_say_nothing_about_large_ones() -> None:
    pace = Pace()
    pace.too_slow(1_000)
    for _ in range(100):
        pace.in_time(250)
    assert pace.most == 500
    for _ in range(8):
        pace.in_time(251)
    assert pace.most == 1_000


def test_one_record_is_always_taken() -> None:
    pace = Pace()
    pace.too_slow(1)
    assert pace.most == 1
