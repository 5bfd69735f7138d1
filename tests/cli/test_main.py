"""The `matyan` command as a person and a script meet it: real processes, real folders, real exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pyarrow.parquet as parquet
import pytest
from websockets.sync.client import connect

from tests import ledger
from tests.letters import bury
from tests.tracker import MATYAN, Tracker, asked, asked_lines, environment, matyan, running

START = "2026-01-02T03:04:05.000000+00:00"
END = "2026-01-02T03:04:17.500000+00:00"


def send(tracker: Tracker, run: str, *messages: dict[str, object]) -> None:
    """One frame, acknowledged."""
    with connect(f"ws{tracker.url[4:]}/api/v1/ws/runs/{run}") as socket_:
        socket_.send(json.dumps(messages))
        assert json.loads(socket_.recv()) == {"status": "ok", "error": None}


def metric(name: str, step: int, value: float, **context: str) -> dict[str, object]:
    return {
        "type": "log_metric",
        "name": name,
        "value": value,
        "step": step,
        "epoch": None,
        "context": context or None,
        "dtype": "float",
        "client_datetime": START,
    }


def fill(tracker: Tracker, run: str, *, experiment: str = "digits", points: int = 100) -> None:
    send(
        tracker,
        run,
        {"type": "create_run", "client_datetime": START},
        {"type": "set_run_property", "name": f"name of {run}", "experiment": experiment},
        {"type": "log_hparams", "value": {"hparams": {"lr": 0.01}}},
        {"type": "add_tag", "tag_name": f"tag-{run[:5]}"},
        *(metric("loss", step, 1 / (step + 1), subset="train") for step in range(points)),
        {"type": "log_terminal_line", "line": "epoch 1\x1b[2J", "step": 0},
        {"type": "log_record", "message": "careful", "level": 30, "timestamp": 1767323046.0},
        {"type": "finish_run", "client_datetime": END},
    )


def presign(tracker: Tracker, run: str, path: str, **more: str) -> str:
    """The signed URL of an upload, as a client without an SDK asks for it."""
    request = Request(
        f"{tracker.url}/api/v1/rest/artifacts/presign",
        json.dumps({"run_id": run, "artifact_path": path, **more}).encode(),
        {"Content-Type": "application/json"},
    )
    with urlopen(request, timeout=30) as answer:
        url: str = json.loads(answer.read())["upload_url"]
        return url


@pytest.fixture(scope="module", params=["running", "stopped"])
def data(request, tmp_path_factory) -> Iterator[Path]:
    """A folder with three runs, with and without a tracker on it: every command must not tell the difference."""
    folder = tmp_path_factory.mktemp("cli") / "data"
    with running(folder) as tracker:
        fill(tracker, "alpha-1")
        fill(tracker, "alpha-2", points=5)
        fill(tracker, "beta-1", experiment="letters")
        send(tracker, "beta-1", {"type": "set_run_property", "archived": True})
        if request.param == "stopped":
            assert tracker.stop() == 0
        yield folder


# --- reading -------------------------------------------------------------------------------------


def test_runs_in_a_pipe_are_lines_with_tabs(data) -> None:
    """Newest first, one line a run, no heading, no colours."""
    lines = matyan("runs", "--data", data).stdout.splitlines()
    assert [line.split("\t")[0] for line in lines] == ["beta-1", "alpha-2", "alpha-1"]
    *cells, heard = lines[1].split("\t")[1:]
    assert cells == ["name of alpha-2", "digits", "tag-alpha", "finished", "12.5 s"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", heard)
    counted = matyan("runs", "--counts", "--data", data).stdout.splitlines()
    assert counted == [f"{line}\t3\t{n}" for line, n in zip(lines, (102, 7, 102), strict=True)]


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        ((), ["beta-1", "alpha-2", "alpha-1"]),
        (("--experiment", "digits"), ["alpha-2", "alpha-1"]),
        (("--experiment", "none"), []),
        (("--tag", "tag-beta-"), ["beta-1"]),
        (("--archived",), ["beta-1"]),
        (("--not-archived",), ["alpha-2", "alpha-1"]),
        (("--active",), []),
        (("--finished", "--limit", "2"), ["beta-1", "alpha-2"]),
    ],
)
def test_filters_of_runs(data, filters, found) -> None:
    """Each narrows; together they narrow further."""
    assert [row["run"] for row in asked("runs", "--data", data, *filters)] == found


def test_runs_as_json(data) -> None:
    """The fields that programs rely on, with their types."""
    (row,) = (row for row in asked("runs", "--data", data) if row["run"] == "alpha-1")
    created_at = row.pop("created_at")
    assert time.time() - 600 < created_at < time.time()
    assert created_at <= row.pop("last_record") < time.time()
    assert row == {
        "run": "alpha-1",
        "name": "name of alpha-1",
        "experiment": "digits",
        "tags": ["tag-alpha"],
        "active": False,
        "archived": False,
        "duration": 12.5,
    }
    counted = asked("runs", "--counts", "--data", data)
    assert [(row["sequences"], row["points"]) for row in counted] == [(3, 102), (3, 7), (3, 102)]


def test_show_as_json(data) -> None:
    """One object: meta, attrs, tags, contexts, sequences."""
    shown = asked("show", "alpha-1", "--data", data)
    keys = "run experiment last_record meta attrs tags contexts sequences"
    assert set(shown) == set(keys.split())
    assert shown["attrs"] == {"hparams": {"lr": 0.01}}
    assert shown["contexts"] == [{}, {"subset": "train"}]
    assert shown["meta"]["name"] == "name of alpha-1"
    loss = next(one for one in shown["sequences"] if one["name"] == "loss")
    assert (loss["points"], loss["last_step"], loss["last"]) == (100, 99, 0.01)


def test_show_draws_a_metric(data) -> None:
    """A plot in braille dots, with its range; a name that is not there names those that are."""
    text = matyan("show", "alpha-1", "--data", data, "--plot", "loss").stdout
    assert 'loss {"subset": "train"}' in text
    assert re.search(r"^ *1 ┤[\u2800-\u28ff]+$", text, re.MULTILINE)
    wrong = matyan("show", "alpha-1", "--data", data, "--plot", "los", check=1)
    assert "loss" in wrong.stderr


def test_a_unique_beginning_is_enough(data) -> None:
    """As with git: `beta` is one run, `alpha` are two."""
    assert asked("show", "beta", "--data", data)["run"] == "beta-1"
    wrong = matyan("show", "alpha", "--data", data, check=1)
    assert "alpha-1" in wrong.stderr
    assert "alpha-2" in wrong.stderr


@pytest.mark.parametrize("command", ["show", "logs", "export", "delete"])
def test_an_unknown_run_is_one_sentence_and_1(data, command) -> None:
    """It names near ids; nothing is deleted."""
    done = matyan(command, "alpah-1", "--data", data, check=1)
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "alpah-1" in done.stderr
    assert "alpha-1" in done.stderr


def test_what_is_no_metric_is_not_plotted(tmp_path) -> None:
    """Logs, log records and objects say what they are and where they are seen; a near name is told first, of many not all."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        figure = {"type": "log_custom_object", "name": "figure", "value": {"type": "figure"}}
        both = {**figure, "name": "both", "context": {"kind": "figure"}}
        send(
            tracker, "alpha-1", figure, both, metric("both", 0, 1.5), metric("nan", 0, float("nan"))
        )
        send(tracker, "alpha-1", *(metric(f"m{number}", 0, 1.0) for number in range(50)))

        def plot(name: str, check: int) -> str:
            words = ("show", "alpha-1", "--plot", name, "--data", tracker.data)
            done = matyan(*words, check=check)
            assert len(done.stderr.splitlines()) == check
            said: str = done.stderr or done.stdout
            return said

        assert "no metric but the terminal lines of run alpha-1: `matyan logs" in plot("logs", 1)
        assert "no metric but the log records of run alpha-1" in plot("__log_records", 1)
        assert "'figure' is no metric: run alpha-1 has objects there" in plot("figure", 1)
        assert "# both\n" in plot("both", 0)
        assert "kind" not in plot("both", 0)
        assert "(no finite numbers)" in plot("nan", 0)
        near = plot("los", 1)
        assert "it has: loss, " in near
        assert " and 34 more" in near
        assert "logs" not in near


