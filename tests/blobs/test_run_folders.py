"""Two runs never share a folder, also where capital and small letters are the same in names of files."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from matyan._codec import check_run_id
from matyan.blobs.folder import FolderBlobs
from matyan.blobs.run_folders import folder_of, folds_case, rename_all, run_of

RUNS = ["ab", "Ab", "aB", "AB", "run-1", "x" * 128, "X" * 128, "A.:_-9"]
run_ids = st.from_regex(r"[A-Za-z0-9_.:-]{1,128}", fullmatch=True).filter(
    lambda text: check_run_id(text) is None
)


async def stream(data: bytes) -> AsyncIterator[bytes]:
    yield data


@given(run_ids)
def test_a_folder_names_its_run(run: str) -> None:
    for folds in (False, True):
        assert run_of(folder_of(run, folds=folds)) == run


def test_a_name_is_as_it_was_where_case_counts() -> None:
    assert [folder_of(run, folds=False) for run in RUNS] == RUNS


def test_no_two_names_differ_in_case_alone() -> None:
    names = [folder_of(run, folds=True) for run in RUNS]
    assert len({name.lower() for name in names}) == len(RUNS)
    assert folder_of("abC", folds=True) == "abc=4"
    assert folder_of("abc", folds=True) == "abc"
    assert max(map(len, names)) <= 255


def test_what_means_no_run_is_nobodys() -> None:
    for name in ("~tmp", "abc=", "abc=0", "abc=04", "Abc=1", "abc=xyz", "a=b=1", "a=2", "=1", "."):
        assert run_of(name) is None, name


def test_this_file_system_is_asked(tmp_path: Path) -> None:
    """A folder beside it that has its name in other letters is another folder, unless it is the same one."""
    folder = tmp_path / "~tmp"
    folder.mkdir()
    assert not folds_case(folder)
    (tmp_path / "~TMP").mkdir()
    assert not folds_case(folder)
    (tmp_path / "~TMP").rmdir()
    (tmp_path / "~TMP").symlink_to(folder)
    assert folds_case(folder)


async def test_runs_that_differ_in_case_keep_their_own_blobs(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path, b"secret", 60, folds=True)
    for run in ("ab", "AB"):
        await blobs.receive(run, "a", "text/plain", stream(run.encode()), 100)
    assert [[blob.key for blob in page] async for page in blobs.pages()] == [["AB/a"], ["ab/a"]]
    await blobs.delete_run("AB")
    assert await blobs.list("AB") == []
    assert [blob.path for blob in await blobs.list("ab")] == ["a"]


async def test_a_folder_from_another_file_system_is_taken_over(tmp_path: Path) -> None:
    """There and back."""
    blobs = FolderBlobs(tmp_path, b"secret", 60, folds=False)
    for run in ("ab", "aB-C"):
        await blobs.receive(run, "a", "text/plain", stream(run.encode()), 100)
    for folds, names in ((True, ["ab", "ab-c=a"]), (False, ["aB-C", "ab"])):
        moved = FolderBlobs(tmp_path, b"secret", 60, folds=folds)
        assert sorted(os.listdir(tmp_path)) == [*names, "~tmp"]
        for run in ("ab", "aB-C"):
            size, _ = moved.held(run, "a") or (None, None)
            assert size == len(run)


def test_what_is_no_runs_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "Notes on=A").mkdir()
    rename_all(tmp_path, folds=True)
    rename_all(tmp_path, folds=False)
    assert [path.name for path in tmp_path.iterdir()] == ["Notes on=A"]
