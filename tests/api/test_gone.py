"""An answer ends with its client: whatever reads for it, reads no more."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
import trio
from websockets.sync.client import connect

from matyan.api.answers import Reads
from matyan.api.gone import ClientGone, WatchedSnapshot
from matyan.api.runs import View
from matyan.keys import Keys
from matyan.rules.sequences import Sequences
from matyan.service.http1 import SEND_S
from matyan.store.rocks import open_rocks
from tests.tracker import Tracker, running
from tests.until import until, wait_for

ROWS = 5_000


@asynccontextmanager
async def reads_of(folder: Path) -> AsyncIterator[Reads]:
    store = open_rocks(folder)
    keys = Keys(store)
    await store.transact(
        lambda tr: tr.update([(keys.run_tag("r", f"{n:05}"), b"") for n in range(ROWS)])
    )
    reads = Reads(store, keys, Sequences(keys, "packed"))
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(reads.run)
            yield reads
            nursery.cancel_scope.cancel()
    finally:
        await store.aclose()


async def test_threads_take_turns_sooner_only_while_something_is_read(tmp_path: Path) -> None:
    """It costs the ingestion a tenth of its CPU."""
    usual = sys.getswitchinterval()

    def rows(view: View) -> Iterator[bytes]:
        assert sys.getswitchinterval() < usual / 10
        yield b"row"

    async with reads_of(tmp_path) as reads:
        assert sys.getswitchinterval() == usual
        assert [piece async for piece in await reads.stream(rows)] == [b"row"]
        assert await reads.one(lambda view: sys.getswitchinterval()) < usual / 10
        assert sys.getswitchinterval() == usual


class Client:
    """Whether it has gone is asked in another thread."""

    gone = False

    def is_gone(self) -> bool:
        return self.gone


async def test_a_stream_ends_with_its_client(tmp_path: Path) -> None:
    """Also one that finds nothing any more; what it reads from is closed."""
    client, passed, closed = Client(), count(), trio.Event()
    token = trio.lowlevel.current_trio_token()

    def rows(view: View) -> Iterator[bytes]:
        try:
            yield b"first"
            while True:
                next(passed)
                yield b""
        finally:
            token.run_sync_soon(closed.set)

    async with reads_of(tmp_path) as reads:
        body = await reads.stream(rows, client.is_gone)
        assert await anext(body) == b"first"
        client.gone = True
        await closed.wait()
        with pytest.raises(StopAsyncIteration):
            await anext(body)


async def test_a_stream_that_nobody_waits_for_any_more_ends(tmp_path: Path) -> None:
    """Before its first piece is there: a moment of the store is not kept for what cannot be sent."""
    begun, closed, go_on = trio.Event(), trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    def rows(view: View) -> Iterator[bytes]:
        token.run_sync_soon(begun.set)
        try:
            go_on.wait()
            yield b"first"
            yield b"second"
        finally:
            token.run_sync_soon(closed.set)

    async with reads_of(tmp_path) as reads:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reads.stream, rows, lambda: False)
            await begun.wait()
            nursery.cancel_scope.cancel()
        go_on.set()
        with trio.fail_after(SEND_S / 2):
            await closed.wait()


async def test_one_long_step_of_a_stream_ends_with_its_client(tmp_path: Path) -> None:
    """A sort, an index of a million runs, one metric of ten million points: nothing is yielded meanwhile."""
    client, ended, scanned = Client(), trio.Event(), count()
    token = trio.lowlevel.current_trio_token()

    def rows(view: View) -> Iterator[bytes]:
        yield b"first"
        try:
            while True:
                for _ in view.snap.scan(*view.keys.run_range("r")):
                    next(scanned)
        finally:
            token.run_sync_soon(ended.set)

    async with reads_of(tmp_path) as reads:
        body = await reads.stream(rows, client.is_gone)
        assert await anext(body) == b"first"
        await until(lambda: _count(scanned) > ROWS)
        client.gone = True
        await ended.wait()


def _count(counter: Iterator[int]) -> int:
    return int(repr(counter)[len("count(") : -1])


def test_a_scan_and_a_get_look_for_the_client(tmp_path: Path) -> None:
    """Not each time: the kernel is asked."""
    client, asked = Client(), count()

    def is_gone() -> bool:
        next(asked)
        return client.gone

    async def work() -> None:
        async with reads_of(tmp_path) as reads, reads.store.snapshot() as snap:
            watched = WatchedSnapshot(snap, is_gone, lambda: 0)
            place = reads.keys.run_range("r")
            assert sum(1 for _ in watched.scan(*place)) == ROWS
            assert [*watched.scan(*place, limit=3, reverse=True)] == [
                *snap.scan(*place, limit=3, reverse=True)
            ]
            assert watched.get(reads.keys.run_tag("r", "00007")) == b""
            assert _count(asked) < 10
            client.gone = True
            with pytest.raises(ClientGone):
                for _ in iter(lambda: [*watched.scan(*place)], None):
                    pass
            with pytest.raises(ClientGone):
                for _ in iter(lambda: watched.get(b"r"), b""):
                    pass

    trio.run(work)


RUNS = 150
SLOW = "sum(x for x in range(60000)) < 0"
"""Some 20 ms a run."""


def test_a_search_ends_when_its_connection_is_closed(tmp_path: Path) -> None:
    """By the CPU that is used behind it: a search of all these runs takes seconds of it."""
    with running(tmp_path / "data") as tracker:
        for run in range(RUNS):
            with connect(f"{tracker.url.replace('http', 'ws')}/api/v1/ws/runs/run{run}") as sent:
                sent.send('{"type": "create_run", "client_datetime": "2026-01-02T03:04:05Z"}')
                assert '"ok"' in str(sent.recv())
        place = urllib.parse.urlsplit(tracker.url)
        path = f"/api/v1/rest/runs/search/run?q={urllib.parse.quote(SLOW)}"
        before = cpu_of(tracker)
        with socket.create_connection((place.hostname, place.port)) as client:
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\n\r\n".encode())
            wait_for(lambda: cpu_of(tracker) > before + 0.2)
        closed = cpu_of(tracker)
        wait_for(lambda: is_idle(tracker))
        assert cpu_of(tracker) - closed < 1


def cpu_of(tracker: Tracker) -> float:
    """CPU seconds of its process."""
    fields = Path(f"/proc/{tracker.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) / os.sysconf("SC_CLK_TCK")


def is_idle(tracker: Tracker) -> bool:
    before = cpu_of(tracker)
    time.sleep(0.3)
    return cpu_of(tracker) - before < 0.1
