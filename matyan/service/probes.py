"""Version, health and metrics: small pages that need no framework, one table of them.

Three servers show them: the frontier's edge, which answers before Quart is imported; the Quart app; and
`serve_probes`, the workers' METRICS_PORT. Nothing here decides what healthy means: that is `health`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import trio
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from matyan import __version__
from matyan.service.asgi import ASGIApp, Receive, Scope, Send, answered
from matyan.service.doors import Refusal
from matyan.service.entrance import Entrance
from matyan.service.http1 import (
    Answer,
    BadRequest,
    detail,
    json_answer,
    linger,
    peer_address,
    read_head,
    refuse,
    response,
    send_within,
)
from matyan.service.islands import island
from matyan.service.listeners import open_port


class HealthView(Protocol):
    """What the probes read of `health.Health`."""

    def live(self) -> dict[str, str]: ...

    def ready(self) -> dict[str, str]: ...


@dataclass(frozen=True, slots=True)
class About:
    """The process that answers."""

    component: str
    health: HealthView
    metrics: bool = True
    versions: Mapping[str, object] = field(default_factory=dict)
    """What /version/ says besides."""


def _checked(checks: dict[str, str]) -> Answer:
    good = all(state == "ok" for state in checks.values())
    status = "ok" if good else "unavailable"
    return json_answer(200 if good else 503, {"status": status, "checks": checks})


def _version(about: About) -> Answer:
    return json_answer(
        200, {"version": __version__, "component": about.component, **about.versions}
    )


def _metrics(about: About, accept: str) -> Answer:
    if not about.metrics:
        return detail(404, "Metrics are switched off: set METRICS_ENABLED=true.")
    is_named, wish = _quality(accept, "application/openmetrics-text")
    _, other = _quality(accept, "text/plain")
    if wish > other or (is_named and wish == other > 0):
        return Answer(200, openmetrics.CONTENT_TYPE_LATEST, openmetrics.generate_latest(REGISTRY))
    return Answer(200, "text/plain; version=0.0.4; charset=utf-8", generate_latest())


_QVALUE = re.compile(r"0(?:\.[0-9]{0,3})?|1(?:\.0{0,3})?")


def _quality(accept: str, media_type: str) -> tuple[bool, float]:
    """Whether a client names this type itself, and how much it wants it (RFC 9110, 12.5.1): of all entries that fit the type, the
    most exact one counts. Not by prometheus_client, which ignores weights and fails at a version that is none."""
    exactness = {"*/*": 1, f"{media_type.partition('/')[0]}/*": 2, media_type: 3}
    best = (0, 0.0)
    for wish in accept.lower().split(","):
        name, *parameters = (part.strip() for part in wish.split(";"))
        given = dict([*map(str.strip, part.partition("=")[::2])] for part in parameters)
        weight = given.get("q", "1")
        if name in exactness and _QVALUE.fullmatch(weight):
            best = max(best, (exactness[name], float(weight)))
    return best[0] == 3, best[1]


_PAGE: Final = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Matyan {component}</title>
<style>body {{ font: 16px/1.5 system-ui; margin: 3em auto; max-width: 48em }}</style>
<h1>Matyan {component} {version}</h1>
{about}
<dt><a href="/api/v1/rest/version/"><code>GET /api/v1/rest/version/</code></a></dt>
<dt><a href="/health/live/"><code>GET /health/live/</code></a>,
<a href="/health/ready/"><code>/health/ready/</code></a>, <a href="/metrics/"><code>/metrics/</code></a></dt>
</dl></html>
"""

_TAKES: Final = """<p>This process takes what training code sends. Point the SDK <code>matyan-client</code> at it.</p>
<dl>
<dt><code>WebSocket /api/v1/ws/runs/{run_id}</code></dt>
<dd>A text frame holds one JSON message or an array of them; each frame gets one reply.</dd>
<dt><code>POST /api/v1/rest/artifacts/presign</code></dt>
<dd><code>{"run_id", "artifact_path", "content_type"}</code> &rarr; where to PUT the artifact:
<code>{"upload_url", "s3_key", "headers"}</code></dd>"""

