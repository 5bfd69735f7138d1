"""Signed URLs of the process itself, with the real folder engine behind them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
import trio
from trio.testing import MockClock

from matyan.blobs.folder import FolderBlobs
from matyan.errors import Unavailable
from matyan.frontier.shared import RATE_BYTES
from matyan.service.descriptors import for_uploads
from matyan.settings import Settings
from tests.frontier.conftest import Served, a_frontier

PRESIGN = "/api/v1/rest/artifacts/presign"


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[Served]:
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with a_frontier(blobs=blobs, settings=Settings(blob_max_bytes=3 << 20)) as served:
        yield served


@pytest.fixture
async def http(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=served.url, timeout=60) as http:
        yield http


async def signed(http: httpx.AsyncClient, path: str, run: str = "r", **more: str) -> str:
    answer = await http.post(PRESIGN, json={"run_id": run, "artifact_path": path, **more})
    url: str = answer.json()["upload_url"]
    return url


def get_url(served: Served, path: str, run: str = "r") -> str:
    blobs = served.frontier.shared.blobs
    assert isinstance(blobs, FolderBlobs)
    return blobs.presign_get(run, path, served.url)


@pytest.mark.parametrize(
    "path", ["a.png", "a//b/", "ü 1%2F?#&.bin", "x" * 1000, "seq/loss/5.png", "日本/%"]
)
async def test_what_is_put_is_got(served: Served, http: httpx.AsyncClient, path: str) -> None:
    """With the declared type, by any legal path, whole."""
    data = bytes(range(256)) * 9000
    put = await http.put(
        await signed(http, path, content_type="image/x"),
        content=data,
        headers={"Content-Type": "image/x"},
    )
    assert put.status_code == 200, put.text
    got = await http.get(get_url(served, path))
    assert (got.status_code, got.headers["content-type"]) == (200, "image/x")
    assert got.content == data
    head = await http.head(get_url(served, path))
    assert (head.status_code, head.headers["content-length"]) == (200, str(len(data)))
    assert head.content == b""


async def test_a_put_in_chunks_without_a_length(served: Served, http: httpx.AsyncClient) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield b"0123456789"

    assert (await http.put(await signed(http, "a"), content=chunks())).status_code == 200
    assert (await http.get(get_url(served, "a"))).content == b"0123456789" * 10


async def test_a_wrong_signature_is_403(served: Served, http: httpx.AsyncClient) -> None:
    """Of another path, another run, another method, changed, or none."""
    url = await signed(http, "a")
    wrong = [
        url.replace("/r/a?", "/r/b?"),
        url.replace("/r/a?", "/s/a?"),
        url.partition("?")[0],
        url[:-1] + ("0" if url[-1] != "0" else "1"),
        get_url(served, "a"),
    ]
    for bad in wrong:
        assert (await http.put(bad, content=b"x")).status_code == 403
    assert (await http.get(url)).status_code == 403
    assert (await http.get(get_url(served, "a"))).status_code == 404


@pytest.mark.parametrize(
    ("sent", "good"),
    [
        ([], True),
        (["image/x; a=b"], True),
        (["  image/x; a=b  "], True),
        (["image/x"], False),
        (["image/y; a=b"], False),
        (["application/octet-stream"], False),
        ([""], False),
        (["image/x; a=b", "image/x; a=b"], False),
        (["image/x; a=b", "text/html"], False),
    ],
)
async def test_an_upload_has_the_type_that_was_signed(
    served: Served, http: httpx.AsyncClient, sent: list[str], good: bool
) -> None:
    """None at all counts as that type; another would let a holder of the URL serve a page from an image's address."""
    url = await signed(http, "a", content_type="image/x; a=b")
    headers = "".join(f"Content-Type: {value}\r\n" for value in sent)
    answer = await served.talk(
        f"PUT {url.removeprefix(served.url)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}"
        "Content-Length: 1\r\n\r\nx".encode()
    )
    got = await http.get(get_url(served, "a"))
    if good:
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert got.headers["content-type"] == "image/x; a=b"
    else:
        assert answer.startswith(b"HTTP/1.1 403 ")
        assert b"image/x; a=b" in answer
        assert got.status_code == 404


async def test_a_signed_type_with_spaces_around_it_can_be_sent(
    served: Served, http: httpx.AsyncClient
) -> None:
    """No header can hold them: what stands around a value is not part of it (RFC 9110, 5.5)."""
    url = await signed(http, "a", content_type=" image/x ")
    answer = await served.talk(
        f"PUT {url.removeprefix(served.url)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        "Content-Type:  image/x \r\nContent-Length: 1\r\n\r\nx".encode()
    )
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert (await http.get(get_url(served, "a"))).headers["content-type"].strip() == "image/x"


