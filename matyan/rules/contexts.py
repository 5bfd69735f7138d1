"""The contexts of a run: which id each of them has.

Two contexts are the same when their canonical JSON texts are (`context_text`). An id is found by the objects that
are stored, never computed and trusted: `context_id` says only where to look first, since two contexts of one run
can share it. No sequence here, and no index.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from matyan import readable
from matyan._codec import context_text
from matyan.keys import range_of, unpack_value
from matyan.rules import trees
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction

EMPTY: Final = 0
"""The id of the empty context, and of no other."""

_IDS = 1 << 32
_ENTRY_BYTES = 200  # what a remembered id takes beside its text


def find_or_create(rows: RunRows[Transaction], text: str, first: int, context: object) -> int:
    """The id of `context`; a new one is stored under the next id that is free in its run.

    Args:
        text: its `context_text`.
        first: its `context_id`.

    Raises:
        InvalidRecord: it is too large to be stored.
    """
    tr, keys, run = rows.tr, rows.keys, rows.run
    # 0 belongs to the empty context alone: the search goes round it.
    ctx = EMPTY if text == "{}" else first or 1
    while (packed := tr.get(keys.context(run, ctx))) is not None:
        if ctx == EMPTY or _text_of(packed) == text:
            return ctx
        ctx = (ctx + 1) % _IDS or 1
    trees.put(tr, keys.context(run, ctx), context)
    return ctx


def _text_of(packed: bytes) -> str | None:
    """None: no context stands there, so not the one that is looked for."""
    try:
        return context_text(unpack_value(packed))
    except (TypeError, ValueError):
        return None


def read(rows: RunRows[Snapshot]) -> dict[int, Any]:
    """The contexts of a run by their ids."""
    prefix = rows.keys.contexts_prefix(rows.run)
    stored = {}
    for key, packed in rows.tr.scan(*range_of(prefix)):
        if found := readable.elements(key, len(prefix), int):
            context = readable.value(packed)
            stored[found[0]] = context if isinstance(context, dict) else stand_in(found[0])
    return stored


def stand_in(ctx: int) -> dict[str, Any]:
    """What readers get for a context that is missing or damaged: one a context, so that no two sequences look as one."""
    return {} if ctx == EMPTY else {"unreadable context": ctx}


class Remembered:
    """Ids that are stored, by run and text; bounded: the run that got its last one longest ago is forgotten first."""

    def __init__(self, most_bytes: int = 16 << 20) -> None:
        self._room = most_bytes
        self._runs: dict[str, dict[str, int]] = {}

    def get(self, run: str, text: str) -> int | None:
        ids = self._runs.get(run)
        return None if ids is None else ids.get(text)

    def add(self, run: str, ids: Mapping[str, int]) -> None:
        known = self._runs.pop(run, {})
        for text, ctx in ids.items():
            if text not in known:
                known[text] = ctx
                self._room -= _ENTRY_BYTES + len(text)
        self._runs[run] = known
        while self._room < 0:
            self.forget(next(iter(self._runs)))

    def forget(self, run: str) -> None:
        for text in self._runs.pop(run, {}):
            self._room += _ENTRY_BYTES + len(text)
