"""What only the S3 engine promises: what its signatures cover, what it says of a server that does not do as it asks."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest
import trio

from dev.process import free_ports
from matyan.blobs.s3 import S3Blobs
from matyan.errors import ConfigurationError, Unavailable
from matyan.settings import load
from tests.blobs.bucket import Bucket, bucket

__all__ = ["bucket"]


async def put(url: str, content_type: str) -> int:
    async with httpx.AsyncClient() as http:
        return (
            await http.put(url, content=b"x", headers={"Content-Type": content_type})
        ).status_code


# --- signatures ----------------------------------------------------------------------------------


async def test_a_url_takes_the_content_type_that_it_was_signed_for(bucket: Bucket) -> None:
    """Another one is refused, and so is none."""
    upload = await S3Blobs(bucket.settings()).presign_put("run", "a", "image/png", "")
    assert await put(upload.upload_url, "text/html") == 403
    async with httpx.AsyncClient() as http:
        assert (await http.put(upload.upload_url, content=b"x")).status_code == 403
    assert bucket.keys() == set()
    assert await put(upload.upload_url, "image/png") == 200
    assert bucket.get("run/a") == ("image/png", b"x")


async def test_a_url_expires(bucket: Bucket) -> None:
    """After S3_PRESIGN_EXPIRY seconds it is as good as none."""
    blobs = S3Blobs(bucket.settings(S3_PRESIGN_EXPIRY="1"))
    upload = await blobs.presign_put("run", "a", "text/plain", "")
    await trio.sleep(2.5)
    assert await put(upload.upload_url, "text/plain") == 403
    assert bucket.keys() == set()


async def test_clients_are_sent_to_the_public_endpoint(bucket: Bucket) -> None:
    """The signature is for that host, whatever this process calls the server; under another name it is refused."""
    public = f"http://localhost:{bucket.server.port}"
    upload = await S3Blobs(bucket.settings(S3_PUBLIC_ENDPOINT=public)).presign_put(
        "run", "a", "text/plain", "http://frontier.example"
    )
    assert upload.upload_url.startswith(f"{public}/{bucket.name}/run/a?")
    inner = upload.upload_url.replace(public, bucket.server.endpoint)
    assert await put(inner, "text/plain") == 403
    assert await put(upload.upload_url, "text/plain") == 200
    assert bucket.keys() == {"run/a"}


async def test_signing_opens_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is away, or a name that nobody knows, does not hold up the loop that signs."""

    def refuse(*arguments: object) -> None:
        raise AssertionError(f"the network was asked: {arguments}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    blobs = S3Blobs(load({"S3_ENDPOINT": "http://s3.invalid:9000"}))
    upload = await blobs.presign_put("run", "a", "text/plain", "")
    assert upload.upload_url.startswith("http://s3.invalid:9000/matyan-artifacts/run/a?")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BLOB_BACKEND_TYPE", "gcs"),
        ("BLOB_BACKEND_TYPE", "azure"),
        ("S3_ENDPOINT", "localhost:9000"),
        ("S3_PUBLIC_ENDPOINT", "artifacts"),
        ("S3_ACCESS_KEY", ""),
        ("S3_SECRET_KEY", ""),
        ("S3_BUCKET", "no bucket"),
        ("S3_PRESIGN_EXPIRY", "604801"),
    ],
)
def test_a_setting_that_cannot_work_is_named(name: str, value: str) -> None:
    """Before anything was signed, in a sentence with the name of the setting."""
    with pytest.raises(ConfigurationError, match=name):
        S3Blobs(load({name: value}))


# --- a server that does not do as it is asked ----------------------------------------------------


async def test_more_keys_than_a_request_takes_are_all_deleted(bucket: Bucket) -> None:
    """Page after page, and no key of a run whose id begins with the same letters."""
    for number in range(11):
        bucket.put(f"run/{number}")
    bucket.put("run1/a")
    bucket.put("ru")
    blobs = S3Blobs(bucket.settings(), page=3)
    assert await blobs.delete_run("run") == 11
    assert bucket.keys() == {"run1/a", "ru"}
    for number in range(11):
        bucket.put(f"run/{number}")
    assert await blobs.delete([f"run/{number}" for number in range(10)]) == 10
    assert bucket.keys("run/") == {"run/10"}


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (
            {"S3_ACCESS_KEY": "nobody"},
            "InvalidAccessKeyId.*S3_ACCESS_KEY and S3_SECRET_KEY must be",
        ),
        (
            {"S3_SECRET_KEY": "wrong"},
            "SignatureDoesNotMatch.*S3_ACCESS_KEY and S3_SECRET_KEY must be",
        ),
        ({"S3_BUCKET": "nowhere"}, "bucket nowhere: .*Make that bucket"),
    ],
)
async def test_a_refusal_names_the_setting(
    bucket: Bucket, wrong: dict[str, str], sentence: str
) -> None:
    """Unavailable, since a person can mend it while the worker waits; nothing was deleted."""
    bucket.put("run/a")
    blobs = S3Blobs(load({**environment(bucket), **wrong}))
    for attempt in blobs.delete_run("run"), blobs.delete(["run/a"]):
        with pytest.raises(Unavailable, match=sentence):
            await attempt
    assert bucket.keys() == {"run/a"}


def environment(bucket: Bucket) -> dict[str, str]:
    return {"S3_ENDPOINT": bucket.server.endpoint, "S3_BUCKET": bucket.name}


async def test_the_check_of_doctor_leaves_nothing(bucket: Bucket) -> None:
    """The server takes a presigned PUT and a deletion, and tells its time; a wrong key is named."""
    blobs = S3Blobs(bucket.settings())
    await blobs.check()
    assert abs(await blobs.server_time() - time.time()) < 60
    assert bucket.keys() == set()
    with pytest.raises(Unavailable, match="S3_SECRET_KEY must be"):
        await S3Blobs(bucket.settings(S3_SECRET_KEY="wrong")).check()


async def test_a_server_that_is_away_is_unavailable() -> None:
    """At once: botocore does not try again by itself."""
    endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    blobs = S3Blobs(load({"S3_ENDPOINT": endpoint}))
    for attempt in blobs.delete_run("run"), blobs.delete(["run/a"]):
        with pytest.raises(Unavailable, match=f"{endpoint}.*does not answer"):
            await attempt


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A server whose kernel takes connections, and that never answers."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


async def test_a_server_that_hangs_can_be_left(silent_endpoint: str) -> None:
    """A deletion that waits for it ends when it is cancelled, long before its own limit of 20 s."""
    blobs = S3Blobs(load({"S3_ENDPOINT": silent_endpoint}))
    began = time.monotonic()
    with trio.move_on_after(0.5) as scope:
        await blobs.delete_run("run")
    assert scope.cancelled_caught
    assert time.monotonic() - began < 15


async def test_a_server_that_hangs_is_unavailable(
    silent_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its limit, which this test lowers, and not after botocore's minutes."""
    monkeypatch.setattr("matyan.blobs.s3._READ_S", 0.5)
    blobs = S3Blobs(load({"S3_ENDPOINT": silent_endpoint}))
    with trio.fail_after(60), pytest.raises(Unavailable, match="does not answer"):
        await blobs.delete_run("run")
