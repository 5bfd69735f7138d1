"""`matyan ingest-worker` and `matyan control-worker`: the workers between Kafka, the store and S3.

Puts parts together; decides nothing about records.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import click
import trio
from confluent_kafka.admin import AclOperation

from matyan.broker.kafka.admin import Group
from matyan.broker.kafka.start import FedStore, require_own
from matyan.cli.flags import FDB, KAFKA, S3, SERVICE, settings_flags, store_name, store_option
from matyan.cli.start import KafkaStart, begin, wait_for
from matyan.errors import ConfigurationError, Unavailable
from matyan.service import private
from matyan.service.entrance import entrance_of
from matyan.service.health import Check, Health
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, run_service, switch_threads_soon
from matyan.settings import Settings, dead_letter_topic
from matyan.store.open import ClusterName, FolderName, StoreName

if TYPE_CHECKING:
    from matyan.broker.kafka.consumer import KafkaConsumer
    from matyan.cli.store_start import StoreStart
    from matyan.folder.opened import Opened
    from matyan.keys import Keys
    from matyan.store.base import Store
    from matyan.workers.control import Part
    from matyan.workers.notices import OpenStore
    from matyan.workers.partition import Holder

_PATIENCE_S = 10.0
"""How long a command that reads the folder at the moment of the start is waited for."""
_GUARD_S = 5.0
"""How often it is looked whose the consumer group is."""
_WELL_S = 30.0
"""How long a check that costs money is not asked again after it was well."""
_SHARED_COMPATIBLE_BYTES = 300_000
"""Of records in a transaction of FoundationDB in the compatible layout: as many a second as with 1 MB, and each is stored in a
third of the time (six partitions on one server, medians)."""

log = get_logger()


# --- what both have ------------------------------------------------------------------------------


class _Crew:
    """The workers of one process: a task each, one answer whether they work, one end."""

    def __init__(self, *names: str) -> None:
        """names: of their tasks."""
        self._names = names
        self._members: dict[str, tuple[Holder, KafkaConsumer]] = {}
        self._at_work: set[str] = set()
        self._ended = trio.Event()

    def add(self, name: str, worker: Holder, consumer: KafkaConsumer) -> None:
        """Before its task begins."""
        self._members[name] = worker, consumer

    def tasks(self) -> list[Task]:
        return [Task(name, partial(self._run, name)) for name in self._names]

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


def probes(settings: Settings, health: Health, component: str) -> list[Task]:
    """What serves health and metrics of a process without a port of its own."""
    from matyan.service.probes import serve_probes

    if settings.metrics_port <= 0:
        return []

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await serve_probes(
            health,
            settings.host,
            settings.metrics_port,
            component=component,
            entrance=entrance_of(settings),
            task_status=task_status,
        )

    return [Task("probes", serve)]


# --- ingestion -----------------------------------------------------------------------------------


@click.command("ingest-worker")
@store_option(
    "Where runs are kept: a folder of this machine, for RocksDB, or a FoundationDB cluster."
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Members of the consumer group in this process, for the partitions of a store that one process holds.",
)
@settings_flags(
    *KAFKA,
    *FDB,
    "ingestion_group",
    "instance_id",
    "sequence_layout",
    "ingest_max_txn_bytes",
    "ingest_max_messages_per_txn",
    "webhooks_file",
    "host",
    "metrics_port",
    "allowed_hosts",
    "tokens_file",
    *SERVICE,
)
def ingest_worker(settings: Settings, store: StoreName, workers: int) -> int:
    """Apply the records in Kafka to the store, each exactly once.

    The store keeps the offset of each partition with the data; `matyan offsets show` compares it with Kafka's.
    FOLDER is a data folder: one process holds it, and the commands that read one work with --data FOLDER, while the worker
    runs and when not. A FoundationDB store takes any number of processes, up to the partitions of the topic, and the commands
    read it by themselves, with the same --store.

    \b
      matyan ingest-worker --store rocks:/var/lib/matyan --workers 2
      matyan ingest-worker --store fdb:/etc/foundationdb/fdb.cluster
      MATYAN_INSTANCE_ID=worker-1 matyan ingest-worker --store fdb: --metrics-port 9091
    """
    begin("ingest-worker", settings, KAFKA)
    if isinstance(store, ClusterName):
        return trio.run(_on_cluster, settings, store, workers)
    return trio.run(_on_folder, settings, store, workers)


async def _on_folder(settings: Settings, name: FolderName, count: int) -> int:
    from matyan.broker.kafka.client import producer_config
    from matyan.broker.kafka.producer import open_producer
    from matyan.folder.folder import open_folder
    from matyan.folder.kafka_folder import KafkaFolder

    private.set_umask()
    path = name.folder
    async with open_folder(path, settings.layout, patience_s=_PATIENCE_S) as folder:
        if folder.fed_by_tracker:
            raise ConfigurationError(
                f"The records of {path} come from `matyan up`: go on with it, by `matyan up --data {path}`, or name "
                "another folder with --store."
            )
        topic = settings.kafka_data_ingestion_topic
        commands = KafkaFolder(
            folder, partial(open_producer, producer_config(settings), topic, settings.queue_bytes)
        )
        ingestion = _Ingestion(settings, name, count, folder.compaction.deleted)

        async def opened() -> Opened:
            return folder

        async def drain(deadline: float) -> int:
            await ingestion.crew.drain(deadline)
            return await commands.drain(deadline)

        # The commands before Kafka is there: the folder can be read without it.
        return await ingestion.serve(opened, drain, commands.tasks())


async def _on_cluster(settings: Settings, name: ClusterName, count: int) -> int:
    from matyan.cli.store_start import fed_cluster

    ingestion = _Ingestion(settings, name, count)
    start = fed_cluster(name, settings)
    ingestion.health.add("store", start.check)
    return await ingestion.serve(start.open, ingestion.crew.drain)


class _Ingestion:
    """The ingestion workers of one process on a store, whichever its engine."""

    def __init__(
        self,
        settings: Settings,
        name: StoreName,
        count: int,
        on_deletion: Callable[[], None] | None = None,
    ) -> None:
        """on_deletion: see `IngestWorker`."""
        topic = settings.kafka_data_ingestion_topic
        self._settings = settings
        self._on_deletion = on_deletion
        self._kafka = KafkaStart(
            settings,
            {
                topic: AclOperation.READ,
                dead_letter_topic(topic): AclOperation.WRITE,
                settings.kafka_control_events_topic: AclOperation.WRITE,
            },
        )
        self._fed_store = FedStore(settings.ingestion_group, store=store_name(name))
        self._names = [f"ingest-{number}" for number in range(count)]
        self.crew = _Crew(*self._names)
        self.health = self._kafka.health()
        self.health.add("work", self.crew.check)

    async def serve(
        self,
        open_: Callable[[], Awaitable[Opened]],
        drain: Callable[[float], Awaitable[int]],
        first: Sequence[Task] = (),
    ) -> int:
        """Runs until it is told to end; returns the exit code.

        Args:
            open_: returns the store, when it is there.
            first: tasks that begin before Kafka is there.
        """

        switch_threads_soon()

        async def hire() -> None:
            self._hire(await open_())

        return await run_service(
            [
                *probes(self._settings, self.health, "ingest-worker"),
                *first,
                Task("start", partial(wait_for, self._kafka.wait, hire)),
                Task("store", self._guard),
                *self.crew.tasks(),
            ],
            drain,
            self.health,
            drain_s=self._settings.shutdown_flush_timeout,
        )

    def _hire(self, opened: Opened) -> None:
        from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
        from matyan.broker.kafka.outbox import KafkaOutbox
        from matyan.workers.ingest import IngestWorker

        settings = self._settings
        self._fed_store = fed_store = replace(self._fed_store, store_id=opened.id)
        outbox = KafkaOutbox(settings)
        config = consumer_config(settings, fed_store.group)
        max_bytes = settings.ingest_max_txn_bytes
        if opened.store.is_shared and opened.layout == "compatible":
            max_bytes = min(max_bytes, _SHARED_COMPATIBLE_BYTES)
        for number, name in enumerate(self._names):
            own = dict(config)
            if settings.instance_id and len(self._names) > 1:
                own["group.instance.id"] = f"{settings.instance_id}-{number}"
            consumer = KafkaConsumer(own, settings.kafka_data_ingestion_topic, fed_store=fed_store)
            worker = IngestWorker(
                consumer,
                opened.store,
                opened.keys,
                opened.rules,
                outbox,
                max_bytes=max_bytes,
                max_records=settings.ingest_max_messages_per_txn,
                on_deletion=self._on_deletion,
                told=bool(settings.webhooks_file),
            )
            self.crew.add(name, worker, consumer)

    async def _guard(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Begins when no other store's worker is in the group, and looks again now and then: two may begin at once.

        Raises:
            ConfigurationError: there is one.
        """
        from matyan.broker.kafka.client import client_config

        topic = self._settings.kafka_data_ingestion_topic
        group = Group(client_config(self._settings), self._fed_store.group)
        while True:
            try:
                stores = await trio.to_thread.run_sync(group.stores, topic, abandon_on_cancel=True)
            except Unavailable as error:
                log.info("waits to see whose the consumer group is", reason=str(error))
                await trio.sleep(1)
                continue
            require_own(topic, stores, self._fed_store)
            task_status.started()
            await trio.sleep(_GUARD_S)