def test_logs_by_time(data) -> None:
    """Records and lines; control characters cannot reach a terminal."""
    rows = asked_lines("logs", "alpha-1", "--data", data, "--json")
    assert {row["kind"] for row in rows} == {"record", "line"}
    record = next(row for row in rows if row["kind"] == "record")
    assert (record["message"], record["level"], record["step"]) == ("careful", 30, 0)
    assert record["time"] == 1767323046.0
    assert [row["time"] for row in rows] == sorted(row["time"] for row in rows)
    text = matyan("logs", "alpha-1", "--data", data).stdout
    assert "\twarning\tcareful\n" in text
    assert "\x1b" not in text


def test_export_in_each_format(data, tmp_path) -> None:
    """To standard output or a file; the same 102 rows each time."""
    rows = asked_lines("export", "alpha-1", "--data", data, "--format", "jsonl")
    assert len(rows) == 102
    loss = [row for row in rows if row["name"] == "loss"]
    assert loss[3] == {
        "name": "loss",
        "context": {"subset": "train"},
        "dtype": "float",
        "step": 3,
        "epoch": None,
        "time": 1767323045.0,
        "value": 0.25,
    }
    assert len(matyan("export", "alpha-1", "--data", data).stdout.splitlines()) == 103
    file = tmp_path / "run.parquet"
    matyan("export", "alpha-1", "--data", data, "--format", "parquet", "-o", file)
    assert parquet.read_table(file).num_rows == 102
    assert os.listdir(tmp_path) == ["run.parquet"]
    here = matyan("export", "alpha-1", "--data", data, "-o", "-", cwd=tmp_path)
    assert here.stdout == matyan("export", "alpha-1", "--data", data).stdout
    assert os.listdir(tmp_path) == ["run.parquet"]
    wrong = matyan("export", "alpha-1", "--data", data, "-o", "/nowhere/x.csv", check=2)
    assert "/nowhere/x.csv" in wrong.stderr


