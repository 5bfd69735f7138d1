"""The services of a deployment, one a process: `matyan frontier`, `ingest-worker`, `control-worker`.

Puts parts together; decides nothing about records. What a service does not need it does not import: the frontier's
process holds neither a store nor blob content.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio
from confluent_kafka.admin import AclOperation

from matyan import __version__
from matyan.broker.kafka.admin import Group, open_admin
from matyan.broker.kafka.start import Claimant, require_own
from matyan.broker.kafka.topics import require_access, require_fit_topics, require_topics
from matyan.cli.flags import KAFKA, S3, SERVICE, settings_flags, store_name, store_option
from matyan.errors import ConfigurationError, Unavailable
from matyan.service import logs, private, telemetry
from matyan.service.backoff import Backoff
from matyan.service.descriptors import raise_limit
from matyan.service.doors import doors_of
from matyan.service.health import Check, Health
from matyan.service.listeners import open_port
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, calm_collector, run_service
from matyan.service.terminal import announce
from matyan.settings import Settings, dead_letter_topic, read_environment, unknown_names

if TYPE_CHECKING:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.consumer import KafkaConsumer
    from matyan.folder.kafka_folder import KafkaFolder
    from matyan.workers.partition import Holder

_PATIENCE_S = 10.0
"""For a command that reads the worker's folder just when the worker starts."""
_SILENCE_S = 2.0
_GUARD_S = 5.0
_WELL_S = 30.0
_NOT_ASKED = "not asked yet"

log = get_logger()


class _KafkaStart:
    """Start-up: alive but not ready until the broker is there and `topics` are fit for our records."""

    def __init__(self, settings: Settings, needs: Mapping[str, AclOperation]) -> None:
        """needs: what this service does with each of its topics."""
        from matyan.broker.kafka.client import client_config

        self._admin = open_admin(client_config(settings))
        self._log = log.bind(missing="kafka", brokers=settings.kafka_bootstrap_servers)
        self._needs = needs
        self._partitions: dict[str, int] = {}
        self._missing: str | None = _NOT_ASKED

    async def wait(self) -> None:
        async with trio.open_nursery() as asking:
            asking.start_soon(self._tell)
            await self._ask()
            asking.cancel_scope.cancel()

    async def _tell(self) -> None:
        """The first answer of brokers that are not there takes 10 s."""
        await trio.sleep(_SILENCE_S)
        if self._missing == _NOT_ASKED:
            why = self._admin.why_away()
            reason = "no answer yet" if why is None else f"no answer yet: {why}"
            self._log.info("waits at its start", reason=reason)

    async def _ask(self) -> None:
        backoff = Backoff(0.2, 5.0)
        while self._missing is not None:
            try:
                await trio.to_thread.run_sync(
                    require_fit_topics, self._admin, [*self._needs], abandon_on_cancel=True
                )
                await self._require_access()
            except Unavailable as error:
                telemetry.RETRIES.labels("start", "kafka").inc()
                self._missing = str(error)
                self._log.warning("waits at its start", reason=self._missing)
                await trio.sleep(backoff.next())
            else:
                self._missing = None

    def health(self) -> Health:
        health = Health()

        async def ask() -> None:
            if self._missing is not None:
                raise Unavailable(self._missing)
            await trio.to_thread.run_sync(
                require_topics, self._admin, self._needs, abandon_on_cancel=True
            )
            await self._require_access()

        health.add("kafka", ask)
        return health

    async def _require_access(self) -> None:
        counts = await trio.to_thread.run_sync(
            require_access, self._admin, self._needs, abandon_on_cancel=True
        )
        for topic, count in counts.items():
            if count > self._partitions.get(topic, count):
                log.warning(
                    "the topic has more partitions than before: runs that go on move to other ones, see "
                    "`matyan topics check`",
                    topic=topic,
                    before=self._partitions[topic],
                    partitions=count,
                )
        self._partitions = counts


