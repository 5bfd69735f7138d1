"""The unmodified matyan-client 0.3.0 against a real `matyan up`, looked at through the commands with --json."""

from __future__ import annotations

import io
import json
import math
import random
import subprocess
import sys
import threading
import time
import urllib.error
import uuid
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matyan_client import Run
from matyan_client.objects import Audio, Distribution, Figure, Image, Text
from PIL import Image as Pillow

from matyan import reader
from tests.tracker import Tracker, asked, asked_lines, environment, matyan, running
from tests.until import wait_for

EXAMPLE = Path(__file__).parent.parent / "examples" / "digits.py"


@pytest.fixture(scope="module")
def tracker(tmp_path_factory) -> Iterator[Tracker]:
    with running(tmp_path_factory.mktemp("sdk") / "data") as started:
        yield started
        # Whatever the tests did, the drain is clean.
        assert started.stop() == 0, "".join(started.output)


def new_run(tracker: Tracker, run: str | None = None, **kwargs: Any) -> Run:
    kwargs.setdefault("capture_terminal_logs", False)
    return Run(run, repo=tracker.url, **kwargs)


def show(tracker: Tracker, run: Run | str) -> dict[str, Any]:
    shown: dict[str, Any] = asked("show", getattr(run, "hash", run), "--data", tracker.data)
    return shown


def exported(tracker: Tracker, run: Run | str) -> list[dict[str, Any]]:
    run = getattr(run, "hash", run)
    return asked_lines("export", run, "--data", tracker.data, "--format", "jsonl")


def sequence(shown: dict[str, Any], name: str, **context: str) -> dict[str, Any]:
    (found,) = (
        one for one in shown["sequences"] if one["name"] == name and one["context"] == context
    )
    return found


def png() -> bytes:
    out = io.BytesIO()
    Pillow.new("L", (8, 8), 128).save(out, "PNG")
    return out.getvalue()


def wav() -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(2_000))
    return out.getvalue()


# --- what a run tracks ---------------------------------------------------------------------------


