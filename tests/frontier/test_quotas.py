"""Quotas on real sockets: whose replies are held back, who is not read, who is refused, and that a neighbour notices nothing.

The rules without a socket: test_pacing.py.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import trio
from quart.testing import WebsocketResponseError
from trio.testing import MockClock
from websockets.frames import Frame, Opcode

from matyan.blobs.base import Blobs
from matyan.blobs.folder import FolderBlobs
from matyan.frontier.app import create_app
from matyan.frontier.edge import drain
from matyan.frontier.intake import TOKEN_SHARE, UNREAD_S
from matyan.service.accounts import HOLD_S, RETRY_CONNECTION_S
from matyan.service.quotas import read_quota
from matyan.service.tokens import Scope, Token, digest, dump
from matyan.settings import Settings
from tests.frontier.conftest import RawClient, Served, a_frontier
from tests.frontier.hand import HandProducer
from tests.frontier.test_edge import settle
from tests.frontier.test_pacing import tags

OK = {"status": "ok", "error": None}
PRESIGN = "/api/v1/rest/artifacts/presign"


@asynccontextmanager
async def a_guarded_frontier(
    folder: Path,
    quotas: Mapping[str, str],
    capacity: int = 1 << 26,
    blobs: Blobs | None = None,
) -> AsyncIterator[Served]:
    """Each name's token is the name itself; "" is no quota."""
    tokens = {
        name: Token(
            name,
            digest(name),
            frozenset({Scope.WRITE}),
            0.0,
            quota=read_quota(quota) if quota else None,
        )
        for name, quota in quotas.items()
    }
    (folder / "tokens").write_bytes(dump(tokens))
    settings = Settings(tokens_file=str(folder / "tokens"))
    async with a_frontier(HandProducer(capacity), settings, blobs) as served:
        yield served


