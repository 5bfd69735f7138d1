"""How many runs an experiment or a tag has, where several owners write one store and the reference's API server writes, too."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import decode_records
from matyan.keys import Keys, pack_value, unpack_value
from matyan.rules import counts, runs
from matyan.rules.records import Rules, pay
from matyan.rules.sequences import Sequences
from matyan.store.base import Transaction
from matyan.workers.ingest import IngestWorker
from tests.ledger import Ledger, metric, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.memory_store import Faults, MemoryStore
from tests.rules.test_entities import FAMILIES, id_of, join
from tests.until import until


class SharedStore(MemoryStore):
    is_shared = True


def shared_ledger(faults: Faults | None = None) -> Ledger:
    ledger = Ledger("compatible")
    ledger.store = SharedStore(faults)
    ledger.keys = Keys(ledger.store)
    ledger.rules = ledger.make_rules()
    return ledger


def fold(ledger: Ledger) -> None:
    while ledger.store.commit(lambda tr: counts.fold(tr, ledger.keys)):
        pass


@pytest.mark.parametrize(("is_shared", "conflicts"), [(True, 0), (False, 15)])
@pytest.mark.parametrize("family", FAMILIES)
async def test_owners_who_add_the_same_one_do_not_meet(
    family: str, is_shared: bool, conflicts: int
) -> None:
    """Six transactions side by side, each of its own run: where the store is shared none of them runs again."""
    store = SharedStore() if is_shared else MemoryStore()
    keys = Keys(store)
    first = Rules(keys, Sequences(keys, "compatible"))

    def applying(rules: Rules, run: str) -> Any:
        def body(tr: Transaction) -> Generator[None, None, None]:
            unit = rules.begin(tr, f"T/{run}")
            for op in decode_records([join(family, run, "shared")]):
                yield from unit.applying(op)
                yield
            yield from unit.ending()

        return body

    await store.transact_in_turns(applying(first, "first"))
    before = store.conflicts
    async with trio.open_nursery() as nursery:
        for number in range(6):
            rules = Rules(keys, Sequences(keys, "compatible"))
            nursery.start_soon(store.transact_in_turns, applying(rules, f"run{number}"))
    assert store.conflicts - before == conflicts
    while store.commit(lambda tr: counts.fold(tr, keys)):
        pass
    ledger = Ledger("compatible")
    ledger.store, ledger.keys = store, keys
    assert ledger.counts(family) == {"shared": 7}
    assert ledger.system("counts_owed") == {}


def test_what_is_owed_to_one_that_is_gone_is_forgotten() -> None:
    """And what stands there and is no debt, goes."""
    ledger = shared_ledger()
    ledger.apply(join("tags", "r", "x"))
    uuid = id_of(ledger, "tags", "x")
    assert ledger.system("counts_owed") == {("counts_owed", "r", "tags", uuid): 1}

    def gone(tr: Any) -> None:
        tr.clear_range(ledger.keys.tag(uuid or ""), ledger.keys.tag(uuid or "") + b"\xff")
        tr.set(ledger.keys.owed_count("r", "tags", "other", "more"), pack_value(1))
        tr.set(ledger.keys.owed_count("r", "tags", "text"), pack_value("x"))
        tr.set(ledger.keys.owed_count("r") + b"\xff", b"\xc1")

    ledger.store.commit(gone)
    fold(ledger)
    assert not [key for key in ledger.store.rows if key.startswith(ledger.keys.owed_count())]
    assert ledger.system("tags") == {}


def test_many_debts_are_paid_in_several_transactions() -> None:
    ledger = shared_ledger()
    ledger.apply(*(join("tags", f"r{n}", "x") for n in range(1_200)))
    assert ledger.store.commit(lambda tr: counts.fold(tr, ledger.keys))
    assert ledger.counts("tags") == {"x": 500}
    fold(ledger)
    assert ledger.counts("tags") == {"x": 1_200}


run_ids, names = st.sampled_from("rst"), st.sampled_from("xy")
STEPS = st.one_of(
    st.tuples(st.just("join"), run_ids, names),
    st.tuples(st.just("leave"), run_ids, names),
    st.tuples(st.just("delete_run"), run_ids),
    st.tuples(st.just("api"), run_ids, names),
    st.tuples(st.just("fold")),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=25), st.none() | st.integers(0, 1 << 20))
def test_what_is_counted_and_owed_is_the_associations(steps: list[Any], seed: int | None) -> None:
    """Whenever it is folded, whatever the API adds meanwhile, and whatever bodies run again."""
    faults = None if seed is None else Faults(seed, ("again", "landed", "lost"))
    if faults is not None:
        faults.either = lambda: False  # nobody is told of an unknown outcome
    ledger = shared_ledger(faults)
    held: dict[str, set[str]] = {}
    dead: set[str] = set()

    def add_by_api(run: str, name: str, uuid: str) -> None:
        keys = ledger.keys

        def body(tr: Any) -> None:
            if tr.get(keys.tag_run(uuid, run)) is None:
                tr.set(keys.tag_of_run(run, uuid), pack_value(True))
                tr.set(keys.tag_run(uuid, run), pack_value(True))
                count = keys.tag(uuid, "run_count")
                tr.set(count, pack_value(unpack_value(tr.get(count)) + 1))

        ledger.store.commit(body)

    for what, *rest in steps:
        if what == "join":
            run, name = rest
            ledger.apply(join("tags", run, name))
            if run not in dead:
                held.setdefault(name, set()).add(run)
        elif what == "leave":
            run, name = rest
            ledger.apply(record("remove_tag", run, tag_name=name))
            if run not in dead:
                held.get(name, set()).discard(run)
        elif what == "api":
            run, name = rest
            uuid = id_of(ledger, "tags", name)
            if uuid is not None and run not in dead:
                add_by_api(run, name, uuid)
                held[name].add(run)
        elif what == "delete_run":
            ledger.apply(record("delete_run", rest[0]))
            dead.add(rest[0])
            for members in held.values():
                members.discard(rest[0])
        else:
            fold(ledger)
    fold(ledger)
    assert ledger.counts("tags") == {name: len(members) for name, members in held.items()}
    assert ledger.system("counts_owed") == {}


async def test_a_worker_pays_what_its_batches_owe(autojump_clock: Any) -> None:
    """And, as it begins, what one that was killed has left."""
    ledger = shared_ledger()
    ledger.apply(join("tags", "left", "x"))
    assert ledger.counts("tags") == {"x": 0}
    topic = Topic()
    consumer = MemoryConsumer(topic, batch=2)
    worker = IngestWorker(consumer, ledger.store, ledger.keys, ledger.make_rules, MemoryOutbox())
    async with trio.open_nursery() as nursery:
        await nursery.start(worker.run)
        await until(lambda: ledger.counts("tags") == {"x": 1})
        topic.append(*(join("tags", f"r{n}", "x") for n in range(7)))
        await until(lambda: ledger.counts("tags") == {"x": 8})
        topic.append(record("delete_run", "r3"), join("experiments", "r4", "e"))
        await until(lambda: ledger.counts("tags") == {"x": 7})
        await until(lambda: ledger.counts("experiments") == {"e": 1})
        worker.stop()
    assert ledger.system("counts_owed") == {}


def test_a_run_of_more_rows_than_a_transaction_takes_is_deleted_in_pieces() -> None:
    """At once for every reader; what is left is owed, whoever pays it, and nothing remains."""
    ledger = shared_ledger()
    for begin in range(0, 20_000, 2_000):
        ledger.apply(
            *(metric(f"metric-{n:05d}", 1.0, 0, "many") for n in range(begin, begin + 2_000))
        )
    ledger.apply(join("tags", "many", "x"), metric("loss", 1.0, 0, "other"))
    fold(ledger)
    ledger.apply(record("delete_run", "many"))
    assert ledger.store.look(lambda snap: list(runs.list_runs(snap, ledger.keys))) == ["other"]
    assert ledger.system("deletion_owed") == {("deletion_owed", "many"): True}
    payments = 0
    while ledger.store.commit(lambda tr: pay(tr, ledger.keys)):
        payments += 1
    assert payments
    left = [key for key in ledger.store.rows if b"many" in key]
    assert left == [ledger.keys.tombstone("many")]
