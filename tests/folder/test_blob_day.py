"""The uploads of a day outlive a restart, and no day outlives its night."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from matyan.folder import blob_day
from matyan.service.accounts import DAY_S, BlobDay


@dataclass
class Wall:
    now: float = 20_000 * DAY_S + 10.0

    def __call__(self) -> float:
        return self.now


async def kept(day: BlobDay, folder: Path, size: int, seconds: float) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(blob_day.keep, day, folder)
        day.count("ci", size)
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("seconds", [0.0, blob_day.WRITE_EVERY_S + 1])
async def test_a_restart_goes_on_where_the_last_process_stopped(
    autojump_clock: MockClock, tmp_path: Path, seconds: float
) -> None:
    wall = Wall()
    await kept(BlobDay(wall), tmp_path, 700, seconds)
    again = BlobDay(wall)
    blob_day.restore(again, tmp_path)
    assert again.used("ci") == 700
    assert again.used("me") == 0
    await kept(again, tmp_path, 50, 0)
    third = BlobDay(wall)
    blob_day.restore(third, tmp_path)
    assert third.used("ci") == 750
    assert stat.S_IMODE((tmp_path / blob_day.FILE).stat().st_mode) == 0o600
    wall.now += DAY_S
    assert third.used("ci") == 0
    fourth = BlobDay(wall)
    blob_day.restore(fourth, tmp_path)
    assert fourth.used("ci") == 0


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"day": 20000}', '{"day": 20000, "bytes": {"ci": "5"}}', "[" * 100_000]
)
def test_a_file_that_says_nothing_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / blob_day.FILE).write_text(text)
    day = BlobDay(Wall())
    blob_day.restore(day, tmp_path)
    assert day.used("ci") == 0


async def test_a_folder_that_cannot_be_written_ends_nothing(
    autojump_clock: MockClock, tmp_path: Path
) -> None:
    await kept(BlobDay(Wall()), tmp_path / "away", 5, 20)