def test_a_reader_that_leaves_is_no_error(data) -> None:
    """`matyan export | head -1` prints one line and no traceback."""
    done = subprocess.run(
        f"{' '.join(MATYAN)} export alpha-1 --data {data} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
        timeout=60,
    )
    assert done.stdout.splitlines() == ["name,context,dtype,step,epoch,time,value"]
    assert done.stderr == ""


@pytest.mark.parametrize(
    "arguments", [("runs",), ("runs", "--json"), ("logs", "alpha-1"), ("export", "alpha-1")]
)
def test_an_output_that_is_full_is_one_sentence(data, arguments) -> None:
    """However little is written; exit code 1."""
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*MATYAN, *arguments, "--data", str(data)],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(),
            check=False,
            timeout=60,
        )
    assert done.stderr == "matyan: The output cannot be written: No space left on device.\n"
    assert done.returncode == 1


def test_an_export_takes_the_place_of_nothing_but_a_file(data, tmp_path) -> None:
    """A pipe stays a pipe, and a link stays a link to the new file."""
    pipe, target, link = tmp_path / "pipe", tmp_path / "target", tmp_path / "link"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reading:
        matyan("export", "alpha-1", "--data", data, "-o", pipe)
        assert reading.communicate()[0].count(b"\n") == 103
    assert pipe.is_fifo()
    target.write_text("old")
    link.symlink_to(target)
    matyan("export", "alpha-1", "--data", data, "-o", link)
    assert link.is_symlink()
    assert target.read_text().count("\n") == 103


