"""A load that is produced straight to a topic, and the oracle: what a store holds against what was produced."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from itertools import count

import trio

from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.producer import KafkaProducer, open_producer
from matyan.keys import Keys
from matyan.rules.sequences import Layout, Sequences
from matyan.settings import Settings
from matyan.store.base import Snapshot, Store
from tests.ledger import metric, record

Numbers = dict[str, tuple[list[int], list[int]]]
"""By run: the values of its points and the texts of its log records, in the order of their steps."""


class Load:
    """Runs whose n-th record is a point or a log record that holds n.

    None has a step: a record that is applied twice stands twice, and steps follow the order of applying.
    """

    def __init__(self, producer: KafkaProducer, runs: int = 8, per_frame: int = 10) -> None:
        self.produced: Numbers = {f"run-{n}": ([], []) for n in range(runs)}
        self._producer = producer
        self._per_frame = per_frame
        self._numbers = count()
        self._errors: list[Exception] = []

    @property
    def records(self) -> int:
        return sum(len(points) + len(texts) for points, texts in self.produced.values())

    def frame(self, run: str) -> None:
        """Hands one frame of a run to the producer."""
        points, texts = self.produced[run]
        values = []
        for number in [next(self._numbers) for _ in range(self._per_frame)]:
            if number % 2:
                points.append(number)
                values.append(metric("loss", float(number), None, run))
            else:
                texts.append(number)
                values.append(record("log_record", run, message=str(number), level=20, timestamp=1))
        self.send(run, values)

    def send(self, run: str, values: list[bytes]) -> None:
        """Hands records to the producer that the oracle knows nothing of."""
        self._producer.produce(run.encode(), values, self._done)

    def goes_on(self, other: Load) -> None:
        """Counts on from what `other` has produced."""
        for run, (points, texts) in other.produced.items():
            self.produced[run] = ([*points], [*texts])
        self._numbers = count(max(n for both in self.produced.values() for n in sum(both, [0])) + 1)

    def _done(self, error: Exception | None) -> None:
        if error is not None:
            self._errors.append(error)

    async def frames(self, each: int) -> None:
        """So many frames of each run, and waits until they are delivered."""
        for _ in range(each):
            for run in self.produced:
                self.frame(run)
            await trio.lowlevel.checkpoint()
        await self.settle()

    async def forever(self, pause_s: float = 0.05) -> None:
        """A frame of each run, again and again, until it is cancelled."""
        while True:
            for run in self.produced:
                self.frame(run)
            await trio.sleep(pause_s)

    async def settle(self) -> None:
        """Returns when everything is delivered."""
        assert await self._producer.flush(trio.current_time() + 60) == 0
        assert self._errors == []


@asynccontextmanager
async def open_load(settings: Settings, topic: str, runs: int = 8) -> AsyncIterator[Load]:
    async with open_producer(producer_config(settings), topic, 64 << 20) as producer:
        yield Load(producer, runs)


async def stored_numbers(
    store: Store, runs: Mapping[str, object], layout: Layout = "packed"
) -> Numbers:
    """What a store holds of these runs."""
    sequences = Sequences(Keys(store), layout)

    def look(snap: Snapshot) -> Numbers:
        return {
            run: (
                [
                    int(value)
                    for block in sequences.points(snap, run, 0, "loss")
                    for _, value, _, _ in block.rows()
                ],
                [
                    int(value["message"])
                    for _, _, _, value in sequences.objects(snap, run, 0, "__log_records")
                ],
            )
            for run in runs
        }

    # Not one moment: to read a long load takes longer than every engine remembers one.
    async with store.snapshot() as snap:
        return await trio.to_thread.run_sync(look, snap)


def faults(produced: Numbers, stored: Numbers) -> list[str]:
    """What is wrong with what is stored; empty when it is what was produced, each once and in order."""
    found = []
    for run, both in produced.items():
        for kind, wanted, there in zip(("points", "log records"), both, stored[run], strict=True):
            if wanted == there:
                continue
            times = Counter(there)
            checks = {
                "lost": set(wanted) - times.keys(),
                "stored and never produced": times.keys() - set(wanted),
                "stored twice": {number for number, often in times.items() if often > 1},
            }
            wrong = {what: numbers for what, numbers in checks.items() if numbers}
            found += [
                f"{run}: {len(numbers)} of {len(wanted)} {kind} {what}: {sorted(numbers)[:5]}"
                for what, numbers in wrong.items()
            ] or [f"{run}: {kind} out of order"]
    return found
