"""What the ingestion worker promises: exactly once, nothing skipped, only what can never work is given up."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from matyan._codec import MetricPoints
from matyan.broker.base import Batch
from matyan.broker.local import LocalBroker
from matyan.errors import ConfigurationError, Expired, InvalidRecord, OffsetConflict, Unavailable
from matyan.keys import Keys, unpack_value
from matyan.rules.records import Rules, Unit
from matyan.rules.sequences import Sequences
from matyan.service import telemetry
from matyan.store.base import Snapshot, Transaction, exhausted
from matyan.store.rocks import open_rocks
from matyan.workers.ingest import IngestWorker
from tests.broken_ingestion import AcknowledgesEarly, IgnoresStoredOffset
from tests.ledger import Ledger, metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.memory_store import MemoryStore, MemoryTransaction
from tests.until import until

pytestmark = pytest.mark.usefixtures("bodies")

T = TypeVar("T")


def written(tr: Transaction) -> int:
    """How many keys."""
    return len(tr.writes if isinstance(tr, MemoryTransaction) else tr._writes)


class Engine:
    """A store whose engine can be away, lose an answer, or take no large transaction."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self.transactions = 0
        self.away = False
        self.lose_answers = 0
        self.most_writes: int | None = None
        self.most_points_in_time: int | None = None
        self.expired = 0
        self.size = 0
        self.sizes: list[int] = []
        """Records applied by each transaction."""
        self.before_next: Callable[[], None] | None = None

    is_shared = False

    def directory(self, path: tuple[str, ...]) -> bytes:
        return self._store.directory(path)

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        if self.away:
            raise Unavailable("the store is away")
        if self.before_next is not None:
            hook, self.before_next = self.before_next, None
            hook()

        def limited(tr: Transaction) -> T:
            outcome = body(tr)
            size = sum(outcome.applied.values()) if isinstance(outcome, Unit) else 0
            if self.most_points_in_time is not None and size > self.most_points_in_time:
                self.expired += 1
                raise Expired("the transaction is too old")
            self.size = size
            if self.most_writes is not None and written(tr) > self.most_writes:
                raise InvalidRecord("the transaction is too large")
            return outcome

        outcome = self._store.commit(limited)
        self.sizes.append(self.size)
        self.transactions += 1
        await trio.lowlevel.checkpoint()
        if self.lose_answers:
            self.lose_answers -= 1
            raise Unavailable("nobody knows")
        return outcome

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        return await self.transact(lambda tr: exhausted(body(tr)))

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        await trio.lowlevel.checkpoint()
        if self.away:
            raise Unavailable("the store is away")
        return self._store.look(body)

    async def aclose(self) -> None: ...


class Scene:
    """A topic, a store, and workers between them."""

    def __init__(self, *values: bytes) -> None:
        self.log = Topic(*values)
        self.ledger = Ledger()
        self.engine = Engine(self.ledger.store)
        # What a worker owes to counts where a store is shared, and pays by transactions of their own, is the subject of
        # tests/rules/test_counts.py.
        self.ledger.keys = Keys(self.engine)
        self.outbox = MemoryOutbox()

    def worker(
        self,
        consumer: MemoryConsumer,
        kind: type[IngestWorker] = IngestWorker,
        **options: Any,
    ) -> IngestWorker:
        return kind(
            consumer, self.engine, self.ledger.keys, self.ledger.make_rules, self.outbox, **options
        )

    @asynccontextmanager
    async def at_work(
        self, consumer: MemoryConsumer | None = None, **options: Any
    ) -> AsyncIterator[MemoryConsumer]:
        """A worker that runs while the block does, and has then drained."""
        consumer = consumer or MemoryConsumer(self.log)
        worker = self.worker(consumer, **options)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield consumer
            worker.stop()

    async def work(self, consumer: MemoryConsumer | None = None, **options: Any) -> MemoryConsumer:
        """A worker until all that the topic holds is acknowledged."""
        async with self.at_work(consumer, **options) as running:
            await until(lambda: running.held.acknowledged[-1:] == [len(self.log.values)])
        return running

    @property
    def stored(self) -> int | None:
        packed = self.ledger.store.rows.get(self.ledger.keys.ingest("T", 0))
        return None if packed is None else unpack_value(packed)

    def values(self) -> list[float]:
        return [value for _, value, _, _ in self.ledger.points("m")]


