"""What every blob engine promises. An engine joins as a `Harness` in `harness`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matyan.blobs.base import URL_PATH, Blobs, Upload
from matyan.blobs.folder import FolderBlobs
from matyan.blobs.s3 import S3Blobs
from matyan.errors import NotFound
from tests.blobs.bucket import Bucket, bucket, bucket_on

__all__ = ["bucket"]

BASE = "http://tracker.example:53801"


@dataclass
class Harness:
    """An engine, and how its clients use what it signs."""

    blobs: Blobs
    put: Callable[[Upload, str, bytes], Awaitable[bool]]
    """PUTs these bytes with this Content-Type to the upload's URL; False: it was refused."""
    keys: Callable[[str], Awaitable[set[str]]]
    """Every key of a run, as the engine itself lists them."""
    get: Callable[[str, str], Awaitable[tuple[str, bytes] | None]]
    """The type and the bytes of run/path, or None."""
    paths_are_files: bool = False
    """Whether its server keeps keys as paths of files, and so takes only such that can be paths side by side."""


def folder_harness(blobs: FolderBlobs) -> Harness:
    async def put(upload: Upload, content_type: str, data: bytes) -> bool:
        url = urlsplit(upload.upload_url)
        assert f"{url.scheme}://{url.netloc}" == BASE
        run, _, path = unquote(url.path.removeprefix(URL_PATH)).partition("/")
        if not blobs.verify("PUT", run, path, url.query):
            return False

        async def chunks() -> AsyncIterator[bytes]:
            for start in range(0, len(data), 1_000_000):
                yield data[start : start + 1_000_000]

        await blobs.receive(run, path, content_type, chunks(), 1 << 30)
        return True

    async def keys(run: str) -> set[str]:
        return {f"{run}/{blob.path}" for blob in await blobs.list(run)}

    async def get(run: str, path: str) -> tuple[str, bytes] | None:
        try:
            content_type, size, reader = await blobs.open(run, path)
        except NotFound:
            return None
        data = b"".join([piece async for piece in reader])
        assert len(data) == size
        return content_type, data

    return Harness(blobs, put, keys, get)


def s3_harness(bucket: Bucket) -> Harness:
    async def put(upload: Upload, content_type: str, data: bytes) -> bool:
        async with httpx.AsyncClient() as http:
            answer = await http.put(
                upload.upload_url, content=data, headers={"Content-Type": content_type}
            )
        assert answer.status_code in {200, 403}, answer.text
        return answer.status_code == 200

    async def keys(run: str) -> set[str]:
        return bucket.keys(f"{run}/")

    async def get(run: str, path: str) -> tuple[str, bytes] | None:
        return bucket.get(f"{run}/{path}")

    # A small page: the paths of one run need several requests.
    return Harness(S3Blobs(bucket.settings(), page=4), put, keys, get)


@pytest.fixture(params=["folder", "s3", "versity"])
def harness(request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
    if request.param == "s3":
        return s3_harness(request.getfixturevalue("bucket"))
    if request.param == "versity":
        return replace(
            s3_harness(bucket_on(request.getfixturevalue("versity"))), paths_are_files=True
        )
    return folder_harness(FolderBlobs(tmp_path / "blobs", b"secret", 60))


async def store(
    harness: Harness, run: str, path: str, data: bytes, content_type: str = "text/plain"
) -> None:
    upload = await harness.blobs.presign_put(run, path, content_type, BASE)
    assert upload.s3_key == f"{run}/{path}"
    assert await harness.put(upload, content_type, data)


async def test_what_is_put_to_a_signed_url_is_stored_with_its_type(harness: Harness) -> None:
    """Every byte and the declared type; a second PUT replaces both."""
    data = bytes(range(256)) * 10_000
    await store(harness, "run", "seq/loss curve/1.png", data, "image/png")
    assert await harness.get("run", "seq/loss curve/1.png") == ("image/png", data)
    await store(harness, "run", "seq/loss curve/1.png", b"", "text/html; charset=koi8-r")
    assert await harness.get("run", "seq/loss curve/1.png") == ("text/html; charset=koi8-r", b"")


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
    "a<b>&amp;\"'",
    "a\ufffe",  # legal in a key, not in XML
    "x" * 1_020,  # with the run's id and slash 1,024 bytes, the limit
    "/".join("yz" * 200),
]


