"""Workers that share a group, a topic and a store, on a real broker: everything is stored once and in order, whoever
joins, leaves, freezes, or is robbed of its store or its topic."""

from __future__ import annotations

import os
import random
from collections.abc import Callable

import pytest
import trio
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from prometheus_client import Counter

from dev.broker import Broker
from matyan.broker.kafka.admin import Group
from matyan.broker.kafka.consumer import consumer_config
from matyan.rules import records
from matyan.rules.rows import RunRows
from matyan.rules.runs import exists, is_deleted
from matyan.service import telemetry
from matyan.settings import Settings
from tests.broken_ingestion import IgnoresStoredOffset
from tests.kafka.crew import SESSION_S, Crew, OpenStore, open_crew, open_store
from tests.kafka.load import Load, open_load
from tests.kafka.topics import create_topic, read_topic
from tests.ledger import metric, record
from tests.until import until

__all__ = ["open_store"]

AT_LENGTH = bool(os.environ.get("MATYAN_TEST_AT_LENGTH"))

MakeTopic = Callable[..., str]


def count(counter: Counter, *labels: str) -> int:
    return int((counter.labels(*labels) if labels else counter)._value.get())


async def commits_of(crew: Crew, name: str, more: int = 1) -> None:
    """Waits until this worker has committed so often from now on."""
    door = crew.members[name].door
    goal = door.commits + more
    await until(lambda: door.commits >= goal, 60)


# --- who joins, leaves and freezes ----------------------------------------------------------------


async def test_a_second_worker_joins_and_leaves_under_load(
    settings: Settings, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """Partitions go to and fro; nothing is lost, nothing stands twice, each run's order is kept."""
    topic, chance = make_topic(6), random.Random(3)
    async with open_crew(settings, topic, open_store) as crew, open_load(settings, topic) as load:
        await crew.start("stays")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever)
            await commits_of(crew, "stays")
            for _ in range(30 if AT_LENGTH else 4):
                await crew.start("comes and goes")
                # Its own commits show that partitions have come to it.
                await commits_of(crew, "comes and goes", 3)
                await trio.sleep(chance.uniform(0, 1.5))
                await crew.stop("comes and goes")
                await commits_of(crew, "stays")
                await trio.sleep(chance.uniform(0, 0.5))
            nursery.cancel_scope.cancel()
        await load.settle()
        await crew.caught_up(load)
        assert sum((await crew.stored_offsets()).values()) == load.records


async def freeze_and_resume(crew: Crew, load: Load) -> None:
    """A worker freezes with a batch in its hands, the other one takes over its partitions, and it resumes."""
    await crew.start("other")
    await crew.start("zombie")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(load.forever)
        await commits_of(crew, "zombie", 3)
        await commits_of(crew, "other")
        await crew.freeze("zombie")
        before = await crew.numbers(load)

        async def all_got_on() -> bool:
            now = await crew.numbers(load)
            return all(len(now[run][0]) > len(before[run][0]) + 50 for run in now)

        await until(all_got_on)  # the runs of the frozen worker too: the other one has them
        crew.thaw("zombie")
        await commits_of(crew, "other", 5)
        nursery.cancel_scope.cancel()
    await load.settle()


