"""No legal record holds the event loop up: it turns while the worst of each kind is applied.

Counted are the turns of the loop while a batch is on its way, and how much of the store's work lies between two of them;
no time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from matyan._codec import cut_records
from matyan.broker.local import LocalBroker
from matyan.keys import Keys
from matyan.rules.records import Rules
from matyan.rules.sequences import Layout, Sequences
from matyan.store.base import Transaction
from matyan.store.rocks import RocksStore, open_rocks
from matyan.store.rocks import store as rocks_store
from matyan.store.rocks.transaction import RocksTransaction
from matyan.workers.ingest import MOST_WORK_US, IngestWorker
from tests.ledger import metric, record

N = 10_000

WORST: dict[str, Callable[[], list[bytes]]] = {
    "40,000 hparams at the top": lambda: [
        record("log_hparams", value={f"key{i}": i for i in range(4 * N)})
    ],
    "40,000 hparams below one": lambda: [
        record("log_hparams", value={"hparams": {f"k{i}": i for i in range(4 * N)}})
    ],
    "blob_refs": lambda: [
        record("blob_ref", s3_key=f"r/{i}", artifact_path=f"{i}", content_type="c")
        for i in range(N)
    ],
    "tags": lambda: [record("add_tag", tag_name=f"tag{i}") for i in range(N)],
    "log records": lambda: [
        record("log_record", message=f"line {i}", level=20, timestamp=1.0) for i in range(N)
    ],
    "lines": lambda: [record("log_terminal_line", line=f"line {i}", step=i) for i in range(N)],
    "objects": lambda: [
        record("log_custom_object", name="o", value={"i": i}, step=i) for i in range(N)
    ],
    "properties": lambda: [record("set_run_property", name=f"name {i}") for i in range(N)],
    "metrics, each another": lambda: [metric(f"m{i}", 1.0, 0) for i in range(N)],
    "points of one metric": lambda: [metric("m", 1.0, i) for i in range(2 * N)],
    "runs": lambda: [metric("m", 1.0, 0, run=f"run{i}") for i in range(N)],
}


class Turns:
    """Counts the loop's turns by a task that always waits for the next one, and the writes to the overlay in between."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.longest = 0
        self._since = 0
        counter = self

        class Counting(RocksTransaction):
            __slots__ = ()

            def __init__(self, *args: Any) -> None:
                super().__init__(*args)
                write, update = self.set, self.update

                def counted_set(key: bytes, value: bytes) -> None:
                    counter.note(1)
                    write(key, value)

                def counted_update(pairs: Any) -> None:
                    pairs = list(pairs)
                    counter.note(len(pairs))
                    update(pairs)

                self.set = counted_set
                self.update = self.update_guarded = counted_update

        monkeypatch.setattr(rocks_store, "RocksTransaction", Counting)
        monkeypatch.setattr(rocks_store, "_TURN_S", 0.0)

    def note(self, writes: int) -> None:
        self._since += writes
        self.longest = max(self.longest, self._since)

    async def run(self) -> None:
        while True:
            await trio.lowlevel.checkpoint()
            self.count += 1
            self._since = 0


async def ingest(
    store: RocksStore, layout: Layout, values: list[bytes], nursery: trio.Nursery
) -> None:
    """One frame of them all, through the broker of one machine; returns when it is acknowledged."""
    keys = Keys(store)
    broker = LocalBroker(keys, 1 << 30)
    worker = IngestWorker(
        broker.ingest_consumer(),
        store,
        keys,
        lambda: Rules(keys, Sequences(keys, layout)),
        broker.outbox(),
    )
    stored = await store.read(lambda snap: snap.get(keys.ingest("local", 0)))
    assert stored is None
    await nursery.start(worker.run)
    done = trio.Event()
    broker.producer().produce(b"r", values, lambda error: done.set())
    await done.wait()
    worker.stop()


@pytest.mark.parametrize("kind", WORST)
@pytest.mark.parametrize("layout", ["packed", "compatible"])
async def test_the_loop_turns_while_the_worst_record_of_each_kind_is_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, layout: Layout
) -> None:
    """Between two turns no more is written than a few milliseconds' worth."""
    values = WORST[kind]()
    store = open_rocks(tmp_path, sync=False)
    turns = Turns(monkeypatch)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        await ingest(store, layout, values, nursery)
        nursery.cancel_scope.cancel()
    assert turns.count > 5
    assert turns.longest <= 6_000 * (4 if layout == "compatible" else 1)
    await store.aclose()


