"""The unix socket of a data folder, with a real store behind it and the real client before it."""

from __future__ import annotations

import os
import socket
import stat
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from matyan.errors import ConfigurationError, MatyanError, NotFound, Unavailable
from matyan.folder import server, spool
from matyan.folder.server import LocalAPI
from matyan.folder.wire import SOCKET_NAME, pack_message
from matyan.store.base import Snapshot
from matyan.store.rocks import open_rocks
from tests.folder.readers import reader_of


def numbers(snap: Snapshot, *, count: int) -> Iterator[int]:
    yield from range(count)


def big(snap: Snapshot, *, count: int) -> Iterator[bytes]:
    for number in range(count):
        yield bytes([number % 256]) * 100_000


def stored(snap: Snapshot) -> Iterator[tuple[bytes, bytes]]:
    yield from snap.scan(b"\x01", b"\x02")


def missing(snap: Snapshot) -> Iterator[object]:
    yield 1
    raise NotFound("there is no such thing")


async def broken_write(*, value: object) -> AsyncIterator[object]:
    yield value
    raise RuntimeError("a bug")


async def echo(*, value: object) -> AsyncIterator[object]:
    yield value
    if value == "bad":
        raise ConfigurationError("not this")


def breaks(snap: Snapshot) -> Iterator[object]:
    yield 1
    raise RuntimeError("a bug")


def odd(snap: Snapshot) -> Iterator[object]:
    yield {"when": datetime(2026, 1, 2, tzinfo=UTC), "what": {1.5, 2}.__class__}


READS = {
    "breaks": breaks,
    "odd": odd,
    "numbers": numbers,
    "big": big,
    "stored": stored,
    "missing": missing,
}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[LocalAPI]:
    store = open_rocks(folder / "rocksdb")
    await store.transact(lambda tr: tr.set(b"\x01key", b"value"))
    api = LocalAPI(folder, store, READS, {"echo": echo, "broken_write": broken_write})
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(api.serve)
            yield api
            nursery.cancel_scope.cancel()
    finally:
        await store.aclose()


async def ask(folder: Path, op: str, **arguments: object) -> list[object]:
    def asking() -> list[object]:
        return list(reader_of(folder).ask(op, **arguments))

    with trio.fail_after(60):
        return await trio.to_thread.run_sync(asking)


async def test_answers_come_whole_and_in_order(tmp_path) -> None:
    """Reads and writes, none, one and many answers, small ones and large ones."""
    async with serving(tmp_path):
        assert await ask(tmp_path, "numbers", count=0) == []
        assert await ask(tmp_path, "numbers", count=1) == [0]
        assert await ask(tmp_path, "numbers", count=200_000) == list(range(200_000))
        assert await ask(tmp_path, "big", count=40) == list(big(None, count=40))
        assert await ask(tmp_path, "stored") == [[b"\x01key", b"value"]]
        assert await ask(tmp_path, "echo", value={"a": [None, 1.5]}) == [{"a": [None, 1.5]}]


async def test_errors_keep_their_class_and_sentence(tmp_path) -> None:
    """So that the command ends with the same exit code whoever holds the folder."""
    async with serving(tmp_path):
        with pytest.raises(NotFound, match="there is no such thing"):
            await ask(tmp_path, "missing")
        with pytest.raises(ConfigurationError, match="not this"):
            await ask(tmp_path, "echo", value="bad")
        with pytest.raises(Exception, match="same version"):
            await ask(tmp_path, "from the future")


async def test_nobody_else_may_ask(tmp_path) -> None:
    """The socket is its owner's alone, from the moment that it exists; it goes with the server."""
    async with serving(tmp_path):
        assert stat.S_IMODE(os.stat(tmp_path / SOCKET_NAME).st_mode) == 0o600
    assert not (tmp_path / SOCKET_NAME).exists()
    with pytest.raises(Unavailable):
        await ask(tmp_path, "numbers", count=1)


