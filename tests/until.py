"""Waiting for what no event tells."""

from __future__ import annotations

from collections.abc import Callable

import trio


async def until(condition: Callable[[], bool]) -> None:
    """Returns when `condition` holds; asks every millisecond of trio's clock."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(0.001)
