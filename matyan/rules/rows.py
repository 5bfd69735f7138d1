"""A run's rows: where they are read and written, how their keys are packed, and whose they are, bound once.

What stands in them is the subject of `runs.py`, `indexes.py`, `entities.py` and `contexts.py`.
"""

from __future__ import annotations

from typing import Generic, TypeVar

from matyan.keys import Keys
from matyan.store.base import Snapshot

S_co = TypeVar("S_co", bound=Snapshot, covariant=True)


class RunRows(Generic[S_co]):
    """`RunRows[Snapshot]` to read, `RunRows[Transaction]` to read and write."""

    # No named tuple: one is made for each run of each transaction, and that would take twice as long.
    __slots__ = ("keys", "run", "tr")

    def __init__(self, tr: S_co, keys: Keys, run: str) -> None:
        self.tr = tr
        self.keys = keys
        self.run = run
