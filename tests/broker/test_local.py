"""What only the broker in the process promises: acknowledgement by commit, events and letters in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from matyan import __version__
from matyan.broker.base import ControlEvent, DeadLetter, Partition, Producer
from matyan.broker.local import (
    BATCH_BYTES,
    GATHER_BYTES,
    GATHER_S,
    LocalBroker,
    dead_letter,
    dead_letters,
)
from matyan.errors import ConfigurationError, InvalidRecord
from matyan.keys import Keys
from matyan.store.base import Store, Transaction
from matyan.store.rocks import RocksStore, open_rocks
from tests.contracts.test_broker import Delivery, own, take, values


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[RocksStore]:
    opened = open_rocks(tmp_path / "store")
    yield opened
    await opened.aclose()


@pytest.fixture
def broker(store: RocksStore) -> LocalBroker:
    return LocalBroker(Keys(store), 1_000_000)


def produce(producer: Producer, *frames: int) -> list[Delivery]:
    """Frames of so many records each; record i of the lot is the text of i."""
    deliveries, number = [], 0
    for records in frames:
        deliveries.append(Delivery())
        producer.produce(
            b"run", [b"%d" % i for i in range(number, number + records)], deliveries[-1]
        )
        number += records
    return deliveries


def done(deliveries: list[Delivery]) -> list[bool]:
    assert all(delivery.results in ([], [None]) for delivery in deliveries)
    return [bool(delivery.results) for delivery in deliveries]


# --- the ingest log ------------------------------------------------------------------------------


async def test_a_frame_is_acknowledged_when_its_last_record_is_committed(
    broker: LocalBroker,
) -> None:
    """Not when it is given out and not when a part of it is committed."""
    deliveries = produce(broker.producer(), 2, 3, 1)
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(100)
        (batch,) = await take(partition, 6)
        assert list(batch.offsets) == list(range(100, 106))
        assert done(deliveries) == [False, False, False]
        for offset, acknowledged in [(101, 0), (102, 1), (104, 1), (105, 2), (106, 3)]:
            partition.committed(offset)
            assert sum(done(deliveries)) == acknowledged


async def test_everything_that_waits_is_one_batch_up_to_a_cap(
    broker: LocalBroker, store: RocksStore
) -> None:
    """One sync for all of it; a frame is never torn between batches."""
    producer = LocalBroker(Keys(store), 10 * BATCH_BYTES)
    for _ in range(3):
        producer.producer().produce(b"run", [b"x" * (BATCH_BYTES // 4)] * 2, Delivery())
    async with own(producer.ingest_consumer()) as partition:
        await partition.start(None)
        assert [len(batch) for batch in await take(partition, 6)] == [4, 2]


async def given_after(partition: Partition, producer: Producer, *keys: bytes) -> float:
    """Hands over a frame of each of `keys`; seconds until they are given out, all in one batch; acknowledges them."""
    before = trio.current_time()
    for key in keys:
        producer.produce(key, [b"x"], Delivery())
    batch = await anext(partition.batches())
    assert batch.keys == list(keys)
    partition.committed(batch.next_offset)
    return trio.current_time() - before


async def test_nobody_waits_but_for_those_who_were_answered_last(
    broker: LocalBroker, autojump_clock: MockClock
) -> None:
    """A lone client never waits, nor does whoever comes for the first time; who is back waits for the others a moment."""
    producer = broker.producer()
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(None)
        assert await given_after(partition, producer, b"a") == 0
        assert await given_after(partition, producer, b"a") == 0
        assert await given_after(partition, producer, b"b", b"c") == 0
        assert await given_after(partition, producer, b"b", b"c") == 0
        assert await given_after(partition, producer, b"b") == pytest.approx(GATHER_S)
        assert await given_after(partition, producer, b"b", b"c") == 0
        assert await given_after(partition, producer, b"d") == 0
        await given_after(partition, producer, b"b", b"c")
        await trio.sleep(1)
        assert await given_after(partition, producer, b"b") == 0


@pytest.mark.parametrize(
    ("key", "last"), [(b"b", b"x"), (b"new", b"x"), (b"a", b"x" * GATHER_BYTES)]
)
async def test_a_batch_is_due_with_the_last_of_them(
    broker: LocalBroker, autojump_clock: MockClock, key: bytes, last: bytes
) -> None:
    """Or with somebody else, or with enough to fill it."""
    producer = broker.producer()
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(None)
        await given_after(partition, producer, b"a", b"b")
        began = trio.current_time()
        producer.produce(b"a", [b"x"], Delivery())
        with trio.move_on_after(GATHER_S / 2) as early:
            await anext(partition.batches())
        assert early.cancelled_caught
        producer.produce(key, [last], Delivery())
        batch = await anext(partition.batches())
        assert batch.keys == [b"a", key]
        assert trio.current_time() == pytest.approx(began + GATHER_S / 2)


async def test_a_reader_rests_while_others_are_being_committed(
    broker: LocalBroker, autojump_clock: MockClock
) -> None:
    """Until they are, and not for long; not after somebody who was just answered, since the others come too."""
    producer = broker.producer()

    async def rested() -> float:
        before = trio.current_time()
        await producer.coalesce()
        return trio.current_time() - before

    async with own(broker.ingest_consumer()) as partition, trio.open_nursery() as nursery:
        await partition.start(None)
        producer.produce(b"a", [b"x"], Delivery())
        assert await rested() == 0
        batch = await anext(partition.batches())
        producer.produce(b"b", [b"x"], Delivery())
        assert await rested() == pytest.approx(GATHER_S), "the store is slow"
        producer.produce(b"c", [b"x"], Delivery())

        @nursery.start_soon
        async def commit() -> None:
            await trio.sleep(GATHER_S / 2)
            partition.committed(batch.next_offset)

        assert await rested() == pytest.approx(GATHER_S / 2)
        producer.produce(b"a", [b"x"], Delivery())
        await anext(partition.batches())
        assert await rested() == 0


async def test_a_frame_beyond_the_budget_passes_alone(store: RocksStore) -> None:
    """A budget below the size of a frame would stop it for ever."""
    broker = LocalBroker(Keys(store), 10)
    broker.producer().produce(b"run", [b"x" * 20], Delivery())
    assert broker.producer().queued_bytes == 20


async def test_a_crash_between_commit_and_acknowledgement_is_mended_at_the_start(
    broker: LocalBroker,
) -> None:
    """What the store has is acknowledged without being given out again; the rest comes again, from the middle of a frame too."""
    deliveries = produce(broker.producer(), 2, 3, 2)
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(10)
        await take(partition, 7)
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(13)
        assert done(deliveries) == [True, False, False]
        (batch,) = await take(partition, 4)
        assert list(batch.offsets) == [13, 14, 15, 16]
        assert batch.values == [b"3", b"4", b"5", b"6"]
        partition.committed(17)
    assert done(deliveries) == [True, True, True]


@pytest.mark.parametrize("stored", [9, 13])
async def test_a_store_that_jumped_is_an_error_and_not_silence(
    broker: LocalBroker, stored: int
) -> None:
    """A stored offset that this process cannot have written means that the folder was exchanged."""
    produce(broker.producer(), 2)
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(10)
        await take(partition, 2)
        partition.committed(12)
    async with own(broker.ingest_consumer()) as partition:
        with pytest.raises(ConfigurationError):
            await partition.start(stored)


async def test_a_callback_may_produce(broker: LocalBroker) -> None:
    """A held-back frame is handed over from within the acknowledgement of another."""
    producer, second = broker.producer(), Delivery()

    def chain(error: Exception | None) -> None:
        producer.produce(b"run", [b"chained"], second)

    producer.produce(b"run", [b"first"], chain)
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(None)
        await take(partition, 1)
        partition.committed(1)
        assert values(await take(partition, 1)) == [b"chained"]
        assert not second.results
        partition.committed(2)
    assert second.results == [None]


async def test_flush_counts_what_is_left(
    broker: LocalBroker, autojump_clock: trio.testing.MockClock
) -> None:
    """Records, not frames; given out but not committed counts as left."""
    produce(broker.producer(), 2, 3)
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(None)
        await take(partition, 5)
        partition.committed(2)
        assert await broker.producer().flush(trio.current_time() + 1) == 3


# --- control events ------------------------------------------------------------------------------


def event(name: str) -> ControlEvent:
    return ControlEvent("run_deleted", 1_700_000_000.25, {"run_id": name})


async def emit(broker: LocalBroker, store: Store, *events: ControlEvent) -> None:
    outbox = broker.outbox()
    await outbox.before(events, [])
    await store.transact(lambda tr: outbox.within(tr, events, []))


@asynccontextmanager
async def control(broker: LocalBroker, store: Store) -> AsyncIterator[Partition]:
    async with own(broker.control_consumer(store)) as partition:
        await partition.start(None)
        yield partition


def names(values: list[bytes]) -> list[object]:
    return [ControlEvent.from_bytes(value).payload["run_id"] for value in values]


async def test_events_come_in_order_and_wake_who_waits(
    broker: LocalBroker, store: RocksStore
) -> None:
    """Also when they are emitted after the consumer fell asleep."""
    async with control(broker, store) as partition, trio.open_nursery() as nursery:

        async def later() -> None:
            await trio.testing.wait_all_tasks_blocked()
            await emit(broker, store, event("a"), event("b"))
            await emit(broker, store, event("c"))

        nursery.start_soon(later)
        batches = partition.batches()
        seen: list[bytes] = []
        with trio.fail_after(60):
            while len(seen) < 3:
                batch = await anext(batches)
                seen += batch.values
                partition.committed(batch.next_offset)
    assert names(seen) == ["a", "b", "c"]


async def test_handled_events_are_gone_and_others_come_again(
    broker: LocalBroker, store: RocksStore
) -> None:
    """After a restart of the program the ones that were not committed are delivered again."""
    await emit(broker, store, *map(event, "abcd"))
    async with control(broker, store) as partition:
        (batch,) = await take(partition, 4)
        partition.committed(batch.offsets[1] + 1)
    restarted = LocalBroker(Keys(store), 1_000)
    async with control(restarted, store) as partition:
        (batch,) = await take(partition, 2)
        assert names([*batch.values]) == ["c", "d"]
        partition.committed(batch.next_offset)
    # Numbers begin at 0 again when none stands.
    await emit(restarted, store, event("e"))
    async with control(restarted, store) as partition:
        assert names(values(await take(partition, 1))) == ["e"]


async def test_uncommitted_events_are_not_given_out_twice_to_one_owner(
    broker: LocalBroker, store: RocksStore
) -> None:
    """An owner that asks for more before it has committed gets the ones after."""
    async with control(broker, store) as partition:
        batches = partition.batches()
        await emit(broker, store, event("a"))
        first = await anext(batches)
        await emit(broker, store, event("b"))
        second = await anext(batches)
        assert names([*first.values, *second.values]) == ["a", "b"]
        partition.committed(second.next_offset)


async def test_the_consumer_waits_while_the_store_is_away(
    broker: LocalBroker, store: RocksStore, autojump_clock: trio.testing.MockClock
) -> None:
    """As Kafka's goes on polling: its owner hears of trouble by its own transactions only."""
    async with control(broker, store) as partition:
        await store.aclose()
        with trio.move_on_after(60) as scope:
            await anext(partition.batches())
        assert scope.cancelled_caught


