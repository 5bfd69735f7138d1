"""Exactly once while everything goes wrong: partitions that change hands, workers that are killed or believe to own what they
do not, a store whose transactions conflict, run twice, take too long and end as nobody knows.

Each run is one of hypothesis': a failing one is printed with its records and its seed, and is small. At length
(`make test-faults`, or MATYAN_TEST_AT_LENGTH=1) there are many more of them.
"""

from __future__ import annotations

import json
import os
import random
from collections import Counter, deque

import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock

from matyan.keys import unpack_value
from matyan.rules.sequences import Growth, Layout
from matyan.workers.ingest import IngestWorker
from tests.broken_ingestion import FencesNobody
from tests.ledger import Ledger, metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.memory_store import Faults, MemoryStore
from tests.rules.test_records_model import Model, check, layouts, logs, time_of

RUNS = 5_000 if os.environ.get("MATYAN_TEST_AT_LENGTH") else 100
TINY = Growth(early=2, latest=3, chunk=4, rewrite=6)
MOST_TENURES = 500
"""Of a partition: by then the last one is left alone."""


class Storm:
    """Partitions whose records workers apply to one store, while things go wrong by a seed."""

    def __init__(
        self,
        values: list[bytes],
        seed: int,
        layout: Layout,
        kind: type[IngestWorker] = IngestWorker,
    ) -> None:
        self.dice = random.Random(seed)
        self.ledger = Ledger(layout, TINY)
        self.faults = Faults(seed)
        self.ledger.store = MemoryStore(self.faults, threads=False)
        self.kind = kind
        self.outbox = MemoryOutbox()
        self.happened: Counter[str] = Counter()
        self.topics = []
        for partition in range(2):
            topic = Topic(*(value for value in values if partition_of(value) == partition))
            topic.partition = partition
            self.topics.append(topic)

    def stored(self, topic: Topic) -> int:
        row = self.ledger.store.rows.get(self.ledger.keys.ingest(topic.topic_id, topic.partition))
        return 0 if row is None else int(unpack_value(row))

    def is_done(self, topic: Topic) -> bool:
        return self.stored(topic) == len(topic.values)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for topic in self.topics:
                nursery.start_soon(self._pass_on, topic)

    async def _pass_on(self, topic: Topic) -> None:
        """One owner after the other, until all is stored."""
        beside: deque[trio.CancelScope] = deque()
        async with trio.open_nursery() as owners:
            for _ in range(MOST_TENURES):
                if self.is_done(topic):
                    break
                scope, worker = trio.CancelScope(), self._worker(topic)
                await owners.start(self._work, scope, worker)
                await self._a_while(topic)
                end = self.dice.choice(["kill", "stop", "overlap"])
                self.happened[end] += 1
                if end == "kill":
                    scope.cancel()
                elif end == "stop":
                    worker.stop()
                else:
                    # It goes on beside its successors, and believes to be alone.
                    beside.append(scope)
                    if len(beside) > 2:
                        beside.popleft().cancel()
            owners.cancel_scope.cancel()

    async def _work(
        self,
        scope: trio.CancelScope,
        worker: IngestWorker,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        with scope:
            task_status.started()
            await worker.run()

    def _worker(self, topic: Topic) -> IngestWorker:
        again = self.dice.random() < 0.5
        consumer = MemoryConsumer(
            topic,
            batch=self.dice.choice([1, 2, 5, 9]),
            deliver_from=self.dice.randint(0, self.stored(topic)) if again else None,
        )
        return self.kind(
            consumer,
            self.ledger.store,
            self.ledger.keys,
            self.ledger.make_rules,
            self.outbox,
            max_records=self.dice.choice([None, 3]),
        )

    async def _a_while(self, topic: Topic) -> None:
        for _ in range(self.dice.randint(1, 60)):
            if self.is_done(topic):
                return
            await trio.lowlevel.checkpoint()
        if self.dice.random() < 0.3:
            await trio.sleep(10 * self.dice.random())


def partition_of(value: bytes) -> int:
    return ord(json.loads(value)["run_id"][0]) % 2


def blow(
    values: list[bytes],
    seed: int,
    layout: Layout,
    kind: type[IngestWorker] = IngestWorker,
) -> Storm:
    async def main() -> Storm:
        storm = Storm(values, seed, layout, kind)
        await storm.run()
        storm.ledger.store.faults = None
        return storm

    return trio.run(main, clock=MockClock(autojump_threshold=0))


many = settings(
    max_examples=RUNS, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)


@many
@given(st.lists(logs(), min_size=1, max_size=4), st.integers(0, 2**32), layouts)
def test_what_is_stored_is_what_the_model_holds(
    parts: list[list[bytes]], seed: int, layout: Layout
) -> None:
    """Any records, each applied once, in the log's order, none given up."""
    values = [value for part in parts for value in part]
    storm = blow(values, seed, layout)
    assert [letter.error_text for letter in storm.outbox.dead] == []
    assert all(map(storm.is_done, storm.topics))
    model = Model()
    for topic in storm.topics:
        for value in topic.values:
            model.apply(value, time_of(value))
    check(storm.ledger, model)


def stepless(seed: int, kind: type[IngestWorker]) -> tuple[list[float], Storm]:
    """The values of 60 points without a step: one that is applied twice stands twice. Another partition has the same tags."""
    values = [metric("m", float(i), None, at=i) for i in range(60)]
    values += [record("add_tag", run, tag_name=f"t{i}") for i in range(20) for run in "rs"]
    storm = blow(values, seed, "packed", kind)
    return [row[1] for row in storm.ledger.points("m")], storm


def test_every_fault_happens() -> None:
    """In some of a few runs; or the test above would show little. Each run stores every point once, in order."""
    happened: Counter[str] = Counter()
    for seed in range(25):
        values, storm = stepless(seed, IngestWorker)
        assert values == [float(i) for i in range(60)]
        assert storm.ledger.counts("tags") == {f"t{i}": 2 for i in range(20)}
        happened.update(storm.faults.counts)
        happened.update(storm.happened)
        happened["conflict"] += storm.ledger.store.conflicts
    expected = {*Faults.KINDS, "conflict", "kill", "stop", "overlap"}
    assert {kind for kind in expected if not happened[kind]} == set()


def test_a_worker_that_minds_no_other_owner_is_found_out() -> None:
    """The negative control: what the tests above would see if the stored offset fenced nobody."""
    assert any(
        stepless(seed, FencesNobody)[0] != [float(i) for i in range(60)] for seed in range(5)
    )
