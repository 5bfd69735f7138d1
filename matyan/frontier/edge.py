"""The listener of a frontier: HTTP (`service/http_server.py`) with the ingest lane (`lane.py`) and the app (`web.py`) behind it, what
runs beside them, and the drain of all of them.

No WebSocket, no routes and no store here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from typing import TYPE_CHECKING

import trio

from matyan.blobs.base import Blobs
from matyan.broker.base import Producer
from matyan.frontier.lane import SWEEP_EVERY_S, Lane
from matyan.frontier.shared import Shared
from matyan.service import telemetry
from matyan.service.asgi import ASGIApp
from matyan.service.certificates import files_of
from matyan.service.health import Health
from matyan.service.http_server import HttpServer
from matyan.service.tokens import Tokens
from matyan.settings import Settings

if TYPE_CHECKING:
    from matyan.service.web import WebServer


class Frontier:
    """One listener with all that it has open. Made by the composition root, run by `serve`, ended by `drain`.

    Args:
        blobs: where artifacts are presigned; an engine that also takes and gives the bytes is served here.
        tokens: who may come in; None: whoever the settings say.
        beside: see `Shared`.

    Raises:
        ConfigurationError: a setting says who may come in, and cannot be understood; or the tokens file is not there.
    """

    def __init__(
        self,
        producer: Producer,
        blobs: Blobs,
        health: Health,
        settings: Settings,
        tokens: Tokens | None = None,
        beside: Callable[[], ASGIApp] | None = None,
    ) -> None:
        self.shared = Shared(producer, blobs, health, settings, tokens, beside)
        self.lane = Lane(self.shared, lambda: self.http.tell_empty())
        self.http = HttpServer(
            self.shared.about,
            self.shared.entrance,
            self._load_web,
            wants_page=self.shared.wants_page,
            files=files_of(settings),
            draining=self.shared.draining,
            lane=self.lane,
            base_path=settings.ui_base_path,
        )
        self.nursery: trio.Nursery | None = None

    def _load_web(self) -> WebServer:
        made: WebServer = import_module("matyan.frontier.web").web_server(self.shared)
        return made


async def serve(
    frontier: Frontier,
    listeners: Sequence[trio.SocketListener],
    *,
    task_status: trio.TaskStatus[list[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves until it is cancelled or drained; closes the listeners."""
    shared = frontier.shared
    async with trio.open_nursery() as nursery:
        frontier.nursery = nursery
        await nursery.start(frontier.lane.run)
        nursery.start_soon(shared.intake.run)
        nursery.start_soon(shared.pacer.run)
        nursery.start_soon(_sweep, frontier)
        await frontier.http.serve(listeners, task_status=task_status)


async def drain(frontier: Frontier, deadline: float) -> int:
    """Takes no more, answers what it has, says goodbye, ends `serve`; returns the records left undelivered.

    Args:
        deadline: trio's time at which the sockets that are still open are closed as they are.
    """
    shared = frontier.shared
    shared.health.draining = True
    shared.draining.set()
    frontier.lane.drain()
    await frontier.http.stop()
    with trio.move_on_at(deadline):
        await frontier.http.emptied()
    frontier.lane.force()
    await frontier.http.force()
    left = await shared.sessions.producer.flush(deadline) + shared.sessions.parked_records()
    if frontier.nursery is not None:
        frontier.nursery.cancel_scope.cancel()
    return left


async def _sweep(frontier: Frontier) -> None:
    shared = frontier.shared
    while True:
        await trio.sleep(SWEEP_EVERY_S)
        now = trio.current_time()
        shared.entrance.tokens.look()
        shared.sessions.sweep(now)
        frontier.lane.sweep(now)
        shared.intake.sweep(now)
        telemetry.QUEUE_BYTES.set(shared.sessions.budget.held)
        waiting, oldest_s = shared.sessions.waiting(now)
        telemetry.WAITING_FRAMES.set(waiting)
        telemetry.OLDEST_WAITING_SECONDS.set(oldest_s)
