"""Runs a job once or again and again: its lock, its limit, what it tells meanwhile, and the summary at the end.

What a job does is its own module's; it knows nothing of locks but that its requests carry one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from matyan.errors import ConfigurationError, LockLost, MatyanError
from matyan.jobs.lock import Lock
from matyan.service import telemetry
from matyan.service.logs import get_logger

Ask = Callable[..., Awaitable[list[Any]]]
"""Asks whoever has the store open: the request's name and arguments; all rows of the answer."""

_RENEWALS: Final = 3
"""In the time of a lock."""
_RELEASE_S: Final = 5.0

_log = get_logger()


class Busy(MatyanError):
    """Another process runs this job: leave it to that one."""


@dataclass(slots=True)
class Report:
    """What a run of a job tells, and how far it may go.

    Args:
        line: called with a line for each thing that was done, or would be.
        progress: called with a word on how far it is, often.
        limit: so many things at most; None: all.
        dry_run: nothing is to be changed.
    """

    line: Callable[[str], object]
    progress: Callable[[str], object]
    limit: int | None = None
    dry_run: bool = False
    done: dict[str, int] = field(default_factory=dict)
    """What was done, and how often."""
    failed: bool = False
    """Whether something is left that a person must look at."""

    def count(self, what: str, by: int = 1) -> None:
        self.done[what] = self.done.get(what, 0) + by

    def take(self, wanted: Sequence[Any]) -> Sequence[Any]:
        """As many of these as the limit leaves, which count from now on."""
        if self.limit is None:
            return wanted
        taken = wanted[: self.limit]
        self.limit -= len(taken)
        return taken

    @property
    def is_spent(self) -> bool:
        """Whether the limit is reached."""
        return self.limit == 0

    def summary(self) -> str:
        said = ", ".join(f"{count:,} {what}" for what, count in self.done.items())
        return said or "nothing to do"


Job = Callable[[Ask, Lock, Report], Awaitable[None]]
"""Does its work by requests that carry the lock, and tells the report."""


class Runner:
    """
    Args:
        name: the job's.
        lock_s: how long its lock lasts unless it is renewed; 0: it takes none.
    """

    def __init__(self, name: str, job: Job, ask: Ask, lock_s: float) -> None:
        self._name = name
        self._job = job
        self._ask = ask
        self._lock_s = lock_s
        self._lock = Lock(name, uuid.uuid4().hex if lock_s > 0 else "")

    async def once(self, report: Report) -> None:
        """
        Raises:
            Busy: another process runs it.
            LockLost: another process runs it by now; what was done stands.
            MatyanError: what ended it; what was done stands.
        """
        began = time.monotonic()
        outcome = "failed"
        try:
            await self._locked(report)
            outcome = "found" if report.failed else "ok"
        except Busy:
            outcome = "busy"
            raise
        except LockLost:
            outcome = "lock_lost"
            raise
        finally:
            telemetry.JOB_RUNS.labels(self._name, outcome).inc()
            telemetry.JOB_SECONDS.labels(self._name).set(time.monotonic() - began)
            for what, count in report.done.items():
                telemetry.JOB_DONE.labels(self._name, what).inc(count)
        telemetry.JOB_LAST.labels(self._name).set(time.time())

    async def _locked(self, report: Report) -> None:
        if not self._lock.owner:
            await self._job(self._ask, self._lock, report)
            return
        until = await self._take()
        if until is not None:
            raise Busy(
                f"Another process runs {self._name}; its lock expires in {max(0.0, until - time.time()):.0f} s: leave it to that one."
            )
        try:
            await self._renewed(report)
        finally:
            # By itself it expires later; a cancelled job gives it free, too.
            with trio.move_on_after(_RELEASE_S, shield=True):
                await self._ask("job_unlock", job=self._lock.job, owner=self._lock.owner)

    async def _renewed(self, report: Report) -> None:
        """The job, and beside it the lock's renewal."""
        ended: list[MatyanError] = []
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def renew() -> None:
                try:
                    await self._renew()
                except LockLost as error:
                    ended.append(error)
                    nursery.cancel_scope.cancel()

            try:
                await self._job(self._ask, self._lock, report)
            except MatyanError as error:
                ended.append(error)
            nursery.cancel_scope.cancel()
        if ended:
            raise ended[0]

    async def _renew(self) -> None:
        """Returns never.

        Raises:
            LockLost: somebody else has it, or it could not be renewed in its time.
        """
        held_until = trio.current_time() + self._lock_s
        while True:
            await trio.sleep(self._lock_s / _RENEWALS)
            began = trio.current_time()
            try:
                until = await self._take()
            except MatyanError as error:
                if trio.current_time() < held_until:
                    continue
                raise LockLost(
                    f"The lock of {self._name} expired, since it could not be renewed ({error}): run the job again."
                ) from error
            if until is not None:
                raise LockLost(
                    f"The lock of {self._name} was lost to another process: what was done so far stands."
                )
            held_until = began + self._lock_s

    async def _take(self) -> float | None:
        (answer,) = await self._ask(
            "job_lock", job=self._lock.job, owner=self._lock.owner, ttl_s=self._lock_s
        )
        until: float | None = answer["held_until"]
        return until


async def again_and_again(
    name: str,
    turn: Callable[[Report], Awaitable[None]],
    make_report: Callable[[], Report],
    every_s: float,
) -> None:
    """A job until it is cancelled. What ends one run of it is logged, and the next one begins in its time.

    Raises:
        ConfigurationError: it cannot work until the user changes something.
    """
    while True:
        began = trio.current_time()
        report = make_report()
        try:
            await turn(report)
        except ConfigurationError:
            raise
        except Busy as error:
            _log.info("another process runs this job", job=name, reason=str(error))
        except MatyanError as error:
            _log.error("a job ended early", job=name, reason=str(error), done=report.summary())
        else:
            _log.info("a job is done", job=name, done=report.summary())
        await trio.sleep(max(0.0, began + every_s - trio.current_time()))
