"""The walk: every route and method there is, in odd spellings too, wants a token. A route that is added later is in it by itself:
what is walked is what the app, the probes and the lane have."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
import trio
from quart_trio import QuartTrio

from matyan.blobs.base import URL_PATH
from matyan.blobs.folder import FolderBlobs
from matyan.frontier import app as app_
from matyan.frontier.app import create_app
from matyan.frontier.lane import INGEST_PATH
from matyan.service.entrance import entrance_of
from matyan.service.health import Health
from matyan.service.probes import PROBES, serve_probes
from matyan.settings import Settings
from tests.frontier.conftest import Served, a_frontier
from tests.tokens import add, basic

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW", "get")
READS = {"GET", "HEAD", "OPTIONS"}
UI = "https://ui.example"
UPGRADE = (
    "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)

SPELLINGS: tuple[Callable[[str], str], ...] = (
    lambda path: path,
    lambda path: path.rstrip("/") or "/",
    lambda path: path + "/",
    lambda path: path + "?x=1",
    lambda path: path + "?",
    lambda path: "/" + path,
    lambda path: "///" + path,
    lambda path: path.replace("/", "//"),
    lambda path: "/." + path,
    lambda path: "/x/.." + path,
    lambda path: "/x/%2e%2e" + path,
    lambda path: "/%2e" + path,
    lambda path: path + "/.",
    lambda path: path[:1] + f"%{ord(path[1:2] or 'x'):02x}" + path[2:],
    lambda path: path[:1] + path[1:].replace("/", "%2f"),
    lambda path: path[:1] + path[1:].replace("/", "%2F") + "%2F",
    lambda path: path[:1] + path[1:].replace("/", "\\"),
    lambda path: path.upper(),
    lambda path: path.title(),
    lambda path: path + ";x=1",
    lambda path: path[:1] + path[1:].replace("/", ";/"),
    lambda path: path + "%00",
    lambda path: path + "%20",
    lambda path: "/health/.." + path,
    lambda path: "/health/%2e%2e" + path,
    lambda path: "/health/live/../.." + path,
    lambda path: "/health/live;" + path,
    lambda path: "/health" + path,
    lambda path: URL_PATH + "../../../../.." + path + "?signatures=x",
    lambda path: path + "?signature=x" * (not path.startswith(URL_PATH)),
    lambda path: f"http://x{path}",
    lambda path: f"HTTPS://x:443{path}",
    lambda path: f"http://x/{path}",
)


@dataclass
class Walk:
    served: Served
    probes: int
    """The port of a worker's pages."""
    file: Path
    later: str

    def tokens(self) -> dict[str, str]:
        """Scope → the Authorization of a token that has it alone."""
        return {
            scope: basic(scope, add(self.file, scope, scope))
            for scope in ("read", "write", "admin")
        }

    def paths(self) -> list[str]:
        """Of every route, each with something in its variable parts."""
        rules = create_app(self.served.frontier.shared).url_map.iter_rules()
        paths = {re.sub("<[^>]*>", "x", rule.rule) for rule in rules}
        return sorted({*paths, *PROBES, f"{INGEST_PATH}x", f"{URL_PATH}run/x", "/", "/nowhere"})

    def requests(self) -> Iterator[tuple[str, str]]:
        for path in self.paths():
            for method in METHODS:
                yield method, path
            for spelling in SPELLINGS:
                for method in ("GET", "POST"):
                    yield method, spelling(path)
        yield "OPTIONS", "*"

    async def ask(self, head: str, *, port: int | None = None, body: bytes = b"") -> list[bytes]:
        """The status and head of each answer until the end."""
        stream = await trio.open_tcp_stream("127.0.0.1", port or self.served.port)
        async with stream:
            with trio.move_on_after(5):
                await stream.send_all(head.encode() + body)
                data = b""
                while chunk := await stream.receive_some():
                    data += chunk
                    if data.startswith(b"HTTP/1.1 101"):
                        break
            return re.findall(rb"HTTP/1\.[01] [0-9]{3}.*?\r\n\r\n", data, re.DOTALL)


