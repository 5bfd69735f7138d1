"""The soak as a program: short ones that break everything once, Ctrl-C, what its options refuse. An hour: `make soak`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dev.s3 import versity
from tests.needs import needed
from tests.tracker import environment
from tests.until import wait_for

AT_LENGTH = os.environ.get("MATYAN_TEST_LONG") == "1"
SOAK = (sys.executable, "-m", "tests.soak")
SHORT = (
    "--minutes",
    "0.4",
    "--brokers",
    "1",
    "--programs",
    "4",
    "--every",
    "6",
    "--only",
    "frozen",
)


@pytest.fixture(scope="module")
def servers(kafka_jars: None) -> None:
    """The programs that a soak starts are there."""
    needed(versity, "MATYAN_TEST_REQUIRE_S3")


def soak(*words: str, folder: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*SOAK, "--folder", str(folder), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(), **_cluster()},
    )


def _cluster() -> dict[str, str]:
    """The tests' FoundationDB cluster, where there is one."""
    name = "FDB_CLUSTER_FILE"
    return {name: os.environ[name]} if AT_LENGTH and name in os.environ else {}


def processes_below(folder: Path) -> list[str]:
    """The command lines of processes that name it there, or in their settings."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
                settings = (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in words + settings:
                found.append(words.replace(b"\0", b" ").decode())
    return found


def test_a_short_one_finds_nothing_and_leaves_nothing(servers: None, tmp_path: Path) -> None:
    """One broker, a few programs, what can be frozen is: everything that was acknowledged is stored once."""
    said, told = soak(*SHORT, folder=tmp_path).communicate(timeout=400)
    assert "**No violation.**" in said, said + told
    assert "| acknowledged and lost | 0 |" in said
    assert "frontier 1 frozen" in said
    assert list(tmp_path.iterdir()) == []
    assert processes_below(tmp_path) == []


def test_ctrl_c_ends_it_and_tells_what_is_known(servers: None, tmp_path: Path) -> None:
    process = soak("--brokers", "1", "--programs", "2", folder=tmp_path)
    try:
        # Its processes have been looked at once.
        wait_for(lambda: any(tmp_path.glob("*/diaries/*.diary")), 240)
        process.send_signal(signal.SIGINT)
        said, told = process.communicate(timeout=200)
    finally:
        process.kill()
    assert process.returncode == 130, told
    assert "| sessions of training programs | " in said
    assert "interrupted" in told
    assert processes_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not AT_LENGTH, reason="minutes: `make test-long`")
def test_everything_breaks_once_and_nothing_is_lost(servers: None, tmp_path: Path) -> None:
    """Three brokers; kills, freezes, full disks and rights taken away, one every fifteen seconds."""
    words = ("--minutes", "6", "--programs", "6", "--every", "15")
    said, told = soak(*words, folder=tmp_path).communicate(timeout=1_500)
    assert "**No violation.**" in said, said + told
    for kind in ("killed", "frozen", "locked out"):
        assert f" {kind}, " in said
    assert processes_below(tmp_path) == []


def test_its_help_teaches() -> None:
    done = subprocess.run([*SOAK, "--help"], capture_output=True, text=True, check=True)
    assert "MATYAN_SOAK_MINUTES=5 make soak" in done.stdout
    refused = subprocess.run([*SOAK, "--minutes", "0"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "--minutes wants more than 0" in refused.stderr
