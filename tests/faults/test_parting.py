"""A deleted experiment leaves all of its runs, however often the process that takes them out of it is killed."""

from __future__ import annotations

import json
import signal
import urllib.request
from functools import partial
from pathlib import Path

from matyan.folder.folder import open_folder
from matyan.folder.lent import LentStore
from matyan.keys import Keys, range_of
from matyan.rules import entities, runs
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction
from tests.tracker import Tracker, matyan, running
from tests.until import until

RUNS = 1_500
KILLS = 2


def join(keys: Keys, first: int, tr: Transaction) -> None:
    for number in range(first, first + 500):
        rows = RunRows(tr, keys, f"r{number:04}")
        runs.create(rows, 1.0)
        uuid = entities.set_experiment(rows, "gone", 1.0)
        runs.put_meta(rows, 1.0, {"experiment_id": uuid})


def members(keys: Keys, snap: Snapshot) -> int:
    return sum(1 for _ in snap.scan(*range_of(keys.index("experiment", "gone"))))


def traces(keys: Keys, uuid: str, snap: Snapshot) -> list[bytes]:
    """All rows that name the experiment."""
    pairs = (pair for space in (keys.runs, keys.system) for pair in snap.scan(*range_of(space)))
    return [key for key, value in pairs if uuid.encode() in key + value]


def delete(tracker: Tracker) -> str:
    """Deletes the only experiment; its id."""
    base = f"{tracker.url}/api/v1/rest/experiments"
    (there,) = json.loads(urllib.request.urlopen(base).read())
    assert there["run_count"] == RUNS
    uuid = str(there["id"])
    asked = urllib.request.Request(f"{base}/{uuid}", method="DELETE")
    assert urllib.request.urlopen(asked).status == 200
    return uuid


async def test_kills_leave_the_rest_to_the_next_process(tmp_path: Path) -> None:
    """It is hidden when the answer comes; its rows are gone when a process was let alone, and nothing else is."""
    data = tmp_path / "data"
    async with open_folder(data, None) as folder:
        for first in range(0, RUNS, 500):
            await folder.store.transact(partial(join, folder.keys, first))
    left = []
    with running(data) as tracker:
        uuid = delete(tracker)
        tracker.stop(signal.SIGKILL)
    for _ in range(KILLS):
        async with open_folder(data, None) as folder:
            left.append(await folder.store.read(partial(members, folder.keys)))
        with running(data) as tracker:
            tracker.stop(signal.SIGKILL)
    assert RUNS >= left[0] > 0, "it was killed in the midst of it"
    assert left == sorted(left, reverse=True)
    with running(data) as tracker:
        store = LentStore(data)
        keys = Keys(store)

        async def is_through() -> bool:
            return not await store.read(partial(members, keys))

        await until(is_through)
        assert await store.read(partial(traces, keys, uuid)) == []
        assert tracker.stop() == 0
    assert matyan("check", "--data", data).stdout == ""
