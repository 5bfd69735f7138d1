"""Requests of somebody without a token, put together at random: whatever they are, nothing is given and nothing is taken."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from matyan.blobs.base import URL_PATH
from matyan.blobs.folder import FolderBlobs
from matyan.settings import Settings
from tests.frontier.conftest import Served, a_frontier
from tests.tokens import add, basic

PARTS = ("/", "//", "/.", "/..", "/%2e", "%2f", "health", "live", "ready", "metrics", "docs", "api", "v1", "rest", "ws", "runs", "x",
         "artifacts", "presign", "blob", "version", ";", "%00", "?", "signature=x", "expires=9999999999", "type=", "&", "*", "http://x")  # fmt: skip
PATHS = (
    "/api/v1/ws/runs/x",
    "/api/v1/rest/artifacts/presign",
    "/metrics/",
    "/docs",
    "/health/live/",
    f"{URL_PATH}r/a?expires=9999999999&type=&signature=00",
)
METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "get",
    "X",
)
SOCKET = "Connection: Upgrade\r\nUpgrade: {}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
BODY = b'{"run_id":"r","artifact_path":"a"}'


def request(rng: random.Random, known: str) -> bytes:
    """known: a right token, of which parts are sent."""
    path = (
        rng.choice(PATHS)
        if rng.random() < 0.5
        else "/" + "".join(rng.choices(PARTS, k=rng.randint(0, 8)))
    )
    if rng.random() < 0.1:
        path = f"http://ci:{known}@x{path}"
    other = rng.randbytes(6).hex()
    fields = (
        "Host: 127.0.0.1", "Origin: https://ui.example", "Origin: null",
        "Access-Control-Request-Method: GET", SOCKET.format("websocket"), SOCKET.format("h2c"), SOCKET.format("h2c, websocket"),
        "Content-Type: application/json", f"Content-Length: {len(BODY)}", "Content-Length: 0", "Transfer-Encoding: chunked",
        f"Authorization: {basic('ci', known[:-1])}", f"Authorization: {basic('other', known)}", f"Authorization: {known}",
        f"Authorization: Bearer {other}", "Authorization: Basic Og==", f"X-Authorization: {basic('ci', known)}",
        f"Proxy-Authorization: {basic('ci', known)}", f"Cookie: token={known}; Authorization={known}", "Authorization:",
        f"Authorization: Bearer {known}, Bearer {known}", f"Authorization : Bearer {known}", "Connection: close", "Connection: keep-alive",
        "X-Forwarded-For: 127.0.0.1", "X-Original-URL: /health/live/", "X-HTTP-Method-Override: GET", "Forwarded: for=127.0.0.1",
    )  # fmt: skip
    lines = [f"{rng.choice(METHODS)} {path} HTTP/{rng.choice(('1.0', '1.1', '1.1', '1.1', '2.0'))}"]
    lines += ["Host: x"] * (rng.random() < 0.9) + rng.sample(fields, rng.randint(0, 4))
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + rng.choice((b"", b"", BODY, b"0\r\n\r\n"))


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    add(tmp_path / "tokens", "ci", "admin")
    settings = Settings(tokens_file=str(tmp_path / "tokens"), cors_origins=("https://ui.example",))
    async with a_frontier(
        settings=settings, blobs=FolderBlobs(tmp_path / "blobs", b"secret", 60)
    ) as served:
        await served.frontier.http.web_loaded.wait()
        yield served


async def talk(served: Served, data: bytes) -> bytes:
    stream = await served.connect()
    async with stream:
        await stream.send_all(data)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


@pytest.mark.parametrize("seed", range(4))
async def test_nothing_is_given_to_nobody(served: Served, tmp_path: Path, seed: int) -> None:
    """One request or several behind each other: every answer is a refusal, a page of health, or what a browser may ask first."""
    rng = random.Random(seed)
    known = add(tmp_path / "tokens", "ci", "admin")
    served.frontier.shared.entrance._guesses.add = lambda *_: 0.0  # unslowed
    answers: Counter[bytes] = Counter()
    with trio.fail_after(60):
        for _ in range(200):
            sent = b"".join(request(rng, known) for _ in range(rng.choice((1, 1, 3))))
            got = await talk(served, sent)
            for status in re.findall(rb"HTTP/1\.1 ([0-9]{3})", got):
                answers[status] += 1
                if status in (b"200", b"404", b"503"):
                    assert b"/health" in sent or b"%2fhealth" in sent, (sent, got)
                    assert b"matyan_" not in got
                    assert b"<html" not in got
                elif status == b"204":
                    assert b"Access-Control-Request-Method" in sent, (sent, got)
                else:
                    expected = (b"400", b"401", b"403", b"405", b"408", b"431", b"501", b"505")
                    assert status in expected, (sent, got)
            assert known.encode() not in got
    assert answers[b"401"] > 80, answers
    assert served.producer.frames == []
    assert not served.frontier.lane.connections
    assert not [*(tmp_path / "blobs").glob("r/*")]
