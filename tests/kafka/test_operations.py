"""The operator's commands as processes, on a real broker: topics, offsets, dead letters, doctor."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Sequence
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
from matyan_client import Run

from dev.broker import Broker
from dev.process import free_ports
from dev.s3 import S3
from matyan.broker.base import DeadLetter
from matyan.broker.kafka.outbox import KafkaOutbox
from matyan.settings import Settings, load
from matyan.store.open import DATABASE
from tests.blobs.bucket import s3_environment
from tests.kafka.deployment import Deployment, record
from tests.kafka.topics import read_topic
from tests.tracker import MATYAN, asked, environment, matyan, running, started
from tests.until import wait_for


class Commands(Deployment):
    """The commands on topics of their own, which are not made yet."""

    @property
    def dlq(self) -> str:
        return f"{self.ingestion}-dlq"

    @property
    def settings(self) -> Settings:
        return load(self.env)

    def run(self, *words: str | Path, check: int | None = 0, **extra: str) -> Any:
        return matyan(*words, check=check, env=environment(**{**self.env, **extra}))

    def json(self, *words: str | Path) -> Any:
        return json.loads(self.run(*words, "--json").stdout)


@pytest.fixture
def commands(broker: Broker) -> Commands:
    name = uuid.uuid4().hex[:12]
    ingestion, control = f"{name}-ingestion", f"{name}-control"
    variables = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "KAFKA_DATA_INGESTION_TOPIC": ingestion,
        "KAFKA_CONTROL_EVENTS_TOPIC": control,
        "METRICS_PORT": "0",
    }
    return Commands(broker, variables, ingestion, control)


@pytest.fixture
def deployed(commands: Commands) -> Commands:
    commands.run("topics", "create", "--partitions", "2")
    return commands


def set_topic(broker: Broker, topic: str, name: str, value: str) -> None:
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})
    entry = ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for soon in admin.incremental_alter_configs([resource]).values():
        soon.result(10)


# --- topics --------------------------------------------------------------------------------------


def test_topics_are_made_checked_and_mended(commands: Commands) -> None:
    """`topics check` names what is missing or too small with the command that mends it, and `create` mends it."""
    missing = commands.run("topics", "check", check=1)
    assert f"Kafka has no topic {commands.ingestion}" in missing.stderr
    assert "`matyan topics create`" in missing.stderr
    made = commands.run("topics", "create", "--partitions", "3")
    assert made.stdout.splitlines()[0] == f"{commands.ingestion}\tcreated"
    rows = [line.split("\t") for line in commands.run("topics", "check").stdout.splitlines()]
    assert [row[1:5] for row in rows] == [["3", "1", "1048588", "1"]] + [
        ["1", "1", "1048588", "1"]
    ] * 3
    assert {row[0] for row in rows} >= {commands.ingestion, commands.dlq}

    set_topic(commands.broker, commands.dlq, "max.message.bytes", "10000")
    small = commands.run("topics", "check", check=1)
    for part in (commands.dlq, "10000", "`matyan topics create --alter`"):
        assert part in small.stderr
    again = commands.run("topics", "create", "--partitions", "5", check=1)
    assert f"{commands.ingestion}\twas there, with 3 partitions" in again.stdout
    assert "10000" in again.stderr
    mended = commands.run("topics", "create", "--alter")
    assert f"{commands.dlq}\taltered, with 1 partition" in mended.stdout
    (row,) = (row for row in commands.json("topics", "check") if row["topic"] == commands.dlq)
    assert (row["max.message.bytes"], row["trouble"]) == (1048588, [])


def test_more_replicas_than_brokers_is_one_sentence(commands: Commands) -> None:
    """What the broker says of it, without a traceback."""
    refused = commands.run("topics", "create", "--replication", "3", check=1)
    assert "replication factor of 3" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("service", "topic_of"),
    [
        ("frontier", lambda one: one.ingestion),
        ("control-worker", lambda one: one.control),
    ],
    ids=["frontier", "control-worker"],
)
def test_a_service_is_not_ready_until_its_topic_takes_our_largest_record(
    stored_in_s3: Commands, service: str, topic_of: Callable[[Commands], str]
) -> None:
    """It waits, alive, says which topic, value and command; and goes on by itself when that was mended."""
    deployed = stored_in_s3
    deployed.run("topics", "create", "--partitions", "2")
    topic = topic_of(deployed)
    set_topic(deployed.broker, topic, "max.message.bytes", "50000")
    with deployed.running(service) as process:
        wait_for(lambda: f"max.message.bytes of the topic {topic} is 50000" in process.unready())
        assert "`matyan topics create --alter`" in process.unready()
        deployed.run("topics", "create", "--alter")
        wait_for(lambda: not process.unready())
        assert process.stop() == 0


# --- offsets -------------------------------------------------------------------------------------


def committed(commands: Commands) -> list[int]:
    """What Kafka has of the workers' group."""
    config = {"bootstrap.servers": commands.broker.bootstrap, "group.id": "ingestion-workers"}
    consumer = Consumer(config)
    try:
        asked = [TopicPartition(commands.ingestion, number) for number in (0, 1)]
        return [tp.offset for tp in consumer.committed(asked, timeout=30)]
    finally:
        consumer.close()


