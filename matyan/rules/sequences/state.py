"""A sequence as its writer has to know it, and the cache of what is known. No row is read or written here."""

from __future__ import annotations

from math import isfinite
from typing import Final

from matyan._codec import LINES, Summary
from matyan.keys import CHUNK, Keys
from matyan.rules.contexts import EMPTY
from matyan.rules.free_steps import END, FreeSteps

MIN_STEP: Final = -(2**63)
MAX_STEP: Final = END - 1

_STATE_BYTES: Final = 1_500
"""A state with its keys; a fresh chunk takes about 64 bytes and 12 a point."""

StateKey = tuple[str, int, str]
"""Run, context and name of a sequence."""


class State:
    """One sequence as a writer has to know it. The keys are packed once."""

    __slots__ = (
        "chunks",
        "dtype",
        "free",
        "fresh",
        "fresh_before",
        "fresh_begin",
        "fresh_points",
        "last",
        "last_step",
        "merged",
        "merged_before",
        "merged_points",
        "next_n",
        "ordered",
        "parts",
        "parts_prefix",
        "points",
        "prefix",
        "summary",
        "trace_dtype",
        "trace_last",
        "trace_last_step",
        "trace_summary",
        "traced",
        "weight",
    )

    def __init__(self, keys: Keys, run: str, ctx: int, name: str) -> None:
        self.prefix = keys.seq(run, ctx, name)
        self.parts_prefix = keys.parts(run, ctx, name)
        self.trace_dtype = keys.trace(run, ctx, name, "dtype")
        self.trace_last = keys.trace(run, ctx, name, "last")
        self.trace_last_step = keys.trace(run, ctx, name, "last_step")
        self.trace_summary = keys.trace(run, ctx, name, "summary")
        self.dtype: str | None = None
        self.last = 0.0
        self.last_step: int | None = None  # None: nothing stands here
        # What its row says; None: no such row stands, and nobody knows but who reads all that stands here.
        self.summary: Summary | None = None
        self.traced = False  # whether the rows of its trace are written
        self.parts: bool | None = (
            False  # whether a large object may stand here; None: not looked yet
        )
        # Where a point without a step goes when the highest step is taken; None: not looked for yet.
        self.free: FreeSteps | None = None
        # The packed layout's tail: the merged chunks by their numbers, and the fresh ones, whose numbers are the
        # last ones, by their bytes (read from the store one by one they would cost more than the merge).
        # `…_before`: the points in front of the first chunk of that level.
        self.chunks = self.prefix + CHUNK
        self.next_n = 0
        self.points = 0
        self.ordered = True  # every step so far was higher than the one before it
        self.fresh: list[bytes] = []
        self.fresh_before = self.fresh_points = 0
        self.merged: list[int] = []
        self.merged_before = self.merged_points = 0
        self.weight = 0  # bytes in the cache, as the cache counted them

    def reaches(self, step: int, value: int | float | None) -> None:
        """Something stands at `step`: of a point its value."""
        if self.last_step is None or step > self.last_step:
            self.last_step = step
            if value is not None and isfinite(value):
                self.last = float(value)

    @property
    def next_step(self) -> int:
        return following(self.last_step)


class LineState(State):
    """The terminal lines of a run."""

    __slots__ = ("at", "sent", "trace_sent")

    def __init__(self, keys: Keys, run: str) -> None:
        super().__init__(keys, run, EMPTY, LINES)
        self.trace_sent = keys.trace(run, EMPTY, LINES, "sent")
        self.sent: int | None = None  # the step that the last line was sent with, in this session
        self.at = 0  # where it stands, as long as `sent` is one


def following(highest: int | None) -> int:
    return 0 if highest is None else max(0, highest + 1)


class StateCache:
    """The states that were used last, as long as they find room."""

    def __init__(self, most_bytes: int) -> None:
        self._states: dict[StateKey, State] = {}  # the longest unused first
        # Its keys, and those of states that a transaction has taken: most come back.
        self._of_run: dict[str, set[StateKey]] = {}
        self._room = most_bytes

    def keep(self, states: dict[StateKey, State]) -> None:
        """Takes in the states that a transaction has brought up to date."""
        for key, state in states.items():
            keys = self._of_run.get(key[0])
            if keys is None:
                keys = self._of_run[key[0]] = set()
            keys.add(key)
            state.weight = _STATE_BYTES + 64 * len(state.fresh) + 12 * state.fresh_points
            self._room -= state.weight
            self._states[key] = state
        while self._room < 0:
            self._evict(next(iter(self._states)))

    def __contains__(self, key: StateKey) -> bool:
        return key in self._states

    def take(self, key: StateKey) -> State | None:
        """Takes a state out of the cache."""
        state = self._states.pop(key, None)
        if state is not None:
            self._room += state.weight
        return state

    def forget_run(self, run: str) -> None:
        """Takes all states of a run out of the cache."""
        for key in self._of_run.pop(run, ()):
            self.take(key)

    def _evict(self, key: StateKey) -> None:
        self.take(key)
        keys = self._of_run[key[0]]
        keys.remove(key)
        if not keys:
            del self._of_run[key[0]]
