"""A data folder that Kafka feeds, as the commands see it: while its worker runs, and while none does.

What is written to such a folder goes through Kafka, so that what follows from it outside of the store is told there too.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

from matyan import runs
from matyan.errors import ConfigurationError, MatyanError, Unavailable
from matyan.folder import DataFolder, delete_by_record, while_answering
from matyan.settings import Settings
from matyan.workers.supervise import Task

_EFFECT_S: Final = 60.0
"""How long a command waits for the worker to come to its record."""
_POLL_S: Final = 0.02


class KafkaFolder:
    """
    Args:
        settings: of the worker that runs in this process; None: none runs, and the folder can only be read.
    """

    def __init__(self, folder: DataFolder, settings: Settings | None) -> None:
        self._folder = folder
        self._settings = settings
        self._api = folder.api(
            {
                "delete": self._delete,
                **dict.fromkeys(("dlq_list", "dlq_show", "dlq_replay"), _no_dead_letters),
            }
        )

    def tasks(self) -> list[Task]:
        return [Task("commands", self._api.serve)]

    async def drain(self, deadline: float) -> int:
        """Waits for commands that are being answered; nothing is left undone."""
        await while_answering(self._api)
        return 0

    async def _delete(self, *, run: str) -> AsyncIterator[object]:
        """Deletes a run by a record in Kafka, and waits until the worker has applied it."""
        if self._settings is None:
            raise ConfigurationError(
                f"the records of {self._folder.path} come from Kafka, and so must a deletion: "
                f"start its worker first, with: matyan ingest-worker --store rocks:{self._folder.path}"
            )
        run = await self._folder.resolve(run)
        await _produce(self._settings, run)
        with trio.move_on_after(_EFFECT_S) as waiting:
            while True:
                if not await self._stands(run):
                    break
                await trio.sleep(_POLL_S)
        if waiting.cancelled_caught:
            raise Unavailable(
                f"run {run} stands still: Kafka has the record that deletes it, and the worker will come to it"
            )
        # By the control worker, which tells nobody here when it has done so.
        yield {"run": run, "blobs_pending": True}

    async def _stands(self, run: str) -> bool:
        return await self._folder.store.read(lambda snap: runs.exists(snap, self._folder.keys, run))


async def _produce(settings: Settings, run: str) -> None:
    from matyan.broker.kafka import open_producer, producer_config

    topic = settings.kafka_data_ingestion_topic
    async with open_producer(producer_config(settings), topic, settings.queue_bytes) as producer:
        await delete_by_record(producer, run)


async def _no_dead_letters(**arguments: object) -> AsyncIterator[object]:
    raise MatyanError(
        "the records of this folder come from Kafka: what could not be applied stands in Kafka's dead-letter topics, "
        "and `matyan dlq list --kafka` lists it"
    )
    yield  # an iterator, like every write
