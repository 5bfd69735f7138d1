"""Whatever connections do with the bytes that a process may hold: each byte is counted once, and let go of once."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from hypothesis import settings, strategies
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    rule,
)

from matyan.broker.budget import Budget
from matyan.errors import QueueFull
from matyan.frontier.intake import STILL_S, WAITING_SHARE, Intake

CAPACITY = 400
PIECE = 100
"""The most that comes at once, and that a small message has."""
LARGEST = 600
"""A message that does not fit, as long as the only one."""


SIZES = strategies.sampled_from([PIECE // 2, PIECE, 150, 300, LARGEST])


class Connection:
    """Does with `Intake` what a connection of the lane does, with sizes in place of bytes."""

    account = None

    def __init__(self, intake: Intake) -> None:
        self.held = 0
        """Of its unfinished message."""
        self.frames: list[int] = []
        """What it has in the producer's queue."""
        self.refused = 0
        """The piece that waits for room on the wire."""
        self._size = 0
        self._intake = intake

    def receive(self, piece: int, size: int) -> None:
        """A piece of its message, which would be of `size` bytes if it begins with this one."""
        if self.refused:
            return
        self._size = self._size or size
        piece = min(piece, self._size - self.held) or piece
        if not self._has_room(piece):
            begins = not self._intake.has_begun(self)
            self.refused = piece
            self._intake.wait(self, begins=begins)
            return
        self._hold(self.held + piece)

    def _has_room(self, piece: int, *, in_turn: bool = True) -> bool:
        intake = self._intake
        if intake.has_begun(self):
            return intake.may_go_on(self, piece)
        if self.held + piece <= PIECE:
            return intake.may_gather(is_first=not self.frames)
        return intake.may_begin(self, self._size, in_turn=in_turn) and intake.may_go_on(self, piece)

    def _hold(self, held: int) -> None:
        self.held = held
        self._intake.count(self, held)

    def drop(self) -> None:
        """Its message is over, or no longer held."""
        self._size = 0
        self._hold(0)
        self._intake.end(self)

    def leave(self) -> None:
        self.held = self._size = self.refused = 0
        self._intake.leave(self)

    def try_again(self) -> bool:
        piece, self.refused = self.refused, 0
        if self._has_room(piece):
            self._hold(self.held + piece)
            return True
        self.refused = piece
        return False

    def stop_waiting(self) -> None:
        piece, self.refused = self.refused, 0
        if self._has_room(piece, in_turn=False):
            self._hold(self.held + piece)
        else:
            self.drop()

    def evict(self) -> None:
        if self.refused:
            self._intake.forget(self)
            self.stop_waiting()
        else:
            self.leave()


class BytesHeld(RuleBasedStateMachine):
    connections = Bundle("connections")

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.budget = Budget(CAPACITY)
        self.intake = Intake(self.budget, lambda: self.now)
        self.all: list[Connection] = []

    @initialize(target=connections)
    def many_connect(self) -> MultipleResults[Connection]:
        self.all += [Connection(self.intake) for _ in range(12)]
        return multiple(*self.all)

    @rule(target=connections)
    def connect(self) -> Connection:
        self.all.append(Connection(self.intake))
        return self.all[-1]

    @rule(piece=strategies.integers(1, PIECE), size=SIZES)
    def all_receive(self, piece: int, size: int) -> None:
        for one in self.all:
            one.receive(piece, size)

    @rule(
        one=connections,
        piece=strategies.integers(1, PIECE),
        size=SIZES,
        times=strategies.integers(1, 7),
    )
    def receive(self, one: Connection, piece: int, size: int, times: int) -> None:
        for _ in range(times):
            one.receive(piece, size)

    @rule(one=connections)
    def finish(self, one: Connection) -> None:
        """The message is complete: its bytes go to the queue, or are refused."""
        if one.refused or not one.held:
            return
        size = one.held
        one.drop()
        with suppress(QueueFull):
            self.budget.queue(size)
            one.frames.append(size)

    @rule(one=connections)
    def answer(self, one: Connection) -> None:
        """The producer has delivered what it has of one."""
        self.budget.settle(sum(one.frames))
        one.frames.clear()
        self.budget.tell_room()

    @rule(one=connections)
    def try_once_more(self, one: Connection) -> None:
        if one.refused and one.try_again():
            self.intake.forget(one)

    @rule(seconds=strategies.sampled_from([0.5, STILL_S, 5.0, 15.0]))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.intake.sweep(self.now)

    @rule(one=consumes(connections))
    def leave(self, one: Connection) -> None:
        one.leave()
        self.answer(one)
        self.all.remove(one)

    def queued(self) -> int:
        return sum(sum(one.frames) for one in self.all)

    @invariant()
    def what_is_held_is_what_each_holds(self) -> None:
        unfinished = sum(one.held for one in self.all)
        assert self.budget.held == unfinished + self.queued()
        assert self.budget.queued == self.queued()
        assert self.intake._held == unfinished
        waiting = [one for one in self.all if one.refused]
        assert set(self.intake._waiting) == set(waiting)

    @invariant()
    def small_ones_alone_stay_within_their_share(self) -> None:
        if not any(one.held > PIECE for one in self.all) and not self.queued():
            assert self.budget.held <= CAPACITY * (1 + WAITING_SHARE) + PIECE

    def teardown(self) -> None:
        """When all have left and everything is answered, nothing is held, kept or waited for."""
        for one in self.all:
            one.leave()
            self.answer(one)
        intake: Any = self.intake
        assert self.budget.held == self.budget.queued == 0
        assert intake._held == intake._promised == intake._begun == intake._small == 0
        assert len(intake._claims) == len(intake._waiting) == 0


TestBytesHeld = BytesHeld.TestCase
TestBytesHeld.settings = settings(max_examples=60, stateful_step_count=40)
