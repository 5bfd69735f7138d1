"""A run's rows: where they are read and written, how their keys are packed, and whose they are, bound once.

What stands in them is the subject of `runs.py`, `indexes.py`, `entities.py` and `contexts.py`.
"""

from __future__ import annotations

from typing import Generic, NamedTuple, TypeVar

from matyan.keys import Keys
from matyan.store.base import Snapshot

S_co = TypeVar("S_co", bound=Snapshot, covariant=True)


class RunRows(NamedTuple, Generic[S_co]):
    """`RunRows[Snapshot]` to read, `RunRows[Transaction]` to read and write."""

    tr: S_co
    keys: Keys
    run: str
