"""When nothing has room: every frame gets one reply, pings are answered, a copy is another chance, memory is bounded."""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

from matyan.frontier.edge import drain
from matyan.frontier.intake import UNREAD_S
from matyan.settings import Settings
from tests.frontier.conftest import RawClient, Served, a_frontier
from tests.frontier.hand import HandProducer
from tests.frontier.test_edge import OK, masked
from tests.frontier.test_large import MIB, figures, send
from tests.frontier.test_session import tag


def batch(size: int, name: str = "a") -> bytes:
    """A legal message of about so many bytes, of small items."""
    item = {"type": "add_tag", "tag_name": name * 100}
    return json.dumps([item] * max(1, size // 140)).encode()


def fragments(message: bytes) -> bytes:
    third = len(message) // 3
    return (
        masked(1, message[:third], fin=False)
        + masked(0, message[third : 2 * third], fin=False)
        + masked(0, message[2 * third :])
    )


def deflated(message: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    packed = packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH)
    return masked(1, packed[:-4], head1=0x40)


FRAMES = {
    "one tag": masked(1, tag("a")),
    "20 kB": masked(1, batch(20_000)),
    "64 kB": masked(1, batch(64_000)),
    "300 kB": masked(1, batch(300_000)),
    "6 MB": masked(1, figures(7)),
    "fragments": fragments(batch(30_000)),
    "large fragments": fragments(figures(3)),
    "compressed": deflated(batch(60_000)),
    "a bomb": deflated(figures(40)),
}


@asynccontextmanager
async def a_full_frontier() -> AsyncIterator[Served]:
    """Nothing moves in the queue, which is full, nor beside it: what may wait for room there is there too."""
    async with a_frontier(HandProducer(MIB), Settings(ws_deflate=True)) as served:
        budget = served.frontier.shared.sessions.budget
        budget.held += MIB
        budget.park(MIB // 2)
        yield served


def empty(served: Served) -> None:
    budget = served.frontier.shared.sessions.budget
    budget.held -= MIB
    budget.park(-MIB // 2)
    budget.tell_room()


async def packing(served: Served, run: str = "run-1") -> RawClient:
    return await served.websocket(run, extensions=[ClientPerMessageDeflateFactory()])


class Peer:
    """What comes back to a client, with the time at which it came."""

    def __init__(self, client: RawClient) -> None:
        self.client = client
        self.outgoing, self._data = trio.open_memory_channel[bytes](100)
        self.replies: list[tuple[float, dict[str, object]]] = []
        self.pongs: dict[bytes, float] = {}
        self.closed = False

    async def send(self) -> None:
        """What is sent stands in line, as in a client's own buffer."""
        async for data in self._data:
            await self.client.stream.send_all(data)

    async def listen(self) -> None:
        while (event := await self.client.event()) is not None:
            assert isinstance(event, Frame)
            if event.opcode is Opcode.TEXT:
                self.replies.append((trio.current_time(), json.loads(bytes(event.data))))
            elif event.opcode is Opcode.PONG:
                self.pongs[bytes(event.data)] = trio.current_time()
        self.closed = True


async def live(clock: MockClock, seconds: float) -> None:
    """As `settle` does, with time for large messages."""
    for _ in range(int(2 * seconds)):
        await trio.testing.wait_all_tasks_blocked(0.003)
        clock.jump(0.5)
    await trio.testing.wait_all_tasks_blocked(0.02)


async def ping(peer: Peer, clock: MockClock, seconds: int) -> None:
    """Time goes by, with a ping every 5 s; each is answered in less than the 20 s that the SDK grants."""
    for _ in range(seconds // 5):
        now = b"%f" % trio.current_time()
        peer.outgoing.send_nowait(masked(9, now))
        await live(clock, 5)
    for sent, answered in peer.pongs.items():
        assert answered - float(sent) < 20


@pytest.mark.parametrize("kind", FRAMES)
async def test_a_frame_that_never_finds_room_is_refused_once_after_40_s(
    mock_clock: MockClock, kind: str
) -> None:
    """Its resends are not answered, its pings are; nothing of it is held; then the connection goes on."""
    async with a_full_frontier() as served, trio.open_nursery() as nursery:
        budget = served.frontier.shared.sessions.budget
        held = budget.held
        peer = Peer(await packing(served))
        nursery.start_soon(peer.listen)
        nursery.start_soon(peer.send)
        began = trio.current_time()
        for wait_s in (15, 15, 15):
            peer.outgoing.send_nowait(FRAMES[kind])
            await live(mock_clock, 0.5)
            await ping(peer, mock_clock, wait_s)
            assert budget.held <= held + 2 * 64 * 1024
        assert len(peer.pongs) == 9
        ((answered, reply),) = peer.replies
        assert 40 <= answered - began <= 42
        assert reply["status"] == "error"
        assert "refused, not stored: the queue of 1,048,576 bytes is full" in str(reply["error"])
        assert served.producer.frames == []
        await live(mock_clock, UNREAD_S)
        assert budget.held == held
        empty(served)
        await peer.client.send(b"[]")
        await live(mock_clock, 1)
        assert peer.replies[1:] == [(peer.replies[-1][0], OK)]
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("kind", "room_at"),
    [
        *((kind, 20) for kind in FRAMES if kind != "a bomb"),
        ("one tag", 5),
        ("6 MB", 5),
        ("one tag", 35),
        ("6 MB", 35),
    ],
)
async def test_a_frame_is_stored_once_when_there_is_room_in_time(
    mock_clock: MockClock, kind: str, room_at: int
) -> None:
    """As the SDK sends: again after 15 and 30 s. Whenever there is room within 40 s, one of the copies takes it."""
    async with a_full_frontier() as served, trio.open_nursery() as nursery:
        served.producer.budget.capacity = 16 * MIB
        served.producer.budget.held += 15 * MIB
        served.producer.budget.park(8 * MIB)
        peer = Peer(await packing(served))
        nursery.start_soon(peer.listen)
        nursery.start_soon(peer.send)
        for second in range(0, 45, 5):
            if second in {0, 15, 30} and not peer.replies:
                peer.outgoing.send_nowait(FRAMES[kind])
            await live(mock_clock, 0.5)
            await ping(peer, mock_clock, 5)
            if second + 5 == room_at:
                assert served.producer.frames == []
                empty(served)
                served.producer.budget.held -= 15 * MIB
                served.producer.budget.park(-8 * MIB)
                served.producer.budget.tell_room()
                await live(mock_clock, 1)
                assert len(served.producer.frames) == 1
                served.producer.deliver()
                await live(mock_clock, 0.5)
        assert [reply for _, reply in peer.replies] == [OK]
        assert served.producer.frames == []
        assert served.producer.budget.held == 0
        nursery.cancel_scope.cancel()


async def test_what_is_stored_behind_a_missing_frame_ends_its_waiting(
    mock_clock: MockClock,
) -> None:
    """Order is kept: what came first is refused when what came later finds room, and its copy is not stored then."""
    async with a_full_frontier() as served, trio.open_nursery() as nursery:
        peer = Peer(await served.websocket())
        nursery.start_soon(peer.listen)
        await peer.client.send(tag("a"))
        await live(mock_clock, UNREAD_S + 1)
        await peer.client.send(tag("b"))
        await live(mock_clock, 1)
        empty(served)
        await peer.client.send(tag("c"))
        await live(mock_clock, 1)
        assert ["refused" in str(reply["error"]) for _, reply in peer.replies] == [True, True]
        served.producer.deliver()
        await live(mock_clock, 1)
        assert peer.replies[2][1] == OK
        assert b'"c"' in served.producer.delivered[0]
        nursery.cancel_scope.cancel()


async def test_what_needs_no_room_is_answered_as_ever(mock_clock: MockClock) -> None:
    """There is nothing to store of it."""
    async with a_full_frontier() as served, trio.open_nursery() as nursery:
        for message in (b"[]", b"{", b"[5]"):
            peer = Peer(await served.websocket())
            nursery.start_soon(peer.listen)
            await peer.client.send(message)
            await live(mock_clock, UNREAD_S + 1)
            ((_, reply),) = peer.replies
            assert "refused" not in str(reply["error"])
        nursery.cancel_scope.cancel()


async def test_thousands_of_half_messages_cost_what_the_budget_has(mock_clock: MockClock) -> None:
    """Small ones, too: beyond the budget and its half each connection has one short read at most."""
    count = 150
    async with a_frontier(HandProducer(MIB)) as served, trio.open_nursery() as nursery:
        most = 0
        half = masked(1, batch(60_000))[:-1]
        clients = []
        for number in range(count):
            clients.append(await served.websocket(f"half-{number}"))
            nursery.start_soon(send, clients[-1], half)
            await trio.testing.wait_all_tasks_blocked(0.001)
            most = max(most, served.frontier.shared.sessions.budget.held)
        assert most > MIB
        assert most < 1.5 * MIB + 64 * 1024 + count * 5_000
        await live(mock_clock, 90)
        assert served.frontier.shared.sessions.budget.held == 0
        assert not served.frontier.lane.connections
        nursery.cancel_scope.cancel()


async def test_a_drain_does_not_wait_for_what_is_missing(mock_clock: MockClock) -> None:
    """It is refused, which is true and counted, and the client hears goodbye."""
    async with a_full_frontier() as served, trio.open_nursery() as nursery:
        peer = Peer(await served.websocket())
        await peer.client.send(tag("a"))
        await live(mock_clock, UNREAD_S + 1)
        nursery.start_soon(drain, served.frontier, trio.current_time() + 60)
        reply = await peer.client.reply()
        assert "refused, not stored" in str(reply["error"])
        assert await peer.client.close_code() == 1001
        nursery.cancel_scope.cancel()
