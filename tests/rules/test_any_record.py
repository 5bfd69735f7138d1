"""Whatever stands in the topic: each record is applied or a dead letter, none of them a bug's, and all can be read.

The records are JSON that any producer may write, not only what our frontier makes: boundary values of every type in
every member, members that are missing or of another kind, broken bytes. Seeded; MATYAN_FUZZ_SEEDS says how many seeds.
"""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import trio

from matyan.broker.base import DeadLetter
from matyan.folder.opened import Opened
from matyan.jobs.check import check as damage
from matyan.keys import Keys
from matyan.rules.queries import Queries
from matyan.rules.records import KINDS, Rules
from matyan.rules.sequences import Growth, Layout, Sequences
from matyan.store.base import Snapshot, Store
from matyan.store.rocks import open_rocks
from matyan.workers.ingest import IngestWorker
from tests.jobs.asked import FREE, asking, reporting
from tests.ledger import metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.memory_store import MemoryStore
from tests.until import until

layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])

SEEDS = int(os.environ.get("MATYAN_FUZZ_SEEDS", "6"))
RECORDS = 600

INTEGERS = [
    *(0, 1, -1, 5, 255, 2**31, 2**53 + 1),
    *(2**63 - 2, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**30, -(10**400)),
]
FLOATS = [0.0, -0.0, 5.0, 0.25, -0.5, 1e308, -1e308, 5e-324, 2.0**63, -(2.0**63), 1e300]
FLOATS += [float("nan"), float("inf"), float("-inf")]
NAMES = ["a", "loss", "logs", "__log_records", "__blobs__", "hparams", "__leaf__"]
NAMES += ["__empty_dict__", "__empty_list__", "", "\x00", "\ud800", "é" * 256, "n" * 513]
NAMES += ["x" * 4_100, "y" * 60_000]
TIMES = ["2026-01-02T03:04:05.678901Z", "2026-01-02 03:04", "1970-01-01T00:00:00Z"]
TIMES += ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59.999999Z"]
TIMES += ["9999-12-31T23:59:59.9999999-23:59", "0001-01-01T00:00:00Z", "", "junk"]
MEMBERS: dict[str, list[str]] = {
    "create_run": ["client_datetime", "force_resume"],
    "log_metric": ["name", "value", "step", "epoch", "context", "dtype", "client_datetime"],
    "log_hparams": ["value"],
    "finish_run": ["client_datetime"],
    "set_run_property": ["name", "description", "archived", "experiment"],
    "add_tag": ["tag_name"],
    "remove_tag": ["tag_name"],
    "log_custom_object": ["name", "value", "step", "epoch", "context", "dtype", "client_datetime"],
    "log_terminal_line": ["line", "step"],
    "log_record": ["message", "level", "timestamp", "logger_info", "extra_args"],
    "blob_ref": ["s3_key", "artifact_path", "content_type"],
    "delete_run": [],
}


