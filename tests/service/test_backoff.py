"""Waits before another try."""

from __future__ import annotations

from matyan.service.backoff import Backoff


def test_waits_double_up_to_the_cap_and_start_over() -> None:
    """Each at least half of what it would be without jitter, and never more."""
    backoff = Backoff(first=0.05, cap=5.0)
    for _ in range(2):
        expected = 0.05
        for _ in range(12):
            assert expected / 2 <= backoff.next() <= expected
            expected = min(2 * expected, 5.0)
        backoff.reset()


def test_waits_differ() -> None:
    """Two workers do not come back in the same moment."""
    assert len({Backoff().next() for _ in range(20)}) > 1
