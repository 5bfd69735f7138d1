"""The HTTP side over a real socket: presign, probes, CORS, and the WebSocket route of the bare app."""

from __future__ import annotations

import json
import subprocess
import sys

import httpx
import pytest
import trio
from quart.testing import WebsocketResponseError
from trio.testing import MockClock

from matyan.frontier.app import create_app
from matyan.settings import Settings
from tests.frontier.conftest import Served, a_frontier
from tests.frontier.hand import HandProducer
from tests.frontier.test_session import tag

PRESIGN = "/api/v1/rest/artifacts/presign"
JSON = "Content-Type: application/json\r\n"


def client(served: Served) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=served.url, timeout=60)


async def test_presign_signs_and_publishes_the_blob_ref(served: Served) -> None:
    """s3_key is run_id/artifact_path, the URL has the host that the client named, the record does not delay it."""
    async with client(served) as http:
        answer = await http.post(
            PRESIGN, json={"run_id": "r", "artifact_path": "a/ü.png", "content_type": "image/png"}
        )
    assert answer.status_code == 200
    assert answer.json() == {
        "upload_url": f"{served.url}/put/r/a/ü.png",
        "s3_key": "r/a/ü.png",
        "headers": None,
    }
    ((key, (record,), _),) = served.producer.frames
    assert key == b"r"
    assert json.loads(record)["type"] == "blob_ref"
    assert json.loads(record)["payload"] == {
        "s3_key": "r/a/ü.png",
        "artifact_path": "a/ü.png",
        "content_type": "image/png",
    }


async def test_presign_leaves_the_record_to_the_client_if_it_is_told_to() -> None:
    settings = Settings(presign_blob_ref="client", public_url="https://t.example/")
    async with a_frontier(settings=settings) as served, client(served) as http:
        answer = await http.post(PRESIGN + "/", json={"run_id": "r", "artifact_path": "a"})
        assert answer.json()["upload_url"] == "https://t.example/put/r/a"
        assert served.producer.frames == []


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("{", 400, "JSON"),
        ("[]", 422, "object"),
        ("{}", 422, "run_id"),
        ('{"run_id": "r"}', 422, "artifact_path"),
        ('{"run_id": 5, "artifact_path": "a"}', 422, "run_id"),
        ('{"run_id": "r/s", "artifact_path": "a"}', 422, "run_id"),
        ('{"run_id": "r", "artifact_path": "a/../b"}', 422, ".."),
        ('{"run_id": "r", "artifact_path": "a\\u0000"}', 422, "control"),
        ('{"run_id": "r", "artifact_path": "' + "x" * 1023 + '"}', 422, "1,024"),
        ('{"run_id": "r", "artifact_path": "\\ud800"}', 422, "artifact_path"),
        ('{"run_id": "r", "artifact_path": "a", "content_type": null}', 422, "content_type"),
        ('{"run_id": "r", "artifact_path": "a", "content_type": "a\\r\\nb"}', 422, "content_type"),
        ("x" * 70_000, 413, ""),
    ],
)
async def test_presign_says_what_is_wrong(
    served: Served, body: str, status: int, says: str
) -> None:
    async with client(served) as http:
        answer = await http.post(
            PRESIGN, content=body, headers={"Content-Type": "application/json; charset=utf-8"}
        )
    assert answer.status_code == status
    assert says in answer.json()["detail"]
    assert served.producer.frames == []


async def test_presign_waits_for_room_and_then_says_503(mock_clock: MockClock) -> None:
    async with a_frontier(HandProducer(capacity_bytes=10)) as served:
        await served.frontier.http.web_loaded.wait()
        answers: list[bytes] = []

        async def ask() -> None:
            body = b'{"run_id":"r","artifact_path":"a"}'
            head = f"POST {PRESIGN} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{JSON}Content-Length: {len(body)}\r\n\r\n"
            answers.append(await served.talk(head.encode() + body))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            for _ in range(25):
                await trio.testing.wait_all_tasks_blocked(0.005)
                mock_clock.jump(1)
        assert answers[0].startswith(b"HTTP/1.1 503 ")
        assert b"queue" in answers[0]


async def test_a_body_that_never_comes_is_given_up(mock_clock: MockClock) -> None:
    """408 within bounded time, and the connection ends."""
    async with a_frontier() as served:
        await served.frontier.http.web_loaded.wait()
        stream = await served.connect()
        await stream.send_all(
            f"POST {PRESIGN} HTTP/1.1\r\nHost: x\r\n{JSON}Content-Length: 9\r\n\r\n".encode()
        )
        for _ in range(35):
            await trio.testing.wait_all_tasks_blocked(0.005)
            mock_clock.jump(1)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(3)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert served.frontier.http.streams == set()


@pytest.mark.parametrize("slash", ["", "/"])
@pytest.mark.parametrize("headers", [{}, {"Origin": "https://other.example"}])
async def test_the_probes_answer_with_and_without_the_last_slash(
    served: Served, slash: str, headers: dict[str, str]
) -> None:
    """From the edge, and (a request with an origin) from the app: the same pages."""
    await trio.testing.wait_all_tasks_blocked(0.01)  # until the checks were asked
    async with client(served) as http:
        version = await http.get("/api/v1/rest/version" + slash, headers=headers)
        assert version.status_code == 200
        assert version.json().keys() == {"version", "component"}
        assert version.json()["component"] == "frontier"
        live = await http.get("/health/live" + slash, headers=headers)
        assert live.json() == {"status": "ok", "checks": {"producer": "ok", "loop": "ok"}}
        ready = await http.get("/health/ready" + slash, headers=headers)
        assert (ready.status_code, ready.json()["checks"]) == (200, {"queue": "ok"})
        metrics = await http.get("/metrics" + slash, headers=headers)
        assert "matyan_ws_connections_active 0.0" in metrics.text
        asked = {**(headers or {}), "Accept": "application/openmetrics-text"}
        metrics = await http.get("/metrics" + slash, headers=asked)
        assert metrics.headers["content-type"].startswith("application/openmetrics-text; version=1")
        assert metrics.text.endswith("# EOF\n")
        docs = await http.get("/docs" + slash, headers=headers)
        assert docs.status_code == 200
        assert docs.headers["content-type"].startswith("text/html")