def test_offsets_are_not_reset_under_a_member_of_the_group(
    deployed: Commands, tmp_path: Path
) -> None:
    """Another program's member, on whichever machine: exit code 1, the reason, and neither store nor Kafka has changed."""
    store = f"rocks:{tmp_path / 'store'}"
    reset = ("offsets", "reset", "--store", store, "--yes", "--all-partitions", "--to", "end")
    deployed.produce(deployed.ingestion, [record("add_tag", "run", tag_name="t")], b"run")
    deployed.run(*reset[:-1], "start")
    member = Consumer(
        {
            "bootstrap.servers": deployed.broker.bootstrap,
            "group.id": "ingestion-workers",
            "enable.auto.commit": False,
        }
    )
    member.subscribe([deployed.ingestion])
    wait_for(lambda: member.poll(0.1) or member.assignment())
    refused = deployed.run(*reset, check=1)
    assert "has members" in refused.stderr
    shown = deployed.json("offsets", "show", "--store", store)
    assert [(row["stored"], row["committed"]) for row in shown] == [(0, 0), (0, 0)]
    member.close()
    assert deployed.run(*reset).returncode == 0


async def test_offsets_are_shown_beside_a_worker_and_reset_without_one(
    deployed: Commands, tmp_path: Path
) -> None:
    """`show` goes on while a worker holds the store and names it; `reset` refuses then, and afterwards sets both sides."""
    store = f"rocks:{tmp_path / 'store'}"
    show = ("offsets", "show", "--store", store)
    reset = ("offsets", "reset", "--store", store, "--yes", "--to")
    every = "--all-partitions"
    run = deployed.run

    def rows() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = deployed.json(*show)
        return found

    for number in range(8):  # both partitions get some
        run_id = f"run-{number}"
        records = [record("add_tag", run_id, tag_name="t")] * 5
        await trio.to_thread.run_sync(
            deployed.produce, deployed.ingestion, records, run_id.encode()
        )
    before = await trio.to_thread.run_sync(rows)
    ends = [row["end"] for row in before]
    assert sum(ends) == 40
    assert all(ends)
    assert [row["stored"] for row in before] == [None, None]
    assert [row["lag"] for row in before] == ends
    assert not (tmp_path / "store").exists()

    with deployed.running("ingest-worker", "--store", store) as worker:
        await trio.to_thread.run_sync(wait_for, lambda: committed(deployed) == ends)
        held = await trio.to_thread.run_sync(lambda: run(*show))
        assert f"process {worker.process.pid}" in held.stderr
        assert held.stdout.splitlines() == [f"{n}\t–\t{ends[n]}\t{ends[n]}\t0" for n in (0, 1)]
        refused = await trio.to_thread.run_sync(lambda: run(*reset, "start", every, check=2))
        assert f"process {worker.process.pid}" in refused.stderr
        assert await trio.to_thread.run_sync(worker.stop) == 0

    def stands() -> tuple[list[int], list[int]]:
        return [row["stored"] for row in rows()], committed(deployed)

    assert run(*show).stdout.splitlines() == [
        f"{n}\t{ends[n]}\t{ends[n]}\t{ends[n]}\t0" for n in (0, 1)
    ]
    assert run(*reset, "start", "--partition", "1").stdout == "1\t0\n"
    assert stands() == ([ends[0], 0], [ends[0], 0])
    assert run(*reset, "start", every).stdout == "0\t0\n1\t0\n"
    assert committed(deployed) == [0, 0]
    run(*reset, "end", every)
    assert stands() == (ends, ends)

    commit_as_another_program(deployed, [3, 5])
    assert run(*reset, "stored", "--partition", "0").stdout == f"0\t{ends[0]}\n"
    assert committed(deployed) == [ends[0], 5]
    run(*reset, "committed", every)
    assert stands() == ([ends[0], 5], [ends[0], 5])
    assert "no partition 7" in run(*reset, "end", "--partition", "7", check=1).stderr
    unasked = matyan(
        *reset[:-2],
        *("--to", "end", every),
        check=130,
        env=environment(**deployed.env),
        stdin=subprocess.DEVNULL,
    )
    assert "its end offset?" in unasked.stderr
    assert committed(deployed) == [ends[0], 5]


