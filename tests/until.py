"""Waiting for what no event tells."""

from __future__ import annotations

import time
from collections.abc import Callable

import trio


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds; asks every millisecond of trio's clock."""
    while not condition():  # noqa: ASYNC110 - no event tells
        await trio.sleep(0.001)


def wait_for(condition: Callable[[], object], seconds: float = 90) -> None:
    """The same outside trio, for what other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds:g} s"
        time.sleep(0.1)
