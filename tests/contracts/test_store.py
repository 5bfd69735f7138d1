"""What every store engine promises. An engine joins by a name in `engines` and a way to open it in `open_engine`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matyan.folder.folder import open_folder
from matyan.folder.lent import LentStore
from matyan.rules.sequences.layout import STAMPS
from matyan.store.base import KeyValue, Range, Snapshot, Store, Transaction
from matyan.store.rocks import open_rocks
from tests import fdb
from tests.memory_store import Faults, MemoryStore, Twice

ENGINES = ["rocks", "rocks, lent", "memory", "each body twice", "conflicts", *fdb.ENGINES]
engines = pytest.mark.parametrize("engine", ENGINES)

DIRECTORIES = [("data", "runs"), ("data", "indexes"), ("system",)]


@asynccontextmanager
async def open_engine(
    engine: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Store]:
    store: Store
    match engine:
        case "fdb":
            async with fdb.fdb_store() as store:
                yield store
            return
        case "rocks":
            store = open_rocks(tmp_path_factory.mktemp("store"))
        case "rocks, lent":
            async with lent(tmp_path_factory.mktemp("store")) as store:
                yield store
            return
        case "memory":
            store = MemoryStore()
        case "each body twice":
            store = MemoryStore(Twice())
        case _:
            store = MemoryStore(Faults(7, (), again=0.3, turn=1.0))
    try:
        yield store
    finally:
        await store.aclose()


@asynccontextmanager
async def lent(folder: Path) -> AsyncIterator[Store]:
    """By whoever has it open, through the folder's socket."""
    async with open_folder(folder, None) as holder, trio.open_nursery() as nursery:
        await holder.store.transact(lambda tr: tr.clear_range(b"", b"\xff"))
        await nursery.start(holder.api({}).serve)
        yield LentStore(folder)
        nursery.cancel_scope.cancel()


@pytest.fixture(params=ENGINES)
async def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Store]:
    async with open_engine(request.param, tmp_path_factory) as opened:
        yield opened


async def put(store: Store, *pairs: KeyValue) -> None:
    def body(tr: Transaction) -> None:
        for key, value in pairs:
            tr.set(key, value)

    await store.transact(body)


async def everything(store: Store, prefix: bytes) -> dict[bytes, bytes]:
    return await store.read(lambda snap: dict(snap.scan(prefix, prefix + b"\xff")))


async def test_directories_are_prefix_free(store: Store) -> None:
    """No directory's keys are inside another's."""
    prefixes = [store.directory(path) for path in DIRECTORIES]
    assert all(prefixes)
    for one in prefixes:
        assert [other for other in prefixes if other.startswith(one)] == [one]


async def test_an_engine_says_the_layout_of_its_new_stores(store: Store) -> None:
    """One that the rules know."""
    assert store.default_layout in STAMPS


async def test_transact_returns_what_the_body_returned_and_commits(store: Store) -> None:
    """A body's result comes out and its writes are there for the next transaction and the next read."""
    key = store.directory(("system",)) + b"k"

    def body(tr: Transaction) -> int:
        tr.set(key, b"v")
        return 7

    assert await store.transact(body) == 7
    assert await store.transact(lambda tr: tr.get(key)) == b"v"
    assert await store.read(lambda snap: snap.get(key)) == b"v"
    assert await store.read(lambda snap: snap.get(key + b"x")) is None


async def test_an_exception_rolls_back_and_comes_out_unchanged(store: Store) -> None:
    """Nothing of a body that raises is kept."""
    key = store.directory(("system",)) + b"k"
    await put(store, (key, b"old"))
    error = KeyError("mine")

    def body(tr: Transaction) -> None:
        tr.set(key, b"new")
        tr.clear_range(key, key + b"\xff")
        raise error

    with pytest.raises(KeyError) as caught:
        await store.transact(body)
    assert caught.value is error
    assert await everything(store, key) == {key: b"old"}


