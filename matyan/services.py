"""The services of a deployment, one a process: `matyan frontier`, `ingest-worker`, `control-worker`.

Puts parts together; decides nothing about records. What a service does not need it does not import: the frontier's
process holds neither a store nor blob content.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import structlog
import trio

from matyan import logs
from matyan.broker.kafka_admin import open_admin, require_topics
from matyan.errors import ConfigurationError, Unavailable
from matyan.health import Health
from matyan.settings import Settings, load
from matyan.workers.backoff import Backoff
from matyan.workers.supervise import Task, run_service

log = structlog.get_logger(__name__)

Check = Callable[[], None]


def kafka_check(settings: Settings, topics: list[str]) -> Check:
    from matyan.broker.kafka import client_config

    admin = open_admin(client_config(settings))
    return lambda: require_topics(admin, topics)


async def _wait_for(what: str, check: Check) -> None:
    """Start-up: alive but not ready until it is there."""
    backoff = Backoff(0.2, 5.0)
    while True:
        try:
            await trio.to_thread.run_sync(check)
        except Unavailable as error:
            log.warning("waits at its start", missing=what, reason=str(error))
            await trio.sleep(backoff.next())
        else:
            return


def _health(check: Check) -> Health:
    health = Health()

    async def ask() -> None:
        await trio.to_thread.run_sync(check)

    health.add("kafka", ask)
    return health


def load_settings(**overrides: Any) -> Settings:
    settings = load(None, **overrides)
    settings.refuse_development_values()
    logs.configure(settings.log_level)
    return settings


def folder_of(store_: str) -> Path:
    engine, _, folder = store_.partition(":")
    if engine != "rocks" or not folder:
        raise ConfigurationError(f"--store {store_}: expected rocks:FOLDER")
    return Path(folder)


# --- the frontier --------------------------------------------------------------------------------


@click.command()
@click.option("--host", help="HOST: the address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="PORT. 0: any free.")
@click.option("--kafka-bootstrap-servers", help="KAFKA_BOOTSTRAP_SERVERS.")
def frontier(host: str | None, port: int | None, kafka_bootstrap_servers: str | None) -> int:
    """Take data from clients and hand it to Kafka."""
    return trio.run(
        _frontier,
        load_settings(host=host, port=port, kafka_bootstrap_servers=kafka_bootstrap_servers),
    )


async def _frontier(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka import open_producer, producer_config
    from matyan.frontier import edge

    topic = settings.kafka_data_ingestion_topic
    check = kafka_check(settings, [topic])
    health = _health(check)
    blobs = S3Blobs(settings)
    async with open_producer(producer_config(settings), topic, settings.queue_bytes) as producer:
        service = edge.Frontier(producer, blobs, health, settings)

        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
            # It listens at once: what comes before the broker is there is held back like later.
            listeners = await trio.open_tcp_listeners(settings.port, host=settings.host)
            print(f"frontier on port {listeners[0].socket.getsockname()[1]}", flush=True)
            await edge.serve(service, listeners, task_status=task_status)

        async def wait(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await _wait_for("kafka", check)

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
    from matyan.probes import serve_probes

    if settings.metrics_port <= 0:
        return []

    async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
        await serve_probes(
            health,
            settings.host,
            settings.metrics_port,
            component=component,
            task_status=task_status,
        )

    return [Task("probes", serve)]


@click.command("ingest-worker")
@click.option(
    "--store", "store_", required=True, metavar="rocks:FOLDER", help="Where runs are kept."
)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--metrics-port", type=int, help="METRICS_PORT; 0 or less: none.")
@click.option("--kafka-bootstrap-servers", help="KAFKA_BOOTSTRAP_SERVERS.")
def ingest_worker(
    store_: str, workers: int, metrics_port: int | None, kafka_bootstrap_servers: str | None
) -> int:
    """Apply the records in Kafka to the store, each exactly once."""
    folder = folder_of(store_)
    settings = load_settings(
        metrics_port=metrics_port, kafka_bootstrap_servers=kafka_bootstrap_servers
    )
    return trio.run(_ingest, settings, folder, workers)


async def _ingest(settings: Settings, folder: Path, count: int) -> int:
    from matyan.broker.kafka import KafkaOutbox
    from matyan.broker.kafka_consumer import KafkaConsumer, consumer_config
    from matyan.keys import Keys
    from matyan.records import Rules
    from matyan.sequences import Layout, Sequences, open_layout
    from matyan.store.rocks import open_rocks
    from matyan.workers.ingest import IngestWorker

    layout: Layout = "compatible" if settings.sequence_layout == "compatible" else "packed"
    topic = settings.kafka_data_ingestion_topic
    check = kafka_check(settings, [topic, f"{topic}-dlq", settings.kafka_control_events_topic])
    health = _health(check)
    store = open_rocks(folder)
    try:
        keys = Keys(store)
        await store.transact(lambda tr: open_layout(tr, keys, layout))
        outbox = KafkaOutbox(settings)
        config = consumer_config(settings, "ingestion-workers")
        workers: list[IngestWorker] = []
        for number in range(count):
            own = dict(config)
            if settings.instance_id and count > 1:
                own["group.instance.id"] = f"{settings.instance_id}-{number}"
            workers.append(
                IngestWorker(
                    KafkaConsumer(own, topic),
                    store,
                    keys,
                    lambda: Rules(keys, Sequences(keys, layout)),
                    outbox,
                    max_bytes=settings.ingest_max_txn_bytes,
                    max_records=settings.ingest_max_messages_per_txn,
                )
            )
        tasks = [Task(f"ingest-{n}", worker.run) for n, worker in enumerate(workers)]
        return await _run_workers(settings, health, check, "ingest-worker", tasks, workers)
    finally:
        await store.aclose()


@click.command("control-worker")
@click.option("--metrics-port", type=int, help="METRICS_PORT; 0 or less: none.")
@click.option("--kafka-bootstrap-servers", help="KAFKA_BOOTSTRAP_SERVERS.")
def control_worker(metrics_port: int | None, kafka_bootstrap_servers: str | None) -> int:
    """Do what control events ask for outside of the store: delete the blobs of deleted runs."""
    settings = load_settings(
        metrics_port=metrics_port, kafka_bootstrap_servers=kafka_bootstrap_servers
    )
    return trio.run(_control, settings)


async def _control(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka import KafkaOutbox
    from matyan.broker.kafka_consumer import KafkaConsumer, consumer_config
    from matyan.workers.control import ControlWorker

    topic = settings.kafka_control_events_topic
    check = kafka_check(settings, [topic, f"{topic}-dlq"])
    consumer = KafkaConsumer(
        consumer_config(settings, "control-workers"), topic, offsets_are_stored=False
    )
    worker = ControlWorker(consumer, S3Blobs(settings), KafkaOutbox(settings).bury)
    tasks = [Task("control", worker.run)]
    return await _run_workers(settings, _health(check), check, "control-worker", tasks, [worker])


async def _run_workers(
    settings: Settings,
    health: Health,
    check: Check,
    component: str,
    tasks: list[Task],
    workers: list[Any],
) -> int:
    ended = trio.Event()
    running = len(workers)

    def watched(task: Task) -> Task:
        async def run(*, task_status: trio.TaskStatus[None]) -> None:
            nonlocal running
            await task.run(task_status=task_status)
            running -= 1
            if not running:
                ended.set()

        return Task(task.name, run)

    async def wait(*, task_status: trio.TaskStatus[None]) -> None:
        await _wait_for("kafka", check)
        task_status.started()

    async def drain(deadline: float) -> int:
        for worker in workers:
            worker.stop()
        with trio.move_on_at(deadline):
            await ended.wait()
        # What is not stored stands in Kafka, and no client was told otherwise: nothing is left undone.
        return 0

    return await run_service(
        [*_probes(settings, health, component), Task("start", wait), *map(watched, tasks)],
        drain,
        health,
        drain_s=settings.shutdown_flush_timeout,
    )
