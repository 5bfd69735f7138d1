"""Commands on a FoundationDB store that cannot be used: a sentence and an exit code, at once or within seconds. No cluster here:
what wants one stands in `tests/cluster/`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dev.process import free_ports
from matyan import reader
from matyan.errors import ConfigurationError
from matyan.store.fdb.client import load
from tests.tracker import MATYAN, environment, matyan, started

COMMANDS = [
    ("runs",),
    ("show", "r"),
    ("logs", "r"),
    ("export", "r"),
    ("artifacts", "r"),
    ("delete", "r"),
    ("finish", "r"),
]


@pytest.fixture
def away(tmp_path: Path) -> str:
    """The store of a cluster that is away."""
    try:
        load(730)
    except ConfigurationError as error:
        pytest.skip(str(error))  # the client library is in no package registry
    (port,) = free_ports(1)
    file = tmp_path / "away.cluster"
    file.write_text(f"test:away@127.0.0.1:{port}\n")
    return f"fdb:{file}"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda words: words[0])
def test_a_cluster_file_that_is_not_there_is_named(command: tuple[str, ...], tmp_path) -> None:
    """By what was given, or by what FDB_CLUSTER_FILE says where nothing was."""
    said = matyan(*command, "--store", "fdb:none", check=2, cwd=tmp_path).stderr
    assert f"There is no cluster file {tmp_path / 'none'}" in said


@pytest.mark.parametrize(
    ("store", "variable", "named"),
    [("fdb:", None, "fdb.cluster"), ("fdb:", "set", "set"), ("fdb:given", "set", "given")],
)
def test_the_cluster_file_is_the_one_that_is_set(tmp_path, store, variable, named) -> None:
    env = environment(LOG_LEVEL="LOUD", **({"FDB_CLUSTER_FILE": variable} if variable else {}))
    said = matyan("runs", "--store", store, check=2, cwd=tmp_path, env=env).stderr
    assert f"There is no cluster file {tmp_path / named}:" in said


@pytest.mark.parametrize("content", ["", "# a comment\n", "nothing", "a:b@c:1\na:b@c:2\n", b"\xff"])
def test_a_file_that_is_no_cluster_file_is_named(tmp_path, content: str | bytes) -> None:
    file = tmp_path / "x"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    said = matyan("runs", "--store", f"fdb:{file}", check=2).stderr
    assert str(file) in said
    assert said.endswith(".\n")
    assert len(said.splitlines()) == 1


def test_no_client_library_is_a_sentence(tmp_path) -> None:
    """One that cannot be loaded stands before any other."""
    (tmp_path / "libfdb_c.so").write_bytes(b"no library")
    file = tmp_path / "x"
    file.write_text("a:b@127.0.0.1:1")
    env = environment(LD_LIBRARY_PATH=str(tmp_path))
    said = matyan("runs", "--store", f"fdb:{file}", check=2, env=env).stderr
    assert "client library" in said
    assert len(said.splitlines()) == 1


EVERY_COMMAND = [
    *COMMANDS,
    ("query", "True"),
    ("doctor",),
    ("check",),
    ("ingest-worker",),
    ("api",),
]


@pytest.mark.parametrize("command", EVERY_COMMAND, ids=lambda words: words[0])
def test_without_the_extra_there_is_one_sentence(command: tuple[str, ...], tmp_path) -> None:
    """It names the extra and the client library, whatever is asked of the store; here, with no cluster file either."""
    env = without_the_extra(tmp_path)
    done = matyan(*command, "--store", "fdb:none", check=None, cwd=tmp_path, env=env)
    said = done.stdout + done.stderr
    assert done.returncode in (1, 2)
    (line,) = [one for one in said.splitlines() if "matyan-trio[foundationdb]" in one]
    assert "client library (libfdb_c.so)" in line
    assert "Traceback" not in said


def test_without_the_extra_the_reader_says_so(tmp_path) -> None:
    code = "from matyan import reader; reader.open('fdb:none')"
    env = without_the_extra(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "matyan.errors.ConfigurationError: A FoundationDB store needs the extra" in done.stderr


def without_the_extra(folder: Path) -> dict[str, str]:
    """An environment in which the package that the extra brings is not found, though the tests have it."""
    hiding = folder / "hiding"
    hiding.mkdir()
    (hiding / "sitecustomize.py").write_text("import sys\nsys.modules['fdb'] = None\n")
    return environment(PYTHONPATH=str(hiding), KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")


def test_a_wrong_api_version_is_a_sentence(away: str) -> None:
    env = environment(FDB_API_VERSION="9999")
    said = matyan("runs", "--store", away, check=2, env=env).stderr
    assert said.startswith("matyan: FDB_API_VERSION=9999 does not go with")


@pytest.mark.parametrize("command", [("runs",), ("delete", "r")], ids=lambda words: words[0])
def test_a_cluster_that_is_away_is_named_by_its_coordinators(command, away: str) -> None:
    file = away.removeprefix("fdb:")
    coordinator = Path(file).read_text().strip().partition("@")[2]
    said = matyan(*command, "--store", away, check=1).stderr
    assert f"coordinators {coordinator}" in said
    assert "did not answer" in said


@pytest.mark.parametrize("command", [("runs",), ("delete", "r"), ("doctor",)], ids=" ".join)
def test_whoever_waits_for_a_cluster_can_leave(command: tuple[str, ...], away: str) -> None:
    """With Ctrl-C: 130, no traceback."""
    process = subprocess.Popen(
        [*MATYAN, *command, "--store", away],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"),
    )
    while "fdb_c" not in Path(f"/proc/{process.pid}/maps").read_text():
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert said.strip() == ""


def test_a_worker_waits_for_its_cluster(away: str) -> None:
    """Alive, not ready; the log says what it waits for, and SIGTERM ends it at once."""
    env = {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1", "METRICS_PORT": "0"}
    words = [*MATYAN, "ingest-worker", "--store", away]
    with started(words, "did not answer", **env) as worker:
        (line,) = [one for one in worker.output if "did not answer" in one]
        assert "waits at its start" in line
        assert "coordinators" in line
        assert worker.stop() == 0


@pytest.mark.parametrize(
    ("command", "code", "sentence"),
    [
        (("up",), 2, "A FoundationDB store is fed through Kafka: start `matyan frontier`"),
        (("compact",), 2, "FoundationDB gives the space of what was deleted free by itself"),
        # Kafka has them; nobody is asked for the store.
        (("dlq", "list"), 1, "Kafka"),
    ],
)
def test_what_is_not_done_on_a_cluster_says_so(command, code: int, sentence: str) -> None:
    env = environment(KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1")
    said = matyan(*command, "--store", "fdb:none", check=code, env=env).stderr
    assert sentence in said


@pytest.mark.parametrize("name", ["rocks:", "fdb:none"])
def test_a_reader_of_python_is_told_as_well(name: str) -> None:
    with (
        pytest.raises(ConfigurationError, match=r"none: |expected rocks:FOLDER"),
        reader.open(name),
    ):
        raise AssertionError


def test_a_folder_has_a_name_as_a_store(tmp_path) -> None:
    """Commands and readers take it as they take the folder."""
    with started([*MATYAN, "up", "--port", "0", "--store", f"rocks:{tmp_path}"], "Ctrl-C") as up:
        assert matyan("runs", "--store", f"rocks:{tmp_path}").stdout == ""
        with reader.open(f"rocks:{tmp_path}") as opened:
            assert list(opened.runs()) == []
        assert up.stop() == 0
