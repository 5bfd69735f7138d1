"""The control worker: each control event becomes its side effect outside of the log: on blobs, on all the runs of what was
deleted, and on who is to be told of it (`notices.py`).

Every reaction is idempotent, so an event that comes twice does no harm; an engine that is away is waited for
without end, since skipping would leave blobs that nothing names any more. What can never work is a dead letter, and so
is an event that meets a bug twice: none can stop those behind it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import trio

from matyan._codec import check_artifact_path, check_run_id
from matyan.blobs.base import Blobs
from matyan.broker.base import Batch, Consumer, ControlEvent, DeadLetter
from matyan.errors import Bug, InvalidRecord
from matyan.rules.entities import EXPERIMENTS, TAGS
from matyan.service import telemetry
from matyan.service.logs import get_logger
from matyan.workers.notices import Notices
from matyan.workers.partition import BlamingTheRecord, Holder, Tenure, class_of

_UUID_BYTES: Final = 512
"""Other programs make ids, too; each key holds one."""

_log = get_logger()


Part = Callable[[str, str, float], Awaitable[None]]
"""Takes all runs out of an experiment or tag: called with "experiments" or "tags", its uuid, and when it was deleted."""


class Reach(NamedTuple):
    """What a control event can have an effect on."""

    blobs: Blobs
    part: Part | None
    """None: the store is not in this worker's reach."""


async def delete_blobs(reach: Reach, event: ControlEvent) -> None:
    """run_deleted: the named blobs, or all that the run has."""
    blobs, payload = reach.blobs, event.payload
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


async def _part(family: str, field: str, reach: Reach, event: ControlEvent) -> None:
    """experiment_deleted, tag_deleted: its runs leave it. The API server publishes the event before it deletes, so what was to be
    deleted goes, too."""
    uuid = _id(event, field)
    if reach.part is None:
        _log.warning(
            "runs stay in what was deleted, unseen: start the control worker with --store, which names the store",
            id=uuid,
        )
        return
    await reach.part(family, uuid, event.timestamp)


def _id(event: ControlEvent, field: str) -> str:
    uuid = event.payload.get(field)
    with suppress(UnicodeEncodeError):
        if isinstance(uuid, str) and 0 < len(uuid.encode()) <= _UUID_BYTES:
            return uuid
    raise InvalidRecord(f"{event.type}: {field}: {uuid!r:.100} is no id")


async def count_only(reach: Reach, event: ControlEvent) -> None:
    """Nothing follows from this event."""


REACTIONS: Final[dict[str, Callable[[Reach, ControlEvent], Awaitable[None]]]] = {
    "run_deleted": delete_blobs,
    "run_finished": count_only,
    "run_stale": count_only,
    "run_archived": count_only,
    "run_unarchived": count_only,
    "experiment_deleted": partial(_part, EXPERIMENTS, "experiment_id"),
    "tag_deleted": partial(_part, TAGS, "tag_id"),
}


class ControlWorker(Holder):
    """Handles a topic's control events in their order.

    Args:
        bury: makes dead letters durable where the composition root wants them; may raise Unavailable.
        part: takes all runs out of an experiment or tag; may raise Unavailable. None: the store is not in reach.
        notices: tells webhooks of what was done; None: nobody is to be told.
    """

    def __init__(
        self,
        consumer: Consumer,
        blobs: Blobs,
        bury: Callable[[Sequence[DeadLetter]], Awaitable[None]],
        part: Part | None = None,
        notices: Notices | None = None,
    ) -> None:
        super().__init__(consumer, "control", self._own)
        self._reach = Reach(blobs, part)
        self._bury = bury
        self._notices = notices

    async def _own(self, tenure: Tenure) -> None:
        async with trio.open_nursery() as nursery:
            # Whoever has the first partition delivers: one process of the group.
            if self._notices is not None and tenure.partition.partition == 0:
                nursery.start_soon(self._notices.deliver)
            await self._handle_all(tenure)
            nursery.cancel_scope.cancel()

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
            await react(self._reach, event)
            if self._notices is not None:
                await self._notices.put(event)
        if event.type == "run_deleted":
            _log.info("the artifacts of a deleted run are deleted", run=event.payload["run_id"])
        return event.type
