"""What the rules and the worker make of FoundationDB's own ways: conflicts of two owners of a run, commits of which nobody
knows whether they happened, batches that read much."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import trio

from matyan._codec import Malformed, decode_records
from matyan.rules.prefetch import prefetch
from matyan.rules.records import Rules, Unit
from matyan.rules.sequences import Layout
from matyan.service import telemetry
from matyan.store.base import Transaction, exhausted
from matyan.store.fdb import store as fdb_store
from matyan.store.fdb.transaction import FdbTransaction
from matyan.workers.ingest import IngestWorker
from tests import fdb
from tests.ledger import Ledger, metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.until import until

layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])


@pytest.fixture
def make_store() -> Iterator[Callable[[], fdb.SyncFdbStore]]:
    with fdb.fdb_stores() as make:
        yield make


async def work(ledger: Ledger, values: Sequence[bytes], batch: int, topic_id: str = "T") -> None:
    """A worker that remembers nothing yet, until all of a topic is stored."""
    topic = Topic(*values)
    topic.topic_id = topic_id
    consumer = MemoryConsumer(topic, batch=batch)
    worker = IngestWorker(consumer, ledger.store, ledger.keys, ledger.make_rules, MemoryOutbox())
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await until(lambda: consumer.held.acknowledged[-1:] == [len(values)], 240)
        worker.stop()


# --- two owners of one run ------------------------------------------------------------------------


class Owner:
    """Of a partition, with rules that remember."""

    def __init__(self, ledger: Ledger, name: str) -> None:
        self.ledger = ledger
        self.name = name
        self.rules: Rules = ledger.make_rules()
        self.attempts = 0

    def apply(self, value: bytes, before_commit: Callable[[], object] = lambda: None) -> None:
        """before_commit: called once, when its transaction has read and written and is not committed."""
        self.attempts = 0

        def body(tr: Transaction) -> Unit:
            self.attempts += 1
            ops: list[Any] = [op for op in decode_records([value]) if not isinstance(op, Malformed)]
            prefetch(tr, self.rules, ops)
            unit = self.rules.begin(tr, self.name)
            for op in ops:
                unit.apply(op)
            exhausted(unit.ending())
            if self.attempts == 1:
                before_commit()
            return unit

        self.rules.committed(self.ledger.store.commit(body))


def meet(ledger: Ledger) -> tuple[list[float], int]:
    """Two owners of a run that remember it write at the same moment; what is stored, and how often the first one's
    body ran."""
    first, second = Owner(ledger, "T/0"), Owner(ledger, "T/1")
    first.apply(metric("m", 0.0, None))
    others = threading.Thread(target=second.apply, args=[metric("m", 2.0, None)])

    def meanwhile() -> None:
        others.start()
        others.join()

    first.apply(metric("m", 1.0, None), meanwhile)
    return [value for _, value, _, _ in ledger.points("m")], first.attempts


@layouts
def test_of_two_owners_of_a_run_the_later_one_runs_again(
    make_store: Callable[[], fdb.SyncFdbStore], layout: Layout
) -> None:
    """Its points have no conflict range of their own: the owner's row has one, and nothing is written over."""
    assert meet(Ledger(layout, store=make_store())) == ([0.0, 2.0, 1.0], 2)


@layouts
def test_without_the_owners_row_a_point_would_be_lost(
    make_store: Callable[[], fdb.SyncFdbStore], layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: the same with that row's conflict range dropped as the points' are."""
    ledger = Ledger(layout, store=make_store())

    class DropsTheOwners(FdbTransaction):
        def write(self) -> int:
            self._unranged.add(ledger.keys.owner("r"))
            return super().write()

    monkeypatch.setattr(fdb_store, "FdbTransaction", DropsTheOwners)
    values, attempts = meet(ledger)
    assert attempts == 1
    assert 2.0 not in values


# --- nobody knows whether it was committed --------------------------------------------------------


class Unsure:
    """The client's calls, of which every second commit says that nobody knows."""

    UNKNOWN = 1021

    def __init__(self, calls: Any, *, lands: bool) -> None:
        self._calls = calls
        self._lands = lands
        self.commits = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._calls, name)

    def commit(self, transaction: int) -> int:
        self.commits += 1
        if self.commits % 2:
            return int(self._calls.commit(transaction))
        code = int(self._calls.commit(transaction)) if self._lands else 0
        return code or self.UNKNOWN


@layouts
@pytest.mark.parametrize("lands", [True, False], ids=["it was", "it was not"])
async def test_a_commit_of_unknown_outcome_counts_once(
    make_store: Callable[[], fdb.SyncFdbStore], layout: Layout, lands: bool
) -> None:
    """Points without a step, tags and log records: each once, in order, and counted as processed, none as skipped."""
    store = make_store()
    store._cluster.calls = unsure = Unsure(store._cluster.calls, lands=lands)
    ledger = Ledger(layout, store=store)
    values = [metric("m", float(i), None, at=i) for i in range(60)]
    values += [record("add_tag", at=i, tag_name=f"t{i}") for i in range(20)]
    values += [record("log_record", at=i, message=str(i), level=20, timestamp=1) for i in range(20)]

    def counted() -> tuple[float, float]:
        kinds = ("log_metric", "add_tag", "log_record")
        processed = sum(telemetry.INGEST_PROCESSED.counts().get(kind, 0) for kind in kinds)
        return processed, telemetry.SKIPPED.labels("stored_offset")._value.get()

    processed, skipped = counted()
    await work(ledger, values, 7)
    assert unsure.commits >= 20  # half of them unknown
    assert [row[:2] for row in ledger.points("m")] == [(i, float(i)) for i in range(60)]
    assert [row[3]["message"] for row in ledger.objects("__log_records")] == [
        str(i) for i in range(20)
    ]
    assert ledger.counts("tags") == {f"t{i}": 1 for i in range(20)}
    assert counted() == (processed + 100, skipped)


async def test_commits_side_by_side_are_each_counted() -> None:
    """They run in threads, and are counted where all else is."""
    counts = telemetry.FDB_COMMIT_SECONDS._counts
    before = sum(counts)

    async def commit(task: int) -> None:
        for _ in range(20):
            await store.transact(lambda tr: tr.set(prefix + bytes([task]), b"1"))

    async with fdb.fdb_store() as store:
        prefix = store.directory(("system",))
        async with trio.open_nursery() as nursery:
            for task in range(8):
                nursery.start_soon(commit, task)
    assert sum(counts) - before == 160


# --- much at once ---------------------------------------------------------------------------------


@layouts
async def test_a_cold_batch_of_a_thousand_sequences_gets_through(
    make_store: Callable[[], fdb.SyncFdbStore], layout: Layout
) -> None:
    """A worker that has just begun and knows none of its batch's runs and sequences, which are there already."""
    ledger = Ledger(layout, store=make_store())

    def values(first: int) -> list[bytes]:
        return [
            metric(f"m{number}", float(step), None, f"r{run}", at=step)
            for step in range(first, first + 3)
            for run in range(10)
            for number in range(100)
        ]

    for first in 0, 3:
        await work(ledger, values(first), 3_000, topic_id=f"T{first}")
    for run in "r0", "r9":
        for name in "m0", "m99":
            assert [row[:2] for row in ledger.points(name, run=run)] == [
                (step, float(step)) for step in range(6)
            ]
