"""`matyan query`, `compare` and `watch`: what they print of a real tracker, by its folder and by its URL."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet
import pytest

from tests.cli.test_main import fill, metric, send
from tests.tokens import add
from tests.tracker import MATYAN, Tracker, environment, matyan, running


@pytest.fixture(scope="module")
def tracker(tmp_path_factory) -> Iterator[Tracker]:
    with running(tmp_path_factory.mktemp("query") / "data") as tracker:
        fill(tracker, "alpha-1")
        fill(tracker, "alpha-2", points=5)
        send(tracker, "alpha-2", {"type": "log_hparams", "value": {"hparams": {"lr": "a,b"}}})
        send(tracker, "alpha-2", metric("__system__cpu", 0, 50.0), metric("acc", 0, 0.25))
        fill(tracker, "beta-1", experiment="letters")
        send(tracker, "beta-1", {"type": "set_run_property", "archived": True})
        yield tracker


@pytest.fixture(params=["folder", "url"])
def place(request, tracker: Tracker) -> tuple[str, str]:
    if request.param == "url":
        return "--store", tracker.url
    return "--data", str(tracker.data)


@pytest.fixture
def url(tracker: Tracker) -> tuple[str, str]:
    return "--store", tracker.url


def printed(*arguments: str | Path, **more: Any) -> str:
    text: str = matyan(*arguments, **more).stdout
    return text


def test_runs_are_lines_with_tabs_in_a_pipe(place) -> None:
    """With the attributes that the query names; archived ones are not found unless they are asked for."""
    rows = [line.split("\t") for line in printed("query", *place).splitlines()]
    assert [row[0] for row in rows] == ["alpha-2", "alpha-1"]
    assert rows[1][1:5] == ["name of alpha-1", "digits", "tag-alpha", "finished"]
    found = printed("query", "run.hparams.lr == 0.01", *place)
    assert [line.split("\t")[::6] for line in found.splitlines()] == [["alpha-1", "0.01"]]
    found = printed("query", "run.archived", *place, "-c", "hparams.lr")
    assert [line.split("\t")[::6] for line in found.splitlines()] == [["beta-1", "0.01"]]
    assert printed("query", "()", *place) == ""


def test_every_format_holds_the_same_runs(url, tmp_path) -> None:
    lines = printed("query", "run.archived in [True, False]", *url, "--format", "jsonl")
    rows = [json.loads(line) for line in lines.splitlines()]
    assert [row["run"] for row in rows] == ["beta-1", "alpha-2", "alpha-1"]
    assert [row["hparams.lr"] for row in rows] == ["0.01", "a,b", "0.01"]
    assert rows[2]["tags"] == ["tag-alpha"]
    assert rows[2]["created"].endswith("Z")
    matyan("query", *url, "-o", tmp_path / "runs.csv")
    with open(tmp_path / "runs.csv", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["hparams.lr"] for row in table] == ["a,b", "0.01"]
    assert json.loads(table[0]["tags"]) == ["tag-alpha"]
    matyan("query", *url, "-o", tmp_path / "runs.parquet")
    assert parquet.read_table(tmp_path / "runs.parquet")["run"].to_pylist() == [
        "alpha-2",
        "alpha-1",
    ]


def test_the_points_of_metrics(place, tmp_path) -> None:
    rows = [line.split("\t") for line in printed("query", *place, "-m", "loss").splitlines()]
    assert len(rows) == 105
    assert rows[5][:5] == ["alpha-1", "loss", '{"subset": "train"}', "0", "1.0"]
    text = printed("query", 'run.name.endswith("2")', *place, "-m", "acc", "--format", "csv")
    (row,) = csv.DictReader(io.StringIO(text))
    assert (row["run"], row["context"], row["step"], row["value"]) == ("alpha-2", "{}", "0", "0.25")
    matyan(
        "query",
        "metric.last < 0.1",
        *place,
        "-m",
        "loss",
        "-m",
        "acc",
        "-o",
        tmp_path / "p.parquet",
    )
    table = parquet.read_table(tmp_path / "p.parquet")
    assert {*table["run"].to_pylist()} == {"alpha-1"}
    assert table.num_rows == 100


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("run.hparams.lr <",), "invalid syntax.\n  run.hparams.lr <\n                  ^"),
        (("metric.last > 1",), "knows run.\n  metric.last > 1\n  ^"),
        (("run.x == '\x1b[31m' and foo", "-m", "loss"), "and foo\n"),
        (("", "-o", "runs.txt"), "--format"),
        (("", "-m", "loss", "--limit", "1"), "leave out --metrics"),
        (("", "-c", "hparams.nothing"), "hparams.nothing"),
        (("", "--format", "table", "-o", "runs.csv"), "standard output"),
    ],
)
def test_what_is_wrong_with_a_question(url, words, said) -> None:
    """It is said, with the place in the query, before anything is read; the exit code is 2."""
    done = matyan("query", *words, *url, check=2)
    assert said in done.stderr
    assert "\x1b" not in done.stderr
    assert done.stdout == ""


def test_a_url_without_its_beginning(tracker: Tracker) -> None:
    done = matyan("query", "--store", tracker.url.removeprefix("http://"), check=2)
    assert "rocks:FOLDER or fdb:[CLUSTER_FILE] or http://HOST:PORT." in done.stderr


def test_a_query_that_fails_everywhere_has_the_exit_code_1(url) -> None:
    done = matyan("query", "run.foo.bar.x == 1", *url, check=1)
    assert "has no 'bar'" in done.stderr


def test_a_url_with_a_token_and_without(tmp_path) -> None:
    tokens = tmp_path / "tokens.json"
    secret = add(tokens, "me", "read")
    with running(tmp_path / "data", MATYAN_TOKENS_FILE=str(tokens)) as tracker:
        url = tracker.url.replace("://", f"://me:{secret}@")
        assert matyan("query", "--store", url).stdout == ""
        assert matyan("runs", "--store", url).stdout == ""
        done = matyan("query", "--store", tracker.url, check=2)
        assert "wants a token" in done.stderr
        done = matyan("show", "a", "--store", url.replace("me:", "me:x"), check=2)
        assert secret not in done.stderr


# --- compare ---------------------------------------------------------------------------------------


def test_runs_beside_each_other(place) -> None:
    """The parameters that differ, and of each metric its last, lowest and highest value; archived runs too."""
    lines = printed("compare", "alpha-2", "beta", "alpha-1", *place).splitlines()
    rows = [line.split("\t") for line in lines]
    assert ["hparams.lr", "a,b", "0.01", "0.01"] in rows
    assert ["experiment", "digits", "letters", "digits"] in rows
    assert ["acc", "last", "0.25", "–", "–"] in rows
    loss = 'loss {"subset": "train"}'
    assert [row[1:] for row in rows if row[0] == loss] == [
        ["last", "0.2", "0.01", "0.01"],
        ["min", "0.2", "0.01", "0.01"],
        ["max", "1", "1", "1"],
    ]
    assert not any("__system__" in line for line in lines)
    told = json.loads(printed("compare", "alpha-1", "alpha-2", "--all", "--json", *place))
    assert told["runs"] == ["alpha-1", "alpha-2"]
    assert told["parameters"]["experiment"] == ["digits"] * 2
    (cpu,) = (one for one in told["metrics"] if one["name"] == "__system__cpu")
    assert cpu["runs"]["alpha-2"]["max"] == 50.0
    assert "alpha-1" not in cpu["runs"]


def test_one_run_is_not_compared(url) -> None:
    assert "two runs" in matyan("compare", "alpha-1", "alpha-1", *url, check=2).stderr
    assert "nothing" in matyan("compare", "alpha-1", "nothing", *url, check=1).stderr


# --- watch -----------------------------------------------------------------------------------------


def test_a_watched_run_is_lines_in_a_pipe(url) -> None:
    lines = printed("watch", "alpha-2", *url).splitlines()
    assert 'loss\t{"subset": "train"}\t4\t0.2' in lines
    assert "log\t\t0\tcareful" in lines
    assert not any("__system__" in line for line in lines)
    only = printed("watch", "alpha-2", "--metrics", "__system__cpu", *url)
    assert only == "__system__cpu\t\t0\t50.0\n"
    assert printed("watch", "alpha-2", "--from-now", *url) == ""


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *words: str, columns: int = 100) -> None:
        self._ours, theirs = pty.openpty()
        env = environment(COLUMNS=str(columns), LINES="40", TERM="xterm")
        self.process = subprocess.Popen(
            [*MATYAN, *words], stdin=theirs, stdout=theirs, stderr=theirs, env=env
        )
        os.close(theirs)
        self.text = ""

    def until(self, word: str) -> None:
        """Reads until the word has come, or the command has ended."""
        deadline = time.monotonic() + 60
        while word not in self.text and time.monotonic() < deadline:
            try:
                self.text += os.read(self._ours, 1 << 16).decode(errors="replace")
            except OSError:
                return

    def end(self) -> int:
        self.until("\0")
        os.close(self._ours)
        return self.process.wait(60)


def test_runs_beside_each_other_in_a_narrow_terminal(url) -> None:
    """Those for which there is no room stand below; no number is cut, and each row says whose it is."""
    terminal = Terminal("compare", "alpha-1", "alpha-2", "beta", "--all", *url, columns=50)
    assert terminal.end() == 0
    lines = [line.split() for line in terminal.text.splitlines()]
    lasts = [line[3:] for line in lines if line[:3] == ["loss", '{"subset":', '"train"}']]
    assert lasts[::3] == [["last", "0.01"], ["last", "0.2"], ["last", "0.01"]]
    assert sum(line[:1] == ["experiment"] for line in lines) == 2


def test_no_number_of_a_table_is_cut(url) -> None:
    terminal = Terminal("query", "run.name.endswith('1')", "-m", "loss", *url, columns=30)
    assert terminal.end() == 0
    numbers = {word for line in terminal.text.splitlines() for word in line.split()}
    assert {f"{1 / (step + 1):.6g}" for step in range(100)} <= numbers


def test_a_terminal_shows_curves_until_the_run_ends(tmp_path) -> None:
    with running(tmp_path / "data") as tracker:
        begin = {"type": "create_run", "client_datetime": "2026-01-02T03:04:05"}
        send(tracker, "live", begin, *(metric("loss", step, 9 - step) for step in range(8)))
        shown = Terminal("watch", "live", "--store", tracker.url)
        shown.until("┤")
        assert "goes on" in shown.text
        stopped = Terminal("watch", "live", "--data", str(tracker.data))
        stopped.until("┤")
        stopped.process.send_signal(signal.SIGINT)
        assert stopped.end() == 130
        assert "Traceback" not in stopped.text
        assert stopped.text.count("\x1b[?25h") == stopped.text.count("\x1b[?25l") == 1
        send(tracker, "live", metric("loss", 8, 123.5), {"type": "finish_run"})
        assert shown.end() == 0
        assert "123.5" in shown.text
        assert "ended" in shown.text
