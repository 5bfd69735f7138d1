"""The jobs as commands: on a folder that nobody holds and on one that a tracker does, once and as a service."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import trio

from matyan.blobs.folder import FolderBlobs
from matyan.folder.folder import open_folder
from matyan.keys import Keys, pack_value
from matyan.store.base import Transaction
from tests.cli.test_changes import DAY, killed
from tests.cli.test_main import fill
from tests.services import serving
from tests.tracker import asked, matyan, running
from tests.until import wait_for

__all__ = ["killed"]


def changed(data: Path, change: Callable[[Transaction, Keys], object]) -> None:
    """Changes rows of a folder that nobody holds."""

    async def write() -> None:
        async with open_folder(data, None) as folder:
            await folder.store.transact(lambda tr: change(tr, folder.keys))

    trio.run(write)


def test_stale_runs_are_finished(killed: Path) -> None:
    """Those that were not heard of for so long, when they were last heard of; whoever holds the folder."""
    told = matyan("finish-stale", "--data", killed, "--older-than", "12h", "--dry-run")
    assert told.stdout == "would finish killed-1\n"
    told = matyan("finish-stale", "--data", killed, "--older-than", "12h")
    assert told.stdout == "finished killed-1\n"
    assert "finish-stale: 1 runs finished" in told.stderr
    with running(killed) as tracker:
        told = matyan("finish-stale", "--store", f"rocks:{killed}", "--older-than", "30min")
        assert told.stdout == "finished killed-2\n"
        rows = {row["run"]: row["active"] for row in asked("runs", "--data", killed)}
        assert tracker.stop() == 0
    assert rows == {"ended-1": False, "going-1": True, "killed-1": False, "killed-2": False}


def test_damage_is_found_and_mended(killed: Path) -> None:
    """Exit code 1 as long as something is left, 0 when all was mended; a tracker that goes on sees the mend at once."""
    assert matyan("check", "--data", killed).stdout == ""
    changed(killed, lambda tr, keys: tr.clear(keys.index("active", True, "going-1")))
    told = matyan("check", "--data", killed, check=1)
    assert told.stdout.startswith("index-missing\tgoing-1\tactive True\t")
    assert matyan("reindex", "--data", killed, "--dry-run", check=1).stdout == told.stdout
    with running(killed) as tracker:
        assert "going-1" not in {row["run"] for row in asked("runs", "--data", killed, "--active")}
        told = matyan("check", "--data", killed, "--repair")
        assert told.stdout.startswith("mended: index-missing\tgoing-1\t")
        assert "going-1" in {row["run"] for row in asked("runs", "--data", killed, "--active")}
        assert tracker.stop() == 0
    told = matyan("reindex", "--data", killed)
    assert (told.stdout, "rows read" in told.stderr) == ("", True)


def test_a_job_that_another_process_runs_is_left_to_it(killed: Path) -> None:
    """One sentence, exit code 1, and nothing done; without a lock it is done all the same."""
    changed(killed, lambda tr, keys: tr.set(keys.job_lock("check"), pack_value(time.time() + 60)))
    told = matyan("check", "--data", killed, check=1)
    assert "Another process runs check" in told.stderr
    matyan("check", "--data", killed, "--cleanup-job-lock-ttl-seconds", "0")


def test_a_loop_runs_again_and_tells_of_it(killed: Path) -> None:
    """It serves its counts, and lets go of the folder between two runs; SIGTERM ends it."""
    with serving("check", "--data", str(killed), "--every", "1s") as job:
        wait_for(lambda: sum(job.metric('matyan_job_runs_total{job="check",outcome="ok"}')) >= 2)
        assert sum(job.metric('matyan_job_done_total{job="check",what="rows read"}')) > 50
        assert asked("runs", "--data", killed)
        assert job.stop() == 0
    assert "a job is done" in "".join(job.output)
    assert "expected 1 s at least" in matyan("reindex", "--every", "0s", check=2).stderr


def test_objects_and_tombstones_of_a_tracker_go(tmp_path: Path) -> None:
    """Objects of deleted runs and old ones that no record names; then the tombstones, when they are old enough."""
    data = tmp_path / "data"
    with running(data) as tracker:
        fill(tracker, "kept-1")
        fill(tracker, "gone-1")
        matyan("delete", "--data", data, "--yes", "gone-1")
        assert tracker.stop() == 0
    trio.run(put, data / "blobs", {"gone-1/late": 0.0, "kept-1/old": 2 * DAY, "kept-1/new": 0.0})
    told = matyan("cleanup-orphan-blobs", "--data", data, "--dry-run")
    assert told.stdout == "would delete gone-1/late\nwould delete kept-1/old\n"
    words = ("cleanup-tombstones", "--data", data, "--tombstone-cleanup-older-than-hours", "0")
    assert "1 tombstones kept for their objects" in matyan(*words).stderr
    with running(data) as tracker:
        told = matyan("cleanup-orphan-blobs", "--data", data)
        assert told.stdout == "deletes gone-1/late\ndeletes kept-1/old\n"
        assert "2 objects deleted" in told.stderr
        assert "1 tombstones gone" in matyan(*words).stderr
        assert tracker.stop() == 0
    assert trio.run(keys, data / "blobs") == {"kept-1/new"}
    assert matyan("check", "--data", data).stdout == ""


async def put(root: Path, objects: dict[str, float]) -> None:
    blobs = FolderBlobs(root, b"secret", 60)
    for key, age_s in objects.items():

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"

        run, _, path = key.partition("/")
        before: set[Any] = set((root / run).iterdir()) if (root / run).exists() else set()
        await blobs.receive(run, path, "text/plain", chunks(), 100)
        (file,) = set((root / run).iterdir()) - before
        os.utime(file, (time.time() - age_s,) * 2)


async def keys(root: Path) -> set[str]:
    blobs = FolderBlobs(root, b"secret", 60)
    return {blob.key async for page in blobs.pages() for blob in page}
