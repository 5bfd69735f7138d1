"""The sequences of a store: what reads them, what begins a transaction's writes, and what is remembered between two."""

from __future__ import annotations

from typing import Final

from matyan.keys import Keys, range_of
from matyan.rules.sequences.keyed import last_val
from matyan.rules.sequences.parts import any_part
from matyan.rules.sequences.points import CompatiblePoints, Growth, PackedPoints
from matyan.rules.sequences.reads import SequenceReads
from matyan.rules.sequences.state import StateCache
from matyan.rules.sequences.writes import SequenceWrites
from matyan.store.base import Layout, Range, Transaction

CACHE_BYTES: Final = 48 * 2**20


class Sequences(SequenceReads):
    """The sequences of a store in one layout, with a bounded cache of the states that its writer needs.

    One writer: whoever owns the partition that a run's records come from. An owner that lost its partition and
    got it back starts with a new object, since another may have written meanwhile; a run that another partition's owner
    has written is forgotten (`SequenceWrites.forget_run`). Reads need no state.
    """

    def __init__(
        self,
        keys: Keys,
        layout: Layout,
        *,
        cache_bytes: int = CACHE_BYTES,
        growth: Growth | None = None,
    ) -> None:
        growth = growth or Growth()
        super().__init__(keys, PackedPoints(growth) if layout == "packed" else CompatiblePoints())
        self.point_work = 1 if layout == "packed" else 8
        """What a point costs a transaction, in the measure of `cut_records`: about microseconds."""
        self._rewrite = growth.rewrite
        self._cache = StateCache(cache_bytes)
        self._newest: SequenceWrites | None = None

    def prefetched(
        self, run: str, ctx: int, name: str, *, entries: bool = False
    ) -> tuple[Range, ...]:
        """What a transaction reads of a sequence before it appends points to it, or `entries`: nothing where that is known."""
        if (run, ctx, name) in self._cache:
            return ()
        traces = Range(*range_of(self.keys.traces_prefix(run, ctx, name)))
        prefix = self.keys.seq(run, ctx, name)
        parts = (any_part(self.keys.parts(run, ctx, name)),) if entries else ()
        return traces, last_val(prefix), *self.layout.tails(prefix), *parts

    def begin(self, tr: Transaction) -> SequenceWrites:
        """One transaction's work. A transaction whose body runs again begins again."""
        self._newest = SequenceWrites(self, self._cache, tr, self._rewrite)
        return self._newest

    def committed(self, writes: SequenceWrites) -> None:
        """Keeps what `writes` knows, now that it is stored.

        A transaction takes the states that it touches out of the cache, so one that is aborted, or whose outcome
        nobody knows, leaves nothing behind: its sequences are loaded again.
        """
        if writes is self._newest:  # else a later transaction may have written the same sequences
            self._cache.keep(writes.states)

    def forget_run(self, run: str) -> None:
        """What is known of a run counts no more."""
        self._cache.forget_run(run)
