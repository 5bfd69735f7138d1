"""How S3 is spoken to: where the bucket's name stands, by which authorities the server is known, how it is asked to encrypt."""

from __future__ import annotations

import re
import socket
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import trustme

from dev import s3 as s3_
from dev.process import stopped_at_end
from dev.s3 import DOMAIN, S3, Versity
from matyan.blobs.s3 import S3Blobs
from matyan.blobs.s3_client import encryption
from matyan.cli.doctor import _check_blobs, _check_settings
from matyan.errors import ConfigurationError, Unavailable
from matyan.settings import load
from tests.blobs.bucket import Bucket, bucket, bucket_on, s3_environment
from tests.needs import needed

__all__ = ["bucket"]


# --- addressing ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "addressing", "begins"),
    [
        ("http://s3.test:9000", "path", "http://s3.test:9000/artifacts/run/a?"),
        ("http://s3.test:9000", "virtual", "http://artifacts.s3.test:9000/run/a?"),
        ("http://s3.test:9000", "auto", "http://s3.test:9000/artifacts/run/a?"),
        ("http://127.0.0.1:9000", "auto", "http://127.0.0.1:9000/artifacts/run/a?"),
        (
            "https://s3.eu-central-1.amazonaws.com",
            "auto",
            "https://artifacts.s3.eu-central-1.amazonaws.com/run/a?",
        ),
        (
            "https://s3.eu-central-1.amazonaws.com",
            "path",
            "https://s3.eu-central-1.amazonaws.com/artifacts/run/a?",
        ),
        (
            "https://s3.cn-north-1.amazonaws.com.cn",
            "auto",
            "https://artifacts.s3.cn-north-1.amazonaws.com.cn/run/a?",
        ),
        ("https://amazonaws.com.example", "auto", "https://amazonaws.com.example/artifacts/run/a?"),
    ],
)
async def test_the_buckets_name_stands_where_the_setting_says(
    endpoint: str, addressing: str, begins: str
) -> None:
    """In the path by itself, but in the host where Amazon wants it; the public endpoint's own way counts for clients."""
    given = {"MATYAN_S3_ADDRESSING": addressing, "S3_BUCKET": "artifacts"}
    for names in (
        {"S3_ENDPOINT": endpoint},
        {"S3_PUBLIC_ENDPOINT": endpoint, "S3_ENDPOINT": "http://store.test"},
    ):
        upload = await S3Blobs(load({**given, **names})).presign_put("run", "a", "text/plain", "")
        assert upload.upload_url.startswith(begins)


@pytest.mark.parametrize(
    ("endpoint", "name"),
    [
        ("http://127.0.0.1:9000", "artifacts"),
        ("http://[::1]:9000", "artifacts"),
        ("http://s3.test", "Artifacts"),
        ("http://s3.test", "my_artifacts"),
        ("https://s3.test", "my.artifacts"),  # no wildcard certificate covers it
    ],
)
def test_a_bucket_that_cannot_be_a_host_is_a_sentence(endpoint: str, name: str) -> None:
    """Where `virtual` was asked for; botocore would go back to paths and say nothing. `auto` does that knowingly."""
    given = {"S3_ENDPOINT": endpoint, "S3_BUCKET": name}
    with pytest.raises(
        ConfigurationError, match=f"MATYAN_S3_ADDRESSING=virtual: S3_BUCKET={name} "
    ):
        S3Blobs(load({**given, "MATYAN_S3_ADDRESSING": "virtual"}))
    S3Blobs(load(given))


