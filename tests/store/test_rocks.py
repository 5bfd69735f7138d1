"""What only RocksDB promises: one owner, an acknowledgement after the sync that covers it, life after I/O errors."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from functools import partial
from math import inf
from pathlib import Path

import pytest
import rocksdict
import trio

from matyan.errors import ConfigurationError, FolderInUse, Unavailable
from matyan.store.base import Snapshot, Transaction
from matyan.store.rocks import RocksStore, open_rocks
from matyan.store.rocks.database import database_options, write_options
from matyan.store.rocks.still import open_still
from matyan.store.rocks.store import _QUICK_SYNC_S, _SMALL_BYTES, _STILL_SHARE
from tests.small_disk import SIZE, small_disk

__all__ = ["small_disk"]


async def put(store: RocksStore, number: int, size: int = 100) -> None:
    """Two keys, so that half a transaction would be seen."""

    def body(tr: Transaction) -> None:
        tr.set(b"\x01%06d" % number, random.randbytes(size))
        tr.set(b"\x02%06d" % number, b"")

    await store.transact(body)


def numbers(snap: Snapshot) -> set[int]:
    """What stands there, by number."""
    first, second = (
        {int(key[1:]) for key, _ in snap.scan(begin, begin + b"\xff")}
        for begin in (b"\x01", b"\x02")
    )
    assert first == second
    return first


PRELUDE = f"""
import os, random, signal, sys, time, trio, trio.testing
from pathlib import Path
import matyan.store.rocks.store
from matyan.errors import Unavailable
from matyan.store.rocks import open_rocks
from {__name__} import numbers, put
signal.alarm(60)
"""


def child(script: str, *args: object, **environment: str) -> subprocess.Popen[str]:
    """A Python process with the helpers of this module; it ends by itself within 60 s."""
    command = [sys.executable, "-c", PRELUDE + textwrap.dedent(script), *map(str, args)]
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


HOLD = """
    async def main():
        store = open_rocks(Path(sys.argv[1]))
        for i in range(int(sys.argv[2])):
            await put(store, i)
        print("ready", flush=True)
        await trio.to_thread.run_sync(sys.stdin.readline)
        await store.aclose()
    trio.run(main)
"""


@pytest.fixture(scope="module")
def killed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store whose process was killed: 300 transactions in it, some in tables and some in the log."""
    folder = tmp_path_factory.mktemp("killed") / "store"

    async def main() -> None:
        store = open_rocks(folder)
        for i in range(100):
            await put(store, i)
        await store.compact()
        await store.aclose()

    trio.run(main)
    with child(HOLD.replace("range(", "range(100, "), folder, 300) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGKILL)
    return folder


@pytest.fixture
def killed(killed_once: Path, tmp_path: Path) -> Path:
    """A copy of that store."""
    folder: Path = shutil.copytree(killed_once, tmp_path / "store")
    return folder


# --- one owner -----------------------------------------------------------------------------------


def test_a_second_process_is_told_the_first(tmp_path: Path) -> None:
    """Its number is in the sentence; when it has gone the folder is free, however it went."""
    with child(HOLD, tmp_path / "store", 1) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        with pytest.raises(
            FolderInUse, match=rf"in use by process {process.pid}, running since 20"
        ):
            open_rocks(tmp_path / "store")
        process.kill()
    trio.run(open_rocks(tmp_path / "store").aclose)


async def test_the_same_process_cannot_open_it_twice(tmp_path: Path) -> None:
    """Closing gives it free."""
    store = open_rocks(tmp_path / "store")
    with pytest.raises(FolderInUse, match=f"process {os.getpid()}"):
        open_rocks(tmp_path / "store")
    await store.aclose()
    await open_rocks(tmp_path / "store").aclose()


def test_a_folder_that_cannot_be_is_one_clear_sentence(tmp_path: Path) -> None:
    """A file in its place or above it, or no permission: the sentence names the folder."""
    (tmp_path / "file").write_text("mine")
    for folder in tmp_path / "file", tmp_path / "file" / "below":
        with pytest.raises(ConfigurationError, match=re.escape(f"{folder} cannot be made")):
            open_rocks(folder)
    with pytest.raises(ConfigurationError, match="/proc/matyan cannot be written"):
        open_rocks(Path("/proc/matyan"))
    assert (tmp_path / "file").read_text() == "mine"


async def test_a_closed_store_is_unavailable(tmp_path: Path) -> None:
    """It does not open itself again."""
    store = open_rocks(tmp_path / "store")
    await store.aclose()
    with pytest.raises(Unavailable, match="closed"):
        await put(store, 1)
    with pytest.raises(Unavailable, match="closed"):
        await store.read(numbers)