def test_after_close_everything_is_there(tracker) -> None:
    """Metrics in two contexts, hparams, name, description, experiment, tags and log records; duration not null."""
    before = time.time()
    run = new_run(tracker, experiment="baseline")
    run.name = "first"
    run.description = "all of it"
    run["hparams"] = {"lr": 0.01, "layers": [64, 32], "optimizer": {"name": "adam", "eps": 1e-8}}
    run["dataset.version"] = 3
    for tag in ("kept", "dropped"):
        run.add_tag(tag)
    run.remove_tag("dropped")
    for step in range(250):
        for subset in ("train", "test"):
            run.track(
                1 / (step + 1), name="loss", step=step, epoch=step // 50, context={"subset": subset}
            )
    run.track(7, name="count")
    run.log_info("begun", size=3)
    run.log_error("an error")
    run.close()

    shown = show(tracker, run)
    meta = shown["meta"]
    assert (meta["name"], meta["description"]) == ("first", "all of it")
    assert (shown["experiment"], shown["tags"]) == ("baseline", ["kept"])
    assert (meta["active"], meta["is_archived"]) == (False, False)
    assert before - 1 < meta["created_at"] < time.time() + 1
    assert 0 < meta["duration"] < time.time() - before + 1
    assert meta["finalized_at"] == pytest.approx(meta["created_at"] + meta["duration"])
    assert shown["attrs"] == {
        "hparams": {"lr": 0.01, "layers": [64, 32], "optimizer": {"name": "adam", "eps": 1e-8}},
        "dataset": {"version": 3},
    }
    assert {json.dumps(context) for context in shown["contexts"]} == {
        "{}",
        '{"subset": "train"}',
        '{"subset": "test"}',
    }
    for subset in ("train", "test"):
        assert sequence(shown, "loss", subset=subset) == {
            "name": "loss",
            "context": {"subset": subset},
            "dtype": "float",
            "last": 1 / 250,
            "last_step": 249,
            "points": 250,
        }
    assert sequence(shown, "count")["dtype"] == "int"

    rows = exported(tracker, run)
    losses = [row for row in rows if row["name"] == "loss" and row["context"] == {"subset": "test"}]
    assert [(row["step"], row["epoch"], row["value"]) for row in losses] == [
        (step, step // 50, 1 / (step + 1)) for step in range(250)
    ]
    assert all(before - 1 < row["time"] < time.time() for row in losses)

    records = asked_lines("logs", run.hash, "--data", tracker.data, "--json")
    assert [(row["kind"], row["message"], row["level"]) for row in records] == [
        ("record", "begun", 20),
        ("record", "an error", 40),
    ]
    assert records[0]["args"] == {"size": 3}

    (row,) = (
        row
        for row in asked("runs", "--counts", "--data", tracker.data, "--experiment", "baseline")
        if row["run"] == run.hash
    )
    assert set(row) == {
        "run",
        "name",
        "experiment",
        "tags",
        "active",
        "archived",
        "created_at",
        "last_record",
        "duration",
        "sequences",
        "points",
    }
    assert (row["sequences"], row["points"]) == (4, 503)


def test_nan_and_infinities_stay_what_they_are(tracker) -> None:
    """In the points, in `last`, and in strict JSON, whose readers get them as strings."""
    run = new_run(tracker)
    for value in (1.5, math.nan, math.inf, -math.inf):
        run.track(value, name="loss")
    run.close()
    values = [row["value"] for row in exported(tracker, run)]
    assert values == [1.5, "NaN", "Infinity", "-Infinity"]
    assert sequence(show(tracker, run), "loss")["last"] == "-Infinity"


def test_objects_and_artifacts_are_there(tracker, tmp_path) -> None:
    """Image, Audio, Figure, Text and Distribution; blobs with their types, in the folder byte for byte."""
    artifact = tmp_path / "model.bin"
    artifact.write_bytes(random.Random(7).randbytes(300_000))
    run = new_run(tracker)
    run.track(Image(png(), caption="grey"), name="picture", step=4)
    run.track(Audio(wav(), format_="wav"), name="sound", step=5)
    run.track(Figure({"data": [{"y": [1, 2]}], "layout": {}}), name="figure", step=6, epoch=1)
    run.track(Text("hello"), name="text", step=7, context={"subset": "test"})
    run.track(Distribution([1, 2, 3, 4], bin_count=2), name="weights", step=8)
    run.log_artifact(str(artifact))
    run.log_artifact(str(artifact), name="deep/down/model é.bin")
    run.close()

    rows = {row["name"]: row for row in exported(tracker, run)}
    assert rows["picture"]["dtype"] == rows["picture"]["value"]["type"] == "image"
    assert rows["picture"]["value"]["s3_key"] == f"{run.hash}/seq/picture/4.png"
    assert rows["sound"]["value"]["s3_key"] == f"{run.hash}/seq/sound/5.wav"
    assert (rows["figure"]["step"], rows["figure"]["epoch"]) == (6, 1)
    assert rows["figure"]["value"]["data"]["data"] == [{"y": [1, 2]}]
    assert rows["text"]["value"] == {"type": "text", "data": "hello"}
    assert rows["text"]["context"] == {"subset": "test"}
    assert rows["weights"]["value"]["data"] == [2, 2]

    blobs = show(tracker, run)["attrs"]["__blobs__"]
    assert {path: blob["content_type"] for path, blob in blobs.items()} == {
        "seq/picture/4.png": "image/png",
        "seq/sound/5.wav": "audio/wav",
        "model.bin": "application/octet-stream",
        "deep/down/model é.bin": "application/octet-stream",
    }
    assert all(blob["s3_key"] == f"{run.hash}/{path}" for path, blob in blobs.items())
    for content in (png(), wav(), artifact.read_bytes()):
        assert is_stored(tracker, content)


def is_stored(tracker: Tracker, content: bytes) -> bool:
    """Whether a file below the blobs' folder holds it; how it is named and headed is that folder's affair."""
    files = (path for path in (tracker.data / "blobs").rglob("*") if path.is_file())
    return any(content in path.read_bytes() for path in files)


def test_a_large_figure_is_stored_and_exported_whole(tracker) -> None:
    """500 kB inline, five times what FoundationDB takes as one value."""
    figure = {"data": [{"text": random.Random(3).randbytes(250_000).hex()}]}
    run = new_run(tracker)
    run.track(Figure(figure), name="figure", step=0)
    run.close()
    (row,) = exported(tracker, run)
    assert row["value"] == {"type": "figure", "data": figure}


def test_the_terminal_is_captured(tracker) -> None:
    """What a program prints stands in its order between its log records."""
    program = (
        "import sys; from matyan_client import Run\n"
        "run = Run(repo=sys.argv[1])\n"
        "for i in range(5): print('line', i)\n"
        "run.log_warning('watch out')\n"
        "run.close()\n"
        "print(run.hash)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, tracker.url],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
        check=True,
    )
    rows = asked_lines("logs", done.stdout.split()[-1], "--data", tracker.data, "--json")
    lines = [row for row in rows if row["kind"] == "line" and row["message"].startswith("line")]
    assert [row["message"] for row in lines] == [f"line {i}" for i in range(5)]
    assert [row["step"] for row in lines] == sorted(row["step"] for row in lines)
    (record,) = (row for row in rows if row["kind"] == "record")
    assert (record["message"], record["level"]) == ("watch out", 30)


# --- more than one Run object --------------------------------------------------------------------


def test_a_resumed_run_goes_on(tracker) -> None:
    """The same id with force_resume: points go on, a rewritten step holds the new value, and it ends again."""
    first = new_run(tracker)
    first.name = "kept"
    for step in range(10):
        first.track(float(step), name="loss", step=step)
    first.close()
    ended = show(tracker, first)["meta"]

    again = new_run(tracker, first.hash, force_resume=True)
    for step in range(9, 20):
        again.track(step * 10.0, name="loss", step=step)
    again._ws.wait_for_flush()
    again.close()
    shown = show(tracker, first)
    assert shown["meta"]["name"] == "kept"
    assert shown["meta"]["created_at"] == ended["created_at"]
    assert shown["meta"]["client_start_ts"] == ended["client_start_ts"]
    assert shown["meta"]["duration"] > ended["duration"]
    assert shown["meta"]["active"] is False
    assert [(row["step"], row["value"]) for row in exported(tracker, first)] == [
        *((step, float(step)) for step in range(9)),
        *((step, step * 10.0) for step in range(9, 20)),
    ]


def test_runs_in_parallel_keep_apart(tracker) -> None:
    """Eight runs at once, each with its own points in its own order."""
    hashes = [uuid.uuid4().hex for _ in range(8)]

    def train(number: int, run_hash: str) -> None:
        run = new_run(tracker, run_hash, experiment="parallel")
        for step in range(300):
            run.track(float(number * 1_000 + step), name="loss")
        run.close()

    threads = [threading.Thread(target=train, args=pair) for pair in enumerate(hashes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    filters = ("--experiment", "parallel", "--finished")
    rows = asked("runs", "--counts", "--data", tracker.data, *filters)
    assert {row["run"] for row in rows} == set(hashes)
    assert {row["points"] for row in rows} == {300}
    for number, run_hash in enumerate(hashes):
        values = [row["value"] for row in exported(tracker, run_hash)]
        assert values == [float(number * 1_000 + step) for step in range(300)]


def test_an_open_run_is_active_and_archiving_is_seen(tracker) -> None:
    """The filters see the state while the run goes on."""
    run = new_run(tracker, experiment="open")
    run.archived = True
    run.track(1.0, name="loss")
    run._ws.wait_for_flush()
    wanted = ("runs", "--data", tracker.data, "--experiment", "open")
    wait_for(lambda: [row["run"] for row in asked(*wanted, "--active", "--archived")] == [run.hash])
    assert asked(*wanted, "--finished") == asked(*wanted, "--not-archived") == []
    run.close()
    assert [row["run"] for row in asked(*wanted, "--finished")] == [run.hash]


# --- what goes wrong -----------------------------------------------------------------------------


def test_deleting_a_run_deletes_its_blobs(tracker, tmp_path) -> None:
    """After the command nothing of it is left, and late records do not bring it back."""
    artifact = tmp_path / "secret.bin"
    artifact.write_bytes(b"only here")
    run = new_run(tracker)
    run.track(1.0, name="loss")
    run.track(Image(png()), name="picture")
    run.log_artifact(str(artifact))
    run.close()
    assert is_stored(tracker, b"only here")

    matyan("delete", run.hash, "--data", tracker.data, "--yes")
    assert not is_stored(tracker, b"only here")
    done = matyan("show", run.hash, "--data", tracker.data, check=1)
    assert run.hash in done.stderr
    assert run.hash not in matyan("runs", "--data", tracker.data).stdout

    late = new_run(tracker, run.hash)
    late.track(2.0, name="loss")
    late.close()
    matyan("show", run.hash, "--data", tracker.data, check=1)


def test_a_metric_called_logs_is_refused_alone(tracker, capsys) -> None:
    """It would collide with the log lines; the metric beside it in the same frame is stored."""
    run = new_run(tracker)
    run.track(1.0, name="logs")
    run.track(2.0, name="fine")
    run.close()
    assert [one["name"] for one in show(tracker, run)["sequences"]] == ["fine"]


def test_a_message_over_the_limit_harms_nothing(tracker) -> None:
    """A message of 20 MB is rejected alone, with its limit; the socket stays, and the run's other points are stored."""
    run = new_run(tracker)
    run.track(1.0, name="loss", step=0)
    assert run._ws.wait_for_flush()
    wait_for(lambda: run._ws.stats["sent"] >= 2)
    run.track(Figure({"data": "x" * 20_000_000}), name="figure", step=0)
    wait_for(lambda: run._ws.stats["sent"] >= 3)
    assert run._ws.stats["dropped"] == 0
    run.track(2.0, name="loss", step=1)
    run.close()
    assert [(row["name"], row["value"]) for row in exported(tracker, run)] == [
        ("loss", 1.0),
        ("loss", 2.0),
    ]


@pytest.mark.parametrize("bad", ["a%2Fb", "..", "x" * 129, "sp%20ace"])
def test_a_bad_run_id_is_refused(tracker, bad) -> None:
    """It ends in an HTTP error at the upgrade, and nothing is stored under it."""
    before = matyan("runs", "--data", tracker.data).stdout
    with pytest.raises(urllib.error.HTTPError) as error:
        tracker.get(f"/api/v1/ws/runs/{bad}")
    assert 400 <= error.value.code < 500
    assert matyan("runs", "--data", tracker.data).stdout == before


def test_contexts_and_last_values_are_kept_apart(tracker) -> None:
    """Two contexts whose ids collide, true beside 1 beside 1.0, and metrics that were only NaN or infinite."""
    run = new_run(tracker)
    contexts: list[dict[str, Any]] = [
        {"layer": 4141},
        {"layer": 8106},
        {"x": 1},
        {"x": 1.0},
        {"x": True},
    ]
    for step in range(3):
        for number, context in enumerate(contexts):
            run.track(number + step / 10, name="loss", step=step, context=context)
        run.track(math.nan, name="nothing", step=step)
        run.track(-math.inf, name="low", step=step)
    run.close()
    shown = show(tracker, run)
    last = [
        (repr(one["context"]), one["last"]) for one in shown["sequences"] if one["name"] == "loss"
    ]
    assert sorted(last) == sorted((repr(c), number + 0.2) for number, c in enumerate(contexts))
    assert math.isnan(float(sequence(shown, "nothing")["last"]))
    assert float(sequence(shown, "low")["last"]) == -math.inf
    rows = [row for row in exported(tracker, run) if row["name"] == "loss"]
    for number, context in enumerate(contexts):
        values = [row["value"] for row in rows if repr(row["context"]) == repr(context)]
        assert values == [number, number + 0.1, number + 0.2]
    with reader.open(tracker.data) as opened:
        for number, context in enumerate(contexts):
            assert list(opened.metric(run.hash, "loss", context).values) == [
                number,
                number + 0.1,
                number + 0.2,
            ]


def test_a_long_line_and_a_large_record_are_whole(tracker) -> None:
    """Of what stands in parts in the store."""
    run = new_run(tracker)
    line, argument = "é" * 75_000, "€" * 40_000
    assert run._ws is not None
    run._ws.send_log_terminal_line(line, 0)
    run.log_info("large", argument=argument)
    run.close()
    rows = asked_lines("logs", run.hash, "--data", tracker.data, "--json")
    assert {row["kind"]: row["message"] for row in rows} == {"line": line, "record": "large"}
    (record,) = (row for row in rows if row["kind"] == "record")
    assert argument in record["args"].values()


# --- terminal lines ------------------------------------------------------------------------------

SESSION = """
import sys, time
from matyan_client import Run
url, name, *pieces = sys.argv[1:]
run = Run(name, repo=url, system_tracking_interval=None)
for piece in pieces:
    sys.stdout.write(piece)
    # The SDK looks at what was written every second.
    time.sleep(1.3)
run.close()
"""


def test_a_progress_bar_is_one_line_and_a_resumed_run_goes_on(tracker) -> None:
    """The SDK sends an unfinished line again and again at its step, and counts from 0 in each session."""
    run = uuid.uuid4().hex
    for number in "12":
        bar = [f"\r{number}: {percent} %" for percent in (10, 50, 100)]
        pieces = f"begin {number}\n", *bar, f"\nend {number}\n"
        subprocess.run(
            [sys.executable, "-c", SESSION, tracker.url, run, *pieces],
            stdout=subprocess.DEVNULL,
            env=environment(),
            timeout=60,
            check=True,
        )
    rows = asked_lines("logs", run, "--data", tracker.data, "--json")
    assert [row["message"] for row in rows if row["kind"] == "line" and row["message"]] == [
        *("begin 1", "1: 100 %", "end 1"),
        *("begin 2", "2: 100 %", "end 2"),
    ]


# --- the example ---------------------------------------------------------------------------------


def test_the_example_tracks_all_it_says(tracker) -> None:
    """Metrics in two contexts, hparams, tags, log records, terminal lines, an image and an artifact."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--tracker", tracker.url, "--epochs", "12"],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
        check=True,
    )
    run = done.stdout.rsplit("tracked as ", 1)[1].split(";")[0]
    shown = show(tracker, run)
    assert shown["meta"]["duration"] > 0
    assert shown["attrs"]["hparams"]["epochs"] == 12
    assert shown["tags"] == ["example", "scikit-learn"]
    for subset in ("train", "test"):
        assert sequence(shown, "loss", subset=subset)["points"] == 12
    assert sequence(shown, "accuracy", subset="test")["last"] > 0.8
    assert sequence(shown, "confusion")["points"] == 2
    assert {"model.pickle", "seq/confusion/9.png"} <= set(shown["attrs"]["__blobs__"])
    rows = asked_lines("logs", run, "--data", tracker.data, "--json")
    assert sum(row["kind"] == "line" and "test accuracy" in row["message"] for row in rows) == 12
    assert [row["message"] for row in rows if row["kind"] == "record"][-1] == "training ended"


def test_the_example_says_when_no_tracker_answers() -> None:
    """One sentence with what to do, at once."""
    done = subprocess.run(
        [sys.executable, EXAMPLE, "--tracker", "http://127.0.0.1:9"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "matyan up" in done.stderr
    assert "Traceback" not in done.stderr