def points(begin: int, end: int) -> list[bytes]:
    """Points without a step: applied twice they stand twice."""
    return [metric("m", float(i), None, at=float(i)) for i in range(begin, end)]


def count(metric_: Any) -> float:
    return sum(
        sample.value
        for family in metric_.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    )


def processed(kind: str) -> float:
    return telemetry.INGEST_PROCESSED.counts().get(kind, 0)


# --- exactly once ---------------------------------------------------------------------------------


async def test_a_batch_and_its_offset_are_one_transaction() -> None:
    """After one commit the records and the next offset stand; then the partition is acknowledged."""
    scene = Scene(*points(0, 10))
    consumer = await scene.work()
    assert scene.engine.transactions == 1
    assert scene.values() == list(map(float, range(10)))
    assert scene.stored == 10
    assert consumer.held.acknowledged == [10]


async def test_a_worker_starts_where_the_store_says() -> None:
    """Not where the broker does; without a stored offset the partition is asked to decide."""
    scene = Scene(*points(0, 3))
    first = await scene.work()
    scene.log.append(*points(3, 5))
    second = await scene.work()
    assert (first.held.starts, second.held.starts) == ([None], [3])
    assert scene.values() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("begin", range(5))
@pytest.mark.parametrize("batch", [1, 2, 3, 100])
async def test_records_below_the_stored_offset_are_skipped_and_counted(
    begin: int, batch: int
) -> None:
    """Whatever the broker delivers again, in batches that end anywhere."""
    scene = Scene(*points(0, 5))
    await scene.work()
    scene.log.append(*points(5, 8))
    skipped = count(telemetry.SKIPPED)
    await scene.work(MemoryConsumer(scene.log, batch=batch, deliver_from=begin))
    assert scene.values() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert count(telemetry.SKIPPED) - skipped == 5 - begin


async def test_without_the_stored_offset_a_redelivery_stands_twice() -> None:
    """The negative control: what the tests above would see if the stored offset did not work."""
    scene = Scene(*points(0, 5))
    await scene.work(kind=IgnoresStoredOffset)
    await scene.work(MemoryConsumer(scene.log, deliver_from=0), kind=IgnoresStoredOffset)
    assert scene.stored is None
    assert len(scene.values()) == 10


async def test_a_commit_whose_answer_was_lost_is_not_applied_again(
    autojump_clock: MockClock,
) -> None:
    """The stored offset tells that it landed; what was remembered before it is forgotten."""
    scene = Scene(*points(0, 5))
    scene.engine.lose_answers = 1
    async with scene.at_work() as consumer:
        await until(lambda: consumer.held.acknowledged == [5])
        scene.log.append(*points(5, 8))
        await until(lambda: consumer.held.acknowledged == [5, 8])
    assert scene.values() == [0, 1, 2, 3, 4, 5, 6, 7]


async def test_a_commit_of_unknown_outcome_counts_as_processed(autojump_clock: MockClock) -> None:
    """Not as skipped, and with all that follows from it: its deletion is told."""
    scene = Scene(*points(0, 5), record("delete_run", at=9))
    scene.engine.lose_answers = 1
    deletions: list[None] = []
    before = {kind: processed(kind) for kind in ("log_metric", "delete_run")}
    skipped = count(telemetry.SKIPPED)
    consumer = await scene.work(on_deletion=lambda: deletions.append(None))
    assert consumer.held.acknowledged == [6]
    assert processed("log_metric") - before["log_metric"] == 5
    assert processed("delete_run") - before["delete_run"] == 1
    assert count(telemetry.SKIPPED) == skipped
    assert len(deletions) == 1