# --- what is left after a kill, and after damage ---------------------------------------------------


def test_a_kill_loses_nothing_that_was_acknowledged(killed: Path) -> None:
    """The log is replayed."""

    async def main() -> None:
        store = open_rocks(killed)
        assert await store.read(numbers) == set(range(300))
        await store.aclose()

    trio.run(main)


def overwrite(path: Path, place: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place, os.SEEK_END if place < 0 else os.SEEK_SET)
        file.write(data)


def only(folder: Path, pattern: str) -> Path:
    (path,) = (path for path in folder.glob(pattern) if path.stat().st_size)
    return path


DAMAGES: dict[str, Callable[[Path], None]] = {
    "CURRENT is missing": lambda folder: (folder / "CURRENT").unlink(),
    "CURRENT is garbage": lambda folder: overwrite(folder / "CURRENT", 0, b"x" * 30),
    "the manifest is missing": lambda folder: only(folder, "MANIFEST-*").unlink(),
    "the manifest is garbage": lambda folder: overwrite(only(folder, "MANIFEST-*"), 0, b"x" * 50),
    "a table is missing": lambda folder: only(folder, "*.sst").unlink(),
    "a table's end is garbage": lambda folder: overwrite(only(folder, "*.sst"), -60, b"x" * 60),
    "a table is cut short": lambda folder: os.truncate(only(folder, "*.sst"), 500),
    "a table's data are garbage": lambda folder: overwrite(only(folder, "*.sst"), 1_000, b"x" * 50),
    "the log has a hole": lambda folder: overwrite(only(folder, "*.log"), 9_000, b"\x00" * 4_096),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_damage_is_one_clear_sentence_and_nothing_is_harmed(
    killed: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    """It names the folder; when the damaged file is put back everything is there."""
    copy = shutil.copytree(killed, tmp_path / "copy")
    damage(killed)

    async def fails() -> None:
        store = open_rocks(killed)  # most are found here, a bad block when it is read
        try:
            await store.read(numbers)
        finally:
            await store.aclose()

    with pytest.raises(ConfigurationError) as caught:
        trio.run(fails)
    assert str(killed) in str(caught.value)
    assert "damaged" in str(caught.value)
    for path in copy.iterdir():
        if path.name.endswith((".log", ".sst", "CURRENT")) or "MANIFEST" in path.name:
            shutil.copy(path, killed / path.name)

    async def works() -> None:
        store = open_rocks(killed)
        assert await store.read(numbers) == set(range(300))
        await store.aclose()

    trio.run(works)


def test_a_log_cut_short_by_a_kill_is_no_damage(killed: Path) -> None:
    """A write that the kill cut in two was not acknowledged."""
    log = only(killed, "*.log")
    os.truncate(log, log.stat().st_size - 50)

    async def main() -> None:
        store = open_rocks(killed)
        assert await store.read(numbers) == set(range(299))
        await store.aclose()

    trio.run(main)


def test_after_a_power_cut_the_log_ends_where_it_is_torn(killed: Path) -> None:
    """The machine was started since: what was not synced may be missing from the midst of the log on."""
    log = only(killed, "*.log")
    overwrite(log, -1_000, b"\x00" * 500)
    lock = killed / "matyan.lock"
    lock.write_text(lock.read_text().splitlines()[0] + "\nanother boot\n")

    async def main() -> None:
        store = open_rocks(killed)
        found = await store.read(numbers)
        assert set(range(290)) <= found < set(range(300))
        assert found == set(range(len(found)))
        await store.aclose()

    trio.run(main)


# --- a disk that is full -------------------------------------------------------------------------


async def test_a_full_disk_refuses_and_recovers_by_itself(small_disk: Path) -> None:
    """Nothing is half applied, what was acknowledged stays readable, and writing goes on when there is room."""
    store = open_rocks(small_disk / "store")
    acknowledged = set()

    async def fill() -> None:
        for number in range(10_000):
            await put(store, number, 100_000)
            acknowledged.add(number)

    with pytest.raises(Unavailable, match="is full: free"):
        await fill()
    for number in range(20_000, 20_005):
        with pytest.raises(Unavailable, match="is full: free"):
            await put(store, number)
    assert await store.read(numbers) == acknowledged
    await trio.run_process(["mount", "-o", "remount,size=100M", str(small_disk)])
    await put(store, 30_000)
    found = await store.read(numbers)
    # The transaction that was refused first may have landed; the ones after it never began.
    assert acknowledged | {30_000} <= found <= acknowledged | {30_000, len(acknowledged)}
    await store.aclose()
    store = open_rocks(small_disk / "store")
    assert await store.read(numbers) == found
    await store.aclose()


def test_a_disk_that_is_full_at_the_start_is_one_clear_sentence(small_disk: Path) -> None:
    """It says to free some space."""
    filler = os.open(small_disk / "filler", os.O_WRONLY | os.O_CREAT)
    os.posix_fallocate(filler, 0, SIZE - 4 * os.statvfs(small_disk).f_frsize)
    os.close(filler)
    with pytest.raises(ConfigurationError, match="free some space"):
        open_rocks(small_disk / "store")


# --- the sync ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty_disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled `faulty_disk.c`."""
    library = tmp_path_factory.mktemp("faulty") / "faulty_disk.so"
    source = Path(__file__).with_name("faulty_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


@pytest.fixture
def run_preloaded(faulty_disk: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """Runs a script on a store in a process with the faulty disk; gives the lines of its log."""
    log = tmp_path / "calls"

    def run(script: str, *args: object, **environment: str) -> list[str]:
        environment |= {"LD_PRELOAD": str(faulty_disk), "MATYAN_TEST_LOG": str(log)}
        with child(script, tmp_path / "store", log, *args, **environment) as process:
            output, _ = process.communicate()
        assert process.returncode == 0, output
        return log.read_text().split("\n")

    return run


ACKNOWLEDGE = """
    async def main():
        store = open_rocks(Path(sys.argv[1]), sync=sys.argv[3] == "sync")
        def note(text):
            with open(sys.argv[2], "a") as file:
                file.write(text + "\\n")
        async def work(i):
            for j in range(10):
                await put(store, i * 10 + j)
                note("acknowledged")
        note("start")
        async with trio.open_nursery() as nursery:
            for i in range(int(sys.argv[4])):
                nursery.start_soon(work, i)
        note("end")
        await store.aclose()
    trio.run(main)
"""


def acknowledged_before_their_sync(lines: list[str]) -> int:
    """How many acknowledgements came when fewer writes than that were covered by a sync that began after them."""
    lines = lines[lines.index("start") : lines.index("end")]
    written = covered = synced = acknowledged = early = 0
    for line in lines:
        written += line == "written"
        acknowledged += line == "acknowledged"
        if line == "sync begins":
            covered = written
        elif line == "sync ends":
            synced = covered
        early += line == "acknowledged" and acknowledged > synced
    return early


@pytest.mark.parametrize("tasks", [1, 20])
def test_an_acknowledgement_leaves_after_the_sync_that_covers_it(
    run_preloaded: Callable[..., list[str]], tasks: int
) -> None:
    """A power cut after it takes nothing back; many tasks share a sync."""
    lines = run_preloaded(ACKNOWLEDGE, "sync", tasks)
    assert lines.count("written") >= lines.count("acknowledged") == 10 * tasks
    assert acknowledged_before_their_sync(lines) == 0
    if tasks > 1:
        assert lines.count("sync begins") < 10 * tasks / 2


def test_that_test_fails_when_the_sync_is_switched_off(
    run_preloaded: Callable[..., list[str]],
) -> None:
    """The negative control."""
    assert acknowledged_before_their_sync(run_preloaded(ACKNOWLEDGE, "no sync", 1)) == 10


async def test_a_sole_writer_lets_others_have_turns_and_can_be_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though no commit waits for anything."""
    monkeypatch.setattr("matyan.store.rocks.store._QUICK_SYNC_S", inf)
    store = open_rocks(tmp_path / "store")
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async def write_until(done: Callable[[], bool]) -> None:
        for number in range(20_000):
            await put(store, number)
            if done():
                return

    await put(store, 0)  # a first writer is none that was alone
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await write_until(lambda: turns >= 3)
        assert turns >= 3
        nursery.cancel_scope.cancel()
    with trio.CancelScope() as scope:
        scope.cancel()
        await write_until(lambda: False)
    assert scope.cancelled_caught
    await store.aclose()


SLEEP_S = 0.01


def time_slept(
    run_preloaded: Callable[..., list[str]], share: float, size: int = 100
) -> tuple[int, int, float]:
    """How often a disk that sleeps at random made a sole writer's event loop sleep, and how often its thread; the seconds of it all."""
    lines = run_preloaded(
        """
        async def main():
            store = open_rocks(Path(sys.argv[1]))
            began = time.perf_counter()
            for i in range(300):
                await put(store, i, int(sys.argv[4]))
            with open(sys.argv[2], "a") as file:
                file.write(f"{time.perf_counter() - began}\\n")
            await store.aclose()
        matyan.store.rocks.store._STILL_SHARE = float(sys.argv[3])
        trio.run(main)
        """,
        share,
        size,
        MATYAN_TEST_SLEEP=str(round(SLEEP_S * 1e6)),
    )
    (took,) = (float(line) for line in lines if line[:1].isdigit())
    return lines.count("the loop sleeps"), lines.count("the thread sleeps"), took


def test_a_disk_that_is_slow_at_random_does_not_hold_the_loop_up_again_and_again(
    run_preloaded: Callable[..., list[str]],
) -> None:
    """All stops behind the first one together are a small share of the time."""
    loop, thread, took = time_slept(run_preloaded, _STILL_SHARE)
    assert loop
    assert thread
    assert (loop - 1) * (SLEEP_S - _QUICK_SYNC_S) <= _STILL_SHARE * took


def test_that_test_fails_when_the_loop_never_leaves_it_to_the_thread(
    run_preloaded: Callable[..., list[str]],
) -> None:
    """The negative control."""
    loop, thread, took = time_slept(run_preloaded, inf)
    assert (loop - 1) * (SLEEP_S - _QUICK_SYNC_S) > _STILL_SHARE * took
    assert thread < loop


def test_the_loop_never_waits_for_the_sync_of_a_large_commit(
    run_preloaded: Callable[..., list[str]],
) -> None:
    """It has other things to do meanwhile."""
    loop, thread, _ = time_slept(run_preloaded, inf, size=2 * _SMALL_BYTES)
    assert loop == 0 < thread


def test_what_is_not_synced_is_not_seen_outside(run_preloaded: Callable[..., list[str]]) -> None:
    """A read, and a transaction that writes nothing, return only when what they saw is on the disk."""
    lines = run_preloaded(
        """
        async def main():
            store = open_rocks(Path(sys.argv[1]))
            def note(text):
                with open(sys.argv[2], "a") as file:
                    file.write(text + "\\n")
            note("start")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(put, store, 1)
                await trio.testing.wait_all_tasks_blocked()
                assert await store.transact(numbers) == {1}
                note("acknowledged")
                nursery.start_soon(put, store, 2)
                await trio.testing.wait_all_tasks_blocked()
                assert await store.read(numbers) == {1, 2}
                note("acknowledged")
            note("end")
            await store.aclose()
        trio.run(main)
        """,
        MATYAN_TEST_DELAY="50000",
    )
    assert acknowledged_before_their_sync(lines) == 0


@pytest.mark.parametrize("writers", ["one", "many"])
def test_a_failed_sync_is_unavailable_and_told_to_everyone(
    run_preloaded: Callable[..., list[str]], tmp_path: Path, writers: str
) -> None:
    """Every transaction under way is refused; after the mend each is there wholly or not at all, and stays so."""
    lines = run_preloaded(
        """
        async def main():
            folder, fail = Path(sys.argv[1]), Path(sys.argv[3])
            store = open_rocks(folder)
            await put(store, 0)
            fail.touch()
            refused = []
            async def work(i):
                try:
                    await put(store, i)
                except Unavailable:
                    refused.append(i)
            if sys.argv[4] == "one":
                await work(1)
            else:
                async with trio.open_nursery() as nursery:
                    for i in range(1, 6):
                        nursery.start_soon(work, i)
            assert sorted(refused) == [1, 2, 3, 4, 5][: 1 if sys.argv[4] == "one" else 5], refused
            # Reads do not show what may be lost; while the disk does not mend, nothing goes on.
            fail.unlink()
            await put(store, 9)
            found = await store.read(numbers)
            assert {0, 9} <= found <= {0, 1, 2, 3, 4, 5, 9}, found
            await store.aclose()
            store = open_rocks(folder)
            assert await store.read(numbers) == found
            await store.aclose()
        trio.run(main)
        """,
        tmp_path / "fail",
        writers,
        MATYAN_TEST_FAIL=str(tmp_path / "fail"),
    )
    assert "sync fails" in lines


async def test_disk_bytes_shrink_when_it_is_compacted(tmp_path: Path) -> None:
    """What was overwritten goes; what is left is as it was."""
    store = open_rocks(tmp_path / "store")
    for _ in range(5):
        for number in range(20):
            await put(store, number, 50_000)
    before = store.disk_bytes()
    await store.compact()
    assert 1_000_000 < store.disk_bytes() < before / 2
    assert await store.read(numbers) == set(range(20))
    await store.aclose()


async def test_what_is_known_without_a_read_is_bounded(tmp_path: Path) -> None:
    """However many rows are read, and however long their keys and values are."""
    store = open_rocks(tmp_path / "store", sync=False)

    def body(tr: Transaction) -> None:
        for number in range(20_000):
            tr.get(b"%d" % number + bytes(number % 400))
            tr.set(b"%d" % number, bytes(1 + number % 400))

    await store.transact(body)
    await store.transact(lambda tr: [tr.get(b"%d" % number) for number in range(20_000)])
    assert 1_000 < len(store._known) <= 16_384
    assert all(len(key) + len(value or b"") <= 256 for key, value in store._known.items())
    await store.aclose()


async def test_writers_wait_for_a_late_compaction_without_an_error(tmp_path: Path) -> None:
    """Where RocksDB would put the trio thread to sleep, the transaction waits and runs again."""
    options = database_options(rocksdict.DBRecoveryMode.point_in_time())
    options.set_write_buffer_size(64 * 1024)
    options.set_max_write_buffer_number(2)
    options.set_level_zero_file_num_compaction_trigger(2)
    options.set_level_zero_slowdown_writes_trigger(2)
    options.set_level_zero_stop_writes_trigger(3)
    database = rocksdict.Rdict(str(tmp_path / "store"), options)
    database.set_write_options(write_options())
    runs = 0

    def body(number: int, tr: Transaction) -> None:
        nonlocal runs
        runs += 1
        tr.set(b"\x01%06d" % number, random.randbytes(60_000))
        tr.set(b"\x02%06d" % number, b"")

    with (tmp_path / "lock").open("w") as lock:
        store = RocksStore(tmp_path / "store", lock, database, sync=False)
        for number in range(300):
            await store.transact(partial(body, number))
        assert await store.read(numbers) == set(range(300))
        await store.aclose()
    assert runs > 300


async def test_a_scan_goes_on_over_what_stood_there_when_it_began(tmp_path: Path) -> None:
    """Whatever its body writes to the range meanwhile."""
    store = open_rocks(tmp_path)
    for i in range(50):
        await put(store, i)

    def body(tr: Transaction) -> int:
        seen = 0
        for key, _ in tr.scan(b"\x01", b"\x02"):
            tr.clear(key)
            tr.set(key + b"\x01", b"moved")
            seen += 1
        return seen

    assert await store.transact(body) == 50
    rows = await store.read(lambda snap: [value for _, value in snap.scan(b"\x01", b"\x02")])
    assert rows == [b"moved"] * 50
    await store.aclose()


async def test_a_checkpoint_has_what_was_acknowledged(tmp_path: Path) -> None:
    """While others write, and without a sync of its own; a later checkpoint has more; the store closes behind it."""
    store = open_rocks(tmp_path / "db")
    acknowledged: set[int] = set()

    async def write() -> None:
        for number in range(10_000):
            await put(store, number)
            acknowledged.add(number)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        for name in ("first", "second"):
            before = len(acknowledged)
            while len(acknowledged) < before + 50:
                await trio.lowlevel.checkpoint()
            least = {*acknowledged}
            await store.checkpoint(tmp_path / name)
            with open_still(tmp_path / name) as still:
                found = numbers(still)
            assert found >= least
            assert found == {*range(len(found))}
        nursery.cancel_scope.cancel()
    with pytest.raises(Unavailable):  # it is there already, and stays as it is
        await store.checkpoint(tmp_path / "first")
    await store.aclose()
    await open_rocks(tmp_path / "db").aclose()


async def test_a_checkpoint_on_a_full_disk_changes_nothing(small_disk: Path) -> None:
    """It is refused before the store is touched, which goes on."""
    store = open_rocks(small_disk / "db")
    await put(store, 1)
    filler = small_disk / "filler"
    with filler.open("wb") as file:
        state = os.statvfs(small_disk)
        os.posix_fallocate(file.fileno(), 0, state.f_bavail * state.f_frsize - (1 << 19))
    with pytest.raises(Unavailable, match="is full: free"):
        await store.checkpoint(small_disk / "checkpoint")
    assert not (small_disk / "checkpoint").exists()
    await put(store, 2)
    filler.unlink()
    await store.checkpoint(small_disk / "checkpoint")
    await store.aclose()
