"""What every blob engine promises. An engine joins as a `Harness` in `harness`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matyan.blobs.base import Blobs, Upload
from matyan.blobs.folder import URL_PATH, FolderBlobs
from matyan.errors import NotFound

BASE = "http://tracker.example:53801"


@dataclass
class Harness:
    """An engine, and how its clients use what it signs."""

    blobs: Blobs
    put: Callable[[Upload, str, bytes], Awaitable[None]]
    """PUTs these bytes with this Content-Type to the upload's URL."""
    get: Callable[[str, str], Awaitable[tuple[str, bytes] | None]]
    """The type and the bytes of run/path, or None."""


def folder_harness(blobs: FolderBlobs) -> Harness:
    async def put(upload: Upload, content_type: str, data: bytes) -> None:
        url = urlsplit(upload.upload_url)
        assert f"{url.scheme}://{url.netloc}" == BASE
        run, _, path = unquote(url.path.removeprefix(URL_PATH)).partition("/")
        assert blobs.verify("PUT", run, path, url.query)

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 1_000_000):
                yield data[start : start + 1_000_000]

        await blobs.receive(run, path, content_type, chunks(), 1 << 30)

    async def get(run: str, path: str) -> tuple[str, bytes] | None:
        try:
            content_type, size, reader = await blobs.open(run, path)
        except NotFound:
            return None
        data = b"".join([piece async for piece in reader])
        assert len(data) == size
        return content_type, data

    return Harness(blobs, put, get)


@pytest.fixture(params=["folder"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    assert request.param == "folder"
    return folder_harness(FolderBlobs(tmp_path / "blobs", b"secret", 60))


async def store(
    harness: Harness, run: str, path: str, data: bytes, content_type: str = "text/plain"
) -> None:
    upload = await harness.blobs.presign_put(run, path, content_type, BASE)
    assert upload.s3_key == f"{run}/{path}"
    await harness.put(upload, content_type, data)


async def test_what_is_put_to_a_signed_url_is_stored_with_its_type(harness: Harness) -> None:
    """Every byte and the declared type; a second PUT replaces both."""
    data = bytes(range(256)) * 10_000
    await store(harness, "run", "seq/loss curve/1.png", data, "image/png")
    assert await harness.get("run", "seq/loss curve/1.png") == ("image/png", data)
    await store(harness, "run", "seq/loss curve/1.png", b"", "text/html; charset=utf-8")
    assert await harness.get("run", "seq/loss curve/1.png") == ("text/html; charset=utf-8", b"")


HARD_PATHS = [
    "a",
    "a/b",
    "A",
    "A/b",
    "a//b",
    "/a",
    "a/",
    ".hidden/.x",
    "...",
    "s p%20a+c?e&=#",
    "ü/日本",
    "~tmp",
    "con\\aux",
    "x" * 1_000,
    "/".join("yz" * 200),
]


async def test_any_legal_path_has_its_own_place(harness: Harness) -> None:
    """Empty and long segments, case, leading dots, a blob that is the folder of another: all side by side."""
    for path in HARD_PATHS:
        await store(harness, "run", path, path.encode())
    for path in HARD_PATHS:
        assert await harness.get("run", path) == ("text/plain", path.encode())
    assert await harness.blobs.delete_run("run") == len(HARD_PATHS)


@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    paths=st.sets(
        st.text(st.characters(exclude_categories=("C",)), min_size=1, max_size=20).filter(
            lambda path: not {".", ".."} & set(path.split("/"))
        ),
        min_size=1,
        max_size=5,
    )
)
async def test_random_paths_do_not_collide(harness: Harness, paths: set[str]) -> None:
    """As many blobs as paths, each with its own bytes."""
    for path in paths:
        await store(harness, "run", path, path.encode())
    for path in paths:
        assert await harness.get("run", path) == ("text/plain", path.encode())
    assert await harness.blobs.delete_run("run") == len(paths)


async def test_delete_takes_the_keys_that_are_named(harness: Harness) -> None:
    """A missing key is fine and counts as asked for; the others stay."""
    for path in "a", "b", "c":
        await store(harness, "run", path, b"x")
    assert await harness.blobs.delete(["run/a", "run/c", "run/missing", "nobody/a"]) == 4
    assert await harness.get("run", "a") is None
    assert await harness.get("run", "b") is not None


async def test_delete_run_takes_that_run_alone(harness: Harness) -> None:
    """Not a run whose id begins with the same letters; a second time there is nothing."""
    for run in "run", "run1", "ru", ".run", "r:u-n_":
        await store(harness, run, "a/b", b"x")
    assert await harness.blobs.delete_run("run") == 1
    assert await harness.blobs.delete_run("run") == 0
    assert await harness.get("run", "a/b") is None
    for run in "run1", "ru", ".run", "r:u-n_":
        assert await harness.get(run, "a/b") == ("text/plain", b"x")