def status(answers: list[bytes]) -> int:
    assert len(answers) == 1, answers
    return int(answers[0].split(b" ")[1])


def request(method: str, target: str, *fields: str, version: str = "1.1") -> str:
    lines = [f"{method} {target} HTTP/{version}", "Host: x", "Connection: close", *fields]
    return "\r\n".join((*lines, "", ""))


def is_exempt(method: str, target: str) -> bool:
    path = unquote(re.sub(r"^https?://[^/]*", "", target, flags=re.IGNORECASE).partition("?")[0])
    return method in {"GET", "HEAD"} and bool(re.fullmatch("/health/[a-z]+/?", path))


@pytest.fixture
async def walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Walk]:
    later = "/api/v1/rest/later/<name>/"
    plain = app_._add_presign

    def add_later(app: QuartTrio, shared: object) -> None:
        """A route of tomorrow, which nobody told about tokens."""

        @app.route(later, methods=["GET", "POST", "DELETE"])
        async def found(name: str) -> str:
            return name

        plain(app, shared)

    monkeypatch.setattr(app_, "_add_presign", add_later)
    file = tmp_path / "tokens"
    add(file, "other", "admin")
    settings = Settings(tokens_file=str(file), cors_origins=(UI,), allowed_hosts=("x",))
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with a_frontier(blobs=blobs, settings=settings) as served, trio.open_nursery() as nursery:
        await served.frontier.http.web_loaded.wait()
        (listener,) = await nursery.start(_serve_probes, settings)
        yield Walk(served, listener.socket.getsockname()[1], file, later)
        nursery.cancel_scope.cancel()


async def _serve_probes(
    settings: Settings, *, task_status: trio.TaskStatus[list[trio.SocketListener]]
) -> None:
    entrance = entrance_of(settings)
    await serve_probes(Health(), "127.0.0.1", 0, entrance=entrance, task_status=task_status)


async def in_parallel(
    check: Callable[[str, str], object], cases: Iterable[tuple[str, str]]
) -> list[str]:
    """What the checks say, where they say something."""
    found: list[str] = []
    limit = trio.CapacityLimiter(16)

    async def one(method: str, target: str) -> None:
        async with limit:
            said = await check(method, target)
        if said:
            found.append(f"{method} {target}: {said}")

    async with trio.open_nursery() as nursery:
        for method, target in cases:
            nursery.start_soon(one, method, target)
    return found


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_without_a_token_every_request_is_401(walk: Walk, version: str) -> None:
    """On each route with each method and spelling, as HTTP/1.1 and 1.0; only health is shown. It says how to send a token."""
    assert any("/later/" in path for path in walk.paths())

    async def check(method: str, target: str) -> str:
        answers = await walk.ask(request(method, target, version=version))
        if is_exempt(method, target):
            return "" if status(answers) in {200, 404, 503} else f"{answers}"
        head = answers[0] if len(answers) == 1 else b""
        challenged = b"WWW-Authenticate: Basic " in head and b"WWW-Authenticate: Bearer " in head
        return "" if head.startswith(b"HTTP/1.1 401 ") and challenged else f"{answers}"

    assert await in_parallel(check, walk.requests()) == []
    assert walk.served.producer.frames == []


async def test_without_a_token_no_handshake(walk: Walk) -> None:
    """Nor with one that is no token: on the lane and wherever a socket may be asked for."""
    wrong = ("", f"Authorization: {basic('other', 'mtn_x')}\r\n", "Authorization: Bearer x\r\n")

    async def check(method: str, target: str) -> str:
        for authorization in wrong[: 1 if target != f"{INGEST_PATH}x" else 3]:
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\n{authorization}{UPGRADE}\r\n"
            answers = await walk.ask(head)
            if status(answers) != 401 or b"WWW-Authenticate: Basic" not in answers[0]:
                return f"{answers}"
        return ""

    paths = [spelling(path) for path in walk.paths() for spelling in SPELLINGS]
    assert await in_parallel(check, (("GET", path) for path in paths)) == []
    assert not walk.served.frontier.lane.connections