def hard_paths(harness: Harness) -> list[str]:
    """Those that its server takes."""
    if not harness.paths_are_files:
        return HARD_PATHS
    return [
        path
        for path in HARD_PATHS
        if not path.startswith("/")
        and not path.endswith("/")
        and "//" not in path
        and not any(other.startswith(f"{path}/") for other in HARD_PATHS)
        and max(len(part.encode()) for part in path.split("/")) <= 255
        and "\ufffe" not in path  # its list shows another letter
    ]


async def test_any_legal_path_has_its_own_place(harness: Harness) -> None:
    """Empty and long segments, case, leading dots, a blob that is the folder of another: all side by side."""
    paths = hard_paths(harness)
    for path in paths:
        await store(harness, "run", path, path.encode())
    assert await harness.keys("run") == {f"run/{path}" for path in paths}
    for path in paths:
        assert await harness.get("run", path) == ("text/plain", path.encode())
    assert await harness.blobs.delete_run("run") == len(paths)
    assert await harness.keys("run") == set()


async def test_any_legal_path_is_deleted_by_its_key(harness: Harness) -> None:
    """Each of them alone, and the others stay until their turn comes."""
    paths = hard_paths(harness)
    left = {f"run/{path}" for path in paths}
    for path in paths:
        await store(harness, "run", path, b"x")
    for path in paths:
        await harness.blobs.delete([f"run/{path}"])
        left.remove(f"run/{path}")
        assert await harness.keys("run") == left


async def test_an_altered_url_is_refused(harness: Harness) -> None:
    """For another path or run, with another expiry or signature: nothing is stored, and the true URL works."""
    upload = await harness.blobs.presign_put("run", "a b", "text/plain", BASE)
    url = upload.upload_url
    last = "0" if url[-1] != "0" else "1"
    for altered in (
        url.replace(quote("a b"), "c"),
        url.replace("/run/", "/run1/"),
        url.replace("xpires=", "xpires=1"),
        url[:-1] + last,
    ):
        assert altered != url
        assert not await harness.put(replace(upload, upload_url=altered), "text/plain", b"x")
    assert await harness.keys("run") | await harness.keys("run1") == set()
    assert await harness.put(upload, "text/plain", b"x")


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
    if harness.paths_are_files:
        paths = {path.replace("/", "+") for path in paths}
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


async def test_all_that_is_there_is_listed(harness: Harness) -> None:
    """In the keys' order, whatever the pages; below a beginning, and behind a key; how old each is, and its bytes."""
    listing = harness.blobs
    assert isinstance(listing, S3Blobs | FolderBlobs)
    stored = [
        f"{run}/{path}" for run in ("r", "r.1", "r1", "s") for path in ("a", "b/c", "d", "e f")
    ]
    for key in stored:
        run, _, path = key.partition("/")
        await store(harness, run, path, b"12345")

    async def listed(prefix: str = "", after: str = "") -> list[str]:
        found = []
        async for page in listing.pages(prefix, after):
            assert 0 < len(page) <= 1_000
            assert all(-60 < blob.age_s < 600 and blob.size == 5 for blob in page)
            found += [blob.key for blob in page]
        return found

    everything = sorted(stored)
    assert await listed() == everything
    assert await listed("r/") == [key for key in everything if key.startswith("r/")]
    for after in everything[3], everything[7], "r/b", "zzz":
        assert await listed(after=after) == [key for key in everything if key > after]
