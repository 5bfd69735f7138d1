"""The edge over real loopback sockets: handshakes, RFC 6455, deadlines, drain."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import FrameType

import pytest
import trio
import trio_websocket
from trio.testing import MockClock
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

import matyan
from matyan.frontier import lane
from matyan.frontier.edge import drain
from matyan.frontier.session import MAX_WAITING_FRAMES
from matyan.service.http1 import HEAD_BYTES, parse_head
from matyan.settings import Settings
from tests.frontier.conftest import RawClient, Served, a_frontier
from tests.frontier.test_session import tag

OK = {"status": "ok", "error": None}
UPGRADE = (
    "GET {path} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def masked(opcode: int, payload: bytes, *, fin: bool = True, head1: int = 0) -> bytes:
    """A client's frame, with a mask of zeros so that bad bytes stay as they are."""
    first = (0x80 if fin else 0) | opcode | head1
    if len(payload) < 126:
        size = bytes([0x80 | len(payload)])
    elif len(payload) < 1 << 16:
        size = bytes([0x80 | 126]) + len(payload).to_bytes(2, "big")
    else:
        size = bytes([0x80 | 127]) + len(payload).to_bytes(8, "big")
    return bytes([first]) + size + bytes(4) + payload


async def test_a_frame_is_answered_when_it_is_delivered(served: Served) -> None:
    client = await served.websocket()
    await client.send(tag("a"))
    await served.handed(1)
    with trio.move_on_after(0.05) as early:
        await client.event()
    assert early.cancelled_caught
    served.producer.deliver()
    assert await client.reply() == OK


async def test_a_small_frame_takes_few_calls(served: Served) -> None:
    """From its bytes to its reply, and only this project's own functions: what is added for each frame is seen here."""
    ours, calls, frames = str(Path(matyan.__file__).parent), 0, 200

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename.startswith(ours)

    client = await served.websocket()
    sys.setprofile(count)
    try:
        for number in range(frames):
            await client.send(tag(f"t{number}"))
            await served.handed(1)
            served.producer.deliver()
            assert await client.reply() == OK
    finally:
        sys.setprofile(None)
    # With a wrapper around each entrance, and checks a frame instead of a read, it was 24.
    assert calls / frames < 20


async def test_trio_websocket_can_talk_to_it(served: Served) -> None:
    """Another implementation, its pings and its close."""
    async with trio_websocket.open_websocket(
        "127.0.0.1", served.port, "/api/v1/ws/runs/run-1", use_ssl=False
    ) as socket:
        await socket.send_message("[]")
        assert json.loads(await socket.get_message()) == OK
        await socket.ping(b"hello")
        await socket.send_message(tag("a").decode())
        await served.handed(1)
        served.producer.deliver()
        assert json.loads(await socket.get_message()) == OK
    assert socket.closed.code == 1000


@pytest.mark.parametrize("size", [1, 7, 100_000])
async def test_bytes_may_come_in_any_pieces(served: Served, size: int) -> None:
    """Byte by byte or all at once, with the first frames behind the handshake."""
    handshake = UPGRADE.format(path="/api/v1/ws/runs/run-1").encode()
    data = handshake + masked(1, b"[]") + masked(1, b"{") + masked(8, (1000).to_bytes(2, "big"))
    stream = await served.connect()
    for start in range(0, len(data), size):
        await stream.send_all(data[start : start + size])
        await trio.lowlevel.checkpoint()
    answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.index(b'"ok"') < answer.index(b"not JSON")
    assert answer.endswith(b"\x88\x02\x03\xe8")


@pytest.mark.parametrize("cut", [1, 3, 5, 9, 200, 70_000])
async def test_messages_that_come_whole_and_in_pieces_keep_their_order(
    served: Served, cut: int
) -> None:
    """A whole message is read another way than one in pieces: neither way loses the other's place."""
    client = await served.websocket()
    sizes = (0, 120, 126, 65_600, 10)
    messages = [
        masked(1, tag(f"{n}" + "x" * (size % 500)) + b" " * size) for n, size in enumerate(sizes)
    ]
    for message in messages:
        await client.stream.send_all(message[:cut])
        await trio.testing.wait_all_tasks_blocked(0.001)
        await client.stream.send_all(message[cut:])
        await trio.testing.wait_all_tasks_blocked(0.001)
        await client.stream.send_all(message)
    # The last one twice in one read, with half of a ping behind.
    ping = masked(9, b"alive?")
    await client.stream.send_all(messages[0] * 2 + ping[:3])
    await trio.testing.wait_all_tasks_blocked(0.001)
    await client.stream.send_all(ping[3:])
    pong = await client.event()
    assert isinstance(pong, Frame)
    assert pong.opcode is Opcode.PONG
    # A copy of a frame that waits is a resend and not taken: each message counts once.
    await served.handed(len(sizes))
    taken = [json.loads(frame[1][0])["payload"]["tag_name"][0] for frame in served.producer.frames]
    assert taken == [str(n) for n in range(len(sizes))]


