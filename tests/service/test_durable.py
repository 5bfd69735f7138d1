"""A file is synced by what the system has for it; where a file system has no fuller sync, by the plain one."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from matyan.service import durable


def test_a_file_system_without_the_fuller_call_is_synced_plainly(tmp_path: Path) -> None:
    """51 is a Mac's F_FULLFSYNC, of which Linux knows nothing."""
    with (tmp_path / "a").open("wb") as file:
        with pytest.raises(OSError, match="Invalid"):
            fcntl.fcntl(file.fileno(), 51)
        durable.sync(file.fileno(), full_sync=51)


@pytest.mark.parametrize("full_sync", [None, 51])
def test_what_cannot_be_synced_is_an_error(full_sync: int | None) -> None:
    reading, writing = os.pipe()
    try:
        with pytest.raises(OSError) as raised:  # noqa: PT011 - its number is looked at
            durable.sync(writing, full_sync=full_sync)
        assert raised.value.errno == errno.EINVAL
    finally:
        os.close(reading)
        os.close(writing)


def test_a_folder_is_synced(tmp_path: Path) -> None:
    durable.sync_folder(tmp_path)
    with pytest.raises(FileNotFoundError):
        durable.sync_folder(tmp_path / "none")