def commit_as_another_program(commands: Commands, offsets: Sequence[int]) -> None:
    config = {"bootstrap.servers": commands.broker.bootstrap, "group.id": "ingestion-workers"}
    consumer = Consumer(config)
    try:
        places = [TopicPartition(commands.ingestion, n, offset) for n, offset in enumerate(offsets)]
        consumer.commit(offsets=places, asynchronous=False)
    finally:
        consumer.close()


def trim(commands: Commands, partition: int, before: int) -> None:
    """As the topic's retention does."""
    admin = AdminClient({"bootstrap.servers": commands.broker.bootstrap})
    place = TopicPartition(commands.ingestion, partition, before)
    for soon in admin.delete_records([place]).values():
        soon.result(10)


def test_a_trimmed_partition_stands_still_and_the_others_go_on(
    deployed: Commands, tmp_path: Path
) -> None:
    """The worker is not ready and names it with the command that mends it; doctor sees it, with the worker and without;
    the command changes that partition alone, and told before what it does."""
    store = f"rocks:{tmp_path / 'store'}"
    runs = [f"run-{number}" for number in range(8)]  # both partitions get some

    def produce(count: int) -> None:
        for run in runs:
            lines = [record("log_record", run, message="m", level=20, timestamp=1.0)] * count
            deployed.produce(deployed.ingestion, lines, run.encode())

    def lags() -> list[int]:
        return [row["lag"] for row in deployed.json("offsets", "show", "--store", store)]

    worker_words = ("ingest-worker", "--store", store)

    with deployed.running(*worker_words) as worker:
        produce(5)
        wait_for(lambda: lags() == [0, 0])
        assert worker.stop() == 0
    stored = [row["stored"] for row in deployed.json("offsets", "show", "--store", store)]
    produce(5)
    trim(deployed, 1, stored[1] + 3)
    wrong = deployed.run("doctor", "--store", store, "--json", check=1)
    found = {row["check"]: row["text"] for row in json.loads(wrong.stdout)}
    command = f"matyan offsets reset --store {store} --partition 1 --to start"
    assert f"{deployed.ingestion} [1]" in found["store"]
    assert "removed 3 records" in found["store"]
    assert f"`{command}`" in found["store"]
    assert f"{deployed.ingestion} [1]" in found["topics"]

    with deployed.running(*worker_words) as worker:
        wait_for(lambda: f"`{command}`" in worker.unready())
        assert f"{deployed.ingestion} [0]" not in worker.unready()
        wait_for(lambda: lags()[0] == 0)
        assert lags()[1] > 0
        held = deployed.run("doctor", "--store", store, "--json", check=1)
        assert f"{deployed.ingestion} [1]" in held.stdout
        assert worker.stop() == 0

    unnamed = deployed.run("offsets", "reset", "--store", store, "--to", "start", "--yes", check=2)
    assert "--all-partitions" in unnamed.stderr
    both = deployed.run(
        *("offsets", "reset", "--store", store, "--to", "start", "--yes"),
        *("--partition", "1", "--all-partitions"),
        check=2,
    )
    assert "--all-partitions" in both.stderr
    unasked = matyan(
        *("offsets", "reset", "--store", store, "--to", "start", "--all-partitions"),
        check=130,
        env=environment(**deployed.env),
        stdin=subprocess.DEVNULL,
    )
    ends = [row["end"] for row in deployed.json("offsets", "show", "--store", store)]
    assert (
        f"Partition 0: {ends[0]} → 0: {ends[0]} records that it has are applied again"
        in unasked.stderr
    )
    assert f"Partition 1: {stored[1]} → {stored[1] + 3}: 3 records are lost" in unasked.stderr

    mended = deployed.run(*command.split()[1:], "--yes")
    assert mended.stdout == f"1\t{stored[1] + 3}\n"
    with deployed.running(*worker_words) as worker:
        wait_for(lambda: lags() == [0, 0])
        wait_for(lambda: not worker.unready())
        assert worker.stop() == 0
    lines = [
        json.loads(line)
        for run in runs
        for line in matyan("logs", run, "--json", "--data", tmp_path / "store").stdout.splitlines()
    ]
    assert len(lines) == 2 * 5 * len(runs) - 3


