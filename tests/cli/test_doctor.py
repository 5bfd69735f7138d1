"""This machine's clock against a server's, whose clock a test can set; what is said of settings and of the certificate."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import trio

from dev.process import free_ports
from matyan.cli.doctor import _check_certificate, _check_clock, _check_settings, examine
from matyan.errors import MatyanError
from matyan.settings import Settings, load
from tests import tls


@contextmanager
def server(ahead_s: float | None) -> Iterator[str]:
    """Answers 403 to everything, as S3 does to a signature of another time; None: without a Date header."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response_only(403)
            if ahead_s is not None:
                self.send_header("Date", formatdate(time.time() + ahead_s, usegmt=True))
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    listener = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=listener.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


@pytest.mark.parametrize(
    ("ahead_s", "is_ok", "text"),
    [
        (0, True, "the S3 server at http"),
        (-600, False, "ahead of the S3 server"),
        (600, False, "behind the S3 server"),
        (None, False, "no Date header"),
    ],
)
async def test_the_clock_is_compared_with_the_servers(
    ahead_s: float | None, is_ok: bool, text: str
) -> None:
    """More than a minute apart is wrong, and the finding says which way and where the other time came from."""
    with server(ahead_s) as endpoint:
        try:
            finding, was_ok = await _check_clock(load({"S3_ENDPOINT": endpoint})), True
        except MatyanError as error:
            finding, was_ok = str(error), False
    assert (was_ok, text in finding) == (is_ok, True), finding


@pytest.mark.parametrize(
    ("compression", "text"),
    [
        ("none", "lz4 (or zstd, "),
        ("gzip", "lz4 (or zstd, "),
        ("lz4", "ends at the first, unless the package cramjam"),
        ("zstd", "ends at the first, unless the package cramjam"),
        ("snappy", "ends at the first, unless the package cramjam"),
    ],
)
async def test_it_says_who_reads_our_records(compression: str, text: str) -> None:
    """And when another compression is better."""
    finding = await _check_settings(load({"MATYAN_KAFKA_COMPRESSION": compression}), with_s3=True)
    assert f"MATYAN_KAFKA_COMPRESSION={compression}" in finding
    assert text in finding


@pytest.mark.parametrize(
    ("days", "is_ok", "text"),
    [(365, True, "belong together"), (9, True, "in 9 days"), (-1, False, "expired on")],
)
async def test_the_certificate_is_looked_at(
    tmp_path: Path, days: float, is_ok: bool, text: str
) -> None:
    """One that expires soon is no reason to stop a start; one that has expired is."""
    certificate, key = tls.write_pair(tmp_path, days=days)
    settings = Settings(tls_cert_file=str(certificate), tls_key_file=str(key))
    try:
        finding, was_ok = await _check_certificate(settings), True
    except MatyanError as error:
        finding, was_ok = str(error), False
    assert (was_ok, text in finding) == (is_ok, True), finding
    other, _ = tls.write_pair(tmp_path, name="other")
    other.rename(certificate)
    with pytest.raises(MatyanError, match="belongs together"):
        await _check_certificate(settings)


async def test_a_service_that_has_nothing_to_do_with_blobs_is_not_asked_for_them() -> None:
    """An ingestion worker gets no key of S3; where its init container wanted one, it would never start."""
    (nobody,) = free_ports(1)
    env = {
        "MATYAN_ENVIRONMENT": "production",
        "KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nobody}",
    }
    found: dict[str, dict[str, bool]] = {}

    async def ask(*services: str) -> None:
        findings = await examine(load(env), None, trio.current_time(), services)
        found["+".join(services)] = {one.check: one.ok for one in findings}

    async with trio.open_nursery() as nursery:
        for services in (("ingest-worker",), ("ingest-worker", "frontier")):
            nursery.start_soon(ask, *services)
    assert found["ingest-worker"] == {"settings": True, "broker": False, "topics": False}
    # The development keys of S3.
    assert found["ingest-worker+frontier"] == dict.fromkeys(
        ("settings", "broker", "topics", "blobs", "clock"), False
    )
