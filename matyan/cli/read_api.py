"""The read API put together: for the port of a tracker that takes data, too, and for that of a service of its own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import cast

from matyan.api.answers import Reads
from matyan.api.changes import Changes
from matyan.api.web_app import Addresses, find_web_app
from matyan.folder.opened import Opened, record_of
from matyan.folder.tracker import Tracker
from matyan.service.asgi import ASGIApp
from matyan.service.telemetry import count_request
from matyan.settings import Settings

_BUCKET = "matyan-artifacts"
"""What the URIs of artifacts name where no bucket is: the default of the setting."""


def tracker_api(tracker: Tracker, settings: Settings) -> tuple[Reads, Callable[[], ASGIApp]]:
    """What reads the store for the API, a task of its own, and what makes the app, in a thread."""
    store = tracker.store
    reads = Reads(store, tracker.keys, tracker.sequences, lambda: store.writes)
    changes = Changes(tracker.store, tracker.keys, tracker.outbox, tracker.delete)
    return reads, partial(_make, reads, changes, tracker.blobs, _BUCKET, settings)


def kafka_api(opened: Opened, settings: Settings) -> tuple[Reads, Callable[[], ASGIApp]]:
    """The same of a store that Kafka feeds, with its blobs in S3.

    Raises:
        ConfigurationError: a setting of S3 is missing or unusable.
    """
    from matyan.blobs.s3 import S3Blobs
    from matyan.broker.kafka.outbox import KafkaOutbox

    outbox = KafkaOutbox(settings, settings.delivery_timeout_s)

    async def delete(run: str) -> None:
        value = record_of("delete_run", run, {})
        await outbox.record(settings.kafka_data_ingestion_topic, run.encode(), value)

    reads = Reads(opened.store, opened.keys, opened.sequences)
    changes = Changes(opened.store, opened.keys, outbox, delete)
    return reads, partial(_make, reads, changes, S3Blobs(settings), settings.s3_bucket, settings)


def _make(
    reads: Reads, changes: Changes, blobs: object, bucket: str, settings: Settings
) -> ASGIApp:
    # Quart costs a start 0.7 s, and the web app's page is read from the disk.
    from matyan.api.app import create_api
    from matyan.api.served import ReadBlobs, Served

    served = Served(reads, changes, cast(ReadBlobs, blobs), bucket)
    addresses = Addresses(
        settings.ui_base_path, settings.ui_api_host_base, settings.ui_api_base_path
    )
    return cast(ASGIApp, create_api(served, count_request, find_web_app(), addresses))