async def test_a_rolled_back_transaction_emits_nothing(
    broker: LocalBroker, store: RocksStore
) -> None:
    """Events and letters are written by the transaction that causes them, or not at all."""
    outbox = broker.outbox()

    def body(tr: Transaction) -> None:
        outbox.within(tr, [event("a")], [letter(1)])
        raise KeyError

    with pytest.raises(KeyError):
        await store.transact(body)
    keys = Keys(store)
    assert await store.read(lambda snap: list(dead_letters(snap, keys))) == []
    async with control(broker, store) as partition:
        with trio.move_on_after(0.05) as scope:
            await take(partition, 1)
        assert scope.cancelled_caught


def test_an_event_is_the_record_of_the_contract() -> None:
    """JSON with type, timestamp and payload, and back; the timestamp may lack its offset."""
    text = (
        b'{"type":"run_deleted","timestamp":"2023-11-14T22:13:20.250000Z","payload":{"run_id":"a"}}'
    )
    assert event("a").to_bytes() == text
    assert ControlEvent.from_bytes(text) == event("a")
    assert ControlEvent.from_bytes(text.replace(b"Z", b"")) == event("a")


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b"1",
        b'{"type":1,"timestamp":"2023-11-14T22:13:20Z","payload":{}}',
    ]
    + [b'{"type":"a","timestamp":%s,"payload":{}}' % t for t in (b"1", b'"x"', b"null")]
    + [b'{"type":"a","timestamp":"2023-11-14T22:13:20Z","payload":[]}', b"[" * 100_000],
)
def test_what_is_no_event_can_never_be_handled(value: bytes) -> None:
    """It is a dead letter, not a crash."""
    with pytest.raises(InvalidRecord):
        ControlEvent.from_bytes(value)