async def test_the_loop_turns_while_a_large_run_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of thousands of metrics and tags; all in one transaction."""
    store = open_rocks(tmp_path, sync=False)
    values = [
        *(metric(f"m{i}", 1.0, 0) for i in range(N)),
        *(record("add_tag", tag_name=f"t{i}") for i in range(N // 10)),
        record("delete_run"),
    ]
    async with trio.open_nursery() as nursery:
        turns = Turns(monkeypatch)
        nursery.start_soon(turns.run)
        await ingest(store, "packed", values, nursery)
        nursery.cancel_scope.cancel()
    assert turns.longest < 6_000
    keys = Keys(store)
    begin, end = keys.run_range("r")
    assert await store.read(lambda snap: [*snap.scan(begin, end)]) == []
    await store.aclose()


# --- work grows with what is written, not with its square -----------------------------------------


class Compared(bytes):
    """A key that counts how often it is compared."""

    count = 0

    def __lt__(self, other: bytes) -> bool:
        Compared.count += 1
        return bytes.__lt__(self, other)


@pytest.mark.parametrize("order", ["rising", "falling", "mixed"])
async def test_ranges_cleared_between_writes_cost_n_log_n(tmp_path: Path, order: str) -> None:
    """Comparisons of keys: four times the writes, not much more than four times as many."""
    store = open_rocks(tmp_path, sync=False)
    numbers = {
        "rising": lambda n: range(n),
        "falling": lambda n: range(n - 1, -1, -1),
        "mixed": lambda n: (i * 7_919 % n for i in range(n)),
    }[order]

    def compared(n: int) -> int:
        transaction = RocksTransaction(store._database, tmp_path, {})
        Compared.count = 0
        for i in numbers(n):
            begin = b"%08d" % i
            transaction.clear_range(begin, begin + b"\xff")
            transaction.set(Compared(begin + b"x"), b"")
            transaction.clear_range(begin + b"y", begin + b"z")
        return Compared.count

    few, many = compared(1_000), compared(4_000)
    assert many < 8 * few
    await store.aclose()


def test_what_is_read_of_many_ranges_is_what_each_scan_gives(tmp_path: Path) -> None:
    """Over stored, written and cleared keys alike."""

    async def main() -> None:
        store = open_rocks(tmp_path, sync=False)

        def fill(tr: Transaction) -> None:
            for i in range(0, 300, 3):
                tr.set(b"%03d" % i, b"stored")

        def look(tr: Transaction) -> None:
            for i in range(0, 300, 5):
                tr.set(b"%03d" % i, b"written")
            tr.clear_range(b"100", b"150")
            tr.clear(b"012")
            for width in (1, 2, 7, 50):
                ranges = [(b"%03d" % i, b"%03d" % (i + width)) for i in range(0, 300, width + 1)]
                expected = [pair for one in ranges for pair in tr.scan(*one)]
                assert list(tr.scan_each(ranges)) == expected
            assert list(tr.scan_each([])) == []

        await store.transact(fill)
        await store.transact(look)
        await store.aclose()

    trio.run(main)


async def test_transactions_wait_for_one_that_takes_turns(tmp_path: Path) -> None:
    """What it has read stands until it is written; one that is given up leaves nothing."""
    store = open_rocks(tmp_path)

    def slowly(tr: Transaction) -> Iterator[None]:
        number = int(tr.get(b"\x01n") or b"0")
        for _ in range(50):
            yield
        tr.set(b"\x01n", b"%d" % (number + 1))

    def at_once(tr: Transaction) -> None:
        tr.set(b"\x01n", b"%d" % (int(tr.get(b"\x01n") or b"0") + 1))

    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(store.transact_in_turns, slowly)
            nursery.start_soon(store.transact, at_once)
    assert await store.read(lambda snap: snap.get(b"\x01n")) == b"10"
    with trio.CancelScope() as scope:
        scope.cancel()
        await store.transact_in_turns(slowly)
    await store.transact(at_once)
    assert await store.read(lambda snap: snap.get(b"\x01n")) in (b"11", b"12")
    await store.aclose()


# --- cutting a batch ------------------------------------------------------------------------------


def cuts(values: list[bytes], point_work: int = 1, **limits: int) -> list[int]:
    return cut_records(
        values,
        limits.get("most_bytes", 1 << 40),
        limits.get("most_records", 1 << 40),
        limits.get("most_work", MOST_WORK_US),
        point_work,
    )


def test_a_batch_is_cut_by_work() -> None:
    """Points are many, other records fewer, a large log_hparams stays alone; whatever the members' order."""
    points = [metric("m", 1.0, i) for i in range(1_000)]
    tags = [record("add_tag", tag_name="t")] * 1_000
    assert cuts(points, most_work=1_000) == [1_000]
    assert cuts(points, most_work=999) == [999, 1_000]
    assert cuts(points, point_work=8, most_work=1_000) == [*range(125, 1_001, 125)]
    assert len(cuts(tags, most_work=1_000)) > 45
    large = record("log_hparams", value={f"k{i}": i for i in range(9_000)})
    assert cuts([tags[0], large, tags[0]]) == [1, 2, 3]
    other = json.dumps(dict(reversed(json.loads(points[0]).items()))).encode()
    assert cuts([other] * 100, most_work=100) != [100]
    assert cuts([]) == [0]
    assert cuts([b"", b"x"], most_records=1) == [1, 2]
