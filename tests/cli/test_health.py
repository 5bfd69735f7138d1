"""`matyan health`: an exit code for each state of a service, which is found by the environment, a port or a URL."""

from __future__ import annotations

import json
import threading
from http.server import HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from dev.process import free_ports
from tests import tls
from tests.tracker import MATYAN, environment, matyan, running, started
from tests.until import wait_for


@pytest.mark.parametrize("over_tls", [False, True], ids=["plain", "tls"])
def test_a_service_is_found_by_the_environment_a_port_or_a_url(tmp_path: Path, over_tls) -> None:
    """Under TLS its own check asks nobody who has signed the certificate; at a URL it is checked as ever."""
    own = tls.server_environment() if over_tls else {}
    with running(tmp_path / "data", **own) as tracker:
        port = tracker.url.rpartition(":")[2]
        # A port may be that of others' metrics, too.
        env = environment(PORT=port, METRICS_PORT=port, **own)
        for words in (("health",), ("health", "--live"), ("health", port)):
            said = matyan(*words, env=env, cwd=tmp_path).stdout
            assert said.splitlines()[0].split() == [
                f"http{'s' * over_tls}://127.0.0.1:{port}",
                "ok",
            ]
        assert json.loads(matyan("health", "--json", env=env).stdout)["status"] == "ok"
        url_env = environment(PORT="1")
        if over_tls:
            assert "SSL_CERT_FILE" in matyan("health", tracker.url, env=url_env, check=2).stderr
            url_env["SSL_CERT_FILE"] = str(tls.authority_file())
        matyan("health", tracker.url, env=url_env)
    said = matyan("health", env={**env, "METRICS_PORT": "0"}, check=1).stderr
    assert f"Nobody answers at http{'s' * over_tls}://127.0.0.1:{port}: " in said


@pytest.mark.parametrize("shares_tls", [False, True], ids=["plain", "tls"])
def test_a_worker_that_waits_lives_and_is_not_ready(tmp_path: Path, shares_tls) -> None:
    """What another program answers at the first port is not its health; nor does it listen under TLS where all services have the
    same environment."""
    own = tls.server_environment() if shares_tls else {}
    with HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        (port,) = free_ports(1)
        ports = {"PORT": str(other.server_port), "METRICS_PORT": str(port), "HOST": "127.0.0.1"}
        ports |= own
        env = environment(**ports)
        words = [*MATYAN, "ingest-worker", "--store", f"rocks:{tmp_path}"]
        with started(words, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1", **ports):
            wait_for(lambda: matyan("health", "--live", env=env, check=None).returncode == 0, 20)
            said = matyan("health", env=env, check=1).stdout
            named = matyan("health", str(port), env=env, check=1).stdout
        other.shutdown()
    assert said.splitlines()[0].split() == [f"http://127.0.0.1:{port}", "unavailable"]
    assert "kafka" in said
    assert named == said


@pytest.mark.parametrize("where", ["http://", "65536", "9" * 30])
def test_what_is_no_url_and_no_port_is_a_sentence(where: str) -> None:
    said = matyan("health", where, check=2).stderr
    assert said.startswith("matyan: ")
    assert len(said.splitlines()) == 1
