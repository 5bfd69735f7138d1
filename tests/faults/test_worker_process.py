"""`matyan ingest-worker` as a process that dies at any moment, and the oracle: what was produced is stored once."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio
from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient

from dev.broker import Broker
from matyan.broker.kafka.admin import Group, describe_topic
from matyan.broker.kafka.client import client_config
from matyan.errors import Unavailable
from matyan.folder.folder import open_folder
from matyan.keys import Keys, pack_value
from matyan.rules.rows import RunRows
from matyan.rules.runs import exists, is_deleted
from matyan.rules.sequences import Layout
from matyan.settings import Settings
from matyan.store.open import DATABASE
from matyan.store.rocks import open_rocks
from tests.faults.broken_worker import broken_worker
from tests.kafka.crew import stored_offsets
from tests.kafka.load import Load, faults, open_load, stored_numbers
from tests.kafka.topics import create_topic, read_topic
from tests.ledger import metric, record
from tests.services import kafka
from tests.small_disk import small_disk
from tests.tracker import MATYAN, Process, environment, started
from tests.until import until, wait_for

__all__ = ["small_disk"]

AT_LENGTH = bool(os.environ.get("MATYAN_TEST_AT_LENGTH"))
KILLS = 40 if AT_LENGTH else 3
PARTITIONS = 6

PLAIN = (*MATYAN, "ingest-worker")

_SESSION = {"session.timeout.ms": 6_000, "heartbeat.interval.ms": 500}
"""A member that is killed in the midst of a rebalance holds it up for so long; by default for 45 s."""


class Deployment:
    """A topic with its companions, a store, and one worker process after another between them."""

    def __init__(self, broker: Broker, settings: Settings, folder: Path) -> None:
        self.topic = f"t-{folder.name}-{random.randbytes(4).hex()}"
        self.folder = folder
        self.settings = settings
        self.use_group(f"group-{self.topic}")
        self.broker = broker
        create_topic(broker, self.topic, PARTITIONS)
        create_topic(broker, f"{self.topic}-dlq")
        create_topic(broker, f"{self.topic}-control")

    def name_of(self, store: Path | None) -> str:
        """What --store takes."""
        return f"rocks:{store or self.folder}"

    def use_group(self, name: str) -> None:
        """The next workers are of this consumer group."""
        self.group = Group(client_config(self.settings), name)

    def environment(self, consumer: dict[str, object], **env: str) -> dict[str, str]:
        consumer = {"group.id": self.group.name, **_SESSION, **consumer}
        return {
            **kafka(self.broker, self.topic),
            "KAFKA_CONTROL_EVENTS_TOPIC": f"{self.topic}-control",
            "METRICS_PORT": "0",
            "MATYAN_TEST_CONSUMER": json.dumps(consumer),
            **env,
        }

    def worker(
        self,
        promise: str = "none",
        *,
        command: Sequence[str] = (),
        store: Path | None = None,
        members: int = 2,
        consumer: dict[str, object] | None = None,
        **env: str,
    ) -> AbstractContextManager[Process]:
        """Two members of the group in one process, since RocksDB has one owner; killed at the end."""
        words = ["--store", self.name_of(store), "--workers", str(members)]
        words = [*(command or broken_worker(promise)), *words]
        return started(words, **self.environment(consumer or {}, **env))

    def places(self) -> dict[int, tuple[int, int]]:
        """Committed and end offset of each partition."""
        while True:
            with contextlib.suppress(Unavailable):  # the group's coordinator has just begun
                found = self.group.places(self.topic, range(PARTITIONS))
                break
        return {number: (place.committed or 0, place.high) for number, place in found.items()}

    def committed(self) -> dict[int, int]:
        return {number: committed for number, (committed, _) in self.places().items()}

    def is_through(self) -> bool:
        return all(committed == end for committed, end in self.places().values())

    def members(self) -> dict[str, set[int]]:
        """The group's members, and the partitions of each; none during a rebalance, or while its coordinator begins."""
        with contextlib.suppress(Unavailable):
            return self.group.owners(self.topic) or {}
        return {}

    def owned(self) -> int:
        """How many partitions have an owner."""
        return sum(map(len, self.members().values()))

    def is_settled(self, members: int = 2) -> bool:
        """Whether so many members share the partitions: nobody is still on the way in, and none waits for an owner."""
        shares = self.members().values()
        return len(shares) == members and all(shares) and sum(map(len, shares)) == PARTITIONS

    def stand(self) -> str:
        """Why it may stand still: who has which partition, and what is committed of it."""
        return f"{self.members()}, committed and end: {self.places()}"

    async def work_off(self, *arguments: str, store: Path | None = None, **env: str) -> None:
        """A worker until it has committed everything, and its graceful end."""
        with self.worker(*arguments, store=store, **env) as process:
            await until_ended_or(process, self.is_through, self.stand)
            assert await trio.to_thread.run_sync(process.stop) == 0

    async def faults(self, load: Load) -> list[str]:
        store = open_rocks(self.folder / DATABASE)
        try:
            return faults(load.produced, await stored_numbers(store, load.produced))
        finally:
            await store.aclose()