def test_dlq_is_empty(data) -> None:
    """No dead letters is an empty list; an unknown id is one sentence."""
    assert asked("dlq", "list", "--data", data) == []
    assert matyan("dlq", "replay", "--all", "--data", data).stdout == ""
    assert "7" in matyan("dlq", "show", "7", "--data", data, check=1).stderr
    for impossible in ("-1", "9" * 20, "x"):
        assert impossible in matyan("dlq", "show", "--data", data, "--", impossible, check=2).stderr
    assert "--all" in matyan("dlq", "replay", "--data", data, check=2).stderr


# --- writing -------------------------------------------------------------------------------------


@pytest.mark.parametrize("stopped", [False, True])
def test_delete_asks_and_deletes(tmp_path, stopped) -> None:
    """No means no; --yes does not ask; the tracker may run or not."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        if stopped:
            assert tracker.stop() == 0
        data = tracker.data
        asking = matyan("delete", "alpha-1", "--data", data, input="n\n", check=1)
        assert "102 points" in asking.stderr
        assert "Nothing was deleted" in asking.stderr
        assert len(asked("runs", "--data", data)) == 1
        assert "alpha-1" in matyan("delete", "alpha-1", "--data", data, "--yes").stdout
        assert asked("runs", "--data", data) == []
        matyan("delete", "alpha-1", "--data", data, "--yes", check=1)


def test_a_deleted_run_takes_nothing_more(tmp_path) -> None:
    """Neither messages nor artifacts, and both sides hear of it; another run goes on."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        matyan("delete", "alpha-1", "--data", tracker.data, "--yes")
        with connect(f"ws{tracker.url[4:]}/api/v1/ws/runs/alpha-1") as socket_:
            for _ in range(3):
                socket_.send(json.dumps([metric("loss", 0, 1.0), {"type": "create_run"}]))
                reply = json.loads(socket_.recv())
                assert reply["status"] == "error"
                assert "not stored: run alpha-1 was deleted" in reply["error"]
        with pytest.raises(HTTPError) as refused:
            presign(tracker, "alpha-1", "a.bin")
        assert refused.value.code == 404
        assert "alpha-1 was deleted" in json.loads(refused.value.read())["detail"]
        fill(tracker, "alpha-2")
        assert [row["run"] for row in asked("runs", "--data", tracker.data)] == ["alpha-2"]
        assert tracker.stop() == 0
        said = "".join(tracker.output)
    assert said.count("records of a deleted run are dropped") == 1
    assert said.count("presign refused") == 1


def test_a_refused_presign_says_why_in_the_log(tmp_path) -> None:
    """With what was asked for, as far as it was understood."""
    with running(tmp_path / "data") as tracker:
        for run, path in (("alpha-1", "a/../b"), ("a b", "c")):
            with pytest.raises(HTTPError):
                presign(tracker, run, path)
        assert tracker.stop() == 0
        said = [json.loads(line) for line in tracker.output if "presign refused" in line]
    assert [(line["status"], line["run"], line["artifact_path"]) for line in said] == [
        (422, "alpha-1", "a/../b"),
        (422, "a b", "c"),
    ]
    assert ".." in said[0]["reason"]


def test_many_commands_at_once_without_a_tracker(tmp_path) -> None:
    """The first holds the folder and answers the others; none fails for the lock."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        assert tracker.stop() == 0
    commands = [
        subprocess.Popen(
            [*MATYAN, "runs", "--data", str(tmp_path / "data"), "--json"],
            stdout=subprocess.PIPE,
            env=environment(),
        )
        for _ in range(5)
    ]
    for command in commands:
        out, _ = command.communicate(timeout=60)
        assert command.returncode == 0
        assert [row["run"] for row in json.loads(out)] == ["alpha-1"]


# --- matyan up -----------------------------------------------------------------------------------


def test_up_says_how_to_connect_and_drains(tmp_path) -> None:
    """URLs, folder and three lines of Python; ready at once; exit code 0 at SIGTERM and SIGINT; state is private."""
    for number in (signal.SIGTERM, signal.SIGINT):
        with running(tmp_path / "data") as tracker:
            said = "".join(tracker.output)
            assert str(tmp_path / "data") in said
            assert f'run = Run(repo="{tracker.url}")' in said
            health = json.loads(tracker.get("/health/ready/"))
            assert health["status"] == "ok"
            secret = tmp_path / "data" / "secret"
            assert secret.stat().st_mode & 0o777 == 0o600
            assert tracker.stop(number) == 0


def test_up_after_kill_9(tmp_path) -> None:
    """What was acknowledged is there, before and after the next start."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        tracker.stop(signal.SIGKILL)
    assert asked("show", "alpha-1", "--data", tmp_path / "data")["tags"] == ["tag-alpha"]
    with running(tmp_path / "data") as tracker:
        assert len(asked("runs", "--data", tracker.data)) == 1


