"""In what order and how soon the partitions of a Kafka consumer hand on what has come. Times are plain numbers here."""

from __future__ import annotations

import random

import pytest

from matyan.broker.kafka.turns import (
    MOST_WAIT_S,
    MOST_WAITING_BYTES,
    TURN_BYTES_S,
    TURN_S,
    Turns,
)


class Part:
    def __init__(self) -> None:
        self.waiting_since: float | None = None
        self.waiting_bytes = 0
        self.handed_on: list[tuple[float, float, int]] = []
        """When, when the first of it had come, and how many bytes."""

    def comes(self, size: int, now: float) -> None:
        if self.waiting_since is None:
            self.waiting_since = now
        self.waiting_bytes += size

    def hand_on(self, now: float) -> None:
        assert self.waiting_since is not None
        self.handed_on.append((now, self.waiting_since, self.waiting_bytes))
        self.waiting_since, self.waiting_bytes = None, 0


def let_go(turns: Turns, parts: list[Part], now: float) -> list[int]:
    """Hands on what is due; the numbers of the partitions."""
    numbers = []
    for part in turns.due(parts, now):
        part.hand_on(now)
        numbers.append(parts.index(part))
    return numbers


def test_what_comes_alone_does_not_wait() -> None:
    """Not even a record without a byte."""
    turns, parts = Turns(), [Part(), Part()]
    assert turns.next_due(parts, 1.0) is None
    parts[1].comes(0, 1.0)
    assert turns.next_due(parts, 1.0) == 0
    assert let_go(turns, parts, 1.0) == [1]
    assert let_go(turns, parts, 1.0) == []


def test_partitions_whose_records_come_together_take_turns() -> None:
    turns, parts = Turns(), [Part() for _ in range(3)]
    for part in parts:
        part.comes(100_000, 1.0)
    a_turn = TURN_S + 100_000 / TURN_BYTES_S
    assert let_go(turns, parts, 1.0) == [0]
    assert turns.next_due(parts, 1.0) == pytest.approx(a_turn)
    assert let_go(turns, parts, 1.0 + 0.9 * a_turn) == []
    # The first one's next records wait behind the others'.
    parts[0].comes(1, 1.0 + 0.9 * a_turn)
    assert let_go(turns, parts, 1.0 + 1.1 * a_turn) == [1]
    assert let_go(turns, parts, 1.0 + 2.2 * a_turn) == [2]
    assert let_go(turns, parts, 1.0 + 3.3 * a_turn) == [0]


def test_nothing_waits_for_long() -> None:
    """And what makes a whole transaction does not wait at all."""
    turns, parts = Turns(), [Part() for _ in range(40)]
    for part in parts:
        part.comes(MOST_WAITING_BYTES - 1, 1.0)
    assert let_go(turns, parts, 1.0) == [0]
    parts[30].comes(1, 1.001)
    assert let_go(turns, parts, 1.001) == [30]
    assert let_go(turns, parts, 1.0 + 1.01 * MOST_WAIT_S) == [n for n in range(1, 40) if n != 30]


def test_the_busier_they_are_the_more_they_gather() -> None:
    sizes = []
    for share in (0.01, 0.1, 0.5, 0.8):
        chance = random.Random(1)
        turns, parts, sent = Turns(), [Part() for _ in range(6)], [0] * 6
        for now in (0.001 * n for n in range(5_000)):
            if chance.random() < share:
                number = chance.randrange(6)
                parts[number].comes(round(0.001 * TURN_BYTES_S), now)
                sent[number] += round(0.001 * TURN_BYTES_S)
            let_go(turns, parts, now)
        done = [one for part in parts for one in part.handed_on]
        assert all(at <= since + MOST_WAIT_S + 0.0011 for at, since, _ in done)
        for part, size in zip(parts, sent, strict=True):
            assert sum(held for _, _, held in part.handed_on) + part.waiting_bytes == size
        sizes.append(sum(held for _, _, held in done) / len(done))
    assert sizes == sorted(sizes)
    assert sizes[-1] > 1.5 * sizes[0]