async def test_reads_of_a_transaction_see_its_own_writes(store: Store) -> None:
    """get and scan, both directions and limited, see sets, clears and range clears of the same body."""
    prefix = store.directory(("data", "runs"))
    await put(store, *[(prefix + bytes([i]), b"old") for i in range(10)])

    def body(tr: Transaction) -> None:
        tr.clear_range(prefix + b"\x02", prefix + b"\x06")
        tr.set(prefix + b"\x04", b"new")
        tr.clear(prefix + b"\x08")
        tr.set(prefix + b"\x0b", b"new")
        keys = [0, 1, 4, 6, 7, 9, 11]
        seen = [key[-1] for key, _ in tr.scan(prefix, prefix + b"\xff")]
        assert seen == keys
        seen = [key[-1] for key, _ in tr.scan(prefix, prefix + b"\xff", reverse=True)]
        assert seen == keys[::-1]
        assert [k[-1] for k, _ in tr.scan(prefix, prefix + b"\xff", limit=3)] == keys[:3]
        assert [k[-1] for k, _ in tr.scan(prefix, prefix + b"\xff", limit=2, reverse=True)] == [
            11,
            9,
        ]
        assert [k[-1] for k, _ in tr.scan(prefix + b"\x04", prefix + b"\x09", reverse=True)] == [
            7,
            6,
            4,
        ]
        assert tr.get(prefix + b"\x03") is None
        assert tr.get(prefix + b"\x04") == b"new"
        assert tr.get(prefix + b"\x06") == b"old"
        assert list(tr.scan(prefix + b"\x05", prefix + b"\x05")) == []
        assert list(tr.scan(prefix + b"\x06", prefix + b"\x05", reverse=True)) == []

    await store.transact(body)
    assert [key[-1] for key in await everything(store, prefix)] == [0, 1, 4, 6, 7, 9, 11]


CHANGES: dict[str, Callable[[Transaction, bytes], None]] = {
    "set": lambda tr, key: tr.set(key, b"new"),
    "set to much": lambda tr, key: tr.set(key, bytes(1_000)),
    "updated": lambda tr, key: tr.update([(key, b"new")]),
    "cleared in one call": lambda tr, key: tr.update_guarded([(key, None)]),
    "cleared": lambda tr, key: tr.clear(key),
    "range cleared": lambda tr, key: tr.clear_range(key, key + b"\x00"),
}


@pytest.mark.parametrize("change", CHANGES)
async def test_a_row_that_was_read_before_is_read_as_it_stands(store: Store, change: str) -> None:
    """An engine may remember what it read, and what was not there, as long as it is so."""
    prefix = store.directory(("system",))
    keys = [prefix + b"there", prefix + b"not there"]
    await put(store, (keys[0], b"old"))

    def read(snap: Snapshot) -> list[bytes | None]:
        return [snap.get(key) for key in keys]

    def write(tr: Transaction) -> None:
        for key in keys:
            CHANGES[change](tr, key)

    assert await store.transact(read) == [b"old", None]
    await store.transact(write)
    there, not_there = await store.transact(read)
    assert there == not_there != b"old"
    assert await store.read(read) == [there, not_there]


async def test_pairs_in_one_call_land_as_one_by_one(store: Store) -> None:
    """update() sets in order, clears where the value is None, and is seen by the transaction's own reads."""
    prefix = store.directory(("system",))
    await put(store, (prefix + b"a", b"old"), (prefix + b"b", b"old"))

    def body(tr: Transaction) -> dict[bytes, bytes]:
        tr.set(prefix + b"d", b"before")
        tr.update(
            [
                (prefix + b"b", None),
                (prefix + b"c", b"1"),
                (prefix + b"c", b"2"),
                (prefix + b"d", None),
                (prefix + b"d", b"3"),
            ]
        )
        return dict(tr.scan(prefix, prefix + b"\xff"))

    expected = {prefix + b"a": b"old", prefix + b"c": b"2", prefix + b"d": b"3"}
    assert await store.transact(body) == expected
    assert await everything(store, prefix) == expected


async def test_a_body_may_clear_what_a_scan_gave_and_write_elsewhere(store: Store) -> None:
    """While it scans: it meets every key of its range once. (What is written to the range itself may be met or not: only
    RocksDB promises that it is not.)"""
    prefix = store.directory(("data", "runs"))
    await put(store, *[(prefix + b"a" + bytes([i]), b"") for i in range(100)])

    def body(tr: Transaction) -> int:
        seen = 0
        for key, _ in tr.scan(prefix + b"a", prefix + b"b"):
            tr.clear(key)
            tr.set(prefix + b"b" + key, b"moved")
            seen += 1
        return seen

    assert await store.transact(body) == 100
    assert set((await everything(store, prefix)).values()) == {b"moved"}


