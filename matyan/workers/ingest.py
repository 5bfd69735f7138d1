"""The ingestion worker: each batch of a partition becomes one transaction that also moves the stored offset.

Decides what happens when that does not work: back off, start over behind another owner, bisect, dead letter.
What a record does is `rules/records.py`'s; when a batch is full is the consumer's.
"""

from __future__ import annotations

import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Generator, Iterator
from functools import partial
from typing import Final, NamedTuple

from matyan._codec import (
    Malformed,
    MetricPoints,
    Record,
    cut_records,
    decode_records,
    total_bytes,
)
from matyan.broker.base import (
    Answering,
    Batch,
    Consumer,
    ControlEvent,
    DeadLetter,
    Outbox,
    Partition,
)
from matyan.errors import Bug, Expired, Fenced, InvalidRecord, OffsetConflict
from matyan.keys import Keys, pack_value, unpack_value
from matyan.rules.prefetch import prefetch
from matyan.rules.records import OWING, Rules, Unit, event_of, pay
from matyan.service import telemetry
from matyan.service.logs import get_logger
from matyan.store.base import Snapshot, Store, Transaction
from matyan.workers.dropped import DroppedLog
from matyan.workers.pace import Pace
from matyan.workers.partition import BlamingTheRecord, Holder, Tenure, class_of

MOST_WORK_US: Final = 50_000
"""The most work of one transaction, as `cut_records` estimates it, in about microseconds. What it writes is handed to the store
in one call, which holds everything else up."""
MOST_OPS: Final = 4_000
"""The most sequences and single records of one transaction: only when a batch is decoded it shows how many it has."""

_processed = telemetry.INGEST_PROCESSED.counts()


class _TooMuch(Exception):
    """The batch is more than one transaction takes: its halves may do."""


class _Attempt(NamedTuple):
    """A transaction whose body has ended, and of which nobody has said yet whether it is stored."""

    batch: Batch
    contents: Contents
    unit: Unit


class IngestWorker(Holder):
    """Applies a topic's records to the store, each exactly once.

    Args:
        make_rules: new rules that remember nothing; called for each assignment, and whenever another owner
            may have written, since what rules remember holds for a sole writer only.
        max_bytes, max_records: the most that one transaction takes of a batch; None: a batch is never split.
        on_deletion: called after a transaction that deleted a run.
        told: whether runs that end or are archived are control events, too: for webhooks.
    """

    def __init__(
        self,
        consumer: Consumer,
        store: Store,
        keys: Keys,
        make_rules: Callable[[], Rules],
        outbox: Outbox,
        *,
        max_bytes: int | None = None,
        max_records: int | None = None,
        on_deletion: Callable[[], None] | None = None,
        told: bool = False,
    ) -> None:
        super().__init__(consumer, "ingest", self._ingest)
        self.store = store
        self.keys = keys
        self.make_rules = make_rules
        self.outbox = outbox
        self.max_bytes = max_bytes
        self.max_records = max_records
        self.on_deletion = on_deletion
        self.event_of = partial(event_of, told=told)

    async def _ingest(self, tenure: Tenure) -> None:
        ingestion = self.ingestion(tenure)
        while True:
            await ingestion.start()
            async for batch in tenure.batches():
                if not await ingestion.take(batch):
                    break
            else:
                return

    def ingestion(self, tenure: Tenure) -> Ingestion:
        """What applies the records of one partition as long as it is this worker's."""
        return Ingestion(self, tenure)


class Contents:
    """What a batch holds: records, the events that follow from them, and what is no record; the latter two by offset."""

    __slots__ = ("dead", "events", "ops")

    def __init__(self) -> None:
        self.ops: list[MetricPoints | Record] = []
        self.events: dict[int, ControlEvent] = {}
        self.dead: dict[int, DeadLetter] = {}


