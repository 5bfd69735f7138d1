"""The services of a deployment, one a process: `matyan frontier`, `ingest-worker`, `control-worker`;
and the commands `topics`, `offsets` and `doctor`.

Puts parts together; decides nothing about records. What a service does not need it does not import: the frontier's
process holds neither a store nor blob content.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import structlog
import trio

from matyan import logs
from matyan.broker.kafka_admin import (
    Place,
    commit_offsets,
    create_topics,
    describe_topic,
    known_topics,
    open_admin,
    read_place,
    require_topics,
    topic_names,
)
from matyan.errors import ConfigurationError, MatyanError, Unavailable
from matyan.health import Health
from matyan.settings import Settings, load
from matyan.workers.backoff import Backoff
from matyan.workers.supervise import Task, run_service

log = structlog.get_logger(__name__)

Check = Callable[[], None]


def _kafka_check(settings: Settings, topics: list[str]) -> Check:
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


def _load(**overrides: Any) -> Settings:
    settings = load(None, **overrides)
    settings.refuse_development_values()
    logs.configure(settings.log_level)
    return settings


# --- the frontier --------------------------------------------------------------------------------


@click.command()
@click.option("--host", help="HOST: the address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), help="PORT. 0: any free.")
@click.option("--kafka-bootstrap-servers", help="KAFKA_BOOTSTRAP_SERVERS.")
def frontier(host: str | None, port: int | None, kafka_bootstrap_servers: str | None) -> int:
    """Take data from clients and hand it to Kafka."""
    return trio.run(
        _frontier, _load(host=host, port=port, kafka_bootstrap_servers=kafka_bootstrap_servers)
    )


async def _frontier(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka import open_producer, producer_config
    from matyan.frontier import edge

    topic = settings.kafka_data_ingestion_topic
    check = _kafka_check(settings, [topic])
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
    folder = _folder(store_)
    settings = _load(metrics_port=metrics_port, kafka_bootstrap_servers=kafka_bootstrap_servers)
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
    check = _kafka_check(settings, [topic, f"{topic}-dlq", settings.kafka_control_events_topic])
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
    settings = _load(metrics_port=metrics_port, kafka_bootstrap_servers=kafka_bootstrap_servers)
    return trio.run(_control, settings)


async def _control(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka import KafkaOutbox
    from matyan.broker.kafka_consumer import KafkaConsumer, consumer_config
    from matyan.workers.control import ControlWorker

    topic = settings.kafka_control_events_topic
    check = _kafka_check(settings, [topic, f"{topic}-dlq"])
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


# --- topics --------------------------------------------------------------------------------------


@click.group()
def topics() -> None:
    """Make and check the topics in Kafka."""


@topics.command("create")
@click.option("--replication", type=click.IntRange(1), default=1, show_default=True)
def topics_create(replication: int) -> None:
    """Make the topics that are missing."""
    from matyan.broker.kafka import client_config

    settings = load()
    made = create_topics(open_admin(client_config(settings)), topic_names(settings), replication)
    for name in topic_names(settings):
        click.echo(f"{name}\t{'created' if name in made else 'was there'}")


@topics.command("check")
def topics_check() -> None:
    """Say which topics are missing; exit with 1 when one is."""
    from matyan.broker.kafka import client_config

    settings = load()
    known = known_topics(open_admin(client_config(settings)))
    for name in topic_names(settings):
        click.echo(f"{name}\t{'ok' if name in known else 'missing'}")
    if set(topic_names(settings)) - known:
        raise MatyanError("topics are missing: `matyan topics create` makes them")


# --- offsets -------------------------------------------------------------------------------------


@click.group()
def offsets() -> None:
    """Compare the stored offsets with Kafka's, and say where ingestion goes on."""


@offsets.command("show")
@click.option("--store", "store_", required=True, metavar="rocks:FOLDER")
def offsets_show(store_: str) -> None:
    """Print stored, committed and end offset and the lag of each partition; no worker may run."""
    click.echo("partition\tstored\tcommitted\tend\tlag")
    for number, stored, place in trio.run(_offsets, load(), _folder(store_), None):
        behind = place.high - (place.low if stored is None else stored)
        click.echo(f"{number}\t{stored}\t{place.committed}\t{place.high}\t{behind}")