def basic(name: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{name}".encode()).decode()


async def join(served: Served, name: str, run: str = "run-1") -> RawClient:
    client = RawClient(await served.connect(), run, served.port)
    request = client.protocol.connect()
    request.headers["Authorization"] = basic(name)
    client.protocol.connect = lambda: request
    await client.shake_hands()
    return client


def client_of(served: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=served.url, auth=("ci", "ci"), timeout=60)


async def shake(served: Served, name: str, version: int = 13) -> tuple[bytes, trio.SocketStream]:
    """The head of the answer to a handshake, and its connection."""
    stream = await served.connect()
    await stream.send_all(
        b"GET /api/v1/ws/runs/r HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        + f"Sec-WebSocket-Version: {version}\r\nAuthorization: {basic(name)}\r\n\r\n".encode()
    )
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += await stream.receive_some()
    return answer, stream


async def test_over_a_quota_the_reply_waits_and_pings_are_answered(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    """Beside it a token without a quota, and a frame of the same token on another connection, which waits for both."""
    async with a_guarded_frontier(tmp_path, {"ci": "messages=10/s", "me": ""}) as served:
        flooder, other = await join(served, "ci"), await join(served, "ci")
        neighbour = await join(served, "me")
        await flooder.send(tags(30))
        await served.handed(1)
        served.producer.deliver()
        await other.send(tags(10))
        await neighbour.send(tags(1000))
        await served.handed(2)
        served.producer.deliver(2)
        assert await neighbour.reply() == OK
        await settle(mock_clock, 1.5)
        assert flooder.events == []
        await flooder.stream.send_all(b"\x89\x81\x00\x00\x00\x00p")
        pong = await flooder.event()
        assert isinstance(pong, Frame)
        assert pong.opcode is Opcode.PONG
        await settle(mock_clock, 0.5)
        assert await flooder.reply() == OK
        await settle(mock_clock, 1)
        assert await other.reply() == OK


async def test_however_much_is_owed_a_reply_comes_in_time(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    async with a_guarded_frontier(tmp_path, {"ci": "bytes=1kB/s"}) as served:
        client = await join(served, "ci")
        for _ in range(3):
            frame = tags(1000)
            await client.send(frame)
            await served.handed(1)
            served.producer.deliver()
            await settle(mock_clock, HOLD_S - 0.5)
            assert client.events == []
            await client.stream.send_all(b"\x89\x81\x00\x00\x00\x00p")
            pong = await client.event()
            assert isinstance(pong, Frame)
            assert pong.opcode is Opcode.PONG, "a reply already"
            await settle(mock_clock, 0.5)
            assert await client.reply() == OK


async def test_a_client_that_does_not_wait_for_its_replies_is_not_read(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    """Its next frame stays on the wire until a reply was paid for; nothing of it is lost."""
    async with a_guarded_frontier(tmp_path, {"ci": "messages=10/s"}) as served:
        client = await join(served, "ci")
        for frames in (1, 2):
            await client.send(tags(20))
            await served.handed(frames)
        served.producer.deliver(2)
        await client.send(tags(20))
        await settle(mock_clock, 0.5)
        assert served.producer.frames == []
        await settle(mock_clock, 0.5)
        await served.handed(1)
        assert await client.reply() == OK
        served.producer.deliver()
        await settle(mock_clock, 5)
        assert [await client.reply() for _ in range(2)] == [OK, OK]


async def test_one_frame_again_and_again_is_not_read_for_ever(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    async with a_guarded_frontier(tmp_path, {"ci": "messages=10/s"}) as served:
        client = await join(served, "ci")
        frame = tags(60)
        for _ in range(20):
            await client.send(frame)
            await trio.testing.wait_all_tasks_blocked(0.001)
        (connection,) = served.frontier.lane.connections
        assert connection._session.crowded
        assert connection._sock.fileno() not in served.frontier.lane._sockets
        assert len(served.producer.frames) == 1
        served.producer.deliver()
        await settle(mock_clock, HOLD_S)
        assert await client.reply() == OK
        await served.handed(1)  # it is read again: the next copy is a new frame now


async def test_a_drain_gives_what_is_held_back(mock_clock: MockClock, tmp_path: Path) -> None:
    async with a_guarded_frontier(tmp_path, {"ci": "messages=1/s"}) as served:
        client = await join(served, "ci")
        await client.send(tags(50))
        await served.handed(1)
        served.producer.deliver()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain, served.frontier, trio.current_time() + 5)
            assert await client.reply() == OK
            assert await client.close_code() == 1001


async def test_whoever_leaves_while_a_reply_is_held_has_stored_its_frame(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    """And pays for it: a client that connects anew for each frame is no faster."""
    async with a_guarded_frontier(tmp_path, {"ci": "messages=10/s,connections=2"}) as served:
        for _ in range(2):
            client = await join(served, "ci")
            await client.send(tags(20))
            await served.handed(1)
            served.producer.deliver()
            await client.stream.aclose()
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert len(served.producer.delivered) == 40
        client = await join(served, "ci")
        await client.send(tags(10))
        await served.handed(1)
        served.producer.deliver()
        await settle(mock_clock, 3.5)
        assert client.events == []
        await settle(mock_clock, 0.5)
        assert await client.reply() == OK


async def test_connections_over_the_number_are_refused_and_come_in_when_one_has_left(
    tmp_path: Path,
) -> None:
    """503, which the SDK tries again (after 429 it gives up for the rest of its run), with the limit and when to come again. A
    handshake that came to nothing is not counted."""
    async with a_guarded_frontier(tmp_path, {"ci": "connections=2", "me": ""}) as served:
        for _ in range(3):
            answer, stream = await shake(served, "ci", version=12)
            assert answer.startswith(b"HTTP/1.1 4")
            await stream.aclose()
        clients = [await join(served, "ci") for _ in range(2)]
        for _ in range(2):
            answer, stream = await shake(served, "ci")
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert f"Retry-After: {RETRY_CONNECTION_S}\r\n".encode() in answer
            answer += b"".join([piece async for piece in stream])
            assert b"The token ci has 2 connections already, and may have 2 at a time" in answer
            await stream.aclose()
        await join(served, "me")
        await clients[0].stream.aclose()
        while len(served.frontier.lane.connections) > 2:
            await trio.lowlevel.checkpoint()
        await join(served, "ci")


async def test_a_token_with_a_quota_cannot_fill_the_queue_for_the_others(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    """While the broker is away: its frames wait on the wire as if the queue were full, and go on when there is room."""
    async with a_guarded_frontier(tmp_path, {"ci": "messages=1000000/s", "me": ""}) as served:
        budget = served.producer.budget
        budget.queued = 0
        flooders = [await join(served, "ci", f"run-{i}") for i in range(4)]
        await flooders[0].send(tags(100))
        await served.handed(1)
        budget.capacity = int(1.5 * budget.queued / TOKEN_SHARE)
        for flooder in flooders[1:]:
            await flooder.send(tags(100))
            await settle(mock_clock, 0.5)
        assert len(served.producer.frames) == 2
        neighbour = await join(served, "me")
        await neighbour.send(tags(100))
        await served.handed(3)
        served.producer.deliver(3)
        assert await neighbour.reply() == OK
        await served.handed(2)
        served.producer.deliver(2)
        for flooder in flooders:
            assert await flooder.reply() == OK


async def test_what_waits_for_its_share_is_read_before_its_client_gives_up(
    mock_clock: MockClock, tmp_path: Path
) -> None:
    """As with a full queue: pings are answered after UNREAD_S, a resend gets the place of the frame."""
    async with a_guarded_frontier(tmp_path, {"ci": "messages=1000000/s"}, 1000) as served:
        served.producer.budget.queued = 0
        first, second = [await join(served, "ci", run) for run in ("a", "b")]
        await first.send(tags(20))
        await served.handed(1)
        frame = tags(1)
        await second.send(frame)
        await settle(mock_clock, UNREAD_S + 1)
        await second.send(frame)
        await settle(mock_clock, 1)
        assert len(served.producer.frames) == 1
        served.producer.deliver()
        await served.handed(1)
        served.producer.deliver()
        assert await first.reply() == OK
        assert await second.reply() == OK


async def test_presigned_uploads_are_messages_too(mock_clock: MockClock, tmp_path: Path) -> None:
    async with (
        a_guarded_frontier(tmp_path, {"ci": "messages=1/s"}) as served,
        client_of(served) as http,
    ):
        body = {"run_id": "r", "artifact_path": "a"}
        assert (await http.post(PRESIGN, json=body)).status_code == 200
        answers = []

        async def ask() -> None:
            answers.append(await http.post(PRESIGN, json=body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert answers == []
            await settle(mock_clock, 1)
        assert answers[0].status_code == 200


async def test_no_blobs_are_signed_for_whom_may_have_none(tmp_path: Path) -> None:
    async with (
        a_guarded_frontier(tmp_path, {"ci": "blobs=0B/day"}) as served,
        client_of(served) as http,
    ):
        answer = await http.post(PRESIGN, json={"run_id": "r", "artifact_path": "a"})
        assert answer.status_code == 413
        assert "The token ci may put 0B of blobs in a day" in answer.json()["detail"]
        assert served.producer.frames == []


async def put(
    http: httpx.AsyncClient, name: str, content: bytes | AsyncIterator[bytes]
) -> httpx.Response:
    """Signed and put, as the SDK does: without a credential of its own."""
    body = {"run_id": "r", "artifact_path": name, "content_type": "image/x"}
    answer = await http.post(PRESIGN, json=body)
    if answer.status_code != 200:
        return answer
    return await http.put(
        answer.json()["upload_url"], content=content, headers={"Content-Type": "image/x"}, auth=None
    )


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 1000):
        yield data[start : start + 1000]


async def test_the_bytes_of_a_day_are_counted_where_they_are_put(tmp_path: Path) -> None:
    """With a length or in pieces; what is refused says the limit and when to come again, and leaves nothing behind."""
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with (
        a_guarded_frontier(tmp_path, {"ci": "blobs=10kB/day"}, blobs=blobs) as served,
        client_of(served) as http,
    ):
        day = served.frontier.shared.accounts.day
        too_large = await put(http, "d", b"x" * 10_001)
        assert (too_large.status_code, "Retry-After" in too_large.headers) == (413, False)
        assert (await put(http, "a", b"x" * 4000)).status_code == 200
        assert (await put(http, "b", in_pieces(b"x" * 4000))).status_code == 200
        for content in (b"x" * 2001, in_pieces(b"x" * 3000)):
            refused = await put(http, "c", content)
            assert refused.status_code == 429
            assert 0 < int(refused.headers["Retry-After"]) <= 86_400
            assert "The token ci may put 10kB of blobs in a day (UTC)" in refused.json()["detail"]
        assert blobs.held("r", "c") is None
        # What came of the refused one in pieces before the limit counts.
        assert 8000 <= day.used("ci") <= 10_000
        day.count("ci", -2000)
        assert (await put(http, "a", b"x" * (10_000 - day.used("ci")))).status_code == 200
        signed = await http.post(PRESIGN, json={"run_id": "r", "artifact_path": "e"})
        assert signed.status_code == 429
        assert "Retry-After" in signed.headers


async def test_uploads_to_a_bucket_are_not_counted_and_somebody_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        a_guarded_frontier(tmp_path, {"ci": "blobs=1B/day"}) as served,
        client_of(served) as http,
    ):
        for _ in range(3):
            answer = await http.post(PRESIGN, json={"run_id": "r", "artifact_path": "a"})
            assert answer.status_code == 200
    assert sum("not counted against a quota" in line for line in caplog.messages) == 1


async def test_whom_an_upload_counts_for_cannot_be_changed(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with (
        a_guarded_frontier(tmp_path, {"ci": "blobs=1kB/day", "me": ""}, blobs=blobs) as served,
        client_of(served) as http,
    ):
        answer = await http.post(PRESIGN, json={"run_id": "r", "artifact_path": "a"})
        url = answer.json()["upload_url"]
        assert "&for=ci&" in url
        for other in (url.replace("&for=ci", ""), url.replace("for=ci", "for=me"), url + "&for=me"):
            assert (await http.put(other, content=b"x" * 2000, auth=None)).status_code == 403
        assert (await http.put(url, content=b"x" * 2000, auth=None)).status_code == 413


async def test_uploads_at_one_time_keep_within_the_day(tmp_path: Path) -> None:
    """An upload counts for what it declares from its beginning; one that is given up for what has come."""
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with (
        a_guarded_frontier(tmp_path, {"ci": "blobs=10kB/day"}, blobs=blobs) as served,
        client_of(served) as http,
    ):
        answer = await http.post(PRESIGN, json={"run_id": "r", "artifact_path": "a"})
        target = answer.json()["upload_url"].removeprefix(served.url)
        day = served.frontier.shared.accounts.day
        stream = await served.connect()
        await stream.send_all(
            f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 9000\r\n\r\n".encode()
            + b"x" * 500
        )
        while day.used("ci") != 9000:
            await trio.lowlevel.checkpoint()
        assert (await put(http, "b", b"x" * 2000)).status_code == 429
        await stream.aclose()
        while day.used("ci") == 9000:
            await trio.lowlevel.checkpoint()
        assert day.used("ci") <= 500
        assert (await put(http, "b", b"x" * 2000)).status_code == 200


async def test_the_bare_app_has_quotas_too(mock_clock: MockClock, tmp_path: Path) -> None:
    """Held back, and refused at the handshake, on the route of the app."""
    async with a_guarded_frontier(tmp_path, {"ci": "messages=10/s,connections=1"}) as served:
        app = create_app(served.frontier.shared)
        headers = {"Authorization": basic("ci")}
        async with app.test_app() as running:
            client = running.test_client()
            async with client.websocket("/api/v1/ws/runs/run-1", headers=headers) as socket:
                await socket.send(tags(30).decode())
                await served.handed(1)
                served.producer.deliver()
                with pytest.raises(ExceptionGroup) as caught:
                    async with client.websocket("/api/v1/ws/runs/r", headers=headers) as second:
                        await second.receive()
                assert caught.group_contains(WebsocketResponseError)
                replies: list[object] = []

                async def receive() -> None:
                    replies.append(json.loads(await socket.receive()))

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(receive)
                    await settle(mock_clock, 1.5)
                    assert replies == []
                    await settle(mock_clock, 0.5)
                assert replies == [OK]
