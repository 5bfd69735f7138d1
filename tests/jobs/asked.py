"""A job's requests, answered on the spot by what answers them in a process that has the store open."""

from __future__ import annotations

from typing import Any

from matyan.folder.opened import Opened
from matyan.jobs.lock import Lock
from matyan.jobs.runner import Ask, Report
from tests.ledger import Ledger

FREE = Lock("test", "")
"""No lock."""


def asking(place: Ledger | Opened, **more: Any) -> Ask:
    """`more`: writes beside those of every store."""
    opened = Opened(place.store, place.keys, place.layout, "id")
    reads = opened.reads()
    writes = {**opened.jobs.writes(), **more}

    async def ask(op: str, **arguments: Any) -> list[Any]:
        if op in writes:
            return [row async for row in writes[op](**arguments)]
        return await opened.store.read(lambda snap: [*reads[op](snap, **arguments)])

    return ask


def reporting(**more: Any) -> tuple[Report, list[str]]:
    """A report, and the lines that were told to it."""
    lines: list[str] = []
    return Report(lines.append, lambda text: None, **more), lines
