"""A seeded source of hostile connections, and the fuzzer that runs them beside a socket which must not notice.

An attack is what its seed and number say, but for the signed URL that it uploads to; on a server under TLS every second one goes
through TLS, and the others in its place. Nothing is known here of what the
server should answer, only what must not be: a 500, an end for anybody else, a line about an error in its log.
"""

from __future__ import annotations

import json
import random
import re
import socket
import ssl
import struct
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import trio
from trio_websocket import ConnectionClosed, open_websocket_url

from matyan.service.tls import Stream
from tests import tls
from tests.faults.load import OK, metric

ATTACKERS = 8
PATIENCE_S = 0.3
"""How long an attacker waits for answers, and lets a connection hang."""
REPLY_S = 10.0
"""How long the victim waits; the machine may be busy."""

_PRESIGN = "/api/v1/rest/artifacts/presign"
_PATHS = (
    *("/health/live/", "/health/ready", "/metrics/", "/docs", "/api/v1/rest/version/", _PRESIGN),
    *("/api/v1/ws/runs/fuzz", "/api/v1/ws/runs/a%2Fb", "/api/v1/rest/artifacts/blob/fuzz/a?x=1"),
    *(
        "/nowhere",
        "/",
        "*",
        "//",
        "/%ff%00",
        "http://127.0.0.1/docs",
        "ws://127.0.0.1/api/v1/ws/runs/fuzz",
    ),
    *("http://[::1", "http://", "?", "/../..", "/" + "a" * 3000),
)
_METHODS = (
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "OPTIONS",
    "PRI",
    "CONNECT",
    "TRACE",
    "get",
    "DELETE",
    "\xff",
)
_FIELDS = (
    *(
        "Content-Length: 5",
        "Content-Length : 5",
        "Content-Length: 5, 5",
        "Content-Length: 999999999",
    ),
    *(
        "Transfer-Encoding: chunked",
        "Transfer-Encoding: xchunked",
        "Transfer-Encoding: \x0bchunked",
    ),
    *(
        "Connection: close",
        "Connection: keep-alive, Upgrade",
        "Connection: \xff",
        "Expect: 100-continue",
    ),
    *(
        "Upgrade: websocket",
        "Upgrade: h2c",
        "HTTP2-Settings: A",
        "HTTP2-Settings: AAMAAABk",
        "Upgrade: \xff",
    ),
    *(
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        "Host: y",
        " folded",
    ),
    *(
        "Sec-WebSocket-Protocol: \xff",
        "Sec-WebSocket-Extensions: permessage-deflate",
        "X: a\0b",
        ": x",
    ),
    *(
        "Origin: null",
        "Origin: http://127.0.0.1",
        "Access-Control-Request-Method: PUT",
        "Cookie: \xff",
    ),
    *(
        "Content-Type: application/json",
        "Content-Type: \xff",
        "Range: bytes=0-",
        "X: " + "y" * 9000,
    ),
)
_WORDS = (
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b":",
    b"\xff",
    b"\t",
    b"\r\n\r\n",
    b"%",
    b"HTTP/1.1",
    b"\x80",
)
_TEXTS = (
    b"[]",
    b"{",
    b"[1]",
    b"\xff",
    b'{"type":"add_tag","tag_name":"t"}',
    b'[{"type":"log_metric","name":"m","value":NaN,"client_datetime":"2026-01-02T03:04:05"}]',
    b'{"type":"create_run","client_datetime":"2026-01-02T03:04:05"}',
    b"[" * 100_000,
    b'{"type":"\xed\xa0\x80"}',
)
_BODIES = (b"", b"", b"", b"{}", b"x" * 70_000, *_TEXTS)
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Target:
    host: str
    port: int
    upload: str
    """The path and query of a signed URL."""
    context: ssl.SSLContext | None = None
    """A client's, where the server listens under TLS."""

    async def connect(self, *, in_place_of_tls: bool = False) -> Stream:
        transport = await trio.open_tcp_stream(self.host, self.port)
        if self.context is None or in_place_of_tls:
            return transport
        return await tls.client(transport, self.context)


def attack(seed: int, number: int, target: Target) -> tuple[list[bytes], str]:
    """What one hostile connection sends, in pieces, and how it ends: "close", "reset", "half" or "hang"."""
    rng = random.Random(f"{seed}:{number}")
    data = b"".join(rng.choice(_KINDS)(rng, target) for _ in range(rng.choice((1, 1, 2, 4))))
    if rng.random() < 0.3:
        data = data[: rng.randrange(len(data) + 1)]
    pieces = []
    while data:
        size = rng.choice((1, 3, 100, 1 << 16, 1 << 22)) if len(pieces) < 50 else len(data)
        pieces.append(data[:size])
        data = data[size:]
    return pieces, rng.choice(("close", "reset", "half", "half", "hang"))


def _bytes(rng: random.Random, target: Target) -> bytes:
    return rng.randbytes(rng.choice((1, 10, 300, 70_000)))