async def test_the_second_request_of_a_connection_wants_one_too(walk: Walk) -> None:
    """Behind one that had a token, and behind one that needed none; whoever answers it."""
    good = f"Authorization: {walk.tokens()['read']}\r\n"
    for first in (
        "GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n",
        f"GET /docs HTTP/1.1\r\nHost: x\r\n{good}\r\n",
        f"GET /nowhere HTTP/1.1\r\nHost: x\r\n{good}\r\n",
    ):
        for path in walk.paths():
            answers = await walk.ask(first + request("POST", path))
            assert len(answers) == 2
            assert not answers[0].startswith(b"HTTP/1.1 401 ")
            assert answers[1].startswith(b"HTTP/1.1 401 ")


async def test_the_wrong_scope_is_403_and_the_right_one_is_let_in(walk: Walk) -> None:
    """Reading methods want read, all others write, a socket write; admin is both. The answer names what is missing."""
    tokens = walk.tokens()

    async def check(method: str, target: str) -> str:
        wanted = "read" if method in READS else "write"
        for scope, authorization in tokens.items():
            answers = await walk.ask(request(method, target, f"Authorization: {authorization}"))
            is_right = scope in {wanted, "admin"} or is_exempt(method, target)
            # What is asked for with the signature's URL alone stays refused by its signature.
            refused = status(answers) in {401, 403}
            if refused == is_right:
                return f"{scope}: {answers}"
        return ""

    cases = (
        (method, path)
        for path in walk.paths()
        for method in METHODS[:-1]  # the last one is unknown to the edge and known to the app
        if not path.startswith(URL_PATH)
    )
    assert await in_parallel(check, cases) == []
    for scope, authorization in tokens.items():
        head = f"GET {INGEST_PATH}x HTTP/1.1\r\nHost: x\r\nAuthorization: {authorization}\r\n{UPGRADE}\r\n"
        assert status(await walk.ask(head)) == (403 if scope == "read" else 101)


async def test_the_pages_of_a_worker_want_one(walk: Walk) -> None:
    """METRICS_PORT: health is shown to all, everything else to those who may read."""
    tokens = walk.tokens()

    async def check(method: str, target: str) -> str:
        for scope, authorization in {"": "", **tokens}.items():
            field = [f"Authorization: {authorization}"] if scope else []
            answers = await walk.ask(request(method, target, *field), port=walk.probes)
            wanted = "read" if method in READS else "write"
            if is_exempt(method, target):
                expected = {200, 404, 503}
            elif not scope:
                expected = {401}
            elif scope in {wanted, "admin"}:
                expected = {200, 404}
            else:
                expected = {403}
            if status(answers) not in expected:
                return f"{scope}: {answers}"
        return ""

    paths = [*PROBES, "/nowhere"]
    cases = [(method, path) for path in paths for method in METHODS]
    odd = [("GET", spelling(path)) for path in paths for spelling in SPELLINGS]
    assert await in_parallel(check, [*cases, *odd]) == []


