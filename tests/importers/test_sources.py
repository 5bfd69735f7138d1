"""Sources as they are found: cut, damaged, growing, of another program, with links in them; and an import that is broken off."""

from __future__ import annotations

import os
import shutil
import sqlite3
import struct
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

from matyan import reader
from matyan.cli import importing
from matyan.errors import ConfigurationError
from matyan.importers import protobuf, source, tensorboard
from matyan.importers.programs import PROGRAMS
from matyan.importers.source import Blob, Report
from matyan.importers.tfrecord import checksum
from matyan.moving.target import Refused
from tests.importers.imported import counts, imported
from tests.tracker import MATYAN, environment, matyan, running
from tests.until import wait_for

BEGUN = 1_700_000_000.0


def framed(data: bytes) -> bytes:
    masked = checksum("tensorboard")
    head = struct.pack("<Q", len(data))
    return head + struct.pack("<I", masked(head)) + data + struct.pack("<I", masked(data))


def events(points: Iterator[tuple[str, int, float]] | list[tuple[str, int, float]]) -> bytes:
    """The bytes of an event file."""
    wire = protobuf.messages("tensorboard", "tensorboard", tensorboard._SCHEMA)
    whole = [wire.Event(wall_time=BEGUN, file_version="brain.Event:2")]
    for tag, step, value in points:
        event = wire.Event(wall_time=BEGUN + step, step=step)
        event.summary.value.add(tag=tag, simple_value=value)
        whole.append(event)
    return b"".join(framed(event.SerializeToString()) for event in whole)


def event_file(folder: Path, data: bytes, name: str = "events.out.tfevents.1700000000.a") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data)
    return folder / name


def loss(steps: int) -> list[tuple[str, int, float]]:
    return [("loss", step, float(step)) for step in range(steps)]