async def until_ended_or(
    process: Process,
    condition: Callable[[], bool],
    stand: Callable[[], str] = lambda: "",
    *,
    seconds: float = 240,
) -> None:
    with trio.move_on_after(seconds):
        while process.process.poll() is None:
            if await trio.to_thread.run_sync(condition):
                return
            await trio.sleep(0.1)
    found = stand()
    pytest.fail(f"the worker did not come so far: {found}\n{''.join(process.output)}")


@pytest.fixture
def deployment(broker: Broker, settings: Settings, tmp_path: Path) -> Deployment:
    return Deployment(broker, settings, tmp_path / "store")


# --- kill -9 --------------------------------------------------------------------------------------


async def kill_many_times(
    deployment: Deployment, kills: int, seed: int, promise: str = "none", **env: str
) -> list[str]:
    """Kills the worker again and again under load; returns what is wrong with what is stored at last."""
    chance = random.Random(seed)
    # Shorter than the default, which a member without an instance id would hold its partitions for.
    session = {"session.timeout.ms": 2_000, "heartbeat.interval.ms": 400}
    async with open_load(deployment.settings, deployment.topic) as load:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, 0.02)
            for _ in range(kills):
                before = deployment.committed()
                with deployment.worker(promise, consumer=session, **env) as process:
                    await until_ended_or(process, lambda b=before: deployment.committed() != b)
                    await trio.sleep(chance.uniform(0, 0.6))
            nursery.cancel_scope.cancel()
        await load.settle()
        await deployment.work_off(promise, **env)
        return await deployment.faults(load)


@pytest.mark.parametrize("instance", ["", "one"], ids=["dynamic", "static"])
async def test_a_killed_worker_stores_everything_once(
    deployment: Deployment, instance: str
) -> None:
    """At random moments under load, with and without an instance id: nothing lost, nothing twice, in order."""
    assert await kill_many_times(deployment, KILLS, 11, MATYAN_INSTANCE_ID=instance) == []


