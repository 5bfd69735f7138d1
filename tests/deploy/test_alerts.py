"""The alerts on written series: each fires where it should, and is silent where it should be."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.deploy.tools import DEPLOY, ROOT, run

ALERTS = DEPLOY / "prometheus" / "alerts.yml"
PAGE = "docs/operating/monitoring.md"
FRONTIER = 'job="matyan-frontier",instance="f"'
WORKER = 'job="matyan-ingest-worker",instance="w"'
LAG = 'matyan_consumer_lag_records{topic="data-ingestion",partition="%s",' + WORKER + "}"
DAY = 86_400


class Case(NamedTuple):
    """Series, a value a minute, and who is told what at that minute."""

    alert: str
    minute: int
    severities: tuple[str, ...]
    series: dict[str, str]


def latencies(metric: str, labels: str, at_1: str, at_5: str) -> dict[str, str]:
    """A histogram whose observations are at most 1 s and at most 5 s: how many there have been, at each minute."""
    return {
        f'{metric}_bucket{{le="1",{labels}}}': at_1,
        f'{metric}_bucket{{le="5",{labels}}}': at_5,
        f'{metric}_bucket{{le="+Inf",{labels}}}': at_5,
    }


def disk(free: str, size: int = 1_000) -> dict[str, str]:
    labels = f'{{folder="/data",{WORKER}}}'
    return {
        f"matyan_data_folder_free_bytes{labels}": free,
        f"matyan_data_folder_filesystem_bytes{labels}": f"{size}x600",
    }


def requests(good: str, bad: str, path: str = "/api") -> dict[str, str]:
    shared = f'method="GET",path_template="{path}",{FRONTIER}'
    return {
        f'matyan_http_requests_total{{status_class="2xx",{shared}}}': good,
        f'matyan_http_requests_total{{status_class="5xx",{shared}}}': bad,
    }


def ingestion(sent: str, applied: str) -> dict[str, str]:
    return {
        f'matyan_ws_messages_total{{message_type="log_metric",{FRONTIER}}}': sent,
        f"matyan_ingestion_messages_consumed_total{{{WORKER}}}": applied,
    }


def expiry(minutes: int) -> dict[str, str]:
    return {
        f'matyan_tls_certificate_expiry_timestamp_seconds{{file="tls.crt",{FRONTIER}}}': f"{60 * minutes}x100"
    }


W, C, NOBODY = ("warning",), ("critical",), ()
CASES = [
    Case("MatyanDown", 10, C, {f"up{{{FRONTIER}}}": "1x5 0x10"}),
    Case("MatyanDown", 10, NOBODY, {f"up{{{FRONTIER}}}": "1 1 1 0 1 1 1 1 1 1 1"}),
    Case("MatyanDown", 10, NOBODY, {'up{job="node",instance="n"}': "0x20"}),
    Case("MatyanDown", 10, C, {'up{job="matyan",instance="laptop"}': "0x20"}),
    Case(
        "MatyanRestarting",
        15,
        W,
        {f"process_start_time_seconds{{{WORKER}}}": "1x3 200x3 400x3 600x3 800x3"},
    ),
    Case("MatyanRestarting", 15, NOBODY, {f"process_start_time_seconds{{{WORKER}}}": "1x7 500x9"}),
    Case(
        "MatyanTaskRestarting",
        15,
        W,
        {f'matyan_service_restarts_total{{task="frontier",{FRONTIER}}}': "0+1x15"},
    ),
    Case(
        "MatyanTaskRestarting",
        15,
        NOBODY,
        {f'matyan_service_restarts_total{{task="frontier",{FRONTIER}}}': "0x7 1x9"},
    ),
    Case(
        "MatyanDescriptorsShort",
        10,
        W,
        {
            f"process_open_fds{{{FRONTIER}}}": "900x10",
            f"process_max_fds{{{FRONTIER}}}": "1024x10",
        },
    ),
    Case(
        "MatyanDescriptorsShort",
        10,
        NOBODY,
        {
            f"process_open_fds{{{FRONTIER}}}": "600x10",
            f"process_max_fds{{{FRONTIER}}}": "1024x10",
        },
    ),
    Case("MatyanCertificateExpires", 20, W, expiry(20 + 10 * 1_440)),
    Case("MatyanCertificateExpires", 20, ("critical", "warning"), expiry(20 + 1_440)),
    Case("MatyanCertificateExpires", 20, NOBODY, expiry(20 + 20 * 1_440)),
    Case("MatyanTokensFileTrouble", 10, W, {f"matyan_tokens_file_trouble{{{FRONTIER}}}": "1x10"}),
    Case(
        "MatyanTokensFileTrouble", 10, NOBODY, {f"matyan_tokens_file_trouble{{{FRONTIER}}}": "0x10"}
    ),
    Case(
        "MatyanLogLinesLost",
        15,
        W,
        {f"matyan_log_lines_lost_total{{{FRONTIER}}}": "0x10 7x5"},
    ),
    Case("MatyanLogLinesLost", 15, NOBODY, {f"matyan_log_lines_lost_total{{{FRONTIER}}}": "7x15"}),
    Case("MatyanRequestsFail", 15, W, requests("0+90x15", "0+10x15")),
    Case("MatyanRequestsFail", 15, NOBODY, requests("0+99x15", "0+1x15")),
    # That a service is not ready is no request that failed: a load balancer asks all the time.
    Case("MatyanRequestsFail", 15, NOBODY, requests("0x15", "0+50x15", "/health/ready/")),
    Case(
        "MatyanAcknowledgementsSlow",
        15,
        W,
        latencies("matyan_frontier_ack_seconds", FRONTIER, "0+90x15", "0+100x15"),
    ),
    Case(
        "MatyanAcknowledgementsSlow",
        15,
        NOBODY,
        latencies("matyan_frontier_ack_seconds", FRONTIER, "0+100x15", "0+100x15"),
    ),
    Case(
        "MatyanFramesHeld",
        5,
        C,
        {f"matyan_frontier_oldest_waiting_seconds{{{FRONTIER}}}": "0 0 11 39 39 39"},
    ),
    # Held back for a moment; and a token's quota holds replies back for 5 s, again and again.
    Case(
        "MatyanFramesHeld",
        5,
        NOBODY,
        {f"matyan_frontier_oldest_waiting_seconds{{{FRONTIER}}}": "0 5 5 12 0 5"},
    ),
    Case(
        "MatyanFramesRefused",
        10,
        C,
        {f'matyan_frontier_frames_total{{outcome="refused",{FRONTIER}}}': "0x8 3x2"},
    ),
    Case(
        "MatyanFramesRefused",
        10,
        C,
        {f'matyan_frontier_frames_total{{outcome="lost",{FRONTIER}}}': "0x8 1x2"},
    ),
    Case(
        "MatyanFramesRefused",
        10,
        NOBODY,
        {
            f'matyan_frontier_frames_total{{outcome="ok",{FRONTIER}}}': "0+100x10",
            f'matyan_frontier_frames_total{{outcome="partly",{FRONTIER}}}': "0+1x10",
            f'matyan_frontier_frames_total{{outcome="refused",{FRONTIER}}}': "3x10",
        },
    ),
    Case(
        "MatyanQueueFilling",
        5,
        W,
        {
            f"matyan_producer_queue_bytes{{{FRONTIER}}}": "85x5",
            f"matyan_producer_queue_capacity_bytes{{{FRONTIER}}}": "100x5",
        },
    ),
    Case(
        "MatyanQueueFilling",
        5,
        NOBODY,
        {
            f"matyan_producer_queue_bytes{{{FRONTIER}}}": "0x5",
            f"matyan_producer_queue_capacity_bytes{{{FRONTIER}}}": "0x5",
        },
    ),
    # 60,000 in each of two partitions: the sum counts.
    Case("MatyanLagHigh", 20, W, {LAG % 0: "60000x20", LAG % 1: "60000x20"}),
    Case("MatyanLagHigh", 20, NOBODY, {LAG % 0: "60000x20", LAG % 1: "100x20"}),
    Case("MatyanLagGrowing", 40, W, {LAG % 0: "10000+500x40"}),
    Case("MatyanLagGrowing", 40, NOBODY, {LAG % 0: "90000-1000x40"}),
    # One that grows and is still small.
    Case("MatyanLagGrowing", 40, NOBODY, {LAG % 0: "0+100x40"}),
    # A partition that moves from one worker to another is no growth.
    Case(
        "MatyanLagGrowing",
        40,
        NOBODY,
        {LAG % 0: "20000x20 stale", LAG.replace('"w"', '"v"') % 0: "_x20 20000x20"},
    ),
    Case("MatyanNothingIngested", 30, C, ingestion("0+100x30", "5x30")),
    Case("MatyanNothingIngested", 30, C, ingestion("0+100x30", "_x30")),
    Case("MatyanNothingIngested", 30, NOBODY, ingestion("0+100x30", "0+90x30")),
    Case("MatyanNothingIngested", 30, NOBODY, ingestion("7x30", "5x30")),
    Case(
        "MatyanPartitionStalled",
        5,
        C,
        {
            f'matyan_consumer_partition_stalled{{topic="data-ingestion",partition="3",cause="engine",{WORKER}}}': "_ 1x5"
        },
    ),
    Case(
        "MatyanPartitionStalled",
        5,
        NOBODY,
        {
            f'matyan_consumer_partition_stalled{{topic="data-ingestion",partition="3",cause="engine",{WORKER}}}': "1 1 stale"
        },
    ),
    Case(
        "MatyanDeadLetters",
        15,
        W,
        {f'matyan_dead_letters_total{{topic="data-ingestion",{WORKER}}}': "0x9 1x6"},
    ),
    Case(
        "MatyanDeadLetters",
        15,
        NOBODY,
        {f'matyan_dead_letters_total{{topic="data-ingestion",{WORKER}}}': "4x15"},
    ),
    Case(
        "MatyanRetrying",
        20,
        W,
        {f'matyan_retries_total{{service="ingest",cause="KafkaException",{WORKER}}}': "1+12x20"},
    ),
    Case(
        "MatyanRetrying",
        20,
        NOBODY,
        {
            f'matyan_retries_total{{service="ingest",cause="KafkaException",{WORKER}}}': "1x12 9x3 9x5"
        },
    ),
    Case(
        "MatyanWebhookRefuses",
        60,
        W,
        {
            f'matyan_webhook_deliveries_total{{webhook="a",outcome="failed",{WORKER}}}': "0+1x60",
            f'matyan_webhook_deliveries_total{{webhook="a",outcome="delivered",{WORKER}}}': "7x60",
        },
    ),
    Case(
        "MatyanWebhookRefuses",
        60,
        NOBODY,
        {
            f'matyan_webhook_deliveries_total{{webhook="a",outcome="failed",{WORKER}}}': "0+1x60",
            f'matyan_webhook_deliveries_total{{webhook="a",outcome="delivered",{WORKER}}}': "0+1x60",
        },
    ),
    Case(
        "MatyanCommitsSlow",
        20,
        W,
        latencies("matyan_store_commit_seconds", WORKER, "0+90x20", "0+100x20"),
    ),
    Case(
        "MatyanCommitsSlow",
        20,
        NOBODY,
        latencies("matyan_store_commit_seconds", WORKER, "0+100x20", "0+100x20"),
    ),
    Case("MatyanDiskFilling", 10, W, disk("80x400")),
    Case("MatyanDiskFilling", 10, ("critical", "warning"), disk("20x400")),
    Case("MatyanDiskFilling", 10, NOBODY, disk("120x400")),
    # 0.1 a minute of 300 left: 36 in the 6 hours, 144 a day; 0.25 a minute: 360.
    Case("MatyanDiskFullSoon", 480, W, disk("300-0.25x500")),
    Case("MatyanDiskFullSoon", 480, NOBODY, disk("300-0.1x500")),
    Case("MatyanDiskFullSoon", 480, NOBODY, disk("900-1x500", 1_000)),
]


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def test_each_alert_fires_and_stays_silent(tmp_path: Path) -> None:
    """By Prometheus' own evaluation."""
    tests = [
        {
            "interval": "1m",
            "name": f"{number} {case.alert}",
            "input_series": [{"series": name, "values": v} for name, v in case.series.items()],
            "promql_expr_test": [
                {
                    "expr": f'count by (severity) (ALERTS{{alertname="{case.alert}", alertstate="firing"}})',
                    "eval_time": f"{case.minute}m",
                    "exp_samples": [
                        {"labels": f'{{severity="{one}"}}', "value": 1} for one in case.severities
                    ],
                }
            ],
        }
        for number, case in enumerate(CASES)
    ]
    file = tmp_path / "alerts.test.yml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(ALERTS)], "evaluation_interval": "1m", "tests": tests})
    )
    ended = run("promtool", "test", "rules", file)
    assert ended.code == 0, ended.said