async def test_of_two_owners_only_one_commits() -> None:
    """The one that is behind sees it in its transaction, reads the stored offset and goes on from there."""
    scene = Scene(*points(0, 4))
    other = scene.ledger.make_rules()

    def steal() -> None:
        """Another owner commits more than this worker's batch."""
        scene.log.append(*points(4, 6))
        scene.ledger.apply(*points(0, 6), rules=other)
        scene.ledger.store.commit(lambda tr: tr.set(scene.ledger.keys.ingest("T", 0), b"\x06"))

    scene.engine.before_next = steal
    async with scene.at_work(MemoryConsumer(scene.log, batch=2)) as consumer:
        await until(lambda: consumer.held.starts == [None, 6])
        scene.log.append(*points(6, 9))
        await until(lambda: scene.stored == 9)
    assert scene.values() == list(map(float, range(9)))


async def test_two_workers_that_both_believe_to_own_a_partition_store_everything_once() -> None:
    """A zombie and its successor, side by side, batch by batch."""
    scene = Scene(*points(0, 200))
    async with (
        scene.at_work(MemoryConsumer(scene.log, batch=7)),
        scene.at_work(MemoryConsumer(scene.log, batch=11)),
    ):
        await until(lambda: scene.stored == 200)
    assert scene.values() == list(map(float, range(200)))


async def test_a_stored_offset_that_was_set_back_is_followed() -> None:
    """`offsets reset` under a running worker: it starts there."""
    scene = Scene(*points(0, 4))
    async with scene.at_work() as consumer:
        await until(lambda: scene.stored == 4)
        scene.ledger.store.commit(lambda tr: tr.set(scene.ledger.keys.ingest("T", 0), b"\x02"))
        scene.log.append(*points(4, 5))
        await until(lambda: scene.stored == 5)
    assert consumer.held.starts == [None, 2]
    assert scene.values() == [0, 1, 2, 3, 2, 3, 4]


# --- what is away comes back ----------------------------------------------------------------------


async def test_a_store_that_is_away_is_waited_for(autojump_clock: MockClock) -> None:
    """Paused while it waits, each wait counted by cause, nothing dropped, nothing given up."""
    scene = Scene(*points(0, 5))
    retries = count(telemetry.RETRIES)
    async with scene.at_work() as consumer:
        await until(lambda: scene.stored == 5)
        scene.engine.away = True
        scene.log.append(*points(5, 8))
        await trio.sleep(3_600)
        assert consumer.held.paused
        assert consumer.held.acknowledged == [5]
        assert 700 < count(telemetry.RETRIES) - retries < 1_500
        scene.engine.away = False
        await until(lambda: scene.stored == 8)
    assert not consumer.held.paused
    assert consumer.held.pauses == 1
    assert scene.values() == [0, 1, 2, 3, 4, 5, 6, 7]
    assert scene.outbox.dead == []


async def test_a_worker_can_start_before_its_store(autojump_clock: MockClock) -> None:
    """The stored offset is read again and again too."""
    scene = Scene(*points(0, 5))
    scene.engine.away = True
    async with scene.at_work():
        await trio.sleep(60)
        scene.engine.away = False
        await until(lambda: scene.stored == 5)
    assert scene.values() == [0, 1, 2, 3, 4]


async def test_a_bug_is_not_swallowed() -> None:
    """An error that nobody planned for ends the worker; nothing is skipped."""
    scene = Scene(*points(0, 5))

    def bug() -> None:
        raise ZeroDivisionError

    scene.engine.before_next = bug
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with scene.at_work():
            await trio.sleep_forever()
    assert scene.stored is None


def stalled() -> dict[str, float]:
    """What is shown of partitions that are not read on: cause and value."""
    return {
        sample.labels["cause"]: sample.value
        for family in telemetry.STALLED.collect()
        for sample in family.samples
    }


