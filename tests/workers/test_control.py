"""What the control worker promises: every event has its effect, whatever is away; what can never work is given up."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from matyan.blobs.base import Upload
from matyan.blobs.folder import FolderBlobs
from matyan.broker.base import ControlEvent, DeadLetter
from matyan.broker.local import LocalBroker, dead_letters
from matyan.errors import Unavailable
from matyan.keys import Keys, range_of
from matyan.rules import entities
from matyan.rules.entities import TAGS
from matyan.rules.rows import RunRows
from matyan.service import telemetry
from matyan.store.base import FolderStore, Snapshot, Transaction
from matyan.store.rocks import open_rocks
from matyan.workers.control import REACTIONS, ControlWorker
from matyan.workers.parting import part
from tests.memory_broker import MemoryConsumer, Topic
from tests.rules.test_any_record import TIMES, Fuzzer
from tests.until import until


def event(kind: str, **payload: object) -> bytes:
    return json.dumps(
        {"type": kind, "timestamp": "2026-01-02T03:04:05Z", "payload": payload}
    ).encode()


class Shelf:
    """The folder's blobs, which can be away."""

    def __init__(self, root: Path) -> None:
        self.folder = FolderBlobs(root, b"secret", 60)
        self.away = False
        self.bugs = 0
        self.asked = 0

    async def presign_put(
        self, run: str, path: str, content_type: str, base_url: str, token: str = ""
    ) -> Upload:
        raise NotImplementedError

    async def delete(self, keys: Sequence[str]) -> int:
        self._ask()
        return await self.folder.delete(keys)

    async def delete_run(self, run: str) -> int:
        self._ask()
        return await self.folder.delete_run(run)

    def _ask(self) -> None:
        self.asked += 1
        if self.away:
            raise Unavailable("the blobs are away")
        if self.bugs:
            self.bugs -= 1
            raise KeyError("ours")

    async def put(self, run: str, *paths: str) -> None:
        async def chunks() -> AsyncIterator[bytes]:
            yield b"bytes"

        for path in paths:
            await self.folder.receive(run, path, "text/plain", chunks(), 100)

    async def paths(self, run: str) -> list[str]:
        return [blob.path for blob in await self.folder.list(run)]


class Scene:
    def __init__(self, root: Path, *events: bytes) -> None:
        self.log = Topic(*events)
        self.log.topic = "control-events"
        self.shelf = Shelf(root)
        self.buried: list[DeadLetter] = []
        self.refuses = 0
        self.consumer = MemoryConsumer(self.log)
        self.parted: list[tuple[str, str, float]] = []
        self.is_store_away = False

    async def part(self, family: str, uuid: str, now: float) -> None:
        await trio.lowlevel.checkpoint()
        if self.is_store_away:
            raise Unavailable("the store is away")
        self.parted.append((family, uuid, now))

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await trio.lowlevel.checkpoint()
        if self.refuses:
            self.refuses -= 1
            raise Unavailable("the broker is away")
        self.buried += letters

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        worker = ControlWorker(self.consumer, self.shelf, self.bury, self.part)
        async with trio.open_nursery() as nursery:
            await nursery.start(worker.run)
            yield
            worker.stop()

    async def work(self) -> None:
        """Until every event is acknowledged."""
        async with self.at_work():
            await until(lambda: self.consumer.held.acknowledged[-1:] == [len(self.log.values)])


async def test_run_deleted_removes_every_blob_of_the_run(tmp_path: Path) -> None:
    """And no other's; a repeat does nothing more."""
    scene = Scene(tmp_path, event("run_deleted", run_id="r"), event("run_deleted", run_id="r"))
    await scene.shelf.put("r", "a", "seq/b/0.png")
    await scene.shelf.put("rr", "a")
    await scene.work()
    assert await scene.shelf.paths("r") == []
    assert await scene.shelf.paths("rr") == ["a"]
    assert scene.consumer.held.acknowledged == [1, 2]
    assert scene.buried == []


async def test_run_deleted_with_keys_removes_those(tmp_path: Path) -> None:
    """An empty array names none: then all go."""
    scene = Scene(tmp_path, event("run_deleted", run_id="r", blob_keys=["r/a", "r/not there"]))
    await scene.shelf.put("r", "a", "b", "c")
    await scene.work()
    assert await scene.shelf.paths("r") == ["b", "c"]
    scene.log.append(event("run_deleted", run_id="r", blob_keys=[]))
    await scene.work()
    assert await scene.shelf.paths("r") == []


async def test_what_an_ingestion_worker_writes_is_understood(tmp_path: Path) -> None:
    scene = Scene(tmp_path, ControlEvent("run_deleted", 1.5, {"run_id": "r"}).to_bytes())
    await scene.shelf.put("r", "a")
    await scene.work()
    assert await scene.shelf.paths("r") == []


