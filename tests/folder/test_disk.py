"""How full the disk of an open data folder is, as /metrics/ shows it."""

from __future__ import annotations

import os
from pathlib import Path

from matyan.folder.folder import open_folder
from matyan.service import telemetry


def shown() -> dict[str, tuple[float, float]]:
    """Folder → free bytes and size."""
    free, size = (
        {
            sample.labels["folder"]: sample.value
            for family in gauge.collect()
            for sample in family.samples
        }
        for gauge in (telemetry.FOLDER_FREE_BYTES, telemetry.FOLDER_DISK_BYTES)
    )
    assert free.keys() == size.keys()
    return {folder: (free[folder], size[folder]) for folder in free}


async def test_the_disk_of_an_open_folder_is_shown(tmp_path: Path) -> None:
    """As it is when it is asked, and no longer than the folder is open: a zero would be an alert."""
    async with open_folder(tmp_path / "data", None):
        disk = os.statvfs(tmp_path)
        ((folder, (free, size)),) = shown().items()
        assert folder == str(tmp_path / "data")
        assert size == disk.f_blocks * disk.f_frsize
        # Other processes write to this disk, too.
        assert abs(free - disk.f_bavail * disk.f_frsize) < size / 10
        assert 0 < free < size
    assert shown() == {}
