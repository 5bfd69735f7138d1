"""What only the S3 engine promises: what its signatures cover, what it says of a server that does not do as it asks."""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

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


async def test_a_server_that_hangs_can_be_left(
    silent_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A deletion that waits for it ends when it is cancelled, long before its own limits."""
    monkeypatch.setattr("matyan.blobs.s3._READ_S", 60.0)
    monkeypatch.setattr("matyan.blobs.s3._CALL_S", 60.0)
    blobs = S3Blobs(load({"S3_ENDPOINT": silent_endpoint}))
    began = time.monotonic()
    with trio.move_on_after(0.5) as scope:
        await blobs.delete_run("run")
    assert scope.cancelled_caught
    assert time.monotonic() - began < 30


async def test_a_server_that_hangs_is_unavailable(
    silent_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After its limit, which this test lowers, and not after botocore's minutes."""
    monkeypatch.setattr("matyan.blobs.s3._READ_S", 0.5)
    blobs = S3Blobs(load({"S3_ENDPOINT": silent_endpoint}))
    with trio.fail_after(60), pytest.raises(Unavailable, match="does not answer"):
        await blobs.delete_run("run")


class StubbornS3(BaseHTTPRequestHandler):
    """A server that lists 2,500 keys of a run and deletes as its `refusals` say."""

    protocol_version = "HTTP/1.1"
    keys: set[str]
    refusals: dict[str, list[str]]
    """By key, the codes with which its deletion is refused, one after the other."""
    pages: list[int]
    """The keys of each deletion that was asked for."""

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        after = query.get("start-after", [""])[0]
        rows = sorted(key for key in self.keys if key > after)[: int(query["max-keys"][0])]
        stamp = "<LastModified>2026-01-02T03:04:05.000Z</LastModified><Size>1</Size>"
        contents = "".join(f"<Contents><Key>{key}</Key>{stamp}</Contents>" for key in rows)
        self.answer(f"<ListBucketResult>{contents}</ListBucketResult>")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        asked = re.findall("<Key>(.*?)</Key>", body)
        self.pages.append(len(asked))
        errors = ""
        for key in asked:
            if codes := self.refusals.get(key):
                errors += f"<Error><Key>{key}</Key><Code>{codes.pop(0)}</Code></Error>"
            else:
                self.keys.discard(key)
        self.answer(f"<DeleteResult>{errors}</DeleteResult>")

    def answer(self, text: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: object) -> None: ...


@pytest.fixture
def stubborn() -> type[StubbornS3]:
    class Handler(StubbornS3):
        pass

    Handler.keys = {f"run/{number:04}" for number in range(2_500)}
    Handler.refusals = {}
    Handler.pages = []
    return Handler


@contextmanager
def served(handler: type[BaseHTTPRequestHandler]) -> Iterator[S3Blobs]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield S3Blobs(load({"S3_ENDPOINT": f"http://127.0.0.1:{server.server_port}"}))
        server.shutdown()


async def test_keys_that_were_not_deleted_are_asked_for_again(
    stubborn: type[StubbornS3],
) -> None:
    """Only they: a server that is busy with three of 2,500 keys deletes all of them in one call."""
    stubborn.refusals.update({f"run/{n}": ["InternalError", "SlowDown"] for n in ("0000", "0999")})
    stubborn.refusals["run/2000"] = ["NoSuchKey"]
    with served(stubborn) as blobs:
        assert await blobs.delete_run("run") == 2_500
    assert stubborn.keys == {"run/2000"}  # as it said, there is none
    assert stubborn.pages == [1_000, 2, 2, 1_000, 500]


async def test_a_key_that_stays_holds_up_no_other(stubborn: type[StubbornS3]) -> None:
    """It is named at the end, with what mends it; what mends nothing by itself is not asked for again."""
    stubborn.refusals["run/0001"] = ["InternalError"] * 9
    stubborn.refusals["run/1500"] = ["AccessDenied"] * 9
    with served(stubborn) as blobs:
        with pytest.raises(Unavailable, match=r"run/0001 and 1 other keys .*: InternalError"):
            await blobs.delete_run("run")
        assert stubborn.keys == {"run/0001", "run/1500"}
        assert stubborn.pages == [1_000, 1, 1, 1_000, 500]
        with pytest.raises(Unavailable, match=r"AccessDenied.*may list, put and delete"):
            await blobs.delete(["run/1500"])
        assert stubborn.pages[-1:] == [1]


async def test_a_server_that_says_a_byte_now_and_then_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each byte is in time, and the call as a whole is not."""
    monkeypatch.setattr("matyan.blobs.s3._CALL_S", 1.0)

    class Trickling(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            with suppress(OSError):
                for _ in range(60):
                    self.wfile.write(b"<")
                    time.sleep(0.25)

        def log_message(self, *arguments: object) -> None: ...

    with (
        served(Trickling) as blobs,
        trio.fail_after(60),
        pytest.raises(Unavailable, match="does not answer"),
    ):
        await blobs.delete_run("run")
