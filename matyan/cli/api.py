"""`matyan api`: the read API and the web app of a deployment, as a service of its own.

Puts parts together; decides nothing about requests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
import trio
from confluent_kafka.admin import AclOperation

from matyan.api.late import Late
from matyan.api.web_app import find_web_app
from matyan.cli.flags import FDB, KAFKA, S3, SERVICE, TLS, UI, settings_flags, store_option
from matyan.cli.read_api import kafka_api
from matyan.cli.start import KafkaStart, begin
from matyan.cli.store_start import shared_store
from matyan.errors import Unavailable
from matyan.service.certificates import files_of
from matyan.service.entrance import entrance_of
from matyan.service.health import Health
from matyan.service.http_server import HttpServer
from matyan.service.listeners import open_port
from matyan.service.probes import READ_API, About, Probed, wants_page
from matyan.service.supervise import Task, calm_collector, run_service
from matyan.service.terminal import announce
from matyan.settings import API_PORT, Settings
from matyan.store.open import ClusterName, StoreName

if TYPE_CHECKING:
    from matyan.service.web import WebServer

_DELIVERY_S = 10.0
"""How long Kafka may take for what somebody waits for: the SDK waits for 30 s, and another change may be before this one."""


@click.command()
@store_option("What is shown: the store that the ingestion workers fill.")
@settings_flags(
    "host",
    "port",
    *KAFKA,
    *FDB,
    *S3,
    "delivery_timeout_s",
    "cors_origins",
    "public_url",
    "allowed_hosts",
    "tokens_file",
    *UI,
    *TLS,
    "metrics_enabled",
    *SERVICE,
    defaults={"port": API_PORT, "delivery_timeout_s": _DELIVERY_S},
)
def api(settings: Settings, store: StoreName) -> int:
    """Show what was logged: the API of the web app and of the SDK's readers, and the web app.

    Any number of these may run on one store, beside its workers. A folder's store is read and written through the worker that
    holds it (matyan ingest-worker --store rocks:FOLDER), on the same machine and as the same user; without it nothing is shown. The
    web app is served at the same port where matyan-ui is
    installed (pip install 'matyan-trio[ui]'). What people change there stands in the store at once; what follows from it goes
    through Kafka: a run that is deleted is hidden as soon as Kafka has the record, and an ingestion worker deletes it.
    Artifacts come from S3, through this process.

    \b
      matyan api --store fdb:/etc/foundationdb/fdb.cluster
      matyan api --store rocks:/var/lib/matyan --host 127.0.0.1
      KAFKA_BOOTSTRAP_SERVERS=kafka:9092 matyan api --store fdb: --port 8080 --tokens-file tokens
    """
    begin("api", settings, (*KAFKA, *S3))
    return trio.run(_api, settings, store)


async def _api(settings: Settings, name: StoreName) -> int:
    start = shared_store(name, settings)
    late = Late(start.why)

    async def check() -> None:
        await start.check()
        if late.app is None:
            raise Unavailable(start.why())

    health = Health()
    health.add("store", check)
    about = About(READ_API, health, settings.metrics_enabled, _versions(settings, name))
    entrance = entrance_of(settings)
    draining = trio.Event()

    def load_web() -> WebServer:
        from matyan.service.doorway import Doorway
        from matyan.service.web import WebServer

        return WebServer(Doorway(Probed(late, about, wants_page), entrance, draining))

    server = HttpServer(
        about,
        entrance,
        load_web,
        wants_page=wants_page,
        files=files_of(settings),
        draining=draining,
        base_path=settings.ui_base_path,
    )

    async def serve(*, task_status: trio.TaskStatus[object]) -> None:
        # It listens at once, and says what is missing.
        listeners = await open_port(settings.host, settings.port)
        port = listeners[0].socket.getsockname()[1]
        found = find_web_app()
        page = "matyan-ui is not installed" if found is None else f"matyan-ui {found.version}"
        announce(f"api on port {port}; web app: {page}; tokens are {entrance.tokens.about()}")
        await server.serve(listeners, task_status=task_status)

    async def read(*, task_status: trio.TaskStatus[None]) -> None:
        reads, make = kafka_api(await start.open(), settings)
        async with trio.open_nursery() as nursery:
            await nursery.start(reads.run)
            late.app = await trio.to_thread.run_sync(make)
            calm_collector()
            task_status.started()

    async def look_at_kafka(*, task_status: trio.TaskStatus[None]) -> None:
        """Says what is missing of it. What people read does not wait for it, and each change says what it cannot do."""
        task_status.started()
        topics = (settings.kafka_data_ingestion_topic, settings.kafka_control_events_topic)
        await KafkaStart(settings, dict.fromkeys(topics, AclOperation.WRITE)).wait()

    async def drain(deadline: float) -> int:
        await server.stop()
        with trio.move_on_at(deadline):
            await server.emptied()
        await server.force()
        return 0

    return await run_service(
        [Task("api", serve), Task("kafka", look_at_kafka), Task("store", read)],
        drain,
        health,
        drain_s=settings.shutdown_flush_timeout,
    )


def _versions(settings: Settings, name: StoreName) -> dict[str, object]:
    return {"fdb_api_version": settings.fdb_api_version} if isinstance(name, ClusterName) else {}
