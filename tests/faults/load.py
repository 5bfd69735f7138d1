"""Clients for the fault tests, and the oracle: what was sent, what was acknowledged, what is stored."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count, pairwise
from typing import Any, TypeVar

import trio
from trio_websocket import ConnectionClosed as TrioConnectionClosed
from trio_websocket import WebSocketConnection, open_websocket_url
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import connect

from tests.until import until, wait_for

AT_LENGTH = bool(os.environ.get("MATYAN_TEST_AT_LENGTH"))
"""Whether the long form of each test is wanted."""
OK = {"status": "ok", "error": None}


def metric(run: str, name: str, value: float, step: int | None) -> dict[str, object]:
    """One log_metric message as the SDK writes it."""
    return {
        "type": "log_metric",
        "run_id": run,
        "name": name,
        "value": value,
        "step": step,
        "epoch": None,
        "context": {"subset": "train"},
        "dtype": "float",
        "client_datetime": datetime.now(UTC).isoformat(),
    }


@dataclass
class Ledger:
    """What one client knows of its run. Values are unique and ascend, so one stored twice or late is seen."""

    sent: set[float] = field(default_factory=set)
    left: set[float] = field(default_factory=set)
    """What of `sent` did go into the socket."""
    acknowledged: set[float] = field(default_factory=set)

    def faults(self, stored: Iterable[float]) -> list[str]:
        """What is wrong with what is stored, in its order: values lost, doubled, invented or out of order; empty
        when all is well."""
        values = list(stored)
        late = {b for a, b in pairwise(values) if b < a}
        found = contradictions(self.acknowledged, self.sent, values)
        if late:
            found.append(f"{len(late)} stored after a later one: {sorted(late)[:5]}")
        return found


T = TypeVar("T", float, str)


def contradictions(acknowledged: Set[T], sent: Set[T], stored: Iterable[T]) -> list[str]:
    """How what is stored contradicts what a client knows: a sentence for what is lost, invented and doubled, with a few of
    them; empty when all is well."""
    times = Counter(stored)
    checks = {
        "acknowledged and lost": acknowledged - times.keys(),
        "stored and never sent": times.keys() - sent,
        "stored twice": {one for one, often in times.items() if often > 1},
    }
    return [f"{len(wrong)} {what}: {sorted(wrong)[:5]}" for what, wrong in checks.items() if wrong]


class Client(threading.Thread):
    """A raw client: one frame in flight, as the SDK has it; after a lost connection it connects again.

    Points have no step, so that each record that is applied makes a point of its own: a record that was
    applied twice would show. A frame without an answer is not sent again (nobody knows its fate).
    """

    def __init__(self, url: str, run: str, *, per_frame: int = 20) -> None:
        super().__init__(daemon=True)
        self.run_id = run
        self.ledger = Ledger()
        self.closes: list[int] = []
        """The codes with which the server closed; 1006 where it said nothing."""
        self._url = f"{url.replace('http', 'ws')}/api/v1/ws/runs/{run}"
        self._per_frame = per_frame
        self._values = count()
        self._stop_asked = threading.Event()

    def run(self) -> None:
        while not self._stop_asked.is_set():
            is_open = False
            try:
                with connect(
                    self._url, compression=None, open_timeout=2, close_timeout=1
                ) as socket:
                    is_open = True
                    while not self._stop_asked.is_set():
                        values = [float(next(self._values)) for _ in range(self._per_frame)]
                        self.ledger.sent.update(values)
                        socket.send(
                            json.dumps([metric(self.run_id, "loss", v, None) for v in values])
                        )
                        self.ledger.left.update(values)
                        if json.loads(socket.recv(timeout=60)) == OK:
                            self.ledger.acknowledged.update(values)
            except ConnectionClosed as end:
                # Also what a connection ends with that waited for a listener when that was closed.
                if is_open:
                    self.closes.append(end.rcvd.code if end.rcvd else 1006)
            except (OSError, WebSocketException):
                # The server is down: this is the load of the test, not a wait for it.
                time.sleep(0.02)

    def finish(self) -> None:
        self._stop_asked.set()
        self.join(90)
        assert not self.is_alive(), f"the client of {self.run_id} hangs"


def wait_for_load(clients: Iterable[Client], seconds: float = 60) -> None:
    """Until each client has got one more acknowledgement."""
    for client in clients:
        before = len(client.ledger.acknowledged)
        wait_for(lambda c=client, b=before: len(c.ledger.acknowledged) > b, seconds)


class Exchange:
    """One raw connection in a trio test that decides about each message. Made by `exchange`."""

    def __init__(self, socket: WebSocketConnection) -> None:
        self.replies: list[Any] = []
        """What was received; at last the code of the close frame, when the server sent one."""
        self._socket = socket

    async def send(self, text: str) -> None:
        await self._socket.send_message(text)

    async def ping(self, seconds: float = 15) -> None:
        """Sends a ping and waits for its pong."""
        with trio.fail_after(seconds):
            await self._socket.ping()

    async def until(self, received: Callable[[list[Any]], object], seconds: float = 150) -> None:
        """Waits until what was received is such."""
        await until(lambda: received(self.replies), seconds)

    async def listen(self) -> None:
        try:
            while True:
                self.replies.append(json.loads(await self._socket.get_message()))
        except TrioConnectionClosed as end:
            self.replies.append(end.reason and end.reason.code)


@asynccontextmanager
async def exchange(url: str, run: str) -> AsyncIterator[Exchange]:
    """A raw connection of `run` to the frontier at `url`, an http one."""
    address = f"{url.replace('http', 'ws')}/api/v1/ws/runs/{run}"
    async with open_websocket_url(address) as socket, trio.open_nursery() as nursery:
        opened = Exchange(socket)
        nursery.start_soon(opened.listen)
        yield opened
        nursery.cancel_scope.cancel()
