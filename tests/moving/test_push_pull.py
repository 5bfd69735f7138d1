"""`matyan push` and `matyan pull` between real trackers: what arrives is what was logged, once."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from matyan import reader
from tests.moving.runs import every_kind, everything, log, upload
from tests.tracker import Tracker, matyan, running

SEEDS = range(100 if os.environ.get("MATYAN_TEST_LONG") == "1" else 12)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    """A tracker with a run of each seed."""
    with running(tmp_path_factory.mktemp("move") / "source") as tracker:
        for seed in SEEDS:
            log(tracker.url, f"run-{seed}", every_kind(seed))
            upload(tracker.url, f"run-{seed}", f"seq/x/{seed}.png", b"png" * seed, "image/png")
        upload(tracker.url, "run-1", "a/large one.bin", os.urandom(3_000_000))
        upload(tracker.url, "run-1", "never/uploaded", b"")
        yield tracker


def test_what_is_pushed_and_pulled_back_is_what_was_logged(source: Tracker, tmp_path: Path) -> None:
    """There and back, by way of a tracker and into a folder that nobody holds."""
    with running(tmp_path / "there") as there:
        pushed = matyan("push", "--all", "--data", source.data, "--to", there.url)
        assert pushed.stdout.startswith(f"{len(SEEDS)} runs sent: "), pushed
        assert pushed.stderr == ""
        matyan("pull", "--all", "--from", there.url, "--data", tmp_path / "back")
        with (
            reader.open(source.data) as first,
            reader.open(there.url) as second,
            reader.open(tmp_path / "back") as third,
        ):
            order = [row["run"] for row in first.rows()]
            for opened in second, third:
                assert [row["run"] for row in opened.rows()] == order
                for seed in SEEDS:
                    run = f"run-{seed}"
                    assert everything(opened, run) == everything(first, run)
