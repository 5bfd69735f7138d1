"""One connection's trouble is nobody else's: hostile requests beside a socket that must not notice."""

from __future__ import annotations

import logging
import struct
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from quart.testing.connections import WebsocketDisconnectError
from trio.testing import MockClock

from matyan.blobs.folder import FolderBlobs
from matyan.frontier.app import create_app
from matyan.frontier.edge import drain
from matyan.settings import Settings
from tests.frontier.conftest import RawClient, Served, a_frontier
from tests.frontier.test_edge import OK, UPGRADE, masked, settle
from tests.frontier.test_session import tag
from tests.service.test_http1 import BAD

PROBE, APP = "/health/live/", "/nowhere"
PRESIGN = "/api/v1/rest/artifacts/presign"
JSON = "Content-Type: application/json"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    """With Hypercorn loaded and with uploads, which have the longest way."""
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with a_frontier(blobs=blobs, settings=Settings(blob_max_bytes=1 << 20)) as served:
        await served.frontier.http.web_loaded.wait()
        yield served


def get(path: str, *fields: str, method: str = "GET", body: bytes = b"") -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def upgrade(path: str, *fields: str) -> bytes:
    """A valid handshake, with further fields."""
    return (
        UPGRADE.format(path=path).encode()[:-2]
        + "".join(f"{field}\r\n" for field in fields).encode("latin-1")
        + b"\r\n"
    )


def h2_frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + struct.pack("!BBI", kind, flags, stream) + payload


H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c")
BLOB = "/api/v1/rest/artifacts/blob/r/a"
# What is sent, and the statuses of what is answered.
HOSTILE = {
    "a subprotocol that is not ASCII, on another path": (
        upgrade(APP, "Sec-WebSocket-Protocol: \xff"),
        [404],
    ),
    "a connection field that is not ASCII, on another path": (
        upgrade(APP, "Connection: \xff"),
        [404],
    ),
    "a handshake on another path": (upgrade(APP), [404]),
    "a handshake on another path with a byte behind": (upgrade(APP) + b"x", [404]),
    "a handshake on another path with a frame behind": (
        upgrade(APP) + masked(1, b"[]"),
        [404, 400],
    ),
    "a handshake on a probe's path with a frame behind": (
        upgrade(PROBE) + masked(1, b"[]"),
        [200, 400],
    ),
    "h2c with a setting of one letter": (get(APP, *H2C, "HTTP2-Settings: A"), [404]),
    "h2c with a setting of four": (get(APP, *H2C, "HTTP2-Settings: AAAA"), [404]),
    "h2c that is not ASCII": (get(APP, *H2C, "HTTP2-Settings: \xff"), [404]),
    "h2c without settings": (get("/docs", "Origin: http://x", *H2C), [200]),
    "h2c on a probe's path": (get(PROBE, *H2C, "HTTP2-Settings: A"), [200]),
    "h2c and the preface at once": (
        get(APP, *H2C, "HTTP2-Settings: AAMAAABk") + PREFACE,
        [404, 505],
    ),
    "HTTP/2": (PREFACE + h2_frame(4, 0, 0, b""), [505]),
    "HTTP/2 with a path that is not ASCII": (
        PREFACE + h2_frame(4, 0, 0, b"") + h2_frame(1, 5, 1, b"\x82\x86\x44\x01\xff\x41\x01x"),
        [505],
    ),
    "1,100 PRIORITY frames": (
        PREFACE
        + h2_frame(4, 0, 0, b"")
        + b"".join(h2_frame(2, 0, n, bytes(5)) for n in range(1, 2200, 2)),
        [505],
    ),
    "a refused upload whose body comes": (
        get(BLOB, "Content-Length: 100000", method="PUT", body=b"x" * 100_000),
        [403],
    ),
    "a refused upload in chunks": (
        get(BLOB, "Transfer-Encoding: chunked", method="PUT", body=b"5\r\nhello\r\n0\r\n\r\n"),
        [403],
    ),
    "a body where none is expected": (
        get(APP, "Content-Length: 300000", body=b"x" * 300_000),
        [404],
    ),
    "a body that is no chunk": (
        get(
            PRESIGN,
            JSON,
            "Transfer-Encoding: chunked",
            method="POST",
            body=b"zz\r\n",
        ),
        [400],
    ),
    "a chunk that is longer than its size": (
        get(
            PRESIGN,
            JSON,
            "Transfer-Encoding: chunked",
            method="POST",
            body=b"2\r\n{}GET /docs HTTP/1.1\r\nHost: x\r\n\r\n",
        ),
        [400],
    ),
    "an expectation": (
        get(BLOB, "Expect: 100-continue", "Content-Length: 5", method="PUT", body=b"hello"),
        [100, 403],
    ),
    "a content type that is not ASCII": (
        get(
            PRESIGN,
            "Content-Type: \xff",
            "Content-Length: 2",
            method="POST",
            body=b"[]",
        ),
        [415],
    ),
    "a cookie, a range and an origin that are none": (
        get("/docs", "Cookie: \xff=\xff; =", "Range: \xff", "Origin: \xff", "Accept: \xff"),
        [200],
    ),
    "an unknown method": (get(APP, method="FOO"), [404]),
    "all of the server": (get("*", method="OPTIONS"), [404]),
    "TLS": (b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03", [400]),
    "a path out of bytes": (get("/%ff%00%0d%0a"), [404]),
    "slashes more": (get("/docs//") + get("//docs") + get("//"), [200, 200, 404]),
    "JSON that is deep": (
        get(PRESIGN, JSON, "Content-Length: 60000", method="POST", body=b"[" * 60_000),
        [400],
    ),
}


def statuses(answer: bytes) -> list[int]:
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line.getMessage() for line in caplog.records if line.levelno >= logging.ERROR]