# --- dead letters --------------------------------------------------------------------------------


def letter(offset: int, key: bytes | None = b"run") -> DeadLetter:
    return DeadLetter("data-ingestion", 0, offset, key, b"\x00\xffvalue", "InvalidRecord", "no: é")


async def test_dead_letters_keep_everything_and_can_be_listed_and_read(
    broker: LocalBroker, store: RocksStore
) -> None:
    """The original bytes and key and the contract's header fields; numbers ascend."""
    outbox, keys = broker.outbox(), Keys(store)
    letters = [letter(7), letter(8, None), letter(9)]
    await store.transact(lambda tr: outbox.within(tr, [], letters[:2]))
    await store.transact(lambda tr: outbox.within(tr, [], letters[2:]))
    standing = await store.read(lambda snap: list(dead_letters(snap, keys)))
    assert [(s.id, s.letter) for s in standing] == list(enumerate(letters))
    assert {s.version for s in standing} == {__version__}
    assert await store.read(lambda snap: dead_letter(snap, keys, 1)) == standing[1]
    assert await store.read(lambda snap: dead_letter(snap, keys, 3)) is None


async def test_the_transaction_that_settles_a_letter_sent_again_settles_the_letter(
    broker: LocalBroker, store: RocksStore
) -> None:
    """Applied: it is gone. Dead again: it keeps its number, beside new letters. Rolled back: it stands as it was."""
    outbox, keys = broker.outbox(), Keys(store)
    old = [letter(7), letter(8), letter(9)]
    await store.transact(lambda tr: outbox.within(tr, [], old))
    deliveries = [Delivery(), Delivery()]
    async with own(broker.ingest_consumer()) as partition:
        await partition.start(100)
        produce(broker.producer(), 2)
        sent = [
            broker.redeliver(number, old[number], done_)
            for number, done_ in zip((1, 2), deliveries, strict=True)
        ]
        assert broker.is_redelivered(1)
        await take(partition, 4)
        with pytest.raises(KeyError):
            await store.transact(lambda tr: (outbox.within(tr, [], [], range(100, 104)), {}[0]))
        assert len(await store.read(lambda snap: list(dead_letters(snap, keys)))) == 3
        # Record 101 dies for the first time, 102 is letter 1 and is applied, 103 is letter 2 and dies again.
        dying = [letter(101), letter(103)]
        await store.transact(lambda tr: outbox.within(tr, [], dying, range(100, 104)))
        partition.committed(104)
    assert [one.died for one in sent] == [False, True]
    assert done(deliveries) == [True, True]
    assert not broker.is_redelivered(1)
    standing = await store.read(lambda snap: list(dead_letters(snap, keys)))
    assert [(s.id, s.letter) for s in standing] == [
        (0, old[0]),
        (2, letter(103)),
        (3, letter(101)),
    ]