async def test_a_frame_within_a_frame_is_no_frame(served: Served) -> None:
    """A read that holds just what looks like a whole message is not taken for one in the midst of another."""
    client = await served.websocket()
    text = tag("hidden")
    # Two masks that leave ASCII when both are taken off.
    mask, outer = b"\x20\x20\xa0\xa0", b"\x80\x80\0\0"
    hidden = bytes(byte ^ mask[i % 4] for i, byte in enumerate(text))
    inner = bytes([0x81, 0x80 | len(text)]) + mask + hidden
    await client.stream.send_all(bytes([0x81, 0x80 | len(inner)]) + outer)
    await trio.testing.wait_all_tasks_blocked(0.01)
    await client.stream.send_all(inner)
    assert "not JSON" in (await client.reply())["error"]
    assert served.producer.frames == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/api/v1/ws/runs/a/b", "run id"),
        ("/api/v1/ws/runs/a%2Fb", "run id"),
        ("/api/v1/ws/runs/", "run id"),
        ("/api/v1/ws/runs/..", "run id"),
        ("/api/v1/ws/runs/" + "x" * 129, "128"),
        ("/api/v1/ws/runs/b%C3%BC", "run id"),
        ("/api/v1/ws/runs/a b", "request"),
    ],
)
async def test_a_bad_run_id_is_refused_before_the_handshake(
    served: Served, path: str, says: str
) -> None:
    answer = await served.talk(UPGRADE.format(path=path).encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    if says != "request":
        assert says in json.loads(body)["detail"]


@pytest.mark.parametrize("run", ["a", "x" * 128, "A-Z_0.9:x", "a%2Db?token=5"])
async def test_a_good_run_id_is_taken(served: Served, run: str) -> None:
    stream = await served.connect()
    await stream.send_all(UPGRADE.format(path=f"/api/v1/ws/runs/{run}").encode())
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


async def test_a_credential_is_ignored(served: Served) -> None:
    request = UPGRADE.format(path="/api/v1/ws/runs/a")
    request = request.replace("\r\n\r\n", "\r\nAuthorization: Basic dTp0\r\n\r\n")
    stream = await served.connect()
    await stream.send_all(request.encode())
    assert (await stream.receive_some()).startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("without", "status"),
    [("Sec-WebSocket-Key", 400), ("Sec-WebSocket-Version", 400), ("Connection", 426)],
)
async def test_an_incomplete_handshake_is_refused(
    served: Served, without: str, status: int
) -> None:
    lines = UPGRADE.format(path="/api/v1/ws/runs/a").split("\r\n")
    request = "\r\n".join(line for line in lines if not line.startswith(without))
    assert (await served.talk(request.encode())).startswith(f"HTTP/1.1 {status} ".encode())


