"""A frontier on a loopback socket, around a producer whose deliveries the test makes by hand."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

import pytest
import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from matyan.blobs.base import Blobs, Upload
from matyan.frontier.edge import Frontier, serve
from matyan.service.health import Health
from matyan.service.tokens import Tokens
from matyan.settings import Settings
from tests.frontier.hand import HandProducer


class NoBlobs:
    """Signs nothing real: the tests of presign look at what is asked of it."""

    async def presign_put(self, run: str, path: str, content_type: str, base_url: str) -> Upload:
        return Upload(f"{base_url}/put/{run}/{path}", f"{run}/{path}", None)

    async def delete(self, keys: Sequence[str]) -> int:
        return len(keys)

    async def delete_run(self, run: str) -> int:
        return 0


@dataclass
class Served:
    """A frontier that is up."""

    frontier: Frontier
    producer: HandProducer
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def handed(self, count: int) -> None:
        """Waits until the producer has so many frames."""
        while len(self.producer.frames) < count:
            await trio.lowlevel.checkpoint()

    async def talk(self, data: bytes) -> bytes:
        """What comes back until the end."""
        stream = await self.connect()
        async with stream:
            await stream.send_all(data)
            return b"".join([chunk async for chunk in stream])

    async def websocket(self, run: str = "run-1", **options: object) -> RawClient:
        client = RawClient(await self.connect(), run, self.port, **options)
        await client.shake_hands()
        return client


class RawClient:
    """The client side of the Sans-I/O layer, so that a test decides about each byte."""

    def __init__(self, stream: trio.SocketStream, run: str, port: int, **options: object) -> None:
        uri = parse_uri(f"ws://127.0.0.1:{port}/api/v1/ws/runs/{run}")
        self.stream = stream
        self.protocol = ClientProtocol(uri, max_size=None, **options)
        self.events: list[object] = []

    async def shake_hands(self, behind: bytes = b"") -> None:
        self.protocol.send_request(self.protocol.connect())
        await self.stream.send_all(b"".join(self.protocol.data_to_send()) + behind)
        await self.event()
        assert self.protocol.handshake_exc is None, self.protocol.handshake_exc

    async def event(self) -> object | None:
        """The next event, or None at the end of the stream."""
        while not self.events:
            data = await self.stream.receive_some()
            if not data:
                return None
            self.protocol.receive_data(bytes(data))
            self.events += self.protocol.events_received()
            for write in self.protocol.data_to_send():
                if write:
                    with suppress(trio.BrokenResourceError):  # the server may be through with it
                        await self.stream.send_all(write)
        return self.events.pop(0)

    async def send(self, text: bytes) -> None:
        self.protocol.send_text(text)
        await self.stream.send_all(b"".join(self.protocol.data_to_send()))

    async def reply(self) -> dict[str, object]:
        frame = await self.event()
        assert isinstance(frame, Frame), frame
        assert frame.opcode is Opcode.TEXT, frame
        reply: dict[str, object] = json.loads(frame.data)
        return reply

    async def close_code(self) -> int:
        """Reads to the close frame."""
        while not (isinstance(event := await self.event(), Frame) and event.opcode is Opcode.CLOSE):
            assert event is not None, "no close frame before the end of the stream"
        assert self.protocol.close_rcvd is not None
        return self.protocol.close_rcvd.code


@asynccontextmanager
async def a_frontier(
    producer: HandProducer | None = None,
    settings: Settings | None = None,
    blobs: Blobs | None = None,
    tokens: Tokens | None = None,
) -> AsyncIterator[Served]:
    producer = producer or HandProducer(1 << 26)
    # A test that writes its own heads calls the server x.
    settings = settings or Settings()
    settings = replace(settings, allowed_hosts=("x", *settings.allowed_hosts))
    frontier = Frontier(producer, blobs or NoBlobs(), Health(), settings, tokens)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(frontier.shared.health.run)
        await nursery.start(serve, frontier, listeners)
        yield Served(frontier, producer, listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with a_frontier() as served:
        yield served
