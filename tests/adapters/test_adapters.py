"""The SDK's callbacks for training libraries, against a real `matyan up`: whatever they send is stored, with its epoch.

The gate drives them with stubs of the trainers; `make test-adapters` with the libraries themselves.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dev import environments
from matyan import reader
from tests.tracker import Tracker, asked, environment, running

CASES = [("stubs", library) for library in ("hugging_face", "lightning", "keras")]
if os.environ.get("MATYAN_TEST_ADAPTERS") == "1":
    CASES += [("libraries", library) for _, library in CASES]


@pytest.fixture(scope="module", params=["packed", "compatible"])
def tracker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Tracker]:
    data = tmp_path_factory.mktemp("adapters") / "data"
    with running(data, MATYAN_SEQUENCE_LAYOUT=request.param) as started:
        yield started
        assert started.stop() == 0, "".join(started.output)


def trained(where: str, library: str, url: str) -> tuple[str, list[dict[str, Any]]]:
    """The run of a training, and the metrics that it sent."""
    python = Path(sys.executable)
    if where == "libraries":
        python = environments.training_library(library) / "python"
    done = subprocess.run(
        [str(python), "-m", "tests.adapters.train", where, library, url],
        capture_output=True,
        text=True,
        env=environment(PYTHONPATH="."),
        cwd=Path(__file__).parent.parent.parent,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WS error" not in done.stderr, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    return told["run"], told["sent"]


def whole(epoch: int | float | None) -> int | float | None:
    """An epoch as it is kept."""
    return int(epoch) if isinstance(epoch, float) and epoch.is_integer() else epoch


@pytest.mark.parametrize(("where", "library"), CASES)
def test_every_point_of_a_training_is_stored(tracker: Tracker, where: str, library: str) -> None:
    """With its step, its epoch, be it a fraction, and its context; and the run has ended."""
    run, sent = trained(where, library, tracker.url)
    # Of a step that was sent twice the later one stands.
    wanted = {
        (one["name"], json.dumps(one["context"] or {}), one["step"]): (
            one["value"],
            repr(whole(one["epoch"])),
        )
        for one in sent
    }
    stored = {}
    with reader.open(tracker.data) as opened:
        for block in opened.blocks(run):
            if block.points is not None:
                points = block.points
                for step, value, epoch in zip(
                    points.steps, points.values, points.epochs, strict=True
                ):
                    stored[block.name, json.dumps(block.context), step] = (value, repr(epoch))
        shown = opened.show(run)
    assert stored == wanted
    assert shown["meta"]["active"] is False
    assert shown["attrs"]["__system_params"]
    epochs = {epoch for _, epoch in stored.values()}
    if library == "hugging_face":
        assert {repr(step / 7) for step in range(1, 7)} <= epochs
        assert {"1", "2", "3"} <= epochs
        assert shown["attrs"]["hparams"]["num_train_epochs"] == 3
    else:
        assert {"0", "1", "2"} <= epochs
    if where == "stubs":
        counts = {"hugging_face": 102, "lightning": 30, "keras": 15}
        assert (
            len([name for name, _, _ in stored if not name.startswith("__system")])
            == counts[library]
        )


def test_the_commands_show_fractional_epochs(tracker: Tracker) -> None:
    """Every export has them, as the reader does."""
    run, _ = trained("stubs", "hugging_face", tracker.url)
    for format_ in ("csv", "jsonl"):
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "matyan",
                "export",
                run,
                "--data",
                tracker.data,
                "--format",
                format_,
            ],
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
            timeout=60,
        )
        text = done.stdout
        wanted = ["0.14285714285714285", ",1," if format_ == "csv" else '"epoch": 1,']
        assert all(part in text for part in wanted)
    assert asked("show", run, "--data", tracker.data)["run"] == run