def _head(method: str, path: str, fields: list[str]) -> bytes:
    return "\r\n".join((f"{method} {path} HTTP/1.1", *fields, "", "")).encode("latin-1")


def _request(rng: random.Random, target: Target) -> bytes:
    """Legal in its form more often than not."""
    fields = ["Host: 127.0.0.1"] * (rng.random() < 0.95)
    fields += rng.sample(_FIELDS, rng.choice((0, 0, 1, 1, 2, 5)))
    body = rng.choice(_BODIES)
    if rng.random() < 0.5:
        fields += [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    method = rng.choice(_METHODS) if rng.random() < 0.3 else rng.choice(("GET", "POST"))
    return _head(method, rng.choice(_PATHS), fields) + body


def _mutated(rng: random.Random, target: Target) -> bytes:
    data = bytearray(rng.choice((_request, _frames, _upload, _http2))(rng, target))
    for _ in range(rng.choice((1, 2, 8))):
        at = rng.randrange(min(len(data), 2000) + 1)
        match rng.randrange(3):
            case 0:
                data[at:at] = rng.choice(_WORDS)
            case 1:
                data[at : at + rng.randrange(9)] = b""
            case 2:
                data[at : at + 1] = rng.randbytes(1)
    return bytes(data)


def _frames(rng: random.Random, target: Target) -> bytes:
    """A handshake, mostly sound, and frames, mostly not."""
    fields = ["Host: 127.0.0.1", "Upgrade: websocket", "Connection: Upgrade"]
    fields += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    if rng.random() < 0.3:
        fields += rng.sample(_FIELDS, 1)
    path = rng.choice(_PATHS) if rng.random() < 0.2 else "/api/v1/ws/runs/fuzz"
    data = _head("GET", path, fields)
    for _ in range(rng.choice((0, 1, 3, 30))):
        data += _frame(rng)
    return data


def _frame(rng: random.Random) -> bytes:
    payload = (
        rng.choice(_TEXTS) if rng.random() < 0.7 else rng.randbytes(rng.choice((0, 2, 125, 200)))
    )
    opcode = rng.choice((0, 1, 1, 1, 2, 8, 9, 10)) if rng.random() < 0.95 else rng.randrange(16)
    if opcode == 8:
        payload = rng.choice((b"", b"\x03\xe8", b"\x03\xe9bye", b"x", b"\x03\xed", b"\x03\xe8\xff"))
    first = (0x80 if rng.random() < 0.8 else 0) | opcode
    if rng.random() < 0.05:
        first |= rng.choice((0x40, 0x20, 0x10))
    length = (
        len(payload) if rng.random() < 0.95 else rng.choice((0, 125, 1 << 20, 1 << 40, 1 << 63))
    )
    mask = rng.randbytes(4) if rng.random() < 0.95 else b""
    if length < 126:
        head = bytes((first, (0x80 if mask else 0) | length))
    elif length < 1 << 16:
        head = bytes((first, (0x80 if mask else 0) | 126)) + struct.pack("!H", length)
    else:
        head = bytes((first, (0x80 if mask else 0) | 127)) + struct.pack("!Q", length)
    if mask:
        key = (mask * (len(payload) // 4 + 1))[: len(payload)]
        number = int.from_bytes(payload) ^ int.from_bytes(key)
        payload = number.to_bytes(len(payload))
    return head + mask + payload


def _http2(rng: random.Random, target: Target) -> bytes:
    """Frames with prior knowledge or behind an upgrade: RFC 9113 in its form, seldom in its order."""
    data = _PREFACE
    if rng.random() < 0.4:
        fields = ["Host: 127.0.0.1", "Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"]
        settings = rng.choice(("", "A", "AAAA", "AAMAAABk", "\xff"))
        data = _head("GET", "/docs", [*fields, f"HTTP2-Settings: {settings}"]) + data
    for _ in range(rng.choice((0, 1, 5, 1100))):
        kind = rng.choice((0, 1, 2, 2, 3, 4, 6, 8, 9, rng.randrange(256)))
        payload = rng.choice((b"", bytes(5), b"\x82\x86\x84\x41\x01\xff", rng.randbytes(9)))
        data += len(payload).to_bytes(3) + struct.pack(
            "!BBI", kind, rng.choice((0, 1, 4, 5)), rng.choice((0, 1, 3, 1 << 31))
        )
        data += payload
    return data


def _upload(rng: random.Random, target: Target) -> bytes:
    path = target.upload if rng.random() < 0.6 else rng.choice(_PATHS)
    size = rng.choice((0, 1, 5000, 300_000))
    body = bytes(size)
    fields = ["Host: 127.0.0.1", *rng.sample(_FIELDS, rng.choice((0, 0, 1)))]
    if rng.random() < 0.5:
        fields.append(f"Content-Length: {size + rng.choice((0, 0, 0, -1, 1))}")
    else:
        fields.append("Transfer-Encoding: chunked")
        cut = rng.choice((1, 1000, 1 << 20)) if size < 10_000 else 1 << 16
        chunks = (body[at : at + cut] for at in range(0, size, cut))
        body = b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks)
        body += rng.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"zz\r\n", b"0\r\n \r\n"))
    return _head("PUT", path, fields) + body


