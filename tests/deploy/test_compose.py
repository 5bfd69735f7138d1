"""compose.yaml: judged by the Compose specification's own loader, and against matyan itself."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from matyan.settings import Settings
from tests.deploy.test_chart import command_of
from tests.deploy.tools import DEPLOY, ROOT, run

FILE = ROOT / "compose.yaml"
OURS = ("frontier", "ingest-worker", "control-worker", "api", "topics")
SERVICES = OURS[:4]
KNOWN = {row.metadata["env"]: row for row in fields(Settings)}


@cache
def loaded() -> dict[str, Any]:
    """As Compose understands it: anchors resolved, variables put in, defaults made explicit."""
    ended = run("compose", "--format", "json", FILE)
    assert ended.code == 0, ended.said
    model: dict[str, Any] = json.loads(ended.out)
    return model


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = loaded()["services"][name]
    return found


def test_compose_accepts_it() -> None:
    """By the specification's schema; and what one service names of another is there."""
    services = loaded()["services"]
    assert {*OURS, "kafka", "foundationdb", "s3"} <= services.keys()
    for name, one in services.items():
        assert one.get("depends_on", {}).keys() <= services.keys() - {name}


@pytest.mark.parametrize(
    ("was", "becomes"),
    [
        ("read_only: true", "readonly: true"),
        ("condition: service_healthy", "condition: healthy"),
    ],
)
def test_the_loader_finds_mistakes(was: str, becomes: str, tmp_path: Any) -> None:
    """Else the test above would hold whatever stands there."""
    text = FILE.read_text()
    assert was in text
    (tmp_path / "compose.yaml").write_text(text.replace(was, becomes))
    assert run("compose", tmp_path / "compose.yaml").code != 0


@pytest.mark.parametrize("name", OURS)
def test_our_commands_and_settings_exist(name: str) -> None:
    command, rest = command_of(service(name)["command"])
    command.make_context(name, rest)
    for variable, value in service(name)["environment"].items():
        KNOWN[variable].metadata["parse"](value)


@pytest.mark.parametrize("name", OURS)
def test_ours_may_do_nothing_but_their_work(name: str) -> None:
    one = service(name)
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"] == ["no-new-privileges:true"]
    assert "volumes" not in one
    assert one["image"] == "matyan:local"
    assert one["build"]["dockerfile"] == "Dockerfile"


@pytest.mark.parametrize("name", SERVICES)
def test_ours_are_ready_when_they_say_so_and_have_time_to_drain(name: str) -> None:
    one = service(name)
    assert one["healthcheck"]["test"] == ["CMD", "matyan", "health"]
    (seconds,) = re.findall(r"^(\d+)s$", one["stop_grace_period"])
    assert int(seconds) > float(one["environment"]["SHUTDOWN_FLUSH_TIMEOUT"]) + 1


@pytest.mark.parametrize("name", SERVICES)
def test_ours_begin_when_what_they_need_is_there(name: str) -> None:
    needs = {key: about["condition"] for key, about in service(name)["depends_on"].items()}
    done = "service_completed_successfully"
    assert needs["topics"] == done
    given = service(name)["environment"]
    assert (needs.get("foundationdb-configure") == done) == ("FDB_CLUSTER_FILE" in given)
    assert ("s3" in needs) == ("S3_ENDPOINT" in given)


def test_addresses_agree() -> None:
    """Who is asked under which name and port."""
    kafka = service("kafka")["environment"]
    advertised = dict(one.split("://") for one in kafka["KAFKA_ADVERTISED_LISTENERS"].split(","))
    for name in OURS:
        assert service(name)["environment"]["KAFKA_BOOTSTRAP_SERVERS"] == advertised["INTERNAL"]
    host = {port["published"]: port["target"] for port in service("kafka")["ports"]}
    assert advertised["HOST"] == "localhost:9092"
    assert host == {"9092": 9092}
    config = loaded()["configs"]["fdb-cluster"]
    # Of the two ways to bring a file in, the one that a read-only root allows.
    cluster = Path(config["file"]).read_text().strip()
    fdb = service("foundationdb")
    assert fdb["environment"]["FDB_CLUSTER_FILE_CONTENTS"] == cluster
    assert cluster.endswith(f"@{fdb['networks']['default']['ipv4_address']}:4500")
    for name in ("frontier", "api"):
        (port,) = service(name)["ports"]
        assert str(port["target"]) == service(name)["environment"]["PORT"] == port["published"]


def test_no_port_is_open_to_other_machines() -> None:
    """Nothing here asks who comes in."""
    for name, one in loaded()["services"].items():
        assert all(port["host_ip"] == "127.0.0.1" for port in one.get("ports", ())), name


def test_prometheus_asks_each_of_ours_at_its_port() -> None:
    jobs = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    asked: dict[str, tuple[str, str]] = {}
    for job in jobs:
        assert job["metrics_path"] == "/metrics/"
        if "static_configs" in job:
            host, _, port = job["static_configs"][0]["targets"][0].partition(":")
        else:
            (found,) = job["dns_sd_configs"]
            (host,), port = found["names"], str(found["port"])
        asked[job["job_name"]] = host, port
    assert asked.keys() == {f"matyan-{name}" for name in SERVICES}
    for name in SERVICES:
        given = service(name)["environment"]
        assert asked[f"matyan-{name}"] == (name, given.get("PORT") or given["METRICS_PORT"])


def test_what_is_mounted_is_there() -> None:
    for name in ("prometheus", "grafana"):
        assert service(name)["profiles"] == ["monitoring"]
        for volume in service(name)["volumes"]:
            if volume["type"] == "bind":
                assert (ROOT / volume["source"]).exists(), volume
                assert volume["read_only"]
    provider = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/matyan.yaml").read_text())
    path = provider["providers"][0]["options"]["path"]
    assert path in [volume["target"] for volume in service("grafana")["volumes"]]
