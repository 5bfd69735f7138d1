"""Two owners of one run: partitions were added while records waited, and its records stand in several of them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import context_text
from matyan.keys import Keys
from matyan.rules.records import Rules
from matyan.rules.sequences import Growth, Layout, Sequences
from matyan.store.rocks import open_rocks
from matyan.workers.ingest import IngestWorker
from tests.ledger import Ledger, metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.memory_store import MemoryStore
from tests.rules.test_records_model import Model, check, logs, time_of
from tests.until import until

pytestmark = pytest.mark.usefixtures("bodies")

layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])

TINY = Growth(early=2, latest=3, chunk=4, rewrite=6)
"""Chunks that are merged at once and again: what an owner remembers of them is old after the other's next batch."""


class Crew:
    """Owners of partitions, each with rules that remember, over one store."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.rules: dict[int, Rules] = {}

    def apply(self, owner: int, *values: bytes) -> None:
        rules = self.rules.setdefault(owner, self.ledger.make_rules())
        self.ledger.apply(*values, rules=rules, owner=f"T/{owner}")

    def check_traces(self, model: Model) -> None:
        """The last step of each sequence is its highest one, and its last value that one's."""
        for name, run in model.runs.items():
            texts = {ctx: context_text(one) for ctx, one in self.ledger.contexts(name).items()}
            found = {(texts[info.ctx], info.name): info for info in self.ledger.traces(name)}
            assert found.keys() == {*run.points, *run.objects}
            for sequence, info in found.items():
                steps = {**run.points.get(sequence, {}), **run.objects.get(sequence, {})}
                assert info.last_step == max(steps)
                if sequence in run.points and max(steps) in run.points[sequence]:
                    assert info.last == run.points[sequence][max(steps)][0]


@layouts
def test_the_smallest_case(layout: Layout) -> None:
    """Three steps of one metric, the second from another partition than the first and the third."""
    ledger = Ledger(layout)
    crew = Crew(ledger)
    for step, owner in enumerate([0, 1, 0]):
        crew.apply(owner, metric("m", step / 2, step, at=step))
    assert [row[:2] for row in ledger.points("m")] == [(0, 0.0), (1, 0.5), (2, 1.0)]
    assert [(info.last_step, info.last) for info in ledger.traces()] == [(2, 1.0)]


@layouts
def test_everything_that_is_remembered_of_a_run_is_read_again(layout: Layout) -> None:
    """Next free steps of metrics, objects and log records, the end of a run that the other owner has deleted."""
    ledger = Ledger(layout)
    crew = Crew(ledger)
    for i in range(6):
        crew.apply(
            i % 2,
            metric("m", float(i), None, at=i),
            record("log_custom_object", at=i, name="o", value={"i": i}, client_datetime=None),
            record("log_record", at=i, message=str(i), level=20, timestamp=1.5),
        )
    assert [row[:2] for row in ledger.points("m")] == [(i, float(i)) for i in range(6)]
    assert [(row[0], row[3]) for row in ledger.objects("o")] == [(i, {"i": i}) for i in range(6)]
    assert [row[0] for row in ledger.objects("__log_records")] == [*range(6)]
    crew.apply(0, record("delete_run", at=7))
    crew.apply(1, metric("m", 1.0, None, at=8))
    assert ledger.rows_of("r") == {}
    assert ledger.system("owner") == {}


def test_a_run_is_read_again_only_when_another_owner_has_written_it() -> None:
    """One read a run and batch tells, beside the tombstone's; an owner that stays alone goes on from memory."""
    # A body that runs twice forgets what it has taken from memory.
    ledger = Ledger("packed", store=MemoryStore())
    crew = Crew(ledger)
    reads: list[bytes] = []

    def apply(owner: int, *values: bytes) -> int:
        reads.clear()
        crew.apply(owner, *values)
        return len(reads)

    ledger.store.on_get = reads.append
    first = [metric("m", 1.0, i, run) for run in "ab" for i in range(3)]
    apply(0, *first)
    assert apply(0, *first) == 4
    assert sorted(reads) == sorted(
        [*map(ledger.keys.tombstone, "ab"), *map(ledger.keys.owner, "ab")]
    )
    crew.apply(1, metric("m", 1.0, 5, "a"))
    assert apply(0, *first) > 4
    assert apply(0, *first) == 4


