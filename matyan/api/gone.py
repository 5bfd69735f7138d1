"""Whether the client of a request is still there, and a snapshot that is not read for one that is not.

So every read ends with its client, whatever reads it: a search between two matches, a sort, one index of a million runs. And each leaves
room for the ingestion of its own process.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final, cast

from quart import has_request_context, request

from matyan.errors import Unavailable
from matyan.store.base import KeyValue, Range, Snapshot

IsGone = Callable[[], bool]
Commits = Callable[[], int]

_ASK_S: Final = 0.05
"""Between two questions to the kernel."""
_STRETCH_S: Final = 0.001
_PAUSE_S: Final = 0.0003
"""A read pauses after each stretch while something is being committed: it holds Python's lock and a core, of which the ingestion needs
some. `bench.api` shows what an acknowledgement takes beside a list of all runs."""
_BUSY_S: Final = 0.05
"""So long after a commit the next one is near."""
_MOST_ROWS: Final = 1_024
"""Rows that are read without a look at the clock."""


class ClientGone(Unavailable):
    """There is nobody to answer."""


def client_of_request() -> IsGone:
    """Whether the client of this request has gone, from any thread: the server says so, where it can."""
    scope: Any = request.scope if has_request_context() else {}
    found = scope.get("state", {}).get("is_gone")
    return cast(IsGone, found or (lambda: False))


class WatchedSnapshot:
    """A snapshot whose reads raise ClientGone once the client has gone.

    commits: how many this process has made, from any thread.
    """

    def __init__(self, snap: Snapshot, is_gone: IsGone, commits: Commits) -> None:
        self._snap = snap
        self._is_gone = is_gone
        self._commits = commits
        self._made = commits()
        self._busy_until = 0.0
        self._pause_due = self._ask_due = time.monotonic()

    def _look(self) -> None:
        now = time.monotonic()
        if now < self._pause_due:
            return
        if now >= self._ask_due:
            if self._is_gone():
                raise ClientGone("The client has gone before its answer was read.")
            self._ask_due = now + _ASK_S
        made = self._commits()
        if made != self._made:
            self._made, self._busy_until = made, now + _BUSY_S
        if now < self._busy_until:
            time.sleep(_PAUSE_S)
            now = time.monotonic()
        self._pause_due = now + _STRETCH_S

    @property
    def prefetches(self) -> bool:
        return self._snap.prefetches

    @property
    def moments(self) -> int:
        """As a View has it; a snapshot that is none is of one moment."""
        return getattr(self._snap, "moments", 1)

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        self._look()
        self._snap.prefetch(keys, ranges)

    def get(self, key: bytes) -> bytes | None:
        self._look()
        return self._snap.get(key)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        rows = self._snap.scan(begin, end, limit=limit, reverse=reverse)
        # Few at first: many a reader stops at the first row.
        size = 16
        self._look()
        while page := list(islice(rows, size)):
            yield from page
            if len(page) < size:
                return
            self._look()
            size = min(2 * size, _MOST_ROWS)
