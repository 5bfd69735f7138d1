"""Rights in Kafka that are missing or taken away: what a service and `doctor` say, and that nothing is lost until they come."""

from __future__ import annotations

import json
import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from confluent_kafka.admin import ResourceType

from dev.broker import USER, Broker, classpath
from matyan.cli.doctor import SERVICES, _check_rights
from matyan.errors import Unavailable
from matyan.settings import load
from tests.faults.load import wait_for_load
from tests.faults.test_kill_services import faults_of_all_that_left
from tests.faults.test_kill_services import load as clients_at_work
from tests.kafka.deployment import Deployment, deploy, record
from tests.kafka.rules import GROUP, READ, TOPIC, WRITE, allow_only, denied, wait_for_rules
from tests.kafka.topics import read_topic
from tests.tracker import environment, matyan
from tests.until import wait_for


@pytest.fixture
def guarded(guarded_broker: Broker) -> Deployment:
    """Of a user who comes with SCRAM over TLS; with groups of its own."""
    deployment = deploy(guarded_broker)
    deployment.env = {
        **deployment.env,
        **guarded_broker.environment("scram"),
        "MATYAN_INGESTION_GROUP": f"group-{deployment.ingestion}",
        "MATYAN_CONTROL_GROUP": f"group-{deployment.control}",
    }
    return deployment


async def test_doctor_gives_the_commands_that_give_what_is_missing(guarded: Deployment) -> None:
    """To a user who may do nothing, once ACLs name somebody else: with them Kafka's own tool makes all well, service by
    service."""
    settings, broker = load(guarded.env), guarded.broker
    well = "may do what frontier and ingest-worker and control-worker and api need"
    assert well in await _check_rights(settings, SERVICES)
    for topic in (guarded.ingestion, guarded.control):
        allow_only(broker, TOPIC, topic, "User:another")
        allow_only(broker, TOPIC, f"{topic}-dlq", "User:another")
        allow_only(broker, GROUP, f"group-{topic}", "User:another")
    wanted = {
        "frontier": [("Write", "topic", guarded.ingestion)],
        "ingest-worker": [
            ("Read", "topic", guarded.ingestion),
            ("Read", "group", f"group-{guarded.ingestion}"),
            ("Write", "topic", f"{guarded.ingestion}-dlq"),
            ("Write", "topic", guarded.control),
        ],
        "control-worker": [
            ("Read", "topic", guarded.control),
            ("Read", "group", f"group-{guarded.control}"),
            ("Write", "topic", f"{guarded.control}-dlq"),
        ],
    }
    for service, rights in wanted.items():
        with pytest.raises(Unavailable) as caught:
            await _check_rights(settings, [service])
        said = str(caught.value)
        lines = [part for part in said.split("`") if part.startswith("kafka-acls ")]
        assert [
            f"--add --allow-principal User:{USER} --operation {operation} --{kind} {name}"
            for operation, kind, name in rights
        ] == [line.partition("ADMIN.properties ")[2] for line in lines]
        assert all(f"{right[0].upper()} the {right[1]} {right[2]}" in said for right in rights)
        run_kafka_acls(broker, lines)
        wait_for_rules(broker)
        assert service in await _check_rights(settings, [service])
    assert "api" in await _check_rights(settings, ["api"]), "it writes what others of them do"


def run_kafka_acls(broker: Broker, lines: list[str]) -> None:
    """As whoever may alter ACLs does; by the open door, which asks for no properties."""

    def run(line: str) -> None:
        words = shlex.split(line)[1:]
        for name in ("--bootstrap-server", "--command-config"):
            at = words.index(name)
            del words[at : at + 2]
        tool = ["java", "-XX:TieredStopAtLevel=1", "-cp", classpath()]
        tool += ["org.apache.kafka.tools.AclCommand", "--bootstrap-server", broker.bootstrap]
        subprocess.run([*tool, *words], check=True, capture_output=True, timeout=60)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(run, lines))


