"""Where AWS hands out credentials to programs: a server that speaks the documented protocols, with the key of a real S3 server.

An instance's metadata (IMDSv2), a container's endpoint and STS's AssumeRoleWithWebIdentity. Every answer has a session token of
its own, `token-1` and so on, so that a test sees which one was signed with.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from dev.s3 import ACCESS_KEY, SECRET_KEY

STS = "https://sts.amazonaws.com/doc/2011-06-15/"
ROLE = "arn:aws:iam::123456789012:role/frontier"


class Aws:
    """What the server answers; a test changes it."""

    def __init__(self) -> None:
        self.port = 0
        self.life_s = 3600.0
        self.given = 0
        """How many credentials it has handed out."""
        self.refuses = False
        self.says: bytes | None = None
        """Instead of credentials."""
        self.web_identities: list[str] = []
        """The tokens that were shown to STS."""
        self.gate = threading.Event()
        """Answers wait for it."""
        self.gate.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def credentials(self) -> dict[str, str]:
        self.given += 1
        ends = datetime.now(UTC) + timedelta(seconds=self.life_s)
        return {
            "AccessKeyId": ACCESS_KEY,
            "SecretAccessKey": SECRET_KEY,
            "Token": f"token-{self.given}",
            "Expiration": ends.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


def _handler(aws: Aws) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            assert self.path == "/latest/api/token"
            self.answer(b"imds-token")

        def do_GET(self) -> None:
            if self.path == "/container":
                assert self.headers["Authorization"] == "container-token"
            else:
                assert self.headers["x-aws-ec2-metadata-token"] == "imds-token"
                if self.path.endswith("/security-credentials/"):
                    self.answer(b"frontier-role")
                    return
                assert self.path.endswith("/security-credentials/frontier-role")
            aws.gate.wait(60)
            if aws.refuses:
                self.answer(b'{"message": "denied, not with hush"}', True)
            else:
                self.answer(aws.says or json.dumps(aws.credentials()).encode())

        def do_POST(self) -> None:
            asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
            assert asked["Action"] == ["AssumeRoleWithWebIdentity"]
            assert asked["RoleArn"] == [ROLE]
            aws.web_identities += asked["WebIdentityToken"]
            aws.gate.wait(60)
            if aws.refuses:
                error = (
                    "<Error><Code>AccessDenied</Code><Message>Not authorized to perform "
                    "sts:AssumeRoleWithWebIdentity</Message></Error>"
                )
                self.answer(f'<ErrorResponse xmlns="{STS}">{error}</ErrorResponse>'.encode(), True)
                return
            row = aws.credentials()
            row["SessionToken"] = row.pop("Token")
            inner = "".join(f"<{name}>{value}</{name}>" for name, value in row.items())
            self.answer(
                f'<AssumeRoleWithWebIdentityResponse xmlns="{STS}"><AssumeRoleWithWebIdentityResult>'
                f"<Credentials>{inner}</Credentials><AssumedRoleUser><Arn>{ROLE}</Arn>"
                "<AssumedRoleId>x</AssumedRoleId></AssumedRoleUser></AssumeRoleWithWebIdentityResult>"
                "</AssumeRoleWithWebIdentityResponse>".encode()
            )

        def answer(self, body: bytes, is_refused: bool = False) -> None:
            self.send_response(403 if is_refused else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    return Handler


@contextmanager
def served_aws() -> Iterator[Aws]:
    aws = Aws()
    with ThreadingHTTPServer(("127.0.0.1", 0), _handler(aws)) as server:
        aws.port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield aws
        aws.gate.set()
        server.shutdown()


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Aws]:
    """The server, and a process that knows nothing of AWS until `use` tells it."""
    for name in [*os.environ]:
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with served_aws() as aws:
        yield aws


LINKS = {
    "env": "env",
    "profile": "shared-credentials-file",
    "process": "custom-process",
    "web identity": "assume-role-with-web-identity",
    "container": "container-role",
    "instance": "iam-role",
}
"""The links of the chain that `use` sets up, and what boto3 calls them."""


def use(link: str, aws: Aws, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sets the process up as AWS's platforms do, so that this link of the chain has credentials."""
    if link == "env":
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "token-1")
    elif link == "profile":
        write_profile(tmp_path, ACCESS_KEY, "token-1")
        monkeypatch.setenv("AWS_PROFILE", "artifacts")
    elif link == "process":
        row = {"Version": 1, **aws.credentials()}
        row["SessionToken"] = row.pop("Token")
        (tmp_path / "row.json").write_text(json.dumps(row))
        (tmp_path / "config").write_text(
            f"[default]\ncredential_process = cat {tmp_path / 'row.json'}\n"
        )
    elif link == "web identity":
        (tmp_path / "web-identity").write_text("signed-by-the-cluster")
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "web-identity"))
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", aws.url)
    elif link == "container":
        (tmp_path / "container").write_text("container-token")
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{aws.url}/container")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(tmp_path / "container"))
    else:
        monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", aws.url)


def write_profile(tmp_path: Path, key: str, token: str) -> None:
    (tmp_path / "credentials").write_text(
        f"[artifacts]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET_KEY}\n"
        f"aws_session_token = {token}\n"
    )
