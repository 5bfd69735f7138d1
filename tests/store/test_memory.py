"""The store in memory has FoundationDB's semantics: what the tests that run on it can find."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from matyan.errors import Expired, InvalidRecord, Unavailable
from matyan.store.base import Range, Transaction
from tests.memory_store import Faults, MemoryStore

READS: dict[str, Callable[[Transaction], object]] = {
    "get": lambda tr: tr.get(b"k5"),
    "whole scan": lambda tr: [*tr.scan(b"k0", b"k9")],
    "scan from the end": lambda tr: [*tr.scan(b"k0", b"k9", reverse=True, limit=1)],
    "limited scan": lambda tr: [*tr.scan(b"k4", b"k9", limit=2)],
    "scan_each": lambda tr: [*tr.scan_each([(b"k1", b"k2"), (b"k5", b"k7")])],
    "prefetch": lambda tr: tr.prefetch([b"k5"], []),
    "prefetched range": lambda tr: tr.prefetch([], [Range(b"k0", b"k9")]),
}
WRITES: dict[str, Callable[[Transaction], None]] = {
    "set": lambda tr: tr.set(b"k5", b"other"),
    "a key that was not there": lambda tr: tr.set(b"k6", b"new"),
    "clear": lambda tr: tr.clear(b"k5"),
    "clear_range": lambda tr: tr.clear_range(b"k5", b"k7"),
    "update": lambda tr: tr.update([(b"k2", b"x"), (b"k6", b"x")]),
}
APART = {("get", "a key that was not there"), ("prefetch", "a key that was not there")}


async def against(
    read: Callable[[Transaction], object], write: Callable[[Transaction], None]
) -> int:
    """How often a transaction that reads runs when another one writes before its commit."""
    store = MemoryStore()
    store.commit(lambda tr: tr.update([(b"k2", b""), (b"k5", b""), (b"k8", b"")]))
    runs = 0

    def body(tr: Transaction) -> Iterator[None]:
        nonlocal runs
        runs += 1
        read(tr)
        if runs == 1:
            store.commit(write)
        tr.set(b"mine", b"")
        yield

    await store.transact_in_turns(body)
    return runs


@pytest.mark.parametrize("write", WRITES)
@pytest.mark.parametrize("read", READS)
async def test_what_was_read_and_is_written_by_another_runs_again(read: str, write: str) -> None:
    """By ranges of keys, so that what was not there counts too; what is written elsewhere does not."""
    runs = await against(READS[read], WRITES[write])
    assert runs == (1 if (read, write) in APART else 2)


@pytest.mark.parametrize("read", READS)
async def test_what_is_written_elsewhere_is_no_conflict(read: str) -> None:
    assert await against(READS[read], lambda tr: tr.set(b"k9", b"")) == 1
    assert await against(READS[read], lambda tr: tr.clear_range(b"l", b"m")) == 1


async def test_blind_writes_do_not_conflict() -> None:
    """Nor does what reads and writes nothing."""
    assert await against(lambda tr: None, WRITES["set"]) == 1
    store = MemoryStore()

    def body(tr: Transaction) -> Iterator[None]:
        tr.get(b"k5")
        store.commit(WRITES["set"])
        yield

    await store.transact_in_turns(body)
    assert store.conflicts == 0


@pytest.mark.parametrize(
    "body",
    [
        lambda tr: tr.set(b"k" * 10_001, b""),
        lambda tr: tr.set(b"k", bytes(100_001)),
        lambda tr: tr.update([(b"%d" % i, bytes(99_000)) for i in range(102)]),
    ],
    ids=["a key", "a value", "a transaction"],
)
async def test_what_is_over_a_limit_is_never_stored(body: Callable[[Transaction], None]) -> None:
    store = MemoryStore()
    with pytest.raises(InvalidRecord):
        await store.transact(body)
    assert store.rows == {}


async def test_a_body_that_takes_longer_than_a_moment_lasts_runs_again() -> None:
    """Once; the second time its caller is told. What it was told before costs it no time."""
    store = MemoryStore(round_trip_s=0.01)
    keys = [b"%d" % i for i in range(600)]
    runs = 0

    def body(tr: Transaction) -> None:
        nonlocal runs
        runs += 1
        for key in keys:
            tr.get(key)
        tr.set(b"done", b"")

    with pytest.raises(Expired):
        await store.transact(body)
    assert runs == 2
    assert store.rows == {}

    def said(tr: Transaction) -> None:
        tr.prefetch(keys, [])
        body(tr)

    await store.transact(said)
    assert store.rows == {b"done": b""}


@pytest.mark.parametrize("kind", ["lost", "landed"])
async def test_nobody_knows_how_a_commit_ended(kind: str) -> None:
    """It was not made, or it was; the body runs again and can see it, or the caller is told."""
    told = ran_again = 0
    for seed in range(20):
        store = MemoryStore(Faults(seed, (), **{kind: 1.0}))
        found: list[bytes | None] = []

        def body(tr: Transaction, found: list[bytes | None] = found) -> None:
            found.append(tr.get(b"k"))
            if len(found) == 5:
                raise KeyError
            if found[-1] is None:
                tr.set(b"k", b"v")

        with pytest.raises((Unavailable, KeyError)) as raised:
            await store.transact(body)
        told += isinstance(raised.value, Unavailable)
        ran_again += len(found) > 1
        assert found[0] is None
        assert found[1:] == [b"v" if kind == "landed" else None] * (len(found) - 1)
        assert store.rows == ({b"k": b"v"} if kind == "landed" else {})
    assert told > 5
    assert ran_again > 5


async def test_a_snapshot_goes_on_at_later_moments() -> None:
    """Where a moment is forgotten while it is read."""
    store = MemoryStore(round_trip_s=1.0)
    store.commit(lambda tr: tr.update([(b"%04d" % i, b"") for i in range(0, 2_000, 2)]))
    async with store.snapshot() as view:
        scan = view.scan(b"", b"z")
        first = [next(scan)[0] for _ in range(100)]
        store.commit(lambda tr: tr.update([(b"%04d" % i, b"") for i in range(1, 2_000, 2)]))
        rest = [key for key, _ in scan]
    assert first == [b"%04d" % i for i in range(0, 200, 2)]
    assert rest == sorted(rest)
    assert rest[-1000:] == [b"%04d" % i for i in range(1000, 2_000)]
    assert view.moments > 1


def test_the_same_seed_is_the_same_run() -> None:
    """And another one is another."""

    def happenings(seed: int) -> list[bool]:
        faults = Faults(seed)
        return [faults.happens(kind) for _ in range(300) for kind in Faults.KINDS]

    assert happenings(3) == happenings(3)
    assert len({tuple(happenings(seed)) for seed in range(20)}) == 20