async def test_a_partition_that_waits_is_shown_until_it_goes_on_or_is_left(
    autojump_clock: MockClock,
) -> None:
    """So that an alert names it, and ends."""
    telemetry.DEAD_LETTERS.clear()
    scene = Scene(*points(0, 3))
    scene.engine.away = True
    for comes_back in True, False:
        async with scene.at_work():
            await trio.sleep(5)
            assert stalled() == {"engine": 1.0}
            if comes_back:
                scene.engine.away = False
                await trio.sleep(10)
                assert stalled() == {}
                scene.engine.away = True
        assert stalled() == {}
    assert letters_shown() == 0


def letters_shown() -> float:
    """A count that is there before the first dead letter: from nothing to 1 is no increase to who scrapes."""
    (family,) = telemetry.DEAD_LETTERS.collect()
    (shown,) = (
        sample.value
        for sample in family.samples
        if sample.name.endswith("_total") and sample.labels["topic"] == "data-ingestion"
    )
    return shown


async def test_an_offset_conflict_stands_still_until_it_is_settled(
    autojump_clock: MockClock,
) -> None:
    """Only a person can settle it: the worker says so, applies nothing of that partition, and looks again."""
    scene = Scene(*points(0, 3))
    consumer = MemoryConsumer(scene.log)
    begin = consumer.held.start

    async def start(stored: int | None) -> int:
        raise OffsetConflict("call: matyan offsets reset")

    consumer.held.start = start
    worker = scene.worker(consumer)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await trio.sleep(60)
        assert worker.trouble() == "call: matyan offsets reset"
        assert stalled() == {"conflict": 1.0}
        assert scene.stored is None
        consumer.held.start = begin
        await trio.sleep(60)
        assert worker.trouble() is None
        assert stalled() == {}
        assert scene.values() == [0, 1, 2]
        worker.stop()


# --- dead letters ---------------------------------------------------------------------------------


async def test_what_is_no_record_goes_to_the_dead_letters_alone() -> None:
    """With its bytes, key and place; its neighbours are applied in the same transaction."""
    scene = Scene(*points(0, 2), b"{nonsense", *points(3, 5))
    await scene.work()
    assert scene.values() == [0, 1, 3, 4]
    (letter,) = scene.outbox.dead
    assert (letter.topic, letter.partition, letter.offset) == ("data-ingestion", 0, 2)
    assert (letter.key, letter.value, letter.error_class) == (b"key", b"{nonsense", "Malformed")
    assert letter.error_text
    assert scene.engine.transactions == 1
    assert scene.outbox.within_calls[-1][1] == [letter]


@pytest.mark.parametrize("place", [0, 1, 499, 998, 999])
async def test_a_poison_record_is_found_by_halving_and_goes_alone(place: int) -> None:
    """Of 1,000 records 999 are applied in the log's order, once each."""
    values = points(0, 1_000)
    values[place] = record("log_hparams", value={"a": {"x" * 5_000: 1}})
    scene = Scene(*values)
    await scene.work()
    assert scene.values() == [float(i) for i in range(1_000) if i != place]
    (letter,) = scene.outbox.dead
    assert (letter.offset, letter.error_class) == (place, "InvalidRecord")
    assert "4096" in letter.error_text
    assert scene.stored == 1_000


async def test_letters_of_a_batch_that_is_halved_are_sent_once() -> None:
    """Each offset once, though its batch is tried several times."""
    values = points(0, 16)
    values[3], values[9], values[10] = b"bad", record("no_such_kind"), b"bad too"
    scene = Scene(*values)
    await scene.work()
    assert sorted(letter.offset for letter in scene.outbox.dead) == [3, 9, 10]
    assert len(scene.values()) == 13


async def test_a_transaction_that_is_too_large_is_halved_until_it_fits() -> None:
    """No record is given up for its neighbours' size, one that is too large alone is."""
    values = [record("add_tag", f"r{i}", tag_name="t") for i in range(20)]
    values[7] = record("log_hparams", "r7", value={str(i): i for i in range(1_000)})
    scene = Scene(*values)
    scene.engine.most_writes = 100
    await scene.work()
    assert scene.ledger.counts("tags") == {"t": 19}
    assert [letter.offset for letter in scene.outbox.dead] == [7]