def test_a_second_store_is_refused_until_the_group_is_given_to_it(
    deployed: Commands, tmp_path: Path
) -> None:
    """Exit code 2 and a sentence that names both stores and the command; after it the first one is refused."""
    first, second = (f"rocks:{tmp_path / name}" for name in ("first", "second"))
    for number in range(8):
        run = f"run-{number}"
        deployed.produce(deployed.ingestion, [record("add_tag", run, tag_name="t")], run.encode())

    def work_off(store: str) -> None:
        with deployed.running("ingest-worker", "--store", store) as worker:
            wait_for(lambda: not worker.unready())
            shown = ("offsets", "show", "--store", store)
            wait_for(lambda: not any(row["lag"] for row in deployed.json(*shown)))
            assert worker.stop() == 0

    def refused(store: str) -> str:
        with started([*MATYAN, "ingest-worker", "--store", store], **deployed.env) as worker:
            assert worker.process.wait(60) == 2
        said = "".join(worker.output)
        assert "Traceback" not in said
        assert "feeds another store" in said
        return said

    work_off(first)
    said = refused(second)
    command = f"matyan offsets reset --store {second} --all-partitions --to start"
    assert f"`{command}`" in said
    # Another worker of the first store, restored from a copy of its folder, is the same store.
    shutil.copytree(tmp_path / "first", tmp_path / "copy")
    work_off(f"rocks:{tmp_path / 'copy'}")
    part = deployed.run(
        *("offsets", "reset", "--store", second, "--partition", "0", "--to", "start", "--yes"),
        check=2,
    )
    assert "--all-partitions" in part.stderr
    given = deployed.run(*command.split()[1:], "--yes")
    assert "is given to this store" in given.stderr
    work_off(second)
    assert len(asked("runs", "--data", tmp_path / "second")) == 8
    refused(first)
    # Under a group of its own each may have all.
    with deployed.running("ingest-worker", "--store", first, "--ingestion-group", "own") as worker:
        wait_for(lambda: worker.process.poll() is not None or own_is_there(deployed))
        assert worker.stop() == 0


def own_is_there(commands: Commands) -> bool:
    shown = commands.run("offsets", "show", "--store", "rocks:/nowhere", "--ingestion-group", "own")
    return "–\t–" not in shown.stdout


def test_two_stores_that_begin_together_do_not_go_on(deployed: Commands, tmp_path: Path) -> None:
    """Neither had anything to see at its start: within seconds one of them, or both, end with the sentence."""
    with (
        started(
            [*MATYAN, "ingest-worker", "--store", f"rocks:{tmp_path / 'a'}"], **deployed.env
        ) as a,
        started(
            [*MATYAN, "ingest-worker", "--store", f"rocks:{tmp_path / 'b'}"], **deployed.env
        ) as b,
    ):
        wait_for(lambda: a.process.poll() == 2 or b.process.poll() == 2)
    assert "feeds another store" in "".join(a.output + b.output)


def test_a_folder_of_the_tracker_is_not_a_workers(deployed: Commands, tmp_path: Path) -> None:
    """Neither the worker takes it nor `offsets reset`; each says whose it is."""
    data = tmp_path / "data"
    with running(data) as tracker:
        run = Run(repo=tracker.url)
        run.track(1.0, name="loss", step=0)
        run.close()
        assert tracker.stop() == 0
    worker = deployed.run("ingest-worker", "--store", f"rocks:{data}", check=2)
    assert f"`matyan up --data {data}`" in worker.stderr
    reset = ("offsets", "reset", "--store", f"rocks:{data}", "--to", "start", "--yes")
    assert "`matyan up`" in deployed.run(*reset, "--all-partitions", check=2).stderr
    with running(data) as tracker:
        assert tracker.stop() == 0