_KINDS = (_bytes, _request, _request, _mutated, _frames, _frames, _http2, _upload, _upload)


@dataclass(slots=True)
class Report:
    attacks: int = 0
    replies: int = 0
    """Of the victim, each within its patience."""
    statuses: Counter[int] = field(default_factory=Counter)
    harm: list[str] = field(default_factory=list)
    """What must not be."""


async def fuzz(url: str, seed: int, seconds: float) -> Report:
    """Attacks the server at `url` for so long, unless there is harm before."""
    report = Report()
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    context = tls.client_context() if address.scheme == "https" else None
    target = Target(address.hostname, address.port, "", context)
    target = replace(target, upload=await _signed(target))
    with trio.move_on_after(seconds) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_be_victim, target, report, scope)
            for first in range(ATTACKERS):
                nursery.start_soon(_attack_on, target, seed, first, report, scope)
    return report


async def _signed(target: Target) -> str:
    body = b'{"run_id":"fuzz","artifact_path":"a"}'
    fields = ["Host: 127.0.0.1", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    async with await target.connect() as stream:
        await stream.send_all(_head("POST", _PRESIGN, [*fields, "Connection: close"]) + body)
        answer = b"".join([chunk async for chunk in stream])
    upload = urlsplit(json.loads(answer.partition(b"\r\n\r\n")[2])["upload_url"])
    return f"{upload.path}?{upload.query}"


async def _be_victim(target: Target, report: Report, scope: trio.CancelScope) -> None:
    """A training that logs a point and waits for its reply, again and again, on one socket."""
    try:
        scheme = "ws" if target.context is None else "wss"
        url = f"{scheme}://{target.host}:{target.port}/api/v1/ws/runs/victim"
        async with open_websocket_url(url, target.context) as connection:
            while True:
                point = metric("victim", "loss", 0.5, report.replies)
                await connection.send_message(json.dumps(point))
                with trio.fail_after(REPLY_S):
                    reply = json.loads(await connection.get_message())
                if reply != OK:
                    raise ValueError(f"the victim was told {reply}")
                report.replies += 1
                await trio.sleep(0.005)
    except* (ConnectionClosed, OSError, trio.TooSlowError, ValueError) as group:
        report.harm.append(f"the victim: {group.exceptions!r}")
        scope.cancel()


async def _attack_on(
    target: Target, seed: int, first: int, report: Report, scope: trio.CancelScope
) -> None:
    number = first
    while True:
        pieces, ending = attack(seed, number, target)
        answer = bytearray()
        try:
            stream = await target.connect(in_place_of_tls=number // ATTACKERS % 2 == 0)
            if target.context is not None and isinstance(stream, trio.SocketStream):
                pieces = _shaking_hands(seed, number, pieces)
            async with stream:
                await _converse(stream, pieces, ending, answer)
        except OSError as error:
            report.harm.append(f"attack {number} of seed {seed} found nobody: {error}")
            scope.cancel()
            return
        statuses = [int(found) for found in re.findall(rb"HTTP/1\.1 ([0-9]{3})", answer)]
        report.statuses.update(statuses)
        report.attacks += 1
        if 500 in statuses:
            report.harm.append(
                f"attack {number} of seed {seed}: a 500 to {b''.join(pieces)[:500]!r}"
            )
            scope.cancel()
            return
        number += ATTACKERS


def _shaking_hands(seed: int, number: int, pieces: list[bytes]) -> list[bytes]:
    """Behind a client's first message, mostly sound, or without one."""
    rng = random.Random(f"{seed}:{number}:tls")
    hello = bytearray(tls.hello())
    if rng.random() < 0.5:
        at = rng.randrange(1, len(hello))
        hello[at : at + rng.choice((0, 1, 40))] = rng.randbytes(rng.choice((0, 1, 40)))
    return [bytes(hello), *pieces] if rng.random() < 0.8 else pieces


async def _converse(stream: Stream, pieces: list[bytes], ending: str, answer: bytearray) -> None:
    async def listen() -> None:
        with suppress(trio.BrokenResourceError):
            async for chunk in stream:
                answer.extend(chunk)
        nursery.cancel_scope.cancel()

    with trio.move_on_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            with suppress(trio.BrokenResourceError):
                for piece in pieces:
                    await stream.send_all(piece)
                    await trio.lowlevel.checkpoint()
                if ending == "half":
                    await stream.send_eof()
            if ending in {"close", "reset"}:
                nursery.cancel_scope.cancel()
    if ending == "reset":
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
