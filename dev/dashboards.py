"""The dashboards of deploy/grafana, one a service, from the table below: `python -m dev.dashboards` writes them.

A test holds the files to this table, and the table to the metrics that the services expose.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

FOLDER: Final = Path(__file__).parents[1] / "deploy" / "grafana"

_SELECTOR: Final = "$SELECTED"
"""In an expression: the job and the instances that the reader has picked."""
_SELECTED: Final = 'job=~"$job",instance=~"$instance"'
_COLUMNS: Final = 24
_HEIGHT: Final = 8


@dataclass(frozen=True, slots=True)
class Panel:
    """
    Args:
        queries: legend → PromQL.
        unit: Grafana's name of it.
        about: what a reader should know of it.
    """

    title: str
    queries: dict[str, str]
    unit: str = "short"
    about: str = ""
    width: int = 8
    stacks: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """
    Args:
        jobs: the scrape jobs whose processes it shows, an expression.
        variable: a metric that each of them exposes.
    """

    uid: str
    title: str
    jobs: str
    variable: str
    rows: tuple[Row, ...] = field(default=())


def _rate(metric: str, *by: str, more: str = "") -> str:
    selector = ",".join(filter(None, (_SELECTOR, more)))
    return f"sum{_by(by)} (rate({metric}{{{selector}}}[$__rate_interval]))"


def _sum(metric: str, *by: str) -> str:
    return f"sum{_by(by)} ({metric}{{{_SELECTOR}}})"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)})" if labels else ""


def _quantiles(metric: str) -> dict[str, str]:
    rate = _rate(f"{metric}_bucket", "le")
    return {
        name: f"histogram_quantile({share}, {rate})"
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))
    }


_PROCESS: Final = Row(
    "Process",
    (
        Panel(
            "CPU",
            {"{{instance}}": f"rate(process_cpu_seconds_total{{{_SELECTOR}}}[$__rate_interval])"},
            "percentunit",
            "Of one core.",
        ),
        Panel(
            "Memory",
            {"{{instance}}": f"process_resident_memory_bytes{{{_SELECTOR}}}"},
            "bytes",
        ),
        Panel(
            "Open descriptors",
            {
                "{{instance}}": f"process_open_fds{{{_SELECTOR}}}",
                "limit {{instance}}": f"process_max_fds{{{_SELECTOR}}}",
            },
        ),
        Panel(
            "Up for",
            {"{{instance}}": f"time() - process_start_time_seconds{{{_SELECTOR}}}"},
            "s",
            "A saw is a process that ends again and again.",
        ),
        Panel(
            "Trying again",
            {"{{service}} {{cause}}": _rate("matyan_retries_total", "service", "cause")},
            "cps",
            "An engine is away, or refuses.",
        ),
        Panel(
            "Tasks started again",
            {"{{task}}": _rate("matyan_service_restarts_total", "task")},
            about="A task within the process crashed: its traceback is in the log.",
        ),
        Panel(
            "Log lines lost",
            {"{{instance}}": _rate("matyan_log_lines_lost_total", "instance")},
        ),
    ),
)

_WEBHOOKS = Row(
    "Webhooks",
    (
        Panel(
            "Messages",
            {
                "{{webhook}}: {{outcome}}": _rate(
                    "matyan_webhook_deliveries_total", "webhook", "outcome"
                )
            },
            "cps",
        ),
        Panel("Waiting", {"{{webhook}}": _sum("matyan_webhook_waiting_notices", "webhook")}),
    ),
)
_HTTP: Final = Row(
    "HTTP",
    (
        Panel(
            "Requests",
            {
                "{{method}} {{path_template}} {{status_class}}": _rate(
                    "matyan_http_requests_total", "method", "path_template", "status_class"
                )
            },
            "reqps",
        ),
        Panel(
            "Time of a request",
            _quantiles("matyan_http_request_duration_seconds"),
            "s",
        ),
    ),
)

_DOOR: Final = Row(
    "Who may come in",
    (
        Panel(
            "Refused for their token",
            {"{{reason}}": _rate("matyan_refused_total", "reason")},
            "reqps",
        ),
        Panel("Tokens", {"{{instance}}": _sum("matyan_tokens", "instance")}),
        Panel(
            "Tokens file cannot be read",
            {"{{instance}}": f"matyan_tokens_file_trouble{{{_SELECTOR}}}"},
        ),
    ),
)

_TLS: Final = Row(
    "TLS",
    (
        Panel(
            "Certificate is good for",
            {
                "{{instance}} {{file}}": f"matyan_tls_certificate_expiry_timestamp_seconds{{{_SELECTOR}}} - time()"
            },
            "s",
            "Nothing without TLS.",
        ),
        Panel(
            "Handshakes",
            {"{{outcome}}": _rate("matyan_tls_handshakes_total", "outcome")},
            "cps",
        ),
    ),
)

_INTAKE: Final = (
    Row(
        "Acknowledgements",
        (
            Panel(
                "From a frame's last byte to its reply",
                _quantiles("matyan_frontier_ack_seconds"),
                "s",
                "Only of replies that were sent: while none is, look at the frames that wait.",
            ),
            Panel(
                "Frames that wait for their reply",
                {"{{instance}}": _sum("matyan_frontier_waiting_frames", "instance")},
            ),
            Panel(
                "The oldest has waited for",
                {"{{instance}}": f"matyan_frontier_oldest_waiting_seconds{{{_SELECTOR}}}"},
                "s",
                "After 40 s the client is told that the frame is kept and still being delivered, or refused.",
            ),
            Panel(
                "Messages",
                {"{{message_type}}": _rate("matyan_ws_messages_total", "message_type")},
                "cps",
                stacks=True,
            ),
            Panel(
                "Frames by what became of them",
                {"{{outcome}}": _rate("matyan_frontier_frames_total", "outcome")},
                "cps",
                "refused and lost are not stored, and their clients were told so.",
            ),
            Panel(
                "Rejected messages",
                {
                    "{{message_type}} {{reason}}": _rate(
                        "matyan_frontier_rejected_messages_total", "message_type", "reason"
                    )
                },
                "cps",
                "The member that validation refused.",
            ),
            Panel(
                "Bytes held before an answer",
                {
                    "{{instance}}": f"matyan_producer_queue_bytes{{{_SELECTOR}}}",
                    "limit {{instance}}": f"matyan_producer_queue_capacity_bytes{{{_SELECTOR}}}",
                },
                "bytes",
                "Over 80 % the process is not ready.",
            ),
        ),
    ),
    Row(
        "Connections",
        (
            Panel("Open", {"{{instance}}": _sum("matyan_ws_connections_active", "instance")}),
            Panel("Closed, by code", {"{{code}}": _rate("matyan_ws_closes_total", "code")}, "cps"),
            Panel("Open for", _quantiles("matyan_ws_connection_duration_seconds"), "s"),
            Panel(
                "Replies held back by quotas",
                {"{{token}} {{limit}}": _rate("matyan_quota_held_frames_total", "token", "limit")},
                "cps",
            ),
            Panel(
                "For how long, a second",
                {"{{token}} {{limit}}": _rate("matyan_quota_held_seconds_total", "token", "limit")},
                "s",
            ),
            Panel(
                "Refused by quotas",
                {"{{token}} {{limit}}": _rate("matyan_quota_refused_total", "token", "limit")},
                "cps",
            ),
        ),
    ),
)

_PARTITIONS: Final = (
    Panel(
        "Lag",
        {
            "{{topic}}": "sum by (topic) (matyan_consumer_lag_records{$SELECTED})",
            "{{topic}} {{partition}}": f"matyan_consumer_lag_records{{{_SELECTOR}}}",
        },
        about="Records that are not applied yet. It is shown by the worker that holds the partition: without one, by nobody.",
    ),
    Panel(
        "Partitions that stand still",
        {
            "{{topic}} {{partition}} ({{cause}})": f"matyan_consumer_partition_stalled{{{_SELECTOR}}}"
        },
        about="engine: one is away, and is asked again and again. conflict: a person has to decide.",
    ),
    Panel(
        "Dead letters",
        {"{{topic}}": "sum by (topic) (matyan_dead_letters_total{$SELECTED})"},
        about="Since the processes began: `matyan dlq list --kafka` has them.",
    ),
    Panel(
        "Paused",
        {"{{topic}}": _rate("matyan_consumer_paused_seconds_total", "topic")},
        "percentunit",
        "Seconds a second in which partitions stood paused: since much was read ahead, or an engine was away.",
    ),
    Panel("Rebalances", {"{{event}}": _rate("matyan_consumer_rebalances_total", "event")}, "cps"),
)

_APPLIED: Final = Row(
    "Records",
    (
        Panel(
            "Applied",
            {
                "{{message_type}}": _rate(
                    "matyan_ingestion_messages_processed_total", "message_type"
                )
            },
            "cps",
            stacks=True,
        ),
        Panel(
            "Read",
            {"{{instance}}": _rate("matyan_ingestion_messages_consumed_total", "instance")},
            "cps",
        ),
        Panel(
            "From the frontier's timestamp to the commit",
            _quantiles("matyan_ingestion_end_to_end_seconds"),
            "s",
        ),
        Panel(
            "Failures while applying",
            {"{{error_type}}": _rate("matyan_ingestion_processing_errors_total", "error_type")},
            "cps",
        ),
        Panel(
            "Skipped",
            {"{{cause}}": _rate("matyan_ingestion_skipped_records_total", "cause")},
            "cps",
            "Not applied again: delivered twice, or of a deleted run.",
        ),
        Panel("Records a batch", _quantiles("matyan_ingestion_batch_size")),
    ),
)

_TRANSACTIONS: Final = Row(
    "Transactions",
    (
        Panel("One transaction, its sync included", _quantiles("matyan_store_commit_seconds"), "s"),
        Panel("One batch", _quantiles("matyan_ingestion_batch_processing_seconds"), "s"),
        Panel(
            "Bytes of records in a transaction",
            _quantiles("matyan_ingestion_txn_estimated_bytes"),
            "bytes",
        ),
    ),
)

_DISK: Final = Row(
    "Disk",
    (
        Panel(
            "Free",
            {
                "{{instance}} {{folder}}": f"matyan_data_folder_free_bytes{{{_SELECTOR}}}",
                "size {{instance}} {{folder}}": f"matyan_data_folder_filesystem_bytes{{{_SELECTOR}}}",
            },
            "bytes",
            "Of the data folder's file system; nothing where the store is a FoundationDB cluster.",
            24,
        ),
    ),
)

_FDB: Final = Row(
    "FoundationDB",
    (
        Panel("One commit", _quantiles("matyan_fdb_commit_seconds"), "s"),
        Panel("Waits for reads", _quantiles("matyan_fdb_read_seconds"), "s"),
        Panel(
            "Bytes that a transaction wrote", _quantiles("matyan_fdb_transaction_bytes"), "bytes"
        ),
        Panel(
            "Transactions that did not commit",
            {"{{code}}": _rate("matyan_fdb_errors_total", "code")},
            "cps",
            "By error code; 1020 is a conflict.",
        ),
        Panel(
            "Run again", {"{{instance}}": _rate("matyan_ingestion_fdb_retries_total", "instance")}
        ),
    ),
)

DASHBOARDS: Final = (
    Dashboard(
        "matyan-frontier",
        "Matyan: frontier",
        "matyan-frontier",
        "matyan_ws_connections_active",
        (*_INTAKE, _HTTP, _TLS, _DOOR, _PROCESS),
    ),
    Dashboard(
        "matyan-ingest-worker",
        "Matyan: ingestion worker",
        "matyan-ingest-worker",
        "matyan_ingestion_messages_consumed_total",
        (Row("Partitions", _PARTITIONS), _APPLIED, _TRANSACTIONS, _FDB, _DISK, _DOOR, _PROCESS),
    ),
    Dashboard(
        "matyan-control-worker",
        "Matyan: control worker",
        "matyan-control-worker",
        "matyan_control_events_consumed_total",
        (
            Row("Partitions", _PARTITIONS),
            Row(
                "Events",
                (
                    Panel(
                        "Read",
                        {"{{instance}}": _rate("matyan_control_events_consumed_total", "instance")},
                        "cps",
                    ),
                    Panel(
                        "Handled",
                        {
                            "{{event_type}}": _rate(
                                "matyan_control_events_processed_total", "event_type"
                            )
                        },
                        "cps",
                    ),
                    Panel(
                        "Time of one",
                        _quantiles("matyan_control_processing_duration_seconds"),
                        "s",
                    ),
                    Panel(
                        "Failures",
                        {
                            "{{error_type}}": _rate(
                                "matyan_control_processing_errors_total", "error_type"
                            )
                        },
                        "cps",
                    ),
                ),
            ),
            _WEBHOOKS,
            _DOOR,
            _PROCESS,
        ),
    ),
    Dashboard(
        "matyan-api",
        "Matyan: API",
        "matyan-api",
        "matyan_http_requests_total",
        (
            _HTTP,
            Row(_FDB.title, _FDB.panels[:4]),
            _TLS,
            _DOOR,
            _PROCESS,
        ),
    ),
    Dashboard(
        "matyan-up",
        "Matyan: one machine (matyan up)",
        "matyan",
        "matyan_ws_connections_active",
        (*_INTAKE, _APPLIED, _TRANSACTIONS, _DISK, _WEBHOOKS, _HTTP, _TLS, _DOOR, _PROCESS),
    ),
)


def rendered(board: Dashboard) -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for row in board.rows:
        panels.append(_row(row, len(panels), top))
        top += 1
        left = 0
        for panel in row.panels:
            if left + panel.width > _COLUMNS:
                left, top = 0, top + _HEIGHT
            panels.append(_panel(panel, len(panels), left, top))
            left += panel.width
        top += _HEIGHT
    return {
        "uid": board.uid,
        "title": board.title,
        "tags": ["matyan"],
        "editable": True,
        "graphTooltip": 1,
        "refresh": "30s",
        "schemaVersion": 39,
        "time": {"from": "now-3h", "to": "now"},
        "templating": {"list": _variables(board)},
        "annotations": {"list": [_alerts(board)]},
        "panels": panels,
    }


_DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}


def _variables(board: Dashboard) -> list[dict[str, Any]]:
    def query(name: str, text: str) -> dict[str, Any]:
        return {
            "name": name,
            "type": "query",
            "datasource": _DATASOURCE,
            "query": {"query": text, "refId": name},
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "current": {"text": ["All"], "value": ["$__all"]},
        }

    job = query("job", f"label_values({board.variable}, job)")
    # Its own jobs first: a process of another name is picked by hand.
    job["regex"] = f"/^{board.jobs}$/"
    return [
        {"name": "datasource", "type": "datasource", "query": "prometheus", "label": "Prometheus"},
        job,
        query("instance", f'label_values({board.variable}{{job=~"$job"}}, instance)'),
    ]


def _alerts(board: Dashboard) -> dict[str, Any]:
    return {
        "name": "Alerts",
        "datasource": _DATASOURCE,
        "enable": True,
        "expr": f'ALERTS{{alertstate="firing", alertname=~"Matyan.*", job=~"{board.jobs}|"}}',
        "titleFormat": "{{alertname}}",
        "iconColor": "red",
    }


def _row(row: Row, number: int, top: int) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "row",
        "title": row.title,
        "collapsed": False,
        "gridPos": {"x": 0, "y": top, "w": _COLUMNS, "h": 1},
        "panels": [],
    }


def _panel(panel: Panel, number: int, left: int, top: int) -> dict[str, Any]:
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.about,
        "datasource": _DATASOURCE,
        "gridPos": {"x": left, "y": top, "w": panel.width, "h": _HEIGHT},
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "min": 0,
                "custom": {
                    "fillOpacity": 10,
                    "showPoints": "never",
                    "stacking": {"mode": "normal" if panel.stacks else "none"},
                },
            },
            "overrides": [],
        },
        "options": {"legend": {"displayMode": "list"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": _DATASOURCE,
                "expr": expression.replace(_SELECTOR, _SELECTED),
                "legendFormat": legend,
            }
            for index, (legend, expression) in enumerate(panel.queries.items())
        ],
    }


def text_of(board: Dashboard) -> str:
    """What stands in its file."""
    return json.dumps(rendered(board), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    for board in DASHBOARDS:
        (FOLDER / f"{board.uid}.json").write_text(text_of(board))


if __name__ == "__main__":
    main()
