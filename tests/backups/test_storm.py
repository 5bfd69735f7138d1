"""Backups in the midst of clients that log, upload and delete: each is a moment of every run.

MATYAN_TEST_AT_LENGTH=1 makes more of them; MATYAN_BACKUP_SEED takes the seed that a failure prints.
"""

from __future__ import annotations

import os
import random
import threading
from itertools import count
from pathlib import Path

from matyan import reader
from tests.backups.made import backed_up, restored, upload, verified
from tests.faults.load import AT_LENGTH, Client, wait_for_load
from tests.tracker import Tracker, matyan, running

_BACKUPS = 25 if AT_LENGTH else 4


class Uploads(threading.Thread):
    """Uploads artifacts of one run, each as large as its number says, some of them anew."""

    def __init__(self, tracker: Tracker, run: str, seed: int) -> None:
        super().__init__(daemon=True)
        self.run_id = run
        self.acknowledged: dict[str, set[int]] = {}
        """By path: which contents were acknowledged, the newest and those that it may still have."""
        self.failed: list[BaseException] = []
        self._tracker = tracker
        self._random = random.Random(seed)
        self._ended = threading.Event()

    def run(self) -> None:
        try:
            for number in count(1):
                if self._ended.is_set():
                    return
                path = f"a/{self._random.randrange(40)}"
                upload(self._tracker, self.run_id, path, content(number))
                self.acknowledged.setdefault(path, set()).add(number)
        except BaseException as error:
            self.failed.append(error)
            raise

    def finish(self) -> None:
        self._ended.set()
        self.join(90)
        assert not self.failed


def content(number: int) -> bytes:
    return number.to_bytes(4, "big") * (1 + number % 2_000)


def test_each_backup_is_a_moment_of_every_run(tmp_path: Path) -> None:
    """What was acknowledged before it began is in it, with its artifacts, and of each run a beginning of what was sent; `check`
    finds nothing in it; nobody who logs was told of trouble."""
    seed = int(os.environ.get("MATYAN_BACKUP_SEED") or random.randrange(1 << 32))
    print(f"MATYAN_BACKUP_SEED={seed}")
    chance = random.Random(seed)
    to = tmp_path / "to"
    expected = {}
    with running(tmp_path / "data") as tracker:
        clients = [
            Client(tracker.url, f"raw-{n}", per_frame=chance.choice([1, 20])) for n in range(3)
        ]
        uploads = Uploads(tracker, "up-1", seed)
        for thread in (*clients, uploads):
            thread.start()
        for number in range(_BACKUPS):
            wait_for_load(clients)
            upload(tracker, f"doomed-{number}", "x", b"x" * 10)
            before = {client.run_id: {*client.ledger.acknowledged} for client in clients}
            artifacts = {
                path: max(numbers) for path, numbers in uploads.acknowledged.copy().items()
            }
            deleting = threading.Thread(
                target=matyan, args=("delete", f"doomed-{number}", "--yes", "--data", tracker.data)
            )
            deleting.start()
            words = ("--full",) if chance.random() < 0.3 else ()
            name = backed_up(tracker.data, to, *words)["name"]
            deleting.join()
            expected[name] = before, artifacts
        for client in clients:
            client.finish()
            assert client.closes == []
            assert client.ledger.acknowledged == client.ledger.sent
        uploads.finish()
        assert tracker.stop() == 0
    assert verified(to) == {name: set() for name in expected}
    for number, (name, (before, artifacts)) in enumerate(expected.items()):
        again = restored(to, tmp_path / name, name)
        with reader.open(again) as opened:
            for run, acknowledged in before.items():
                stored = [*opened.metric(run, "loss", {"subset": "train"}).values]
                # Values are sent in their order, each once.
                assert stored == [float(value) for value in range(len(stored))]
                assert {*stored} >= acknowledged
            for path, least in artifacts.items():
                bytes_ = opened.artifact("up-1", path).read()
                which = int.from_bytes(bytes_[:4], "big")
                assert bytes_ == content(which)
                assert which >= least
            rows = {row["run"]: [*opened.artifacts(row["run"])] for row in opened.runs()}
            # A run that is there has its artifact, one that was deleted before has none.
            assert [one["bytes"] for one in rows.get(f"doomed-{number}", [{"bytes": 10}])] == [10]
        assert matyan("check", "--data", again).stdout == ""