BAD = [
    ("a binary frame", masked(2, b"x"), 1003),
    ("a bad opcode", masked(3, b""), 1002),
    ("a reserved bit", masked(1, b"[]", head1=0x20), 1002),
    ("a compressed frame without the extension", masked(1, b"[]", head1=0x40), 1002),
    ("a frame without a mask", b"\x81\x02[]", 1002),
    ("a continuation of nothing", masked(0, b"x"), 1002),
    ("a text in the middle of another", masked(1, b"[", fin=False) + masked(1, b"]"), 1002),
    ("a ping in fragments", masked(9, b"x", fin=False), 1002),
    ("a long ping", masked(9, b"x" * 126), 1002),
    ("a close frame of one byte", masked(8, b"x"), 1002),
    ("a close code that may not be sent", masked(8, (1005).to_bytes(2, "big")), 1002),
    ("bad UTF-8", masked(1, b'{"\xff":1}'), 1007),
    ("bad UTF-8 in a rejected item", masked(1, b'{"type":"\xc0\x80"}'), 1007),
    ("bad UTF-8 across fragments", masked(1, b'["\xc3', fin=False) + masked(0, b'"]'), 1007),
    ("bad UTF-8 in a fragment", masked(1, b'["\xff', fin=False), 1007),
    (
        "bad UTF-8 in a later fragment",
        masked(1, b"[", fin=False) + masked(0, b"\xc0", fin=False),
        1007,
    ),
    (
        "a surrogate across fragments",
        masked(1, b"\xed", fin=False) + masked(0, b"\xa0", fin=False),
        1007,
    ),
    (
        "a character that a ping does not end",
        masked(1, b"\xc3", fin=False) + masked(9, b"") + masked(0, b"\xc3", fin=False),
        1007,
    ),
    (
        "bad UTF-8 and a close behind it",
        masked(1, b"\xff", fin=False) + masked(8, b"\x03\xe8"),
        1007,
    ),
    ("a binary frame and a close behind it", masked(2, b"x") + masked(8, b"\x03\xe8"), 1003),
    ("a binary fragment", masked(2, b"x", fin=False), 1003),
    ("a reason that is not UTF-8", masked(8, b"\x03\xe8\xff"), 1007),
    ("97 MiB announced", b"\x81\xff" + (97 << 20).to_bytes(8, "big") + bytes(4), 1009),
]


@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_a_violation_has_its_close_code(served: Served, data: bytes, code: int) -> None:
    """RFC 6455, 7.4.1; and a frame before it still gets its reply first."""
    client = await served.websocket()
    await client.send(tag("a"))
    await client.stream.send_all(data)
    await served.handed(1)
    served.producer.deliver()
    assert await client.reply() == OK
    assert await client.close_code() == code
    assert await client.event() is None


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("size", [1, 4, 1000])
@pytest.mark.parametrize(("data", "code"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
async def test_the_end_comes_with_the_clients_close(
    mock_clock: MockClock, data: bytes, code: int, size: int, deflate: bool
) -> None:
    """In no time, in whatever pieces it comes: no sweep is needed. Not where the rest of a frame is still to come."""
    if "announced" in next(row[0] for row in BAD if row[1] is data) or (deflate and data[0] & 0x40):
        data, code = masked(2, b"x"), 1003
    async with a_frontier(settings=Settings(ws_deflate=True)) as served:
        client = await served.websocket(
            extensions=[ClientPerMessageDeflateFactory()] if deflate else None
        )
        for start in range(0, len(data), size):
            await client.stream.send_all(data[start : start + size])
            await trio.testing.wait_all_tasks_blocked()
        assert await client.close_code() == code
        for byte in masked(8, code.to_bytes(2, "big") + b"bye"):
            with suppress(trio.BrokenResourceError):  # RawClient has sent one already
                await client.stream.send_all(bytes([byte]))
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                assert await client.event() is None
                nursery.cancel_scope.cancel()

            nursery.start_soon(end)
            await trio.testing.wait_all_tasks_blocked(0.2)
            assert not served.frontier.lane.connections


@pytest.mark.parametrize("code", [1000, 1001, 3000, 4999])
async def test_a_close_between_fragments_is_none_of_an_error(served: Served, code: int) -> None:
    """RFC 6455, 5.4: it gets its own code back, after the reply of the frame before; what it cut short is no message."""
    client = await served.websocket()
    await client.send(tag("a"))
    close = masked(8, code.to_bytes(2, "big") + b"bye")
    await client.stream.send_all(masked(1, b"[", fin=False) + close)
    await served.handed(1)
    served.producer.deliver()
    assert await client.reply() == OK
    assert await client.close_code() == code
    assert await client.event() is None


async def test_a_close_without_a_code_between_fragments(served: Served) -> None:
    client = await served.websocket()
    await client.stream.send_all(masked(1, b"[", fin=False) + masked(8, b""))
    assert await client.close_code() == 1000


async def test_96_mib_in_fragments_is_too_large(served: Served) -> None:
    client = await served.websocket()
    for opcode in (1, 0, 0):
        await client.stream.send_all(masked(opcode, b" " * (30 << 20), fin=False))
    await client.stream.send_all(masked(0, b" " * (9 << 20))[:100])
    assert await client.close_code() == 1009


async def test_a_message_of_96_mib_is_taken(served: Served) -> None:
    client = await served.websocket()
    await client.send(b"[" + b" " * ((96 << 20) - 2) + b"]")
    assert await client.reply() == OK


async def test_fragments_with_pings_between_them(served: Served) -> None:
    """RFC 6455, 5.4: control frames may stand between the fragments of a message."""
    client = await served.websocket()
    text = tag("ü")
    await client.stream.send_all(
        masked(1, text[:20], fin=False)
        + masked(9, b"one")
        + masked(0, b"", fin=False)
        + masked(0, text[20:-1], fin=False)
        + masked(9, b"two")
        + masked(0, text[-1:])
    )
    for payload in (b"one", b"two"):
        pong = await client.event()
        assert isinstance(pong, Frame)
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, payload)
    await served.handed(1)
    assert json.loads(served.producer.frames[0][1][0])["payload"] == {"tag_name": "ü"}
    served.producer.deliver()
    assert await client.reply() == OK


@pytest.mark.parametrize(
    "message",
    [
        masked(9, b"?") + masked(1, b"[]"),
        masked(1, b"[", fin=False) + masked(9, b"?") + masked(0, b"]"),
    ],
)
async def test_a_pong_comes_before_the_reply_of_what_ends_behind_its_ping(
    served: Served, message: bytes
) -> None:
    """Also when they came in one packet, and the reply is at hand at once."""
    client = await served.websocket()
    await client.stream.send_all(message)
    pong = await client.event()
    assert isinstance(pong, Frame)
    assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"?")
    assert await client.reply() == OK