class Fuzzer:
    def __init__(self, seed: int) -> None:
        self.dice = dice = random.Random(seed)
        self._usual = {
            "client_datetime": lambda: dice.choice(TIMES[:3]),
            "force_resume": lambda: dice.choice([True, False]),
            "archived": lambda: dice.choice([True, False]),
            "name": lambda: dice.choice(NAMES[:2]),
            "value": lambda: {"a": self.anything(2), "hparams": self.anything(2)},
            "step": lambda: dice.choice([None, 0, 1, 2, 2**63 - 1, -(2**63)]),
            "epoch": lambda: dice.choice([None, 0, 1]),
            "context": lambda: dice.choice([None, {}, {"subset": "train"}]),
            "level": lambda: 20,
            "timestamp": lambda: dice.choice([1.5, 1, *FLOATS]),
            "logger_info": lambda: [1, "x"],
            "extra_args": lambda: {"a": self.anything(2)},
        }

    def anything(self, depth: int = 4) -> Any:
        dice = self.dice
        match dice.randrange(8 if depth else 5):
            case 0:
                return dice.choice([None, True, False])
            case 1:
                return dice.choice(INTEGERS)
            case 2:
                return dice.choice(FLOATS)
            case 3:
                return dice.choice(NAMES)
            case 4:
                return dice.choice(TIMES)
            case 5:
                return [self.anything(depth - 1) for _ in range(dice.randrange(3))]
            case 6:
                return {
                    dice.choice(NAMES): self.anything(depth - 1) for _ in range(dice.randrange(3))
                }
            case _:
                deep: Any = dice.choice([1, {}, [], "x"])
                for _ in range(dice.choice([3, 60, 61, 62, 63, 64, 65, 500])):
                    deep = [deep] if dice.randrange(2) else {"d": deep}
                return deep

    def record(self) -> bytes:
        dice = self.dice
        kind = dice.choice([*MEMBERS, "log_metric", "log_custom_object", "log_terminal_line"])
        if kind == "delete_run" and dice.randrange(4):
            kind = "log_metric"
        payload: Any = {
            member: self._usual.get(member, lambda: "text")() for member in MEMBERS[kind]
        }
        if kind == "log_metric":
            payload["value"] = dice.choice([1, 2.5, None, *FLOATS])
        for member in MEMBERS[kind]:
            match dice.randrange(12):
                case 0:
                    payload[member] = self.anything()
                case 1:
                    del payload[member]
                case 2:
                    payload[member] = dice.choice([*INTEGERS, *FLOATS])
        if kind == "log_custom_object" and not dice.randrange(4):
            payload["value"] = {"type": dice.choice(NAMES), "data": "x" * 95_000}
        envelope: dict[str, Any] = {
            "type": kind,
            "run_id": dice.choice("rst"),
            "timestamp": dice.choice(TIMES[:3]),
            "payload": payload,
        }
        if not dice.randrange(20):
            member = dice.choice([*envelope])
            envelope[member] = dice.choice([self.anything(), dice.choice(TIMES)])
        value = json.dumps(envelope).encode()
        if not dice.randrange(50):
            at = dice.randrange(len(value))
            value = dice.choice([value[:at], value[:at] + b"\xff" + value[at + 1 :], value + b"}"])
        return value


