"""Waiting for what no event tells: `until` within trio, `wait_for` outside it."""

from __future__ import annotations

import inspect
import math
import time
from collections.abc import Callable

import trio
from trio.testing import MockClock

_LONGEST_PAUSE_S = 0.05


async def until(condition: Callable[[], object], seconds: float = 90) -> None:
    """Waits until `condition` holds, a function or a coroutine function.

    seconds: on the wall's clock, also where the test moves trio's; they only end what hangs.

    Raises:
        TimeoutError: it did not come so far.
    """
    deadline, pause = time.monotonic() + seconds, 0.001
    while True:
        found = condition()
        if inspect.isawaitable(found):
            found = await found
        if found:
            return
        _check(deadline, seconds)
        await _pause(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    """The same outside trio, for what other processes and threads do."""
    deadline, pause = time.monotonic() + seconds, 0.001
    while not condition():
        _check(deadline, seconds)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)


async def _pause(seconds: float) -> None:
    clock = trio.lowlevel.current_clock()
    if not isinstance(clock, MockClock):
        await trio.sleep(seconds)
    elif clock.rate or clock.autojump_threshold < math.inf:
        await trio.sleep(0.001)  # longer jumps would use up what the test gives the code
    else:
        await trio.lowlevel.checkpoint()  # the clock is held: no sleep would end


def _check(deadline: float, seconds: float) -> None:
    if time.monotonic() >= deadline:
        raise TimeoutError(f"not within {seconds:g} s")