async def test_pings_are_answered_while_a_reply_is_held_back(served: Served) -> None:
    client = await served.websocket()
    await client.send(tag("a"))
    await served.handed(1)
    client.protocol.send_ping(b"alive?")
    await client.stream.send_all(b"".join(client.protocol.data_to_send()))
    pong = await client.event()
    assert isinstance(pong, Frame)
    assert pong.opcode is Opcode.PONG


async def test_a_client_that_closes_gets_its_last_reply_first(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then the close frame comes back, and the end of the stream without a wait for more."""
    monkeypatch.setattr(lane, "LINGER_S", 3_600.0)
    client = await served.websocket()
    await client.send(tag("a"))
    client.protocol.send_close(1000)
    await client.stream.send_all(b"".join(client.protocol.data_to_send()))
    await served.handed(1)
    await trio.testing.wait_all_tasks_blocked(0.02)
    served.producer.deliver()
    assert await client.reply() == OK
    assert await client.close_code() == 1000
    with trio.fail_after(60):
        assert await client.event() is None


async def test_a_close_does_not_wait_for_ever(mock_clock: MockClock) -> None:
    """5 s for the reply, then the close frame; the delivery goes on."""
    async with a_frontier() as served:
        client = await served.websocket()
        await client.send(tag("a"))
        client.protocol.send_close(1000)
        await client.stream.send_all(b"".join(client.protocol.data_to_send()))
        await served.handed(1)
        await settle(mock_clock, 6)
        assert await client.close_code() == 1000
        served.producer.deliver()
        assert len(served.producer.delivered) == 1


async def test_a_message_that_never_ends_is_given_up(mock_clock: MockClock) -> None:
    """Though the peer is alive and sends a byte now and then."""
    async with a_frontier() as served:
        client = await served.websocket()
        data = masked(1, b" " * 1000)
        for index in range(3):
            await client.stream.send_all(data[index : index + 1])
            assert served.frontier.lane.connections
            await settle(mock_clock, 10.5)
        assert await client.close_code() == 1008


async def test_deflate_is_declined_by_default() -> None:
    async with a_frontier() as served:
        client = await served.websocket(extensions=[ClientPerMessageDeflateFactory()])
        assert client.protocol.extensions == []


async def test_deflate_is_accepted_without_context_takeover() -> None:
    async with a_frontier(settings=Settings(ws_deflate=True)) as served:
        client = await served.websocket(extensions=[ClientPerMessageDeflateFactory()])
        (extension,) = client.protocol.extensions
        assert extension.local_no_context_takeover
        for name in ("a", "b"):
            await client.send(tag(name))
            await served.handed(1)
            served.producer.deliver()
            assert await client.reply() == OK


async def test_what_inflates_beyond_96_mib_is_too_large() -> None:
    """A bomb of 100 kB."""
    async with a_frontier(settings=Settings(ws_deflate=True)) as served:
        client = await served.websocket(extensions=[ClientPerMessageDeflateFactory()])
        await client.send(b"[" + b" " * (97 << 20) + b"]")
        assert await client.close_code() == 1009


async def test_a_client_that_goes_leaves_its_frame(served: Served) -> None:
    client = await served.websocket()
    await client.send(tag("a"))
    await served.handed(1)
    await client.stream.aclose()
    while served.frontier.lane.connections:
        await trio.lowlevel.checkpoint()
    served.producer.deliver()
    assert len(served.producer.delivered) == 1
    assert served.frontier.shared.sessions.alive == set()


async def test_a_head_that_never_ends_is_refused(mock_clock: MockClock) -> None:
    """408 after the deadline, whatever trickles in."""
    async with a_frontier() as served:
        stream = await served.connect()
        await stream.send_all(b"GET / HTTP/1.1\r\nX: ")
        while not served.frontier.http.idle:
            await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(11)
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 408 ")


async def test_a_head_that_is_too_long_is_refused(served: Served) -> None:
    answer = await served.talk(b"GET / HTTP/1.1\r\nX: " + b"x" * HEAD_BYTES)
    assert answer.startswith(b"HTTP/1.1 431 ")


async def settle(clock: MockClock, seconds: float) -> None:
    """Moves the clock in steps of the sweeper's period and lets everybody run."""
    for _ in range(int(seconds / 0.5)):
        await trio.testing.wait_all_tasks_blocked(0.001)
        clock.jump(0.5)
    await trio.testing.wait_all_tasks_blocked(0.005)


async def test_a_silent_peer_is_pinged_and_dropped(mock_clock: MockClock) -> None:
    """20 s of silence, then 20 s without an answer."""
    async with a_frontier() as served:
        client = await served.websocket()
        await settle(mock_clock, 21)
        event = await client.event()
        assert isinstance(event, Frame)
        assert event.opcode is Opcode.PING
        await settle(mock_clock, 21)
        assert len(served.frontier.lane.connections) == 1, "the client answered"
        await settle(mock_clock, 41)
        assert not served.frontier.lane.connections


async def test_a_frame_is_answered_after_40_s_on_the_wire(mock_clock: MockClock) -> None:
    async with a_frontier() as served:
        client = await served.websocket()
        await client.send(tag("a"))
        await served.handed(1)
        await settle(mock_clock, 41)
        replies = [event async for event in until_text(client)]
        assert b"kept and still being delivered" in replies[-1]


async def until_text(client: RawClient):
    while True:
        event = await client.event()
        assert isinstance(event, Frame)
        yield bytes(event.data)
        if event.opcode is Opcode.TEXT:
            return


async def test_a_slow_reader_costs_bounded_memory_and_time(mock_clock: MockClock) -> None:
    """Who sends and never reads is no longer read, then closed; others are served meanwhile."""
    async with a_frontier() as served:
        client = await served.websocket()
        data = masked(1, b"[]") * 1000
        sent = 0
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:

                async def flood() -> None:
                    nonlocal sent
                    while True:
                        await client.stream.send_all(data)
                        sent += len(data)

                nursery.start_soon(flood)
                await trio.testing.wait_all_tasks_blocked(0.05)
                (connection,) = served.frontier.lane.connections
                before = -1
                while before != sent:
                    before = sent
                    await trio.testing.wait_all_tasks_blocked(0.05)
                assert 0 < len(connection._out) < 1 << 20
                other = await served.websocket("run-2")
                await other.send(b"[]")
                assert await other.reply() == OK
                scope.cancel()
        mock_clock.jump(31)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert connection not in served.frontier.lane.connections


async def test_drain_answers_then_closes_with_1001(served: Served) -> None:
    """The frame at hand gets its reply before the close frame, an idle socket the close frame at once."""
    busy, idle = await served.websocket("run-1"), await served.websocket("run-2")
    await busy.send(tag("a"))
    await served.handed(1)
    left: list[int] = []

    async def go() -> None:
        left.append(await drain(served.frontier, trio.current_time() + 60))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(go)
        assert await idle.close_code() == 1001
        served.producer.deliver()
        assert await busy.reply() == OK
        assert await busy.close_code() == 1001
        await busy.stream.aclose()
        await idle.stream.aclose()
        with pytest.raises(OSError, match="connect"):
            await served.connect()
    assert left == [0]


async def test_drain_answers_what_is_half_here(served: Served) -> None:
    """A frame that is still coming in cannot be sent again by its client either."""
    client = await served.websocket()
    data = masked(1, json.dumps([json.loads(tag("a"))] * 2).encode() + b" " * 100_000)
    await client.stream.send_all(data[:50_000])
    await trio.testing.wait_all_tasks_blocked(0.05)  # until they are read
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(drain, served.frontier, trio.current_time() + 60))
        await trio.testing.wait_all_tasks_blocked(0.05)
        await client.stream.send_all(data[50_000:])
        with trio.fail_after(50):
            await served.handed(1)
            served.producer.deliver()
            assert await client.reply() == OK
            assert await client.close_code() == 1001
        await client.stream.aclose()


