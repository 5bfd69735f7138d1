"""`matyan api` as a listener, before its store is there: who may come in, what it says, and how it ends."""

from __future__ import annotations

import json
import signal
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path

from tests import tls
from tests.services import serving
from tests.tokens import add, basic
from tests.tracker import Service
from tests.until import wait_for

PAGE = "https://ui.example"


def ask(
    service: Service, path: str, method: str = "GET", **headers: str
) -> tuple[int, Message, bytes]:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    asked = urllib.request.Request(service.url + path, headers=fields, method=method)
    context = tls.client_context() if service.url.startswith("https:") else None
    try:
        with urllib.request.urlopen(asked, timeout=20, context=context) as response:
            return response.status, response.headers, response.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


def test_it_has_the_doors_of_every_service(tmp_path: Path) -> None:
    """Tokens with a challenge that browsers know, CORS for the origins that are named alone, TLS, probes, and an end."""
    file = tmp_path / "tokens"
    reads = basic("reader", add(file, "reader", "read"))
    env = {
        "MATYAN_TOKENS_FILE": str(file),
        "CORS_ORIGINS": PAGE,
        **tls.server_environment(),
    }
    with serving("api", "--store", f"rocks:{tmp_path / 'data'}", **env) as plain:
        service = Service(plain.process, plain.output, plain.url.replace("http:", "https:"))
        wait_for(lambda: "matyan ingest-worker" in service.unready())
        for path in ("/", "/api/v1/rest/projects/", "/metrics", "/static-files/x", "/docs"):
            status, headers, _ = ask(service, path)
            assert status == 401, path
            assert headers.get_all("www-authenticate")[0].startswith("Basic "), path
        status, headers, body = ask(
            service, "/api/v1/rest/projects", Authorization=reads, Origin=PAGE
        )
        assert (status, headers["access-control-allow-origin"]) == (503, PAGE)
        assert "matyan ingest-worker" in json.loads(body)["message"]
        status, headers, body = ask(
            service, "/api/v1/rest/version/", Authorization=reads, Origin=PAGE
        )
        assert (status, headers["access-control-allow-origin"]) == (200, PAGE)
        assert json.loads(body)["component"] == "backend"
        assert ask(service, "/metrics/", Authorization=reads)[2].startswith(b"# HELP")
        assert b"This process shows" in ask(service, "/docs", Authorization=reads)[2]
        for origin, wanted in ((PAGE, 204), ("https://evil.example", 401)):
            asks = {"Origin": origin, "Access_Control_Request_Method": "DELETE"}
            assert ask(service, "/api/v1/rest/runs/r", "OPTIONS", **asks)[0] == wanted
        status, _, body = ask(service, "/api/v1/rest/runs/r", "DELETE", Authorization=reads)
        said = json.loads(body)
        assert (status, said["message"]) == (403, said["detail"]), "which the web app shows"
        assert "this wants write" in said["message"]
        socket = ask(service, "/api/v1/ws/runs/r", Authorization=reads, Upgrade="websocket")
        assert socket[0] == 403
        assert service.stop(signal.SIGTERM) == 0
