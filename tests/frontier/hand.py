"""A producer whose deliveries the test makes by hand: the session's rules are about what happens in between."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from matyan.broker.base import DeliveryCallback
from matyan.broker.budget import Budget


class HandProducer:
    def __init__(self, capacity_bytes: int = 1 << 20) -> None:
        self.budget = Budget(capacity_bytes)
        # As if something were queued: with a budget of a few bytes a test can see a queue that is full.
        self.budget.queued = 1
        self.frames: list[tuple[bytes, list[bytes], DeliveryCallback]] = []
        """Handed over and not delivered."""
        self.delivered: list[bytes] = []

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        self.budget.queue(sum(map(len, values)))
        self.frames.append((key, list(values), on_done))

    async def coalesce(self) -> None:
        """It has no reason to."""

    @property
    def queued_bytes(self) -> int:
        return sum(len(value) for _, values, _ in self.frames for value in values)

    def fatal(self) -> str | None:
        return None

    async def flush(self, deadline: float) -> int:
        if self.frames:
            await trio.sleep_until(deadline)
        return sum(len(values) for _, values, _ in self.frames)

    def deliver(self, count: int = 1, error: Exception | None = None) -> None:
        """Finishes the oldest `count` frames."""
        for _ in range(count):
            _, values, on_done = self.frames.pop(0)
            if error is None:
                self.delivered += values
            self.budget.settle(sum(map(len, values)))
            on_done(error)
        self.budget.tell_room()
