"""The control worker: each control event becomes its side effect outside of the store.

Every reaction is idempotent, so an event that comes twice does no harm; an engine that is away is waited for
without end, since skipping would leave blobs that nothing names any more. What can never work is a dead letter, and so
is an event that meets a bug twice: none can stop those behind it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

from matyan._codec import check_artifact_path, check_run_id
from matyan.blobs.base import Blobs
from matyan.broker.base import Batch, Consumer, ControlEvent, DeadLetter
from matyan.errors import Bug, InvalidRecord
from matyan.service import telemetry
from matyan.service.logs import get_logger
from matyan.workers.partition import BlamingTheRecord, Holder, Tenure, class_of

Payload = dict[str, Any]

_log = get_logger()


async def delete_blobs(blobs: Blobs, payload: Payload) -> None:
    """run_deleted: the named blobs, or all that the run has."""
    run, named = payload.get("run_id"), payload.get("blob_keys")
    if not isinstance(run, str) or check_run_id(run) is not None:
        raise InvalidRecord(f"run_deleted: run_id: {run!r} is no run id")
    if not named:
        await blobs.delete_run(run)
        return
    if not isinstance(named, list) or not all(map(_is_key, named)):
        raise InvalidRecord("run_deleted: blob_keys: expected an array of run_id/path")
    await blobs.delete(named)


def _is_key(key: object) -> bool:
    """Whether this names a blob: an engine must not be asked for what its signer would have refused."""
    if not isinstance(key, str):
        return False
    run, _, path = key.partition("/")
    return check_run_id(run) is None and check_artifact_path(run, path) is None


async def count_only(blobs: Blobs, payload: Payload) -> None:
    """Nothing outside of the store follows from this event."""


REACTIONS: Final[dict[str, Callable[[Blobs, Payload], Awaitable[None]]]] = {
    "run_deleted": delete_blobs,
    "run_archived": count_only,
    "run_unarchived": count_only,
    "experiment_deleted": count_only,
    "tag_deleted": count_only,
}


class ControlWorker(Holder):
    """Handles a topic's control events in their order.

    Args:
        bury: makes dead letters durable where the composition root wants them; may raise Unavailable.
    """

    def __init__(
        self,
        consumer: Consumer,
        blobs: Blobs,
        bury: Callable[[Sequence[DeadLetter]], Awaitable[None]],
    ) -> None:
        super().__init__(consumer, "control", self._handle_all)
        self._blobs = blobs
        self._bury = bury

    async def _handle_all(self, tenure: Tenure) -> None:
        await tenure.retrying(lambda: tenure.partition.start(None))
        async for batch in tenure.batches():
            telemetry.CONTROL_CONSUMED.inc(len(batch))
            for i in range(len(batch)):
                await self._handle(tenure, batch, i)
                # After each: a batch that is left halfway comes again from here.
                end = batch.offsets[i + 1] if i + 1 < len(batch) else batch.next_offset
                tenure.partition.committed(end)

    async def _handle(self, tenure: Tenure, batch: Batch, index: int) -> None:
        began = time.perf_counter()
        react = partial(self._react, batch.values[index])
        try:
            try:
                kind = await tenure.retrying(react)
            except Bug as error:
                telemetry.CONTROL_ERRORS.labels(class_of(error)).inc()
                _log.error(
                    "a bug: a control event is tried once more",
                    offset=batch.offsets[index],
                    exc_info=error.__cause__,
                )
                kind = await tenure.retrying(react)
        except (InvalidRecord, Bug) as error:
            telemetry.CONTROL_ERRORS.labels(class_of(error)).inc()
            _log.error(
                "a control event goes to the dead letters",
                offset=batch.offsets[index],
                reason=str(error),
                exc_info=error.__cause__ if isinstance(error, Bug) else None,
            )
            letter = tenure.letter(batch, index, class_of(error), str(error))
            await tenure.retrying(lambda: self._bury([letter]))
            telemetry.DEAD_LETTERS.labels(tenure.partition.topic).inc()
        else:
            telemetry.CONTROL_PROCESSED.labels(kind).inc()
            telemetry.CONTROL_SECONDS.observe(time.perf_counter() - began)

    async def _react(self, value: bytes) -> str:
        """Does what an event asks for; returns its type."""
        with BlamingTheRecord():
            event = ControlEvent.from_bytes(value)
            react = REACTIONS.get(event.type)
            if react is None:
                raise InvalidRecord(f"type: {event.type!r} is no control event")
            await react(self._blobs, event.payload)
        if event.type == "run_deleted":
            _log.info("the artifacts of a deleted run are deleted", run=event.payload["run_id"])
        return event.type