async def test_a_real_server_takes_a_bucket_as_a_host(
    versity: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A blob is put, listed and deleted so: the signature covers that host."""
    real = socket.getaddrinfo

    def resolve(host: Any, *arguments: Any, **named: Any) -> Any:
        # As the wildcard in DNS that such a server needs.
        return real("127.0.0.1" if f"{host}".endswith(DOMAIN) else host, *arguments, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    bucket = bucket_on(versity)
    blobs = S3Blobs(
        bucket.settings(
            S3_ENDPOINT=f"http://{DOMAIN}:{bucket.server.port}", MATYAN_S3_ADDRESSING="virtual"
        )
    )
    upload = await blobs.presign_put("run", "a b/ü", "text/plain", "")
    assert upload.upload_url.startswith(f"http://{bucket.name}.{DOMAIN}:")
    async with httpx.AsyncClient() as http:
        done = await http.put(
            upload.upload_url, content=b"x", headers={"Content-Type": "text/plain"}
        )
    assert done.status_code == 200, done.text
    await blobs.check()
    assert bucket.keys() == {"run/a b/ü"}
    assert await blobs.delete_run("run") == 1
    assert bucket.keys() == set()


# --- TLS -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3]:
    """A real server whose certificate an authority of its own has signed, for 127.0.0.1 alone."""
    needed(s3_.versity, "MATYAN_TEST_REQUIRE_S3")
    folder = tmp_path_factory.mktemp("secure")
    ca = trustme.CA()
    certificate = ca.issue_cert("127.0.0.1")
    files = (folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    certificate.cert_chain_pems[0].write_to_path(files[0])
    certificate.private_key_pem.write_to_path(files[1])
    ca.cert_pem.write_to_path(files[2])
    server = Versity(folder / "versity", tls=files)
    server.folder.mkdir()
    with stopped_at_end(server, server.start):
        yield server


async def test_an_authority_of_ones_own_is_named_with_s3_ca_file(secure: S3) -> None:
    """For the requests, for doctor's upload and for clients that know it."""
    bucket = bucket_on(secure)
    assert secure.authority is not None
    settings = bucket.settings(S3_CA_FILE=str(secure.authority))
    blobs = S3Blobs(settings)
    await blobs.check()
    assert "went into" in await _check_blobs(settings)
    upload = await blobs.presign_put("run", "a", "text/plain", "")
    context = ssl.create_default_context(cafile=secure.authority)
    async with httpx.AsyncClient(verify=context) as http:
        done = await http.put(
            upload.upload_url, content=b"x", headers={"Content-Type": "text/plain"}
        )
    assert done.status_code == 200
    assert await blobs.delete_run("run") == 1


async def test_the_authorities_of_aws_own_variable_count_too(
    secure: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    """boto3's own, where S3_CA_FILE is not set; for doctor's upload as well."""
    monkeypatch.setenv("AWS_CA_BUNDLE", str(secure.authority))
    await S3Blobs(load(s3_environment(secure))).check()


@pytest.mark.parametrize("wrong", ["none", "another", "host"])
async def test_a_server_that_is_not_known_is_not_spoken_to(
    wrong: str, secure: S3, tmp_path: Path
) -> None:
    """Without its authority, with another one, by a name that is not in its certificate: the sentence names S3_CA_FILE. The
    credentials are not sent."""
    env = s3_environment(secure)
    if wrong == "another":
        trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
        env["S3_CA_FILE"] = str(tmp_path / "ca.pem")
    elif wrong == "host":
        env |= {
            "S3_CA_FILE": str(secure.authority),
            "S3_ENDPOINT": f"https://localhost:{secure.port}",
        }
    blobs = S3Blobs(load(env))
    for attempt in (blobs.list_one, blobs.check, blobs.server_time):
        with pytest.raises(Unavailable, match=r"certificate must be for the host .* S3_CA_FILE"):
            await attempt()


@pytest.mark.parametrize("content", [None, b"", b"no certificate", b"\xff\x00"])
def test_a_file_without_certificates_is_a_sentence(tmp_path: Path, content: bytes | None) -> None:
    """Of the start, whether or not the endpoint speaks TLS."""
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"^S3_CA_FILE='.*ca\.pem' (holds|cannot)"):
        S3Blobs(load({"S3_CA_FILE": str(file)}))


# --- encryption ----------------------------------------------------------------------------------

KEY = "arn:aws:kms:eu-central-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"


@pytest.mark.parametrize("server", ["s3", "versity"])
@pytest.mark.parametrize(
    ("given", "headers"),
    [
        ({"MATYAN_S3_SSE": "aes256"}, {"x-amz-server-side-encryption": "AES256"}),
        ({"MATYAN_S3_SSE": "aws:kms"}, {"x-amz-server-side-encryption": "aws:kms"}),
        (
            {"MATYAN_S3_SSE": "aws:kms:dsse", "MATYAN_S3_SSE_KMS_KEY_ID": KEY},
            {
                "x-amz-server-side-encryption": "aws:kms:dsse",
                "x-amz-server-side-encryption-aws-kms-key-id": KEY,
            },
        ),
    ],
)
async def test_encryption_is_signed_and_told_to_the_client(
    given: dict[str, str],
    headers: dict[str, str],
    server: str,
    request: pytest.FixtureRequest,
) -> None:
    """The answer's `headers` are what the SDK sends with its PUT; one that leaves any out, or changes it, is refused."""
    bucket = bucket_on(request.getfixturevalue(server))
    blobs = S3Blobs(bucket.settings(**given))
    upload = await blobs.presign_put("run", "a", "text/plain", "")
    assert upload.headers == headers

    async def put(sent: dict[str, str]) -> int:
        async with httpx.AsyncClient() as http:
            sent = {"Content-Type": "text/plain", **sent}
            return (await http.put(upload.upload_url, content=b"x", headers=sent)).status_code

    for name in headers:
        assert await put({other: value for other, value in headers.items() if other != name}) == 403
        assert await put({**headers, name: "none"}) == 403
    assert bucket.keys() == set()
    assert await put(headers) == 200
    await blobs.check()
    assert bucket.keys() == {"run/a"}


async def test_without_the_setting_no_header_is_asked_for(bucket: Bucket) -> None:
    upload = await S3Blobs(bucket.settings()).presign_put("run", "a", "text/plain", "")
    assert upload.headers is None
    assert encryption(load({})).params == {}


@pytest.mark.parametrize("sse", ["", "AES256"])
def test_a_kms_key_wants_kms(sse: str) -> None:
    with pytest.raises(
        ConfigurationError, match=r"MATYAN_S3_SSE_KMS_KEY_ID is set, and MATYAN_S3_SSE"
    ):
        S3Blobs(load({"MATYAN_S3_SSE": sse, "MATYAN_S3_SSE_KMS_KEY_ID": KEY}))


class Refusing(BaseHTTPRequestHandler):
    """A server that lists nothing and refuses each PUT as it is told."""

    code = message = ""

    def do_GET(self) -> None:
        self.answer(200, "<ListBucketResult></ListBucketResult>")

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(
            400, f"<Error><Code>{self.code}</Code><Message>{self.message}</Message></Error>"
        )

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *arguments: object) -> None: ...