async def test_without_the_stored_offset_a_kill_is_caught(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    """The negative control: a worker that goes by Kafka's offsets stores records twice, and the oracle says so."""
    for seed in range(5):
        deployment = Deployment(broker, settings, tmp_path / str(seed))
        found = await kill_many_times(
            deployment, 2, seed, "redelivered-without-stored-offset", MATYAN_INSTANCE_ID="one"
        )
        if any("stored twice" in fault for fault in found):
            return
    pytest.fail("records that were applied twice went unnoticed")


async def test_static_members_killed_in_the_midst_of_a_rebalance_leave_no_partition_behind(
    deployment: Deployment,
) -> None:
    """The first was to give half of its partitions to the second when both died; they come back into a group that Kafka
    calls stable, without a rebalance, and one of them sees that these partitions have no owner."""
    session = {"session.timeout.ms": 45_000}
    # Members in processes of their own have folders of their own; copies, so that for the group they are one store.
    async with open_folder(deployment.folder, None):
        pass
    for number in "01":
        shutil.copytree(deployment.folder, deployment.folder.with_name(f"of-{number}"))

    def worker(promise: str, number: str) -> AbstractContextManager[Process]:
        return deployment.worker(
            promise,
            store=deployment.folder.with_name(f"of-{number}"),
            members=1,
            consumer=session,
            MATYAN_INSTANCE_ID=f"one-{number}",
        )

    async with open_load(deployment.settings, deployment.topic) as load:
        with worker("dies-when-revoked", "0") as first:
            await until_ended_or(first, lambda: deployment.owned() == PARTITIONS)
            with worker("none", "1"):
                assert await trio.to_thread.run_sync(first.process.wait, 60) == -signal.SIGKILL
                await trio.to_thread.run_sync(wait_for, lambda: deployment.owned() < PARTITIONS)
        await load.frames(10)
        with deployment.worker(consumer=session, MATYAN_INSTANCE_ID="one") as process:
            await until_ended_or(process, deployment.is_through, deployment.stand)
            await trio.to_thread.run_sync(process.stop)
        assert "partitions have no owner" in "".join(process.output)
        assert await deployment.faults(load) == []


# --- the same batch twice -------------------------------------------------------------------------


async def dump(folder: Path) -> dict[bytes, bytes]:
    """Everything but the store's own id."""
    store = open_rocks(folder / DATABASE)
    try:
        rows = dict(await store.read(lambda snap: list(snap.scan(b"", b"\xff" * 8))))
        del rows[Keys(store).store()]
        return rows
    finally:
        await store.aclose()


@pytest.mark.parametrize("layout", ["compatible", "packed"])
async def test_a_batch_that_is_delivered_twice_writes_the_same_bytes(
    deployment: Deployment, tmp_path: Path, layout: Layout
) -> None:
    """Killed between the store's commit and Kafka's, and started where Kafka's offsets say: the whole store is as
    it is without the kill. Without the stored offset it is not: the negative control, in one of the layouts."""
    # In the packed layout the bytes show how records were cut into transactions: so each has its own.
    options = {"MATYAN_SEQUENCE_LAYOUT": layout, "MATYAN_INSTANCE_ID": "one"}
    promises = ["none", "redelivered"]
    if layout == "packed":
        options["INGEST_MAX_MESSAGES_PER_TXN"] = "1"
    else:
        promises.append("redelivered-without-stored-offset")
    stores = {promise: tmp_path / promise for promise in promises}
    async with open_load(deployment.settings, deployment.topic, runs=3) as load:
        await load.frames(10)
    for promise, store in stores.items():
        deployment.use_group(f"group-{promise}-{deployment.topic}")
        if promise != "none":
            with deployment.worker("dies-after-the-commit", store=store, **options) as process:
                killed = await trio.to_thread.run_sync(process.process.wait, 240)
                assert killed == -signal.SIGKILL
        await deployment.work_off(promise, store=store, **options)
    whole, twice, *controls = [await dump(store) for store in stores.values()]
    assert len(whole) > 100
    assert twice == whole
    assert all(control != whole for control in controls)


# --- run_deleted ----------------------------------------------------------------------------------


async def test_run_deleted_is_repeated_by_a_crash_and_not_lost(deployment: Deployment) -> None:
    """Killed between the event and the transaction that deletes: the next worker announces again, and deletes."""
    control = f"{deployment.topic}-control"

    def announced() -> list[object]:
        events = read_topic(deployment.broker, control)
        return [json.loads(event.value() or b"")["payload"] for event in events]

    async with open_load(deployment.settings, deployment.topic) as load:
        load.send("gone", [metric("loss", 1.0, None, "gone"), record("delete_run", "gone")])
        await load.frames(2)
    with deployment.worker("dies-after-announcing", MATYAN_INSTANCE_ID="one") as process:
        assert await trio.to_thread.run_sync(process.process.wait, 240) == -signal.SIGKILL
    assert announced() == [{"run_id": "gone"}]
    await deployment.work_off(MATYAN_INSTANCE_ID="one")
    assert announced() == [{"run_id": "gone"}] * 2
    assert await deployment.faults(load) == []
    store = open_rocks(deployment.folder / DATABASE)
    keys = Keys(store)
    found = await store.read(
        lambda snap: (exists(RunRows(snap, keys, "gone")), is_deleted(RunRows(snap, keys, "gone")))
    )
    await store.aclose()
    assert found == (False, True)


# --- the whole service ----------------------------------------------------------------------------


async def test_sigterm_under_load_leaves_kafka_at_what_is_stored(deployment: Deployment) -> None:
    """Exit code 0 within the drain's time; the committed offsets are the stored ones, and all comes later."""
    async with open_load(deployment.settings, deployment.topic) as load:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, 0.01)
            with deployment.worker(SHUTDOWN_FLUSH_TIMEOUT="20") as process:
                # In the midst of a rebalance Kafka would refuse the last commits.
                await until_ended_or(process, lambda: deployment.owned() == PARTITIONS)
                await until_ended_or(process, lambda: sum(deployment.committed().values()) > 500)
                began = time.monotonic()
                assert await trio.to_thread.run_sync(process.stop) == 0
                assert time.monotonic() - began < 20
            nursery.cancel_scope.cancel()
        await load.settle()
        topic_id = str(describe_topic(deployment.group.admin, deployment.topic).topic_id)
        store = open_rocks(deployment.folder / DATABASE)
        stored = await stored_offsets(store, topic_id)
        await store.aclose()
        assert stored == {n: done for n, (done, _) in deployment.places().items() if done}
        assert sum(stored.values()) < load.records, "it was not under load"
        await deployment.work_off()
        assert await deployment.faults(load) == []


