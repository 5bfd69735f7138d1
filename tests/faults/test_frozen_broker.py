"""A broker frozen with SIGSTOP under load: nothing is lost, nothing stands twice, and the SDK's senders live on.

A freeze is mostly waiting, so everything happens side by side, on one broker and several frontiers, each with a
topic of its own; the tests then look at what was seen. The long form has a freeze of 40 s and one of 90 s, on two
brokers at the same time.
"""

from __future__ import annotations

import json
import signal
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
import trio

from dev.broker import Broker
from tests import training
from tests.faults.broken_frontier import broken_frontier
from tests.faults.load import AT_LENGTH, OK, Exchange, exchange, metric
from tests.kafka.topics import read_runs
from tests.services import Frontier, frontier
from tests.until import until

FREEZES = (40, 90) if AT_LENGTH else (43,)
"""Seconds. The short one is over 40 s, after which a frame is answered whatever the broker does."""
QUEUE_BYTES = 500_000
FRONTIERS: dict[str, dict[str, Any]] = {
    "whole": {},
    "deaf": {"command": broken_frontier("publish-resends")},
    "small": {"MATYAN_QUEUE_BYTES": str(QUEUE_BYTES)},
    "expiring": {"SHUTDOWN_FLUSH_TIMEOUT": "3"},
    "parting": {"SHUTDOWN_FLUSH_TIMEOUT": "90"},
}
TRAININGS = {
    "first": ("whole", [f"first-{n}" for n in range(3)]),
    "second": ("whole", [f"second-{n}" for n in range(3)]),
    "unheard": ("deaf", [f"unheard-{n}" for n in range(2)]),
    "late": ("small", [f"late-{n}" for n in range(3)]),
}
CROSSINGS = {"whole": 8, "deaf": 2}
EXPIRING, PARTING = 4, 10
"""Connections that are open when their frontier gets SIGTERM."""
VALUES = [0.0, 1.0, 2.0]
"""What a raw client's frame holds."""


def frame(run: str, values: list[float]) -> str:
    return json.dumps([metric(run, "loss", value, None) for value in values])