class Ingestion:
    """The ingestion of one partition: what it believes to be stored, and the rules that hold as long as it is."""

    def __init__(self, worker: IngestWorker, tenure: Tenure) -> None:
        self._worker = worker
        self._tenure = tenure
        self.partition: Partition = tenure.partition
        self._offset_key = worker.keys.ingest(self.partition.topic_id, self.partition.partition)
        self._name = f"{self.partition.topic_id}/{self.partition.partition}"
        self._dropped_key = worker.keys.dropped(self.partition.topic_id, self.partition.partition)
        self._stored: int | None = None
        self._stored_row: bytes | None = None
        """The same as it stands in the store."""
        # Of the batch at hand.
        self._announced: set[int] = set()
        """Offsets whose event or dead letter is out."""
        self._fatal: dict[int, Bug | InvalidRecord] = {}
        """Why records are dead letters, by offset."""
        self._rules = worker.make_rules()
        self._unsettled: _Attempt | None = None
        self._owes = False
        """Whether counts may be owed."""
        self._pace = Pace()
        self._log = get_logger().bind(
            service="ingest", topic=self.partition.topic, partition=self.partition.partition
        )
        self._dropped = DroppedLog(self._log)

    async def start(self) -> None:
        """Goes to where the store says that the partition stands."""
        self._unsettled = None
        while True:
            await self._read_stored_offset()
            try:
                await self._tenure.retrying(lambda: self.partition.start(self._stored))
            except OffsetConflict as error:
                telemetry.INGEST_ERRORS.labels("OffsetConflict").inc()
                await self._tenure.stand_still(str(error))
            else:
                self._tenure.settled()
                self._owes = self._worker.keys.are_shared
                await self._pay()
                return

    async def _read_stored_offset(self) -> None:
        """Reads the stored offset and forgets what was remembered under another one."""
        self._rules = self._worker.make_rules()
        row = await self._tenure.retrying(lambda: self._worker.store.read(self.read_offset))
        self._stored_row = row
        self._stored = None if row is None else int(unpack_value(row))

    def read_offset(self, snap: Snapshot) -> bytes | None:
        """The row of the stored offset."""
        return snap.get(self._offset_key)

    def write_offset(self, tr: Transaction, row: bytes) -> None:
        """Moves the stored offset, in the transaction that applies the records below it."""
        tr.set(self._offset_key, row)

    def remember_offset(self, offset: int, row: bytes) -> None:
        """The transaction is durable."""
        self._stored, self._stored_row = offset, row

    async def take(self, batch: Batch) -> bool:
        """Applies a batch; False: the stored offset was moved elsewhere, start again."""
        telemetry.INGEST_CONSUMED.value += len(batch)
        self._announced.clear()
        self._fatal.clear()
        for piece in self._split(batch):
            if not await self._apply(piece):
                return False
        await self._pay()
        return True

    async def _pay(self) -> None:
        """What a batch has left to do is done behind it and not in it."""
        worker = self._worker
        while self._owes:
            paying = partial(worker.store.transact, partial(pay, keys=worker.keys))
            self._owes = await self._tenure.retrying(paying)

    def _split(self, batch: Batch) -> Iterator[Batch]:
        """Pieces that one transaction can take; a record that is too big for that stays alone."""
        ends = cut_records(
            batch.values,
            self._worker.max_bytes or sys.maxsize,
            self._worker.max_records or sys.maxsize,
            MOST_WORK_US,
            self._rules.sequences.point_work,
        )
        if len(ends) == 1:
            yield batch
            return
        begin = 0
        for end in ends:
            yield _slice(batch, begin, end)
            begin = end

    async def _apply(self, batch: Batch) -> bool:
        """Applies what is not stored yet of `batch`; False: the stored offset was moved elsewhere."""
        bugs = 0
        while True:
            batch = self._unstored(batch)
            if not batch.values:
                self.partition.committed(batch.next_offset)
                return True
            if len(batch) > self._pace.most:
                return await self._halve(batch)
            refused: Bug | InvalidRecord
            try:
                # Bound now: the name is rebound before the loop comes round.
                attempt = partial(self._try, batch)
                await self._tenure.retrying(attempt)
            except Fenced as error:
                telemetry.INGEST_ERRORS.labels("Fenced").inc()
                believed = self._stored
                await self._read_stored_offset()
                if self._settle(batch):
                    return True
                self._log.warning("looks again", reason=str(error), stored=self._stored)
                if self._stored is None or not (believed or 0) <= self._stored <= batch.next_offset:
                    return False
                continue
            except _TooMuch:
                return await self._halve(batch)
            except (InvalidRecord, Bug) as error:
                refused = error
            else:
                return True
            telemetry.INGEST_ERRORS.labels(class_of(refused)).inc()
            if len(batch) > 1:
                return await self._halve(batch)
            if isinstance(refused, Bug):
                bugs += 1
                self._log.error(
                    "a bug: a record is tried once more"
                    if bugs == 1
                    else "a bug: a record goes to the dead letters",
                    offset=batch.offsets[0],
                    reason=str(refused),
                    exc_info=refused.__cause__,
                )
                if bugs == 1:
                    continue
            self._fatal[batch.offsets[0]] = refused

    async def _halve(self, batch: Batch) -> bool:
        middle = len(batch) // 2
        return await self._apply(_slice(batch, 0, middle)) and await self._apply(
            _slice(batch, middle, len(batch))
        )

    def _unstored(self, batch: Batch) -> Batch:
        if self._stored is None or not batch.values or self._stored <= batch.offsets[0]:
            return batch
        below = bisect_left(batch.offsets, self._stored)
        telemetry.SKIPPED.labels("stored_offset").inc(below)
        return _slice(batch, below, len(batch))

    def _settle(self, batch: Batch) -> bool:
        """Whether `batch` is stored, now that the stored offset has told of a commit of unknown outcome: then it counts like
        any other. What another owner has stored up to the same offset cannot be told apart, and is counted twice."""
        attempt, self._unsettled = self._unsettled, None
        if attempt is None or self._stored != attempt.batch.next_offset:
            return False
        self._log.info("a commit of unknown outcome is stored", stored=self._stored)
        self._done(attempt)
        return batch.next_offset == self._stored

    def _done(self, attempt: _Attempt) -> None:
        """The transaction is durable."""
        batch, contents, unit = attempt
        if contents.events or contents.dead:
            self._log_events(contents)
        self.partition.committed(batch.next_offset)
        self._count(batch, contents, unit)

    async def _try(self, batch: Batch) -> None:
        """`_commit`, of less when it takes too long: a single record waits as for an engine that is away."""
        try:
            await self._commit(batch)
        except Expired as error:
            if len(batch) == 1:
                raise
            telemetry.INGEST_ERRORS.labels("Expired").inc()
            self._log.warning("takes less at once", reason=str(error), records=len(batch))
            self._pace.too_slow(len(batch))
            raise _TooMuch from error
        self._pace.in_time(len(batch))

    async def _commit(self, batch: Batch) -> None:
        """One attempt at one transaction."""
        began = time.perf_counter()
        with BlamingTheRecord():
            contents = self._decode(batch)
        if len(contents.ops) > MOST_OPS and len(batch) > 1:
            raise _TooMuch
        if contents.events or contents.dead:
            await self._announce(contents)
        handed_over = time.perf_counter()
        unit = await self.transact(batch, contents)
        committed = time.perf_counter()
        self._unsettled = None
        self._rules.committed(unit)
        telemetry.INGEST_BATCH_SECONDS.observe(committed - began)
        telemetry.COMMIT_SECONDS.observe(committed - handed_over)
        self._done(_Attempt(batch, contents, unit))

    def _decode(self, batch: Batch) -> Contents:
        """For each attempt anew: applying may fill in the steps of its points."""
        contents = Contents()
        if self._fatal and len(batch) == 1 and (why := self._fatal.get(batch.offsets[0])):
            contents.dead[batch.offsets[0]] = self._tenure.letter(batch, 0, class_of(why), str(why))
            return contents
        for item in decode_records(batch.values):
            if isinstance(item, Malformed):
                offset = batch.offsets[item.index]
                contents.dead[offset] = self._tenure.letter(
                    batch, item.index, "Malformed", item.reason
                )
                continue
            contents.ops.append(item)
            if isinstance(item, Record) and (event := self._worker.event_of(item)) is not None:
                contents.events[batch.offsets[item.index]] = event
        return contents

    async def _announce(self, contents: Contents) -> None:
        """What must be out before the commit; of what one attempt has announced, the next says nothing."""
        announced = self._announced
        if not announced.issuperset(contents.events.keys() | contents.dead.keys()):
            await self._worker.outbox.before(
                [event for offset, event in contents.events.items() if offset not in announced],
                [letter for offset, letter in contents.dead.items() if offset not in announced],
            )
            announced.update(contents.events, contents.dead)

    async def transact(self, batch: Batch, contents: Contents) -> Unit:
        """Commits the batch with its offset; returns when both are durable."""
        row = pack_value(batch.next_offset)
        body = partial(self._body, batch, contents, row)
        unit = await self._worker.store.transact_in_turns(body)
        self.remember_offset(batch.next_offset, row)
        return unit

    def _log_events(self, contents: Contents) -> None:
        """What a batch brought besides points: one line for all of its dead letters, since a producer of nonsense can bring millions."""
        for event in contents.events.values():
            if event.type == "run_deleted":
                self._log.info("a run was deleted", run=event.payload["run_id"])
        if contents.dead:
            first = next(iter(contents.dead.values()))
            self._log.error(
                "records went to the dead letters",
                records=len(contents.dead),
                offset=first.offset,
                error_class=first.error_class,
                reason=first.error_text,
            )

    def _body(
        self, batch: Batch, contents: Contents, row: bytes, tr: Transaction
    ) -> Generator[None, None, Unit]:
        if tr.prefetches:
            tr.prefetch([self._offset_key, self._dropped_key], [])
            with BlamingTheRecord():
                prefetch(tr, self._rules, contents.ops)
        if self.read_offset(tr) != self._stored_row:
            raise Fenced(
                "the stored offset has moved: another owner, or a commit of unknown outcome"
            )
        unit = self._rules.begin(tr, self._name)
        with BlamingTheRecord():
            for op in contents.ops:
                yield from unit.applying(op)
                yield
            yield from unit.ending()
        if unit.dropped:
            self._note_dropped(tr, unit, batch)
        events, dead = [*contents.events.values()], [*contents.dead.values()]
        self._worker.outbox.within(tr, events, dead, batch.offsets)
        self.write_offset(tr, row)
        self._unsettled = _Attempt(batch, contents, unit)
        return unit

    def _note_dropped(self, tr: Transaction, unit: Unit, batch: Batch) -> None:
        before = tr.get(self._dropped_key)
        total = unit.dropped + (0 if before is None else int(unpack_value(before)))
        tr.set(self._dropped_key, pack_value(total))
        # Before the commit, whose outcome may become known by the stored offset alone; what a deleted run loses stays so.
        if isinstance(self.partition, Answering):
            for run, dropped in unit.deleted.items():
                self.partition.dropped(run, batch.offsets[dropped.first])

    def _count(self, batch: Batch, contents: Contents, unit: Unit) -> None:
        telemetry.INGEST_BATCH_SIZE.observe(len(batch))
        telemetry.INGEST_TXN_BYTES.observe(total_bytes(batch.values))
        if contents.ops:
            first = contents.ops[0].timestamp
            telemetry.END_TO_END_SECONDS.observe(max(0.0, time.time() - first))
        if not unit.applied.keys().isdisjoint(OWING):
            self._owes = self._worker.keys.are_shared
        for kind, count in unit.applied.items():
            _processed[kind] = _processed.get(kind, 0) + count
        if self._worker.on_deletion is not None and "delete_run" in unit.applied:
            self._worker.on_deletion()
        if unit.dropped:
            telemetry.SKIPPED.labels("tombstone").inc(unit.dropped)
            for run, dropped in unit.deleted.items():
                self._dropped.tell(run, dropped.records, time.monotonic())
        if contents.dead:
            telemetry.DEAD_LETTERS.labels(self.partition.topic).inc(len(contents.dead))


def _slice(batch: Batch, begin: int, end: int) -> Batch:
    return Batch(
        batch.offsets[begin:end],
        batch.keys[begin:end],
        batch.values[begin:end],
        batch.next_offset if end == len(batch) else batch.offsets[end - 1] + 1,
    )
