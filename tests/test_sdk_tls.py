"""The unmodified matyan-client 0.3.0 against real processes under TLS, whose certificate a private authority gave."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests import tls
from tests.tokens import add
from tests.tracker import Tracker, asked, environment, matyan, running

SCRIPT = """
import sys
from matyan_client import Run
from matyan_client.objects import Image
from PIL import Image as Pillow
run = Run(repo=sys.argv[1], capture_terminal_logs=False)
run["hparams"] = {"lr": 0.1}
for step in range(250):
    run.track(step / 4, name="loss", step=step)
run.track(Image(Pillow.new("L", (8, 8), 128)), name="picture", step=0)
run.close()
print(run.hash)
"""


def train(url: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A training of a process of its own, since the SDK reads the authority at its start; its last line is the run."""
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, url],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env=environment(**env),
    )


def is_all_there(tracker: Tracker, trained: subprocess.CompletedProcess[str]) -> None:
    assert trained.returncode == 0, trained.stderr
    run = trained.stdout.split()[-1]
    shown = asked("show", run, "--data", tracker.data)
    points = {row["name"]: row["points"] for row in shown["sequences"]}
    assert points == {"loss": 250, "picture": 1}
    assert shown["meta"]["duration"] is not None
    # What was put to the signed URL.
    (artifact,) = asked("artifacts", run, "--data", tracker.data)
    assert artifact["bytes"] > 0


def test_a_run_over_https(tmp_path: Path) -> None:
    """Its socket, its presigned upload, all to the name that its user wrote."""
    with running(tmp_path / "data", **tls.server_environment()) as tracker:
        url = tracker.url.replace("127.0.0.1", "localhost")
        assert url.startswith("https://")
        is_all_there(tracker, train(url, SSL_CERT_FILE=str(tls.authority_file())))
        assert tracker.metric('matyan_tls_handshakes_total{outcome="ok"}')[0] > 2
        assert tracker.stop() == 0, tracker.output[-5:]
    assert any("SSL_CERT_FILE" in line for line in tracker.output)  # its greeting says how


def test_a_run_over_https_with_a_token_that_has_a_quota(tmp_path: Path) -> None:
    quota = "connections=2,bytes=10MB/s,messages=10000/s,blobs=1GB/day"
    token = add(tmp_path / "tokens", "training", "write", quota=quota)
    env = {**tls.server_environment(), "MATYAN_TOKENS_FILE": str(tmp_path / "tokens")}
    with running(tmp_path / "data", **env) as tracker:
        url = tracker.url.replace("//", f"//training:{token}@")
        is_all_there(tracker, train(url, SSL_CERT_FILE=str(tls.authority_file())))
    assert token not in "".join(tracker.output)


@pytest.mark.parametrize("command", ["up", "frontier"])
@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("MATYAN_TLS_KEY_FILE", "to be set, too"),
        ("MATYAN_TLS_CERT_FILE", "to be set, too"),
        ("the file", "cannot be read"),
    ],
)
def test_a_start_without_all_that_tls_needs_ends_with_2(
    tmp_path: Path, command: str, missing: str, words: str
) -> None:
    certificate, key = tls.write_pair(tmp_path)
    env = {"MATYAN_TLS_CERT_FILE": str(certificate), "MATYAN_TLS_KEY_FILE": str(key)}
    if missing == "the file":
        certificate.unlink()
    else:
        del env[missing]
    place = ("--data", tmp_path / "data") if command == "up" else ()
    done = matyan(command, *place, "--port", "0", check=2, env=environment(**env))
    assert words in done.stderr
    assert "MATYAN_TLS_CERT_FILE" in done.stderr
    assert "Traceback" not in done.stderr