# --- control -------------------------------------------------------------------------------------


@click.command("control-worker")
@store_option(
    "The ingestion workers' store, out of which runs of deleted experiments and tags are taken; a folder's by way of its worker, "
    "which must run on this machine. Without it such runs keep rows that nobody shows. What was done stands in Kafka.",
    required=False,
)
@settings_flags(
    *KAFKA,
    *FDB,
    *S3,
    "control_group",
    "instance_id",
    "webhooks_file",
    "host",
    "metrics_port",
    "allowed_hosts",
    "tokens_file",
    *SERVICE,
)
def control_worker(settings: Settings, store: StoreName | None) -> int:
    """Do what control events ask for: delete the blobs of deleted runs, take runs out of deleted experiments and tags, and tell
    webhooks (`matyan webhooks --help`), for which it wants --store.

    \b
      matyan control-worker --store fdb: --kafka-bootstrap-servers kafka:9092 --s3-endpoint http://minio:9000
      matyan control-worker --store rocks:/var/lib/matyan --metrics-port 9092
    """
    begin("control-worker", settings, (*KAFKA, *S3))
    return trio.run(_control, settings, store)


async def _control(settings: Settings, name: StoreName | None) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
    from matyan.broker.kafka.outbox import KafkaOutbox
    from matyan.cli.store_start import shared_store
    from matyan.workers.control import ControlWorker
    from matyan.workers.notices import Notices
    from matyan.workers.webhooks import read_webhooks

    webhooks = read_webhooks(settings.webhooks_file)
    if webhooks and name is None:
        raise ConfigurationError(
            "What webhooks are still to be told stands in the store: name the ingestion workers' store with --store, or unset "
            "MATYAN_WEBHOOKS_FILE."
        )
    topic = settings.kafka_control_events_topic
    start = KafkaStart(
        settings, {topic: AclOperation.READ, dead_letter_topic(topic): AclOperation.WRITE}
    )
    consumer = KafkaConsumer(
        consumer_config(settings, settings.control_group), topic, offsets_are_stored=False
    )
    blobs = S3Blobs(settings)
    crew = _Crew("control")
    outbox = KafkaOutbox(settings)
    store = None if name is None else shared_store(name, settings)
    worker = ControlWorker(
        consumer,
        blobs,
        outbox.bury,
        None if store is None else _parting(store),
        None if store is None else Notices(webhooks, _opening(store), topic, outbox.bury),
    )
    crew.add("control", worker, consumer)
    health = start.health()
    health.add("work", crew.check)
    health.add("blobs", _now_and_then(blobs.list_one))
    return await run_service(
        [
            *probes(settings, health, "control-worker"),
            Task("start", start.run),
            *crew.tasks(),
        ],
        crew.drain,
        health,
        drain_s=settings.shutdown_flush_timeout,
    )


def _parting(start: StoreStart) -> Part:
    """What takes runs out of a deleted experiment or tag in this store, which is opened when the first one is."""
    from matyan.workers.parting import part

    async def part_there(family: str, uuid: str, now: float) -> None:
        opened = await start.try_open()
        await part(opened.store, opened.keys, family, uuid, now)

    return part_there


def _opening(start: StoreStart) -> OpenStore:
    """The same store, for those who are to be told."""

    async def open_there() -> tuple[Store, Keys]:
        opened = await start.try_open()
        return opened.store, opened.keys

    return open_there


def _now_and_then(check: Check) -> Check:
    """The same, which is not asked again soon after it was well: each costs a request that somebody pays for."""
    well_until = -math.inf

    async def ask() -> None:
        nonlocal well_until
        if trio.current_time() >= well_until:
            await check()
            well_until = trio.current_time() + _WELL_S

    return ask
