"""The unix socket of a data folder, with a real store behind it and the real client before it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from matyan.errors import ConfigurationError, NotFound, Unavailable
from matyan.local_api import LocalAPI
from matyan.reader import SOCKET_NAME, Reader
from matyan.store.base import Snapshot
from matyan.store.rocks import open_rocks


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


async def echo(*, value: object) -> AsyncIterator[object]:
    yield value
    if value == "bad":
        raise ConfigurationError("not this")


READS = {"numbers": numbers, "big": big, "stored": stored, "missing": missing}


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[LocalAPI]:
    store = open_rocks(folder / "rocksdb")
    await store.transact(lambda tr: tr.set(b"\x01key", b"value"))
    api = LocalAPI(folder, store, READS, {"echo": echo})
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(api.serve)
            yield api
            nursery.cancel_scope.cancel()
    finally:
        await store.aclose()


async def ask(folder: Path, op: str, **arguments: object) -> list[object]:
    def asking() -> list[object]:
        return list(Reader(folder).ask(op, **arguments))

    with trio.fail_after(30):
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
    ],
)
async def test_garbage_harms_nobody(tmp_path, request_bytes) -> None:
    """The connection is closed or gets an error, and the next one is served."""
    async with serving(tmp_path):
        stream = await trio.open_unix_socket(tmp_path / SOCKET_NAME)
        async with stream:
            await stream.send_all(request_bytes)
            await stream.send_eof()
            with trio.fail_after(5):
                while await stream.receive_some():
                    pass
        assert await ask(tmp_path, "numbers", count=1) == [0]


async def test_a_client_that_leaves_in_the_middle_harms_nobody(tmp_path) -> None:
    """`matyan export | head` ends while the answer is under way, many times."""

    def first(count: int) -> object:
        return next(iter(Reader(tmp_path).ask("big", count=count)))

    async with serving(tmp_path) as api:
        for _ in range(20):
            await trio.to_thread.run_sync(first, 10_000)
        with trio.fail_after(10):
            await api.idle()
        assert await ask(tmp_path, "numbers", count=1) == [0]


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
        stalled = Reader(tmp_path).ask("counted")
        await trio.to_thread.run_sync(next, stalled)
        assert await ask(tmp_path, "numbers", count=1) == [0]
        assert seen < 100
        stalled.close()
        with trio.fail_after(10):
            await api.idle()