async def raw_talk(served: Served, data: bytes) -> bytes:
    """Sends it all, whatever is answered meanwhile, ends, and returns what comes."""
    stream = await served.connect()
    answer = b""

    async def send() -> None:
        try:
            await stream.send_all(data)
            await stream.send_eof()
        except trio.BrokenResourceError:
            pass

    with trio.fail_after(60):
        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(send)
            async for chunk in stream:
                answer += chunk
    return answer


async def assert_unharmed(served: Served, victim: RawClient) -> None:
    await victim.send(b"[]")
    with trio.fail_after(60):
        assert await victim.reply() == OK


@pytest.mark.parametrize(("data", "want"), HOSTILE.values(), ids=HOSTILE.keys())
async def test_whatever_arrives_ends_one_connection_at_most(
    served: Served, data: bytes, want: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    """Has its answer, no 500, and nothing of it in the log."""
    victim = await served.websocket()
    answer = await raw_talk(served, data)
    assert statuses(answer) == want
    assert errors(caplog) == []
    await assert_unharmed(served, victim)
    assert (await raw_talk(served, get(APP))).startswith(b"HTTP/1.1 404 ")


@pytest.mark.parametrize("cut", [0.1, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("data", [row[0] for row in HOSTILE.values()], ids=HOSTILE.keys())
async def test_and_cut_anywhere(served: Served, data: bytes, cut: float) -> None:
    victim = await served.websocket()
    await raw_talk(served, data[: int(len(data) * cut)])
    stream = await served.connect()
    with trio.CancelScope() as scope:
        scope.deadline = trio.current_time() + 0.01
        await stream.send_all(data[: int(len(data) * cut)])
    await trio.aclose_forcefully(stream)
    await assert_unharmed(served, victim)


BEFORE = {
    "first": b"",
    "behind a probe": get(PROBE),
    "behind a page": get(APP),
    "behind a body": get(APP, "Content-Length: 2", method="POST", body=b"{}"),
}


@pytest.mark.parametrize("before", BEFORE.values(), ids=BEFORE.keys())
@pytest.mark.parametrize("path", [PROBE, APP])
async def test_what_is_not_sound_is_refused_everywhere(
    served: Served, before: bytes, path: str
) -> None:
    """On a probe's path and the app's: 400 and the end, and nothing behind it is read as a request."""
    for name, raw in BAD.items():
        raw = raw.replace(b" / ", f" {path} ".encode())
        with trio.fail_after(60):
            answer = await served.talk(before + raw + get(PROBE))
        assert statuses(answer)[-1] == 400, name
        assert len(statuses(answer)) == (2 if before else 1), name


@pytest.mark.parametrize("path", [PROBE, APP, "/docs"])
async def test_an_empty_line_between_requests_is_ignored(served: Served, path: str) -> None:
    """Also after a body (RFC 9112, 2.2)."""
    post = get(path, "Content-Length: 2", method="POST", body=b"{}")
    answer = await raw_talk(served, b"\r\n" + post + b"\r\n" + get(path) + b"\r\n\r\n" + get(PROBE))
    assert len(statuses(answer)) == 3
    assert statuses(answer)[-1] == 200


async def test_absolute_targets_work_everywhere(served: Served) -> None:
    """Probes, app and lane; the host of the target counts."""
    base = "http://x:1"
    answer = await raw_talk(served, get(base + PROBE) + get(base + APP))
    assert statuses(answer) == [200, 404]
    body = b'{"run_id":"r","artifact_path":"a"}'
    answer = await raw_talk(
        served,
        get(
            base + PRESIGN,
            JSON,
            f"Content-Length: {len(body)}",
            method="POST",
            body=body,
        ),
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b'"upload_url":"http://x:1/' in answer


@pytest.mark.parametrize(
    ("host", "want"), [("x:1", "http://x:1/"), ("x:", "http://x/"), ("[::1]:", "http://[::1]/")]
)
async def test_an_upload_goes_to_the_host_that_was_named(
    served: Served, host: str, want: str
) -> None:
    body = b'{"run_id":"r","artifact_path":"a"}'
    fields = (JSON, f"Content-Length: {len(body)}")
    ask = get(PRESIGN, *fields, method="POST", body=body).replace(
        b"Host: x", f"Host: {host}".encode()
    )
    answer = await raw_talk(served, ask)
    assert f'"upload_url":"{want}api/'.encode() in answer


@pytest.mark.parametrize("path", [PRESIGN, "/" + PRESIGN, PRESIGN.replace("p", "%70")])
async def test_a_json_route_asks_for_json_however_it_is_written(served: Served, path: str) -> None:
    body = b'{"run_id":"r","artifact_path":"a"}'
    fields = ("Content-Type: text/plain", f"Content-Length: {len(body)}")
    assert statuses(await raw_talk(served, get(path, *fields, method="POST", body=body))) == [415]


async def test_without_a_host_there_is_no_upload() -> None:
    """Rather than a URL that leads nowhere."""
    async with a_frontier(settings=Settings(allowed_hosts=("*",))) as served:
        body = b'{"run_id":"r","artifact_path":"a"}'
        fields = f"{JSON}\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        for host in (b"Host:\r\n", b"Host: a;b\r\n"):
            ask = b"POST " + PRESIGN.encode() + b" HTTP/1.1\r\n" + host + fields + body
            assert statuses(await raw_talk(served, ask)) == [400]


@pytest.mark.parametrize("base", ["http://x", "ws://x:1", ""])
@pytest.mark.parametrize("path", ["/api/v1/ws/runs/r", "/api/v1/ws/run%73/r"])
async def test_a_frame_behind_the_handshake_is_answered(
    served: Served, base: str, path: str
) -> None:
    """However the path is written: the lane has it, and closes as it does."""
    stream = await served.connect()
    await stream.send_all(
        upgrade(base + path) + masked(1, b"[]") + masked(2, b"x") + masked(8, b"")
    )
    answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert answer.index(b'{"status":"ok"') < answer.index(b"messages are text frames")


@pytest.mark.parametrize(
    "field",
    [
        "Connection: \xff",
        "Connection: Upgrade\xff",
        "Upgrade: \xff",
        "Sec-WebSocket-Protocol: \xff",
        "Sec-WebSocket-Extensions: \xff",
        "Sec-WebSocket-Key: \xff",
        "Sec-WebSocket-Version: \xff",
        "Sec-WebSocket-Key: A",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Content-Length: 2",
        "Transfer-Encoding: chunked",
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=\xff",
        "Sec-WebSocket-Protocol: a b c",
    ],
)
async def test_a_handshake_with_a_bad_field_is_400(served: Served, field: str) -> None:
    victim = await served.websocket()
    name = field.partition(":")[0]
    whole = upgrade("/api/v1/ws/runs/r", field)
    if name in {"Upgrade", "Sec-WebSocket-Version"}:  # in place of the good one
        lines = whole.split(b"\r\n")
        kept = [line for line in lines if not line.startswith(name.encode() + b":")]
        whole = b"\r\n".join([*kept[:-2], field.encode("latin-1"), b"", b""])
    assert statuses(await served.talk(whole)) == [400]
    await assert_unharmed(served, victim)


@pytest.mark.parametrize("path", [PROBE, APP])
@pytest.mark.parametrize(
    ("begun", "seconds", "want"),
    [(b"", 60, None), (b"\r\n", 60, None), (b"GET /", 10, 408), (b"PRI * HT", 10, 408)],
)
async def test_a_connection_has_a_deadline_after_an_answer_too(
    mock_clock: MockClock, path: str, begun: bytes, seconds: int, want: int | None
) -> None:
    """Whoever gave the answer: the silence of 60 s, and the 10 s for a head that has begun."""
    async with a_frontier() as served:
        await served.frontier.http.web_loaded.wait()
        stream = await served.connect()
        await stream.send_all(get(path))
        assert (await stream.receive_some()).startswith((b"HTTP/1.1 200", b"HTTP/1.1 404"))
        await stream.send_all(begun)
        await settle(mock_clock, seconds - 1)
        assert len(served.frontier.http.streams) == 1
        mock_clock.jump(2)
        answer = b"".join([chunk async for chunk in stream])
        assert statuses(answer) == ([] if want is None else [want])


async def test_a_request_at_hand_is_answered_during_a_drain(served: Served) -> None:
    """And is the last of its connection."""
    stream = await served.connect()
    body = b'{"run_id":"r","artifact_path":"a"}'
    ask = get(PRESIGN, JSON, f"Content-Length: {len(body)}", method="POST", body=body)
    await stream.send_all(ask[:-1])
    while not served.frontier.http.streams or served.frontier.http.idle:
        await trio.lowlevel.checkpoint()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(drain, served.frontier, trio.current_time() + 60)
        await trio.testing.wait_all_tasks_blocked(0.01)
        await stream.send_all(ask[-1:] + get(PROBE))
        answer = b"".join([chunk async for chunk in stream])
        assert statuses(answer) == [200]
        await stream.aclose()
        served.producer.deliver()


async def test_on_the_bare_app_a_binary_frame_closes_after_the_reply_before_it(
    served: Served,
) -> None:
    app = create_app(served.frontier.shared)
    async with app.test_app() as running:
        client = running.test_client()
        connection = client.websocket("/api/v1/ws/runs/r", headers={"Host": "x"})
        async with connection as socket:
            await socket.send(tag("a").decode())
            await served.handed(1)
            await socket.send(b"binary")
            await trio.testing.wait_all_tasks_blocked(0.01)
            served.producer.deliver()
            assert '"ok"' in await socket.receive()
            with pytest.raises(WebsocketDisconnectError) as caught:
                await socket.receive()
            assert caught.value.args == (1003,)


# --- what is raised nevertheless -----------------------------------------------------------------


async def test_what_a_handler_raises_is_logged_once(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    """With the connection and the exception's class; the others go on."""
    assert served.frontier.http.web is not None

    async def broken(exchange: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            raise ZeroDivisionError("a bug")

    served.frontier.http.web.handle = broken
    victim = await served.websocket()
    assert await raw_talk(served, get(APP)) == b""
    (line,) = errors(caplog)
    assert "ZeroDivisionError" in line
    assert "127.0.0.1" in line
    await assert_unharmed(served, victim)


async def test_what_a_handler_raises_during_a_drain_does_not_end_it(served: Served) -> None:
    """Though the drain cancels it, and both come in one group."""
    assert served.frontier.http.web is not None
    begun = trio.Event()

    async def broken(exchange: object) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            begun.set()
            try:
                await trio.sleep_forever()
            finally:
                raise ZeroDivisionError("a bug")

    served.frontier.http.web.handle = broken
    stream = await served.connect()
    await stream.send_all(get(APP))
    await begun.wait()
    assert await drain(served.frontier, trio.current_time() + 0.1) == 0
    await trio.sleep(0.05)


@pytest.mark.parametrize("where", ["frame", "reply", "sweep", "drain", "task"])
async def test_what_a_connection_raises_ends_that_one_alone(
    served: Served, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever calls it: the reader of all sockets, the producer, the sweeper, the drain, a task of its own."""
    victim, other = await served.websocket("victim"), await served.websocket("other")
    while len(served.frontier.lane.connections) < 2:
        await trio.lowlevel.checkpoint()
    (connection,) = [one for one in served.frontier.lane.connections if one._session.run == "other"]
    match where:
        case "frame":
            connection._messages = cast(Any, None)
            await other.send(tag("a"))
        case "reply":
            await other.send(tag("a"))
            await served.handed(1)
            connection._out = cast(Any, 5)
            served.producer.deliver()
        case "sweep":
            connection._heard = cast(Any, None)
        case "drain":
            connection._farewell = cast(Any, 5)
            connection.drain()
        case "task":
            connection._spawn(partial(trio.to_thread.run_sync, int, "no number"))
    assert await other.event() is None
    (line,) = errors(caplog)
    assert any(name in line for name in ("AttributeError", "TypeError", "ValueError"))
    assert "run='other'" in line
    await assert_unharmed(served, victim)