async def test_a_transaction_that_takes_too_long_is_halved_and_later_grows_again() -> None:
    """Less at once until it is in time, nothing given up; a single record that takes too long waits, like for an engine that is away."""
    scene = Scene(*points(0, 64))
    scene.engine.most_points_in_time = 10
    async with scene.at_work(MemoryConsumer(scene.log, batch=64)) as consumer:
        await until(lambda: scene.stored == 64)
        assert scene.engine.sizes == [8] * 8
        assert scene.engine.expired == 3
        scene.engine.most_points_in_time = None
        for begin in range(64, 64 * 40, 64):
            scene.log.append(*points(begin, begin + 64))
            await until(lambda end=begin + 64: scene.stored == end)
    assert consumer.held.pauses == 0
    assert scene.engine.sizes[-1] == 64
    assert scene.engine.expired == 3
    assert scene.values() == list(map(float, range(64 * 40)))
    assert scene.outbox.dead == []


async def test_a_single_record_that_takes_too_long_is_waited_for(
    autojump_clock: MockClock,
) -> None:
    """The engine is slow, and no record is at fault."""
    scene = Scene(*points(0, 2))
    scene.engine.most_points_in_time = 0
    async with scene.at_work() as consumer:
        await trio.sleep(60)
        assert consumer.held.paused
        scene.engine.most_points_in_time = None
        await until(lambda: scene.stored == 2)
    assert scene.values() == [0, 1]
    assert scene.outbox.dead == []


async def test_a_dead_letter_is_sent_before_its_batch_commits(autojump_clock: MockClock) -> None:
    """While it cannot be sent nothing is committed."""
    scene = Scene(b"bad", *points(1, 3))
    scene.outbox = MemoryOutbox(fails=3)
    seen: list[int] = []
    scene.engine.before_next = lambda: seen.append(len(scene.outbox.dead))
    async with scene.at_work():
        await until(lambda: scene.stored == 3)
    assert seen == [len(scene.outbox.dead)] == [1]


# --- deletions ------------------------------------------------------------------------------------


async def test_run_deleted_is_announced_before_the_transaction_that_deletes(
    autojump_clock: MockClock,
) -> None:
    """And again when that transaction is lost, never not at all: its handler is idempotent."""
    scene = Scene(*points(0, 2), record("delete_run", at=5))
    scene.outbox = MemoryOutbox(fails=2)
    seen: list[int] = []
    scene.engine.before_next = lambda: seen.append(len(scene.outbox.events))
    async with scene.at_work():
        await until(lambda: scene.stored == 3)
    assert seen == [1]
    (event,) = scene.outbox.events
    assert (event.type, event.payload) == ("run_deleted", {"run_id": "r"})
    assert scene.outbox.within_calls[-1][0] == [event]
    assert scene.ledger.meta() == {}


async def test_records_of_deleted_runs_are_counted() -> None:
    scene = Scene(record("delete_run"), *points(0, 4))
    before = telemetry.SKIPPED.labels("tombstone")._value.get()
    await scene.work()
    assert telemetry.SKIPPED.labels("tombstone")._value.get() - before == 4
    assert scene.stored == 5


# --- a bug of ours --------------------------------------------------------------------------------


class Faulty(Rules):
    """Raises an error at each point of the value 3.0, `times` times."""

    def __init__(
        self, ledger: Ledger, error: Callable[[], Exception], times: int = 1_000_000
    ) -> None:
        super().__init__(ledger.keys, Sequences(ledger.keys, ledger.layout))
        self.error = error
        self.times = times

    def begin(self, tr: Transaction, owner: str) -> Unit:
        rules = self

        class FaultyUnit(Unit):
            def _apply_points(self, op: MetricPoints) -> None:
                if rules.times and 3.0 in [value for _, value, _, _ in op.columns.rows()]:
                    rules.times -= 1
                    raise rules.error()
                super()._apply_points(op)

        return FaultyUnit(self, tr, owner)


