"""Waiting for what no event tells."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import trio


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds; asks every millisecond of trio's clock."""
    while True:
        if condition():
            return
        await trio.sleep(0.001)


async def eventually(condition: Callable[[], Awaitable[object]], seconds: float = 90) -> None:
    """Waits until what is asked for in trio has come so far."""
    with trio.fail_after(seconds):
        while True:
            if await condition():
                return
            await trio.sleep(0.05)


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    """The same outside trio, for what other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)
