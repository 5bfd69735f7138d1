"""The lock of a job: one process at a time, whoever else keeps it, and nothing is changed by one that has lost it."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio

from matyan.errors import LockLost, Unavailable
from matyan.jobs import lock
from matyan.jobs.check import check
from matyan.jobs.lock import Lock
from matyan.jobs.runner import Ask, Busy, Report, Runner
from matyan.keys import pack_value, unpack_value
from tests.jobs.asked import asking, reporting
from tests.ledger import Ledger, metric

MINE, OTHER = Lock("cleanup-orphan-blobs", "me"), Lock("cleanup-orphan-blobs", "other")


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def take(ledger: Ledger, held: Lock, now: float, ttl_s: float = 10.0) -> float | None:
    return ledger.store.commit(lambda tr: lock.take(tr, ledger.keys, held, now, ttl_s))


def is_mine(ledger: Ledger, held: Lock = MINE) -> bool:
    try:
        ledger.store.look(lambda snap: lock.require(snap, ledger.keys, held))
    except LockLost:
        return False
    return True


def test_one_holds_it_until_it_expires(ledger: Ledger) -> None:
    """Whoever comes meanwhile is told until when; the holder goes on holding it; then the next one may."""
    assert take(ledger, MINE, 100.0) is None
    assert take(ledger, OTHER, 109.0) == 110.0
    assert take(ledger, MINE, 109.0) is None
    assert take(ledger, OTHER, 118.9) == 119.0
    assert is_mine(ledger)
    assert take(ledger, OTHER, 119.0) is None
    assert not is_mine(ledger)
    assert take(ledger, MINE, 120.0) == 129.0


def test_the_reference_reads_it_and_is_read(ledger: Ledger) -> None:
    """Its name, and a float, which is all that it respects; what it wrote is respected, and by that we know that ours is lost."""
    row = ledger.keys.job_lock("cleanup_orphan_blobs")
    assert take(ledger, MINE, 100.0) is None
    assert ledger.store.rows[row] == pack_value(110.0)
    ledger.store.commit(lambda tr: tr.set(row, pack_value(140.0)))  # after ours had expired
    assert not is_mine(ledger)
    assert take(ledger, MINE, 120.0) == 140.0
    ledger.store.commit(lambda tr: lock.release(tr, ledger.keys, MINE))
    assert unpack_value(ledger.store.rows[row]) == 140.0
    assert take(ledger, MINE, 141.0) is None


def test_released_it_leaves_nothing(ledger: Ledger) -> None:
    take(ledger, MINE, 100.0)
    ledger.store.commit(lambda tr: lock.release(tr, ledger.keys, OTHER))
    assert is_mine(ledger)
    ledger.store.commit(lambda tr: lock.release(tr, ledger.keys, MINE))
    assert ledger.store.rows == {}


async def test_a_job_holds_its_lock_as_long_as_it_runs(ledger: Ledger) -> None:
    """Longer than it lasts, and not a moment longer than the job: another one begins then."""
    ask = asking(ledger)
    seen = []

    async def work(ask: Ask, held: Lock, report: Report) -> None:
        for _ in range(8):
            await trio.sleep(0.1)
            seen.append(is_mine(ledger, held))
            with pytest.raises(Busy, match="Another process runs check"):
                await Runner("check", idle, ask, 0.3).once(reporting()[0])

    await Runner("check", work, ask, 0.3).once(reporting()[0])
    assert seen == [True] * 8
    await Runner("check", idle, ask, 0.3).once(reporting()[0])
    assert ledger.store.rows == {}


async def idle(ask: Ask, held: Lock, report: Report) -> None:
    await trio.lowlevel.checkpoint()


async def test_a_lost_lock_stops_the_job(ledger: Ledger) -> None:
    """Wherever it is."""
    ask = asking(ledger)
    began = trio.Event()

    async def work(ask: Ask, held: Lock, report: Report) -> None:
        began.set()
        await trio.sleep_forever()

    async def steal() -> None:
        await began.wait()
        row = ledger.keys.job_lock("check")
        await ledger.store.transact(lambda tr: tr.set(row, pack_value(time.time() + 60)))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(steal)
            with pytest.raises(LockLost, match="lost to another process"):
                await Runner("check", work, ask, 0.3).once(reporting()[0])
    assert ledger.keys.job_lock("check") in ledger.store.rows, "it is the other one's"


async def test_a_lock_that_cannot_be_renewed_stops_the_job(ledger: Ledger) -> None:
    """When its time is over, and not at the first failure."""
    served = asking(ledger)
    is_away = False

    async def ask(op: str, **arguments: Any) -> list[Any]:
        if is_away and op == "job_lock":
            raise Unavailable("The store is away.")
        return await served(op, **arguments)

    async def work(ask: Ask, held: Lock, report: Report) -> None:
        nonlocal is_away
        is_away = True
        await trio.sleep_forever()

    with trio.fail_after(30), pytest.raises(LockLost, match="could not be renewed"):
        await Runner("check", work, ask, 0.3).once(reporting()[0])


async def test_who_has_lost_it_changes_nothing(ledger: Ledger) -> None:
    """The transaction that would mend something reads the lock."""
    ledger.apply(metric("loss", 1.0, 0))
    forward = ledger.keys.index("trace", "loss", "r")
    ledger.store.commit(lambda tr: tr.clear(forward))
    take(ledger, Lock("check", "other"), time.time(), 60.0)
    rows = dict(ledger.store.rows)
    with pytest.raises(LockLost):
        await check(
            asking(ledger), Lock("check", "me"), reporting()[0], repair=True, only_indexes=False
        )
    assert ledger.store.rows == rows