async def test_events_without_a_reaction_yet_are_counted(tmp_path: Path) -> None:
    """By their type; nothing is deleted."""
    kinds = ("run_archived", "run_unarchived")
    scene = Scene(tmp_path, *[event(kind, run_id="r") for kind in kinds])
    counter = telemetry.CONTROL_PROCESSED.labels("run_archived")
    before = counter._value.get()
    await scene.work()
    assert counter._value.get() == before + 1
    assert scene.shelf.asked == 0


async def test_runs_leave_a_deleted_experiment_or_tag(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """As of the event's time; a store that is away is waited for, and the events behind wait, too."""
    kinds = (("experiment_deleted", "experiment_id"), ("tag_deleted", "tag_id"))
    scene = Scene(tmp_path, *(event(kind, **{field: "some id"}) for kind, field in kinds))
    scene.is_store_away = True
    async with scene.at_work():
        await trio.sleep(3_600)
        assert scene.consumer.held.acknowledged == []
        scene.is_store_away = False
        await until(lambda: scene.consumer.held.acknowledged == [1, 2])
    at = ControlEvent.from_bytes(scene.log.values[0]).timestamp
    assert scene.parted == [("experiments", "some id", at), ("tags", "some id", at)]
    assert scene.buried == []


async def test_a_worker_without_the_store_goes_on(tmp_path: Path) -> None:
    """As one that was started the way it had to be before."""
    scene = Scene(tmp_path, event("tag_deleted", tag_id="t"), event("run_deleted", run_id="r"))
    await scene.shelf.put("r", "a")
    scene.part = None
    await scene.work()
    assert await scene.shelf.paths("r") == []
    assert scene.buried == []


async def test_runs_leave_in_transactions_of_a_bounded_size(tmp_path: Path) -> None:
    """An end after any of them leaves the rest to the next attempt."""
    store = open_rocks(tmp_path / "store", sync=False)
    keys = Keys(store)
    uuid = await store.transact(lambda tr: entities.make(tr, keys, TAGS, "t", 0.0, {}))

    def join(first: int, tr: Transaction) -> None:
        for number in range(first, first + 50):
            entities.add_tag(RunRows(tr, keys, f"r{number:03}"), "t", 0.0)

    for first in range(0, 250, 50):
        await store.transact(partial(join, first))

    def members(snap: Snapshot) -> int:
        return sum(1 for _ in entities.runs_of(snap, keys, TAGS, uuid))

    seen = []
    while (left := await store.read(members)) and len(seen) < 10:
        seen.append(left)
        with trio.CancelScope() as killed:
            work = Killed(store, killed)
            await part(work, keys, TAGS, uuid, 1.0)
    assert seen == [250, 150, 50]

    def rows(snap: Snapshot) -> list[bytes]:
        return [
            key for space in (keys.indexes, keys.system) for key, _ in snap.scan(*range_of(space))
        ]

    assert [key for key in await store.read(rows) if b"tag" in key or uuid.encode() in key] == []
    await store.aclose()


class Killed:
    """A store whose user dies behind its first transaction."""

    def __init__(self, store: FolderStore, killed: trio.CancelScope) -> None:
        self._store = store
        self._killed = killed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def transact_in_turns(self, body: Any) -> Any:
        done = await self._store.transact_in_turns(body)
        self._killed.cancel()
        await trio.lowlevel.checkpoint()
        return done


async def test_blobs_that_are_away_are_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Without end, paused, in the log's order: the events behind wait too."""
    scene = Scene(tmp_path, event("run_deleted", run_id="r"), event("run_archived", run_id="s"))
    scene.shelf.away = True
    async with scene.at_work():
        await trio.sleep(3_600)
        assert 700 < scene.shelf.asked < 1_500
        assert scene.consumer.held.paused
        assert scene.consumer.held.acknowledged == []
        scene.shelf.away = False
        await until(lambda: scene.consumer.held.acknowledged == [1, 2])
    assert not scene.consumer.held.paused
    assert scene.buried == []


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"{nonsense", "not a control event"),
        (b"[1]", "not a control event"),
        (b"[" * 100_000, "not a control event"),
        (event("never_heard_of"), "never_heard_of"),
        (event("run_deleted"), "run_id"),
        (event("run_deleted", run_id=""), "run_id"),
        (event("run_deleted", run_id=".."), "run_id"),
        (event("run_deleted", run_id="a/b"), "run_id"),
        (event("run_deleted", run_id=5), "run_id"),
        (event("run_deleted", run_id="r", blob_keys="r/a"), "blob_keys"),
        (event("run_deleted", run_id="r", blob_keys=["r/../s/a"]), "blob_keys"),
        (event("run_deleted", run_id="r", blob_keys=["no slash"]), "blob_keys"),
        (event("experiment_deleted"), "experiment_id"),
        (event("experiment_deleted", experiment_id=""), "experiment_id"),
        (event("tag_deleted", tag_id=5), "tag_id"),
        (event("tag_deleted", tag_id="\ud800"), "tag_id"),
        (event("tag_deleted", tag_id="x" * 513), "tag_id"),
    ],
)
async def test_what_can_never_work_goes_to_the_dead_letters_alone(
    tmp_path: Path, value: bytes, reason: str
) -> None:
    """With its bytes and place; what stands behind it is handled."""
    scene = Scene(tmp_path, value, event("run_deleted", run_id="s"))
    await scene.shelf.put("r", "a")
    await scene.shelf.put("s", "a")
    await scene.work()
    (letter,) = scene.buried
    assert (letter.topic, letter.offset, letter.value) == ("control-events", 0, value)
    assert letter.error_class == "InvalidRecord"
    assert reason in letter.error_text
    assert await scene.shelf.paths("r") == ["a"]
    assert await scene.shelf.paths("s") == []