def values(data: Path, name: str = "loss") -> list[tuple[int, float]]:
    """The points of a metric of the only run."""
    with reader.open(data) as opened:
        (row,) = opened.runs()
        points = opened.metric(row["run"], name)
        return [*zip(points.steps, points.values, strict=True)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_a_file_that_is_cut_gives_what_is_whole_and_later_the_rest(
    tmp_path: Path, data: Path
) -> None:
    whole = events(loss(100))
    file = event_file(tmp_path / "logs", whole[:-7])
    said = imported("tensorboard", file.parent, data)
    assert counts(said, "left_out") == {source.CUT: 1}
    assert values(data) == [(step, float(step)) for step in range(99)]
    file.write_bytes(whole)
    said = imported("tensorboard", file.parent, data)
    assert said["left_out"] == []
    assert values(data) == [(step, float(step)) for step in range(100)]


def test_a_source_that_has_grown_adds_only_what_is_new(tmp_path: Path, data: Path) -> None:
    file = event_file(tmp_path / "logs", events(loss(2000)))
    first = imported("tensorboard", file.parent, data)
    file.write_bytes(events(loss(2500)))
    second = imported("tensorboard", file.parent, data)
    assert [row["state"] for row in second["runs"]] == ["imported"]
    assert [row["run"] for row in second["runs"]] == [row["run"] for row in first["runs"]]
    assert values(data) == [(step, float(step)) for step in range(2500)]


def test_a_folder_that_was_moved_is_the_same_run(tmp_path: Path, data: Path) -> None:
    event_file(tmp_path / "logs" / "a", events(loss(10)))
    imported("tensorboard", tmp_path / "logs", data)
    shutil.move(tmp_path / "logs", tmp_path / "elsewhere")
    imported("tensorboard", tmp_path / "elsewhere" / "a", data)
    assert len(values(data)) == 10


def test_a_damaged_record_costs_itself_and_a_damaged_length_what_is_behind_it(
    tmp_path: Path, data: Path
) -> None:
    parts = [
        events(loss(1)),
        *(events(loss(step + 1))[len(events(loss(step))) :] for step in range(1, 6)),
    ]
    broken = bytearray(parts[2])
    broken[14] ^= 1  # in the data
    headless = bytearray(parts[4])
    headless[0] ^= 1  # in the length
    data_ = b"".join([*parts[:2], bytes(broken), parts[3], bytes(headless), parts[5]])
    event_file(tmp_path / "logs", data_)
    said = imported("tensorboard", tmp_path / "logs", data, check=1)
    assert counts(said, "damaged") == {
        "damaged record (its checksum is wrong)": 1,
        "bytes behind a damaged record, which cannot be read": 1,
    }
    assert values(data) == [(0, 0.0), (1, 1.0), (3, 3.0)]


def test_links_and_copies_make_each_folder_one_run(tmp_path: Path, data: Path) -> None:
    logs = tmp_path / "logs"
    event_file(logs / "a" / "deep" / "er", events(loss(3)))
    (logs / "link").symlink_to(logs / "a")
    (logs / "a" / "circle").symlink_to(logs)
    said = imported("tensorboard", logs, data)
    assert [row["name"] for row in said["runs"]] == ["a/deep/er"]
    # A copy beside it is a run of its own.
    shutil.copytree(logs / "a" / "deep", logs / "copy")
    said = imported("tensorboard", logs, tmp_path / "other")
    assert [row["name"] for row in said["runs"]] == ["a/deep/er", "copy/er"]
    assert len({row["run"] for row in said["runs"]}) == 2


def test_two_runs_in_one_folder_are_one_that_was_begun_again(tmp_path: Path, data: Path) -> None:
    """As TensorBoard shows it; and the void points are counted."""
    event_file(tmp_path / "logs", events(loss(10)))
    later = [("loss", step, 100.0 + step) for step in range(4)]
    event_file(tmp_path / "logs", events(later), "events.out.tfevents.1700000001.a")
    said = imported("tensorboard", tmp_path / "logs", data)
    assert counts(said, "left_out") == {"point that a restart has made void": 10}
    assert values(data) == [(step, 100.0 + step) for step in range(4)]


@pytest.mark.parametrize(
    "name", ["x" * 513, "é" * 400, "a\x00b", "", "/", "__log_records", "\x1b[31m"]
)
def test_odd_names_arrive(name: str, tmp_path: Path, data: Path) -> None:
    event_file(tmp_path / "logs", events([(name, 0, 1.0), (name + "2", 0, 2.0)]))
    said = imported("tensorboard", tmp_path / "logs", data)
    assert said["refused"] == []
    with reader.open(data) as opened:
        (row,) = opened.runs()
        found = [one["name"] for one in opened.show(row["run"])["sequences"]]
    assert len(found) == 2
    assert all(len(one.encode()) <= 512 for one in found)


@pytest.mark.parametrize("program", sorted({*PROGRAMS} - {"tensorboard"}))
def test_a_path_of_another_program_says_which(program: str, tmp_path: Path, data: Path) -> None:
    event_file(tmp_path / "logs", events(loss(1)))
    with pytest.raises(ConfigurationError, match="call `matyan import tensorboard"):
        imported(program, tmp_path / "logs", data)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("path", ["empty", "text"])
def test_an_empty_folder_and_a_file_of_nothing_are_said(
    program: str, path: str, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("not a log")
    with pytest.raises(ConfigurationError):
        imported(program, tmp_path / path, data)


def test_a_missing_library_is_one_sentence(tmp_path: Path, data: Path) -> None:
    event_file(tmp_path / "logs", events(loss(1)))
    hidden = tmp_path / "hidden" / "google"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('hidden')")
    env = environment(PYTHONPATH=str(hidden.parent))
    done = matyan("import", "tensorboard", tmp_path / "logs", "--data", data, check=2, env=env)
    assert "pip install 'matyan-trio[tensorboard]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_an_import_that_was_killed_goes_on(tmp_path: Path, data: Path) -> None:
    """Whatever was sent before, each point is there once, with its value."""
    logs = tmp_path / "logs"
    event_file(logs, events(loss(100_000)))
    with running(data) as tracker:
        words = ("import", "tensorboard", str(logs), "--to", tracker.url)
        env = environment(XDG_STATE_HOME=str(tmp_path))
        process = subprocess.Popen([*MATYAN, *words], env=env)
        wait_for(lambda: sum(tracker.metric("matyan_ingestion_messages_processed_total")) > 1000)
        process.kill()
        process.wait()
        with reader.open(data) as opened:
            assert next(opened.runs())["active"]
        matyan(*words, env=env)
        assert values(data) == [(step, float(step)) for step in range(100_000)]


# --- SQLite ----------------------------------------------------------------------------------------


def mlflow_store(file: Path) -> sqlite3.Connection:
    """As much of MLflow's tables as is read."""
    store = sqlite3.connect(file)
    store.executescript(
        "CREATE TABLE experiments (experiment_id INTEGER, name TEXT, lifecycle_stage TEXT);"
        "CREATE TABLE runs (run_uuid TEXT, name TEXT, status TEXT, start_time INTEGER, end_time INTEGER,"
        " lifecycle_stage TEXT, artifact_uri TEXT, experiment_id INTEGER);"
        "CREATE TABLE metrics (key TEXT, value REAL, timestamp INTEGER, run_uuid TEXT, step INTEGER, is_nan INTEGER);"
        "CREATE TABLE params (key TEXT, value TEXT, run_uuid TEXT);"
        "CREATE TABLE tags (key TEXT, value TEXT, run_uuid TEXT);"
        "INSERT INTO experiments VALUES (1, 'e', 'active');"
        "INSERT INTO runs VALUES ('a1', 'r', 'RUNNING', 1700000000000, NULL, 'active', 's3://bucket/x', 1);"
        "INSERT INTO metrics VALUES ('loss', 1.0, 1700000000000, 'a1', 1, 0);"
    )
    store.commit()
    return store


def test_a_database_in_use_is_read_with_its_log_and_left_as_it_is(
    tmp_path: Path, data: Path
) -> None:
    file = tmp_path / "store" / "mlflow.db"
    file.parent.mkdir()
    with closing(mlflow_store(file)) as store:
        store.execute("PRAGMA journal_mode=wal")
        store.execute("INSERT INTO metrics VALUES ('loss', 2.0, 1700000000001, 'a1', 2, 0)")
        store.commit()
        names = sorted(path.name for path in file.parent.iterdir())
        before = {name: (file.parent / name).read_bytes() for name in names}
        said = imported("mlflow", file, data)
        assert counts(said, "left_out") == {"artifacts that are elsewhere": 1}
        assert values(data) == [(1, 1.0), (2, 2.0)]
        assert sorted(path.name for path in file.parent.iterdir()) == names
        assert {name: (file.parent / name).read_bytes() for name in names} == before
        # It is not locked: its program goes on.
        store.execute("INSERT INTO metrics VALUES ('loss', 3.0, 1700000000002, 'a1', 3, 0)")
        store.commit()
        imported("mlflow", file.parent, data)
        assert values(data) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_a_database_that_is_cut_is_a_sentence(tmp_path: Path, data: Path) -> None:
    file = tmp_path / "mlflow.db"
    mlflow_store(file).close()
    os.truncate(file, file.stat().st_size // 2)
    with pytest.raises(ConfigurationError):
        imported("mlflow", file, data)


_ODD: Final = [
    "UPDATE metrics SET step = 'x'",
    "UPDATE metrics SET value = 'x'",
    "UPDATE metrics SET value = NULL, is_nan = 0",
    "UPDATE metrics SET timestamp = NULL",
    "UPDATE metrics SET timestamp = 'x'",
    "UPDATE metrics SET key = x'ff00'",
    "UPDATE metrics SET key = NULL",
    "UPDATE metrics SET step = 1.5",
    "UPDATE runs SET status = 7",
    "UPDATE runs SET name = 7",
    "UPDATE runs SET artifact_uri = 'file://['",
    "UPDATE runs SET artifact_uri = x'00'",
    "UPDATE runs SET artifact_uri = 'file:///' || replace(hex(zeroblob(3000)), '0', 'a')",
    "UPDATE runs SET start_time = 9e999",
    "UPDATE experiments SET name = x'00'",
    "INSERT INTO tags VALUES (7, 7, 'a1')",
    "INSERT INTO params VALUES (x'00', 7, 'a1')",
    "ALTER TABLE runs DROP COLUMN lifecycle_stage",
]


@pytest.mark.parametrize("statement", _ODD)
def test_rows_of_other_types_are_taken_or_said_in_a_sentence(
    statement: str, tmp_path: Path, data: Path
) -> None:
    """SQLite keeps a value of any type in any column."""
    file = tmp_path / "mlflow.db"
    with closing(mlflow_store(file)) as store:
        store.execute(statement)
        store.commit()
    for words in (["--dry-run"], []):
        said = matyan("import", "mlflow", file, "--data", data, *words, check=None)
        assert said.returncode in ((2,) if statement.startswith("ALTER") else (0, 1)), said
        assert "Traceback" not in said.stderr
        assert said.returncode == 0 or said.stderr.strip(), said


def test_a_file_that_is_gone_when_it_is_sent_costs_itself(tmp_path: Path) -> None:
    def gone() -> Iterator[bytes]:
        raise FileNotFoundError(2, "No such file or directory")
        yield b""

    moved = importing._moved(Blob("a", "text/plain", 1, gone, ""))
    with pytest.raises(Refused, match="Its file cannot be read"):
        next(iter(moved.open()))


# --- how values are fitted ---------------------------------------------------------------------------


def test_values_that_the_wire_does_not_take_are_made_to_fit() -> None:
    report = Report()
    deep: object = 1
    for _ in range(80):
        deep = [deep]
    fitted = source.plain(
        {"big": 2**70, "min": -(2**63), "text": "x" * 200_000, "\ud800": "\udfff", "deep": deep},
        report,
        "",
    )
    assert fitted["big"] == str(2**70)
    assert fitted["min"] == -(2**63)
    assert len(fitted["text"].encode()) < 100_000
    assert sum(tally.count for tally in report.changed.values()) >= 3
    for key in fitted:
        key.encode()


def test_unequal_bins_keep_the_count_and_the_range() -> None:
    report = Report()
    made = source.distribution([0.0, 1.0, 1.5, 4.0], [2.0, 6.0, 5.0], report, "h")
    assert made is not None
    assert made["range"] == [0.0, 4.0]
    assert sum(made["data"]) == pytest.approx(13)
    # A quarter of the range has the first bin alone.
    assert sum(made["data"][:16]) == pytest.approx(2)
    assert report.changed
