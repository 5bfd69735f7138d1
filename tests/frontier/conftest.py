"""A frontier on a loopback socket, around a producer whose deliveries the test makes by hand."""

from __future__ import annotations

import inspect
import json
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, replace

import pytest
import trio
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.uri import parse_uri

from matyan.blobs.base import Blobs, Upload
from matyan.frontier.edge import Frontier, serve
from matyan.service.health import Health
from matyan.service.tls import Stream
from matyan.service.tokens import Tokens
from matyan.settings import Settings
from tests import tls
from tests.frontier.hand import HandProducer

OVER_TLS: ContextVar[bool] = ContextVar("OVER_TLS", default=False)
"""Whether a frontier that a test starts listens under TLS."""
READINESS: ContextVar[str] = ContextVar("READINESS", default="auto")
"""How one waits for its sockets."""

BOTH_WAYS = {"tests.frontier.test_edge", "tests.frontier.test_islands"}
"""What these say of the listener holds under TLS too, and is tried there."""
WAYS = {"plain": (False, "auto"), "tls": (True, "auto"), "no-epoll": (False, "trio")}
"""Each with whether it is under TLS, and MATYAN_READINESS; `test_edge` is about sockets, and tried in all of them."""
ONE_WAY = {
    # Its client's calls are counted beside the server's.
    "test_a_small_frame_takes_few_calls",
    # Clients that are told no authority; tests/test_sdk.py and test_tls.py have them.
    "test_trio_websocket_can_talk_to_it",
    "test_the_unmodified_sdks_transport",
    # Addresses that begin with http.
    "test_absolute_targets_work_everywhere",
    "test_an_upload_goes_to_the_host_that_was_named",
    # Long, and about messages, of which TLS knows nothing.
    "test_96_mib_in_fragments_is_too_large",
    "test_a_message_of_96_mib_is_taken",
    "test_what_inflates_beyond_96_mib_is_too_large",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if (
        metafunc.module.__name__ in BOTH_WAYS
        and inspect.iscoroutinefunction(metafunc.function)
        and metafunc.function.__name__ not in ONE_WAY
    ):
        ways = [
            way for way in WAYS if way != "no-epoll" or metafunc.module.__name__.endswith("_edge")
        ]
        metafunc.parametrize("way", ways, indirect=True)


@pytest.fixture(autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where it is a parameter, the frontiers of the test listen so."""
    over_tls, readiness = WAYS[getattr(request, "param", "plain")]
    tokens = OVER_TLS.set(over_tls), READINESS.set(readiness)
    yield
    OVER_TLS.reset(tokens[0])
    READINESS.reset(tokens[1])


class NoBlobs:
    """Signs nothing real: the tests of presign look at what is asked of it."""

    async def presign_put(
        self, run: str, path: str, content_type: str, base_url: str, token: str = ""
    ) -> Upload:
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
    tls: bool = False

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def connect(self) -> Stream:
        """A client's connection, under TLS where the frontier listens so."""
        transport = await trio.open_tcp_stream("127.0.0.1", self.port)
        return await tls.client(transport) if self.tls else transport

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

    def __init__(self, stream: Stream, run: str, port: int, **options: object) -> None:
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
    over_tls = OVER_TLS.get()
    producer = producer or HandProducer(1 << 26)
    # A test that writes its own heads calls the server x.
    settings = settings or Settings()
    settings = replace(
        settings, allowed_hosts=("x", *settings.allowed_hosts), readiness=READINESS.get()
    )
    if over_tls and not settings.tls_cert_file:
        settings = replace(settings, **tls.server_settings())
    frontier = Frontier(producer, blobs or NoBlobs(), Health(), settings, tokens)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(frontier.shared.health.run)
        await nursery.start(serve, frontier, listeners)
        yield Served(frontier, producer, listeners[0].socket.getsockname()[1], over_tls)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def served() -> AsyncIterator[Served]:
    async with a_frontier() as served:
        yield served
