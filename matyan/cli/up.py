"""`matyan up`: the tracker of one machine with its listener, and what it tells a person meanwhile."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import click
import trio
from prometheus_client import Counter, Gauge

from matyan import __version__
from matyan import settings as settings_
from matyan.api.web_app import find_web_app
from matyan.cli.flags import TLS, UI, place_options, settings_flags, store_name
from matyan.cli.read_api import tracker_api
from matyan.errors import ConfigurationError
from matyan.folder import blob_day
from matyan.folder.tracker import Tracker, open_tracker
from matyan.frontier import edge
from matyan.parsing import HIGHEST_PORT
from matyan.service import logs, private, telemetry
from matyan.service.descriptors import raise_limit
from matyan.service.listeners import open_port
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, calm_collector, run_service
from matyan.service.terminal import StatusLine, announce
from matyan.service.tokens import Tokens, default_file, tokens_of
from matyan.settings import Settings
from matyan.store.open import ClusterName, StoreName

_EVERYWHERE = {"0.0.0.0", "::", ""}
_STATUS_S = 1.0
_TRAFFIC_S = 60.0
"""In a pipe: how often traffic is logged, while there is some."""

_log = get_logger()

_NO_OPTION = (
    *("log_level", "environment", "shutdown_flush_timeout", "metrics_enabled", "queue_bytes"),
    *("blob_max_bytes", "presign_blob_ref", "public_url", "cors_origins", "allowed_hosts"),
    *("ws_deflate", "readiness", "sequence_layout"),
)
"""The settings that it reads as variables alone."""


@click.command()
@place_options
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, HIGHEST_PORT),
    default=settings_.DEFAULT_PORT,
    show_default=True,
    help="0: any free.",
)
@click.option("--open", "opens", is_flag=True, help="Open the web app in a browser.")
@settings_flags(
    "tokens_file",
    "webhooks_file",
    *UI,
    *TLS,
    ignore=settings_.EMBEDDED_IGNORES,
    also=_NO_OPTION,
)
def up(settings: Settings, store: StoreName, host: str, port: int, *, opens: bool) -> int:
    """Run the whole tracker on this machine, until Ctrl-C.

    \b
    Everything is kept in the data folder. The commands that read and write it work meanwhile:
      matyan up --data runs/ &
      matyan runs --data runs/
    \b
    Reachable from other machines, on another port, for those who have a token:
      matyan tokens add training --scope write --data runs/
      matyan up --host 0.0.0.0 --port 8080 --data runs/
    \b
    Under TLS, with a certificate that may come from a private authority:
      matyan up --host 0.0.0.0 --tls-cert-file tls.crt --tls-key-file tls.key
    """
    if isinstance(store, ClusterName):
        raise ConfigurationError(
            "`matyan up` keeps what it has accepted in the transactions of its own data folder, which is RocksDB: name one "
            f"with --data. A FoundationDB store is fed through Kafka: start `matyan frontier`, and `matyan ingest-worker "
            f"--store {store_name(store)}`."
        )
    private.set_umask()
    raise_limit()
    line = logs.configure(settings.log_level)
    names = settings_.unknown_names(settings_.read_environment(), ignore=settings_.EMBEDDED_IGNORES)
    for sentence in names:
        _log.warning(sentence)
    try:
        return trio.run(_up, store.folder.absolute(), host, port, settings, line, opens)
    finally:
        if line is not None:
            line.show("")


async def _up(
    data: Path, host: str, port: int, settings: Settings, line: StatusLine | None, opens: bool
) -> int:
    async with open_tracker(data, settings) as tracker:
        tokens = tokens_of(settings, default_file(data))
        reads, make_api = tracker_api(tracker, settings)
        frontier = edge.Frontier(
            tracker.producer, tracker.blobs, tracker.health, settings, tokens, make_api
        )
        uploads = frontier.shared.accounts.day
        blob_day.restore(uploads, data)
        listeners: list[trio.SocketListener] = []

        async def serve(*, task_status: trio.TaskStatus[object]) -> None:
            listeners[:] = await open_port(host, port)
            await edge.serve(frontier, listeners, task_status=task_status)

        async def report(*, task_status: trio.TaskStatus[None]) -> None:
            scheme = "https" if settings.tls_cert_file else "http"
            url = _url(scheme, host, listeners)
            page = f"{url}{settings.ui_base_path}/"
            _greet(data, host, url, page, tokens)
            calm_collector()
            task_status.started()
            if opens:
                await trio.to_thread.run_sync(webbrowser.open, page, abandon_on_cancel=True)
            await (_watch(tracker, line) if line is not None else _log_traffic(tracker))

        async def drain(deadline: float) -> int:
            left = await edge.drain(frontier, deadline)
            return max(left, await tracker.drain(deadline))

        return await run_service(
            [
                *tracker.tasks(),
                Task("read API", reads.run),
                Task("frontier", serve),
                Task("report", report),
                Task("uploads", partial(blob_day.keep, uploads, data)),
            ],
            drain,
            tracker.health,
            drain_s=settings.shutdown_flush_timeout,
        )


def _url(scheme: str, host: str, listeners: Sequence[trio.SocketListener]) -> str:
    """What this machine reaches the tracker by."""
    name = "127.0.0.1" if host in _EVERYWHERE else f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{listeners[0].socket.getsockname()[1]}"


def _greet(data: Path, host: str, url: str, page: str, tokens: Tokens) -> None:
    scheme, _, rest = url.partition("://")
    web_app = find_web_app()
    if web_app is None:
        page = "pip install 'matyan-trio[ui]'"
    lines = [f"matyan {__version__} takes data at {url}"]
    if host in _EVERYWHERE:
        port = rest.rpartition(":")[2]
        lines.append(f"  from other machines:  {scheme}://{socket.gethostname()}:{port}")
    lines += [
        f"  web app:              {page}",
        f"  health and metrics:   {url}/health/ready/  {url}/metrics/",
        f"  data folder:          {data}",
        f"  tokens:               {tokens.about()}",
        "In the training code:",
        "",
        "    from matyan_client import Run",
        f'    run = Run(repo="{url.replace("//", "//NAME:TOKEN@") if tokens.on else url}")',
        '    run.track(0.5, name="loss")',
        "",
    ]
    if scheme == "https":
        lines += [
            "Where the certificate's authority is a private one, the training code wants SSL_CERT_FILE=(that authority's",
            "certificate) in its environment; the name in the URL must be one of the certificate's.",
            "",
        ]
    lines.append("Ctrl-C stops it.")
    announce("\n".join(lines))


@dataclass(frozen=True, slots=True)
class _Traffic:
    connections: int
    messages: int
    points: int
    waiting_bytes: int
    errors: int


def _traffic(tracker: Tracker) -> _Traffic:
    processed = {
        sample.labels["message_type"]: sample.value
        for family in telemetry.INGEST_PROCESSED.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    return _Traffic(
        int(_sum(telemetry.WS_CONNECTIONS)),
        int(sum(processed.values())),
        int(processed.get("log_metric", 0)),
        tracker.producer.queued_bytes,
        int(_sum(telemetry.REJECTED) + _sum(telemetry.DEAD_LETTERS)),
    )


def _sum(metric: Counter | Gauge) -> float:
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    )


async def _watch(tracker: Tracker, line: StatusLine) -> None:
    """The live line of a terminal."""
    messages, moment = 0, trio.current_time()
    while True:
        now, traffic = trio.current_time(), _traffic(tracker)
        rate = (traffic.messages - messages) / max(now - moment, 1e-9)
        messages, moment = traffic.messages, now
        line.show(
            f"{traffic.connections:,} connections · {rate:,.0f} messages/s · {traffic.points:,} points · "
            f"{traffic.waiting_bytes / 1000:,.0f} kB waiting · {traffic.errors:,} errors"
        )
        await trio.sleep(_STATUS_S)


async def _log_traffic(tracker: Tracker) -> None:
    """The same for a pipe: a log line a minute, while there is something to tell."""
    last = _traffic(tracker)
    while True:
        await trio.sleep(_TRAFFIC_S)
        traffic = _traffic(tracker)
        if traffic != last:
            _log.info(
                "traffic",
                connections=traffic.connections,
                messages_per_second=round((traffic.messages - last.messages) / _TRAFFIC_S, 1),
                points=traffic.points,
                waiting_bytes=traffic.waiting_bytes,
                errors=traffic.errors,
            )
        last = traffic
