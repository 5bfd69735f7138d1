"""The web server of the frontier's app. Imported late: Quart and Hypercorn cost a start 0.7 s."""

from __future__ import annotations

from typing import cast

from matyan.frontier.app import create_app
from matyan.frontier.shared import Shared
from matyan.service.asgi import ASGIApp
from matyan.service.web import WebServer


def web_server(shared: Shared) -> WebServer:
    return WebServer(cast(ASGIApp, create_app(shared)))
