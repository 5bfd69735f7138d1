"""The nursery around a service: signals, the drain and its deadline, tasks that crash, the exit code.

Knows no engine and no record: a service is some tasks and one way to drain them, put together by the
composition root. A task that meets a bug is started again here, and nowhere else.
"""

from __future__ import annotations

import gc
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from matyan.errors import ConfigurationError, MatyanError
from matyan.service import telemetry
from matyan.service.backoff import Backoff
from matyan.service.health import Health
from matyan.service.logs import get_logger

CRASHES: Final = 3
CRASH_WINDOW_S: Final = 60.0
"""A task that crashed so often within so many seconds turns liveness red until it has run that long."""

_log = get_logger()


@dataclass(slots=True)
class Task:
    """One long task of a service. `run` takes trio's task_status, and may be called again after a crash."""

    name: str
    run: Callable[..., Awaitable[Any]]
    crashes: deque[float] = field(default_factory=lambda: deque(maxlen=CRASHES))

    def dead(self) -> str | None:
        """Why this task counts as dead: a liveness check."""
        if len(self.crashes) < CRASHES or trio.current_time() - self.crashes[0] > CRASH_WINDOW_S:
            return None
        return f"The task crashed {CRASHES} times within {CRASH_WINDOW_S:g} s."


def calm_collector() -> None:
    """For a process that is all ours, when it has started: what stands now stays, and is not looked at again.

    A full collection stops everything for 50 ms and more (the modules alone are 50,000 objects), and with Python's
    thresholds the records that pass by cause them: an eighth of the CPU of a worker that catches up.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)


def switch_threads_soon() -> None:
    """For a process in which a thread takes records in beside a loop that works on them.

    Whoever waits for Python's lock gets it after 1 ms instead of 5: a record passes that thread twice on its way to the loop.
    """
    sys.setswitchinterval(0.001)


async def run_service(
    tasks: Sequence[Task],
    drain: Callable[[float], Awaitable[int]],
    health: Health,
    *,
    drain_s: float,
    stop: trio.Event | None = None,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Starts `tasks` one after the other, keeps them running until SIGTERM, SIGINT or `stop`, and drains.

    Args:
        drain: told the trio time by which to be through; finishes what was acknowledged, ends the tasks'
            work in the right order, and returns how many records are left undone.
        drain_s: seconds until that deadline; a second signal ends the drain at once.

    Returns:
        The exit code: 0 when all was drained, 1 when something was left or a drain was cut short.

    Raises:
        ConfigurationError: a task cannot work until the user changes something.
    """
    stopped = trio.Event() if stop is None else stop
    cut_short = trio.CancelScope()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_keep_running, Task("health", health.run))

            async def start_all() -> None:
                for task in tasks:
                    health.add_live(task.name, task.dead)
                    await nursery.start(_keep_running, task)
                task_status.started()

            with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
                nursery.start_soon(_listen, signals, stopped, cut_short)
                # Not awaited: a start-up that waits for an engine can be stopped too.
                nursery.start_soon(start_all)
                await stopped.wait()
                health.draining = True
                code = await _drain(drain, drain_s, cut_short)
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        error = _configuration_error(group)
        if error is None:
            raise
        raise error from None
    return code


async def _keep_running(
    task: Task, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Runs a task until it returns, again after each crash."""
    # The cap lies so far below the window that a task which crashes at every start stays red.
    backoff = Backoff(0.1, CRASH_WINDOW_S / 4)
    status = _FirstStart(task_status)
    while True:
        began = trio.current_time()
        try:
            await task.run(task_status=status)
        except Exception as error:
            if _configuration_error(error) is not None:
                raise
            task.crashes.append(trio.current_time())
            telemetry.RESTARTS.labels(task.name).inc()
            if trio.current_time() - began > CRASH_WINDOW_S:
                backoff.reset()
            wait = backoff.next()
            # One of our own errors is a sentence for a person; of a bug the traceback is wanted.
            _log.error(
                "a task crashed and is started again",
                task=task.name,
                reason=str(error) or type(error).__name__,
                wait_s=round(wait, 2),
                exc_info=not isinstance(error, MatyanError),
            )
            await trio.sleep(wait)
        else:
            return


class _FirstStart:
    """A task_status that a task may report to once a life; its nursery hears the first."""

    def __init__(self, task_status: trio.TaskStatus[None]) -> None:
        self._task_status = task_status
        self._is_told = False

    def started(self, value: None = None) -> None:
        if not self._is_told:
            self._is_told = True
            self._task_status.started(value)


async def _listen(
    signals: AsyncIterator[int], stopped: trio.Event, cut_short: trio.CancelScope
) -> None:
    async for number in signals:
        name = signal.Signals(number).name
        if stopped.is_set():
            _log.warning("stops at once", signal=name)
            cut_short.cancel()
        else:
            _log.info("drains; the same signal again stops at once", signal=name)
            stopped.set()


async def _drain(
    drain: Callable[[float], Awaitable[int]], drain_s: float, cut_short: trio.CancelScope
) -> int:
    deadline = trio.current_time() + drain_s
    # A drain that does not keep its own deadline is not waited for.
    cut_short.deadline = deadline + 1.0
    with cut_short:
        left = await drain(deadline)
        if left == 0:
            _log.info("all was drained")
            return 0
        _log.error("the drain ended before all was done", left=left)
        return 1
    _log.error("the drain was cut short; nothing unstored was acknowledged as stored")
    return 1


def _configuration_error(error: BaseException) -> ConfigurationError | None:
    """The ConfigurationError in the groups that trio's nurseries wrap around it."""
    if isinstance(error, BaseExceptionGroup):
        found = (_configuration_error(inner) for inner in error.exceptions)
        return next((inner for inner in found if inner is not None), None)
    return error if isinstance(error, ConfigurationError) else None
