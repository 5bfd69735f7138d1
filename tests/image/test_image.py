"""Every service from a built image: as nobody in particular, with a root that is only read, until SIGTERM.

`make test-long` runs it: the image is built here, by podman without a daemon, from a base of Debian's packages. It wants podman,
mmdebstrap and root; the services beside a broker and S3 want Java and Maven as well. What stands in for FoundationDB's client
library is an empty file: no service is run on a cluster here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from websockets.sync.client import connect

from dev.broker import Broker
from dev.process import Missing, free_ports
from dev.s3 import S3
from tests.needs import needed
from tests.until import wait_for

ROOT = Path(__file__).parents[2]
BASE = ROOT / "build" / "image" / "base.tar"
PACKAGES = "python3,python3-venv,python3-pip,python3-dev,gcc,libc6-dev,ca-certificates"
_ASKED = ("/etc/pip.conf", "/etc/apt/apt.conf.d", "/etc/ssl/certs")
"""How this machine reaches the package registries, which the image must not keep."""

_RUNTIME = ("--runtime", "runc") if shutil.which("runc") else ()
"""crun, which Debian's podman takes first, knows no machine with both kinds of control groups."""
_LIMITS = ("--ulimit", "nofile=4096:4096", "--ulimit", "nproc=1000:1000")
"""Without them podman asks for more than a machine of CI may give."""

pytestmark = pytest.mark.skipif(
    os.environ.get("MATYAN_TEST_LONG") != "1",
    reason="`make test-long` builds the image: some minutes",
)


def _tools() -> None:
    for program, package in (("podman", "podman"), ("mmdebstrap", "mmdebstrap")):
        if shutil.which(program) is None:
            raise Missing(f"{program} is not on the PATH (on Debian: apt-get install {package})")
    if os.geteuid() != 0:
        raise Missing("the image's base is made by root")


def podman(*words: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        ["podman", *_RUNTIME, *words], capture_output=True, text=True, check=False
    )
    assert not check or done.returncode == 0, (words, done.stdout[-3000:], done.stderr[-3000:])
    return done


@pytest.fixture(scope="session")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of the image: that of MATYAN_TEST_IMAGE, or one that is built from this tree."""
    if given := os.environ.get("MATYAN_TEST_IMAGE"):
        yield given
        return
    needed(_tools, "MATYAN_TEST_REQUIRE_IMAGE")
    if not BASE.exists():
        BASE.parent.mkdir(parents=True, exist_ok=True)
        made = BASE.with_suffix(".new.tar")
        subprocess.run(
            [
                "mmdebstrap",
                "--quiet",
                "--variant=minbase",
                f"--include={PACKAGES}",
                "bookworm",
                made,
            ],
            check=True,
        )
        made.rename(BASE)
    folder = tmp_path_factory.mktemp("image")
    (folder / "libfdb_c.so").touch()
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY libfdb_c.so /usr/lib/libfdb_c.so\n")
    podman("import", "--quiet", BASE, "localhost/matyan-test-python")
    podman("build", "--quiet", "--tag", "localhost/matyan-test-foundationdb", folder)
    there = [path for path in _ASKED if Path(path).exists()]
    podman(
        *("build", "--quiet", "--format", "docker", "--isolation", "chroot", "--network", "host"),
        *("--build-arg", "PYTHON=localhost/matyan-test-python"),
        *("--build-arg", "FOUNDATIONDB=localhost/matyan-test-foundationdb"),
        *(word for path in there for word in ("--volume", f"{path}:{path}:ro")),
        *("--tag", "localhost/matyan-test", ROOT),
    )
    yield "localhost/matyan-test"
    podman("rmi", "--force", "localhost/matyan-test", check=False)


class Service:
    """A container that runs a service; it is told SIGTERM at the end, and must end well."""

    def __init__(self, name: str) -> None:
        self.name = name

    def run(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command beside the service."""
        return podman("exec", self.name, *words, check=check)

    @property
    def is_healthy(self) -> bool:
        """What the image's own check says."""
        return podman("healthcheck", "run", self.name, check=False).returncode == 0

    @property
    def log(self) -> str:
        done = podman("logs", self.name, check=False)
        return done.stdout + done.stderr


@contextmanager
def running(image: str, *words: str, volume: str, **environment: str) -> Iterator[Service]:
    name = f"matyan-test-{uuid.uuid4().hex[:8]}"
    podman(
        *("run", "--detach", "--name", name, "--network", "host", *_LIMITS),
        *("--read-only", "--read-only-tmpfs=false", "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--volume", f"{volume}:/data"),
        *(word for pair in environment.items() for word in ("--env", "=".join(pair))),
        *(image, *words),
    )
    service = Service(name)
    try:
        wait_for(lambda: service.is_healthy, 120)
        yield service
        podman("kill", "--signal", "TERM", name)
        assert podman("wait", name).stdout.strip() == "0", service.log
    except BaseException:
        print(service.log)
        raise
    finally:
        podman("rm", "--force", name, check=False)


