"""The space of what was deleted comes back, and nobody waits for it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from matyan.folder.folder import open_folder
from matyan.keys import pack_value
from matyan.store.open import DATABASE
from matyan.store.rocks import RocksStore, open_rocks
from tests.cli.test_main import fill, send
from tests.tracker import Tracker, matyan, running
from tests.until import wait_for


def disk_bytes(data: Path) -> int:
    total = 0
    for entry in os.scandir(data / DATABASE):
        try:
            total += entry.stat().st_size
        except FileNotFoundError:
            continue
    return total


def fill_much(tracker: Tracker, run: str, megabytes: int = 24) -> None:
    """Objects that do not compress."""
    for step in range(megabytes):
        send(
            tracker,
            run,
            *(
                {
                    "type": "log_custom_object",
                    "name": "o",
                    "step": 2 * step + half,
                    "value": {"data": os.urandom(250_000).hex()},
                }
                for half in range(2)
            ),
        )


def test_the_space_of_a_deleted_run_comes_back(tmp_path) -> None:
    """By itself, while other runs go on to stand; also when the process ended before it came to that."""
    data = tmp_path / "data"
    with running(data) as tracker:
        fill(tracker, "kept-1")
        fill_much(tracker, "big-1")
        fill_much(tracker, "big-2")
        assert disk_bytes(data) > 40_000_000
        matyan("delete", "big-1", "--yes", "--data", data)
        wait_for(lambda: disk_bytes(data) < 40_000_000)
        assert tracker.stop() == 0
    matyan("delete", "big-2", "--yes", "--data", data)
    with running(data) as tracker:
        wait_for(lambda: disk_bytes(data) < 8_000_000)
        assert tracker.stop() == 0
    assert matyan("runs", "--data", data).stdout.startswith("kept-1\t")


def test_compact_is_for_the_impatient(tmp_path) -> None:
    """At once, with a tracker and without, and it says what came of it."""
    data = tmp_path / "data"
    with running(data) as tracker:
        fill(tracker, "kept-1")
        fill_much(tracker, "big-1", 8)
        matyan("delete", "big-1", "--yes", "--data", data)
        done = matyan("compact", "--data", data)
        assert "bytes before" in done.stdout
        assert disk_bytes(data) < 4_000_000
        assert tracker.stop() == 0
    matyan("compact", "--data", data)
    assert matyan("runs", "--data", data).stdout.startswith("kept-1\t")


async def write_much(store: RocksStore, count: int) -> None:
    for i in range(count):
        rows = [(b"\x01%06d%06d" % (i, j), os.urandom(400)) for j in range(2_000)]
        await store.transact(lambda tr, rows=rows: tr.update(rows))


async def test_writers_go_on_while_it_runs(tmp_path) -> None:
    """The call does not hold the interpreter: transactions begin and end within it."""
    store = open_rocks(tmp_path / "store")
    await write_much(store, 40)
    during = 0
    ended = trio.Event()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def compact() -> None:
            await store.compact()
            ended.set()

        while not ended.is_set():
            await store.transact(lambda tr: tr.set(b"\x03x", b"y"))
            during += 1
    assert during > 5
    assert (await store.read(lambda snap: snap.get(b"\x03x"))) == b"y"
    await store.aclose()


@pytest.mark.parametrize("moment", [0.0, 0.05, 0.2])
async def test_a_store_that_is_closed_does_not_wait_for_it(tmp_path, moment: float) -> None:
    """The compaction ends early, what was written stands, and the folder can be opened again."""
    store = open_rocks(tmp_path / "store")
    await write_much(store, 40)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store.compact)
        await trio.sleep(moment)
        nursery.cancel_scope.cancel()
    await store.aclose()
    again = open_rocks(tmp_path / "store")
    last = b"\x01%06d%06d" % (39, 1_999)
    assert len(await again.read(lambda snap: snap.get(last)) or b"") == 400
    await again.compact()
    await again.aclose()


async def test_the_newest_compaction_is_remembered(tmp_path) -> None:
    """What came back is not looked for again."""
    async with open_folder(tmp_path, None) as folder:
        for number, run in enumerate(("a", "b")):
            key = folder.keys.tombstone(run)
            value = pack_value(100.0 + number)
            await folder.store.transact(lambda tr, key=key, value=value: tr.set(key, value))
        ranges, newest = await folder.store.read(folder.compaction._due)
        assert (len(ranges), newest) == (4, 101.0)
        await folder.compaction._compact()
        assert await folder.store.read(folder.compaction._due) == ([], None)