async def test_scans_of_one_snapshot_may_be_interleaved(store: Store) -> None:
    """A scan inside a scan, and a get between two items, do not disturb the outer one."""
    prefix = store.directory(("data", "runs"))
    pairs = [(prefix + b"%03d" % i, b"%d" % i) for i in range(200)]
    await put(store, *pairs)

    def body(snap: Snapshot) -> list[KeyValue]:
        outer = []
        for key, value in snap.scan(prefix, prefix + b"\xff"):
            assert snap.get(pairs[-1][0]) == pairs[-1][1]
            assert [v for _, v in snap.scan(key, prefix + b"\xff", limit=1)] == [value]
            assert next(snap.scan(prefix, prefix + b"\xff", reverse=True)) == pairs[-1]
            outer.append((key, value))
        return outer

    assert await store.read(body) == pairs
    assert await store.transact(body) == pairs


async def test_a_read_sees_one_moment(store: Store) -> None:
    """Commits that land while a read runs are not seen by it, by no scan and no get."""
    prefix = store.directory(("data", "runs"))
    await put(store, (prefix + b"a", b"1"), (prefix + b"b", b"1"))
    began, go_on = trio.Event(), trio.Event()
    token = trio.lowlevel.current_trio_token()  # an engine's threads need not be trio's

    def body(snap: Snapshot) -> list[dict[bytes, bytes]]:
        seen = [dict(snap.scan(prefix, prefix + b"\xff"))]
        trio.from_thread.run_sync(began.set, trio_token=token)
        trio.from_thread.run(go_on.wait, trio_token=token)
        assert snap.get(prefix + b"c") is None
        return [*seen, dict(snap.scan(prefix, prefix + b"\xff"))]

    async def commit_meanwhile() -> None:
        await began.wait()

        def change(tr: Transaction) -> None:
            tr.clear(prefix + b"a")
            tr.set(prefix + b"b", b"2")
            tr.set(prefix + b"c", b"2")

        await store.transact(change)
        go_on.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(commit_meanwhile)
        first, second = await store.read(body)
    assert first == second == {prefix + b"a": b"1", prefix + b"b": b"1"}
    assert await everything(store, prefix) == {prefix + b"b": b"2", prefix + b"c": b"2"}


async def test_a_snapshot_in_several_steps_sees_one_moment(store: Store) -> None:
    """Commits between its steps are not seen; a scan that is left half read harms nobody."""
    prefix = store.directory(("data", "runs"))
    pairs = {prefix + bytes([n]): b"1" for n in range(200)}
    await put(store, *pairs.items())
    async with store.snapshot() as snap:
        scan = snap.scan(prefix, prefix + b"\xff")
        first = await trio.to_thread.run_sync(lambda: dict(islice(scan, 50)))
        await put(store, *((key, b"2") for key in pairs), (prefix + b"new", b"2"))
        rest = await trio.to_thread.run_sync(lambda: dict(islice(scan, 100)))
        scan.close()
        assert snap.get(prefix + b"\x00") == b"1"
    assert first | rest == dict(islice(pairs.items(), 150))
    assert (await everything(store, prefix))[prefix + b"\x00"] == b"2"


async def test_transactions_side_by_side_lose_nothing(store: Store) -> None:
    """Read-modify-write bodies of many tasks are as if one ran after the other."""
    key = store.directory(("system",)) + b"counter"

    def increment(tr: Transaction) -> None:
        tr.set(key, b"%d" % (int(tr.get(key) or b"0") + 1))

    async def work() -> None:
        for _ in range(10):
            await store.transact(increment)

    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(work)
    assert await store.read(lambda snap: snap.get(key)) == b"100"


async def test_values_and_keys_of_the_contracts_sizes(store: Store) -> None:
    """An empty value, one of 100,000 bytes and a key of 4,096 bytes are stored whole."""
    prefix = store.directory(("data", "runs"))
    pairs = {prefix + b"e": b"", prefix + b"l": b"\x00\xff" * 50_000, prefix + b"k" * 4_095: b"v"}
    await put(store, *pairs.items())
    assert await everything(store, prefix) == pairs


