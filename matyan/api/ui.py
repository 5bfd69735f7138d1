"""The web app `matyan-ui`: its files, and the page that every other path gets. None of its server is used.

The files' names hold no version, so a browser asks each time whether they have changed; most have a twin that is compressed.
"""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterator
from email.utils import formatdate, parsedate_to_datetime
from pathlib import Path
from typing import Final

import trio
from quart import Response, request
from quart_trio import QuartTrio

from matyan.api.asked import Refused
from matyan.api.plain import empty
from matyan.api.web_app import TEMPLATE, Addresses, WebApp

_PIECE_BYTES: Final = 256 << 10

_MISSING: Final = """<!doctype html><meta charset="utf-8"><title>matyan</title>
<body style="font:16px/1.5 sans-serif;max-width:40em;margin:3em auto;padding:0 1em">
<h1>matyan runs here</h1>
<p>The web app is not installed beside it. With Python 3.12 or newer:</p>
<pre>pip install 'matyan-trio[ui]'</pre>
<p>and start the tracker again. Until then <code>matyan runs</code>, <code>matyan show RUN</code> and
<code>matyan logs RUN</code> show what there is.</p>
"""


def add(app: QuartTrio, web_app: WebApp | None, addresses: Addresses) -> None:
    """The routes of the web app, or of a page that says how to get it."""
    page = _MISSING if web_app is None else _page(web_app, addresses)

    @app.get("/static-files/<path:path>")
    async def static_file(path: str) -> Response:
        if web_app is None:
            raise Refused(404, "The web app is not installed: pip install 'matyan-trio[ui]'.")
        return await _file(web_app.folder, path)

    @app.get("/")
    @app.get("/<path:path>")
    async def index(path: str = "") -> Response:
        if path.startswith(("api/", "static-files/")):
            raise Refused(404, f"There is nothing at /{path[:255]}.")
        response = Response(page, content_type="text/html; charset=utf-8")
        response.headers["Cache-Control"] = "no-cache"
        return response


def _page(web_app: WebApp, addresses: Addresses) -> str:
    template = (web_app.folder / TEMPLATE).read_text(encoding="utf-8")
    # An empty host would become http://localhost:53800; the page's own address needs no setting.
    host = json.dumps(addresses.api_host) if addresses.api_host else "window.location.origin"
    return (
        template.replace('"{{ api_host_base }}"', host.replace("<", "\\u003c"))
        .replace("{{ base_path }}", addresses.base_path)
        .replace("{{ api_base_path }}", addresses.api_base_path)
        .replace("{{ api_auth_token }}", "")
    )


async def _file(folder: Path, path: str) -> Response:
    """A file below `folder`, from its compressed twin where the browser takes that.

    Raises:
        Refused: there is none.
    """
    root = await trio.Path(folder).resolve()
    try:
        plain = await trio.Path(folder / path).resolve()
        is_there = plain.is_relative_to(root) and await plain.is_file()
    except (OSError, ValueError):  # what no file can be called
        is_there = False
    if not is_there:
        raise Refused(404, f"There is no file {path[:255]!r}.")
    packed = plain.with_name(f"{plain.name}.gz")
    is_packed = "gzip" in request.headers.get("Accept-Encoding", "") and await packed.is_file()
    file = packed if is_packed else plain
    status = await file.stat()
    tag = f'"{int(status.st_mtime):x}-{status.st_size:x}{"-gz" if is_packed else ""}"'
    headers = {
        "ETag": tag,
        "Last-Modified": formatdate(status.st_mtime, usegmt=True),
        "Cache-Control": "no-cache",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if _is_known(tag, status.st_mtime):
        return empty(304, headers)
    headers["Content-Length"] = str(status.st_size)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    kind = mimetypes.guess_type(plain.name)[0] or "application/octet-stream"
    response = Response(_pieces(file), headers=headers, content_type=kind)
    response.timeout = None
    return response


def _is_known(tag: str, modified: float) -> bool:
    """Whether the browser has this very file (RFC 9110, 13.1)."""
    tags = request.headers.get("If-None-Match")
    if tags is not None:
        return tags.strip() == "*" or tag in {
            one.strip().removeprefix("W/") for one in tags.split(",")
        }
    since = request.headers.get("If-Modified-Since")
    try:
        return since is not None and int(modified) <= parsedate_to_datetime(since).timestamp()
    except ValueError:
        return False


async def _pieces(file: trio.Path) -> AsyncIterator[bytes]:
    async with await file.open("rb") as opened:
        while piece := await opened.read(_PIECE_BYTES):
            yield piece
