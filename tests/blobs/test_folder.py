"""What only the folder promises: signatures that expire, nothing half stored, nothing outside."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trio
import trio.testing

from matyan.blobs.folder import FolderBlobs, StoredBlob, TooLarge
from matyan.errors import ConfigurationError, NotFound, Unavailable
from tests.small_disk import small_disk

__all__ = ["small_disk"]


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


@pytest.fixture
def blobs(tmp_path: Path) -> FolderBlobs:
    return FolderBlobs(tmp_path / "blobs", b"secret", 60)


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


# --- signatures ----------------------------------------------------------------------------------


async def test_a_signature_is_good_for_what_it_names_only(blobs: FolderBlobs) -> None:
    """Another method, run, path, type, time or secret, or a query with less or more in it, is refused."""
    url = (await blobs.presign_put("run", "a/b", "image/png", "http://h")).upload_url
    query = urlsplit(url).query
    assert blobs.verify("PUT", "run", "a/b", query)
    assert not blobs.verify("GET", "run", "a/b", query)
    assert not blobs.verify("PUT", "run1", "a/b", query)
    assert not blobs.verify("PUT", "run", "a/c", query)
    assert not blobs.verify("PUT", "run", "a/b", query.replace("png", "gif"))
    assert not blobs.verify("PUT", "run", "a/b", query.replace("expires=1", "expires=2"))
    assert not FolderBlobs(blobs._root, b"other", 60).verify("PUT", "run", "a/b", query)
    for bad in (
        "",
        "expires=1",
        query + "&expires=99999999999",
        query.replace("expires=", "expires=x"),
        query[:-1],
        query + "é",
        "&" * 100,
    ):
        assert not blobs.verify("PUT", "run", "a/b", bad)


async def test_a_signature_expires(tmp_path: Path) -> None:
    """An old URL is as good as none."""
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", -2)
    url = (await blobs.presign_put("run", "a", "text/plain", "http://h")).upload_url
    assert not blobs.verify("PUT", "run", "a", urlsplit(url).query)


def test_reading_is_signed_too(blobs: FolderBlobs) -> None:
    """presign_get allows a GET and no PUT."""
    query = urlsplit(blobs.presign_get("run", "a b", "http://h")).query
    assert blobs.verify("GET", "run", "a b", query)
    assert not blobs.verify("PUT", "run", "a b", query)


# --- nothing half stored -------------------------------------------------------------------------


async def test_a_blob_over_the_limit_leaves_nothing(blobs: FolderBlobs, tmp_path: Path) -> None:
    """The error names the limit; what stood there before stays."""
    await blobs.receive("run", "a", "text/plain", stream(b"old"), 10)
    before = files(tmp_path)
    with pytest.raises(TooLarge, match="10 bytes"):
        await blobs.receive("run", "a", "text/plain", stream(b"123456", b"78901"), 10)
    assert files(tmp_path) == before
    await blobs.receive("run", "b", "text/plain", stream(b"1234567890"), 10)
    assert [(b.path, b.size) for b in await blobs.list("run")] == [("a", 3), ("b", 10)]


class Gone(Exception):
    pass


async def test_a_client_that_goes_away_leaves_nothing(blobs: FolderBlobs, tmp_path: Path) -> None:
    """An upload that ends early, by an error or by cancellation, is as if it never began."""

    async def broken(end: Exception | None) -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000
        if end:
            raise end
        await trio.sleep_forever()

    with pytest.raises(Gone):
        await blobs.receive("run", "a", "text/plain", broken(Gone()), 1 << 30)
    with trio.move_on_after(0.2):
        await blobs.receive("run", "a", "text/plain", broken(None), 1 << 30)
    assert files(tmp_path) == []
    with pytest.raises(NotFound, match="artifact a of run run"):
        await blobs.open("run", "a")


async def test_leftovers_of_a_crash_are_removed_at_the_start(
    blobs: FolderBlobs, tmp_path: Path
) -> None:
    """Temporary files go; blobs stay."""
    await blobs.receive("run", "a", "text/plain", stream(b"old"), 10)
    (tmp_path / "blobs" / "~tmp" / "left").write_bytes(b"x")
    again = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    assert len(files(tmp_path)) == 1
    assert await again.list("run") == [StoredBlob("a", "text/plain", 3)]


async def test_a_full_disk_is_unavailable_and_leaves_nothing(small_disk: Path) -> None:
    """The next upload works when there is room."""
    blobs = FolderBlobs(small_disk / "blobs", b"secret", 60)
    with pytest.raises(Unavailable, match="No space left"):
        await blobs.receive("run", "a", "text/plain", stream(*[b"x" * 1_000_000] * 100), 1 << 30)
    assert files(small_disk) == []
    await blobs.receive("run", "a", "text/plain", stream(b"x" * 1_000_000), 1 << 30)
    assert [blob.size for blob in await blobs.list("run")] == [1_000_000]


async def test_uploads_and_the_deletion_of_their_run_may_cross(blobs: FolderBlobs) -> None:
    """Each upload ends well, whenever the run's folder goes away under it."""
    async with trio.open_nursery() as nursery:
        for i in range(20):
            nursery.start_soon(blobs.receive, "run", str(i), "text/plain", stream(b"x"), 10)
            nursery.start_soon(blobs.delete_run, "run")
    await blobs.delete_run("run")
    assert await blobs.list("run") == []


