"""The store of a FoundationDB cluster, as a command has it: any number of processes read it, and Kafka feeds it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import NoReturn

from matyan.broker.base import Producer
from matyan.errors import ConfigurationError
from matyan.folder.kafka_changes import KafkaChanges
from matyan.folder.opened import open_to_read
from matyan.folder.server import Answers
from matyan.settings import Settings
from matyan.store.base import Store

OpenStore = Callable[[], Awaitable[Store]]


@asynccontextmanager
async def cluster_answers(open_store: OpenStore, settings: Settings) -> AsyncIterator[Answers]:
    """What answers commands on the store. It writes nothing by itself: a change goes through Kafka's log, as the API server's
    do, so that one worker applies it, in order with the run's other records, and publishes what follows from it.

    Raises:
        ConfigurationError, Unavailable: as `open_cluster_store` does.
    """
    store = await open_store()
    try:
        opened = await open_to_read(store)
        changes = KafkaChanges(opened, lambda what: partial(_open_producer, settings))
        writes = {**opened.jobs.writes(), **changes.writes(), "compact": _compact}
        yield Answers(store, opened.reads(), writes)
    finally:
        await store.aclose()


def _open_producer(settings: Settings) -> AbstractAsyncContextManager[Producer]:
    # Few commands change anything.
    from matyan.broker.kafka.client import producer_config
    from matyan.broker.kafka.producer import open_producer

    return open_producer(
        producer_config(settings), settings.kafka_data_ingestion_topic, settings.queue_bytes
    )


def refuse_compaction() -> NoReturn:
    """
    Raises:
        ConfigurationError: always.
    """
    raise ConfigurationError(
        "FoundationDB gives the space of what was deleted free by itself: `matyan compact` is for a data folder, --data."
    )


async def _compact() -> AsyncIterator[object]:
    refuse_compaction()
    yield  # an iterator, like every write