async def test_nothing_is_taken_for_a_deleted_run(tmp_path: Path) -> None:
    """404 for the presign and for the PUT; one that was under way while the run was deleted leaves nothing behind."""
    deleted = {"gone"}

    async def is_deleted(run: str) -> bool:
        await trio.lowlevel.checkpoint()
        if run == "away":
            raise Unavailable("the store is away")
        return run in deleted

    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60, is_deleted)
    async with a_frontier(blobs=blobs) as served, httpx.AsyncClient(base_url=served.url) as http:
        for run in ("gone", "r", "away"):
            answer = await http.post(PRESIGN, json={"run_id": run, "artifact_path": "a"})
            assert answer.status_code == (404 if run == "gone" else 200)
        url = await signed(http, "a")

        async def chunks() -> AsyncIterator[bytes]:
            yield b"x"
            deleted.add("r")
            await blobs.delete_run("r")
            yield b"y"

        assert (await http.put(url, content=chunks())).status_code == 404
        assert (await http.put(url, content=b"x")).status_code == 404
        assert (await http.put(await signed(http, "a", "away"), content=b"x")).status_code == 200
    left = {str(path.relative_to(tmp_path / "blobs")) for path in (tmp_path / "blobs").iterdir()}
    assert left == {"~tmp", "away"}


async def test_an_expired_signature_is_403(tmp_path: Path) -> None:
    blobs = FolderBlobs(tmp_path, b"secret", -1)
    async with a_frontier(blobs=blobs) as served, httpx.AsyncClient(base_url=served.url) as http:
        answer = await http.put(await signed(http, "a"), content=b"x")
        assert answer.status_code == 403
        assert "expired" in answer.json()["detail"]


@pytest.mark.parametrize("announced", [True, False])
async def test_too_large_is_413_and_stores_nothing(
    served: Served, http: httpx.AsyncClient, announced: bool
) -> None:
    """Refused before the first byte when the length is announced, else at the limit."""

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"x" * 100_000

    content = b"x" * 4_000_000 if announced else chunks()
    answer = await http.put(await signed(http, "a"), content=content)
    assert answer.status_code == 413
    assert "MATYAN_BLOB_MAX_BYTES" in answer.json()["detail"]
    assert (await http.get(get_url(served, "a"))).status_code == 404


async def test_a_put_that_breaks_off_stores_nothing(
    served: Served, http: httpx.AsyncClient, tmp_path: Path
) -> None:
    url = await signed(http, "a")
    stream = await served.connect()
    target = url.removeprefix(served.url)
    await stream.send_all(
        f"PUT {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nxy".encode()
    )
    await trio.testing.wait_all_tasks_blocked(0.05)
    await stream.aclose()
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert (await http.get(get_url(served, "a"))).status_code == 404
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("target", ["r/../b", "r/%2e%2e/b", "r", "r%2Fs/a", "r/a%00"])
async def test_a_path_that_is_none_is_400(served: Served, target: str) -> None:
    request = f"PUT /api/v1/rest/artifacts/blob/{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    answer = await served.talk(request.encode())
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 403 "))


async def test_another_method_is_405(http: httpx.AsyncClient) -> None:
    assert (await http.post(await signed(http, "a"), content=b"x")).status_code == 405


async def begin_put(served: Served, url: str, length: int) -> trio.SocketStream:
    """A connection that has sent the head of an upload."""
    stream = await served.connect()
    head = f"PUT {url.removeprefix(served.url)} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {length}\r\n\r\n"
    await stream.send_all(head.encode())
    return stream


async def jump(clock: MockClock, seconds: float) -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)
    clock.jump(seconds)
    await trio.testing.wait_all_tasks_blocked(0.01)


@pytest.mark.parametrize(("bytes_s", "passes"), [(8_000, True), (2_000, False), (1, False)])
async def test_an_upload_has_a_least_rate(
    tmp_path: Path, mock_clock: MockClock, bytes_s: int, passes: bool
) -> None:
    """0.5 Mbit/s pass, also shared by eight; one that trickles is told so and ends."""
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 60)
    async with a_frontier(blobs=blobs) as served:
        upload = await blobs.presign_put("r", "a", "image/x", served.url)
        stream = await begin_put(served, upload.upload_url, 90 * bytes_s)
        with suppress(trio.BrokenResourceError):
            for _ in range(90):
                await stream.send_all(b"x" * bytes_s)
                await jump(mock_clock, 1)
        answer = await stream.receive_some()
        assert answer.startswith(b"HTTP/1.1 200 " if passes else b"HTTP/1.1 408 ")
        if not passes:
            assert f"{RATE_BYTES:,} bytes".encode() in answer


async def test_only_so_many_uploads_at_a_time(tmp_path: Path, mock_clock: MockClock) -> None:
    """One more waits for its turn, unread; if none comes it is told to come again."""
    blobs = FolderBlobs(tmp_path / "blobs", b"secret", 600)
    async with a_frontier(blobs=blobs) as served:

        async def begin(number: int) -> trio.SocketStream:
            upload = await blobs.presign_put("r", f"{number}", "image/x", served.url)
            return await begin_put(served, upload.upload_url, 4_000_000)

        streams = [await begin(number) for number in range(for_uploads() + 2)]
        for _ in range(3):
            await jump(mock_clock, 10)
            for stream in streams[: for_uploads()]:
                await stream.send_all(b"x" * 200_000)
        await streams[0].send_all(b"x" * 3_400_000)
        assert (await streams[0].receive_some()).startswith(b"HTTP/1.1 200 ")
        await streams[-2].send_all(b"x" * 4_000_000)
        assert (await streams[-2].receive_some()).startswith(b"HTTP/1.1 200 ")