async def test_the_bare_app_wants_one(walk: Walk) -> None:
    """Deployed without the edge, under another server: the same judgement, on the socket too."""
    tokens = walk.tokens()
    app = create_app(walk.served.frontier.shared)

    async def ask(kind: str, method: str, target: str, authorization: str = "") -> list[Any]:
        """What the app sends: the status, and the names of the fields."""
        path, _, query = target.partition("?")
        sent: list[Any] = []

        first = {"type": "http.request" if kind == "http" else "websocket.connect"}
        coming = [{**first, "body": b"", "more_body": False}]

        async def receive() -> dict[str, Any]:
            while not coming:
                await trio.sleep_forever()
            return coming.pop()

        async def send(event: dict[str, Any]) -> None:
            if event["type"].endswith("start"):
                sent.append(event["status"])
                sent.extend(name for name, _ in event["headers"])

        fields = [(b"host", b"x")] + [(b"authorization", authorization.encode())] * bool(
            authorization
        )
        scope = {
            "type": kind,
            "http_version": "1.1",
            "scheme": "http" if kind == "http" else "ws",
            "path": unquote(path),
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": fields,
            "client": ("10.0.0.1", 1),
            "extensions": {"websocket.http.response": {}},
            **({"method": method} if kind == "http" else {"subprotocols": []}),
        }
        await app(scope, receive, send)
        return sent

    async with app.test_app():
        for method, target in walk.requests():
            if not target.startswith("/"):
                continue  # the server's affair
            plain = await ask("http", method, target)
            if is_exempt(method, target):
                assert plain[0] in {200, 404, 503}, (method, target)
                continue
            assert plain[0] == 401, (method, target)
            assert plain.count(b"www-authenticate") == 2
            other = "write" if method in READS else "read"
            assert (await ask("http", method, target, tokens[other]))[0] == 403, (method, target)
        for target in {target for _, target in walk.requests() if target.startswith("/")}:
            assert (await ask("websocket", "", target))[0] == 401, target
            assert (await ask("websocket", "", target, tokens["read"]))[0] == 403, target


async def test_what_is_exempt_is_so_with_its_own_credential_only(walk: Walk) -> None:
    """Signed URLs by their signature, not by a wrong, an expired or another one's; preflights of allowed pages, which read nothing."""
    blobs = walk.served.frontier.shared.blobs
    assert isinstance(blobs, FolderBlobs)
    expired = FolderBlobs(walk.file.parent / "expired", b"secret", -60)
    other = FolderBlobs(walk.file.parent / "other", b"another secret", 60)

    async def put(engine: FolderBlobs, path: str = "a", method: str = "PUT") -> int:
        upload = await engine.presign_put("run", "a", "text/plain", "")
        target = upload.upload_url.replace("/run/a?", f"/run/{path}?")
        fields = ("Content-Type: text/plain", "Content-Length: 2")
        return status(await walk.ask(request(method, target, *fields), body=b"hi"))

    assert await put(blobs) == 200
    assert await put(expired) == 403
    assert await put(other) == 403
    assert await put(blobs, path="b") == 403
    for method in ("POST", "DELETE", "PATCH", "OPTIONS"):
        assert await put(blobs, method=method) == 401
    good = blobs.presign_get("run", "a", "")
    assert status(await walk.ask(request("GET", good))) == 200
    for query in ("", "?signature=", "?signature", "?expires=1&type=", "?SIGNATURE=x"):
        assert status(await walk.ask(request("GET", f"{URL_PATH}run/a{query}"))) == 401
    wrong = good[:-1] + ("0" if good[-1] != "0" else "1")
    assert status(await walk.ask(request("GET", wrong))) == 403
    # A token is no signature.
    admin = f"Authorization: {walk.tokens()['admin']}"
    assert status(await walk.ask(request("GET", wrong, admin))) == 403
    assert status(await walk.ask(request("GET", f"{URL_PATH}run/a", admin))) == 403

    asks = "Access-Control-Request-Method: POST"
    for path in walk.paths():
        assert status(await walk.ask(request("OPTIONS", path, asks, f"Origin: {UI}"))) == 204
        assert status(await walk.ask(request("OPTIONS", path, asks))) == 401
        assert status(await walk.ask(request("OPTIONS", path, f"Origin: {UI}"))) == 401
        assert status(await walk.ask(request("GET", path + "?", asks, f"Origin: {UI}"))) in (
            {200} if "health" in path else {401}
        )
        evil = request("OPTIONS", path, asks, "Origin: https://evil.example")
        assert status(await walk.ask(evil)) == 401