@pytest.fixture
def volume() -> Iterator[str]:
    name = f"matyan-test-{uuid.uuid4().hex[:8]}"
    podman("volume", "create", name)
    yield name
    podman("volume", "rm", "--force", name, check=False)


def send(port: int, run: str) -> None:
    """One message that is answered as stored."""
    with connect(f"ws://127.0.0.1:{port}/api/v1/ws/runs/{run}") as client:
        client.send(json.dumps({"type": "add_tag", "tag_name": "from-the-image"}))
        assert json.loads(client.recv(timeout=60)) == {"status": "ok", "error": None}


def test_the_image_has_what_runs_and_is_nobodys(image: str) -> None:
    """No pip, no root, of the package nothing that is only compiled; the client library is where it is looked for."""
    (about,) = json.loads(podman("inspect", image).stdout)
    assert about["Config"]["User"] == "10001:10001"
    assert about["Config"]["Entrypoint"] == ["matyan"]
    assert about["Healthcheck"]["Test"] == ["CMD", "matyan", "health", "--live"]
    asked = (
        "run",
        "--rm",
        "--network",
        "none",
        *_LIMITS,
        "--read-only",
        "--entrypoint",
    )
    found = podman(
        *asked, "find", image, "/opt/matyan", "/usr/lib/libfdb_c.so", "/data", "-maxdepth", "6"
    )
    assert "/usr/lib/libfdb_c.so" in found.stdout
    packages = [line for line in found.stdout.splitlines() if "/site-packages/" in line]
    assert not [line for line in packages if line.endswith("/site-packages/pip")]
    ours = [line for line in packages if "/site-packages/matyan/" in line]
    assert not [line for line in ours if line.endswith((".pyx", ".pxi", ".c"))]
    assert "matyan/__pycache__" in found.stdout
    assert podman(*asked, "id", image, "-u").stdout.strip() == "10001"


def test_the_tracker_runs_from_it(image: str, volume: str) -> None:
    (port,) = free_ports(1)
    words = ("up", "--host", "127.0.0.1", "--port", str(port), "--data", "/data/tracker")
    with running(image, *words, volume=volume, PORT=str(port)) as tracker:
        send(port, "run-1")
        assert "run-1" in tracker.run("matyan", "runs", "--data", "/data/tracker").stdout
        assert tracker.run("matyan", "health").returncode == 0
        assert tracker.run("touch", "/opt/matyan/x", check=False).returncode == 1
        # Nobody listens there.
        assert tracker.run("matyan", "health", "1", check=False).returncode == 1


def test_the_services_run_from_it(image: str, volume: str, broker: Broker, s3: S3) -> None:
    """What the frontier has taken is stored by the worker, beside the control worker, and shown by the API."""
    services = ("frontier", "ingest-worker", "control-worker", "api")
    ports = {name: str(port) for name, port in zip(services, free_ports(4), strict=True)}
    mark = uuid.uuid4().hex[:8]
    shared = {
        "KAFKA_BOOTSTRAP_SERVERS": broker.bootstrap,
        "KAFKA_DATA_INGESTION_TOPIC": f"data-{mark}",
        "KAFKA_CONTROL_EVENTS_TOPIC": f"control-{mark}",
        "S3_ENDPOINT": s3.endpoint,
        "HOST": "127.0.0.1",
    }
    environment = [word for pair in shared.items() for word in ("--env", "=".join(pair))]
    once = (
        "run",
        "--rm",
        "--network",
        "host",
        *_LIMITS,
        "--read-only",
        *environment,
    )
    podman(*once, image, "topics", "create")
    store = ("--store", "rocks:/data/worker")

    def a(*words: str) -> AbstractContextManager[Service]:
        own = {"PORT": ports[words[0]], "METRICS_PORT": ports[words[0]]}
        return running(image, *words, volume=volume, **shared, **own)

    with (
        a("ingest-worker", *store),
        a("control-worker", *store),
        a("frontier"),
        a("api", *store) as api,
    ):
        send(int(ports["frontier"]), "run-1")

        def is_shown() -> bool:
            done = api.run("matyan", "runs", "--data", "/data/worker", check=False)
            return "run-1" in done.stdout

        wait_for(is_shown, 120)
        wait_for(lambda: api.run("matyan", "health", check=False).returncode == 0, 120)
        url = f"http://127.0.0.1:{ports['api']}/api/v1/rest/runs/run-1/info/"
        assert urllib.request.urlopen(url, timeout=60).status == 200
