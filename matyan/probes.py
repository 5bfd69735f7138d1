"""Version, health and metrics: small pages that need no framework, one table of them.

Three servers show them: the frontier's edge, which answers before Quart is imported; the Quart app; and
`serve_probes`, the workers' METRICS_PORT. Nothing here decides what healthy means: that is `health`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib import metadata
from typing import NamedTuple, Protocol

import trio
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from matyan.doors import Doors
from matyan.listeners import open_port

HEAD_BYTES = 16 << 10
"""What a request's head may hold: nginx allows 8 KiB a line, node 16 KiB in all."""
HEAD_SECONDS = 10.0
"""In which a head must be complete; also how long a connection may idle between two requests."""
SEND_SECONDS = 30.0
"""In which a peer must take what it is sent."""
LINGER_SECONDS = 2.0
"""For which a socket is still read after the last answer."""


@cache
def program_version() -> str:
    return metadata.version("matyan-trio")


class HealthView(Protocol):
    """What the probes read of `health.Health`."""

    def live(self) -> dict[str, str]: ...

    def ready(self) -> dict[str, str]: ...


class Answer(NamedTuple):
    status: int
    content_type: str
    body: bytes


@dataclass(frozen=True, slots=True)
class About:
    """Who answers."""

    component: str
    health: HealthView
    metrics: bool = True


def json_answer(status: int, value: object) -> Answer:
    return Answer(status, "application/json", json.dumps(value).encode())


def detail(status: int, sentence: str) -> Answer:
    """An error as the reference's services shape it."""
    return json_answer(status, {"detail": sentence})


def _checked(checks: dict[str, str]) -> Answer:
    good = all(state == "ok" for state in checks.values())
    status = "ok" if good else "unavailable"
    return json_answer(200 if good else 503, {"status": status, "checks": checks})


def _version(about: About) -> Answer:
    return json_answer(200, {"version": program_version(), "component": about.component})


def _metrics(about: About) -> Answer:
    if not about.metrics:
        return detail(404, "metrics are switched off: set METRICS_ENABLED=true")
    return Answer(200, CONTENT_TYPE_LATEST, generate_latest())