def test_a_deleted_run_that_is_made_again_is_not_remembered() -> None:
    """After its tombstone was cleaned up the id is free, and its sequences begin anew."""
    ledger = Ledger("packed")
    crew = Crew(ledger)
    crew.apply(0, *[metric("m", 1.0, None) for _ in range(5)])
    crew.apply(1, record("delete_run", at=1))
    ledger.store.commit(lambda tr: tr.clear(ledger.keys.tombstone("r")))
    crew.apply(0, metric("m", 2.0, None, at=2))
    assert ledger.points("m") == [(0, 2.0, 2.0, None)]
    assert ledger.meta()["created_at"] == 1_700_000_002.0
    assert ledger.system("owner") == {("owner", "r"): "T/0"}


@settings(deadline=None)
@given(logs(), st.integers(0, 2**32), st.sampled_from(["packed", "compatible"]))
def test_any_log_over_any_partitions_leaves_what_the_model_holds(
    log: list[bytes], seed: int, layout: Layout
) -> None:
    """Batches of two owners in any order, each of which may be restarted: as one owner would have applied them."""
    dice = random.Random(seed)
    ledger, model = Ledger(layout, TINY), Model()
    crew = Crew(ledger)
    while log:
        size = dice.choice([1, 1, 2, 3])
        batch, log = log[:size], log[size:]
        owner = dice.randrange(2)
        if not dice.randrange(10):
            crew.rules.pop(owner, None)
        crew.apply(owner, *batch)
        for value in batch:
            model.apply(value, time_of(value))
    check(ledger, model)
    crew.check_traces(model)


@layouts
@pytest.mark.parametrize("seed", range(4))
def test_long_runs_over_three_partitions(layout: Layout, seed: int) -> None:
    """Thousands of points of a few runs and metrics, with and without steps, through merges of every level."""
    dice = random.Random(seed)
    ledger, model = Ledger(layout, TINY), Model()
    crew = Crew(ledger)
    steps = count()
    for _ in range(250):
        batch = [
            metric(
                dice.choice("mn"),
                dice.random(),
                dice.choice([None, next(steps), dice.randrange(50)]),
                dice.choice("rs"),
            )
            for _ in range(dice.randint(1, 12))
        ]
        crew.apply(dice.randrange(3), *batch)
        for value in batch:
            model.apply(value, time_of(value))
    check(ledger, model)
    crew.check_traces(model)


@layouts
async def test_workers_of_two_partitions_side_by_side_on_rocksdb(
    tmp_path: Path, layout: Layout
) -> None:
    """Their transactions overlap their commits: of what both apply to the same runs nothing is lost."""
    store = open_rocks(tmp_path)
    keys = Keys(store)
    topics = []

    def numbers(partition: int) -> Iterator[bytes]:
        for step in range(partition, 3_000, 2):
            yield metric("m", float(step), step, run="rs"[step // 2 % 2])

    async with trio.open_nursery() as nursery:
        for partition in range(2):
            topic = Topic(*numbers(partition))
            topic.partition = partition
            consumer = MemoryConsumer(topic, batch=7)
            worker = IngestWorker(
                consumer,
                store,
                keys,
                lambda: Rules(keys, Sequences(keys, layout, growth=TINY)),
                MemoryOutbox(),
            )
            topics.append((worker, consumer, len(topic.values)))
            await nursery.start(worker.run)
        for worker, consumer, size in topics:
            await until(lambda held=consumer.held, size=size: held.acknowledged[-1:] == [size])
            worker.stop()
    sequences = Sequences(keys, layout)
    for run in "rs":
        blocks = await store.read(lambda snap, run=run: [*sequences.points(snap, run, 0, "m")])
        expected = [step for step in range(3_000) if "rs"[step // 2 % 2] == run]
        assert [row[:2] for block in blocks for row in block.rows()] == [
            (step, float(step)) for step in expected
        ]
        (info,) = await store.read(lambda snap, run=run: [*sequences.sequences(snap, run)])
        assert (info.last_step, info.last) == (expected[-1], float(expected[-1]))
    await store.aclose()