@dataclass
class Freeze:
    """One broker frozen for `seconds`, and what was seen of everything that went on meanwhile."""

    broker: Broker
    seconds: float
    thaw_at: float = 0.0
    frontiers: dict[str, Frontier] = field(default_factory=dict)
    trainings: dict[str, training.Training] = field(default_factory=dict)
    reports: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By training and run: what it says of its senders."""
    replies: dict[str, list[Any]] = field(default_factory=dict)
    """By raw client's run: what it received."""
    unready: str = ""
    """What was not well with the frontier of the small queue, as it says."""
    frames: dict[tuple[str, str], int] = field(default_factory=dict)
    """By frontier and outcome: its own counts."""
    exits: dict[str, int] = field(default_factory=dict)
    records: dict[str, dict[str, list[dict[str, Any]]]] = field(default_factory=dict)
    """By frontier and run: what stands in the topic in the end."""

    async def happen(self) -> None:
        with ExitStack() as stack:
            stack.callback(self.broker.stop)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(in_thread, self.broker.start, 90, dict.fromkeys(FRONTIERS, 6))
                for name in FRONTIERS:
                    nursery.start_soon(self.serve, name, stack)
            for name in ("whole", "deaf"):
                await until(partial(self.under_load, name), 90)
            self.broker.freeze()
            self.thaw_at = trio.current_time() + self.seconds
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.expire)
                nursery.start_soon(self.fill)
                nursery.start_soon(self.train_late, stack)
                nursery.start_soon(self.cross)
                nursery.start_soon(self.part)
                await trio.sleep_until(self.thaw_at)
                self.broker.thaw()
            await self.end()

    def under_load(self, name: str) -> bool:
        return self.frontiers[name].frames("ok") > 50

    async def serve(self, name: str, stack: ExitStack) -> None:
        opened = frontier(self.broker, name, **FRONTIERS[name])
        self.frontiers[name] = await in_thread(stack.enter_context, opened)
        for training_, (where, _) in TRAININGS.items():
            if where == name != "small":
                self.train(training_, stack)

    def train(self, name: str, stack: ExitStack) -> None:
        where, runs = TRAININGS[name]
        started = training.start(self.frontiers[where].url, runs, pause=0.1)
        stack.callback(started.process.kill)
        self.trainings[name] = started

    async def end(self) -> None:
        async def report(name: str) -> None:
            self.reports[name] = await in_thread(self.trainings[name].report)

        async with trio.open_nursery() as nursery:
            for name in self.trainings:
                nursery.start_soon(report, name)
        for name in ("whole", "deaf", "small"):
            served = self.frontiers[name]
            for outcome in ("resend", "kept", "refused", "lost"):
                self.frames[name, outcome] = served.frames(outcome)
            self.exits[name] = await in_thread(served.stop)
        for name in FRONTIERS:
            self.records[name] = await in_thread(read_runs, self.broker, name)

    # --- meanwhile -----------------------------------------------------------------------------

    async def expire(self) -> None:
        """A drain whose deadline passes while the broker is frozen."""
        await self.leave("expiring", EXPIRING)

    async def part(self) -> None:
        """A drain that begins while the broker is frozen and has time enough after it."""
        await trio.sleep_until(self.thaw_at - 5)
        await self.leave("parting", PARTING)

    async def leave(self, name: str, connections: int) -> None:
        served, sent = self.frontiers[name], set[str]()

        async def client(run: str) -> None:
            async with self.exchange(name, run) as raw:
                await raw.send(frame(run, VALUES))
                await raw.ping()  # so the frame before it was taken
                sent.add(run)
                await raw.until(lambda replies: replies and isinstance(replies[-1], int))

        async with trio.open_nursery() as nursery:
            for number in range(connections):
                nursery.start_soon(client, f"{name}-{number}")
            await until(lambda: len(sent) == connections)
            served.process.send_signal(signal.SIGTERM)
            self.exits[name] = await in_thread(served.process.wait, 150)

    async def fill(self) -> None:
        """A frame fills the small queue, and another waits for room, whose connection goes on answering pings."""
        async with (
            self.exchange("small", "large") as large,
            self.exchange("small", "parked") as raw,
        ):
            value = {"type": "custom", "data": "x" * (QUEUE_BYTES + 1000)}
            message = {"type": "log_custom_object", "name": "large", "value": value}
            await large.send(json.dumps(message))
            await large.ping()
            await raw.send(frame("parked", VALUES))
            while not raw.replies:
                await raw.ping()
                await trio.sleep(1)
            await large.until(bool)

    async def train_late(self, stack: ExitStack) -> None:
        """Training whose first frames meet the full queue: for more than the 30 s after which the SDK leaves a server
        that answers no ping, and for less than the 40 s after which a frame is refused."""
        await trio.sleep_until(self.thaw_at - 33)
        self.unready = await in_thread(self.frontiers["small"].unready)
        self.train("late", stack)

    async def cross(self) -> None:
        """Frames that are answered 15 s and a little after they were sent, whose copies leave at that moment."""

        async def client(name: str, run: str, age: float) -> None:
            async with self.exchange(name, run) as raw:
                await trio.sleep_until(self.thaw_at - age)
                await raw.send(text := frame(run, VALUES))
                await raw.until(bool)
                await raw.send(text)
                await raw.send(frame(run, [9.0]))
                # Replies come in order: this one's, unlike any other, ends them.
                await raw.send("no JSON")
                await raw.until(lambda replies: replies[-1] != OK)

        await trio.sleep_until(self.thaw_at - 20)
        async with trio.open_nursery() as nursery:
            for name, clients in CROSSINGS.items():
                for number in range(clients):
                    age = 15.0 + number * 0.02
                    nursery.start_soon(client, name, f"crossing-{number}-{name}", age)

    @asynccontextmanager
    async def exchange(self, name: str, run: str) -> AsyncIterator[Exchange]:
        async with exchange(self.frontiers[name].url, run) as raw:
            self.replies[run] = raw.replies
            yield raw


in_thread = trio.to_thread.run_sync


@pytest.fixture(scope="module")
def freezes(kafka_jars: None, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Freeze]:
    """What was seen of each freeze."""
    folder = tmp_path_factory.mktemp("frozen")
    seen = {seconds: Freeze(Broker(folder / f"{seconds}"), seconds) for seconds in FREEZES}

    async def all_of_them() -> None:
        async with trio.open_nursery() as nursery:
            for freeze in seen.values():
                nursery.start_soon(freeze.happen)

    trio.run(all_of_them)
    return seen


@pytest.fixture(params=FREEZES, ids=lambda seconds: f"{seconds}s")
def freeze(freezes: dict[int, Freeze], request: pytest.FixtureRequest) -> Freeze:
    return freezes[request.param]


