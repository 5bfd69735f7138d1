"""`matyan frontier`: the listener before Kafka and S3.

Its process holds neither a store nor blob content.
"""

from __future__ import annotations

from typing import Any

import click
import trio
from confluent_kafka.admin import AclOperation

from matyan.cli.flags import KAFKA, S3, SERVICE, TLS, settings_flags
from matyan.cli.start import KafkaStart, begin
from matyan.errors import Unavailable
from matyan.service.listeners import open_port
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, calm_collector, run_service
from matyan.service.terminal import announce
from matyan.settings import Settings

log = get_logger()


@click.command()
@settings_flags(
    "host",
    "port",
    *KAFKA,
    *S3,
    "kafka_compression",
    "presign_blob_ref",
    "queue_bytes",
    "delivery_timeout_s",
    "ws_deflate",
    "cors_origins",
    "public_url",
    "allowed_hosts",
    "tokens_file",
    *TLS,
    "metrics_enabled",
    *SERVICE,
    also=("readiness",),
)
def frontier(settings: Settings) -> int:
    """Take data from clients and hand it to Kafka.

    A reply is sent when every in-sync replica has the records of its frame. SIGTERM drains: exit code 0 means that
    everything accepted is in Kafka.

    \b
      matyan frontier --kafka-bootstrap-servers kafka:9092 --s3-endpoint http://minio:9000
      KAFKA_BOOTSTRAP_SERVERS=kafka:9092 matyan frontier --port 8080 --log-level DEBUG
    """
    begin("frontier", settings, (*KAFKA, *S3))
    return trio.run(_frontier, settings)


async def _frontier(settings: Settings) -> int:
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.client import producer_config
    from matyan.broker.kafka.producer import open_producer
    from matyan.frontier import edge

    topic = settings.kafka_data_ingestion_topic
    start = KafkaStart(settings, {topic: AclOperation.WRITE})
    health = start.health()
    blobs = S3Blobs(settings)
    async with open_producer(
        producer_config(settings),
        topic,
        settings.queue_bytes,
        lambda: start.partition_count(topic),
    ) as producer:
        service = edge.Frontier(producer, blobs, health, settings)

        async def check_delivery() -> None:
            if (why := producer.refusal()) is not None:
                raise Unavailable(why)

        health.add("delivery", check_delivery)

        async def serve(*, task_status: trio.TaskStatus[Any]) -> None:
            # It listens at once: what comes before the broker is there is held back like later.
            listeners = await open_port(settings.host, settings.port)
            port = listeners[0].socket.getsockname()[1]
            announce(
                f"frontier on port {port}; tokens are {service.shared.entrance.tokens.about()}"
            )
            await edge.serve(service, listeners, task_status=task_status)

        async def wait(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            try:
                await blobs.credentials.fresh()
            except Unavailable as error:
                # Metrics are taken all the same; each presign asks anew.
                log.warning("artifacts cannot be uploaded yet", reason=str(error))
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
