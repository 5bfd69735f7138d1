"""`cleanup-orphan-blobs`, `cleanup-tombstones` and `finish-stale`: what goes, and what must not."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from matyan.blobs.folder import FolderBlobs
from matyan.broker.base import ControlEvent
from matyan.errors import ConfigurationError, NotFound
from matyan.jobs.orphan_blobs import cleanup_orphan_blobs
from matyan.jobs.stale import finish_stale
from matyan.jobs.tombstones import cleanup_tombstones
from matyan.keys import Keys, pack_value
from tests.jobs.asked import FREE, asking, reporting
from tests.ledger import T0, Ledger, record

DAY = 86_400.0


async def put(blobs: FolderBlobs, root: Path, key: str, age_s: float) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"x"

    run, _, path = key.partition("/")
    await blobs.receive(run, path, "text/plain", chunks(), 100)
    file = max((root / run).iterdir(), key=lambda file: file.stat().st_mtime_ns)
    os.utime(file, (time.time() - age_s,) * 2)


async def keys(blobs: FolderBlobs) -> set[str]:
    return {blob.key async for page in blobs.pages() for blob in page}


@pytest.fixture
def ledger() -> Ledger:
    """The run r with one blob that a record names, and another one under a path of its own; gone was deleted."""
    made = Ledger()
    made.apply(
        record("blob_ref", s3_key="r/named", artifact_path="named", content_type="x/y"),
        record("blob_ref", s3_key="r/elsewhere", artifact_path="alias", content_type="x/y"),
        record("blob_ref", "gone", s3_key="gone/a", artifact_path="a", content_type="x/y"),
    )
    made.apply(record("delete_run", "gone", 10.0))
    return made


OBJECTS = {
    "r/named": 9 * DAY,
    "r/elsewhere": 9 * DAY,
    "r/old": 2 * DAY,
    "r/young": 60.0,
    "gone/a": 60.0,
    "gone/late/b": 0.0,
    "unknown/old": 2 * DAY,
    "unknown/young": 60.0,
}


@pytest.fixture
async def blobs(tmp_path: Path) -> FolderBlobs:
    made = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    for key, age_s in OBJECTS.items():
        await put(made, tmp_path / "blobs", key, age_s)
    return made


async def clean(ledger: Ledger, blobs: FolderBlobs, **more: Any) -> tuple[set[str], dict[str, int]]:
    """What is left, and what the job says that it did."""
    applied = more.pop("is_applied", True)
    report, _ = reporting(**more)
    await cleanup_orphan_blobs(
        asking(ledger), FREE, report, blobs=blobs, older_than_s=DAY, is_applied=applied
    )
    return await keys(blobs), report.done


async def test_orphans_go_and_nothing_else(ledger: Ledger, blobs: FolderBlobs) -> None:
    """All objects of deleted runs, whatever their age, and old ones that no record names."""
    left, done = await clean(ledger, blobs)
    assert left == {"r/named", "r/elsewhere", "r/young", "unknown/young"}
    assert done["objects deleted"] == 4
    assert done["objects looked at"] == len(OBJECTS)


async def test_a_dry_run_and_a_limit_of_orphans(ledger: Ledger, blobs: FolderBlobs) -> None:
    left, done = await clean(ledger, blobs, dry_run=True)
    assert left == set(OBJECTS)
    assert done["objects that would be deleted"] == 4
    left, done = await clean(ledger, blobs, limit=3)
    assert len(left) == len(OBJECTS) - 3


async def test_what_may_still_be_named_stays(ledger: Ledger, blobs: FolderBlobs) -> None:
    """While the ingestion is behind, only objects of deleted runs go."""
    left, _ = await clean(ledger, blobs, is_applied=False)
    assert left == {key for key in OBJECTS if not key.startswith("gone/")}


async def test_an_empty_store_deletes_nothing(blobs: FolderBlobs) -> None:
    """It is not the one that these objects belong to."""
    with pytest.raises(ConfigurationError, match="holds no run"):
        await clean(Ledger(), blobs)
    assert await keys(blobs) == set(OBJECTS)


# --- tombstones ----------------------------------------------------------------------------------


async def forget(ledger: Ledger, blobs: FolderBlobs, **more: Any) -> set[str]:
    """The runs whose tombstones are left."""
    arguments = {"older_than_s": DAY, "oldest_record": None, **more}
    options = {name: arguments.pop(name) for name in ("dry_run", "limit") if name in arguments}
    report, _ = reporting(**options)
    await cleanup_tombstones(asking(ledger), FREE, report, blobs=blobs, **arguments)
    root = len(ledger.keys.tombstones_prefix())
    found = (
        key[root:] for key in ledger.store.rows if key.startswith(ledger.keys.tombstones_prefix())
    )
    return {name.strip(b"\x02\x00").decode() for name in found}


async def test_a_tombstone_goes_when_nothing_can_bring_its_run_back(
    tmp_path: Path,
) -> None:
    """Old enough, no objects, no event that waits, and no older record in the log."""
    ledger = Ledger()
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    now = time.time() - T0
    for run, age_s in {"old": 9 * DAY, "young": 60.0, "full": 9 * DAY, "told": 9 * DAY}.items():
        ledger.apply(record("delete_run", run, now - age_s))
    await put(blobs, tmp_path / "blobs", "full/a", 0.0)
    event = ControlEvent("run_deleted", T0, {"run_id": "told"}).to_bytes()
    ledger.store.commit(lambda tr: tr.set(ledger.keys.control_event(1), event))
    everyone = {"old", "young", "full", "told"}

    assert await forget(ledger, blobs, dry_run=True) == everyone
    assert await forget(ledger, blobs, older_than_s=10 * DAY) == everyone
    assert await forget(ledger, blobs, oldest_record=time.time() - 10 * DAY) == everyone
    assert await forget(ledger, blobs, oldest_record=time.time() - 8 * DAY) == everyone - {"old"}
    await blobs.delete_run("full")
    ledger.store.commit(lambda tr: tr.clear(ledger.keys.control_event(1)))
    assert await forget(ledger, blobs, limit=1) in ({"young", "full"}, {"young", "told"})
    assert await forget(ledger, blobs) == {"young"}


ROWS: dict[str, Callable[[Keys], bytes]] = {
    "data": lambda keys: keys.meta("odd", "name"),
    "an index": lambda keys: keys.reverse_index("odd", "tag", "x", "odd"),
    "activity": lambda keys: keys.activity("odd"),
    "a deletion that goes on": lambda keys: keys.owed_deletion("odd"),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=[*ROWS])
async def test_a_tombstone_whose_run_has_rows_stays(
    tmp_path: Path, row: Callable[[Keys], bytes]
) -> None:
    """The worker, or `check --repair`, takes them away first: without the tombstone they would be a run again."""
    ledger = Ledger()
    ledger.apply(record("delete_run", "odd", 0.0))
    ledger.store.commit(lambda tr: tr.set(row(ledger.keys), pack_value("x")))
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    assert await forget(ledger, blobs) == {"odd"}


# --- runs that nobody ended ------------------------------------------------------------------------


async def test_runs_that_are_heard_of_are_not_ended() -> None:
    """Nor those that had ended, or were deleted while the list was read."""
    now = time.time() - T0
    ledger = Ledger()
    for run, age_s in {"stale": 2 * DAY, "lively": 60.0, "ended": 2 * DAY, "away": 3 * DAY}.items():
        ledger.apply(record("create_run", run, now - age_s, client_datetime=None))
    ledger.apply(record("finish_run", "ended", now - DAY * 2))
    finished = []

    async def finish(*, run: str, stale: bool) -> AsyncIterator[object]:
        assert stale
        if run == "away":
            raise NotFound("There is no run away.")
        finished.append(run)
        yield {"run": run, "was_active": True, "duration": 1.0}

    ask = asking(ledger, finish=finish)
    report, lines = reporting(dry_run=True)
    await finish_stale(ask, FREE, report, older_than_s=DAY)
    assert finished == []
    assert sorted(lines) == ["would finish away", "would finish stale"]
    report, _ = reporting()
    await finish_stale(ask, FREE, report, older_than_s=DAY)
    assert finished == ["stale"]
    assert report.done == {"runs finished": 1}
