"""`matyan ingest-worker` and `matyan control-worker`: the workers between Kafka, the store and S3.

Puts parts together; decides nothing about records.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio
from confluent_kafka.admin import AclOperation

from matyan.broker.kafka.admin import Group
from matyan.broker.kafka.start import FedStore, require_own
from matyan.cli.flags import KAFKA, S3, SERVICE, settings_flags, store_name, store_option
from matyan.cli.start import KafkaStart, begin
from matyan.errors import ConfigurationError, Unavailable
from matyan.service import private
from matyan.service.doors import doors_of
from matyan.service.health import Check, Health
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, run_service
from matyan.settings import Settings, dead_letter_topic

if TYPE_CHECKING:
    from matyan.broker.kafka.consumer import KafkaConsumer
    from matyan.folder.folder import DataFolder
    from matyan.workers.partition import Holder

_PATIENCE_S = 10.0
"""How long a command that reads the folder at the moment of the start is waited for."""
_GUARD_S = 5.0
"""How often it is looked whose the consumer group is."""
_WELL_S = 30.0
"""How long a check that costs money is not asked again after it was well."""

log = get_logger()


# --- what both have ------------------------------------------------------------------------------


class _Crew:
    """The workers of one process: a task each, one answer whether they work, one end."""

    def __init__(self) -> None:
        self._members: dict[str, tuple[Holder, KafkaConsumer]] = {}
        self._at_work: set[str] = set()
        self._ended = trio.Event()

    def add(self, name: str, worker: Holder, consumer: KafkaConsumer) -> None:
        """name: of its task."""
        self._members[name] = worker, consumer

    def tasks(self) -> list[Task]:
        return [Task(name, partial(self._run, name)) for name in self._members]

    async def _run(self, name: str, *, task_status: trio.TaskStatus[None]) -> None:
        worker, _ = self._members[name]
        self._at_work.add(name)
        await worker.run(task_status=task_status)
        self._at_work.discard(name)
        if not self._at_work:
            self._ended.set()

    async def check(self) -> None:
        """Whether they work: a readiness check."""
        members = self._members.values()
        for trouble in (*(c.trouble for _, c in members), *(w.trouble for w, _ in members)):
            if (why := trouble()) is not None:
                raise Unavailable(why)

    async def drain(self, deadline: float) -> int:
        """Ends them after the batches at hand."""
        for worker, _ in self._members.values():
            worker.stop()
        if self._at_work:  # without Kafka none has begun
            with trio.move_on_at(deadline):
                await self._ended.wait()
        # What is not stored stands in Kafka, and no client was told otherwise: nothing is left undone.
        return 0


def _probes(settings: Settings, health: Health, component: str) -> list[Task]:
    from matyan.service.probes import serve_probes

    if settings.metrics_port <= 0:
        return []

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await serve_probes(
            health,
            settings.host,
            settings.metrics_port,
            component=component,
            doors=doors_of(settings),
            task_status=task_status,
        )

    return [Task("probes", serve)]


# --- ingestion -----------------------------------------------------------------------------------


@click.command("ingest-worker")
@store_option("Where runs are kept: a folder of this machine, for RocksDB.")
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Members of the consumer group in this process, for the partitions of a store that one process holds.",
)
@settings_flags(
    *KAFKA,
    "ingestion_group",
    "instance_id",
    "sequence_layout",
    "ingest_max_txn_bytes",
    "ingest_max_messages_per_txn",
    "host",
    "metrics_port",
    "allowed_hosts",
    *SERVICE,
)
def ingest_worker(settings: Settings, folder: Path, workers: int) -> int:
    """Apply the records in Kafka to the store, each exactly once.

    The store keeps the offset of each partition with the data; `matyan offsets show` compares it with Kafka's.
    FOLDER is a data folder: the commands that read one work with --data FOLDER, while the worker runs and when not.

    \b
      matyan ingest-worker --store rocks:/var/lib/matyan --workers 2
      MATYAN_INSTANCE_ID=worker-1 matyan ingest-worker --store rocks:/var/lib/matyan --metrics-port 9091
    """
    begin("ingest-worker", settings, KAFKA)
    return trio.run(_ingest, settings, folder, workers)


async def _ingest(settings: Settings, path: Path, count: int) -> int:
    from matyan.broker.kafka.client import producer_config
    from matyan.broker.kafka.producer import open_producer
    from matyan.folder.folder import open_folder
    from matyan.folder.kafka_folder import KafkaFolder

    private.set_umask()
    topic = settings.kafka_data_ingestion_topic
    start = KafkaStart(
        settings,
        {
            topic: AclOperation.READ,
            dead_letter_topic(topic): AclOperation.WRITE,
            settings.kafka_control_events_topic: AclOperation.WRITE,
        },
    )
    async with open_folder(path, settings.layout, patience_s=_PATIENCE_S) as folder:
        if folder.fed_by_tracker:
            raise ConfigurationError(
                f"The records of {path} come from `matyan up`: go on with it, by `matyan up --data {path}`, or name "
                "another folder with --store."
            )
        fed_store = FedStore(settings.ingestion_group, folder.id, store_name(path))
        crew = _ingest_crew(settings, folder, fed_store, count)
        commands = KafkaFolder(
            folder, partial(open_producer, producer_config(settings), topic, settings.queue_bytes)
        )
        health = start.health()
        health.add("work", crew.check)

        async def drain(deadline: float) -> int:
            await crew.drain(deadline)
            return await commands.drain(deadline)

        return await run_service(
            [
                *_probes(settings, health, "ingest-worker"),
                # Before Kafka is there: the folder can be read without it.
                *commands.tasks(),
                Task("start", start.run),
                Task("store", partial(_guard_store, settings, fed_store)),
                *crew.tasks(),
            ],
            drain,
            health,
            drain_s=settings.shutdown_flush_timeout,
        )


def _ingest_crew(settings: Settings, folder: DataFolder, fed_store: FedStore, count: int) -> _Crew:
    from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
    from matyan.broker.kafka.outbox import KafkaOutbox
    from matyan.workers.ingest import IngestWorker

    outbox = KafkaOutbox(settings)
    config = consumer_config(settings, fed_store.group)
    crew = _Crew()
    for number in range(count):
        own = dict(config)
        if settings.instance_id and count > 1:
            own["group.instance.id"] = f"{settings.instance_id}-{number}"
        consumer = KafkaConsumer(own, settings.kafka_data_ingestion_topic, fed_store=fed_store)
        worker = IngestWorker(
            consumer,
            folder.store,
            folder.keys,
            folder.rules,
            outbox,
            max_bytes=settings.ingest_max_txn_bytes,
            max_records=settings.ingest_max_messages_per_txn,
            on_deletion=folder.compaction.deleted,
        )
        crew.add(f"ingest-{number}", worker, consumer)
    return crew


async def _guard_store(
    settings: Settings, fed_store: FedStore, *, task_status: trio.TaskStatus[None]
) -> None:
    """Begins when no other store's worker is in the group, and looks again now and then: two may begin at once.

    Raises:
        ConfigurationError: there is one.
    """
    from matyan.broker.kafka.client import client_config

    topic = settings.kafka_data_ingestion_topic
    group = Group(client_config(settings), fed_store.group)
    while True:
        try:
            stores = await trio.to_thread.run_sync(group.stores, topic, abandon_on_cancel=True)
        except Unavailable as error:
            log.info("waits to see whose the consumer group is", reason=str(error))
            await trio.sleep(1)
            continue
        require_own(topic, stores, fed_store)
        task_status.started()
        await trio.sleep(_GUARD_S)


# --- control -------------------------------------------------------------------------------------


@click.command("control-worker")
@settings_flags(
    *KAFKA, *S3, "control_group", "instance_id", "host", "metrics_port", "allowed_hosts", *SERVICE
)
def control_worker(settings: Settings) -> int:
    """Do what control events ask for outside of the store: delete the blobs of deleted runs.

    \b
      matyan control-worker --kafka-bootstrap-servers kafka:9092 --s3-endpoint http://minio:9000
      matyan control-worker --metrics-port 9092
    """
    begin("control-worker", settings, (*KAFKA, *S3))
    return trio.run(_control, settings)


async def _control(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
    from matyan.broker.kafka.outbox import KafkaOutbox
    from matyan.workers.control import ControlWorker

    topic = settings.kafka_control_events_topic
    start = KafkaStart(
        settings, {topic: AclOperation.READ, dead_letter_topic(topic): AclOperation.WRITE}
    )
    consumer = KafkaConsumer(
        consumer_config(settings, settings.control_group), topic, offsets_are_stored=False
    )
    blobs = S3Blobs(settings)
    crew = _Crew()
    crew.add("control", ControlWorker(consumer, blobs, KafkaOutbox(settings).bury), consumer)
    health = start.health()
    health.add("work", crew.check)
    health.add("blobs", _now_and_then(blobs.list_one))
    return await run_service(
        [
            *_probes(settings, health, "control-worker"),
            Task("start", start.run),
            *crew.tasks(),
        ],
        crew.drain,
        health,
        drain_s=settings.shutdown_flush_timeout,
    )


def _now_and_then(check: Check) -> Check:
    """The same, which is not asked again soon after it was well: each costs a request that somebody pays for."""
    well_until = -math.inf

    async def ask() -> None:
        nonlocal well_until
        if trio.current_time() >= well_until:
            await check()
            well_until = trio.current_time() + _WELL_S

    return ask
