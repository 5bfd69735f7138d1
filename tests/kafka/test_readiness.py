"""What a service says of itself when Kafka or S3 does not let it work; each of the reasons is another sentence."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest
import trio
from confluent_kafka import Consumer
from confluent_kafka.admin import AdminClient, NewPartitions

from dev.broker import Broker
from dev.process import free_ports
from dev.s3 import S3
from matyan.cli.doctor import _check_broker
from matyan.errors import Unavailable
from matyan.settings import load
from tests.blobs.bucket import s3_environment
from tests.kafka.deployment import Deployment, deploy, record
from tests.kafka.rules import READ, TOPIC, WRITE, allow, denied, guarded_environment
from tests.kafka.test_operations import set_topic
from tests.tracker import MATYAN, Service, environment, matyan, started
from tests.until import wait_for


@pytest.fixture
def guarded(guarded_broker: Broker) -> Deployment:
    deployment = deploy(guarded_broker)
    deployment.env = {**deployment.env, **guarded_environment(guarded_broker)}
    return deployment


def test_a_frontier_that_may_not_write_is_not_ready(guarded: Deployment) -> None:
    """Without any traffic too; ready again by itself."""
    with guarded.running("frontier") as service:
        wait_for(lambda: not service.unready())
        with denied(guarded.broker, TOPIC, guarded.ingestion, WRITE):
            wait_for(lambda: f"may not WRITE the topic {guarded.ingestion}" in service.unready())
            service.get("/health/live/")
        wait_for(lambda: not service.unready())
        assert service.stop() == 0


def test_a_worker_that_may_not_read_is_not_ready(guarded: Deployment, tmp_path: Path) -> None:
    """From its start; it goes on by itself, and stores what came meanwhile. (What is taken away later: test_rights.py.)"""
    words = ("ingest-worker", "--store", f"rocks:{tmp_path}")
    env = {"MATYAN_INGESTION_GROUP": f"group-{guarded.ingestion}"}
    with denied(guarded.broker, TOPIC, guarded.ingestion, READ):
        guarded.produce(guarded.ingestion, [record("add_tag", "run", tag_name="t")], b"run")
        with guarded.running(*words, **env) as service:
            wait_for(lambda: f"may not READ the topic {guarded.ingestion}" in service.unready())
            service.get("/health/live/")
            allow(guarded.broker, TOPIC, guarded.ingestion)
            wait_for(lambda: not service.unready())
            wait_for(lambda: json.loads(matyan("runs", "--json", "--data", tmp_path).stdout))
            assert service.stop() == 0


@pytest.mark.parametrize("variable", ["S3_SECRET_KEY", "S3_BUCKET"])
def test_a_control_worker_knows_a_wrong_s3_setting_before_the_first_event(
    broker: Broker, s3: S3, variable: str
) -> None:
    """It is alive and not ready, and names the setting."""
    deployment = deploy(broker, **s3_environment(s3, **{variable: "wrong-one"}))
    with deployment.running("control-worker") as service:
        wait_for(lambda: "blobs: " in service.unready() and variable in service.unready())
        service.get("/health/live/")
        assert service.stop() == 0


async def test_each_reason_why_kafka_is_not_reached_is_a_sentence_of_its_own(
    guarded_broker: Broker,
) -> None:
    """A wrong password, an unknown authority and a wrong address, with the address; doctor says it, and a service
    that starts; with the authority's file the second is mended."""
    broker = guarded_broker
    (nobody,) = free_ports(1)
    good = guarded_environment(broker)
    cases = {
        "refuses the user or its password": {**good, "KAFKA_SASL_PASSWORD": "wrong"},
        "is signed by nobody whom this machine trusts": {
            "KAFKA_BOOTSTRAP_SERVERS": broker.addresses("ssl-open"),
            "KAFKA_SECURITY_PROTOCOL": "SSL",
        },
        "nothing answers at": {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nobody}"},
        "look at KAFKA_SECURITY_PROTOCOL": {
            "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{broker.port}",
            "KAFKA_SECURITY_PROTOCOL": "SSL",
        },
    }
    said: dict[str, str] = {}

    async def ask(part: str, env: dict[str, str]) -> None:
        with pytest.raises(Unavailable) as caught:
            await _check_broker(load(env))
        said[part] = str(caught.value)

    # Side by side in this process: each takes as long as `doctor` gives a broker.
    async with trio.open_nursery() as nursery:
        for part, env in cases.items():
            nursery.start_soon(ask, part, env)
    for part, env in cases.items():
        assert part in said[part]
        assert env["KAFKA_BOOTSTRAP_SERVERS"] in said[part]
        assert [other for other in cases if other in said[part]] == [part]
        assert "wrong" not in said[part].split("(")[0]
    trusting = {
        **cases["is signed by nobody whom this machine trusts"],
        "MATYAN_KAFKA_CA_FILE": str(broker.certificates.authority),
    }
    asked = matyan("doctor", "--json", check=None, env=environment(**trusting))
    (found,) = (row["text"] for row in json.loads(asked.stdout) if row["check"] == "broker")
    assert found.startswith("1 broker at")
    wrong = cases["refuses the user or its password"]
    with started([*MATYAN, "frontier", "--port", "0"], "refuses the user", **wrong) as service:
        assert service.stop(signal.SIGTERM) == 0


