"""What strangers name reaches a terminal only as notation, whatever the command; and any encoding of it is survived."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

import matyan
from tests import ledger
from tests.cli.test_main import START, in_a_terminal, metric, send, terminal
from tests.letters import bury
from tests.tracker import MATYAN, Tracker, asked, environment, running

EVIL = "\x1b]0;owned\x07\x1b[6n\x9b5n \u202egpj\u2066\x08\x00\x7f é損"
# What rich, click and we send: colours, erasing of lines, the cursor off and on, up a line.
OURS = re.compile(r"\x1b\[[0-9;]*m|\x1b\[[0-2]?K|\x1b\[\?25[lh]|\x1b\[1A|[\r\n\t]")


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    """One run in which everything that a client can name is hostile, and a dead letter of its."""
    data = tmp_path_factory.mktemp("evil") / "data"
    with running(data) as tracker:
        assert tracker.stop() == 0
    trio.run(bury, data, ledger.metric(EVIL, 1.0, 2**63, run=EVIL))
    with running(data) as tracker:
        send(
            tracker,
            "evil-1",
            {"type": "create_run", "client_datetime": START},
            {"type": "set_run_property", "name": EVIL, "experiment": EVIL, "description": EVIL},
            {"type": "add_tag", "tag_name": EVIL},
            {"type": "log_hparams", "value": {"hparams": {EVIL: EVIL}, EVIL: [EVIL]}},
            metric(EVIL, 0, 1.0, subset=EVIL),
            metric(EVIL, 1, 2.0, subset=EVIL),
            {"type": "log_terminal_line", "line": EVIL, "step": 0},
            {"type": "log_record", "message": EVIL, "level": 30, "timestamp": float("nan")},
            {"type": "log_record", "message": EVIL, "level": 7, "timestamp": 1.7e18},
            {"type": "log_record", "message": EVIL, "level": 20, "timestamp": -1.5},
            {
                "type": "log_custom_object",
                "name": f"fig {EVIL}",
                "value": {EVIL: EVIL},
                "dtype": EVIL,
            }
            | {"step": 0, "epoch": None, "context": {EVIL: EVIL}, "client_datetime": START},
            {"type": "blob_ref", "s3_key": "evil-1/a", "artifact_path": "a", "content_type": EVIL},
            metric("other", 0, 1.0),
            metric("other", 1, 1.0),
        )
        yield tracker


COMMANDS: list[tuple[str, ...]] = [
    ("runs",),
    ("runs", "--counts"),
    ("runs", "--json"),
    ("runs", "--experiment", EVIL.replace("\x00", "")),
    ("show", "evil-1"),
    ("show", "evil-1", "--json"),
    ("show", "evil-1", "--plot", "no such metric"),
    ("show", "evil-1", "--plot", "other"),
    ("show", EVIL.replace("\x00", "")),
    ("logs", "evil-1"),
    ("logs", "evil-1", "--json"),
    ("export", "evil-1"),
    ("export", "evil-1", "--format", "jsonl"),
    ("dlq", "list"),
    ("dlq", "list", "--json"),
    ("dlq", "show", "0"),
    ("dlq", "replay", "--all"),
    ("dlq", "show", EVIL.replace("\x00", "")),
    (EVIL.replace("\x00", ""),),
    ("runs", f"--{EVIL}".replace("\x00", "")),
    ("runs", EVIL.replace("\x00", "")),
    ("runs", "--limit", EVIL.replace("\x00", "")),
    ("runs", "--data", f"/nowhere/{EVIL}".replace("\x00", "")),
]


def assert_harmless(seen: str) -> None:
    rest = OURS.sub("", seen)
    assert [letter for letter in rest if unicodedata.category(letter)[0] == "C"] == [], ascii(rest)


@pytest.mark.parametrize("arguments", COMMANDS)
def test_no_command_lets_a_name_move_the_cursor(tracker, arguments) -> None:
    """Tables, prompts, plots, errors, JSON, exports: no escape, no C0, no C1, no bidi character but our own colours."""
    data = () if "--data" in arguments else ("--data", tracker.data)
    if len(arguments) == 1 and arguments[0] != "runs":
        data = ()
    code, seen = in_a_terminal(*arguments, *data)
    assert code in (0, 1, 2)
    assert "Traceback" not in seen
    assert_harmless(seen)


def test_the_question_of_delete_is_harmless(tracker) -> None:
    """It names the run, whose name a client chose."""
    with terminal("delete", "evil-1", "--data", tracker.data) as (process, written, keyboard):
        seen = b""
        while b"[y/N]" not in seen:
            seen += next(written)
        os.write(keyboard, b"n\n")
        seen += b"".join(written)
        assert process.wait(60) == 1
    assert_harmless(seen.decode())
    assert b"\\x1b]0;owned" in seen


def test_a_plot_of_a_hostile_metric_is_harmless(tracker) -> None:
    """Its title names metric and context."""
    (name,) = {
        one["name"] for one in asked("show", "evil-1", "--data", tracker.data)["sequences"]
    } & {EVIL}
    assert name == EVIL  # no argument can hold a NUL; so another run has the rest of it
    wanted = EVIL.replace("\x00", "")
    send(
        tracker, "evil-2", metric(wanted, 0, 1.0, subset=EVIL), metric(wanted, 1, 2.0, subset=EVIL)
    )
    code, seen = in_a_terminal("show", "evil-2", "--plot", wanted, "--data", tracker.data)
    assert code == 0
    assert_harmless(seen)
    assert "┤" in seen


@pytest.mark.parametrize(
    "encoding", ["ascii", "cp1252", "euc-jp", "latin-1:strict", "utf-8:strict"]
)
@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("frontier", "--help"),
        ("runs",),
        ("runs", "--json"),
        ("show", "evil-1"),
        ("show", "evil-1", "--plot", "other"),
        ("logs", "evil-1"),
        ("show", "損"),
    ],
)
def test_an_encoding_that_lacks_letters_gets_replacements(tracker, encoding, arguments) -> None:
    """In a pipe: never a traceback; JSON stays JSON with the same text."""
    data = () if "--help" in arguments else ("--data", str(tracker.data))
    done = subprocess.run(
        [*MATYAN, *arguments, *data],
        capture_output=True,
        env=environment(PYTHONIOENCODING=encoding),
        timeout=60,
        check=False,
    )
    assert done.returncode == (1 if "損" in arguments else 0)
    assert b"Traceback" not in done.stderr
    if "--json" in arguments:
        rows = json.loads(done.stdout.decode(encoding.partition(":")[0]))
        assert EVIL in {row["name"] for row in rows}


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "euc-jp"])
@pytest.mark.parametrize(
    "arguments",
    [("runs",), ("show", "evil-1"), ("show", "evil-1", "--plot", "other"), ("export", "evil-1")],
)
def test_a_terminal_of_another_encoding_gets_replacements(
    tracker, encoding, arguments, monkeypatch
) -> None:
    """Tables, bars and plots there, too."""
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    with terminal(*arguments, "--data", tracker.data) as (process, written, _):
        seen = b"".join(written)
        assert process.wait(60) == 0
    assert b"Traceback" not in seen
    text = seen.decode(encoding)
    assert_harmless(text)
    if "--plot" in arguments and encoding == "ascii":
        assert "*" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs",),
        ("runs", "--json"),
        ("show", "evil-1"),
        ("show", "evil-1", "--plot", "other"),
        ("logs", "evil-1", "--json"),
        ("export", "evil-1", "--format", "parquet"),
        ("dlq", "list"),
        ("--help",),
        ("runs", "--help"),
        ("--version",),
    ],
)
def test_who_stops_reading_is_no_error(tracker, arguments) -> None:
    """`matyan … | head -0`: exit code 141, as of a program that SIGPIPE ends, and not a word; its errors unread as well."""
    data = (
        ()
        if arguments[-1].startswith("--") and "--json" not in arguments
        else ("--data", str(tracker.data))
    )
    reading, writing = os.pipe()
    os.close(reading)
    for errors in (subprocess.PIPE, writing):
        done = subprocess.run(
            [*MATYAN, *arguments, *data],
            stdout=writing,
            stderr=errors,
            env=environment(),
            timeout=60,
            check=False,
        )
        assert (done.returncode, done.stderr) == (141, b"" if errors == subprocess.PIPE else None)
    os.close(writing)


def test_whatever_is_printed_goes_through_one_door() -> None:
    """Only `terminal.py`, `views.py` and `plot.py` print; everybody else calls them, and so cannot forget to clean."""
    package = Path(matyan.__file__).parent
    doors = {"print", "click.echo", "click.secho", "click.confirm", "click.prompt"}
    doors |= {"sys.stdout.write", "sys.stderr.write"}
    found = {
        f"{path.name}:{node.lineno}"
        for path in package.rglob("*.py")
        if path.name not in {"terminal.py", "views.py", "plot.py"}
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) in doors
    }
    assert found == set()
