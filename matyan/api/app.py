"""The Quart-trio app of the read API: its routes, its errors, and how its requests are counted.

Who may come in is decided in front of it.
"""

from __future__ import annotations

from collections.abc import Callable

import trio
from quart import Response, g, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from matyan.api import ui
from matyan.api.asked import Refused
from matyan.api.plain import refusal
from matyan.api.routes import documents, entities, projects, reading, run_changes, runs
from matyan.api.served import Served
from matyan.api.web_app import Addresses, WebApp
from matyan.errors import NotFound, QueueFull, Unavailable
from matyan.service.logs import get_logger

BODY_BYTES = 16 << 20
"""`metric/get-batch` and `search/metric/align` name every sequence."""

Count = Callable[[str, str, int, float], None]
"""Called with method, template of the path, status and seconds of each request."""

log = get_logger()


def create_api(
    served: Served,
    count: Count,
    web_app: WebApp | None = None,
    addresses: Addresses | None = None,
) -> QuartTrio:
    """
    Args:
        web_app: its files; None: a page says how to get them.
        addresses: None: no proxy stands in front.
    """
    app = QuartTrio("matyan.api", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=BODY_BYTES)
    # Every path is the same with and without a final slash; a redirect would break a browser's preflight.
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    for routes in (runs, run_changes, projects, entities, documents, reading):
        routes.add(app, served)
    ui.add(app, web_app, addresses or Addresses())
    _add_errors(app)
    _require_json(app)
    _count_requests(app, count)
    return app


def _add_errors(app: QuartTrio) -> None:
    @app.errorhandler(Refused)
    async def refused(error: Refused) -> Response:
        return refusal(error)

    @app.errorhandler(NotFound)
    async def not_found(error: NotFound) -> Response:
        return refusal(Refused(404, str(error)))

    @app.errorhandler(Unavailable)
    async def unavailable(error: Unavailable) -> Response:
        return refusal(Refused(503, str(error)))

    @app.errorhandler(QueueFull)
    async def queue_full(error: QueueFull) -> Response:
        return refusal(Refused(503, f"It was not taken ({error}): ask again later."))

    @app.errorhandler(HTTPException)
    async def as_refusal(error: HTTPException) -> Response:
        return refusal(Refused(error.code or 500, error.description or error.name))


def _require_json(app: QuartTrio) -> None:
    @app.before_request
    async def require_json() -> None:
        """A page of another origin may send other types without asking first (Fetch standard, "CORS-safelisted request-header")."""
        sends = request.method in {"POST", "PUT"} and request.content_length != 0
        if sends and request.mimetype != "application/json":
            raise Refused(415, "The body must be sent with Content-Type: application/json.")


def _count_requests(app: QuartTrio, count: Count) -> None:
    @app.before_request
    async def begin() -> None:
        g.begun = trio.current_time()

    @app.after_request
    async def end(response: Response) -> Response:
        template = request.url_rule.rule if request.url_rule is not None else "unmatched"
        begun = g.get("begun", trio.current_time())
        count(request.method, template, response.status_code, trio.current_time() - begun)
        return response