@pytest.mark.parametrize("error", [OverflowError, KeyError, RecursionError, AssertionError])
async def test_a_record_that_meets_a_bug_twice_on_its_own_is_a_dead_letter(
    error: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    """Alone, of the class "bug", counted and logged as one; what stands around it is stored."""
    scene = Scene(*points(0, 10))
    rules = Faulty(scene.ledger, error)
    scene.ledger.make_rules = lambda: rules
    errors = telemetry.INGEST_ERRORS.labels("bug")._value.get()
    letters = count(telemetry.DEAD_LETTERS)
    await scene.work()
    assert scene.values() == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    (letter,) = scene.outbox.dead
    assert (letter.offset, letter.error_class) == (3, "bug")
    assert error.__name__ in letter.error_text
    assert telemetry.INGEST_ERRORS.labels("bug")._value.get() - errors >= 2
    assert count(telemetry.DEAD_LETTERS) - letters == 1
    assert caplog.text.count("a bug: ") == 2


async def test_a_bug_that_does_not_repeat_costs_nothing() -> None:
    scene = Scene(*points(0, 4))
    # As often as halves of the batch are tried, and once on its own.
    rules = Faulty(scene.ledger, KeyError, times=3)
    scene.ledger.make_rules = lambda: rules
    await scene.work()
    assert scene.values() == [0, 1, 2, 3]
    assert scene.outbox.dead == []


async def test_want_of_memory_is_waited_for(autojump_clock: MockClock) -> None:
    """It is no record's fault, however often it comes."""
    scene = Scene(*points(0, 5))
    rules = Faulty(scene.ledger, MemoryError, times=10)
    scene.ledger.make_rules = lambda: rules
    retries = count(telemetry.RETRIES)
    await scene.work()
    assert scene.values() == [0, 1, 2, 3, 4]
    assert scene.outbox.dead == []
    assert count(telemetry.RETRIES) - retries == 10


async def test_a_damaged_store_stops_the_worker_with_its_sentence() -> None:
    """No record is given up for it, and nothing is acknowledged."""
    scene = Scene(*points(0, 5))
    rules = Faulty(scene.ledger, lambda: ConfigurationError("the store is damaged"))
    scene.ledger.make_rules = lambda: rules
    with pytest.RaisesGroup(
        pytest.RaisesExc(ConfigurationError, match="damaged"), flatten_subgroups=True
    ):
        await scene.work()
    assert scene.outbox.dead == []
    assert scene.stored is None


# --- batches --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "transactions"),
    [
        ({}, 1),
        ({"max_records": 4}, 3),
        ({"max_records": 1}, 10),
        ({"max_bytes": 3 * len(points(0, 1)[0])}, 4),
        ({"max_bytes": 1}, 10),
        ({"max_bytes": 10_000_000, "max_records": 10}, 1),
    ],
)
async def test_batches_are_cut_to_what_one_transaction_takes(
    options: dict[str, int], transactions: int
) -> None:
    """By bytes and by records; a record that is larger stays alone."""
    scene = Scene(*points(0, 10))
    await scene.work(**options)
    assert scene.engine.transactions == transactions
    assert scene.values() == list(map(float, range(10)))


async def test_offsets_with_holes_are_kept() -> None:
    """Compaction and transactions leave some out: the stored offset is the batch's next one."""
    scene = Scene()
    consumer = MemoryConsumer(scene.log)

    async def batches() -> AsyncIterator[Batch]:
        yield Batch([3, 7, 8], [None] * 3, points(0, 3), 12)
        await trio.sleep_forever()

    consumer.held.batches = batches
    async with scene.at_work(consumer, max_records=2):
        await until(lambda: scene.stored == 12)
    assert consumer.held.acknowledged == [8, 12]
    assert scene.values() == [0, 1, 2]


# --- leaving --------------------------------------------------------------------------------------


