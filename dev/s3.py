"""Real S3 servers on loopback, for tests and `make s3`: S3Proxy from Maven Central, and versitygw, a Go program.

Both check what S3 checks: signatures (AWS Signature 4) of headers and presigned URLs, their expiry, and the headers that
they cover. S3Proxy is the one to try things with: in memory it takes any key. Its Jetty rewrites the Content-Types that
it knows (`text/html; charset=utf-8`, `TEXT/html`), so that it refuses their signatures. versitygw takes these. It keeps
keys as paths of files and so refuses keys that S3 takes (`a` beside `a/b`, `a//b`, a segment over 255 bytes); it costs 135 CPU
seconds to build once, and a second from then on.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from dev.process import (
    HERE,
    TARGET,
    Missing,
    Server,
    fetch_jars,
    free_ports,
    run_until_interrupted,
    stopped_at_end,
)

BUCKET = "matyan-artifacts"
ACCESS_KEY = SECRET_KEY = "rustfsadmin"
"""The services' defaults, so that `make s3` needs no setting."""

DOMAIN = "s3.test"
"""versitygw takes its buckets as hosts of this name, too. (S3Proxy would take every host for one.)"""

VERSITY = "github.com/versity/versitygw"
VERSITY_VERSION = "v1.8.0"

PROPERTIES = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v4
s3proxy.identity={access_key}
s3proxy.credential={secret_key}
# Checksums that newer SDKs send and S3Proxy does not know are no reason to refuse a request.
s3proxy.ignore-unknown-headers=true
jclouds.provider={provider}
jclouds.filesystem.basedir={data}
jclouds.identity=none
jclouds.credential=none
"""

LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d %level %logger{0} %msg%n</pattern></encoder>
  </appender>
  <root level="warn"><appender-ref ref="out"/></root>
</configuration>
"""


def classpath() -> str:
    """The class path of the pinned jars; see `fetch_jars`."""
    return fetch_jars(HERE / "s3.xml")


def versity() -> Path:
    """The versitygw program, built when it was not built yet.

    Raises:
        Missing: Go is not installed, or cannot build it.
    """
    if shutil.which("go") is None:
        raise Missing("go is not on the PATH: it builds the second S3 server")
    folder = TARGET / f"versitygw-{VERSITY_VERSION}"
    program = folder / "versitygw"
    folder.mkdir(parents=True, exist_ok=True)
    with (TARGET / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not program.exists():
            done = subprocess.run(
                ["go", "install", f"{VERSITY}/cmd/versitygw@{VERSITY_VERSION}"],
                env={**os.environ, "GOBIN": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            if done.returncode:
                raise Missing(f"go could not build versitygw: {done.stderr[-2000:]}")
    return program


class S3(Server):
    """One S3 server with the bucket of the services' defaults.

    Args:
        in_memory: the objects end with the process, and any key goes; else they are files under `folder`, where a key
            has to be a path that the file system takes.
    """

    name = "the S3 server"
    authority: Path | None = None
    """The certificates by which its own is known; None: it speaks without TLS."""

    def __init__(self, folder: Path, port: int = 0, *, in_memory: bool = False) -> None:
        super().__init__(folder, port or free_ports(1)[0])
        self.in_memory = in_memory

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, timeout: float = 90) -> None:
        """Starts, and waits until the server answers and has the bucket.

        Raises:
            Missing: it cannot be run on this machine.
            RuntimeError: it ended, or does not answer within `timeout` seconds; its log's end is in the text.
        """
        data = self.folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        self.spawn_on(data)
        client = self.client()

        def has_bucket() -> bool:
            try:
                self.make_bucket(BUCKET, client)
            except (BotoCoreError, ClientError):
                return False
            return True

        self.wait_until(has_bucket, timeout)

    def spawn_on(self, data: Path) -> None:
        """Starts the program, whose objects are files under `data`."""
        properties = self.folder / "s3proxy.conf"
        properties.write_text(
            PROPERTIES.format(
                port=self.port,
                access_key=ACCESS_KEY,
                secret_key=SECRET_KEY,
                provider="transient" if self.in_memory else "filesystem-nio2",
                data=data,
            )
        )
        logback = self.folder / "logback.xml"
        logback.write_text(LOGBACK)
        self.spawn(
            [
                *("java", "-Xmx256m", "-XX:+UseSerialGC", "-cp", classpath()),
                f"-Dlogback.configurationFile={logback}",
                *("org.gaul.s3proxy.Main", "--properties", properties),
            ]
        )

    def client(self) -> Any:
        """A plain client, for what a test does beside the engine."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            verify=None if self.authority is None else str(self.authority),
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            region_name="us-east-1",
            config=Config(
                s3={"addressing_style": "path"},
                connect_timeout=2,
                read_timeout=5,
                retries={"total_max_attempts": 1},
            ),
        )

    def make_bucket(self, name: str, client: Any = None) -> None:
        """Makes a bucket, unless it is there."""
        client = client or self.client()
        if name not in [row["Name"] for row in client.list_buckets()["Buckets"]]:
            client.create_bucket(Bucket=name)

    def keys(self, prefix: str = "", bucket: str = BUCKET) -> set[str]:
        """Every key that begins so."""
        pages = (
            self.client().get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        )
        return {row["Key"] for page in pages for row in page.get("Contents", [])}


class Versity(S3):
    """The same with versitygw.

    Args:
        tls: the files of a certificate for 127.0.0.1 and of its key, and the one of its authority; None: without TLS.
    """

    def __init__(self, folder: Path, *, tls: tuple[Path, Path, Path] | None = None) -> None:
        super().__init__(folder)
        self.tls = tls
        self.authority = tls and tls[2]

    @property
    def endpoint(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    def spawn_on(self, data: Path) -> None:
        tls = ("--cert", self.tls[0], "--key", self.tls[1]) if self.tls else ()
        self.spawn(
            [
                *(versity(), "--port", f"127.0.0.1:{self.port}", *tls),
                *("--access", ACCESS_KEY, "--secret", SECRET_KEY, "--quiet"),
                *("--virtual-domain", DOMAIN),
                *("posix", data),
            ]
        )


def running(folder: Path, port: int = 0, *, in_memory: bool = False) -> AbstractContextManager[S3]:
    """A started server, stopped on leaving."""
    server = S3(folder, port, in_memory=in_memory)
    return stopped_at_end(server, server.start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=TARGET / "s3-data", help="keeps the objects")
    parser.add_argument("--port", type=int, default=9000, help="0: a free one")
    options = parser.parse_args()

    return run_until_interrupted(
        running(options.data, options.port),
        lambda s3: f"S3 answers on {s3.endpoint}, bucket {BUCKET}; its data: {s3.folder}",
    )


if __name__ == "__main__":
    sys.exit(main())
