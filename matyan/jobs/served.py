"""What jobs ask of whoever has the store open: each answer is one short transaction, or some of them.

The names of the requests are those of the socket in a data folder (`folder/server.py`). What decides something is read again in the
transaction that changes it, and so is the job's lock.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from matyan import readable
from matyan._codec import BLOBS, check_run_id
from matyan.errors import Expired
from matyan.jobs import lock
from matyan.jobs.lock import Lock
from matyan.keys import Keys, range_of, unpack_value
from matyan.rules import trees
from matyan.rules.audit.findings import Finding
from matyan.rules.audit.judges import Bench, Suspect
from matyan.rules.audit.walk import PAGE_ROWS, Cursor, Page, Walk
from matyan.rules.removals import awaited
from matyan.rules.sequences import Sequences
from matyan.rules.sequences.audit import SequenceAudit
from matyan.store.base import Snapshot, Store, Transaction

_JUDGED_AT_ONCE: Final = 50
"""Suspects of one transaction: those that find something read and write some rows each."""

Row = dict[str, Any]

KEPT, DELETED_RUN, UNNAMED, FOREIGN = "kept", "deleted run", "unnamed", "foreign"
"""What an object is: named by a record of a run, of a run that was deleted, named by none, under no run's id."""


class ServedJobs:
    """The requests of jobs on one store."""

    def __init__(self, store: Store, keys: Keys, sequences: Sequences) -> None:
        self.is_tracker = False
        """Whether log and blobs are in the same hands as the store."""
        self._store = store
        self._keys = keys
        self._audit = SequenceAudit(keys, sequences.layout)

    def reads(self) -> Mapping[str, Callable[..., Iterator[object]]]:
        """By name; each is called with a snapshot."""
        return {
            "job_place": self._place,
            "job_offsets": self._offsets,
            "job_tombstones": self._tombstones,
            "job_blobs": self._judge_blobs,
        }

    def writes(self) -> Mapping[str, Callable[..., AsyncIterator[object]]]:
        """By name."""
        return {
            "job_lock": self._lock,
            "job_unlock": self._unlock,
            "job_check": self._check,
            "job_forget": self._forget,
            "job_require": self._require,
        }

    # --- the lock --------------------------------------------------------------------------------

    async def _lock(self, *, job: str, owner: str, ttl_s: float) -> AsyncIterator[object]:
        now = time.time()
        yield {
            "held_until": await self._store.transact(
                lambda tr: lock.take(tr, self._keys, Lock(job, owner), now, ttl_s)
            )
        }

    async def _unlock(self, *, job: str, owner: str) -> AsyncIterator[object]:
        await self._store.transact(lambda tr: lock.release(tr, self._keys, Lock(job, owner)))
        yield {}

    async def _require(self, *, held: Sequence[str]) -> AsyncIterator[object]:
        """Before something is done that no transaction holds."""
        await self._store.read(lambda snap: lock.require(snap, self._keys, Lock(*held)))
        yield {}

    # --- the store and its log -------------------------------------------------------------------

    def _place(self, snap: Snapshot) -> Iterator[object]:
        """Whether the store holds any run, and whether whoever has it open is a tracker, with log and blobs of its own."""
        first = next(iter(snap.scan(*range_of(self._keys.runs), limit=1)), None)
        yield {"is_empty": first is None, "is_tracker": self.is_tracker}

    def _offsets(self, snap: Snapshot, *, topic_id: str) -> Iterator[object]:
        """The stored offset of each partition."""
        prefix = self._keys.ingest_prefix(topic_id)
        for key, packed in snap.scan(*range_of(prefix)):
            if (found := readable.elements(key, len(prefix), int)) is not None:
                yield [found[0], int(unpack_value(packed))]

    # --- tombstones ------------------------------------------------------------------------------

    def _tombstones(
        self, snap: Snapshot, *, after: str | None, before: float, limit: int
    ) -> Iterator[object]:
        """[run, when it was deleted] of runs that were deleted before that time, by their ids."""
        prefix = self._keys.tombstones_prefix()
        begin, end = range_of(prefix)
        if after is not None:
            begin = self._keys.tombstone(after) + b"\x00"
        for key, packed in snap.scan(begin, end):
            found, at = readable.elements(key, len(prefix), str), readable.number(packed)
            if found is not None and at is not None and at < before:
                yield [found[0], float(at)]
                limit -= 1
                if not limit:
                    return

    async def _forget(
        self, *, held: Sequence[str], tombstones: Sequence[tuple[str, float]]
    ) -> AsyncIterator[object]:
        """Takes these tombstones away, if nothing of their runs is left; yields the runs whose are gone."""
        body = partial(self._forget_in, Lock(*held), tombstones)
        yield await self._store.transact(body)

    def _forget_in(
        self, held: Lock, tombstones: Sequence[tuple[str, float]], tr: Transaction
    ) -> list[str]:
        lock.require(tr, self._keys, held)
        pending = awaited(tr, self._keys)
        gone = []
        bench = Bench(self._keys, self._audit, tr, None)
        for run, at in tombstones:
            key = self._keys.tombstone(run)
            if (
                readable.number(tr.get(key)) == at
                and run not in pending
                and tr.get(self._keys.owed_deletion(run)) is None
                # Without its tombstone, what is left of a run would be a run.
                and not any(True for _ in bench.judge(("run", run)))
            ):
                tr.clear(key)
                gone.append(run)
        return gone

    # --- blobs -----------------------------------------------------------------------------------

    def _judge_blobs(self, snap: Snapshot, *, keys: Sequence[str]) -> Iterator[object]:
        """What each of these keys is: see KEPT and so on."""
        named: dict[str, set[str]] = {}
        deleted: dict[str, bool] = {}
        for key in keys:
            run, slash, path = key.partition("/")
            if not slash or check_run_id(run) is not None:
                yield FOREIGN
                continue
            if run not in deleted:
                deleted[run] = snap.get(self._keys.tombstone(run)) is not None
            if deleted[run]:
                yield DELETED_RUN
            elif self._is_named(snap, run, path, key, named):
                yield KEPT
            else:
                yield UNNAMED

    def _is_named(
        self, snap: Snapshot, run: str, path: str, key: str, named: dict[str, set[str]]
    ) -> bool:
        if run in named:
            return key in named[run]
        begin, end = range_of(self._keys.attrs(run, BLOBS, path))
        if next(iter(snap.scan(begin, end, limit=1)), None) is not None:
            return True
        # Other programs may keep it under another path: all of the run's are read, once.
        blobs = trees.read(snap, self._keys.attrs(run, BLOBS))
        rows = blobs.items() if isinstance(blobs, dict) else ()
        named[run] = {f"{run}/{path}" for path, _ in rows} | {
            blob["s3_key"]
            for _, blob in rows
            if isinstance(blob, dict) and isinstance(blob.get("s3_key"), str)
        }
        return key in named[run]

    # --- check and reindex -----------------------------------------------------------------------

    async def _check(
        self,
        *,
        held: Sequence[str],
        cursor: Cursor | None,
        repair: bool,
        only_indexes: bool,
    ) -> AsyncIterator[object]:
        """One page of the walk: what was found, how many rows were read, and where the next page begins."""
        walk = Walk(self._keys, self._audit, only_indexes=only_indexes)
        page = await self._page(walk, cursor)
        found = [*page.found]
        suspects = page.suspects
        while suspects:
            batch, suspects = suspects[:_JUDGED_AT_ONCE], suspects[_JUDGED_AT_ONCE:]
            told, again = await self._judge(Lock(*held), batch, repair)
            found += told
            suspects = [*again, *suspects]
        yield {
            "rows": page.rows,
            "cursor": page.next,
            "found": [[*one] for one in found],
        }

    async def _page(self, walk: Walk, cursor: Cursor | None) -> Page:
        """In one moment, if need be with few rows."""
        rows = PAGE_ROWS
        while True:
            body = partial(walk.page, cursor=cursor, most_rows=rows)
            try:
                return await self._store.read(body)
            except Expired:
                if rows == 1:
                    raise
                rows = max(1, rows // 8)

    async def _judge(
        self, held: Lock, suspects: list[Suspect], repair: bool
    ) -> tuple[list[Finding], list[Suspect]]:
        """What is wrong with these, and what is to be judged once more."""
        try:
            if repair:
                return await self._store.transact_in_turns(
                    lambda tr: self._mending(held, suspects, tr)
                )
            return await self._store.read(lambda snap: self._judged(suspects, snap, None))
        except Expired:
            if len(suspects) == 1:
                raise
            # Each of them takes long: one in a transaction, and then the others.
            found, again = await self._judge(held, suspects[:1], repair)
            return found, [*again, *suspects[1:]]

    def _judged(
        self, suspects: list[Suspect], snap: Snapshot, mending: Transaction | None
    ) -> tuple[list[Finding], list[Suspect]]:
        bench = Bench(self._keys, self._audit, snap, mending)
        return [one for suspect in suspects for one in bench.judge(suspect)], bench.again

    def _mending(
        self, held: Lock, suspects: list[Suspect], tr: Transaction
    ) -> Generator[None, None, tuple[list[Finding], list[Suspect]]]:
        lock.require(tr, self._keys, held)
        found: list[Finding] = []
        bench = Bench(self._keys, self._audit, tr, tr)
        for suspect in suspects:
            found += bench.judge(suspect)
            yield
        return found, bench.again
