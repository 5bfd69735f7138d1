"""Liveness and readiness."""

from __future__ import annotations

import time

import trio
from trio.testing import MockClock

from matyan.errors import Unavailable
from matyan.service.health import Health
from tests.until import until


class Engine:
    def __init__(self) -> None:
        self.reason: str | None = None
        self.hangs = False

    async def check(self) -> None:
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if self.reason:
            raise Unavailable(self.reason)


async def test_ready_is_what_the_checks_said_last(autojump_clock: MockClock) -> None:
    """Before the first answer a service is not ready; a failing check gives its reason and recovers."""
    health, store, broker = Health(), Engine(), Engine()
    health.add("store", store.check)
    health.add("broker", broker.check)
    assert health.ready() == {"store": "Not asked yet.", "broker": "Not asked yet."}
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        await trio.sleep(1)
        assert health.ready() == {"store": "ok", "broker": "ok"}
        store.reason = "the disk is full"
        await trio.sleep(3)
        assert health.ready() == {"store": "the disk is full", "broker": "ok"}
        assert health.live() == {"loop": "ok"}
        store.reason = None
        await trio.sleep(3)
        assert health.ready()["store"] == "ok"
        nursery.cancel_scope.cancel()


async def test_a_check_that_hangs_is_not_ready_and_ages_no_other(autojump_clock: MockClock) -> None:
    """An old "ok" is worth nothing after 10 seconds."""
    health, store, broker = Health(), Engine(), Engine()
    health.add("store", store.check)
    health.add("broker", broker.check)
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        await trio.sleep(1)
        store.hangs = True
        await trio.sleep(60)
        assert health.ready()["store"].startswith("No answer")
        assert health.ready()["broker"] == "ok"
        assert health.live() == {"loop": "ok"}
        nursery.cancel_scope.cancel()


async def test_answers_that_nobody_renews_are_stale(autojump_clock: MockClock) -> None:
    """When the asking itself has stopped."""
    health, store = Health(), Engine()
    health.add("store", store.check)
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    await trio.sleep(60)
    assert health.ready() == {"store": "No answer came for 61 s."}
    assert health.live() == {"loop": "The loop has not turned for 61 s."}


async def test_draining_is_not_ready_but_live(autojump_clock: MockClock) -> None:
    health = Health()
    health.draining = True
    assert health.ready() == {"draining": "The service is shutting down."}
    assert health.live() == {"loop": "ok"}


async def test_a_dead_part_says_why() -> None:
    """Liveness is about the program's own parts, never about engines."""
    health = Health()
    reasons = ["the producer is fenced", None]
    health.add_live("producer", lambda: reasons[0])
    assert health.live() == {"loop": "ok", "producer": "the producer is fenced"}
    reasons[0] = None
    assert health.live()["producer"] == "ok"


def stand_still() -> None:
    time.sleep(0.1)


async def test_a_loop_that_stands_still_is_not_live() -> None:
    """Seen by whoever still can answer, such as a thread of its own."""
    health = Health(interval_s=0.01, stale_s=0.05)
    async with trio.open_nursery() as nursery:
        await nursery.start(health.run)
        stand_still()
        assert health.live()["loop"].startswith("The loop has not turned")
        # Not after so many turns: this machine may hold the loop up once more.
        with trio.fail_after(60):
            await until(lambda: health.live()["loop"] == "ok")
        nursery.cancel_scope.cancel()