async def test_an_offset_of_another_program_names_the_command_that_mends_it(
    deployment: Deployment,
) -> None:
    """One sentence for an offset committed beyond the stored one, and for a stored one beyond the topic's end; the other
    partitions go on meanwhile; `matyan offsets reset` as it says, and everything is stored once."""
    deployment.use_group("ingestion-workers")  # that of the command `offsets`

    def commit(offset: int) -> None:
        admin = AdminClient({"bootstrap.servers": deployment.broker.bootstrap})
        tps = [TopicPartition(deployment.topic, busy_ones[0], offset)]
        place = ConsumerGroupTopicPartitions(deployment.group.name, tps)
        for soon in admin.alter_consumer_group_offsets([place]).values():
            soon.result(10)

    async def store_beyond_the_end() -> None:
        topic_id = str(describe_topic(deployment.group.admin, deployment.topic).topic_id)
        end = deployment.places()[busy_ones[0]][1]
        store = open_rocks(deployment.folder / DATABASE)
        key = Keys(store).ingest(topic_id, busy_ones[0])
        await store.transact(lambda tr: tr.set(key, pack_value(end + 5)))
        await store.aclose()

    def reset(said: str, to: str) -> None:
        """Copies the command out of the worker's sentence."""
        found = re.search(rf"`matyan (offsets reset [^`]* --to {to})`", said)
        assert found is not None, said
        words = [*shlex.split(found[1]), "--yes"]
        env = environment(**deployment.environment({}))

        def is_done() -> bool:
            done = subprocess.run([*MATYAN, *words], env=env, capture_output=True, text=True)
            # A worker that ended in the midst of a rebalance may have left a member behind, for its session.
            assert done.returncode == 0 or "has members" in done.stderr, done.stderr
            return done.returncode == 0

        wait_for(is_done)

    def others_are_through() -> bool:
        return all(
            done >= end for n, (done, end) in deployment.places().items() if n != busy_ones[0]
        )

    async def said_by_a_worker() -> str:
        """What it says of a partition that stands still, when it has caught up with all the others."""
        with deployment.worker(command=PLAIN) as process:

            def said() -> list[str]:
                return [line for line in process.output if "stands still" in line]

            # A member that was killed in the midst of a rebalance holds it up for its session's 45 s.
            await until(lambda: said() and others_are_through(), 240)
            assert await trio.to_thread.run_sync(process.stop) == 0
        reason: str = json.loads(said()[0])["reason"]
        return reason

    async with open_load(deployment.settings, deployment.topic) as load:
        await load.frames(5)
        busy_ones = [n for n, (_, end) in deployment.places().items() if end]
        await deployment.work_off()
        await load.frames(5)
        commit(deployment.places()[busy_ones[0]][1])
        said = await said_by_a_worker()
        assert "another program" in said
        reset(said, "stored")
        await deployment.work_off()
        await store_beyond_the_end()
        said = await said_by_a_worker()
        assert "is beyond the topic's end" in said
        reset(said, "end")
        await load.frames(1)
        await deployment.work_off()
        assert await deployment.faults(load) == []


# --- a full disk ----------------------------------------------------------------------------------


def fill(ballast: Path) -> None:
    """Writes to the file until its disk is full."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4_096))


async def test_a_full_disk_is_waited_for(deployment: Deployment, small_disk: Path) -> None:
    """The worker stays in its group while nothing can be written, and stores everything once there is room."""
    deployment.folder = small_disk / "store"
    ballast = small_disk / "ballast"
    session = dict.fromkeys(("session.timeout.ms", "max.poll.interval.ms"), 6_000)
    session["heartbeat.interval.ms"] = 500
    async with open_load(deployment.settings, deployment.topic) as load:
        with deployment.worker(consumer=session) as process:
            await load.frames(2)
            await until_ended_or(process, deployment.is_through)
            # The first member may have stored all of that before the second one came.
            await until_ended_or(process, deployment.is_settled, deployment.stand)
            members = deployment.members()
            fill(ballast)
            await load.frames(100)
            await trio.sleep(8)  # longer than its session
            assert not deployment.is_through(), "the disk was not full"
            assert deployment.members() == members
            ballast.unlink()
            await until_ended_or(process, deployment.is_through)
            assert await trio.to_thread.run_sync(process.stop) == 0
        assert await deployment.faults(load) == []
