"""The nursery around a service: signals, drains, crashes, exit codes."""

from __future__ import annotations

import gc
import signal
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from matyan.errors import ConfigurationError, Unavailable
from matyan.service import telemetry
from matyan.service.health import Health
from matyan.service.supervise import Task, calm_collector, run_service


class Service:
    """One task that works as it is told, and a drain that takes its time."""

    def __init__(self, *, drain_takes: float = 0.0, left: int = 0) -> None:
        self.health = Health()
        self.starts: list[float] = []
        self.crashes: list[Exception] = []
        self.works_for = 0.0
        self.drained_at: float | None = None
        self.deadline: float | None = None
        self._drain_takes = drain_takes
        self._left = left

    async def work(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        self.starts.append(trio.current_time())
        task_status.started()
        if self.crashes:
            await trio.sleep(self.works_for)
            raise self.crashes.pop(0)
        await trio.sleep_forever()

    async def drain(self, deadline: float) -> int:
        self.deadline = deadline
        assert self.health.draining
        await trio.sleep(self._drain_takes)
        self.drained_at = trio.current_time()
        return self._left

    async def run(self, script: Callable[[], Awaitable[None]], *tasks: Task) -> int:
        """The exit code of the service while `script` does things to it."""
        async with trio.open_nursery() as nursery:

            async def play() -> None:
                await wait_all_tasks_blocked()
                await script()

            nursery.start_soon(play)
            code = await run_service(
                tasks or [Task("worker", self.work)], self.drain, self.health, drain_s=5.0
            )
            nursery.cancel_scope.cancel()
        return code


def signals(*numbers: signal.Signals, gap: float = 0.0) -> Callable[[], Awaitable[None]]:
    async def script() -> None:
        for number in numbers:
            signal.raise_signal(number)
            await trio.sleep(gap)

    return script


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains_and_exits_with_0(
    number: signal.Signals, autojump_clock: MockClock
) -> None:
    """The drain is told its deadline, and the tasks run on until it is through."""
    service = Service(drain_takes=2.0)
    began = trio.current_time()
    assert await service.run(signals(number)) == 0
    assert service.deadline == pytest.approx(began + 5.0, abs=0.1)
    assert service.drained_at is not None


async def test_what_is_left_makes_the_exit_code_1(autojump_clock: MockClock) -> None:
    service = Service(left=7)
    assert await service.run(signals(signal.SIGTERM)) == 1


async def test_a_second_signal_stops_at_once(autojump_clock: MockClock) -> None:
    """The drain is cancelled; the exit code says that it was cut short."""
    service = Service(drain_takes=4.0)
    began = trio.current_time()
    assert await service.run(signals(signal.SIGTERM, signal.SIGINT, gap=1.0)) == 1
    assert service.drained_at is None
    assert trio.current_time() - began < 2.0


async def test_a_drain_that_overruns_its_deadline_is_cut_short(autojump_clock: MockClock) -> None:
    """A second of grace, for a drain that returns at its deadline by itself."""
    service = Service(drain_takes=3_600.0)
    began = trio.current_time()
    assert await service.run(signals(signal.SIGTERM)) == 1
    assert trio.current_time() - began == pytest.approx(6.0, abs=0.5)


async def test_an_event_stops_it_as_a_signal_does(autojump_clock: MockClock) -> None:
    service, stop = Service(), trio.Event()
    stop.set()
    code = await run_service(
        [Task("worker", service.work)], service.drain, service.health, drain_s=5.0, stop=stop
    )
    assert code == 0


async def test_a_crashed_task_is_started_again(autojump_clock: MockClock) -> None:
    """After a pause, counted; one crash does not make the service dead."""
    service = Service()
    service.crashes = [ZeroDivisionError("a bug")]
    counter = telemetry.RESTARTS.labels("worker")
    before = counter._value.get()

    async def script() -> None:
        await trio.sleep(2)
        assert len(service.starts) == 2
        assert service.health.live() == {"loop": "ok", "worker": "ok"}
        signal.raise_signal(signal.SIGTERM)

    assert await service.run(script) == 0
    assert counter._value.get() == before + 1


async def test_a_task_that_keeps_crashing_turns_liveness_red_until_it_holds(
    autojump_clock: MockClock,
) -> None:
    """The pauses grow, and while it crashes at every start it stays red."""
    service = Service()
    service.crashes = [Unavailable("the broker is away") for _ in range(40)]

    async def script() -> None:
        await trio.sleep(2)
        while service.crashes:
            assert "crashed" in service.health.live()["worker"]
            await trio.sleep(1)
        pauses = [b - a for a, b in zip(service.starts, service.starts[1:], strict=False)]
        assert max(pauses) <= 15.0
        assert pauses[-1] > 5.0
        await trio.sleep(61)
        assert service.health.live()["worker"] == "ok"
        signal.raise_signal(signal.SIGTERM)

    assert await service.run(script) == 0


async def test_a_task_that_waits_at_its_start_can_be_stopped(autojump_clock: MockClock) -> None:
    """The tasks behind it are not started; the drain finds nothing to do."""
    service = Service()

    async def waits(*, task_status: Any) -> None:
        await trio.sleep_forever()

    tasks = Task("broker", waits), Task("worker", service.work)
    assert await service.run(signals(signal.SIGTERM), *tasks) == 0
    assert service.starts == []


async def test_what_only_the_user_can_mend_ends_the_service(autojump_clock: MockClock) -> None:
    """The sentence comes out by itself, however deep in nurseries it was raised."""

    async def misconfigured(*, task_status: Any) -> None:
        task_status.started()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            async with trio.open_nursery():
                raise ConfigurationError("set KAFKA_BOOTSTRAP_SERVERS")

    service = Service()
    with pytest.raises(ConfigurationError, match="set KAFKA_BOOTSTRAP_SERVERS"):
        await run_service(
            [Task("worker", misconfigured)], service.drain, service.health, drain_s=5.0
        )


async def test_tasks_start_one_after_the_other(autojump_clock: MockClock) -> None:
    """The second when the first says that it has started; then the service says so."""
    order: list[str] = []

    def task(name: str) -> Task:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            order.append(f"{name} begins")
            await trio.sleep(1)
            order.append(f"{name} has started")
            task_status.started()
            await trio.sleep_forever()

        return Task(name, run)

    service = Service()

    async def script() -> None:
        await trio.sleep(3)
        signal.raise_signal(signal.SIGTERM)

    assert await service.run(script, task("a"), task("b")) == 0
    assert order == ["a begins", "a has started", "b begins", "b has started"]


def test_collector_leaves_what_stands_alone() -> None:
    """What stood when the process had started is not looked at by a later collection, and few records cause one."""
    thresholds = gc.get_threshold()
    stands: list[object] = [[]]
    calm_collector()
    try:
        assert not any(one is stands for one in gc.get_objects())
        assert gc.get_threshold()[0] > thresholds[0]
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)
    assert any(one is stands for one in gc.get_objects())