@pytest.mark.parametrize("times", [1, 2])
async def test_an_event_that_meets_a_bug_twice_goes_to_the_dead_letters(
    tmp_path: Path, times: int
) -> None:
    """Once is tried again; what stands behind it is handled either way."""
    scene = Scene(tmp_path, event("run_deleted", run_id="r"), event("run_deleted", run_id="s"))
    await scene.shelf.put("r", "a")
    await scene.shelf.put("s", "a")
    scene.shelf.bugs = times
    await scene.work()
    assert [letter.error_class for letter in scene.buried] == ["bug"] * (times - 1)
    assert [letter.error_text for letter in scene.buried] == ["KeyError: 'ours'"] * (times - 1)
    assert await scene.shelf.paths("r") == ["a"] * (times - 1)
    assert await scene.shelf.paths("s") == []


async def test_any_event_is_handled_or_a_dead_letter(tmp_path: Path) -> None:
    """Boundary values of every type in every member, and broken bytes."""
    fuzzer = Fuzzer(7)
    dice = fuzzer.dice
    values = []
    for _ in range(400):
        body: dict[str, Any] = {
            "type": dice.choice([*REACTIONS]),
            "timestamp": dice.choice(TIMES),
            "payload": {
                "run_id": "r",
                "blob_keys": dice.choice([None, [], ["r/a"]]),
                "experiment_id": "e",
                "tag_id": "t",
            },
        }
        match dice.randrange(3):
            case 0:
                body[dice.choice([*body])] = fuzzer.anything()
            case 1:
                body["payload"][dice.choice([*body["payload"]])] = dice.choice(
                    [fuzzer.anything(), [fuzzer.anything()]]
                )
        value = json.dumps(body).encode()
        values.append(value if dice.randrange(20) else value[: dice.randrange(len(value))])
    scene = Scene(tmp_path, *values, event("run_deleted", run_id="s"))
    await scene.shelf.put("s", "a")
    await scene.work()
    assert await scene.shelf.paths("s") == []
    assert 0 < len(scene.buried) < len(values)
    assert [one.error_text for one in scene.buried if one.error_class == "bug"] == []
    for one in scene.buried:
        one.error_text.encode()


async def test_a_dead_letter_is_durable_before_its_event_is_acknowledged(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    scene = Scene(tmp_path, b"{nonsense")
    scene.refuses = 3
    async with scene.at_work():
        await until(lambda: bool(scene.consumer.held.acknowledged))
        assert len(scene.buried) == 1
    assert scene.refuses == 0


async def test_stop_leaves_what_is_not_handled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It comes again: nothing of it was acknowledged."""
    scene = Scene(tmp_path, event("run_archived"), event("run_deleted", run_id="r"))
    scene.shelf.away = True
    async with scene.at_work():
        await trio.sleep(10)
    assert scene.consumer.held.acknowledged == [1]
    assert scene.consumer.was_left


async def test_events_of_the_embedded_broker_are_handled_and_removed(tmp_path: Path) -> None:
    """From the deletion's transaction through the store to the blobs; a dead one stands among the dead letters."""
    store = open_rocks(tmp_path / "store")
    keys = Keys(store)
    broker, shelf = LocalBroker(keys, 1 << 20), Shelf(tmp_path / "blobs")
    outbox = broker.outbox()
    await shelf.put("r", "a")

    async def bury(letters: Sequence[DeadLetter]) -> None:
        await store.transact(lambda tr: outbox.within(tr, (), letters))

    def emit(tr: Transaction) -> None:
        outbox.within(
            tr, [ControlEvent("run_deleted", 0.0, {"run_id": run}) for run in ("..", "r")], ()
        )

    worker = ControlWorker(broker.control_consumer(store), shelf, bury)
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await store.transact(emit)
        with trio.fail_after(60):
            await until(lambda: shelf.asked > 0)
        worker.stop()
    assert await shelf.paths("r") == []
    begin, end = range_of(keys.control_events_prefix())
    assert await store.read(lambda snap: [*snap.scan(begin, end)]) == []
    letters = await store.read(lambda snap: [*dead_letters(snap, keys)])
    assert [standing.letter.error_class for standing in letters] == ["InvalidRecord"]
    await store.aclose()
