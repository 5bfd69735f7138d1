"""`matyan health`: whether a service is well, as an exit code: for a container's health check and for scripts.

Asks one route of a process; what its answer means is said in `service/health.py`.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any, Final

import click

from matyan import parsing
from matyan.cli import views
from matyan.cli.flags import as_json_option, settings_flags
from matyan.errors import ConfigurationError, Unavailable
from matyan.service import terminal
from matyan.settings import API_PORT, DEFAULT_PORT, Settings

_ANSWER_S: Final = 5.0
_ANSWER_BYTES: Final = 64 << 10
_EVERYWHERE: Final = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}
"""Where somebody is reached who listens everywhere."""


@click.command()
@click.argument("where", required=False, metavar="[URL|PORT]")
@click.option(
    "--live",
    is_flag=True,
    help="Ask whether it works as a program, though what it needs may be away.",
)
@as_json_option
@settings_flags("host", "port", "metrics_port", "tls_cert_file", defaults={"port": 0})
def health(settings: Settings, where: str | None, live: bool, as_json: bool) -> int:
    """Tell whether a service is ready: exit code 0, or 1 and what is wrong.

    Without URL or PORT it is the service of this machine or container, whichever it is: the first that answers at PORT (or the ports
    that matyan up, matyan frontier and matyan api have by themselves) or, a worker's, METRICS_PORT; by HTTPS where
    MATYAN_TLS_CERT_FILE is set, but for METRICS_PORT.

    \b
      matyan health
      matyan health --live 9090
      matyan health https://tracker:53801
    """
    path = "/health/live/" if live else "/health/ready/"
    asked = []
    for place, connection in _connections(where, settings):
        asked.append(place)
        answer = _answer(connection, path, place)
        if answer is None:
            continue
        status, body = answer
        if as_json:
            views.as_json(body)
        else:
            terminal.out(place, body["status"])
            for check, said in sorted(body["checks"].items()):
                terminal.out(f"  {check}", said)
        return 0 if status == 200 else 1
    raise Unavailable(
        f"Nobody answers at {', '.join(asked)}: start a service there, or name its URL or port."
    )


def _connections(where: str | None, settings: Settings) -> Iterator[tuple[str, HTTPConnection]]:
    """Each place to ask at, for a person, and a connection that is still to be made.

    Raises:
        ConfigurationError: `where` is no URL and no port.
    """
    if where is not None and not (where.isascii() and where.isdecimal()):
        from matyan.reader.remote import Server

        server = Server(where)
        connection = server.connect()
        connection.timeout = _ANSWER_S
        yield str(server), connection
        return
    host = _EVERYWHERE.get(settings.host, settings.host)
    served = _served_ports(settings) if where is None else [_port(where)]
    if settings.tls_cert_file:
        for port in served:
            # One's own process, whose certificate names it as others call it. Nothing secret is sent.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            yield (
                f"https://{host}:{port}",
                HTTPSConnection(host, port, timeout=_ANSWER_S, context=context),
            )
    # A worker has no TLS, though it may share its environment with those who have.
    workers = (
        served
        if where is not None
        else [settings.metrics_port]
        if settings.metrics_port > 0
        else []
    )
    for port in workers if settings.tls_cert_file else dict.fromkeys([*served, *workers]):
        yield f"http://{host}:{port}", HTTPConnection(host, port, timeout=_ANSWER_S)


def _port(text: str) -> int:
    try:
        return parsing.port(text)
    except ValueError as error:
        raise ConfigurationError(f"{text[:20]}: {error}; or a URL, http://HOST:PORT.") from None


def _served_ports(settings: Settings) -> list[int]:
    return [settings.port] if settings.port else [DEFAULT_PORT, API_PORT]


def _answer(connection: HTTPConnection, path: str, place: str) -> tuple[int, dict[str, Any]] | None:
    """The status and what it says of its checks; None: nobody is there, or another program.

    Raises:
        ConfigurationError: it shows a certificate that is not trusted.
    """
    with closing(connection):
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            body = json.loads(response.read(_ANSWER_BYTES))
        except ssl.SSLCertVerificationError as error:
            from matyan.reader.remote import untrusted

            raise untrusted(place, error) from None
        except (OSError, HTTPException, ValueError):
            return None
    is_ours = isinstance(body, dict) and isinstance(body.get("checks"), dict) and "status" in body
    return (response.status, body) if is_ours else None
