"""The operator's commands as processes, on a real broker: topics, offsets, dead letters, doctor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import trio
from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from dev.broker import Broker
from dev.process import free_ports
from matyan.broker.base import DeadLetter
from matyan.broker.kafka import KafkaOutbox, open_producer, producer_config
from matyan.settings import Settings, load
from tests.kafka.topics import read_topic, until
from tests.tracker import MATYAN, environment, matyan


class Deployment:
    """Topics of its own on the session's broker, and the commands on them."""

    def __init__(self, broker: Broker) -> None:
        name = uuid.uuid4().hex[:12]
        self.broker = broker
        self.ingest, self.control = f"ingest-{name}", f"control-{name}"
        self.dlq = f"{self.ingest}-dlq"
        self.variables = {
            "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
            "KAFKA_DATA_INGESTION_TOPIC": self.ingest,
            "KAFKA_CONTROL_EVENTS_TOPIC": self.control,
        }

    @property
    def settings(self) -> Settings:
        return load(self.variables)

    def run(self, *words: str | Path, check: int | None = 0, **extra: str) -> Any:
        return matyan(*words, check=check, env=environment(**self.variables, **extra))

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.run(*words, "--json").stdout)

    @contextmanager
    def running(self, *words: str, **extra: str) -> Iterator[subprocess.Popen[str]]:
        process = subprocess.Popen(
            [*MATYAN, *words],
            env=environment(**self.variables, **extra),
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


@pytest.fixture
def deployment(broker: Broker) -> Deployment:
    return Deployment(broker)


@pytest.fixture
def ready_deployment(deployment: Deployment) -> Deployment:
    deployment.run("topics", "create", "--partitions", "2")
    return deployment


def set_topic(broker: Broker, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for soon in admin.incremental_alter_configs([resource]).values():
        soon.result(10)


def ready(port: int) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/ready/", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# --- topics --------------------------------------------------------------------------------------


def test_topics_are_made_checked_and_mended(deployment: Deployment) -> None:
    """`topics check` names what is missing or too small with the command that mends it, and `create` mends it."""
    missing = deployment.run("topics", "check", check=1)
    assert f"Kafka has no topic {deployment.ingest}" in missing.stderr
    assert "`matyan topics create`" in missing.stderr
    made = deployment.run("topics", "create", "--partitions", "3")
    assert made.stdout.splitlines()[0] == f"{deployment.ingest}\tcreated"
    rows = [line.split("\t") for line in deployment.run("topics", "check").stdout.splitlines()]
    assert [row[1:5] for row in rows] == [["3", "1", "1048588", "1"]] + [
        ["1", "1", "1048588", "1"]
    ] * 3
    assert {row[0] for row in rows} >= {deployment.ingest, deployment.dlq}

    set_topic(deployment.broker, deployment.dlq, "max.message.bytes", "10000")
    small = deployment.run("topics", "check", check=1)
    for part in (deployment.dlq, "10000", "`matyan topics create --alter`"):
        assert part in small.stderr
    again = deployment.run("topics", "create", "--partitions", "5", check=1)
    assert f"{deployment.ingest}\twas there, with 3 partitions" in again.stdout
    assert "10000" in again.stderr
    mended = deployment.run("topics", "create", "--alter")
    assert f"{deployment.dlq}\taltered, with 1 partition" in mended.stdout
    (row,) = (row for row in deployment.json("topics", "check") if row["topic"] == deployment.dlq)
    assert (row["max.message.bytes"], row["trouble"]) == (1048588, [])


def test_more_replicas_than_brokers_is_one_sentence(deployment: Deployment) -> None:
    """What the broker says of it, without a traceback."""
    refused = deployment.run("topics", "create", "--replication", "3", check=1)
    assert "replication factor of 3" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("words", "topic_of"),
    [
        (("frontier", "--host", "127.0.0.1", "--port"), lambda one: one.ingest),
        (
            ("control-worker", "--host", "127.0.0.1", "--metrics-port"),
            lambda one: one.control,
        ),
    ],
    ids=["frontier", "control-worker"],
)
async def test_a_service_is_not_ready_until_its_topic_takes_our_largest_record(
    ready_deployment: Deployment,
    words: tuple[str, ...],
    topic_of: Callable[[Deployment], str],
) -> None:
    """It waits, alive, says which topic, value and command; and goes on by itself when that was mended."""
    topic = topic_of(ready_deployment)
    set_topic(ready_deployment.broker, topic, "max.message.bytes", "50000")
    (port,) = free_ports(1)
    seen: list[tuple[int, str]] = []

    async def answer(code: int, part: str) -> None:
        with trio.fail_after(60):
            while not seen or seen[-1][0] != code or part not in seen[-1][1]:
                with suppress(OSError):  # it does not listen yet
                    seen.append(await trio.to_thread.run_sync(ready, port))
                await trio.sleep(0.1)

    with ready_deployment.running(*words, str(port)) as service:
        await answer(503, f"max.message.bytes of the topic {topic} is 50000")
        assert "`matyan topics create --alter`" in seen[-1][1]
        await trio.to_thread.run_sync(lambda: ready_deployment.run("topics", "create", "--alter"))
        await answer(200, "ok")
        service.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(service.wait) == 0


# --- offsets -------------------------------------------------------------------------------------


async def fill(deployment: Deployment, records: int) -> None:
    """Records of many runs, so that both partitions have some."""
    settings = deployment.settings
    async with open_producer(producer_config(settings), deployment.ingest, 1 << 20) as producer:
        for number in range(records):
            run = f"run-{number}"
            record = {
                "type": "add_tag",
                "run_id": run,
                "timestamp": "2026-01-02T03:04:05.678901Z",
                "payload": {"tag_name": "t"},
            }
            producer.produce(run.encode(), [json.dumps(record).encode()], lambda error: None)
        assert await producer.flush(trio.current_time() + 30) == 0


def committed(deployment: Deployment) -> list[int]:
    """What Kafka has of the workers' group."""
    config = {"bootstrap.servers": deployment.broker.bootstrap, "group.id": "ingestion-workers"}
    consumer = Consumer(config)
    try:
        asked = [TopicPartition(deployment.ingest, number) for number in (0, 1)]
        return [tp.offset for tp in consumer.committed(asked, timeout=30)]
    finally:
        consumer.close()


async def test_offsets_are_shown_beside_a_worker_and_reset_without_one(
    ready_deployment: Deployment, tmp_path: Path
) -> None:
    """`show` goes on while a worker holds the store and names it; `reset` refuses then, and afterwards sets both sides."""
    store = f"rocks:{tmp_path / 'store'}"
    show = ("offsets", "show", "--store", store)
    reset = ("offsets", "reset", "--store", store, "--yes", "--to")
    run = ready_deployment.run

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ready_deployment.json(*show)
        return found

    await fill(ready_deployment, 40)
    before = await trio.to_thread.run_sync(rows)
    ends = [row["end"] for row in before]
    assert sum(ends) == 40
    assert all(ends)
    assert [row["stored"] for row in before] == [None, None]
    assert [row["lag"] for row in before] == ends

    with ready_deployment.running(
        "ingest-worker", "--store", store, "--metrics-port", "0"
    ) as worker:
        with trio.fail_after(90):
            while await trio.to_thread.run_sync(committed, ready_deployment) != ends:  # noqa: ASYNC110
                await trio.sleep(0.1)
        held = await trio.to_thread.run_sync(lambda: run(*show))
        assert f"process {worker.pid}" in held.stderr
        assert held.stdout.splitlines() == [f"{n}\t–\t{ends[n]}\t{ends[n]}\t0" for n in (0, 1)]
        refused = await trio.to_thread.run_sync(lambda: run(*reset, "start", check=2))
        assert f"process {worker.pid}" in refused.stderr
        worker.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(worker.wait) == 0

    def stands() -> tuple[list[int], list[int]]:
        return [row["stored"] for row in rows()], committed(ready_deployment)

    assert run(*show).stdout.splitlines() == [
        f"{n}\t{ends[n]}\t{ends[n]}\t{ends[n]}\t0" for n in (0, 1)
    ]
    assert run(*reset, "start", "--partition", "1").stdout == "1\t0\n"
    assert stands() == ([ends[0], 0], [ends[0], 0])
    assert run(*reset, "start").stdout == "0\t0\n1\t0\n"
    assert committed(ready_deployment) == [0, 0]
    run(*reset, "end")
    assert stands() == (ends, ends)

    commit_as_another_program(ready_deployment, [3, 5])
    assert run(*reset, "stored", "--partition", "0").stdout == f"0\t{ends[0]}\n"
    assert committed(ready_deployment) == [ends[0], 5]
    run(*reset, "committed")
    assert stands() == ([ends[0], 5], [ends[0], 5])
    assert "no partition 7" in run(*reset, "end", "--partition", "7", check=1).stderr
    unasked = matyan(
        *reset[:-2],
        *("--to", "end"),
        check=130,
        env=environment(**ready_deployment.variables),
        stdin=subprocess.DEVNULL,
    )
    assert "its end offset?" in unasked.stderr
    assert committed(ready_deployment) == [ends[0], 5]


def commit_as_another_program(deployment: Deployment, offsets: Sequence[int]) -> None:
    config = {"bootstrap.servers": deployment.broker.bootstrap, "group.id": "ingestion-workers"}
    consumer = Consumer(config)
    try:
        places = [TopicPartition(deployment.ingest, n, offset) for n, offset in enumerate(offsets)]
        consumer.commit(offsets=places, asynchronous=False)
    finally:
        consumer.close()


# --- dead letters --------------------------------------------------------------------------------


def letter(deployment: Deployment, number: int) -> DeadLetter:
    value = b'{"type":"log_metric","run_id":"run-%d","payload":{}}' % number
    return DeadLetter(
        deployment.ingest,
        1,
        100 + number,
        b"run-%d" % number,
        value,
        "InvalidRecord",
        f"no use: {number}",
    )


async def test_dead_letters_are_listed_shown_and_sent_once(ready_deployment: Deployment) -> None:
    """Each goes back to its topic with its bytes and key, once, in whatever order they are named."""
    run, dlq = ready_deployment.run, ready_deployment.dlq
    outbox = KafkaOutbox(ready_deployment.settings)
    # More than a batch, so that what is remembered grows while the rest is read.
    sent = [letter(ready_deployment, number) for number in range(130)]
    await outbox.bury(sent)
    binary = DeadLetter(ready_deployment.control, 0, 7, None, b"\xff\x00", "Malformed", "not JSON")
    await outbox.bury([binary])

    def work() -> None:
        rows = ready_deployment.json("dlq", "list", "--kafka")
        assert len(rows) == 131
        first = rows[0]
        assert first["version"]
        assert first["time"] > 1.7e9
        kept = {name: first[name] for name in first if name not in ("version", "time")}
        assert kept == {
            "id": f"{dlq}/0/0",
            "topic": ready_deployment.ingest,
            "partition": 1,
            "offset": 100,
            "run": "run-0",
            "type": "log_metric",
            "size": len(sent[0].value),
            "error_class": "InvalidRecord",
            "error_text": "no use: 0",
        }
        assert len(run("dlq", "list", "--kafka", "--limit", "3").stdout.splitlines()) == 3
        shown = run("dlq", "show", "--kafka", f"{dlq}/0/5")
        assert shown.stdout.encode() == sent[5].value

        named = run("dlq", "replay", "--kafka", f"{dlq}/0/4", f"{dlq}/0/2", f"{dlq}/0/4").stdout
        outcomes = [line.split("\t")[1] for line in named.splitlines()]
        assert outcomes[0].startswith(f"sent to {ready_deployment.ingest} [")
        assert outcomes[2] == "was sent before"
        left = {row["id"] for row in ready_deployment.json("dlq", "list", "--kafka")}
        assert len(left) == 129
        assert not left & {f"{dlq}/0/2", f"{dlq}/0/4"}
        assert len(run("dlq", "replay", "--kafka", "--all").stdout.splitlines()) == 129
        assert run("dlq", "replay", "--kafka", "--all").stdout == ""
        assert run("dlq", "list", "--kafka").stdout == ""

        wrong = run("dlq", "show", "--kafka", f"{dlq}/0/999", check=1)
        assert "there is no dead letter" in wrong.stderr
        assert "TOPIC/PARTITION/OFFSET" in run("dlq", "show", "--kafka", "12", check=1).stderr
        run("dlq", "replay", "--kafka", check=2)

    await trio.to_thread.run_sync(work)
    back = read_topic(ready_deployment.broker, ready_deployment.ingest)
    assert sorted((message.key(), message.value()) for message in back) == sorted(
        (one.key, one.value) for one in sent
    )
    (control,) = read_topic(ready_deployment.broker, ready_deployment.control)
    assert (control.key(), control.value()) == (None, binary.value)


async def test_a_replay_that_kafka_refuses_is_remembered_as_far_as_it_went(
    ready_deployment: Deployment,
) -> None:
    """A letter that its topic does not take stays in the list, the one before it leaves it; exit code 1."""
    large = DeadLetter(ready_deployment.ingest, 0, 1, b"run", os.urandom(20_000), "E", "")
    small = letter(ready_deployment, 0)
    await KafkaOutbox(ready_deployment.settings).bury([small])
    await KafkaOutbox(ready_deployment.settings).bury([large])
    set_topic(ready_deployment.broker, ready_deployment.ingest, "max.message.bytes", "5000")

    def work() -> None:
        ids = [f"{ready_deployment.dlq}/0/{n}" for n in (0, 1)]
        refused = ready_deployment.run("dlq", "replay", "--kafka", *ids, check=1)
        assert "did not take 1 dead letters" in refused.stderr
        (row,) = ready_deployment.json("dlq", "list", "--kafka")
        assert row["id"] == ids[1]

    await trio.to_thread.run_sync(work)


# --- doctor --------------------------------------------------------------------------------------


def test_doctor_names_what_is_wrong_and_how_it_is_mended(
    deployment: Deployment, tmp_path: Path
) -> None:
    """A finding a check: missing topics, a store of the other layout, an S3 server that does not answer."""
    store = f"rocks:{tmp_path / 'store'}"
    nowhere = {"S3_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}"}

    def ask(*words: str, **extra: str) -> dict[str, dict[str, Any]]:
        asked = deployment.run("doctor", "--json", *words, check=1, **nowhere, **extra)
        return {row["check"]: row for row in json.loads(asked.stdout)}

    found = ask("--store", store)
    assert list(found) == ["settings", "broker", "topics", "blobs", "clock", "store"]
    assert {name for name, row in found.items() if row["ok"]} == {"settings", "broker", "store"}
    assert "`matyan topics create`" in found["topics"]["text"]
    assert "S3_ENDPOINT" in found["blobs"]["text"]
    assert not (tmp_path / "store").exists()

    deployment.run("topics", "create")
    with deployment.running("ingest-worker", "--store", store, "--metrics-port", "0") as worker:
        trio.run(until_made, tmp_path / "store" / "CURRENT")
        held = ask("--store", store)
        assert held["topics"]["ok"]
        assert f"process {worker.pid}" in held["store"]["text"]
    other = ask("--store", store, "--sequence-layout", "compatible")["store"]
    assert not other["ok"]
    assert "MATYAN_SEQUENCE_LAYOUT=packed" in other["text"]


async def until_made(path: Path) -> None:
    await until(path.exists, 60)


def test_doctor_refuses_development_values_at_once(deployment: Deployment) -> None:
    """In production a default credential is named, and --wait does not wait for it to mend itself."""
    asked = deployment.run(
        *("doctor", "--wait", "--timeout", "600"), check=1, MATYAN_ENVIRONMENT="production"
    )
    assert asked.stdout.startswith("settings\twrong\tMATYAN_ENVIRONMENT=production")
    assert "S3_SECRET_KEY" in asked.stdout