def _begin(service: str, settings: Settings, used: Sequence[str]) -> None:
    """used: the settings that decide what this service connects to."""
    settings.refuse_development_values(used)
    raise_limit()
    logs.configure(settings.log_level)
    for sentence in unknown_names(read_environment()):
        log.warning(sentence)
    telemetry.export_only_of(service)
    log.info(
        "starts",
        service=service,
        version=__version__,
        environment=settings.environment,
        brokers=settings.kafka_bootstrap_servers,
        topic=settings.kafka_data_ingestion_topic,
    )


# --- the frontier --------------------------------------------------------------------------------


@click.command()
@settings_flags(
    "host",
    "port",
    *KAFKA,
    *S3,
    "presign_blob_ref",
    "queue_bytes",
    "delivery_timeout_s",
    "ws_deflate",
    "cors_origins",
    "public_url",
    "allowed_hosts",
    "metrics_enabled",
    *SERVICE,
)
def frontier(settings: Settings) -> int:
    """Take data from clients and hand it to Kafka.

    A reply is sent when every in-sync replica has the records of its frame. SIGTERM drains: exit code 0 means that
    everything accepted is in Kafka.

    \b
      matyan frontier --kafka-bootstrap-servers kafka:9092 --s3-endpoint http://minio:9000
      KAFKA_BOOTSTRAP_SERVERS=kafka:9092 matyan frontier --port 8080 --log-level DEBUG
    """
    _begin("frontier", settings, (*KAFKA, *S3))
    return trio.run(_frontier, settings)