def training_faults(freeze: Freeze, name: str) -> list[str]:
    """How the topic differs from what the runs of one training logged."""
    where, runs = TRAININGS[name]
    return [
        fault
        for run in runs
        for fault in training.faults(
            freeze.records[where][run], run, freeze.reports[name][run]["steps"]
        )
    ]


def values(freeze: Freeze, name: str, run: str) -> list[float]:
    """A raw client's values in the topic."""
    return [record["payload"]["value"] for record in freeze.records[name].get(run, [])]


@pytest.mark.parametrize("name", ["first", "second", "late"])
def test_the_sdk_loses_nothing_doubles_nothing_and_lives_on(freeze: Freeze, name: str) -> None:
    """Every message stands in the topic once, in its place, with what was logged after the thaw, through the SDK's own resends."""
    assert training_faults(freeze, name) == []
    for report in freeze.reports[name].values():
        assert report["steps"] > training.AFTERWARDS
        assert (report["alive"], report["unsent"], report["dropped"]) == (True, 0, 0)


def test_the_sdk_did_send_again_and_was_answered_after_40_s(freeze: Freeze) -> None:
    """What the claim above is about did happen, to each of the senders."""
    senders = 6
    assert freeze.frames["whole", "resend"] >= 2 * senders
    if freeze.seconds > 41:
        assert freeze.frames["whole", "kept"] >= senders
    assert freeze.frames["whole", "refused"] == freeze.frames["whole", "lost"] == 0


def test_published_resends_are_caught(freeze: Freeze) -> None:
    """The negative control: with resends not recognised, the same oracles find doubles and replies too many."""
    assert any("stored twice" in fault for fault in training_faults(freeze, "unheard"))
    for number in range(CROSSINGS["deaf"]):
        run = f"crossing-{number}-deaf"
        assert values(freeze, "deaf", run) == [*VALUES, *VALUES, 9.0]
        assert freeze.replies[run][:-1] == [OK, OK, OK]


def test_a_copy_that_crosses_its_acknowledgement_is_neither_published_nor_answered(
    freeze: Freeze,
) -> None:
    """Acknowledged after 15 s, its copy sent at that moment: one record, one reply, and the next frame goes its way."""
    for number in range(CROSSINGS["whole"]):
        run = f"crossing-{number}-whole"
        assert values(freeze, "whole", run) == [*VALUES, 9.0]
        *replies, last = freeze.replies[run]
        assert replies == [OK, OK]
        assert "JSON" in last["error"]


def test_a_full_queue_drops_nothing_silently(freeze: Freeze) -> None:
    """What was taken is delivered after the thaw; what found no room for 40 s is refused in its reply, counted and not
    delivered. Pings are answered meanwhile."""
    assert "queue" in freeze.unready
    (large,), (parked,) = freeze.replies["large"], freeze.replies["parked"]
    assert len(freeze.records["small"]["large"]) == 1
    refused = "refused, not stored" in (parked["error"] or "")
    assert values(freeze, "small", "parked") == ([] if refused else VALUES)
    assert freeze.frames["small", "refused"] == refused
    if freeze.seconds > 41:
        assert refused
        assert "kept and still being delivered" in large["error"]


def test_a_drain_whose_deadline_passes_says_what_is_left(freeze: Freeze) -> None:
    """The exit code is not 0, the log counts the records, each socket gets its close frame, and nothing was acknowledged."""
    assert freeze.exits["expiring"] == 1
    left = [line for line in freeze.frontiers["expiring"].output if '"left"' in line]
    assert [json.loads(line)["left"] for line in left] == [EXPIRING * len(VALUES)]
    for number in range(EXPIRING):
        run = f"expiring-{number}"
        assert freeze.replies[run] == [1001]
        assert values(freeze, "expiring", run) in ([], VALUES)


def test_a_drain_answers_what_it_has_before_it_closes(freeze: Freeze) -> None:
    """Each frame that waited when SIGTERM came is stored and answered, then its socket is closed with 1001; the exit code is 0."""
    assert freeze.exits["parting"] == 0
    for number in range(PARTING):
        run = f"parting-{number}"
        assert freeze.replies[run] == [OK, 1001]
        assert values(freeze, "parting", run) == VALUES


def test_what_was_frozen_drains(freeze: Freeze) -> None:
    """Afterwards each frontier ends with nothing left."""
    assert [freeze.exits[name] for name in ("whole", "deaf", "small")] == [0, 0, 0]