async def test_a_zombie_cannot_write(
    settings: Settings, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """A worker that was frozen past its session comes back with a batch that is stored already: it is fenced."""
    topic = make_topic(6)
    for _ in range(5 if AT_LENGTH else 1):
        async with (
            open_crew(settings, topic, open_store) as crew,
            open_load(settings, topic) as load,
        ):
            fenced = count(telemetry.INGEST_ERRORS, "Fenced")
            await freeze_and_resume(crew, load)
            await crew.caught_up(load)
            assert count(telemetry.INGEST_ERRORS, "Fenced") > fenced
        topic = make_topic(6)


async def test_a_zombie_without_the_stored_offset_is_caught(
    settings: Settings, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """The negative control: with Kafka's offsets alone the zombie's batch is stored a second time."""
    topic = make_topic(6)
    trusting = {"offsets_are_stored": False}
    async with (
        open_crew(
            settings, topic, open_store, consumer=trusting, worker=IgnoresStoredOffset
        ) as crew,
        open_load(settings, topic) as load,
    ):
        await freeze_and_resume(crew, load)
        found: list[str] = []
        with trio.move_on_after(60):
            while not any("twice" in fault for fault in found):
                found = await crew.faults(load)
        assert any("stored twice" in fault for fault in found)


# --- what is away comes back ----------------------------------------------------------------------


async def test_a_store_that_is_away_costs_neither_records_nor_membership(
    settings: Settings, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """For longer than the group waits for a silent member: paused, polled all the while, and all is stored after."""
    topic = make_topic(6)
    async with open_crew(settings, topic, open_store) as crew, open_load(settings, topic) as load:
        member = await crew.start("only")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever)
            await commits_of(crew, "only", 3)
            left = count(telemetry.REBALANCES, "lost") + count(telemetry.REBALANCES, "revoked")
            paused = count(telemetry.PAUSED_SECONDS, topic)
            member.door.away = True
            await until(lambda: member.worker.trouble() == "the store is away")
            # Another partition's transaction may have been past the door before.
            await until(lambda: not member.door.within)
            stood = member.door.commits
            await trio.sleep((10 if AT_LENGTH else 2) * SESSION_S + 1)
            assert member.door.commits == stood
            member.door.away = False
            await commits_of(crew, "only", 3)
            nursery.cancel_scope.cancel()
        await load.settle()
        await crew.caught_up(load)
        await until(lambda: member.worker.trouble() is None)
        assert count(telemetry.PAUSED_SECONDS, topic) > paused
        assert count(telemetry.REBALANCES, "lost") + count(telemetry.REBALANCES, "revoked") == left


# --- another topic of the same name ---------------------------------------------------------------


async def create_again(broker: Broker, topic: str, away_s: float) -> None:
    """Deletes the topic; makes one of the same name so many seconds later, or as soon as the broker lets it."""
    admin = AdminClient({"bootstrap.servers": broker.bootstrap})

    def delete() -> None:
        admin.delete_topics([topic])[topic].result(10)

    await trio.to_thread.run_sync(delete)
    await trio.sleep(away_s)
    with trio.fail_after(30):
        while True:
            try:
                await trio.to_thread.run_sync(create_topic, broker, topic, 3)
            except KafkaException:
                await trio.sleep(0.05)
            else:
                return


@pytest.mark.parametrize("stopped", [False, True], ids=["running", "stopped"])
@pytest.mark.parametrize(
    ("away_s", "before", "after"),
    [(0, 20, 5), (0, 5, 40), *([(8, 20, 5), (8, 5, 40)] if AT_LENGTH else [])],
)
async def test_a_topic_that_was_created_again_is_read_from_its_beginning(
    settings: Settings,
    broker: Broker,
    make_topic: MakeTopic,
    open_store: OpenStore,
    stopped: bool,
    away_s: float,
    before: int,
    after: int,
) -> None:
    """Under its new id, whether it is shorter or longer than the old one was, on every partition."""
    topic = make_topic(3)
    async with open_crew(settings, topic, open_store) as crew:
        await crew.start("only")
        async with open_load(settings, topic) as load:
            await load.frames(before)
            await crew.caught_up(load)
        old, offsets = crew.topic_id(), await crew.stored_offsets()
        if stopped:
            await crew.stop("only")
        await create_again(broker, topic, away_s)
        async with open_load(settings, topic) as more:
            more.goes_on(load)
            await more.frames(after)
            if stopped:
                await crew.start("only")
            await crew.caught_up(more)
            assert await crew.stored_offsets(old) == offsets
            assert sum((await crew.stored_offsets()).values()) == more.records - load.records


async def test_each_partition_of_a_topic_that_was_created_again_is_renewed(
    settings: Settings, broker: Broker, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """Also those that show no error because the new topic goes beyond the old offset, next to some that do."""
    topic = make_topic(3)
    async with open_crew(settings, topic, open_store) as crew:
        await crew.start("only")
        async with open_load(settings, topic, runs=1) as load:
            await load.frames(5)
            await crew.caught_up(load)
        await create_again(broker, topic, 0)
        async with open_load(settings, topic) as more:
            more.goes_on(load)
            await more.frames(5)
            await crew.caught_up(more)
            assert sum((await crew.stored_offsets()).values()) == more.records - load.records


# --- what can never be applied --------------------------------------------------------------------


async def test_a_poison_record_goes_to_the_dead_letters_alone_and_is_replayed(
    settings: Settings,
    broker: Broker,
    make_topic: MakeTopic,
    open_store: OpenStore,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One among 10,000 that this version cannot apply: the others are stored once, and it too, by the next version."""
    topic = make_topic(1)
    create_topic(broker, f"{topic}-dlq")
    poison = record("add_tag", "run-0", tag_name="seen")
    rule = records.KINDS["add_tag"]
    monkeypatch.delitem(records.KINDS, "add_tag")
    async with open_crew(settings, topic, open_store) as crew, open_load(settings, topic) as load:
        await load.frames(62)
        load.send("run-0", [poison])
        await load.frames(63)
        assert load.records == 10_000
        await crew.start("only")
        await crew.caught_up(load)
        await until(lambda: read_topic(broker, f"{topic}-dlq"))
        (letter,) = read_topic(broker, f"{topic}-dlq")
        assert (letter.key(), letter.value()) == (b"run-0", poison)
        headers = dict(letter.headers() or [])
        offset = int(headers["offset"] or b"")
        assert 0 < offset < 10_000
        assert headers["topic"] == topic.encode()
        assert headers["error_class"] == b"InvalidRecord"
        assert b"add_tag" in (headers["error_text"] or b"")

        monkeypatch.setitem(records.KINDS, "add_tag", rule)
        load.send((letter.key() or b"").decode(), [letter.value() or b""])
        await load.settle()

        async def is_through() -> bool:
            return await crew.stored_offsets() == {0: 10_002}

        await until(is_through)
        assert await crew.faults(load) == []
        tags = await crew.store.read(
            lambda snap: list(snap.scan(*crew.keys_of_tags("run-0"), limit=2))
        )
        assert len(tags) == 1
        assert len(read_topic(broker, f"{topic}-dlq")) == 1


# --- deletions ------------------------------------------------------------------------------------


async def test_a_deletion_keeps_its_place_among_the_points_of_a_batch(
    settings: Settings, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """What stands before it is applied and deleted, what stands after it is dropped."""
    topic = make_topic(1)
    async with open_crew(settings, topic, open_store) as crew, open_load(settings, topic) as load:
        points = [metric("loss", float(n), None, "gone") for n in range(70)]
        load.send("gone", [*points[:30], record("delete_run", "gone"), *points[30:]])
        await load.frames(1)
        processed = telemetry.INGEST_PROCESSED.counts()
        applied = processed.get("log_metric", 0)
        dropped = count(telemetry.SKIPPED, "tombstone")
        await crew.start("only")
        await crew.caught_up(load)
        others = sum(len(points) for points, _ in load.produced.values())
        assert processed["log_metric"] - applied == 30 + others
        assert count(telemetry.SKIPPED, "tombstone") - dropped == 40

        def look(snap: object) -> tuple[bool, bool]:
            rows = RunRows(snap, crew.keys, "gone")
            return (exists(rows), is_deleted(rows))

        assert await crew.store.read(look) == (False, True)


# --- offsets in Kafka -----------------------------------------------------------------------------


async def test_an_idle_worker_has_committed_what_it_stored(
    settings: Settings, make_topic: MakeTopic, open_store: OpenStore
) -> None:
    """What Kafka shows for lag displays comes to be what is stored, also where a rebalance refused the commit."""
    topic = make_topic(3)
    group = Group(consumer_config(settings, "none"), f"group-{topic}")
    async with open_crew(settings, topic, open_store) as crew, open_load(settings, topic) as load:
        await load.frames(5)
        await crew.start("first")
        await commits_of(crew, "first")
        await crew.start("second")
        await crew.caught_up(load)
        stored = await crew.stored_offsets()

        def shown() -> dict[int, int | None]:
            places = group.places(topic, stored)
            return {number: place.committed for number, place in places.items()}

        await until(lambda: shown() == stored, 60)