async def test_an_upload_that_arrives_late_goes_with_its_run(
    blobs: FolderBlobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It had found the run's folder by its name, and stands in it when the rest is gone: the deletion goes on."""
    await blobs.receive("run", "a", "text/plain", stream(b"x"), 10)
    removed = shutil.rmtree

    def crossed(folder: str) -> None:
        monkeypatch.setattr(shutil, "rmtree", removed)
        for file in Path(folder).iterdir():
            file.unlink()
        Path(folder, "late").write_bytes(b"x")
        Path(folder).rmdir()

    monkeypatch.setattr(shutil, "rmtree", crossed)
    assert await blobs.delete_run("run") == 1
    assert files(blobs._root) == []


# --- nothing outside -----------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["", ".", "..", "a/b", "~tmp", "a\x00", "ä", "a" * 129, "a\n"])
async def test_no_run_id_leads_out_of_the_folder(
    blobs: FolderBlobs, tmp_path: Path, run: str
) -> None:
    """Neither by storing nor by a key in a control event."""
    (tmp_path / "precious").write_bytes(b"x")
    with pytest.raises(ValueError, match="no run id"):
        await blobs.receive(run, "precious", "text/plain", stream(b"x"), 10)
    with pytest.raises(ValueError, match="no run id"):
        await blobs.delete_run(run)
    assert await blobs.delete([f"{run}/precious", "../precious", "\ud800/x", "run/\ud800"]) == 4
    assert [path.name for path in files(tmp_path)] == ["precious"]


@pytest.mark.parametrize("path", ["../../precious", "/etc/passwd", "..", "", "a\x00b"])
async def test_no_path_leads_out_of_the_run(blobs: FolderBlobs, tmp_path: Path, path: str) -> None:
    """Even one that the frontier would have refused."""
    await blobs.receive("run", path, "text/plain", stream(b"x"), 10)
    (file,) = files(tmp_path)
    assert file.parent == tmp_path / "blobs" / "run"


# --- surroundings --------------------------------------------------------------------------------


def test_a_file_in_the_folders_place_is_one_clear_sentence(tmp_path: Path) -> None:
    """A ConfigurationError that names the folder."""
    (tmp_path / "blobs").write_bytes(b"")
    with pytest.raises(ConfigurationError, match="blobs for artifacts cannot be written"):
        FolderBlobs(tmp_path / "blobs", b"secret", 60)


async def test_a_foreign_or_damaged_file_is_no_artifact(blobs: FolderBlobs, tmp_path: Path) -> None:
    """It is named, and nothing crashes."""
    await blobs.receive("run", "a", "text/plain", stream(b"x"), 10)
    (file,) = files(tmp_path)
    for content in bad_files(file.read_bytes()):
        file.write_bytes(content)
        with pytest.raises(NotFound, match="damaged"):
            await blobs.open("run", "a")


def bad_files(good: bytes) -> Iterable[bytes]:
    return b"", good[:5], good[:10], good[:20], b"x" * 100, good[:12] + b"\xc1" * 50


# --- a moment of them -----------------------------------------------------------------------------


async def test_none_is_deleted_between_a_moment_and_its_copy(
    blobs: FolderBlobs, tmp_path: Path
) -> None:
    """Deletions that come in between wait, of keys and of a run; the copy keeps what a later upload or a deletion takes away."""
    for path in ("a", "b"):
        await blobs.receive("run", path, "text/plain", stream(b"old"), 100)
    await blobs.receive("other", "c", "text/plain", stream(b"old"), 100)
    async with trio.open_nursery() as nursery:

        async def moment() -> None:
            nursery.start_soon(blobs.delete, ["run/a"])
            nursery.start_soon(blobs.delete_run, "other")
            await trio.testing.wait_all_tasks_blocked()
            assert len(files(tmp_path / "blobs")) == 3

        kept = await blobs.kept_from(moment)
    assert await blobs.list("other") == []
    await blobs.receive("run", "b", "text/plain", stream(b"new"), 100)
    assert sorted(path.read_bytes()[-3:] for path in files(kept)) == [b"old"] * 3
    # It is no run, and goes with the next start where nobody removes it.
    assert {blob.key async for page in blobs.pages() for blob in page} == {"run/b"}
    FolderBlobs(tmp_path / "blobs", b"secret", 60)
    assert not kept.exists()
