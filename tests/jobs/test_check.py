"""`check` and `reindex` as jobs: pages, limits and dry runs; and beside a worker that writes, they lose nothing."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from functools import partial

import pytest
import trio

from matyan.errors import Unavailable
from matyan.jobs.check import check
from matyan.rules.audit import walk
from matyan.rules.sequences import Layout
from matyan.workers.ingest import IngestWorker
from tests.jobs.asked import FREE, asking, reporting
from tests.ledger import Ledger, metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.memory_store import Faults, MemoryStore
from tests.rules.audit import findings
from tests.rules.test_audit import (
    counter,
    differences,
    layouts,
    leaf_beside_tree,
    member_of_nobody,
    spoil,
    trace_gone,
    whole,
    without_owners,
)
from tests.until import until


async def test_a_limit_and_a_dry_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """So many findings at most; nothing is mended that is only to be told; pages of a few rows see what large ones see."""
    monkeypatch.setattr(walk, "PAGE_ROWS", 7)
    ledger = whole("packed")
    lost = [ledger.keys.index(*fact, "r") for fact in sorted(ledger.facts("r"), key=repr)]
    spoil(ledger, dict.fromkeys(lost))
    spoiled = dict(ledger.store.rows)
    ask = asking(ledger)
    report, lines = reporting(limit=3)
    await check(ask, FREE, report, repair=False, only_indexes=False)
    assert (report.done["found"], len(lines), report.failed) == (3, 3, True)
    report, lines = reporting(dry_run=True)
    await check(ask, FREE, report, repair=True, only_indexes=True)
    assert report.done["found"] == len(lost)
    assert ledger.store.rows == spoiled
    report, lines = reporting()
    await check(ask, FREE, report, repair=True, only_indexes=True)
    assert (report.done["mended"], report.failed) == (len(lost), False)
    assert all(line.startswith("mended: index-missing\tr\t") for line in lines)
    assert findings(ledger) == []


@layouts
async def test_an_engine_whose_reads_take_long_is_walked_in_shorter_pages(layout: Layout) -> None:
    """Each read 20 ms: 5 s, all that FoundationDB gives a moment, are 250 of them; damage is found and mended all the same."""
    ledger = whole(layout)
    rows = ledger.store.rows
    slow = Ledger(layout, store=MemoryStore(round_trip_s=0.02))
    slow.store.rows = dict(rows)
    spoil(slow, dict.fromkeys(slow.keys.index(*fact, "r") for fact in slow.facts("r")))
    report, _ = reporting()
    await check(asking(slow), FREE, report, repair=True, only_indexes=False)
    assert report.done["mended"] == len(slow.facts("r"))
    ledger.store.rows = dict(slow.store.rows)
    assert findings(ledger) == []


@layouts
@pytest.mark.parametrize("seed", range(4))
async def test_on_a_store_that_fails_at_every_turn_it_is_mended_in_the_end(
    layout: Layout, seed: int
) -> None:
    """Commits of unknown outcome, bodies that run again, forgotten moments: whoever runs it often enough has a whole store, and
    no row that was whole is another one."""
    dice = random.Random(seed)
    ledger = whole(layout)
    sound = without_owners(ledger)
    lost = {ledger.keys.index(*fact, "r"): None for fact in ledger.facts("r")}
    spoil(ledger, lost | leaf_beside_tree(ledger, "s", dice) | trace_gone(ledger, "s", dice))
    spoil(ledger, member_of_nobody(ledger, "s", dice) | counter(ledger, "s", dice))
    ledger.store.faults = Faults(seed, away=0.1, again=0.1, lost=0.1, landed=0.1, too_old=0.002)
    for _ in range(60):
        with suppress(Unavailable):
            await check(asking(ledger), FREE, reporting()[0], repair=True, only_indexes=False)
    ledger.store.faults = None
    await check(asking(ledger), FREE, reporting()[0], repair=True, only_indexes=False)
    assert findings(ledger) == []
    assert differences(without_owners(ledger), sound) == []


@layouts
async def test_rows_that_an_older_version_did_not_keep_are_made_and_not_told(
    layout: Layout,
) -> None:
    """They are no damage: `check` does not look for them, and `reindex` does not fail where it only looks."""
    ledger = whole(layout)
    sound = without_owners(ledger)
    spoil(
        ledger, {ledger.keys.shape("r"): None, ledger.keys.trace("s", 0, "loss", "summary"): None}
    )
    for repair, only_indexes, done in (
        (True, False, {}),
        (False, True, {"rows to be made": 2}),
        (True, True, {"rows made": 2}),
        (True, True, {}),
    ):
        report, lines = reporting()
        await check(asking(ledger), FREE, report, repair=repair, only_indexes=only_indexes)
        del report.done["rows read"]
        assert (lines, report.failed, report.done) == ([], False, done)
    assert differences(without_owners(ledger), sound) == []


def records(dice: random.Random) -> list[bytes]:
    """A few runs that come and go, with points, lines, tags and hyperparameters."""
    made = []
    for number in range(300):
        run, at = dice.choice("abcd"), float(number)
        made.append(
            dice.choice(
                [
                    metric("loss", dice.random(), None, run, at),
                    metric("loss", dice.random(), dice.randint(0, 40), run, at),
                    metric("acc", 1.0, number, run, at, context={"subset": "val"}),
                    record("log_terminal_line", run, at, line="x", step=dice.randint(0, 3)),
                    record("add_tag", run, at, tag_name=dice.choice("xy")),
                    record("remove_tag", run, at, tag_name=dice.choice("xy")),
                    record("set_run_property", run, at, experiment=dice.choice("pq")),
                    record("log_hparams", run, at, value={"hparams": {"lr": dice.random()}}),
                    record("finish_run", run, at),
                ]
                + [record("delete_run", dice.choice("cd"), at)] * (number % 100 == 99)
            )
        )
    return made


@pytest.mark.usefixtures("bodies")
@layouts
@pytest.mark.parametrize("seed", range(3))
async def test_beside_a_worker_nothing_is_found_and_nothing_lost(layout: Layout, seed: int) -> None:
    """Walks that mend, page by page between a worker's transactions, on a store whose bodies run again: the rows are those that the
    worker alone would have written."""
    log = records(random.Random(seed))
    alone = Ledger(layout)
    for value in log:
        alone.apply(value)
    ledger = Ledger(layout)
    if isinstance(ledger.store, MemoryStore) and ledger.store.faults is None:
        ledger.store.faults = Faults(seed, (), again=0.05, turn=0.5)
    consumer = MemoryConsumer(Topic(*log), batch=5)
    worker = IngestWorker(consumer, ledger.store, ledger.keys, ledger.make_rules, MemoryOutbox())
    walks = 0
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        nursery.start_soon(
            partial(until, lambda: consumer.held.acknowledged[-1:] == [len(log)], 60)
        )
        # With the indexes alone, too, if the worker was faster than that.
        while walks < 2 or consumer.held.acknowledged[-1:] != [len(log)]:
            report, lines = reporting()
            await check(asking(ledger), FREE, report, repair=True, only_indexes=bool(walks % 2))
            assert lines == []
            walks += 1
            await trio.lowlevel.checkpoint()
        worker.stop()
    assert shown(ledger) == shown(alone)
    assert findings(ledger) == []


def shown(ledger: Ledger) -> str:
    """What a reader sees of the runs."""
    return json.dumps(
        {
            run: [
                ledger.meta(run),
                ledger.attrs(run),
                ledger.tags(run),
                ledger.experiment(run),
                sorted(map(repr, ledger.facts(run))),
                ledger.points("loss", None, run),
                ledger.points("acc", {"subset": "val"}, run),
                ledger.objects("logs", None, run),
            ]
            for run in "abcd"
        }
    )
