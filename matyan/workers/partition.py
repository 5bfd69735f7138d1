"""What every worker does with the partitions of its consumer: hold each in a task, wait in a way that can be
left, try again while an engine is away.

Knows no record, no rule and no store.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from functools import partial
from typing import Final, TypeVar

import trio

from matyan.broker.base import Batch, Consumer, DeadLetter, Partition
from matyan.errors import Bug, InvalidRecord, MatyanError, Unavailable
from matyan.service import telemetry
from matyan.service.backoff import Backoff
from matyan.service.logs import get_logger

T = TypeVar("T")

_REASON_CHARACTERS: Final = 2_000
"""The longest reason of a dead letter: it may quote a name that fills the record, and stands in the letter beside the record."""


STILL_S = 10.0
"""How long a partition stands still before it is looked at again."""


class Tenure:
    """One partition while this worker owns it."""

    def __init__(self, partition: Partition, service: str) -> None:
        self.partition = partition
        self.trouble: str | None = None
        """Why it waits for an engine, or None."""
        self.conflict: str | None = None
        """Why it stands still until a person decides, or None."""
        self.scope = trio.CancelScope()
        """Around the owner's work: cancelled while it is idle, when the partition is to be left. What was not committed
        comes again to the next owner."""
        self._service = service
        self._leaving = self._is_idle = False
        self._log = get_logger().bind(
            service=service, topic=partition.topic, partition=partition.partition
        )

    def _show(self, cause: str, *, stalls: bool) -> None:
        place = self.partition.topic, str(self.partition.partition), cause
        if stalls:
            telemetry.STALLED.labels(*place).set(1)
        else:
            with suppress(KeyError):  # it was not shown
                telemetry.STALLED.remove(*place)

    def settled(self) -> None:
        """What stood between it and its records is gone."""
        self.conflict = None
        self._show("conflict", stalls=False)

    def ended(self) -> None:
        """Somebody else's partition now, or nobody's: nothing is said of it any more."""
        for cause in ("engine", "conflict"):
            self._show(cause, stalls=False)

    def leave(self) -> None:
        """Finish the batch at hand, start no other, wait for nothing."""
        self._leaving = True
        if self._is_idle:
            self.scope.cancel()

    async def idle(self, wait: Callable[[], Awaitable[T]]) -> T:
        """Waits for what can be given up at any moment: then the owner's work ends here."""
        await self._end_if_to_be_left()
        self._is_idle = True
        try:
            outcome = await wait()
        finally:
            self._is_idle = False
        # It may have been cancelled just when the wait ended. That counts here, and not in a transaction, of which nobody would
        # learn whether it was committed.
        await trio.lowlevel.checkpoint_if_cancelled()
        return outcome

    async def _end_if_to_be_left(self) -> None:
        if self._leaving or self.partition.revoked.is_set():
            self.scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()

    async def batches(self) -> AsyncIterator[Batch]:
        """The partition's batches until it is to be left."""
        batches = self.partition.batches()
        while True:
            try:
                batch = await self.idle(batches.__anext__)
            except StopAsyncIteration:
                return
            yield batch

    async def retrying(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """`attempt`, again and again while an engine is away; the partition is paused meanwhile."""
        backoff = Backoff()
        while True:
            try:
                outcome = await attempt()
            except Unavailable as error:
                await self._end_if_to_be_left()  # which may be why it is unavailable
                if self.trouble is None:
                    self.partition.pause()
                    self._log.warning("waits for an engine", reason=str(error))
                self.trouble = str(error)
                self._show("engine", stalls=True)
                telemetry.RETRIES.labels(self._service, _cause(error)).inc()
                telemetry.ERRORS[self._service].labels("Unavailable").inc()
                await self.idle(partial(trio.sleep, backoff.next()))
            else:
                if self.trouble is not None:
                    self.trouble = None
                    self._show("engine", stalls=False)
                    self.partition.resume()
                    self._log.info("goes on")
                return outcome

    async def stand_still(self, reason: str) -> None:
        """Waits before it is seen whether somebody has settled this; the other partitions go on."""
        if self.conflict != reason:
            self._log.error("stands still", reason=reason)
        self.conflict = reason
        self._show("conflict", stalls=True)
        await self.idle(partial(trio.sleep, STILL_S))

    def letter(self, batch: Batch, index: int, error_class: str, error_text: str) -> DeadLetter:
        """The dead letter of one record of a batch of this partition."""
        if len(error_text) > _REASON_CHARACTERS:
            error_text = f"{error_text[:_REASON_CHARACTERS]}…"
        return DeadLetter(
            self.partition.topic,
            self.partition.partition,
            batch.offsets[index],
            batch.keys[index],
            batch.values[index],
            error_class,
            # What it quotes may be no valid Unicode: JSON can name a lone surrogate.
            error_text.encode(errors="backslashreplace").decode(),
        )


class BlamingTheRecord:
    """Around what a record alone decides about. A class: `contextlib` costs a small transaction 2 µs.

    Raises:
        Bug: any error that is none of ours, so that no record can stop a partition, whoever wrote it.
        Unavailable: there was not enough memory, which is no record's fault.
    """

    __slots__ = ()

    def __enter__(self) -> None: ...

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if not isinstance(error, Exception) or isinstance(error, MatyanError):
            return
        if isinstance(error, MemoryError):
            raise Unavailable(
                "There is not enough memory for the records at hand: give the process more, or set INGEST_MAX_TXN_BYTES lower."
            ) from error
        raise Bug(f"{type(error).__name__}: {error}") from error


def class_of(error: Bug | InvalidRecord) -> str:
    """A dead letter's error class, and the label that counts it."""
    return "bug" if isinstance(error, Bug) else "InvalidRecord"


def _cause(error: Unavailable) -> str:
    """A label of few values: the engine's error below ours, when the adapter kept it."""
    return type(error.__cause__ or error).__name__


class Holder:
    """Runs `own` for each partition of `consumer` in a task of its own, until it is stopped."""

    def __init__(
        self, consumer: Consumer, service: str, own: Callable[[Tenure], Awaitable[None]]
    ) -> None:
        self._consumer = consumer
        self._service = service
        self._own = own
        self._stopping = trio.Event()
        self._tenures: set[Tenure] = set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with self._consumer.partitions() as assigned, trio.open_nursery() as owners:
            task_status.started()
            async with trio.open_nursery() as watch:

                @watch.start_soon
                async def stop() -> None:
                    await self._stopping.wait()
                    watch.cancel_scope.cancel()

                async for held in assigned:
                    owners.start_soon(self._hold, held)
                watch.cancel_scope.cancel()

    async def _hold(self, held: AbstractAsyncContextManager[Partition]) -> None:
        async with held as partition, trio.open_nursery() as watch:
            tenure = Tenure(partition, self._service)
            self._tenures.add(tenure)
            # Shown from the first: what counts up from nothing is no increase to who scrapes.
            telemetry.DEAD_LETTERS.labels(partition.topic)
            if self._stopping.is_set():
                tenure.leave()

            @watch.start_soon
            async def revoke() -> None:
                await partition.revoked.wait()
                tenure.leave()

            try:
                with tenure.scope:
                    await self._own(tenure)
            finally:
                self._tenures.discard(tenure)
                tenure.ended()
            watch.cancel_scope.cancel()

    def stop(self) -> None:
        """Drains: each partition's batch at hand is finished, no other is started, then `run` returns."""
        self._stopping.set()
        for tenure in self._tenures:
            tenure.leave()

    def trouble(self) -> str | None:
        """Why partitions wait for an engine or a person now, in sentences; or None."""
        reasons = [tenure.conflict or tenure.trouble for tenure in self._tenures]
        return " ".join(sorted({why for why in reasons if why is not None})) or None
