"""Whose the files are: a data folder and all that is in it belong to the user of the process that made it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from matyan import reader
from matyan.folder.folder import open_folder
from tests.cli.test_main import fill, send
from tests.tracker import matyan, running


def open_to_others(folder: Path) -> list[str]:
    """What in the folder anybody but its owner may do something with; a link has no rights of its own."""
    found = [folder, *folder.rglob("*")]
    return [str(path) for path in found if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def loosen(folder: Path) -> None:
    """As an older version with the usual umask left it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@pytest.fixture(autouse=True)
def _usual_umask():
    before = os.umask(0o022)
    yield
    os.umask(before)


def blob_ref(path: str) -> dict[str, object]:
    return {"type": "blob_ref", "s3_key": f"alpha-1/{path}", "artifact_path": path}


def test_a_new_folder_is_its_owners_alone(tmp_path) -> None:
    """While the tracker runs, and after it; the socket too."""
    data = tmp_path / "data"
    with running(data) as tracker:
        fill(tracker, "alpha-1")
        assert (data / "matyan.sock").is_socket()
        assert open_to_others(data) == []
        assert tracker.stop() == 0
    assert open_to_others(data) == []


@pytest.mark.parametrize("command", ["up", "runs"])
def test_an_existing_folder_is_tightened(tmp_path, command) -> None:
    """By whoever opens it, with blobs and all, and without a word."""
    data = tmp_path / "data"
    with running(data) as tracker:
        fill(tracker, "alpha-1")
        assert tracker.stop() == 0
    inside = data / "blobs" / "alpha-1"
    inside.mkdir()
    (inside / "a").write_bytes(b"x")
    loosen(data)
    assert len(open_to_others(data)) > 5
    if command == "runs":
        assert matyan("runs", "--data", data).stderr == ""
    else:
        with running(data) as tracker:
            send(tracker, "alpha-1", blob_ref("a"))
            assert open_to_others(data) == []
            assert tracker.stop() == 0
    assert open_to_others(data) == []


def test_a_library_leaves_the_umask_alone(tmp_path) -> None:
    """What else the user's program writes has the rights that it asked for."""
    data = tmp_path / "data"
    with running(data) as tracker:
        fill(tracker, "alpha-1")
        assert tracker.stop() == 0
    with reader.open(data) as opened:
        assert len(list(opened.runs())) == 1
        assert os.umask(0o022) == 0o022
    assert open_to_others(data) == []
    matyan("export", "alpha-1", "--data", data, "-o", tmp_path / "out.csv")
    assert stat.S_IMODE((tmp_path / "out.csv").stat().st_mode) == 0o644


async def test_what_cannot_be_tightened_is_used_as_it_is(tmp_path) -> None:
    """A folder that all share by design keeps its rights; what is ours in it is closed."""
    tmp_path.chmod(0o1777)
    async with open_folder(tmp_path, None):
        pass
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o1777
    assert open_to_others(tmp_path / "rocksdb") == []