# --- dead letters --------------------------------------------------------------------------------


def letter(commands: Commands, number: int) -> DeadLetter:
    value = b'{"type":"log_metric","run_id":"run-%d","payload":{}}' % number
    return DeadLetter(
        commands.ingestion,
        1,
        100 + number,
        b"run-%d" % number,
        value,
        "InvalidRecord",
        f"no use: {number}",
    )


async def test_dead_letters_are_listed_shown_and_sent_once(deployed: Commands) -> None:
    """Each goes back to its topic with its bytes and key, once, in whatever order they are named."""
    run, dlq = deployed.run, deployed.dlq
    outbox = KafkaOutbox(deployed.settings)
    # More than a batch, so that what is remembered grows while the rest is read.
    sent = [letter(deployed, number) for number in range(130)]
    await outbox.bury(sent)
    binary = DeadLetter(deployed.control, 0, 7, None, b"\xff\x00", "Malformed", "not JSON")
    await outbox.bury([binary])

    def work() -> None:
        rows = deployed.json("dlq", "list", "--kafka")
        assert len(rows) == 131
        first = rows[0]
        assert first["version"]
        assert first["time"] > 1.7e9
        kept = {name: first[name] for name in first if name not in ("version", "time")}
        assert kept == {
            "id": f"{dlq}/0/0",
            "topic": deployed.ingestion,
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
        assert outcomes[0].startswith(f"sent to {deployed.ingestion} [")
        assert outcomes[2] == "was sent before"
        left = {row["id"] for row in deployed.json("dlq", "list", "--kafka")}
        assert len(left) == 129
        assert not left & {f"{dlq}/0/2", f"{dlq}/0/4"}
        assert len(run("dlq", "replay", "--kafka", "--all").stdout.splitlines()) == 129
        assert run("dlq", "replay", "--kafka", "--all").stdout == ""
        assert run("dlq", "list", "--kafka").stdout == ""

        wrong = run("dlq", "show", "--kafka", f"{dlq}/0/999", check=1)
        assert "There is no dead letter" in wrong.stderr
        for odd in ("12", f"{dlq}/0/{2**63}", f"{dlq}/0/\u00b2", f"{dlq}/{2**40}/0"):
            assert "TOPIC/PARTITION/OFFSET" in run("dlq", "show", "--kafka", odd, check=1).stderr
        run("dlq", "replay", "--kafka", check=2)

    await trio.to_thread.run_sync(work)
    back = read_topic(deployed.broker, deployed.ingestion)
    assert sorted((message.key(), message.value()) for message in back) == sorted(
        (one.key, one.value) for one in sent
    )
    (control,) = read_topic(deployed.broker, deployed.control)
    assert (control.key(), control.value()) == (None, binary.value)


async def test_a_replay_that_kafka_refuses_is_remembered_as_far_as_it_went(
    deployed: Commands,
) -> None:
    """A letter that its topic does not take stays in the list, the one before it leaves it; exit code 1."""
    large = DeadLetter(deployed.ingestion, 0, 1, b"run", os.urandom(20_000), "E", "")
    small = letter(deployed, 0)
    await KafkaOutbox(deployed.settings).bury([small])
    await KafkaOutbox(deployed.settings).bury([large])
    set_topic(deployed.broker, deployed.ingestion, "max.message.bytes", "5000")

    def work() -> None:
        ids = [f"{deployed.dlq}/0/{n}" for n in (0, 1)]
        refused = deployed.run("dlq", "replay", "--kafka", *ids, check=1)
        assert "did not take 1 dead letters" in refused.stderr
        (row,) = deployed.json("dlq", "list", "--kafka")
        assert row["id"] == ids[1]

    await trio.to_thread.run_sync(work)


# --- doctor --------------------------------------------------------------------------------------


def test_doctor_names_what_is_wrong_and_how_it_is_mended(
    commands: Commands, tmp_path: Path
) -> None:
    """A finding a check: missing topics, a store of the other layout, an S3 server that does not answer."""
    store = f"rocks:{tmp_path / 'store'}"
    nowhere = {"S3_ENDPOINT": f"http://127.0.0.1:{free_ports(1)[0]}"}

    def ask(*words: str, **extra: str) -> dict[str, dict[str, Any]]:
        asked = commands.run("doctor", "--json", *words, check=1, **nowhere, **extra)
        return {row["check"]: row for row in json.loads(asked.stdout)}

    found = ask("--store", store)
    assert list(found) == ["settings", "broker", "topics", "blobs", "clock", "store"]
    assert {name for name, row in found.items() if row["ok"]} == {"settings", "broker", "store"}
    assert "`matyan topics create`" in found["topics"]["text"]
    assert "S3_ENDPOINT" in found["blobs"]["text"]
    assert not (tmp_path / "store").exists()

    commands.run("topics", "create")
    with commands.running("ingest-worker", "--store", store) as worker:
        wait_for((tmp_path / "store" / DATABASE / "CURRENT").exists)
        held = ask("--store", store)
        assert held["topics"]["ok"]
        assert f"process {worker.process.pid}" in held["store"]["text"]
    other = ask("--store", store, "--sequence-layout", "compatible")["store"]
    assert not other["ok"]
    assert "MATYAN_SEQUENCE_LAYOUT=packed" in other["text"]


def test_doctor_refuses_development_values_at_once(commands: Commands) -> None:
    """In production a default credential is named, and --wait does not wait for it to mend itself."""
    asked = commands.run(
        *("doctor", "--wait", "--timeout", "600"), check=1, MATYAN_ENVIRONMENT="production"
    )
    assert asked.stdout.startswith("settings\twrong\tMATYAN_ENVIRONMENT=production")
    assert "S3_SECRET_KEY" in asked.stdout


@pytest.fixture
def stored_in_s3(commands: Commands, s3: S3) -> Commands:
    """With a bucket of its own."""
    bucket = f"bucket-{uuid.uuid4().hex[:12]}"
    s3.make_bucket(bucket)
    return Commands(
        commands.broker,
        {**commands.env, **s3_environment(s3, S3_BUCKET=bucket)},
        commands.ingestion,
        commands.control,
    )


def test_doctor_waits_until_all_is_well(stored_in_s3: Commands, s3: S3) -> None:
    """With --wait it says what is missing, and ends with 0 soon after that is there; the probe leaves nothing."""
    waiting = subprocess.Popen(
        [*MATYAN, "doctor", "--wait", "--timeout", "120"],
        env=environment(**stored_in_s3.env),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert waiting.stderr is not None
        line = waiting.stderr.readline()
        assert line.startswith("Waits for topics: Kafka has no topic")
        assert "blobs" not in line
        stored_in_s3.run("topics", "create")
        out, _ = waiting.communicate(timeout=60)
    finally:
        waiting.kill()
        waiting.wait()
    assert waiting.returncode == 0
    verdicts = [line.split("\t")[:2] for line in out.splitlines()]
    assert verdicts == [[name, "ok"] for name in ("settings", "broker", "topics", "blobs", "clock")]
    assert f"the S3 server at {s3.endpoint}" in out
    assert s3.keys(bucket=stored_in_s3.env["S3_BUCKET"]) == set()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("S3_BUCKET", "no-such-bucket", "S3_BUCKET"),
        ("S3_SECRET_KEY", "wrong", "S3_SECRET_KEY"),
        ("BLOB_BACKEND_TYPE", "gcs", "BLOB_BACKEND_TYPE=gcs is not supported"),
    ],
)
def test_doctor_says_what_is_wrong_with_the_blobs(
    stored_in_s3: Commands, variable: str, value: str, expected: str
) -> None:
    """The setting that mends it is named; the clock is compared all the same where there is a server."""
    asked = stored_in_s3.run("doctor", "--json", check=1, **{variable: value})
    found = {row["check"]: row for row in json.loads(asked.stdout)}
    assert not found["blobs"]["ok"]
    assert expected in found["blobs"]["text"]
    assert found["clock"]["ok"] == (variable != "BLOB_BACKEND_TYPE")


def test_doctor_ends_at_its_timeout(commands: Commands) -> None:
    """Exit code 1 and what was missing, not long after the timeout."""
    asked = commands.run(
        *("doctor", "--wait", "--timeout", "3"),
        check=1,
        S3_ENDPOINT=f"http://127.0.0.1:{free_ports(1)[0]}",
    )
    assert "topics, blobs, clock" in asked.stderr.splitlines()[-1]
