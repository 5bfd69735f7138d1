"""A store that remembers a moment for 5 s: commands and `matyan.reader` get everything, and say that it is of several moments."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from matyan import reader
from matyan._codec import Columns, encode_chunk, key_int
from matyan.cli.export import export
from matyan.cli.reading import logs
from matyan.folder.server import LocalAPI
from matyan.keys import CHUNK
from matyan.rules.queries import Queries
from matyan.rules.sequences import Sequences
from tests.ledger import Ledger, metric, record
from tests.memory_store import MemoryStore

CHUNK_POINTS = 1_024


@asynccontextmanager
async def answering(folder: Path, ledger: Ledger) -> AsyncIterator[None]:
    """Whoever holds a data folder, on the ledger's store."""
    (folder / "rocksdb").mkdir()
    queries = Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))
    reads: dict[str, Any] = {
        op: getattr(queries, op) for op in ("runs", "show", "logs", "export", "find")
    }
    api = LocalAPI(folder, ledger.store, reads, {})
    async with trio.open_nursery() as nursery:
        await nursery.start(api.serve)
        yield
        nursery.cancel_scope.cancel()


def fill(ledger: Ledger, run: str, name: str, count: int) -> None:
    """So many points, in full chunks."""
    ledger.apply(metric(name, 0.0, 0, run))
    prefix = ledger.keys.seq(run, 0, name) + CHUNK
    columns = Columns()
    for step in range(count):
        columns.append(step, step / 2, 1.0, None)
    rows = dict(ledger.store.rows)
    for n, begin in enumerate(range(0, count, CHUNK_POINTS)):
        end = min(begin + CHUNK_POINTS, count)
        rows[key_int(prefix, n)] = encode_chunk(
            columns, begin, end, level=2, ordered=True, before=begin
        )
    ledger.store.rows = rows


async def test_five_million_points_are_read_over_several_moments(tmp_path: Path) -> None:
    """All of them, once and in order, while points are appended elsewhere."""
    count = 5_000_000
    ledger = Ledger()
    # Each page of a scan takes a quarter of a second.
    ledger.store = MemoryStore(round_trip_s=0.25)
    fill(ledger, "r", "m", count)

    def read() -> tuple[int, bool, int]:
        with reader.open(tmp_path) as opened:
            assert opened.moments == 1
            found = opened.metric("r", "m")
            in_order = all(a + 1 == b for a, b in zip(found.steps, found.steps[1:], strict=False))
            return len(found), in_order and found.steps[0] == 0, opened.moments

    async with answering(tmp_path, ledger):
        length, in_order, moments = await trio.to_thread.run_sync(read)
    assert length == count
    assert in_order
    assert moments > 3


@pytest.mark.parametrize("round_trip_s", [0.0, 1.0])
async def test_a_command_says_that_its_answer_is_of_several_moments(
    tmp_path: Path, round_trip_s: float
) -> None:
    """On standard error, and only then."""
    ledger = Ledger()
    ledger.store = MemoryStore(round_trip_s=round_trip_s)
    ledger.apply(
        *(record("log_terminal_line", line=f"line {i}", step=i) for i in range(1_000)),
        *(metric("m", 1.0, i) for i in range(10)),
    )
    async with answering(tmp_path, ledger):
        for command in logs, export:
            done = await trio.to_thread.run_sync(
                partial(CliRunner().invoke, command, ["r", "--data", str(tmp_path)])
            )
            assert done.exit_code == 0, done.output
            if command is logs:
                assert done.stdout.count("line ") == 1_000
            assert ("moments" in done.stderr) == (round_trip_s > 0)
