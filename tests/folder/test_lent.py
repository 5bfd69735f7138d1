"""A store that another process has open: what a transaction has read must still stand when it ends, and whoever lends may go and come.

What every engine promises it promises in `tests/contracts/test_store.py`.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from itertools import islice
from pathlib import Path

import pytest
import trio

from matyan.errors import MatyanError, Unavailable
from matyan.folder.client import connect
from matyan.folder.folder import DataFolder, open_folder
from matyan.folder.lending import MOST_SESSIONS
from matyan.folder.lent import LentStore
from matyan.folder.wire import LEND, pack_message, received, unpack_message
from matyan.keys import Keys
from matyan.store.base import Range, Snapshot, Transaction
from tests.until import until


@asynccontextmanager
async def lending(folder: Path) -> AsyncIterator[DataFolder]:
    async with open_folder(folder, None) as holder, trio.open_nursery() as nursery:
        await nursery.start(holder.api({}).serve)
        yield holder
        nursery.cancel_scope.cancel()


def key(name: str) -> bytes:
    return b"\x03test " + name.encode()


ALL = key(""), key("~")

Reading = Callable[[Transaction], object]


@pytest.mark.parametrize(
    ("read", "change", "runs"),
    [
        (lambda tr: tr.get(key("b")), ("b", b"2"), 2),
        (lambda tr: tr.get(key("b")), ("b", None), 2),
        (lambda tr: tr.get(key("b")), ("b", b"1"), 1),
        (lambda tr: tr.get(key("b")), ("c", b"2"), 1),
        (lambda tr: tr.get(key("new")), ("new", b""), 2),
        (lambda tr: [*tr.scan(*ALL)], ("c", b"2"), 2),
        (lambda tr: [*tr.scan(*ALL)], ("bb", b""), 2),
        (lambda tr: [*tr.scan(*ALL)], ("zz", b""), 2),
        (lambda tr: [*tr.scan(*ALL)], ("d", None), 2),
        (lambda tr: [*tr.scan(*ALL, limit=2)], ("zz", b""), 1),
        (lambda tr: [*tr.scan(*ALL, limit=2)], ("aa", b""), 2),
        (lambda tr: [*islice(tr.scan(*ALL), 2)], ("zz", b""), 1),
        (lambda tr: [*islice(tr.scan(*ALL, reverse=True), 2)], ("a", b"2"), 1),
        (lambda tr: [*islice(tr.scan(*ALL, reverse=True), 2)], ("e", b"2"), 2),
        (lambda tr: [*tr.scan_each([(key("a"), key("b")), (key("d"), key("e"))])], ("c", b"2"), 1),
        (lambda tr: [*tr.scan_each([(key("a"), key("b")), (key("d"), key("e"))])], ("dd", b""), 2),
        (lambda tr: tr.clear_range(*ALL), ("c", b"2"), 1),
    ],
)
async def test_a_transaction_runs_again_when_what_it_has_read_was_changed(
    tmp_path: Path, read: Reading, change: tuple[str, bytes | None], runs: int
) -> None:
    """And only then: by another value, a row more in a range, or one less, as far as it was read."""
    async with lending(tmp_path / "data") as holder:
        store, calls = LentStore(tmp_path / "data"), []
        await holder.store.transact(
            lambda tr: tr.update([(key(name), b"1") for name in ("a", "b", "c", "d", "e")])
        )

        def body(tr: Transaction) -> int:
            calls.append(read(tr))
            if len(calls) == 1:
                trio.from_thread.run(
                    holder.store.transact, lambda other: other.update([(key(change[0]), change[1])])
                )
            tr.set(key("result"), str(len(calls)).encode())
            return len(calls)

        assert await store.transact(body) == runs == len(calls)
        written = await holder.store.read(lambda snap: snap.get(key("result")))
        assert written == str(runs).encode()


async def test_one_that_never_gets_its_turn_says_so(tmp_path: Path) -> None:
    """Nothing of it is written."""
    async with lending(tmp_path / "data") as holder:
        store, calls = LentStore(tmp_path / "data"), []

        def body(tr: Transaction) -> None:
            tr.get(key("hot"))
            calls.append(1)
            value = str(len(calls)).encode()
            trio.from_thread.run(holder.store.transact, lambda other: other.set(key("hot"), value))
            tr.set(key("result"), b"")

        with pytest.raises(Unavailable, match="busy"):
            await store.transact(body)
        assert await store.read(lambda snap: snap.get(key("result"))) is None


async def test_whoever_lends_may_go_and_come(tmp_path: Path) -> None:
    """Meanwhile the store is away, also for who holds a moment of it; then it is there, with what was written."""
    data = tmp_path / "data"
    store = LentStore(data)
    with pytest.raises(Unavailable, match=f"matyan ingest-worker --store rocks:{data}"):
        await store.read(lambda snap: snap.get(key("a")))
    async with lending(data):
        await store.transact(lambda tr: tr.set(key("a"), b"1"))
        snapshot = store.snapshot()
        view = await snapshot.__aenter__()
        assert await trio.to_thread.run_sync(view.get, key("a")) == b"1"
    with pytest.raises(Unavailable, match="went away"):
        await trio.to_thread.run_sync(view.get, key("a"))
    await snapshot.__aexit__(None, None, None)
    with pytest.raises(Unavailable, match=f"matyan ingest-worker --store rocks:{data}"):
        await store.transact(lambda tr: tr.set(key("a"), b"2"))
    async with lending(data):
        assert await store.read(lambda snap: snap.get(key("a"))) == b"1"


async def test_a_session_that_asks_for_nonsense_is_told_so(tmp_path: Path) -> None:
    """And goes on; one that breaks off within a message ends alone."""
    async with lending(tmp_path / "data"):

        def converse() -> list[object]:
            answers = []
            with connect(tmp_path / "data") as connection:
                stream = connection.makefile("rb")
                layout = Keys(LentStore(tmp_path / "data")).layout()
                for message in (
                    {"op": LEND},
                    ["dance"],
                    [],
                    "get",
                    ["get"],
                    ["get", 5],
                    ["get", layout],
                ):
                    connection.sendall(pack_message(message))
                    answers.append(unpack_message(received(stream) or b""))
                connection.sendall(pack_message(["get", layout])[:-3])
            return answers

        began, *errors, good = await trio.to_thread.run_sync(converse)
        assert began == [0, None]
        assert all(kind == 2 for kind, *_ in errors)
        assert good == [0, b"\x02"]
        assert await LentStore(tmp_path / "data").read(lambda snap: snap.get(key("a"))) is None


async def test_one_session_too_many_is_told_so_at_once(tmp_path: Path) -> None:
    """A thread that waits for its turn would be missing elsewhere; when another ends there is room again."""
    async with lending(tmp_path / "data"), AsyncExitStack() as many:
        store = LentStore(tmp_path / "data")
        async with store.snapshot():
            for _ in range(MOST_SESSIONS - 1):
                await many.enter_async_context(store.snapshot())
            with trio.fail_after(10), pytest.raises(Unavailable, match="ask again later"):
                await store.read(lambda snap: snap.get(key("a")))

        async def has_room() -> bool:
            try:
                return await store.read(lambda snap: snap.get(key("a"))) is None
            except Unavailable:
                return False

        await until(has_room)


async def test_a_body_that_raises_leaves_nothing(tmp_path: Path) -> None:
    async with lending(tmp_path / "data"):
        store = LentStore(tmp_path / "data")

        def body(tr: Transaction) -> None:
            tr.set(key("a"), b"1")
            raise MatyanError("no")

        with pytest.raises(MatyanError, match="no"):
            await store.transact(body)
        assert await store.read(lambda snap: snap.get(key("a"))) is None


async def test_what_was_prefetched_is_read_as_it_stands(tmp_path: Path) -> None:
    """Whole ranges, parts of them and single keys, from both ends, and what was too much for one answer; of the same moment."""
    async with lending(tmp_path / "data") as holder:
        names = [f"{number:04}" for number in range(3_000)]
        rows = [(key(name), name.encode()) for name in names]
        await holder.store.transact(lambda tr: tr.update(rows))
        dice = random.Random(7)

        def compare(lent: Snapshot, direct: Snapshot) -> None:
            for _ in range(40):
                places = [sorted(dice.sample(range(3_001), 2)) for _ in range(dice.randrange(6))]
                ranges = [
                    Range(key(f"{first:04}"), key(f"{last:04}"), dice.choice([0, 0, 5]))
                    for first, last in places
                ]
                keys = [key(dice.choice([*names, "none"])) for _ in range(dice.randrange(4))]
                lent.prefetch(keys, ranges)
                for _ in range(8):
                    first, last = sorted(dice.sample(range(3_001), 2))
                    if places and dice.random() < 0.7:
                        first, last = dice.choice(places)
                    begin, end = key(f"{first:04}"), key(f"{last:04}")
                    how = {"limit": dice.choice([0, 0, 7]), "reverse": dice.random() < 0.5}
                    assert [*lent.scan(begin, end, **how)] == [*direct.scan(begin, end, **how)]
                    one = dice.choice([*keys, begin, end, key("none")])
                    assert lent.get(one) == direct.get(one)

        async with (
            LentStore(tmp_path / "data").snapshot() as lent,
            holder.store.snapshot() as direct,
        ):
            await holder.store.transact(lambda tr: tr.clear_range(*ALL))
            await trio.to_thread.run_sync(compare, lent, direct)
