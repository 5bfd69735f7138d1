"""One count of the bytes that a process holds before an answer: MATYAN_QUEUE_BYTES.

Whoever holds bytes counts them here, each copy: a connection whose message is not complete, a frame that waits for room, the
producer's queue. What happens when there is no room is the holder's affair, not this file's.
"""

from __future__ import annotations

from collections.abc import Callable

from matyan.errors import QueueFull


class Budget:
    """
    Args:
        capacity: bytes.
    """

    __slots__ = ("_refused", "_rooms", "capacity", "held", "parked", "queued")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        """Bytes. Whoever begins to hold some, whether they fit or not, adds them here; whoever lets go of them subtracts them and
        calls `tell_room` as soon as its own state is in order. An attribute and no method, since each frame does both."""
        self.parked = 0
        """Of these, the bytes that only wait to be queued: they are not in each other's way."""
        self.queued = 0
        """Of these, the bytes of the frames in the producer's queue."""
        self._rooms: list[Callable[[], None]] = []
        self._refused = False

    @property
    def full(self) -> bool:
        """Whether nobody should begin to hold more."""
        return self.held >= self.capacity

    def queue(self, size: int) -> None:
        """Counts a frame of so many bytes that enters the queue.

        A frame that finds the queue empty is always taken: one that is larger than the budget would never be taken otherwise,
        and whatever is held elsewhere only waits to be queued itself.

        Raises:
            QueueFull: there is no room. When there is, `on_room` tells.
        """
        if self.queued and self.held - self.parked + size > self.capacity:
            self._refused = True
            raise QueueFull(
                f"{self.held:,} of {self.capacity:,} bytes (MATYAN_QUEUE_BYTES) are held already, and {size:,} more do not fit"
            )
        self.held += size
        self.queued += size

    def settle(self, size: int) -> None:
        """Counts a frame of so many bytes that leaves the queue; `tell_room` is to follow, as with `held`."""
        self.held -= size
        self.queued -= size

    def park(self, size: int) -> None:
        """Counts bytes that are there and wait to be queued; negative: they wait no more."""
        self.held += size
        self.parked += size

    def want_room(self) -> None:
        """Somebody waits for room without having asked for a size."""
        self._refused = True

    def on_room(self, callback: Callable[[], None]) -> None:
        """Adds a callback that is called when there is room after something did not fit; the first added is first."""
        self._rooms.append(callback)

    def tell_room(self) -> None:
        """Calls these callbacks if there may be room."""
        if self._refused:
            self._refused = False
            for callback in self._rooms:
                callback()