READ_API: Final = "backend"
"""What the read API calls itself where /version/ asks, as the reference's API server does."""

_SHOWS: Final = """<p>This process shows what was logged: to the web app, at <a href="/">/</a> where it is installed, and to the
SDK's readers, <code>Repo</code> and <code>Run</code>.</p>
<dl>
<dt><code>/api/v1/rest/runs/…, projects/…, experiments/…, tags/…</code></dt>
<dd>Searches, series, objects, artifacts, and what people write.</dd>"""


def _docs(about: About) -> Answer:
    told = _SHOWS if about.component == READ_API else _TAKES
    page = _PAGE.format(component=about.component, version=__version__, about=told)
    return Answer(200, "text/html; charset=utf-8", page.encode())


PROBES: dict[str, Callable[[About, str], Answer]] = {
    "/api/v1/rest/version/": lambda about, _: _version(about),
    "/health/live/": lambda about, _: _checked(about.health.live()),
    "/health/ready/": lambda about, _: _checked(about.health.ready()),
    "/metrics/": _metrics,
    "/docs/": lambda about, _: _docs(about),
}
"""Path → page, of the process that answers and the request's Accept. Each path is answered without its last slash too, and without a redirect."""


def probe(about: About, path: str, accept: str) -> Answer | None:
    """The page at `path` in the form that `accept`, the header, asks for; or None."""
    page = PROBES.get(path if path.endswith("/") else path + "/")
    return None if page is None else page(about, accept)


def wants_page(path: str, accept: str) -> bool:
    """Whether a browser asks for a page of the web app, where a scraper of the same path asks for metrics."""
    return path.startswith("/metrics") and "text/html" in accept.lower()


class Probed:
    """The pages in front of an ASGI app, for a listener whose pages browsers of other origins ask for, too.

    wants_page: called with path and Accept; whether a request for a page's path is for the app.
    """

    def __init__(
        self, inner: ASGIApp, about: About, wants_page: Callable[[str, str], bool]
    ) -> None:
        self._inner = inner
        self._about = about
        self._wants_page = wants_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}:
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            if not self._wants_page(scope["path"], accept):
                page = probe(self._about, scope["path"], accept)
                if page is not None:
                    await answered(page, receive, send, head_only=scope["method"] == "HEAD")
                    return
        await self._inner(scope, receive, send)


async def _serve_one(about: About, entrance: Entrance | None, stream: trio.SocketStream) -> None:
    rest, first = b"", True
    while True:
        try:
            head = await read_head(stream, rest, first=first)
        except BadRequest as error:
            await refuse(stream, error.answer)
            return
        if head is None:
            return
        if entrance is not None:
            visitor = entrance.judge(head.method, head.path, head.query, head.headers)
            if isinstance(visitor, Refusal):
                await entrance.hold(visitor, peer_address(stream))
                await refuse(stream, detail(visitor.status, visitor.sentence, visitor.headers))
                return
        answer = probe(about, head.path, head.headers.get("accept", "")) if head.bare else None
        if answer is None:
            await refuse(stream, detail(404, f"There is only GET of {', '.join(sorted(PROBES))}."))
            return
        head_only = head.method == "HEAD"
        await send_within(
            stream, response(answer, keep_alive=head.keeps_alive, head_only=head_only)
        )
        if not head.keeps_alive:
            await linger(stream)
            return
        rest, first = head.rest, False


async def serve_probes(
    health: HealthView,
    host: str,
    port: int,
    *,
    component: str = "worker",
    entrance: Entrance | None = None,
    task_status: trio.TaskStatus[Sequence[trio.SocketListener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serves the table until it is cancelled; started with its listeners. `entrance`: None refuses nobody.

    Raises:
        ConfigurationError: the port cannot be bound, or may not be open to everybody.
    """
    about = About(component, health)
    listeners = await open_port(
        host, port, host_name="HOST", port_name="--metrics-port or METRICS_PORT"
    )
    if entrance is not None:
        entrance.listening_on(one.socket.getsockname()[0] for one in listeners)
    handler = partial(island, partial(_serve_one, about, entrance))
    await trio.serve_listeners(handler, listeners, task_status=task_status)