async def test_stop_finishes_the_batch_at_hand_and_starts_no_other() -> None:
    """Then run returns and the partition's context is left."""
    scene = Scene(*points(0, 10))
    consumer = MemoryConsumer(scene.log, batch=5)
    worker = scene.worker(consumer)
    scene.engine.before_next = worker.stop
    await worker.run()
    assert scene.stored == 5
    assert consumer.held.acknowledged == [5]
    assert consumer.was_left


async def test_a_batch_that_comes_in_the_moment_of_the_stop_is_not_begun() -> None:
    """Its transaction would be cancelled and yet be there: what is stored and what is acknowledged would differ."""
    scene = Scene(*points(0, 5))
    async with scene.at_work() as consumer:
        await wait_all_tasks_blocked()
        scene.log.append(*points(5, 8))
    assert consumer.held.acknowledged == [5]
    assert scene.stored == 5


async def test_a_revoked_partition_is_left_after_the_batch_at_hand() -> None:
    """The worker itself goes on: it may be assigned another one."""
    scene = Scene(*points(0, 10))
    consumer = MemoryConsumer(scene.log, batch=5)
    scene.engine.before_next = consumer.held.revoked.set
    async with scene.at_work(consumer):
        await until(lambda: consumer.was_left)
    assert scene.stored == 5


async def test_waiting_for_a_store_ends_when_the_worker_is_to_leave(
    autojump_clock: MockClock,
) -> None:
    """What was not committed is not acknowledged: it comes again."""
    scene = Scene(*points(0, 5))
    async with scene.at_work() as consumer:
        await wait_all_tasks_blocked()
        scene.engine.away = True
        scene.log.append(*points(5, 8))
        await trio.sleep(10)
    assert consumer.held.acknowledged == [5]
    assert scene.stored == 5


async def test_acknowledging_before_the_commit_loses_records() -> None:
    """The negative control of durability: acknowledged, and not there."""
    scene = Scene(*points(0, 5))
    scene.engine.away = False
    consumer = MemoryConsumer(scene.log)
    acknowledged: list[int] = []
    scene.engine.before_next = lambda: acknowledged.extend(consumer.held.acknowledged)
    await scene.work(consumer, kind=AcknowledgesEarly)
    assert acknowledged == [5]


# --- the engines of one machine -------------------------------------------------------------------


async def test_what_the_embedded_engines_acknowledged_is_stored_once(tmp_path: Path) -> None:
    """RocksDB and the broker in the process: a worker that crashes after a commit, one that goes on, a reopened store."""
    store = open_rocks(tmp_path)
    keys = Keys(store)
    broker = LocalBroker(keys, 1 << 20)
    producer = broker.producer()
    acknowledged: list[int] = []

    def send(i: int) -> None:
        producer.produce(b"r", points(i, i + 1), lambda error: acknowledged.append(i))

    class Crash(Exception):
        pass

    class Forgetful(Rules):
        def committed(self, unit: Unit) -> None:
            raise Crash

    def worker(kind: type[Rules]) -> IngestWorker:
        return IngestWorker(
            broker.ingest_consumer(),
            store,
            keys,
            lambda: kind(keys, Sequences(keys, "packed")),
            broker.outbox(),
        )

    for i in range(10):
        send(i)
    with pytest.RaisesGroup(Crash, flatten_subgroups=True):
        await worker(Forgetful).run()
    assert acknowledged == []
    second = worker(Rules)
    async with trio.open_nursery() as nursery:
        await nursery.start(second.run)
        for i in range(10, 20):
            send(i)
        assert await producer.flush(trio.current_time() + 60) == 0
        second.stop()
    assert acknowledged == [*range(20)]
    await store.aclose()
    reopened = open_rocks(tmp_path)
    blocks = await reopened.read(
        lambda snap: [*Sequences(keys, "packed").points(snap, "r", 0, "m")]
    )
    assert [row[:2] for block in blocks for row in block.rows()] == [
        (i, float(i)) for i in range(20)
    ]
    await reopened.aclose()