async def test_a_long_path_works(tmp_path) -> None:
    """A unix socket's path holds 107 bytes; data folders may be deeper."""
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    async with serving(folder):
        assert await ask(folder, "numbers", count=3) == [0, 1, 2]


async def test_a_dead_process_leaves_no_obstacle(tmp_path) -> None:
    """After kill -9 its socket file stays: the next owner of the folder takes its place."""
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(tmp_path / SOCKET_NAME))
    async with serving(tmp_path):
        assert await ask(tmp_path, "numbers", count=1) == [0]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"\x00\x00",
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff\xff\xff\xff",
        b"\x00\x00\x00\x01\xc1",
        b"\x00\x00\x00\x01\x01",
        b"\x00\x00\x00\x05\x81\xa2op\xc0",
        b"\x00\x00\x00\x05\x81\xa2op\x90",
        b"\x00\x00\x00\x03\x81\x90\x90",
        b"\x00\x00\x00\x04\x81\xa1\xff\x01",
        b"\x00\x00\x00\x01\x80",
        b"\x00\x10\x00\x01" + bytes(1 << 20),
        pack_message({"op": "numbers", "count": "x"}),
        pack_message({"op": "numbers", "count": None}),
        pack_message({"op": "numbers", 5: 1}),
        pack_message({"op": "numbers", "snap": 1, "count": 1}),
        pack_message({"op": "numbers", "self": 1}),
        pack_message([["op", "numbers"]]),
    ],
)
async def test_garbage_harms_nobody(tmp_path, request_bytes) -> None:
    """The connection is closed or gets an error, and the next one is served."""
    async with serving(tmp_path):
        stream = await trio.open_unix_socket(tmp_path / SOCKET_NAME)
        async with stream:
            # A request that is too long may be refused before all of it was sent.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(request_bytes)
                await stream.send_eof()
            with trio.fail_after(60), suppress(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
        assert await ask(tmp_path, "numbers", count=1) == [0]


@pytest.mark.parametrize(
    ("op", "arguments", "said"),
    [
        ("numbers", {"count": 1, "from_the_future": True}, "from_the_future"),
        ("numbers", {}, "count"),
        ("numbers", {"count": "many"}, "TypeError"),
        ("echo", {"value": 1, "from_the_future": True}, "from_the_future"),
        ("breaks", {}, "RuntimeError: a bug"),
        ("broken_write", {"value": 1}, "RuntimeError: a bug"),
    ],
)
async def test_what_cannot_be_answered_is_an_error_to_that_client_alone(
    tmp_path, op, arguments, said
) -> None:
    """An argument of a newer version, a wrong type, a bug: one sentence; an answer that is under way goes on."""
    async with serving(tmp_path):
        under_way = reader_of(tmp_path).ask("big", count=200)
        first = await trio.to_thread.run_sync(next, under_way)
        with pytest.raises(MatyanError, match=said):
            await ask(tmp_path, op, **arguments)
        rest = await trio.to_thread.run_sync(list, under_way)
        assert [first, *rest] == list(big(None, count=200))
        assert await ask(tmp_path, "numbers", count=1) == [0]


@pytest.mark.parametrize(
    ("value", "said"), [("a\udcff", r"'a\\udcff' is no valid Unicode"), (10**23, "beyond 64 bits")]
)
async def test_what_no_request_can_hold_is_a_sentence(tmp_path, value, said) -> None:
    """`matyan show $'\\xff'` and `matyan runs --limit 99999999999999999999999`, say."""
    async with serving(tmp_path):
        with pytest.raises(MatyanError, match=said):
            await ask(tmp_path, "echo", value={"run": [value]})


async def test_values_that_the_wire_does_not_know_come_as_text(tmp_path) -> None:
    """Another program may store a date; a reader gets its text, not an error."""
    async with serving(tmp_path):
        assert await ask(tmp_path, "odd") == [
            {"when": "2026-01-02 00:00:00+00:00", "what": "<class 'set'>"}
        ]


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that leave in their sockets what they are not asked for, as other programs may."""
    monkeypatch.setattr(spool, "HELD_BYTES", 1)
    monkeypatch.setattr(spool, "PATIENCE_S", 1_000.0)


async def test_whoever_came_before_the_end_is_answered(tmp_path) -> None:
    """Also who connected and was not yet taken. Who comes later finds no socket, and waits for the folder."""
    async with serving(tmp_path) as api:
        callers = [socket.socket(socket.AF_UNIX) for _ in range(20)]
        for caller in callers:
            caller.connect(str(tmp_path / SOCKET_NAME))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(api.finish)
            await trio.testing.wait_all_tasks_blocked()
            with socket.socket(socket.AF_UNIX) as late, pytest.raises(FileNotFoundError):
                late.connect(str(tmp_path / SOCKET_NAME))
            for caller in callers:
                caller.sendall(pack_message({"op": "numbers", "count": 3}))
    for caller in callers:
        with caller, caller.makefile("rb") as answer:
            assert answer.read() == pack_message([0, [0, 1, 2]]) + pack_message([1])


@pytest.mark.parametrize("patience", [0.0, 0.05])
async def test_a_reader_that_pauses_holds_up_nobody_and_gets_all(
    tmp_path, monkeypatch, patience
) -> None:
    """A pager may be left alone for hours: what it leaves waits on its own side, in memory and in a file, and the answer was
    taken long before."""
    monkeypatch.setattr(spool, "PATIENCE_S", patience)
    monkeypatch.setattr(server, "SEND_S", 5.0)
    async with serving(tmp_path) as api:
        paused = reader_of(tmp_path).ask("big", count=300)
        first = await trio.to_thread.run_sync(next, paused)
        with trio.fail_after(30):
            await api.idle()
        rest = await trio.to_thread.run_sync(list, paused)
        assert [first, *rest] == list(big(None, count=300))


async def test_a_reader_that_is_slow_gets_all_without_a_file(tmp_path, monkeypatch) -> None:
    """As long as it takes something: an export of any length needs no room elsewhere."""
    monkeypatch.setattr(spool, "HELD_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    async with serving(tmp_path):
        assert await ask(tmp_path, "big", count=300) == list(big(None, count=300))


async def test_a_pause_with_no_room_for_what_waits_is_a_sentence(tmp_path, monkeypatch) -> None:
    """Behind all that was taken."""
    monkeypatch.setattr(spool, "PATIENCE_S", 0.0)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    async with serving(tmp_path) as api:
        paused = reader_of(tmp_path).ask("big", count=300)
        first = await trio.to_thread.run_sync(next, paused)
        with trio.fail_after(30):
            await api.idle()
        taken = [first]
        with pytest.raises(MatyanError, match="set TMPDIR to a folder with more room"):
            await trio.to_thread.run_sync(taken.extend, paused)
        assert taken == list(big(None, count=len(taken)))
        assert 40 <= len(taken) < 300


async def test_an_error_comes_behind_what_was_answered_before(tmp_path, monkeypatch) -> None:
    """However long its reader pauses."""
    monkeypatch.setattr(spool, "HELD_BYTES", 1)
    monkeypatch.setattr(spool, "PATIENCE_S", 0.0)

    def breaks_late(snap: Snapshot) -> Iterator[bytes]:
        yield from big(snap, count=20)
        raise NotFound("no more")

    async with serving(tmp_path) as api:
        api._reads = {**READS, "breaks_late": breaks_late}
        paused = reader_of(tmp_path).ask("breaks_late")
        taken = [await trio.to_thread.run_sync(next, paused)]
        with trio.fail_after(30):
            await api.idle()
        with pytest.raises(NotFound, match="no more"):
            await trio.to_thread.run_sync(taken.extend, paused)
        assert taken == list(big(None, count=20))


async def test_who_leaves_in_a_pause_leaves_no_file_and_no_thread(tmp_path, monkeypatch) -> None:
    """`matyan logs RUN | less`, and q."""
    monkeypatch.setattr(spool, "HELD_BYTES", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for patience in 0.0, 1_000.0:
        monkeypatch.setattr(spool, "PATIENCE_S", patience)
        async with serving(tmp_path) as api:
            left = reader_of(tmp_path).ask("big", count=300)
            await trio.to_thread.run_sync(next, left)
            await trio.to_thread.run_sync(left.close)
            with trio.fail_after(30):
                await api.idle()
            assert [one.name for one in threading.enumerate() if one.name == "matyan answer"] == []
    assert not list(tmp_path.glob("matyan-*"))


@pytest.mark.usefixtures("unread")
async def test_many_clients_that_do_not_read_hold_up_nobody(tmp_path) -> None:
    """More of them than reads run at once: others are answered, and they themselves as soon as they read."""
    async with serving(tmp_path):
        stalled = [reader_of(tmp_path).ask("big", count=30) for _ in range(20)]
        for one in stalled:
            await trio.to_thread.run_sync(next, one)
        assert await ask(tmp_path, "numbers", count=10) == list(range(10))
        for one in stalled:
            assert len(await trio.to_thread.run_sync(list, one)) == 29


@pytest.mark.usefixtures("unread")
async def test_a_client_that_does_not_read_is_dropped_after_a_while(tmp_path, monkeypatch) -> None:
    """Its snapshot is let go, so that the store's files can go; it learns that its answer is not whole."""
    monkeypatch.setattr(server, "SEND_S", 1.0)
    async with serving(tmp_path) as api:
        stalled = reader_of(tmp_path).ask("big", count=10_000)
        await trio.to_thread.run_sync(next, stalled)
        with trio.fail_after(60):
            await api.idle()
        with pytest.raises(Unavailable):
            await trio.to_thread.run_sync(list, stalled)


@pytest.mark.usefixtures("unread")
async def test_a_client_that_does_not_read_holds_up_no_recovery(tmp_path) -> None:
    """A store that must be opened again takes the snapshot of who is answered slowly; writes and reads go on at once."""
    async with serving(tmp_path) as api:
        stalled = [reader_of(tmp_path).ask("big", count=10_000) for _ in range(10)]
        for one in stalled:
            await trio.to_thread.run_sync(next, one)
        store = api._store
        store._failure = Unavailable("the disk was full")
        with trio.fail_after(60):
            await store.transact(lambda tr: tr.set(b"\x01other", b"value"))
        assert await ask(tmp_path, "stored") == [[b"\x01key", b"value"], [b"\x01other", b"value"]]
        for one in stalled:
            with pytest.raises(Unavailable):
                await trio.to_thread.run_sync(list, one)
        with trio.fail_after(60):
            await api.idle()


async def test_a_client_that_leaves_in_the_middle_harms_nobody(tmp_path) -> None:
    """`matyan export | head` ends while the answer is under way, many times."""

    def first(count: int) -> object:
        return next(iter(reader_of(tmp_path).ask("big", count=count)))

    async with serving(tmp_path) as api:
        for _ in range(20):
            await trio.to_thread.run_sync(first, 10_000)
        with trio.fail_after(60):
            await api.idle()
        assert await ask(tmp_path, "numbers", count=1) == [0]


@pytest.mark.usefixtures("unread")
async def test_a_client_that_does_not_read_costs_bounded_memory(tmp_path) -> None:
    """The scan waits for its client: nothing is gathered in between, and others are served."""
    seen = 0

    def counted(snap: Snapshot) -> Iterator[bytes]:
        nonlocal seen
        for piece in big(snap, count=10_000):
            seen += 1
            yield piece

    async with serving(tmp_path) as api:
        api._reads = {**READS, "counted": counted}
        stalled = reader_of(tmp_path).ask("counted")
        await trio.to_thread.run_sync(next, stalled)
        assert await ask(tmp_path, "numbers", count=1) == [0]
        assert seen < 100
        stalled.close()
        with trio.fail_after(60):
            await api.idle()