@pytest.mark.parametrize(
    ("code", "message", "sse", "mends"),
    [
        (
            "AccessDenied",
            "not authorized to perform: kms:GenerateDataKey",
            "aws:kms",
            "MATYAN_S3_SSE_KMS_KEY_ID must be",
        ),
        ("KMS.NotFoundException", "Invalid keyId", "aws:kms", "MATYAN_S3_SSE_KMS_KEY_ID must be"),
        ("KMS.DisabledException", "is disabled", "aws:kms", "MATYAN_S3_SSE_KMS_KEY_ID must be"),
        ("NotImplemented", "A header", "aws:kms:dsse", "MATYAN_S3_SSE=aws:kms:dsse"),
        ("InvalidArgument", "encryption", "AES256", "MATYAN_S3_SSE=AES256"),
        ("InvalidArgument", "something", "", "Look at S3_ENDPOINT"),
        ("AccessDenied", "Access Denied", "AES256", "may list, put and delete"),
        ("ExpiredToken", "The provided token has expired", "", "session token has ended"),
        ("PermanentRedirect", "must be addressed", "", "S3_REGION and S3_ENDPOINT must be"),
        ("", "", "", "Look at S3_ENDPOINT"),
    ],
)
async def test_a_refused_upload_names_the_setting(
    code: str, message: str, sse: str, mends: str
) -> None:
    """As doctor's upload tells it: what a key of KMS, an encryption or a role has to do with it."""

    class Handler(Refusing):
        pass

    Handler.code, Handler.message = code, message
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        blobs = S3Blobs(
            load({"S3_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "MATYAN_S3_SSE": sse})
        )
        with pytest.raises(
            Unavailable, match=f"answered with 400 {code}.*{re.escape(mends)}"
        ) as caught:
            await blobs.check()
        server.shutdown()
    assert str(caught.value).endswith((".", ")."))


# --- doctor --------------------------------------------------------------------------------------


async def test_doctor_says_what_signs(bucket: Bucket) -> None:
    """Not the key."""
    said = await _check_blobs(bucket.settings(MATYAN_S3_SSE="aws:kms"))
    assert "signed with S3_ACCESS_KEY" in said
    assert "encrypted with aws:kms" in said
    assert "rustfsadmin" not in said


async def test_doctor_finds_settings_of_s3_that_cannot_work() -> None:
    for given in (
        {"S3_CA_FILE": "/no/file"},
        {"S3_SECRET_KEY": ""},
        {"MATYAN_S3_SSE_KMS_KEY_ID": KEY},
    ):
        with pytest.raises(ConfigurationError, match=next(iter(given))):
            await _check_settings(load(given), with_s3=True)