def test_a_port_that_is_taken(tmp_path) -> None:
    """One sentence with the port and the option, exit code 2."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = matyan("up", "--data", tmp_path / "data", "--port", port, check=2)
    assert port in done.stderr
    assert "--port" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_address_of_another_machine(tmp_path) -> None:
    """It is not the port that is wrong: the sentence names --host, exit code 2."""
    done = matyan("up", "--data", tmp_path / "data", "--host", "192.0.2.1", "--port", "0", check=2)
    assert "192.0.2.1" in done.stderr
    assert "name an address of this machine with --host" in done.stderr


def test_a_folder_in_use(tmp_path) -> None:
    """The sentence names the first process."""
    with running(tmp_path / "data") as tracker:
        done = matyan("up", "--data", tracker.data, "--port", "0", check=2)
        assert str(tracker.process.pid) in done.stderr
        assert json.loads(tracker.get("/health/ready/"))["status"] == "ok"


@pytest.mark.parametrize("place", ["/proc/nowhere", "file/below"])
def test_a_folder_that_cannot_be_made(tmp_path, place) -> None:
    """Unwritable, or below a file: one sentence with the folder, exit code 2."""
    (tmp_path / "file").write_text("")
    done = matyan("up", "--data", place, "--port", "0", check=2, cwd=tmp_path)
    assert place in done.stderr
    assert "Traceback" not in done.stderr


def test_a_corrupt_folder(tmp_path) -> None:
    """One sentence, exit code 2, and nothing in the folder is changed."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        assert tracker.stop() == 0
    current = tmp_path / "data" / "rocksdb" / "CURRENT"
    good = current.read_bytes()
    current.write_bytes(b"MANIFEST-999999\n")
    for command in (("up", "--port", "0"), ("runs",)):
        done = matyan(*command, "--data", tmp_path / "data", check=2)
        assert "damaged" in done.stderr
        assert "Traceback" not in done.stderr
    current.write_bytes(good)
    assert len(asked("runs", "--data", tmp_path / "data")) == 1


def test_the_other_layout(tmp_path) -> None:
    """`up` refuses it by name; the reading commands take the folder's own."""
    with running(tmp_path / "data", MATYAN_SEQUENCE_LAYOUT="compatible") as tracker:
        fill(tracker, "alpha-1")
        assert tracker.stop() == 0
    done = matyan("up", "--data", tmp_path / "data", "--port", "0", check=2)
    assert "MATYAN_SEQUENCE_LAYOUT=compatible" in done.stderr
    rows = asked_lines("export", "alpha-1", "--data", tmp_path / "data", "--format", "jsonl")
    assert len(rows) == 102


@pytest.mark.parametrize(("name", "value"), [("LOG_LEVEL", "LOUD"), ("MATYAN_QUEUE_BYTES", "many")])
def test_a_bad_setting(tmp_path, name, value) -> None:
    """One sentence with the name and the value."""
    done = matyan(
        "up", "--data", tmp_path / "data", "--port", "0", check=2, env=environment(**{name: value})
    )
    assert name in done.stderr
    assert value in done.stderr