def test_no_alert_goes_untested() -> None:
    """Each severity of each has a case, and each alert one in which nobody is told."""
    wanted = {(rule["alert"], rule["labels"]["severity"]) for rule in rules()}
    tested = {(case.alert, severity) for case in CASES for severity in case.severities}
    assert tested == wanted
    silent = {case.alert for case in CASES if not case.severities}
    assert silent == {alert for alert, _ in wanted}


@pytest.mark.parametrize(
    "rule", rules(), ids=lambda rule: f"{rule['alert']}-{rule['labels']['severity']}"
)
def test_each_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """In whole sentences, and in a paragraph of the documentation."""
    annotations = rule["annotations"]
    assert annotations["summary"].endswith(".")
    assert annotations["description"].endswith(".")
    anchor = f"alert-{rule['alert'].lower()}"
    assert annotations["runbook_url"] == f"{PAGE}#{anchor}"
    assert f"### {rule['alert']} {{#{anchor}}}" in (ROOT / PAGE).read_text()


def test_promtool_accepts_what_prometheus_reads() -> None:
    """The rules, and the scrape configuration of compose.yaml's profile."""
    for words in (
        ("check", "rules", ALERTS),
        ("check", "config", "--syntax-only", DEPLOY / "prometheus" / "prometheus.yml"),
    ):
        ended = run("promtool", *words)
        assert ended.code == 0, ended.said