async def work(
    store: Store, values: list[bytes], layout: Layout, batch: int
) -> tuple[list[DeadLetter], MemoryConsumer]:
    """Lets a worker have them all; returns its dead letters."""
    keys = Keys(store)
    consumer, outbox = MemoryConsumer(Topic(*values), batch=batch), MemoryOutbox()
    growth = Growth(early=3, latest=4, chunk=8, rewrite=12)
    worker = IngestWorker(
        consumer, store, keys, lambda: Rules(keys, Sequences(keys, layout, growth=growth)), outbox
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        with trio.fail_after(120):
            await until(lambda: consumer.held.acknowledged[-1:] == [len(values)])
        worker.stop()
    return outbox.dead, consumer


def read_everything(snap: Snapshot, queries: Queries) -> int:
    rows = list(queries.runs(snap))
    for row in rows:
        run = row["run"]
        for query in queries.show, queries.logs, queries.export:
            list(query(snap, run=run))
    return len(rows)


async def check(store: Store, values: list[bytes], layout: Layout, batch: int) -> list[DeadLetter]:
    dead, _ = await work(store, values, layout, batch)
    assert [(one.error_text, one.value[:300]) for one in dead if one.error_class == "bug"] == []
    assert len({one.offset for one in dead}) == len(dead)
    for one in dead:
        one.error_text.encode()
    keys = Keys(store)
    queries = Queries(keys, Sequences(keys, layout))
    await store.read(lambda snap: read_everything(snap, queries))
    report, lines = reporting()
    ask = asking(Opened(store, keys, layout, "id"))
    await damage(ask, FREE, report, repair=False, only_indexes=False)
    assert lines == []
    return dead


def test_the_fuzzer_knows_every_kind() -> None:
    assert MEMBERS.keys() == {*KINDS, "log_metric"}


@layouts
@pytest.mark.parametrize("seed", range(SEEDS))
async def test_any_records_are_applied_or_dead_letters(seed: int, layout: Layout) -> None:
    """In batches of any size; of the same records in other batches the same ones die."""
    fuzzer = Fuzzer(seed)
    values = [fuzzer.record() for _ in range(RECORDS)]
    dead = await check(MemoryStore(), values, layout, fuzzer.dice.choice([1, 7, 100, RECORDS]))
    assert 0 < len(dead) < RECORDS / 2
    again = await check(MemoryStore(), values, layout, 50)
    assert sorted(one.offset for one in again) == sorted(one.offset for one in dead)


@layouts
async def test_any_records_on_rocksdb(tmp_path: Path, layout: Layout) -> None:
    """A later worker goes on behind them."""
    store = open_rocks(tmp_path)
    fuzzer = Fuzzer(-1)
    await check(store, [fuzzer.record() for _ in range(RECORDS)], layout, 64)
    await store.aclose()


# --- the ones that once stopped a partition -------------------------------------------------------

BIG = {"type": "figure", "data": "x" * 95_000}


def obj(step: Any, **more: Any) -> bytes:
    return record("log_custom_object", name="o", value={"a": 1}, step=step, **more)


@layouts
@pytest.mark.parametrize(
    ("values", "dead"),
    [
        ([record("log_custom_object", name="m", value=BIG, step=2**63 - 1), metric("m", 1.0, 5)], []),
        ([metric("m", 1.0, 2**63 - 1), metric("m", 1.0, None), metric("m", 2.0, -(2**63))], []),
        ([obj(2**63 - 1), obj(None), obj(-(2**63)), obj(3)], []),
        ([obj(2**63), obj(1)], [0]),
        ([obj(2**64 - 1), obj(1)], [0]),
        ([obj(-(2**63) - 1), obj(1)], [0]),
        ([obj(1, epoch=2**63), obj(1, epoch=2**63 - 1)], [0]),
        ([record("log_terminal_line", line="x", step=2**63), obj(1)], [0]),
        ([record("log_terminal_line", line="x", step=2**63 - 1), obj(1)], []),
        ([record("log_record", message="x", level=2**63, timestamp=1), obj(1)], [0]),
        ([record("log_record", message="x", level=1, timestamp=2**64 - 1), obj(1)], []),
        ([b'{"type":"delete_run","run_id":"r","timestamp":"9999-12-31T23:59:59-01:00","payload":{}}'], []),
        ([b'{"type":"delete_run","run_id":"r","timestamp":"0001-01-01T00:00:00+01:00","payload":{}}'], []),
        ([record("delete_run", run="r" * 600_000), obj(1)], [0]),
        ([record("delete_run", run=""), obj(1)], [0]),
        ([metric("n" * 600_000, 1.0, 1), obj(1)], [0]),
        ([record("add_tag", tag_name="n" * 600_000), obj(1)], [0]),
        ([record("set_run_property", experiment="n" * 600_000), obj(1)], [0]),
    ],
)  # fmt: skip
async def test_what_once_stopped_a_partition(
    values: list[bytes], dead: list[int], layout: Layout
) -> None:
    """Each is applied or a dead letter of its own, and what stands behind it is applied."""
    store = MemoryStore()
    letters = await check(store, values, layout, 10)
    assert [one.offset for one in letters] == dead
    assert all(len(one.error_text) < 3_000 for one in letters)


async def test_a_large_object_at_the_last_step_goes_with_a_point_there() -> None:
    """Compatible layout: the parts below a point that takes the step are cleared, at the end of int64 too."""
    store = MemoryStore()
    last = 2**63 - 1
    large = record("log_custom_object", name="m", value=BIG, step=last)
    await check(store, [large, metric("m", 1.0, 5), metric("m", 2.0, last)], "compatible", 1)
    keys = Keys(store)
    blocks = store.look(lambda snap: [*Sequences(keys, "compatible").points(snap, "r", 0, "m")])
    assert [row[:2] for block in blocks for row in block.rows()] == [(5, 1.0), (last, 2.0)]
    prefix = keys.parts("r", 0, "m")
    assert not [key for key in store.rows if key.startswith(prefix)]
