"""Hostile connections of every kind against a real `matyan up`, beside a training that must not miss a reply.

`make fuzz` runs it at length. MATYAN_FUZZ_SEED repeats a run; the seed is printed.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import trio

from tests import tls
from tests.faults.broken_tracker import broken_tracker
from tests.faults.hostile import fuzz
from tests.tracker import running

SECONDS = float(os.environ.get("MATYAN_FUZZ_SECONDS", "4"))
SEED = int(os.environ.get("MATYAN_FUZZ_SEED") or random.SystemRandom().randrange(1 << 32))
TROUBLE = ("ended with an error", "crashed", "Error in ASGI", "Exception on", "Traceback")


@pytest.mark.parametrize("env", [{}, tls.server_environment()], ids=["plain", "tls"])
def test_whatever_arrives_harms_nobody_else(tmp_path: Path, env: dict[str, str]) -> None:
    """No reply missed, no 500, nothing in the log, and a drain that leaves nothing, with attackers still there."""
    print(f"MATYAN_FUZZ_SEED={SEED} MATYAN_FUZZ_SECONDS={SECONDS:g}")
    with running(tmp_path / "data", **env) as tracker:
        report = trio.run(fuzz, tracker.url, SEED, SECONDS)
        print(report)
        assert report.harm == []
        assert tracker.stop() == 0, tracker.output[-20:]
    assert [line for line in tracker.output if any(word in line for word in TROUBLE)] == []
    assert report.attacks > SECONDS
    assert report.replies > SECONDS


def test_the_fuzzer_notices_that_the_islands_are_gone(tmp_path: Path) -> None:
    """A handler that raises for one connection in twelve harms the victim, unless each connection is an island."""
    for promise in ("raise-at-times", "raise-without-islands"):
        command = broken_tracker(promise)
        with running(tmp_path / promise, command=command) as tracker:
            # It ends with the first harm, of which a busy machine may need some time to do any.
            seconds = SECONDS if promise == "raise-at-times" else 60 + SECONDS
            report = trio.run(fuzz, tracker.url, SEED, seconds)
        assert bool(report.harm) is (promise == "raise-without-islands"), report.harm
        assert any(TROUBLE[0] in line for line in tracker.output) is not bool(report.harm)
