"""The read API of an open tracker, put together for the port that takes its data, too."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from matyan.api.answers import Reads
from matyan.api.changes import Changes
from matyan.api.web_app import find_web_app
from matyan.folder.tracker import Tracker
from matyan.service.asgi import ASGIApp

_BUCKET = "matyan-artifacts"
"""What the URIs of artifacts name where no bucket is: the default of the setting."""


def read_api(
    tracker: Tracker, count: Callable[[str, str, int, float], None]
) -> tuple[Reads, Callable[[], ASGIApp]]:
    """What reads the store for the API, a task of its own, and what makes the app, in a thread."""
    reads = Reads(tracker.store, tracker.keys, tracker.sequences)
    changes = Changes(tracker.store, tracker.keys, tracker.outbox, tracker.delete)

    def make() -> ASGIApp:
        # Quart costs a start 0.7 s, and the web app's page is read from the disk.
        from matyan.api.app import create_api
        from matyan.api.served import Served

        served = Served(reads, changes, tracker.blobs, _BUCKET)
        return cast(ASGIApp, create_api(served, count, find_web_app()))

    return reads, make
