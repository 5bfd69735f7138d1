"""Every metric and label that a dashboard or an alert names is one that the process it is of exposes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Counter, Gauge
from prometheus_client import Histogram as LabelledHistogram
from prometheus_client.parser import text_string_to_metric_families

from dev.dashboards import DASHBOARDS, FOLDER, text_of
from dev.process import free_ports
from matyan.service import telemetry
from matyan.service.plain import Tally
from tests.deploy.promql import grouped, metrics_of
from tests.deploy.test_alerts import rules
from tests.tracker import MATYAN, Service, started
from tests.until import wait_for

OF_THE_TARGET = {"job", "instance", "namespace"}
"""What Prometheus itself says of whom it asks."""
WORDS = {
    "frontier": ("frontier", "--port"),
    "ingest-worker": ("ingest-worker", "--store", "rocks:FOLDER", "--metrics-port"),
    "control-worker": ("control-worker", "--metrics-port"),
    "api": ("api", "--store", "rocks:FOLDER", "--port"),
    "up": ("up", "--data", "FOLDER", "--port"),
}
SERVICES = [*WORDS]


def declared() -> dict[str, set[str]]:
    """The names of the labels of each of our metrics, as a sample has them."""
    labels: dict[str, set[str]] = {}
    for metric in vars(telemetry).values():
        if isinstance(metric, Counter | Gauge | LabelledHistogram):
            (family,) = metric.describe()
            name, names = family.name, {*metric._labelnames}
        elif isinstance(metric, Tally):
            ((name, _, label),) = [metric._about]
            names = {label}
        else:
            continue
        labels[name.removesuffix("_total")] = names
    return labels


LABELS = declared()


@pytest.fixture(scope="module")
def exposed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Service → the names that its samples have, or would have, as its real process says them; Kafka is away."""
    folder = tmp_path_factory.mktemp("services")
    (nobody,) = free_ports(1)
    return {name: _names(name, folder, nobody) for name in SERVICES}


def _names(name: str, folder: Path, nobody: int) -> set[str]:
    (port,) = free_ports(1)
    words = [word.replace("FOLDER", str(folder / name)) for word in WORDS[name]]
    command = [*MATYAN, *words, str(port), "--host", "127.0.0.1"]
    with started(command, KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{nobody}") as process:
        service = Service(process.process, process.output, f"http://127.0.0.1:{port}")
        wait_for(lambda: "does not listen" not in service.unready())
        text = service.get("/metrics/").decode()
    return {name for family in text_string_to_metric_families(text) for name in _samples(family)}


def _samples(family: Any) -> Iterator[str]:
    yield family.name
    endings = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
    for ending in endings.get(family.type, []):
        yield family.name + ending


def asked(service: str) -> list[str]:
    """The expressions of this service's dashboard."""
    board = json.loads((FOLDER / f"matyan-{service}.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def labels_of(metric: str) -> set[str]:
    """Those that a metric of ours has by itself; le is a histogram's."""
    base = re.sub(r"_(total|bucket|sum|count)$", "", metric)
    return LABELS.get(base, set()) | ({"le"} if metric.endswith("_bucket") else set())


def judge(expression: str, names: set[str]) -> None:
    """That these names hold what the expression asks for, and its metrics the labels."""
    asked_for = metrics_of(expression)
    assert asked_for, expression
    missing = {name for name in asked_for if name != "up"} - names
    assert not missing, f"{missing} of {expression}"
    has = OF_THE_TARGET.union(*map(labels_of, asked_for))
    for metric, selected in asked_for.items():
        assert selected <= OF_THE_TARGET | labels_of(metric), expression
    assert grouped(expression) <= has, expression


@pytest.mark.parametrize("service", SERVICES)
def test_a_dashboard_asks_for_what_its_process_exposes(
    service: str, exposed: dict[str, set[str]]
) -> None:
    """No panel is empty for ever."""
    for expression in asked(service):
        judge(expression, exposed[service])


@pytest.mark.parametrize("service", [name for name in SERVICES if name != "up"])
def test_a_dashboard_shows_all_that_its_process_counts(
    service: str, exposed: dict[str, set[str]]
) -> None:
    """A metric that nobody can see is one too many; those of jobs, which run by themselves, have no dashboard."""
    shown = {name for expression in asked(service) for name in metrics_of(expression)}
    bases = {re.sub(r"_(total|bucket)$", "", name) for name in shown}
    rest = {
        name
        for name in exposed[service]
        if name.startswith("matyan_")
        and re.sub(r"_(total|bucket|sum|count|created)$", "", name) not in bases
    }
    assert {name for name in rest if not name.startswith("matyan_job_")} == set()


def test_alerts_ask_for_what_some_process_exposes(exposed: dict[str, set[str]]) -> None:
    """And their sentences for labels that are there."""
    names = set().union(*exposed.values())
    for rule in rules():
        judge(rule["expr"], names)
        expression = rule["expr"]
        has = grouped(expression) or OF_THE_TARGET.union(*map(labels_of, metrics_of(expression)))
        for text in rule["annotations"].values():
            assert {*re.findall(r"\$labels\.(\w+)", text)} <= has, rule["alert"]


@pytest.mark.parametrize("board", DASHBOARDS, ids=lambda board: board.uid)
def test_the_files_are_what_the_table_says(board: Any) -> None:
    """`python -m dev.dashboards` writes them anew."""
    assert (FOLDER / f"{board.uid}.json").read_text() == text_of(board)
    shown = json.loads(text_of(board))
    ids = [panel["id"] for panel in shown["panels"]]
    assert len(ids) == len(set(ids))


def test_legends_name_labels_that_are_there() -> None:
    for board in DASHBOARDS:
        for row in board.rows:
            for panel in row.panels:
                for legend, expression in panel.queries.items():
                    expression = expression.replace("$SELECTED", "")
                    has = grouped(expression) or OF_THE_TARGET.union(
                        *map(labels_of, metrics_of(expression))
                    )
                    assert {*re.findall(r"\{\{(\w+)\}\}", legend)} <= has, legend
