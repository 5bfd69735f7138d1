"""A dead letter that is sent again is applied once, whenever the process dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.test_main import in_a_terminal
from tests.faults.broken_tracker import broken_tracker
from tests.ledger import metric
from tests.letters import bury
from tests.tracker import asked, asked_lines, matyan, running


@pytest.mark.parametrize("promise", ["die-before-replay", "die-after-replay"])
async def test_a_crash_in_a_replay_neither_loses_nor_doubles(tmp_path: Path, promise: str) -> None:
    """Points without a step: each record that is applied makes one of its own, so a second time would show."""
    data = tmp_path / "data"
    with running(data) as tracker:
        assert tracker.stop() == 0
    await bury(data, metric("loss", 1.0, None), metric("loss", 2.0, None))
    with running(data, command=broken_tracker(promise)) as tracker:
        died = matyan("dlq", "replay", "--all", "--data", data, check=1)
        assert "went away" in died.stderr
        assert tracker.process.wait(30) == 9
    standing = [row["id"] for row in asked("dlq", "list", "--data", data)]
    assert standing == ([0, 1] if promise == "die-before-replay" else [1])
    with running(data):
        lines = matyan("dlq", "replay", "--all", "--data", data).stdout.splitlines()
        assert lines == [f"{number}\tapplied" for number in standing]
        assert asked("dlq", "list", "--data", data) == []
        rows = asked_lines("export", "r", "--format", "jsonl", "--data", data)
    assert [(row["step"], row["value"]) for row in rows] == [(0, 1.0), (1, 2.0)]


async def test_a_letters_bytes_reach_a_pipe_and_not_a_terminal(tmp_path: Path) -> None:
    """As they came in a pipe; in a terminal nothing of a stranger moves the cursor."""
    data, letter = tmp_path / "data", b'{"type":"\xc2\x9b2J\x1b[2J\xff"}'
    with running(data) as tracker:
        assert tracker.stop() == 0
    await bury(data, letter)
    assert matyan("dlq", "show", "0", "--data", data, text=False).stdout == letter
    code, seen = in_a_terminal("dlq", "show", "0", "--data", data)
    assert (code, seen.strip()) == (0, r'{"type":"\x9b2J\x1b[2J\xff"}')