async def test_clearing_a_large_range_and_what_is_not_there(store: Store) -> None:
    """A range of thousands of keys goes in one call; clearing nothing is fine."""
    prefix = store.directory(("data", "runs"))
    await put(store, *[(prefix + b"%05d" % i, b"v") for i in range(5_000)])

    def body(tr: Transaction) -> None:
        tr.clear_range(prefix + b"00001", prefix + b"04999")
        tr.clear_range(prefix + b"x", prefix + b"y")
        tr.clear_range(prefix + b"y", prefix + b"x")
        tr.clear(prefix + b"nothing")

    await store.transact(body)
    assert list(await everything(store, prefix)) == [prefix + b"00000", prefix + b"04999"]


# --- random transactions against a dict ----------------------------------------------------------

suffixes = st.binary(max_size=3).map(lambda b: bytes(x % 4 * 85 for x in b))
operations = st.one_of(
    st.tuples(st.just("set"), suffixes, st.binary(max_size=4)),
    st.tuples(st.just("clear"), suffixes),
    st.tuples(st.just("clear_range"), suffixes, suffixes),
    st.tuples(st.just("get"), suffixes),
    st.tuples(st.just("scan"), suffixes, suffixes, st.integers(0, 4), st.booleans()),
    st.tuples(st.just("prefetch"), suffixes, suffixes, st.integers(0, 4), st.booleans()),
)
transactions = st.lists(st.tuples(st.lists(operations, max_size=25), st.booleans()), max_size=8)


class Model:
    """The same operations on a dict."""

    def __init__(self, pairs: dict[bytes, bytes]) -> None:
        self.pairs = dict(pairs)

    def get(self, key: bytes) -> bytes | None:
        return self.pairs.get(key)

    def set(self, key: bytes, value: bytes) -> None:
        self.pairs[key] = value

    def clear(self, key: bytes) -> None:
        self.pairs.pop(key, None)

    def clear_range(self, begin: bytes, end: bytes) -> None:
        self.pairs = {k: v for k, v in self.pairs.items() if not begin <= k < end}

    def scan(self, begin: bytes, end: bytes, limit: int, reverse: bool) -> list[KeyValue]:
        pairs = sorted((k, v) for k, v in self.pairs.items() if begin <= k < end)
        return (pairs[::-1] if reverse else pairs)[: limit or None]


class Abort(Exception):
    pass


def scanned(snap: Snapshot, begin: bytes, end: bytes, reverse: bool) -> list[KeyValue]:
    return list(snap.scan(begin, end, reverse=reverse))


@engines
@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=transactions)
def test_random_transactions_do_what_a_dict_does(
    engine: str,
    tmp_path_factory: pytest.TempPathFactory,
    steps: list[tuple[list[tuple[object, ...]], bool]],
) -> None:
    """Any mix of operations, some of it rolled back, reads and leaves what a sorted dict would."""

    def run(
        tr: Transaction,
        pairs: dict[bytes, bytes],
        prefix: bytes,
        ops: list[tuple[object, ...]],
        abort: bool,
    ) -> dict[bytes, bytes]:
        model = Model(pairs)
        for name, *given_ in ops:
            args = [prefix + arg if isinstance(arg, bytes) else arg for arg in given_]
            match name:
                case "scan":
                    begin, end, limit, reverse = args
                    found = list(tr.scan(begin, end, limit=limit, reverse=reverse))
                    assert found == model.scan(*args)
                case "prefetch":
                    begin, end, limit, reverse = args
                    tr.prefetch([begin, end], [Range(begin, end, limit, reverse)])
                case "get":
                    assert tr.get(args[0]) == model.get(args[0])
                case _:
                    getattr(tr, str(name))(*args)
                    getattr(model, str(name))(*args)
        assert list(tr.scan(prefix, prefix + b"\xff\xff\xff\xff")) == sorted(model.pairs.items())
        if abort:
            raise Abort
        return model.pairs

    async def main() -> None:
        async with open_engine(engine, tmp_path_factory) as store:
            prefix = store.directory(("data", "runs"))
            pairs: dict[bytes, bytes] = {}
            for ops, abort in steps:
                with suppress(Abort):
                    pairs = await store.transact(
                        partial(run, pairs=pairs, prefix=prefix, ops=ops, abort=abort)
                    )
                for reverse in False, True:
                    assert await store.read(
                        partial(scanned, begin=prefix, end=prefix + b"\xff" * 4, reverse=reverse)
                    ) == sorted(pairs.items(), reverse=reverse)

    trio.run(main)
