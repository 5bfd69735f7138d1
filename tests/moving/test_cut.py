"""A push that is cut off, by whatever, arrives once: processes that are killed, networks that break, replies that do not come."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev.process import free_ports
from matyan import reader
from matyan.service.tokens import default_file
from tests import tokens
from tests.moving.cutting import cutting
from tests.moving.runs import every_kind, everything, log, upload
from tests.tracker import MATYAN, asked, matyan, running, started
from tests.until import wait_for

RUNS = 1000 if os.environ.get("MATYAN_TEST_LONG") == "1" else 40
PATIENCE_S = 90 + RUNS


def done(ledger: Path) -> int:
    """How many runs a ledger has as done."""
    if not ledger.exists():
        return 0
    return len(
        {row.split(b'"')[3] for row in ledger.read_bytes().splitlines() if b'"done":"' in row}
    )


def test_a_push_that_is_cut_off_twice_arrives_once(tmp_path: Path) -> None:
    """Once it is killed itself, once the target is, and comes again."""
    (port,) = free_ports(1)
    ledger = tmp_path / "ledger"
    with running(tmp_path / "source") as source:
        for seed in range(RUNS):
            log(source.url, f"run-{seed}", every_kind(seed), 1000)
            upload(source.url, f"run-{seed}", "some.txt", b"text" * seed)
        words = ["push", "--all", "--data", str(source.data), "--to", f"http://127.0.0.1:{port}"]
        words += ["--ledger", str(ledger), "--json"]
        target = tmp_path / "target"
        with running(target, "--port", str(port)) as first:
            with started([*MATYAN, *words]) as pushing:
                wait_for(lambda: done(ledger) >= RUNS // 4, PATIENCE_S)
                pushing.stop(signal.SIGKILL)
            came = done(ledger)
            assert came < RUNS
            with started([*MATYAN, *words]) as pushing:
                wait_for(lambda: done(ledger) >= RUNS // 2, PATIENCE_S)
                first.stop(signal.SIGKILL)
                assert pushing.process.poll() is None
                with running(target, "--port", str(port)):
                    assert pushing.process.wait(PATIENCE_S) == 0
                    wait_for(lambda: any(line.startswith("}") for line in pushing.output))
                    said = json.loads("".join(pushing.output))
                    assert len(said["skipped"]) == came
                    assert len(said["sent"]) == RUNS - came
                    again = asked(*words[:-1])
                    assert (len(again["skipped"]), again["messages"]) == (RUNS, 0)
        compare(source.data, target)


def compare(source: Path, target: Path) -> None:
    with reader.open(source) as first, reader.open(target) as second:
        runs = [row["run"] for row in first.rows()]
        assert [row["run"] for row in second.rows()] == runs
        for run in runs:
            assert everything(second, run) == everything(first, run)


def appended(count: int) -> Iterator[dict[str, Any]]:
    """A run of which most must not be sent twice; its records and some of its lines are all the same."""
    at = {"client_datetime": "2025-01-01T00:00:00Z"}
    rest = {"value": 1, "epoch": None, "context": None, "dtype": "float", **at}
    yield {"type": "create_run", **at}
    for step in range(count):
        yield {"type": "log_metric", "name": "m", "step": step, **rest}
    for step in range(count):
        yield {"type": "log_terminal_line", "line": "the same" * (step % 3), "step": step}
        yield {"type": "log_record", "message": "the same", "level": 20, "timestamp": 1}
    yield {"type": "finish_run", "client_datetime": "2025-01-01T01:00:00Z"}


@pytest.mark.parametrize("seed", range(20 if os.environ.get("MATYAN_TEST_LONG") == "1" else 1))
def test_lines_and_records_come_once_through_a_network_that_breaks(
    seed: int, tmp_path: Path
) -> None:
    count = 3000
    with running(tmp_path / "source") as source, running(tmp_path / "target") as target:
        log(source.url, "a", appended(count), 1000)
        with cutting(target.url, seed, 5, 250_000) as network:
            said = asked("push", "a", "--data", source.data, "--to", network.url)
            assert network.cuts >= 3
        assert said["sent"] == ["a"]
        assert (said["perhaps_twice"], said["rejected"]) == ({}, 0)
        compare(source.data, target.data)


def test_where_nobody_says_what_came_a_line_comes_once_and_what_may_be_twice_is_said(
    tmp_path: Path,
) -> None:
    """With a token that may only write, as at a frontier, which has no read API."""
    count = 80
    with running(tmp_path / "source") as source:
        log(source.url, "a", appended(count), 1000)
        data = tmp_path / "target"
        data.mkdir()
        secret = tokens.add(default_file(data), "writer", "write")
        with running(data) as target, cutting(target.url, 5, 5, 12_000) as network:
            url = network.url.replace("//", f"//writer:{secret}@")
            said = matyan("push", "a", "--data", source.data, "--to", url, "--json", check=None)
            said = json.loads(said.stdout)
            assert network.cuts >= 3
        with reader.open(source.data) as first, reader.open(data) as second:
            then, now = everything(first, "a"), everything(second, "a")
            records = now["logs"], then["logs"]
            more = len(records[0]) - len(records[1])
            assert 0 <= more <= said["perhaps_twice"].get("a", 0) <= network.cuts
            lines = [
                [row["message"] for row in opened.logs("a") if row["kind"] == "line"]
                for opened in (first, second)
            ]
            assert lines[0] == lines[1]
            assert now["attrs"] == then["attrs"]
