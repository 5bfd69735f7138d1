"""A data folder that Kafka feeds, as the commands see it: while its worker runs, and while none does.

What is written to such a folder goes through Kafka, so that what follows from it outside of the store is told there too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from matyan.broker.base import Producer
from matyan.errors import ConfigurationError, MatyanError, Unavailable
from matyan.folder.folder import DataFolder, delete_by_record, finish_by_record, finish_commands
from matyan.rules import runs
from matyan.rules.rows import RunRows
from matyan.service.supervise import Task
from matyan.store.open import name_of

_EFFECT_S: Final = 60.0
"""How long a command waits for the worker to come to its record."""
_POLL_S: Final = 0.02
"""How often that is looked for."""


OpenProducer = Callable[[], AbstractAsyncContextManager[Producer]]


class KafkaFolder:
    """
    Args:
        open_producer: a producer to the topic that feeds the folder's worker, which runs in this process; None: none runs,
            and the folder can only be read.
    """

    def __init__(self, folder: DataFolder, open_producer: OpenProducer | None) -> None:
        self._folder = folder
        self._open_producer = open_producer
        self._api = folder.api(
            {
                "delete": self._delete,
                "finish": self._finish,
                **dict.fromkeys(("dlq_list", "dlq_show", "dlq_replay"), _no_dead_letters),
            }
        )

    def tasks(self) -> list[Task]:
        return [
            Task("commands", self._api.serve),
            Task("compaction", self._folder.compaction.run),
        ]

    async def drain(self, deadline: float) -> int:
        """Waits for commands that are being answered; nothing is left undone."""
        await finish_commands(self._api)
        return 0

    async def _delete(self, *, run: str) -> AsyncIterator[object]:
        """Deletes a run by a record in Kafka, and waits until the worker has applied it."""
        open_producer = self._producer_for("a deletion")
        await self._folder.must_exist(run)
        async with open_producer() as producer:
            await delete_by_record(producer, run)

        async def is_gone() -> bool:
            return not await self._folder.store.read(
                lambda snap: runs.exists(RunRows(snap, self._folder.keys, run))
            )

        await _until_applied(
            is_gone, f"Run {run} is still there: Kafka has the record that deletes it"
        )
        # By the control worker, which tells nobody here when it has done so.
        yield {"run": run, "blobs_pending": True}

    async def _finish(self, *, run: str) -> AsyncIterator[object]:
        """Ends a run by a record in Kafka, and waits until the worker has applied it."""
        open_producer = self._producer_for("the end of a run")
        before = await self._folder.last_heard(run)
        if before.active:
            async with open_producer() as producer:
                await finish_by_record(producer, run, before.last_record)

            async def has_ended() -> bool:
                return not (await self._folder.last_heard(run)).active

            await _until_applied(
                has_ended, f"Run {run} is still active: Kafka has the record that ends it"
            )
        after = await self._folder.last_heard(run)
        yield {"run": run, "was_active": before.active, "duration": after.duration}

    def _producer_for(self, what: str) -> OpenProducer:
        """
        Raises:
            ConfigurationError: no worker runs that would apply the record.
        """
        if self._open_producer is None:
            raise ConfigurationError(
                f"The records of {self._folder.path} come from Kafka, and so must {what}: "
                f"start its worker first, with: matyan ingest-worker --store {name_of(self._folder.path)}."
            )
        return self._open_producer


async def _until_applied(is_there: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Waits until the worker has applied a record.

    Raises:
        Unavailable: not in time; what stands in Kafka is applied later.
    """
    with trio.move_on_after(_EFFECT_S) as waiting:
        while True:
            if await is_there():
                break
            await trio.sleep(_POLL_S)
    if waiting.cancelled_caught:
        raise Unavailable(f"{otherwise}, and the worker will come to it.")


async def _no_dead_letters(**arguments: object) -> AsyncIterator[object]:
    raise MatyanError(
        "The records of this folder come from Kafka: what could not be applied stands in Kafka's dead-letter topics, "
        "and `matyan dlq list --kafka` lists it."
    )
    yield  # an iterator, like every write
