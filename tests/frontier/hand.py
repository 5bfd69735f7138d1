"""A producer whose deliveries the test makes by hand: the session's rules are about what happens in between."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import trio

from matyan.broker.base import DeliveryCallback
from matyan.errors import QueueFull


class HandProducer:
    def __init__(self, capacity_bytes: int = 1 << 20) -> None:
        self.capacity_bytes = capacity_bytes
        self.frames: list[tuple[bytes, list[bytes], DeliveryCallback]] = []
        """Handed over and not delivered."""
        self.delivered: list[bytes] = []
        self._room: Callable[[], None] = lambda: None
        self._asked = False

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        if self.queued_bytes + sum(map(len, values)) > self.capacity_bytes:
            self._asked = True
            raise QueueFull(f"{self.capacity_bytes} bytes")
        self.frames.append((key, list(values), on_done))

    def on_room(self, callback: Callable[[], None]) -> None:
        self._room = callback

    async def rest(self) -> None:
        """It never advises to."""

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
            on_done(error)
        if self._asked:
            self._asked = False
            self._room()