@offsets.command("reset")
@click.option("--store", "store_", required=True, metavar="rocks:FOLDER")
@click.option("--to", type=click.Choice(["start", "end", "stored", "committed"]), required=True)
@click.option("--partition", type=int, help="Only this one.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def offsets_reset(store_: str, to: str, partition: int | None, yes: bool) -> None:
    """Set where ingestion goes on, in the store and in Kafka; no worker may run.

    Before an offset that was stored, records are applied twice; beyond it, they are skipped for good.
    """
    which = "every partition" if partition is None else f"partition {partition}"
    if not yes:
        click.confirm(f"Set {which} to its {to} offset?", abort=True, err=True)

    def choose(number: int, stored: int | None, place: Place) -> int | None:
        if partition is not None and number != partition:
            return None
        return {
            "start": place.low,
            "end": place.high,
            "stored": stored,
            "committed": place.committed,
        }[to]

    for number, stored, _ in trio.run(_offsets, load(), _folder(store_), choose):
        click.echo(f"{number}\t{stored}")


def _folder(store_: str) -> Path:
    engine, _, folder = store_.partition(":")
    if engine != "rocks" or not folder:
        raise ConfigurationError(f"--store {store_}: expected rocks:FOLDER")
    return Path(folder)


async def _offsets(
    settings: Settings,
    folder: Path,
    choose: Callable[[int, int | None, Place], int | None] | None,
) -> list[tuple[int, int | None, Place]]:
    """(partition, stored offset, place) of each partition, after `choose` has set those that it names."""
    from matyan.broker.kafka import client_config
    from matyan.keys import Keys, pack_value, unpack_value
    from matyan.store.base import Transaction
    from matyan.store.rocks import open_rocks

    admin = open_admin(client_config(settings))
    topic, group = settings.kafka_data_ingestion_topic, "ingestion-workers"
    described = describe_topic(admin, topic)
    topic_id = str(described.topic_id)
    places = read_place(admin, group, topic, [row.id for row in described.partitions])
    store = open_rocks(folder)
    try:
        keys = Keys(store)

        def body(tr: Transaction) -> list[tuple[int, int | None, Place]]:
            rows = []
            for number, place in sorted(places.items()):
                key = keys.ingest(topic_id, number)
                packed = tr.get(key)
                stored = None if packed is None else int(unpack_value(packed))
                chosen = None if choose is None else choose(number, stored, place)
                if chosen is not None:
                    tr.set(key, pack_value(chosen))
                    stored = chosen
                rows.append((number, stored, place))
            return rows

        rows = await store.transact(body)
    finally:
        await store.aclose()
    if choose is not None:
        known = {number: stored for number, stored, _ in rows if stored is not None}
        commit_offsets(admin, group, topic, topic_id, known)
    return rows


# --- doctor --------------------------------------------------------------------------------------


@click.command()
@click.option("--wait", is_flag=True, help="Wait until all is well, for an init container.")
@click.option(
    "--timeout", type=click.FloatRange(0), default=300.0, show_default=True, help="Seconds."
)
def doctor(wait: bool, timeout: float) -> None:
    """Check the settings, the broker and its topics, and the blobs' settings; say how to mend what is wrong."""
    settings = _load()
    end = time.monotonic() + timeout
    while True:
        found = _examine(settings)
        if not wait or time.monotonic() >= end or all(why is None for why in found.values()):
            break
        time.sleep(1)
    for name, why in found.items():
        click.echo(f"{name}\t{'ok' if why is None else why}")
    if any(why is not None for why in found.values()):
        raise MatyanError("not all is well")


def _examine(settings: Settings) -> dict[str, str | None]:
    """What was examined, and what is wrong with it or None."""
    from matyan.blobs.s3 import S3Blobs

    kafka = _kafka_check(settings, list(topic_names(settings)))
    examined: dict[str, Callable[[], object]] = {
        "kafka": kafka,
        "blobs": lambda: S3Blobs(settings),
    }
    found: dict[str, str | None] = {"settings": None}
    for name, examine in examined.items():
        try:
            examine()
        except MatyanError as error:
            found[name] = str(error)
        else:
            found[name] = None
    return found