def test_a_user_who_sees_no_topic_is_told_so(guarded: Deployment) -> None:
    """And not that there is none, by a service as by the commands."""
    allow_only(guarded.broker, TOPIC, guarded.ingestion, "User:another")
    wait_for_rules(guarded.broker)
    checked = matyan("topics", "check", check=1, env=environment(**guarded.env))
    assert f"This user may not see the topic {guarded.ingestion}" in checked.stderr
    assert "no topic" not in checked.stderr
    asked = matyan(
        "doctor", "--json", "--service", "frontier", check=1, env=environment(**guarded.env)
    )
    found = {row["check"]: row for row in json.loads(asked.stdout)}
    assert f"--operation Write --topic {guarded.ingestion}" in found["rights"]["text"]
    with guarded.running("frontier") as service:
        wait_for(lambda: "may not see the topic" in service.unready())
        assert service.stop() == 0


def test_frames_of_a_frontier_that_may_not_write_are_held(guarded: Deployment) -> None:
    """Under load: it is not ready and names the right, its sockets stay open; when the right comes all that was sent stands
    in the topic once and in order."""
    with guarded.running("frontier") as service:
        wait_for(lambda: not service.unready())
        port = int(service.url.rpartition(":")[2])
        with clients_at_work(port, 4) as clients:
            wait_for_load(clients)
            with denied(guarded.broker, TOPIC, guarded.ingestion, WRITE):
                wait_for(
                    lambda: f"may not WRITE the topic {guarded.ingestion}" in service.unready()
                )
                service.get("/health/live/")
            wait_for_load(clients)
            wait_for(lambda: not service.unready())
        assert service.stop() == 0
    assert faults_of_all_that_left(guarded.broker, guarded.ingestion, clients) == []
    assert [client.closes for client in clients] == [[]] * 4


@pytest.mark.parametrize("which", ["read the topic", "use the group", "write events"])
def test_a_worker_goes_on_where_it_was_when_a_right_comes_back(
    guarded: Deployment, tmp_path: Path, which: str
) -> None:
    """Taken away while it works: not ready, with the right named; what comes meanwhile is stored later, a run is deleted
    with its event."""
    kind, name, operation = {
        "read the topic": (TOPIC, guarded.ingestion, READ),
        "use the group": (GROUP, f"group-{guarded.ingestion}", READ),
        "write events": (TOPIC, guarded.control, WRITE),
    }[which]
    # A member that may not use its group any more stays in it for its session, by default 45 s.
    config = tmp_path / "kafka.properties"
    config.write_text("session.timeout.ms=3000\n")
    data = tmp_path / "data"
    with guarded.running(
        "ingest-worker", "--store", f"rocks:{data}", MATYAN_KAFKA_CONFIG=str(config)
    ) as worker:
        wait_for(lambda: not worker.unready())
        tag(guarded, "before")
        wait_for(lambda: runs(data) == {"before"})
        with denied(guarded.broker, kind, name, operation):
            tag(guarded, "meanwhile")
            guarded.delete_run("before")
            wait_for(lambda: names_the_right(worker.unready(), kind, name))
            worker.get("/health/live/")
        wait_for(lambda: not worker.unready())
        wait_for(lambda: runs(data) == {"meanwhile"})
        assert worker.stop() == 0
    events = read_topic(guarded.broker, guarded.control)
    assert {json.loads(one.value() or b"")["payload"]["run_id"] for one in events} == {"before"}


def test_a_worker_that_nothing_comes_for_is_ready_when_a_right_comes_back(
    guarded: Deployment, tmp_path: Path
) -> None:
    """Kafka tells whoever reads that he may not, and nothing when he may: no record has to come first."""
    with guarded.running("ingest-worker", "--store", f"rocks:{tmp_path / 'data'}") as worker:
        for _ in range(2):
            wait_for(lambda: not worker.unready())
            with denied(guarded.broker, TOPIC, guarded.ingestion, READ):
                wait_for(lambda: "does not let this user read" in worker.unready())
        wait_for(lambda: not worker.unready())
        assert worker.stop() == 0


def tag(guarded: Deployment, run: str) -> None:
    guarded.produce(guarded.ingestion, [record("add_tag", run, tag_name="t")], run.encode())


def runs(data: Path) -> set[str]:
    return {row["run"] for row in json.loads(matyan("runs", "--json", "--data", data).stdout)}


def names_the_right(said: str, kind: ResourceType, name: str) -> bool:
    return name in said and ("may not" in said or "not let this user" in said)