async def test_drain_meets_a_connection_whose_handshake_is_being_answered(served: Served) -> None:
    """It gets its close frame as the others do, though it was none of them when the drain began."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    filled = 0
    with suppress(BlockingIOError):
        while True:
            filled += ours.send(bytes(4096))
    client = RawClient(trio.SocketStream(trio.socket.from_stdlib_socket(theirs)), "run-1", 1)
    client.protocol.send_request(client.protocol.connect())
    head = parse_head(b"".join(client.protocol.data_to_send()), b"")
    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(served.frontier.lane.open, stream, head)
        await trio.testing.wait_all_tasks_blocked()
        served.frontier.shared.draining.set()
        served.frontier.lane.drain()
        while filled:
            filled -= len(await client.stream.receive_some(filled))
        assert await client.event() is not None
        with trio.fail_after(10):
            assert await client.close_code() == 1001
    await client.stream.aclose()


async def test_drain_ends_at_its_deadline_and_counts(served: Served) -> None:
    client = await served.websocket()
    await client.send(json.dumps([json.loads(tag("a")), json.loads(tag("b"))]).encode())
    await served.handed(1)
    assert await drain(served.frontier, trio.current_time() + 0.2) == 2
    assert await client.close_code() == 1001


async def test_a_frame_that_crosses_the_close_is_still_stored(served: Served) -> None:
    client = await served.websocket()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(drain, served.frontier, trio.current_time() + 60))
        await trio.testing.wait_all_tasks_blocked(0.01)
        await client.send(tag("a"))
        await served.handed(1)
        served.producer.deliver()
        assert await client.close_code() == 1001
        await client.stream.aclose()
    assert len(served.producer.delivered) == 1


async def test_a_connection_that_fills_its_share_is_read_no_further(served: Served) -> None:
    """Back-pressure through TCP: what is not read is not held; all is answered in the end."""
    client = await served.websocket()
    count = 300

    async def send() -> None:
        for index in range(count):
            await client.send(tag(f"{index:03}" + "x" * 500) + b" " * 20_000)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        before = -1
        while before != len(served.producer.frames):
            before = len(served.producer.frames)
            await trio.testing.wait_all_tasks_blocked(0.05)
        assert MAX_WAITING_FRAMES <= before < count
        replies = 0
        while replies < count:
            served.producer.deliver(len(served.producer.frames))
            with trio.move_on_after(0.05):
                while True:
                    assert await client.reply() == OK
                    replies += 1
    names = [json.loads(value)["payload"]["tag_name"][:3] for value in served.producer.delivered]
    assert names == [f"{index:03}" for index in range(count)]


async def test_the_unmodified_sdks_transport(served: Served) -> None:
    """It connects with deflate on offer, batches, gets its replies, and ends with all sent."""
    from matyan_client.transport.ws import WsTransport

    def use() -> dict[str, int]:
        transport = WsTransport(served.url, "sdk-run")
        transport.send_create_run()
        for step in range(250):
            transport.send_log_metric(
                "loss", 1 / (step + 1), step=step, context={"subset": "train"}
            )
        transport.send_log_metric("nan", float("nan"), step=0)
        transport.send_finish_run()
        transport.close()
        return transport.stats

    async def deliver() -> None:
        while True:
            if served.producer.frames:
                served.producer.deliver()
            await trio.sleep(0.005)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        stats = await trio.to_thread.run_sync(use)
        nursery.cancel_scope.cancel()
    assert stats == {"sent": 253, "dropped": 0, "pending": 0}
    records = [json.loads(value) for value in served.producer.delivered]
    assert [record["type"] for record in records[:2]] == ["create_run", "log_metric"]
    assert [record["payload"]["step"] for record in records[1:251]] == list(range(250))
    assert records[-1]["type"] == "finish_run"
