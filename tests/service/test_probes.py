"""The workers' METRICS_PORT: the same pages as the frontier's, without a framework."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator

import httpx
import prometheus_client.parser as text_format
import pytest
import trio
from prometheus_client.openmetrics import parser as openmetrics
from trio.testing import MockClock

from matyan.service import telemetry
from matyan.service.health import Health
from matyan.service.probes import serve_probes


@pytest.fixture
async def health() -> Health:
    return Health()


@pytest.fixture
async def port(health: Health) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(serve_probes, health, "127.0.0.1", 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_a_worker_says_how_it_is(health: Health, port: int) -> None:
    health.add_live("loop of the producer", lambda: "fatal error")
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        ready = await http.get("/health/ready/")
        assert (ready.status_code, ready.json()) == (200, {"status": "ok", "checks": {}})
        live = await http.get("/health/live")
        assert live.status_code == 503
        assert live.json()["checks"]["loop of the producer"] == "fatal error"
        (shown,) = telemetry.INGEST_BATCH_SIZE.collect()
        assert shown.name in (await http.get("/metrics")).text
        assert (await http.get("/api/v1/rest/version")).json()["component"] == "worker"
        head = await http.head("/docs")
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) > 0
        nothing = await http.get("/nothing")
        assert nothing.status_code == 404
        assert "/metrics/" in nothing.json()["detail"]


@pytest.mark.parametrize("size", [1, 1000])
async def test_requests_may_come_in_any_pieces(port: int, size: int) -> None:
    """Two of them, one behind the other, the second without keep-alive."""
    data = b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\nGET /docs HTTP/1.0\r\n\r\n"
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    for start in range(0, len(data), size):
        await stream.send_all(data[start : start + size])
    answer = b"".join([chunk async for chunk in stream])
    assert answer.count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01 hello",
        b"GET /docs HTTP/1.1\r\nHost: x\r\nContent-Length : 40\r\n\r\n",
        b"GET /docs HTTP/1.1\r\n\r\n",
    ],
)
async def test_what_is_not_sound_is_400_and_the_end(port: int, data: bytes) -> None:
    """As the frontier's edge: the parser is the same, and nothing behind it is read as a request."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(data + b"GET /docs HTTP/1.1\r\nHost: x\r\n\r\n")
    answer = b"".join([chunk async for chunk in stream])
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 ") == 1


async def test_a_page_that_raises_ends_its_connection_alone(health: Health, port: int) -> None:
    """And a connection that was there before goes on."""
    other = await trio.open_tcp_stream("127.0.0.1", port)
    ask = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    await other.send_all(ask)
    assert (await other.receive_some()).startswith(b"HTTP/1.1 200 ")

    def broken() -> str | None:
        raise ZeroDivisionError

    health.add_live("broken", broken)
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    await stream.send_all(ask)
    assert b"".join([chunk async for chunk in stream]) == b""
    await other.send_all(ask.replace(b"/health/live", b"/docs"))
    assert (await other.receive_some()).startswith(b"HTTP/1.1 200 ")


async def test_a_silent_peer_is_dropped(mock_clock: MockClock, health: Health) -> None:
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve_probes, health, "127.0.0.1", 0)
        stream = await trio.open_tcp_stream(*listener.socket.getsockname())
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(11)
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 408 ")
        nursery.cancel_scope.cancel()


def test_the_probes_cost_a_worker_no_framework() -> None:
    code = "import sys, matyan.service.probes; print({'quart', 'hypercorn', 'websockets'} & set(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "set()"


PLAIN, OPEN = "text/plain; version=0.0.4", "application/openmetrics-text; version=1.0.0"
PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/html,application/xhtml+xml,*/*;q=0.8", PLAIN),
        ("text/plain", PLAIN),
        ("text/plain;version=0.0.4", PLAIN),
        (PROMETHEUS, OPEN),
        ("application/openmetrics-text", OPEN),
        ("Application/OpenMetrics-Text; version=1.0.0", OPEN),
        ("application/openmetrics-text;version=nonsense", OPEN),
        ("application/openmetrics-text;q=0.1, text/plain;q=0.9", PLAIN),
        ("text/plain;q=0.1, application/openmetrics-text;q=0.9", OPEN),
        ("application/openmetrics-text;q=0", PLAIN),
        ("application/openmetrics-text;q=0, */*", PLAIN),
        ("application/openmetrics-text;q=0.5, */*;q=0.9", PLAIN),
        ("application/openmetrics-text;q=0.5, text/*", PLAIN),
        ("application/openmetrics-text;q=0.5, text/*;q=0.9, text/plain;q=0.1", OPEN),
        ("application/openmetrics-text;q=nan", PLAIN),
        ("application/openmetrics-text;q=-1", PLAIN),
        ("application/openmetrics-text;q=1.5, text/plain;q=0.1", PLAIN),
        ("application/openmetrics-text; q = 0.1, text/plain;q=0.2", PLAIN),
        ("application/*", OPEN),
        ("application/*;q=0.5, text/*;q=0.6", PLAIN),
        ("text/plain;q=0, */*", OPEN),
        ("application/json", PLAIN),
        ("application/openmetrics-text;q=much", PLAIN),
        (";;,q=,;q=1", PLAIN),
    ],
)
async def test_metrics_come_in_the_format_that_was_asked_for(
    port: int, accept: str, expected: str
) -> None:
    """Body and Content-Type agree, and a parser of that format reads them."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answer = await http.get("/metrics/", headers={"Accept": accept})
    assert answer.headers["content-type"].startswith(expected)
    parser = openmetrics if expected == OPEN else text_format
    names = {family.name for family in parser.text_string_to_metric_families(answer.text)}
    assert "matyan_ingestion_batch_size" in names
    assert answer.text.endswith("# EOF\n") == (expected == OPEN)