async def _frontier(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.client import producer_config
    from matyan.broker.kafka.producer import open_producer
    from matyan.frontier import edge

    topic = settings.kafka_data_ingestion_topic
    start = _KafkaStart(settings, {topic: AclOperation.WRITE})
    health = start.health()
    blobs = S3Blobs(settings)
    async with open_producer(producer_config(settings), topic, settings.queue_bytes) as producer:
        service = edge.Frontier(producer, blobs, health, settings)

        async def check_delivery() -> None:
            if (why := producer.refusal()) is not None:
                raise Unavailable(why)

        health.add("delivery", check_delivery)

        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
            # It listens at once: what comes before the broker is there is held back like later.
            listeners = await open_port(settings.host, settings.port)
            announce(f"frontier on port {listeners[0].socket.getsockname()[1]}")
            await edge.serve(service, listeners, task_status=task_status)

        async def wait(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await start.wait()
            calm_collector()

        async def drain(deadline: float) -> int:
            return await edge.drain(service, deadline)

        return await run_service(
            [Task("start", wait), Task("frontier", serve)],
            drain,
            health,
            drain_s=settings.shutdown_flush_timeout,
        )


# --- the workers ---------------------------------------------------------------------------------


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
    _begin("ingest-worker", settings, KAFKA)
    return trio.run(_ingest, settings, folder, workers)


async def _ingest(settings: Settings, path: Path, count: int) -> int:
    from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
    from matyan.broker.kafka.outbox import KafkaOutbox
    from matyan.folder.folder import open_folder
    from matyan.folder.kafka_folder import KafkaFolder
    from matyan.workers.ingest import IngestWorker

    private.set_umask()
    topic = settings.kafka_data_ingestion_topic
    start = _KafkaStart(
        settings,
        {
            topic: AclOperation.READ,
            dead_letter_topic(topic): AclOperation.WRITE,
            settings.kafka_control_events_topic: AclOperation.WRITE,
        },
    )
    async with open_folder(path, settings.rocks_layout, patience_s=_PATIENCE_S) as folder:
        if folder.fed_by_tracker:
            raise ConfigurationError(
                f"the records of {path} come from `matyan up`: go on with it, by `matyan up --data {path}`, or name "
                "another folder with --store"
            )
        claimant = Claimant(settings.ingestion_group, folder.id, store_name(path))
        outbox = KafkaOutbox(settings)
        config = consumer_config(settings, claimant.group)
        workers: list[IngestWorker] = []
        consumers: list[KafkaConsumer] = []
        for number in range(count):
            own = dict(config)
            if settings.instance_id and count > 1:
                own["group.instance.id"] = f"{settings.instance_id}-{number}"
            consumers.append(KafkaConsumer(own, topic, claimant=claimant))
            workers.append(
                IngestWorker(
                    consumers[-1],
                    folder.store,
                    folder.keys,
                    folder.rules,
                    outbox,
                    max_bytes=settings.ingest_max_txn_bytes,
                    max_records=settings.ingest_max_messages_per_txn,
                    on_deletion=folder.compaction.deleted,
                )
            )
        tasks = [Task(f"ingest-{n}", worker.run) for n, worker in enumerate(workers)]
        return await _run_workers(
            settings,
            start,
            "ingest-worker",
            tasks,
            workers,
            consumers,
            commands=KafkaFolder(folder, settings),
            guards=[Task("store", partial(_guard_store, settings, claimant))],
        )


async def _guard_store(
    settings: Settings, claimant: Claimant, *, task_status: trio.TaskStatus[None]
) -> None:
    """Begins when no other store's worker is in the group, and looks again now and then: two may begin at once.

    Raises:
        ConfigurationError: there is one.
    """
    from matyan.broker.kafka.client import client_config

    topic = settings.kafka_data_ingestion_topic
    group = Group(client_config(settings), claimant.group)
    while True:
        try:
            stores = await trio.to_thread.run_sync(group.stores, topic, abandon_on_cancel=True)
        except Unavailable as error:
            log.info("waits to see whose the consumer group is", reason=str(error))
            await trio.sleep(1)
            continue
        require_own(topic, stores, claimant)
        task_status.started()
        await trio.sleep(_GUARD_S)


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
    _begin("control-worker", settings, (*KAFKA, *S3))
    return trio.run(_control, settings)


async def _control(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.consumer import KafkaConsumer, consumer_config
    from matyan.broker.kafka.outbox import KafkaOutbox
    from matyan.workers.control import ControlWorker

    topic = settings.kafka_control_events_topic
    start = _KafkaStart(
        settings, {topic: AclOperation.READ, dead_letter_topic(topic): AclOperation.WRITE}
    )
    consumer = KafkaConsumer(
        consumer_config(settings, settings.control_group), topic, offsets_are_stored=False
    )
    blobs = S3Blobs(settings)
    worker = ControlWorker(consumer, blobs, KafkaOutbox(settings).bury)
    tasks = [Task("control", worker.run)]
    return await _run_workers(
        settings, start, "control-worker", tasks, [worker], [consumer], blobs=blobs
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


async def _run_workers(
    settings: Settings,
    kafka: _KafkaStart,
    component: str,
    tasks: list[Task],
    workers: Sequence[Holder],
    consumers: Sequence[KafkaConsumer],
    *,
    commands: KafkaFolder | None = None,
    guards: Sequence[Task] = (),
    blobs: S3Blobs | None = None,
) -> int:
    """
    Args:
        commands: what answers the commands of this machine, from the start on, whether Kafka is there or not.
        guards: what begins after Kafka is there, and before the workers.
        blobs: where they delete.
    """
    health = kafka.health()
    ended = trio.Event()
    at_work: set[str] = set()

    def watched(task: Task) -> Task:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            at_work.add(task.name)
            await task.run(task_status=task_status)
            at_work.discard(task.name)
            if not at_work:
                ended.set()

        return Task(task.name, run)

    async def wait(*, task_status: trio.TaskStatus[None]) -> None:
        await kafka.wait()
        calm_collector()
        task_status.started()

    async def check_work() -> None:
        parts: tuple[KafkaConsumer | Holder, ...] = (*consumers, *workers)
        for part in parts:
            if (why := part.trouble()) is not None:
                raise Unavailable(why)

    health.add("work", check_work)
    if blobs is not None:
        health.add("blobs", _now_and_then(blobs.list_one))

    async def drain(deadline: float) -> int:
        for worker in workers:
            worker.stop()
        if at_work:  # without Kafka none has begun
            with trio.move_on_at(deadline):
                await ended.wait()
        if commands is not None:
            await commands.drain(deadline)
        # What is not stored stands in Kafka, and no client was told otherwise: nothing is left undone.
        return 0

    return await run_service(
        [
            *_probes(settings, health, component),
            *([] if commands is None else commands.tasks()),
            Task("start", wait),
            *guards,
            *map(watched, tasks),
        ],
        drain,
        health,
        drain_s=settings.shutdown_flush_timeout,
    )
