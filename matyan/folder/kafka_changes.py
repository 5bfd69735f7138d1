"""What commands change in a store that Kafka feeds: through Kafka, so that what follows outside of the store is told there too.

The same for a data folder and for a cluster, while a worker runs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Final

import trio

from matyan.broker.base import Producer
from matyan.errors import ConfigurationError, MatyanError, Unavailable
from matyan.folder.opened import GIVEN_UP, Opened, delete_by_record, finish_by_record
from matyan.folder.server import Write

_EFFECT_S: Final = 60.0
"""How long a command waits for the worker to come to its record."""
_POLL_S: Final = 0.02
"""How often that is looked for."""

OpenProducer = Callable[[], AbstractAsyncContextManager[Producer]]


class KafkaChanges:
    """
    Args:
        producer_for: what opens a producer to the topic that feeds the store; told what the record is for, as a person calls it.
            It raises ConfigurationError where nobody would apply the record.
    """

    def __init__(self, opened: Opened, producer_for: Callable[[str], OpenProducer]) -> None:
        self._opened = opened
        self._producer_for = producer_for

    def writes(self) -> Mapping[str, Write]:
        """By the names under which they are asked for."""
        return {
            "delete": self._delete,
            "finish": self._finish,
            **dict.fromkeys(("take", "put_artifact"), self._no_frames),
            **dict.fromkeys(("dlq_list", "dlq_show", "dlq_replay"), _no_dead_letters),
        }

    async def _no_frames(self, **asked: object) -> AsyncIterator[object]:
        raise ConfigurationError(
            "The records of this folder come from Kafka: bring runs to its frontier, with: matyan push RUN... --to http://FRONTIER."
        )
        yield  # an iterator, like every write

    async def _delete(self, *, run: str) -> AsyncIterator[object]:
        """Deletes a run by a record in Kafka, and waits until a worker has applied it."""
        open_producer = self._producer_for("a deletion")
        await self._opened.must_exist(run)
        async with open_producer() as producer:
            await delete_by_record(producer, run, GIVEN_UP)

        async def is_gone() -> bool:
            return not await self._opened.exists(run)

        await _until_applied(
            is_gone, f"Run {run} is still there: Kafka has the record that deletes it"
        )
        # By the control worker, which tells nobody here when it has done so.
        yield {"run": run, "blobs_pending": True}

    async def _finish(self, *, run: str, stale: bool = False) -> AsyncIterator[object]:
        """Ends a run by a record in Kafka, and waits until a worker has applied it."""
        open_producer = self._producer_for("the end of a run")
        before = await self._opened.last_heard(run)
        if before.active:
            async with open_producer() as producer:
                await finish_by_record(producer, run, before.last_record, stale, GIVEN_UP)

            async def has_ended() -> bool:
                return not (await self._opened.last_heard(run)).active

            await _until_applied(
                has_ended, f"Run {run} is still active: Kafka has the record that ends it"
            )
        after = await self._opened.last_heard(run)
        yield {"run": run, "was_active": before.active, "duration": after.duration}


async def _until_applied(is_there: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Waits until a worker has applied a record.

    Raises:
        Unavailable: not in time; what stands in Kafka is applied later.
    """
    with trio.move_on_after(_EFFECT_S) as waiting:
        while True:
            if await is_there():
                break
            await trio.sleep(_POLL_S)
    if waiting.cancelled_caught:
        raise Unavailable(f"{otherwise}, and a worker will come to it.")


async def _no_dead_letters(**arguments: object) -> AsyncIterator[object]:
    raise MatyanError(
        "The records of this store come from Kafka: what could not be applied stands in Kafka's dead-letter topics, "
        "and `matyan dlq list --kafka` lists it."
    )
    yield  # an iterator, like every write