_DOCS = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Matyan {component}</title>
<style>body {{ font: 16px/1.5 system-ui; margin: 3em auto; max-width: 48em }}</style>
<h1>Matyan {component} {version}</h1>
<p>This process takes what training code sends. Point the SDK <code>matyan-client</code> at it.</p>
<dl>
<dt><code>WebSocket /api/v1/ws/runs/{{run_id}}</code></dt>
<dd>A text frame holds one JSON message or an array of them; each frame gets one reply.</dd>
<dt><code>POST /api/v1/rest/artifacts/presign</code></dt>
<dd><code>{{"run_id", "artifact_path", "content_type"}}</code> &rarr; where to PUT the artifact:
<code>{{"upload_url", "s3_key", "headers"}}</code></dd>
<dt><a href="/api/v1/rest/version/"><code>GET /api/v1/rest/version/</code></a></dt>
<dt><a href="/health/live/"><code>GET /health/live/</code></a>,
<a href="/health/ready/"><code>/health/ready/</code></a>, <a href="/metrics/"><code>/metrics/</code></a></dt>
</dl></html>
"""


def _docs(about: About) -> Answer:
    page = _DOCS.format(component=about.component, version=program_version())
    return Answer(200, "text/html; charset=utf-8", page.encode())


PROBES: dict[str, Callable[[About], Answer]] = {
    "/api/v1/rest/version/": _version,
    "/health/live/": lambda about: _checked(about.health.live()),
    "/health/ready/": lambda about: _checked(about.health.ready()),
    "/metrics/": _metrics,
    "/docs/": _docs,
}
"""Path → page. Each path is answered without its last slash too, and without a redirect."""


def probe(about: About, path: str) -> Answer | None:
    """The page at `path`, or None."""
    page = PROBES.get(path if path.endswith("/") else path + "/")
    return None if page is None else page(about)


class Head(NamedTuple):
    """A request's head, read just far enough to decide who answers it."""

    method: str
    target: str
    """As it came: percent-encoded, with its query."""
    version: str
    headers: dict[str, str]
    """By lower-case name; of a name that appears twice the values are joined with a comma."""
    raw: bytes
    rest: bytes
    """What was read beyond the head."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def bare(self) -> bool:
        """A GET or HEAD without a body."""
        no_body = not {"content-length", "transfer-encoding"} & self.headers.keys()
        return self.method in {"GET", "HEAD"} and no_body

    @property
    def keeps_alive(self) -> bool:
        wish = self.headers.get("connection", "").lower()
        return "close" not in wish and (self.version == "HTTP/1.1" or "keep-alive" in wish)


def parse_head(raw: bytes, rest: bytes) -> Head | None:
    """None when it is no HTTP/1 request head; strictness is left to the server that answers it."""
    lines = raw.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    headers: dict[str, str] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            name, value = name.lower(), value.strip()
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(words[0], words[1], words[2], headers, raw, rest)


class TooLong(Exception):
    """The head is longer than HEAD_BYTES."""


async def read_head(stream: trio.abc.ReceiveStream, begun: bytes) -> tuple[bytes, bytes] | None:
    """The bytes of the next request head with its empty line, and those after it; None at the end.

    Raises:
        TooLong: more than HEAD_BYTES without an end.
        trio.TooSlowError: it was not complete within HEAD_SECONDS.
    """
    data = begun
    with trio.fail_after(HEAD_SECONDS):
        while (end := data.find(b"\r\n\r\n")) < 0:
            if len(data) > HEAD_BYTES:
                raise TooLong
            more = await stream.receive_some(HEAD_BYTES)
            if not more:
                return None
            data += more
    end += 4
    return data[:end], data[end:]


def response(answer: Answer, *, keep_alive: bool, head_only: bool = False) -> bytes:
    """The answer as HTTP/1.1."""
    status = HTTPStatus(answer.status)
    lines = [
        f"HTTP/1.1 {status.value} {status.phrase}",
        f"Content-Type: {answer.content_type}",
        f"Content-Length: {len(answer.body)}",
        # Who asks with another Origin may get another answer: no cache may give one to the other.
        "Vary: Origin",
        f"Connection: {'keep-alive' if keep_alive else 'close'}",
        "",
        "",
    ]
    return "\r\n".join(lines).encode("latin-1") + (b"" if head_only else answer.body)


async def send_within(stream: trio.abc.SendStream, data: bytes) -> None:
    """Sends it all.

    Raises:
        trio.BrokenResourceError: the peer did not take it within SEND_SECONDS.
    """
    with trio.move_on_after(SEND_SECONDS) as scope:
        await stream.send_all(data)
    if scope.cancelled_caught:
        raise trio.BrokenResourceError("the peer does not read")


def refusal_of_head(error: TooLong | trio.TooSlowError) -> Answer:
    if isinstance(error, TooLong):
        return detail(431, f"the request's head is longer than {HEAD_BYTES} bytes")
    return detail(408, f"the request's head was not complete within {HEAD_SECONDS:.0f} s")


async def linger(stream: trio.SocketStream) -> None:
    """Ends the sending side and waits a moment for the peer's end.

    A socket that is closed with unread bytes in it sends a reset, which can overtake the last answer.
    """
    with trio.move_on_after(LINGER_SECONDS):
        try:
            await stream.send_eof()
            while await stream.receive_some(HEAD_BYTES):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass


async def _serve_one(about: About, doors: Doors | None, stream: trio.SocketStream) -> None:
    rest = b""
    try:
        while True:
            try:
                read = await read_head(stream, rest)
            except (TooLong, trio.TooSlowError) as error:
                await send_within(stream, response(refusal_of_head(error), keep_alive=False))
                await linger(stream)
                return
            head = None if read is None else parse_head(*read)
            if head is None:
                return
            refusal = None if doors is None else doors.judge(head.method, head.path, head.headers)
            if refusal is not None:
                await send_within(
                    stream, response(detail(refusal.status, refusal.sentence), keep_alive=False)
                )
                await linger(stream)
                return
            answer = probe(about, head.path) if head.bare else None
            keep = answer is not None and head.keeps_alive
            answer = answer or detail(404, f"there is only GET of {', '.join(sorted(PROBES))}")
            await send_within(
                stream, response(answer, keep_alive=keep, head_only=head.method == "HEAD")
            )
            if not keep:
                await linger(stream)
                return
            rest = head.rest
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return
    finally:
        await trio.aclose_forcefully(stream)


async def serve_probes(
    health: HealthView,
    host: str,
    port: int,
    *,
    component: str = "worker",
    doors: Doors | None = None,
    task_status: trio.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves the table until it is cancelled; started with its listeners. `doors`: None refuses nobody.

    Raises:
        ConfigurationError: the port cannot be bound.
    """
    about = About(component, health)
    listeners = await open_port(
        host, port, host_name="HOST", port_name="--metrics-port or METRICS_PORT"
    )
    if doors is not None:
        doors = doors.listening_on(one.socket.getsockname()[0] for one in listeners)
    async with trio.open_nursery() as nursery:

        async def serve_one(stream: trio.SocketStream) -> None:
            await _serve_one(about, doors, stream)

        await nursery.start(trio.serve_listeners, serve_one, listeners)
        task_status.started(listeners)