def test_kafka_fdb_and_s3_settings_are_not_read(tmp_path) -> None:
    """The embedded mode starts whatever they hold."""
    other = {
        "KAFKA_BOOTSTRAP_SERVERS": "nowhere:1",
        "FDB_CLUSTER_FILE": "/nowhere",
        "FDB_API_VERSION": "x",
        "S3_PRESIGN_EXPIRY": "x",
        "BLOB_BACKEND_TYPE": "gcs",
    }
    with running(tmp_path / "data", **other) as tracker:
        fill(tracker, "alpha-1")
        assert tracker.stop() == 0


def test_reading_a_folder_without_data_makes_nothing(tmp_path) -> None:
    """A wrong --data is one sentence, exit code 2, and no new folder."""
    done = matyan("runs", "--data", tmp_path / "typo", check=2)
    assert "matyan up" in done.stderr
    assert not (tmp_path / "typo").exists()


def test_a_long_data_path(tmp_path) -> None:
    """Longer than a unix socket's address may be."""
    data = tmp_path / ("a" * 120) / ("b" * 80)
    with running(data) as tracker:
        fill(tracker, "alpha-1")
        assert [row["run"] for row in asked("runs", "--data", data)] == ["alpha-1"]


# --- in a terminal -------------------------------------------------------------------------------


@contextmanager
def terminal(
    *arguments: str | Path, columns: int | str = 100, **env: str
) -> Iterator[tuple[subprocess.Popen[bytes], Iterator[bytes], int]]:
    """A command whose terminal is ours: its process, what it writes, and where to type.

    Not pty.fork, which is not safe beside threads. The shell opens the terminal by its name, so that the new
    session has it as its own and Ctrl-C is a signal.
    """
    master, slave = pty.openpty()
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" <"$0"', os.ttyname(slave), *MATYAN, *map(str, arguments)],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        env=environment(COLUMNS=str(columns), **{"TERM": "xterm-256color", **env}),
    )
    os.close(slave)

    def written() -> Iterator[bytes]:
        # Linux ends a terminal that nobody holds with EIO.
        with contextlib.suppress(OSError):
            while piece := os.read(master, 65_536):
                yield piece

    try:
        yield process, written(), master
    finally:
        process.kill()
        process.wait()
        os.close(master)


def in_a_terminal(*arguments: str | Path, columns: int | str = 100, **env: str) -> tuple[int, str]:
    """Exit code and output of a command that ends by itself."""
    with terminal(*arguments, columns=columns, **env) as (process, written, _):
        seen = b"".join(written)
        return process.wait(60), seen.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ("runs",),
        ("show", "alpha-1"),
        ("show", "alpha-1", "--plot", "loss"),
        ("logs", "alpha-1"),
        ("export", "alpha-1"),
        ("dlq", "list"),
    ],
)
def test_every_reading_command_in_a_terminal(data, arguments) -> None:
    """Tables, colours and bars; the stranger's escape sequence never reaches the screen."""
    code, seen = in_a_terminal(*arguments, "--data", data)
    assert code == 0
    assert "Traceback" not in seen
    assert "\x1b[2J" not in seen


@pytest.mark.parametrize("size", ["²", "٣", "0", "-5", "", "wide", " 80 ", "9" * 30])
def test_a_size_that_is_none_changes_nothing(data, size) -> None:
    """What COLUMNS and LINES say is taken where it is a number of columns and lines."""
    code, seen = in_a_terminal("runs", "--data", data, columns=size, LINES=size)
    assert (code, "alpha-1" in seen, "Traceback" in seen) == (0, True, False)


