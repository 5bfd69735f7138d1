"""`matyan up` with one promise broken on purpose, for the negative controls of the fault tests.

python -m tests.faults.broken_tracker PROMISE --data DIR --port PORT; the promises stand at the end of this file
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from itertools import count

import trio

from matyan.broker.base import DeadLetter, DeliveryCallback
from matyan.broker.local import LocalBroker, Redelivery
from matyan.cli.main import main
from matyan.folder import tracker
from matyan.service import http_server
from matyan.service.http_server import HttpServer
from matyan.store import rocks
from matyan.store.rocks import open_rocks
from tests.broken_ingestion import AcknowledgesEarly


class DiesAfterReplay(LocalBroker):
    """The process ends between the commit of a dead letter that was sent again and everything that follows."""

    def redeliver(self, number: int, letter: DeadLetter, on_done: DeliveryCallback) -> Redelivery:
        return super().redeliver(number, letter, lambda error: os._exit(9))


class DiesBeforeReplay(LocalBroker):
    """The process ends when it has taken a dead letter again, before it is committed."""

    def redeliver(self, number: int, letter: DeadLetter, on_done: DeliveryCallback) -> Redelivery:
        super().redeliver(number, letter, on_done)
        os._exit(9)


_connections = count(1)
_handle = HttpServer.handle


async def raises_at_times(server: HttpServer, stream: trio.SocketStream) -> None:
    """A bug that every twelfth connection meets: not the first ones, which are the victim's and its attackers'."""
    if next(_connections) % 12 == 0:
        raise ZeroDivisionError
    await _handle(server, stream)


async def no_island(
    handle: Callable[[trio.SocketStream], Awaitable[None]], stream: trio.SocketStream
) -> None:
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        await handle(stream)


def broken_tracker(promise: str) -> tuple[str, ...]:
    """The command that starts it."""
    return (sys.executable, "-m", "tests.faults.broken_tracker", promise)


if __name__ == "__main__":
    match sys.argv[1]:
        case "no-sync":
            rocks.open_rocks = partial(open_rocks, sync=False)
        case "acknowledge-early":
            tracker.IngestWorker = AcknowledgesEarly
        case "die-before-replay":
            tracker.LocalBroker = DiesBeforeReplay
        case "die-after-replay":
            tracker.LocalBroker = DiesAfterReplay
        case "raise-at-times":
            HttpServer.handle = raises_at_times
        case "raise-without-islands":
            HttpServer.handle, http_server.island = raises_at_times, no_island
        case promise:
            sys.exit(f"no promise of that name: {promise}")
    sys.argv[:] = ["matyan", "up", *sys.argv[2:]]
    main()
