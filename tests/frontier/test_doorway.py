"""The doors over real sockets: at the edge, on the lane, and behind Hypercorn, where later requests of a connection go."""

from __future__ import annotations

import pytest

from matyan.frontier.app import create_app
from matyan.settings import Settings
from tests.frontier.conftest import Served, a_frontier
from tests.frontier.test_app import PRESIGN, client

EVIL = "https://evil.example"
UI = "https://ui.example"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


@pytest.mark.parametrize("path", ["/api/v1/ws/runs/r", "/elsewhere"])
@pytest.mark.parametrize(
    ("origin", "good"), [(EVIL, False), ("null", False), ("http://{}", True), (UI, True)]
)
async def test_a_page_opens_no_socket(path: str, origin: str, good: bool) -> None:
    """The handshake of a foreign page is 403 and says which setting would allow it."""
    async with a_frontier(settings=Settings(cors_origins=(UI,))) as served:
        here = f"127.0.0.1:{served.port}"
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {here}\r\nOrigin: {origin.format(here)}\r\n{UPGRADE}\r\n"
        )
        stream = await served.connect()
        async with stream:
            await stream.send_all(head.encode())
            answer = bytes(await stream.receive_some())
    if good:
        assert status(answer) == (101 if "ws" in path else 404)
    else:
        assert status(answer) == 403
        assert b"CORS_ORIGINS" in answer
        assert b"Vary: Origin" in answer


async def test_a_page_changes_nothing(served: Served) -> None:
    """Neither the first request of a connection, which the edge sees, nor one after it, which Hypercorn does."""
    body = {"run_id": "r", "artifact_path": "a"}
    async with client(served) as http:
        for _ in range(2):
            answer = await http.post(PRESIGN, json=body, headers={"Origin": EVIL})
            assert (answer.status_code, answer.headers["vary"]) == (403, "Origin")
            answer = await http.post(PRESIGN, json=body, headers={"Host": "rebound.example"})
            assert answer.status_code == 403
            assert "MATYAN_ALLOWED_HOSTS" in answer.json()["detail"]
            answer = await http.post(PRESIGN, content="{}", headers={"Content-Type": "text/plain"})
            assert answer.status_code == 415
            assert served.producer.frames == []
            assert (
                await http.get("/nowhere")
            ).status_code == 404  # now Hypercorn has the connection
        assert (await http.post(PRESIGN, json=body)).status_code == 200
        own = {"Origin": served.url}
        assert (await http.post(PRESIGN, json=body, headers=own)).status_code == 200


async def test_a_refused_upload_behind_hypercorn_ends(served: Served) -> None:
    """Its body is not read: the answer comes, and the connection ends."""
    head = f"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\nPUT /y HTTP/1.1\r\nHost: x\r\nOrigin: {EVIL}\r\nContent-Length: 9999999\r\n\r\n"
    answer = await served.talk(head.encode() + b"x" * 100_000)
    assert answer.count(b"HTTP/1.1 404 ") == 1
    assert answer.count(b"HTTP/1.1 403 ") == 1


async def test_a_name_that_points_here_opens_nothing(served: Served) -> None:
    """DNS rebinding: every page and the socket are 403 for it, health is not."""
    rebound = {"Host": f"rebound.example:{served.port}"}
    async with client(served) as http:
        for path in ("/metrics/", "/docs", "/api/v1/rest/version/", "/nowhere"):
            assert (await http.get(path, headers=rebound)).status_code == 403
        for path in ("/health/live/", "/health/live"):
            assert (await http.get(path, headers=rebound)).status_code == 200
    answer = await served.talk(
        f"GET /api/v1/ws/runs/r HTTP/1.1\r\nHost: rebound.example\r\n{UPGRADE}\r\n".encode()
    )
    assert status(answer) == 403


async def test_an_allowed_page_may_ask_first_and_then_write() -> None:
    async with a_frontier(settings=Settings(cors_origins=(UI,))) as served, client(served) as http:
        asks = {
            "Origin": UI,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "content-type",
        }
        first = await http.options(PRESIGN, headers=asks)
        assert first.status_code == 204
        assert first.headers["access-control-allow-headers"] == "content-type"
        then = await http.post(
            PRESIGN, json={"run_id": "r", "artifact_path": "a"}, headers={"Origin": UI}
        )
        assert then.status_code == 200
        assert then.headers["access-control-allow-origin"] == UI
        # A name that points here does not become better by an allowed page.
        rebound = await http.options(PRESIGN, headers={**asks, "Host": "rebound.example"})
        assert rebound.status_code == 403


async def test_every_answer_varies_by_origin() -> None:
    """Also one to nobody's page: a cache would give it to a page, without what CORS asks for."""
    async with a_frontier(settings=Settings(cors_origins=(UI,))) as served, client(served) as http:
        for headers in ({}, {"Origin": UI}, {"Origin": EVIL}):
            for path in ("/docs", "/nowhere", "/api/v1/ws/runs/r"):
                assert (await http.get(path, headers=headers)).headers.get_list("vary") == [
                    "Origin"
                ]


async def test_the_bare_app_judges_by_itself(served: Served) -> None:
    """Deployed without the edge: the same doors."""
    app = create_app(served.frontier.shared)
    async with app.test_app() as running:
        asker = running.test_client()
        answer = await asker.post(PRESIGN, json={}, headers={"Origin": EVIL})
        assert answer.status_code == 403
        assert (await asker.post(PRESIGN, json={})).status_code == 422