def test_a_service_refuses_a_compacted_topic(broker: Broker) -> None:
    """It waits, alive, with the command that mends it; `topics check` calls it wrong, and short retention unsafe."""
    deployment = deploy(broker)
    set_topic(broker, deployment.ingestion, "cleanup.policy", "compact")
    set_topic(broker, deployment.control, "retention.ms", "60000")
    with deployment.running("frontier") as service:
        wait_for(lambda: "cleanup.policy" in service.unready())
        env = environment(**deployment.env)
        checked = matyan("topics", "check", check=1, env=env)
        assert "which keeps the last record of each run" in checked.stderr
        assert f"Advice for {deployment.control}: retention.ms=60000 is unsafe" in checked.stderr
        assert "A run's records keep their order within one of the 6 partitions" in checked.stderr
        for _ in "at its start", "while it runs":
            matyan("topics", "create", "--alter", env=env)
            wait_for(lambda: not service.unready())
            set_topic(broker, deployment.ingestion, "cleanup.policy", "compact,delete")
            wait_for(lambda: "cleanup.policy" in service.unready())
        assert service.stop() == 0


def test_more_partitions_are_noticed_within_seconds(broker: Broker, tmp_path: Path) -> None:
    """By the frontier and by the worker, which say so; the worker takes the new ones."""
    deployment = deploy(broker)
    words = ("ingest-worker", "--store", f"rocks:{tmp_path}")
    with (
        deployment.running("frontier") as front,
        deployment.running(*words) as worker,
    ):
        wait_for(lambda: not front.unready() and not worker.unready())
        admin = AdminClient({"bootstrap.servers": broker.bootstrap})
        for soon in admin.create_partitions([NewPartitions(deployment.ingestion, 12)]).values():
            soon.result(10)
        for service in (front, worker):
            wait_for(lambda service=service: tells_of_more(service), 20)

        def lags() -> int:
            return worker.get("/metrics/").decode().count("matyan_consumer_lag_records{")

        wait_for(lambda: lags() == 12, 30)
        assert front.stop() == worker.stop() == 0


def tells_of_more(service: Service) -> bool:
    lines = [line for line in service.output if "more partitions" in line]
    return bool(lines) and '"partitions": 12' in lines[0] and '"before": 6' in lines[0]


LAG = "matyan_consumer_lag_records"


def test_the_lag_of_a_partition_is_shown_while_it_is_held(broker: Broker, tmp_path: Path) -> None:
    """Before the first record too; that of a partition which another member has taken goes, and comes back with it."""
    deployment = deploy(broker)
    words = ("ingest-worker", "--store", f"rocks:{tmp_path}")
    group = f"group-{deployment.ingestion}"
    env = {"MATYAN_INGESTION_GROUP": group}
    with deployment.running(*words, **env) as worker:
        wait_for(lambda: not worker.unready() and worker.metric(LAG) == [0.0] * 6)
        other = Consumer(
            {
                "bootstrap.servers": broker.bootstrap,
                "group.id": group,
                "partition.assignment.strategy": "cooperative-sticky",
                "enable.auto.commit": False,
            }
        )
        other.subscribe([deployment.ingestion])
        wait_for(lambda: other.poll(0.1) is None and len(other.assignment()) == 3)
        wait_for(lambda: worker.metric(LAG) == [0.0] * 3)
        other.close()
        wait_for(lambda: worker.metric(LAG) == [0.0] * 6)
        assert worker.stop() == 0
        said = "".join(worker.output)
    for event in ("starts", "partitions are assigned", "partitions are given back"):
        assert f'"event": "{event}"' in said


def test_a_stuck_control_worker_shows_its_lag_and_that_it_tries(broker: Broker, s3: S3) -> None:
    """Of what came while it stood still too; `offsets show` says the same."""
    nowhere = {"S3_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}"}
    deployment = deploy(broker, **{**s3_environment(s3), **nowhere})
    group = f"group-{deployment.control}"
    env = {"MATYAN_CONTROL_GROUP": group}
    with deployment.running("control-worker", **env) as worker:
        deployment.run_deleted("a")
        wait_for(lambda: worker.metric("matyan_retries_total"))
        deployment.run_deleted("b", "c")
        wait_for(lambda: worker.metric(LAG) == [3.0])
        assert sum(worker.metric("matyan_control_processing_errors_total")) > 0
        show = ("offsets", "show", "--group", group)
        shown = matyan(*show, env=environment(**{**deployment.env, **env}))
        assert shown.stdout == "0\t–\t0\t3\t3\n"
        worker.stop()


@pytest.mark.parametrize(
    ("words", "own"),
    [
        (("frontier", "--port"), "matyan_ws_connections_active"),
        (("ingest-worker", "--store", "rocks:.", "--metrics-port"), "matyan_ingestion_batch_size"),
        (("control-worker", "--metrics-port"), "matyan_control_events_consumed_total"),
    ],
    ids=["frontier", "ingest-worker", "control-worker"],
)
def test_a_service_exports_only_its_own_metrics(
    words: tuple[str, ...], own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dashboard that sums over services must not find zeros of the others."""
    monkeypatch.chdir(tmp_path)
    nobody, port = free_ports(2)
    command = [*MATYAN, *words, str(port), "--host", "127.0.0.1"]
    env = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nobody}"}
    with started(command, "waits at its start", **env) as process:
        service = Service(process.process, process.output, f"http://127.0.0.1:{port}")
        wait_for(lambda: "does not listen" not in service.unready())
        said = service.get("/metrics/").decode()
    kinds = ("matyan_ws_", "matyan_ingestion_", "matyan_control_")
    assert own in said
    assert [kind for kind in kinds if kind in said] == [own[: own.index("_", 7) + 1]]
    assert "process_cpu_seconds_total" in said