@pytest.mark.parametrize("wish", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_no_colours_where_none_are_wanted(data, wish) -> None:
    """Of what a command prints itself (https://no-color.org)."""
    for command in ("show", "logs"):
        code, seen = in_a_terminal(command, "alpha-1", "--data", data, **wish)
        assert code == 0
        assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", seen)
    assert "\x1b" not in seen


def test_a_narrow_terminal_shows_the_beginning_of_a_generated_id(tmp_path) -> None:
    """Which every command takes; a wide terminal and a pipe show it whole."""
    run = "0123456789abcdef" * 2
    with running(tmp_path / "data") as tracker:
        send(tracker, run, {"type": "create_run", "client_datetime": START})
        _, narrow = in_a_terminal("runs", "--data", tracker.data, columns=80)
        _, wide = in_a_terminal("runs", "--data", tracker.data, columns=140)
        assert run[:12] in narrow
        assert run[:13] not in narrow
        assert run in wide
        assert matyan("runs", "--data", tracker.data).stdout.startswith(f"{run}\t")
        assert asked("show", run[:12], "--data", tracker.data)["run"] == run


def test_nothing_to_show_is_said_in_a_terminal(tmp_path) -> None:
    """A sentence there, nothing in a pipe."""
    with running(tmp_path / "data") as tracker:
        for command, said in ((("runs",), "no runs"), (("dlq", "list"), "no dead letters")):
            assert said in in_a_terminal(*command, "--data", tracker.data)[1]
            assert matyan(*command, "--data", tracker.data).stdout == ""


def test_help_teaches() -> None:
    """Each command's help has an example of itself."""
    text = matyan("--help").stdout
    for command in ("up", "runs", "show", "logs", "export", "delete"):
        assert re.search(rf"^  {command} ", text, re.MULTILINE)
        assert f"matyan {command} " in matyan(command, "--help").stdout
    assert "matyan dlq replay" in matyan("dlq", "replay", "--help").stdout


def test_no_such_command() -> None:
    """Click's own errors keep their exit code."""
    assert "No such command" in matyan("fly", check=2).stderr


@pytest.mark.parametrize("stopped", [False, True])
async def test_a_dead_letter_is_listed_shown_and_replayed(tmp_path, stopped) -> None:
    """By the process that holds the folder, and by a command of its own where nobody does."""
    data = tmp_path / "data"
    with running(data) as tracker:
        assert tracker.stop() == 0
    await bury(data, ledger.metric("loss", 1.0, 2**63))
    with contextlib.nullcontext() if stopped else running(data):
        (letter,) = asked("dlq", "list", "--data", data)
        assert (letter["run"], letter["type"]) == ("r", "log_metric")
        shown = json.loads(matyan("dlq", "show", str(letter["id"]), "--data", data).stdout)
        assert (shown["payload"]["name"], shown["payload"]["step"]) == ("loss", 2**63)
        # Nothing was mended, so it comes back, and the exit code says so.
        again = matyan("dlq", "replay", "--all", "--data", data, check=1)
        assert "dead again" in again.stdout
        (letter,) = asked("dlq", "list", "--data", data)
        assert "step" in letter["error_text"]
        assert asked("runs", "--counts", "--data", data) == []


def test_up_in_a_terminal_shows_one_live_line(tmp_path) -> None:
    """Connections, messages/s, points, waiting and errors; Ctrl-C ends it with 0."""
    with terminal("up", "--data", tmp_path / "data", "--port", "0") as (process, written, keyboard):
        seen = b""
        while b"errors" not in seen:
            seen += next(written)
        os.write(keyboard, b"\x03")
        seen += b"".join(written)
        assert process.wait(60) == 0
    text = seen.decode()
    assert "0 connections · 0 messages/s · 0 points · 0 kB waiting · 0 errors" in text
    assert "Traceback" not in text


def test_ctrl_c_is_quiet(tmp_path) -> None:
    """A command that is interrupted ends with 130 and no traceback, and does nothing."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        asking = subprocess.Popen(
            [*MATYAN, "delete", "alpha-1", "--data", str(tracker.data)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        assert asking.stderr is not None
        assert b"Delete run" in asking.stderr.read(10)
        # Again until it is heard: one that comes between the question and the wait for the answer waits there too.
        with contextlib.suppress(subprocess.TimeoutExpired):
            asking.send_signal(signal.SIGINT)
            asking.wait(2)
        if asking.poll() is None:
            asking.send_signal(signal.SIGINT)
        assert asking.wait(30) == 130
        assert b"Traceback" not in asking.stderr.read()
        assert len(asked("runs", "--data", tracker.data)) == 1