async def test_ready_turns_503_when_draining(served: Served) -> None:
    served.frontier.shared.health.draining = True
    async with client(served) as http:
        answer = await http.get("/health/ready/")
    assert answer.status_code == 503
    assert answer.json()["checks"]["draining"] != "ok"


async def test_metrics_can_be_switched_off() -> None:
    settings = Settings(metrics_enabled=False)
    async with a_frontier(settings=settings) as served, client(served) as http:
        assert (await http.get("/metrics/")).status_code == 404


async def test_requests_are_counted_by_their_route(served: Served) -> None:
    async with client(served) as http:
        await http.get("/nowhere/17")
        await http.post(PRESIGN, json={"run_id": "r", "artifact_path": "a"})
        text = (await http.get("/metrics/")).text
    template = f'path_template="{PRESIGN}"'
    assert f'matyan_http_requests_total{{method="POST",{template},status_class="2xx"}}' in text
    assert 'path_template="unmatched",status_class="4xx"' in text
    assert "nowhere" not in text


async def test_what_is_not_there_is_404_in_json(served: Served) -> None:
    async with client(served) as http:
        answer = await http.get("/nowhere")
        assert (answer.status_code, set(answer.json())) == (404, {"detail"})
        answer = await http.get("/api/v1/ws/runs/r")
        assert (answer.status_code, set(answer.json())) == (426, {"detail"})
        answer = await http.put(PRESIGN)
        assert (answer.status_code, set(answer.json())) == (405, {"detail"})


async def test_one_connection_asks_edge_and_app_in_turn(served: Served) -> None:
    """Keep-alive, also from the edge to Hypercorn in the middle of pipelined requests."""
    get = "GET {} HTTP/1.1\r\nHost: x\r\n\r\n"
    close = "GET {} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    requests = get.format("/docs") + get.format("/nowhere") + close.format("/api/v1/rest/version/")
    answer = await served.talk(requests.encode())
    assert answer.count(b"HTTP/1.1 200 ") == 2
    assert answer.count(b"HTTP/1.1 404 ") == 1
    assert b'"component"' in answer


async def test_cors_is_for_the_origins_of_the_settings() -> None:
    settings = Settings(cors_origins=("https://ui.example",))
    async with a_frontier(settings=settings) as served, client(served) as http:
        good = {"Origin": "https://ui.example", "Access-Control-Request-Method": "POST"}
        answer = await http.options(PRESIGN, headers=good)
        assert answer.status_code == 204
        assert answer.headers["access-control-allow-origin"] == "https://ui.example"
        answer = await http.get("/api/v1/rest/version/", headers=good)
        assert answer.headers["access-control-allow-origin"] == "https://ui.example"
        bad = {**good, "Origin": "https://evil.example"}
        assert (
            "access-control-allow-origin" not in (await http.options(PRESIGN, headers=bad)).headers
        )


async def test_cors_for_everybody() -> None:
    async with a_frontier(settings=Settings(cors_origins=("*",))) as served, client(served) as http:
        answer = await http.get("/docs", headers={"Origin": "https://any.example"})
        assert answer.headers["access-control-allow-origin"] == "https://any.example"
        assert "access-control-allow-credentials" not in answer.headers


async def test_the_bare_app_has_the_websocket_route(served: Served) -> None:
    """The same session: replies held back, in order, a binary message refused."""
    app = create_app(served.frontier.shared)
    async with app.test_app() as running:
        connection = running.test_client().websocket("/api/v1/ws/runs/run-1")
        async with connection as socket:
            await socket.send(tag("a").decode())
            await served.handed(1)
            await socket.send("[]")
            served.producer.deliver()
            assert json.loads(await socket.receive()) == {"status": "ok", "error": None}
            assert json.loads(await socket.receive()) == {"status": "ok", "error": None}


async def test_the_bare_app_refuses_a_bad_run_id(served: Served) -> None:
    """Over HTTP/1.1 the edge never lets it come to that; the route says the same by itself."""
    client = create_app(served.frontier.shared).test_client()
    with pytest.raises(ExceptionGroup) as caught:
        async with client.websocket("/api/v1/ws/runs/a/b") as socket:
            await socket.receive()
    assert caught.group_contains(WebsocketResponseError)


def test_the_frontier_imports_neither_store_nor_blob_content() -> None:
    """Nor the web framework, which the edge loads when it already listens."""
    code = (
        "import sys, matyan.frontier.edge; edge = set(sys.modules);"
        "import matyan.frontier.app; app = set(sys.modules);"
        "engines = {'rocksdict', 'fdb', 'boto3', 'matyan.store.rocks', 'matyan.store.fdb',"
        " 'matyan.blobs.folder', 'matyan.blobs.s3', 'confluent_kafka'};"
        "print(sorted(engines & app), sorted({'quart', 'hypercorn'} & edge))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[] []"
