"""Records of a deleted run: dropped, and whoever can be told so is told."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
import trio

from matyan.broker.local import LocalBroker
from matyan.errors import NotFound
from matyan.keys import Keys, unpack_value
from matyan.rules.records import Rules
from matyan.rules.sequences import Sequences
from matyan.store.rocks import RocksStore, open_rocks
from matyan.workers.dropped import REPEAT_S, DroppedLog
from matyan.workers.ingest import IngestWorker
from tests.ledger import metric, record
from tests.memory_broker import MemoryConsumer
from tests.until import until
from tests.workers.test_ingest import Scene

pytestmark = pytest.mark.usefixtures("bodies")


@pytest.fixture
async def store(tmp_path) -> AsyncIterator[RocksStore]:
    opened = open_rocks(tmp_path / "store")
    yield opened
    await opened.aclose()


def of(run: str, *values: bytes) -> list[bytes]:
    """These records as another run's."""
    return [json.dumps({**json.loads(value), "run_id": run}).encode() for value in values]


async def test_a_frame_of_a_deleted_run_is_answered_with_an_error(store: RocksStore) -> None:
    """In one batch with its deletion: what came before was stored, what came after was not; others notice nothing."""
    keys = Keys(store)
    broker = LocalBroker(keys, 1 << 20)
    producer = broker.producer()
    worker = IngestWorker(
        broker.ingest_consumer(),
        store,
        keys,
        lambda: Rules(keys, Sequences(keys, "packed")),
        broker.outbox(),
    )
    answers: dict[str, Exception | None] = {}
    point = metric("m", 1.0, 0)
    tag = record("add_tag", tag_name="t")

    def send(name: str, run: str, *values: bytes) -> None:
        def done(error: Exception | None) -> None:
            assert name not in answers
            answers[name] = error

        producer.produce(run.encode(), of(run, *values), done)

    async def settled(*names: str) -> None:
        await until(lambda: answers.keys() >= {*names})

    send("before", "a", point, tag)
    send("delete", "a", record("delete_run"))
    send("after", "a", tag, point, point)
    send("other", "b", point)
    send("delete again", "a", record("delete_run"))
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await settled("before", "delete", "after", "other")
        send("later", "a", point)
        send("other later", "b", point)
        await settled("later", "other later")
        worker.stop()
    refused = {name for name, error in answers.items() if isinstance(error, NotFound)}
    assert refused - {"delete again"} == {"after", "later"}
    assert "a" in str(answers["after"])
    dropped = await store.read(lambda snap: snap.get(keys.dropped("local", 0)))
    assert unpack_value(dropped) == 4


async def test_what_was_dropped_is_counted_once() -> None:
    """Whatever became of the answers of the store, and though the topic was read twice."""
    scene = Scene(
        metric("m", 1.0, 0), record("delete_run"), *(metric("m", 1.0, i) for i in range(7))
    )
    scene.engine.lose_answers = 2
    consumer = await scene.work()
    assert consumer.held.acknowledged[-1] == 9
    await scene.work(MemoryConsumer(scene.log, deliver_from=0))
    packed = scene.ledger.store.rows[scene.ledger.keys.dropped("T", 0)]
    assert unpack_value(packed) == 7


def test_a_run_is_named_once_a_minute() -> None:
    """With all that was dropped since it was named last."""
    said: list[tuple[str, int]] = []

    class Log:
        def warning(self, event: str, *, run: str, records: int) -> None:
            said.append((run, records))

    log = DroppedLog(Log())
    for second in range(130):
        log.tell("a", 10, float(second))
    log.tell("b", 1, 130.0)
    assert said == [("a", 10), ("a", 10 * REPEAT_S), ("a", 10 * REPEAT_S), ("b", 1)]
    for i in range(5_000):
        log.tell(f"r{i}", 1, 131.0)
    assert len(log._due) <= 1_000
