"""The chart: rendered by helm with each of its sets of values, judged by Kubernetes' own schemas and against matyan itself."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import click
import kubernetes_validate
import pytest
import yaml

from dev.process import free_ports
from matyan import __version__
from matyan.cli.main import cli
from matyan.settings import Settings, file_variable, is_secret
from tests import tls
from tests.deploy.tools import DEPLOY, Ended, run
from tests.tokens import add
from tests.tracker import MATYAN, Service, started

CHART = DEPLOY / "helm" / "matyan"
SETS = sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").glob("*.yaml"))
VERSIONS = ("1.25", "1.34")
"""Of Kubernetes: the oldest that the chart admits, and a new one."""
FOREIGN = {"ServiceMonitor", "PrometheusRule", "ScaledObject"}
"""Kinds of operators, which no schema of Kubernetes knows."""
SERVICES = ("frontier", "ingest-worker", "control-worker", "api")
GRACE_S = 6
"""What a drain may take beyond SHUTDOWN_FLUSH_TIMEOUT: a second, and the pause before SIGTERM."""

Manifest = dict[str, Any]


@cache
def rendered(name: str, *more: str) -> list[Manifest]:
    ended = render("-f", CHART / "ci" / f"{name}-values.yaml", *more)
    assert ended.code == 0, ended.said
    return [one for one in yaml.safe_load_all(ended.out) if one]


def render(*words: object) -> Ended:
    return run("helm", "template", "t", CHART, "-n", "lab", "--kube-version", "1.34.0", *words)


def pods(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    """Component → the pod that a workload or a job makes."""
    for one in manifests:
        spec = (
            one["spec"]["jobTemplate"]["spec"] if one["kind"] == "CronJob" else one.get("spec", {})
        )
        if one["kind"] in {"Deployment", "StatefulSet", "CronJob", "Job"}:
            template = spec["template"]
            component = template["metadata"]["labels"]["app.kubernetes.io/component"]
            yield component, template["spec"]


def containers(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for component, pod in pods(manifests):
        for one in (*pod.get("initContainers", ()), *pod["containers"]):
            yield f"{component}/{one['name']}", one


def environment(container: Manifest) -> dict[str, Any]:
    return {one["name"]: one.get("value") for one in container["env"]}


def command_of(args: list[str]) -> tuple[click.Command, list[str]]:
    """The command that an argument list names, and what is left of it."""
    command: click.Command = cli
    rest = [*args]
    while isinstance(command, click.Group):
        found = command.get_command(click.Context(command), rest[0])
        assert found is not None, f"matyan {' '.join(args)}"
        command, rest = found, rest[1:]
    return command, rest


@pytest.mark.parametrize("name", SETS)
def test_helm_has_nothing_to_say_against_it(name: str) -> None:
    words = ("lint", CHART, "--strict", "--kube-version", "1.34.0")
    ended = run("helm", *words, "-f", CHART / "ci" / f"{name}-values.yaml")
    assert ended.code == 0, ended.said
    assert "[WARNING]" not in ended.said


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("name", SETS)
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    """By the strict schemas, which refuse what is misspelt."""
    manifests = rendered(name)
    for one in manifests:
        if one["kind"] not in FOREIGN:
            kubernetes_validate.validate(one, version, strict=True)
    names = [(one["kind"], one["metadata"]["name"]) for one in manifests]
    assert len(names) == len(set(names))
    assert all(len(name) <= (52 if kind == "CronJob" else 63) for kind, name in names)


@pytest.mark.parametrize("name", SETS)
def test_every_variable_is_a_setting_that_takes_its_value(name: str) -> None:
    """By matyan's own parsers; a file's path by its name."""
    known = {row.metadata["env"]: row for row in fields(Settings)}
    of_files = {file_variable(row) for row in fields(Settings)}
    for where, container in containers(rendered(name)):
        mounted = {one["mountPath"] for one in container["volumeMounts"]}
        for variable, value in environment(container).items():
            assert variable in known or variable in of_files, f"{where}: {variable}"
            if value is None:  # from the pod's name
                continue
            if value.startswith("/run/"):
                assert str(Path(value).parent) in mounted, f"{where}: {variable}"
            elif variable in known:
                known[variable].metadata["parse"](value)


@pytest.mark.parametrize("name", SETS)
def test_every_command_and_option_exists(name: str) -> None:
    for where, container in containers(rendered(name)):
        assert "command" not in container, where  # the image's entry point is matyan
        command, rest = command_of(container["args"])
        # Parsed, and not called.
        command.make_context(where, rest, resilient_parsing=False)


@pytest.mark.parametrize("name", SETS)
def test_no_secret_is_a_value(name: str) -> None:
    """Secrets are files that others have put there; a manifest may be shown to everybody."""
    secrets = {row.metadata["env"] for row in fields(Settings) if is_secret(row)}
    manifests = rendered(name)
    assert not [one for one in manifests if one["kind"] == "Secret"]
    for where, container in containers(manifests):
        given = environment(container)
        assert not [name for name in secrets if given.get(name)], where
        # Both empty: AWS's own chain.
        assert ("S3_SECRET_KEY" in given) == ("S3_ACCESS_KEY" in given), where


@pytest.mark.parametrize("name", SETS)
def test_pods_may_do_nothing_but_their_work(name: str) -> None:
    for component, pod in pods(rendered(name)):
        security = pod["securityContext"]
        assert security["runAsNonRoot"], component
        assert security["runAsUser"] == 10001
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        writable = [one["name"] for one in pod["volumes"] if "emptyDir" in one]
        assert writable == ["tmp"]
        mounts = [one for c in pod["containers"] for one in c["volumeMounts"]]
        assert all(one.get("readOnly") for one in mounts if one["name"] != "tmp")
    for where, container in containers(rendered(name)):
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }, where
        assert container["resources"]["limits"]["memory"], where
        assert container["resources"]["requests"].keys() == {"cpu", "memory"}, where


@pytest.mark.parametrize("name", SETS)
def test_ports_agree(name: str) -> None:
    """The process's, the container's, the probes', the service's, the monitor's and the policy's."""
    manifests = rendered(name)
    scheme = "HTTPS" if name in ("tokens-tls", "all") else "HTTP"
    for component, pod in pods(manifests):
        if component not in SERVICES:
            continue
        (container,) = pod["containers"]
        (port,) = container["ports"]
        listens = component in ("frontier", "api")
        given = environment(container)
        assert given["PORT" if listens else "METRICS_PORT"] == str(port["containerPort"])
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            asked = container[probe]["httpGet"]
            assert asked["port"] == port["containerPort"]
            assert asked["scheme"] == (scheme if listens else "HTTP")
            assert asked["path"] == f"/health/{'ready' if probe == 'readinessProbe' else 'live'}/"
        for one in of_component(manifests, component):
            if one["kind"] == "Service":
                (served,) = one["spec"]["ports"]
                assert served["name"] == served["targetPort"] == port["name"]
            elif one["kind"] == "ServiceMonitor":
                (endpoint,) = one["spec"]["endpoints"]
                assert endpoint["port"] == port["name"]
                assert endpoint.get("scheme", "http") == (scheme.lower() if listens else "http")
            elif one["kind"] == "NetworkPolicy":
                assert one["spec"]["ingress"][0]["ports"][0]["port"] == port["containerPort"]
            elif one["kind"] == "Ingress":
                (path,) = one["spec"]["rules"][0]["http"]["paths"]
                assert path["backend"]["service"]["port"]["name"] == port["name"]


def of_component(manifests: list[Manifest], component: str) -> list[Manifest]:
    label = "app.kubernetes.io/component"
    return [one for one in manifests if one["metadata"]["labels"][label] == component]


@pytest.mark.parametrize("name", SETS)
def test_selectors_find_the_pods_of_their_component_alone(name: str) -> None:
    manifests = rendered(name)
    labels = {
        one["metadata"]["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in manifests
        if one["kind"] in {"Deployment", "StatefulSet"}
    }
    assert len(labels) == len(SERVICES)
    for one in manifests:
        spec = one.get("spec", {})
        selector = spec.get("podSelector" if one["kind"] == "NetworkPolicy" else "selector")
        if selector is None:
            continue
        wanted = selector.get("matchLabels", selector)
        found = [name for name, has in labels.items() if wanted.items() <= has.items()]
        assert found == [one["metadata"]["name"]], one["kind"]


@pytest.mark.parametrize("name", SETS)
def test_a_pod_gets_the_time_that_its_drain_takes(name: str) -> None:
    for component, pod in pods(rendered(name)):
        if component in SERVICES:
            drain = float(environment(pod["containers"][0])["SHUTDOWN_FLUSH_TIMEOUT"])
            assert pod["terminationGracePeriodSeconds"] >= drain + GRACE_S, component


@pytest.mark.parametrize("name", SETS)
def test_each_service_waits_for_what_it_needs(name: str) -> None:
    """With the very settings that it will have: an init container that passes and a service that does not start help nobody."""
    for component, pod in pods(rendered(name)):
        if component not in SERVICES:
            continue
        (wait,) = pod["initContainers"]
        (container,) = pod["containers"]
        assert wait["args"][:2] == ["doctor", "--wait"]
        assert wait["args"][wait["args"].index("--service") + 1] == component
        assert ("--store" in wait["args"]) == ("--store" in container["args"])
        missing = environment(container).items() - environment(wait).items()
        assert {name for name, _ in missing} <= {"MATYAN_INSTANCE_ID"}
        assert wait["volumeMounts"] == container["volumeMounts"]


def secrets_of(folder: Path) -> dict[str, str]:
    """The name of each file that a Secret brings → one of its kind."""
    certificate, key = tls.write_pair(folder)
    texts = {
        "username": "matyan",
        "password": "secret",
        "access-key": "key",
        "secret-key": "secret",
        "kafka.properties": "socket.keepalive.enable=true",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
    add(folder / "tokens", "training", "write")
    return {
        **{name: str(folder / name) for name in (*texts, "tokens")},
        "tls.crt": str(certificate),
        "tls.key": str(key),
        "ca.crt": str(tls.authority_file()),
    }


@pytest.mark.parametrize("name", SETS)
def test_a_frontier_takes_its_settings(name: str, tmp_path: Path) -> None:
    """The real process with what its container gets: it listens, waits for Kafka, and drains."""
    (pod,) = [pod for component, pod in pods(rendered(name)) if component == "frontier"]
    (container,) = pod["containers"]
    files = secrets_of(tmp_path)
    (nobody, port) = free_ports(2)
    given = {
        variable: files[Path(value).name] if value.startswith("/run/") else value
        for variable, value in environment(container).items()
    }
    given |= {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nobody}", "PORT": str(port)}
    scheme = container["livenessProbe"]["httpGet"]["scheme"].lower()
    with started([*MATYAN, *container["args"]], "frontier on port", **given) as process:
        service = Service(process.process, process.output, f"{scheme}://127.0.0.1:{port}")
        assert b'"ok"' in service.get("/health/live/")
        assert "kafka" in service.unready()
        assert service.stop() == 0, "".join(process.output)


def test_a_worker_keeps_its_name_in_the_consumer_group() -> None:
    (worker,) = [one for one in rendered("all") if one["kind"] == "StatefulSet"]
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    (instance,) = [one for one in container["env"] if one["name"] == "MATYAN_INSTANCE_ID"]
    assert instance["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    # Who scales says how many there are.
    assert "replicas" not in worker["spec"]
    (scaled,) = [one for one in rendered("all") if one["kind"] == "ScaledObject"]
    assert scaled["spec"]["scaleTargetRef"]["name"] == worker["metadata"]["name"]
    (trigger,) = scaled["spec"]["triggers"]
    given = environment(container)
    assert trigger["metadata"]["consumerGroup"] == given["MATYAN_INGESTION_GROUP"]
    assert trigger["metadata"]["topic"] == given["KAFKA_DATA_INGESTION_TOPIC"]


def test_webhooks_are_told_by_the_control_worker_of_what_ingestion_workers_publish() -> None:
    """Both have the file, which brings secrets, and nobody else."""
    have = {
        where: environment(container).get("MATYAN_WEBHOOKS_FILE")
        for where, container in containers(rendered("all"))
    }
    name = "/run/matyan/webhooks/webhooks.toml"
    workers = {component for component in SERVICES if component.endswith("-worker")}
    assert {where.partition("/")[0] for where, value in have.items() if value == name} == workers
    assert set(have.values()) == {name, None}
    for component, pod in pods(rendered("all")):
        mounted = {one["secret"]["secretName"] for one in pod["volumes"] if "secret" in one}
        assert ("matyan-webhooks" in mounted) == (component in workers), component
    assert not [
        where
        for where, container in containers(rendered("minimal"))
        if "MATYAN_WEBHOOKS_FILE" in environment(container)
    ]


def test_the_alerts_and_dashboards_are_the_same_files() -> None:
    manifests = rendered("all")
    (rule,) = [one for one in manifests if one["kind"] == "PrometheusRule"]
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    assert rule["spec"] == alerts
    shown = {
        name: text
        for one in manifests
        if one["kind"] == "ConfigMap"
        for name, text in one["data"].items()
    }
    assert shown.keys() == {f"matyan-{service}.json" for service in SERVICES}
    for name, text in shown.items():
        assert text == (DEPLOY / "grafana" / name).read_text().rstrip("\n")


def test_it_names_this_version() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["appVersion"] == about["version"] == __version__


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("kafka.bootstrapServers=", "kafka.bootstrapServers: expected Kafka's brokers"),
        ("s3.endpoint=", "s3.endpoint: expected"),
        ("foundationdb.clusterFileConfigMap=", "expected one of them"),
        ("foundationdb.clusterFileSecret=both", "expected one of them"),
        ("environment=production", "tokens.secret: expected a Secret"),
        ("kafka.securityProtocol=SASL_SSL", "kafka.saslSecret: expected"),
        ("kafka.clientCertificate=true", "kafka.tlsSecret: expected"),
        ("kafka.bootstrapServer=kafka:9092", "additional properties 'bootstrapServer' not allowed"),
        ("kafka.bootstrapServers=kafka", "does not match pattern"),
        ("frontier.replicas=many", "got string, want integer"),
        ("extraEnv.S3_SECRET_KEY=hunter2", "S3_SECRET_KEY"),
        ("s3.secretKey=hunter2", "additional properties 'secretKey' not allowed"),
    ],
)
def test_what_does_not_go_together_is_refused(given: str, said: str) -> None:
    """Before anything is installed, with what to set."""
    ended = render("-f", CHART / "ci" / "minimal-values.yaml", "--set", given)
    assert ended.code != 0
    assert said in re.sub(r"\s+", " ", ended.said)


def test_two_that_scale_the_same_are_refused() -> None:
    both = "ingestWorker.keda.enabled=true,ingestWorker.autoscaling.enabled=true"
    ended = render("-f", CHART / "ci" / "minimal-values.yaml", "--set", both)
    assert "expected one of them, since two would fight" in ended.said
