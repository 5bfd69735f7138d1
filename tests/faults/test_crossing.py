"""An acknowledgement at 15.05 s and the copy that crosses it, with the unmodified SDK and a producer that holds back.

No broker answers on the hundredth of a second, so the deliveries are made by hand here; `test_frozen_broker.py` has
the real broker.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
import trio

from matyan.broker.base import DeliveryCallback
from matyan.frontier.session import Session
from tests import training
from tests.frontier.conftest import a_frontier
from tests.frontier.hand import HandProducer

AGES = [15.0 + number / 50 for number in range(-20, 10)]
"""Seconds after which a first frame is acknowledged. The SDK waits for 15 s, sleeps for 0.1 s and sends it again; its
seconds begin sooner, by as much as a busy machine takes to bring the frame here."""
RUNS = {f"run-{number}": age for number, age in enumerate(AGES)}
STEPS = 5


class LateProducer(HandProducer):
    """Delivers each run's first frame when it is so old as RUNS says, and every other at once."""

    def __init__(self, nursery: trio.Nursery) -> None:
        super().__init__()
        self.records: dict[str, list[bytes]] = {run: [] for run in RUNS}
        self.acknowledged: dict[str, float] = {}
        """When the first frame of each run was."""
        self._nursery = nursery

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        run = key.decode()
        is_first = not self.records[run]
        self.records[run] += values
        self._nursery.start_soon(self._deliver_at, run, RUNS[run] if is_first else 0.0, on_done)

    async def _deliver_at(self, run: str, age: float, on_done: DeliveryCallback) -> None:
        await trio.sleep(age)
        self.acknowledged.setdefault(run, trio.current_time())
        on_done(None)


async def test_the_sdk_s_copy_that_crosses_its_acknowledgement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether the copy comes before the acknowledgement or crosses it, it is neither published nor answered: each
    message is handed over once, in order, and the SDK's frames and replies stay in step."""
    firsts: dict[str, bytes] = {}
    last_came: dict[str, float] = {}
    receive = Session.receive

    def watched(session: Session, data: bytes, now: float, **given: bool) -> None:
        if firsts.setdefault(session.run, data) == data:
            last_came[session.run] = now
        receive(session, data, now, **given)

    monkeypatch.setattr(Session, "receive", watched)
    async with trio.open_nursery() as nursery:
        producer = LateProducer(nursery)
        async with a_frontier(producer) as served:
            started = training.start(served.url, list(RUNS), steps=STEPS)
            reports = await trio.to_thread.run_sync(started.report)
    records = {run: list(map(json.loads, values)) for run, values in producer.records.items()}
    assert [fault for run in RUNS for fault in training.faults(records[run], run, STEPS)] == []
    assert {report["unsent"] for report in reports.values()} == {0}
    crossed = [run for run, at in last_came.items() if at > producer.acknowledged[run]]
    assert crossed, "no copy crossed its acknowledgement"
