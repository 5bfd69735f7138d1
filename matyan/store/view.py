"""Reads that outlive the moments of an engine which forgets them (FoundationDB: after 5 s).

For every engine whose snapshots raise Expired; one that keeps a moment as long as it is held needs none of this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from matyan.errors import Expired
from matyan.store.base import KeyValue, Range, Snapshot

_MOST_RENEWALS: Final = 5
"""In a row, without a pair in between: then the engine is too slow for any moment."""


class RenewedView:
    """A `View`: at the next moment where the last one is forgotten.

    Args:
        renew: makes a snapshot of the newest moment; called in the thread that reads.
    """

    def __init__(self, renew: Callable[[], Snapshot]) -> None:
        self._renew = renew
        self._moment = renew()
        self.moments = 1

    @property
    def prefetches(self) -> bool:
        return self._moment.prefetches

    def prefetch(self, keys: Sequence[bytes], ranges: Sequence[Range]) -> None:
        self._moment.prefetch(keys, ranges)

    def get(self, key: bytes) -> bytes | None:
        renewals = 0
        while True:
            moment = self._moment
            try:
                return moment.get(key)
            except Expired:
                if renewals == _MOST_RENEWALS:
                    raise
                renewals += 1
                self._go_on_after(moment)

    def scan(
        self, begin: bytes, end: bytes, *, limit: int = 0, reverse: bool = False
    ) -> Iterator[KeyValue]:
        renewals = 0
        last: bytes | None = None
        while begin < end:
            moment = self._moment
            try:
                for pair in moment.scan(begin, end, limit=limit, reverse=reverse):
                    last = pair[0]
                    yield pair
                    if limit and not (limit := limit - 1):
                        return
                return
            except Expired:
                if last is not None:
                    begin, end = (begin, last) if reverse else (last + b"\x00", end)
                    last, renewals = None, 0
                if renewals == _MOST_RENEWALS:
                    raise
                renewals += 1
                self._go_on_after(moment)

    def _go_on_after(self, moment: Snapshot) -> None:
        # Another scan of this view may have done so.
        if self._moment is moment:
            self._moment = self._renew()
            self.moments += 1
