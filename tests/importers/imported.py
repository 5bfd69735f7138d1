"""Sources that the programs themselves have written, imports of them, and what was read back beside what was logged."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import math
import os
import subprocess
from pathlib import Path
from typing import Any

from dev import environments
from matyan import reader
from matyan.cli.importing import import_
from tests.needs import needed

WRITERS = Path(__file__).parent / "writers"


def written(program: str, folder: Path, *words: str) -> dict[str, Any]:
    """Has the program write into the folder, in an environment of its own; what it has logged."""
    bin = needed(lambda: environments.tracker(program), "MATYAN_REQUIRE_TRACKERS")
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [bin / "python", "-m", f"writers.write_{program}", str(folder), *words],
        cwd=WRITERS.parent,
        env={**os.environ, "HOME": str(folder.parent)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    truth: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return truth


def imported(program: str, source: Path, data: Path, *words: str, check: int = 0) -> dict[str, Any]:
    """What `matyan import --json` says, called in this process, which is quicker; `check`: the exit code that it must have."""
    out = io.StringIO()
    arguments = [program, str(source), "--data", str(data), "--json", *words]
    with contextlib.redirect_stdout(out):
        code = import_.main(arguments, "matyan import", standalone_mode=False)
    assert code == check, out.getvalue()
    said: dict[str, Any] = json.loads(out.getvalue())
    return said


def counts(said: dict[str, Any], what: str) -> dict[str, int]:
    return {one["kind"]: one["count"] for one in said[what]}


def same(one: float | None, other: float | None) -> bool:
    if one is None or other is None:
        return one is other
    if math.isnan(one):
        return math.isnan(other)
    return one == other and math.copysign(1, one) == math.copysign(1, other)


def compare(truth: dict[str, Any], data: Path) -> None:
    """Every value of each run, with its step, epoch, context and time, as it was logged, and no other."""
    with reader.open(data) as opened:
        rows = {row["name"]: row for row in opened.runs(archived=None) or ()}
        assert sorted(rows) == sorted(run["name"] for run in truth["runs"])
        for run in truth["runs"]:
            _compare_run(run, rows[run["name"]], opened)


def _compare_run(run: dict[str, Any], row: dict[str, Any], opened: reader.Reader) -> None:
    id, about = row["run"], run["about"]
    shown = opened.show(id)
    assert row["experiment"] == about["experiment"]
    assert sorted(row["tags"]) == sorted(about["tags"])
    assert row["active"] is about["active"]
    assert row["archived"] is about.get("archived", False)
    assert shown["meta"]["description"] == about.get("description", "")
    if "params" in about:
        assert shown["attrs"]["hparams"] == about["params"]
    for key, value in about.get("attributes", {}).items():
        assert shown["attrs"][key] == value
    found = {
        json.dumps([one["name"], one["context"]], sort_keys=True)
        for one in shown["sequences"]
        if one["dtype"] == "float"
    }
    system = {name for name in found if name.startswith('["__system__')}
    assert found - system == {*run["metrics"]} - system
    for key, points in run["metrics"].items():
        name, context = json.loads(key)
        _compare_points(key, points, opened.metric(id, name, context))
    _compare_objects(run, id, opened)
    for path, data in run["artifacts"].items():
        assert opened.artifact(id, path).read() == base64.b64decode(data)
    logs = [*opened.logs(id)]
    assert [one["message"] for one in logs if one["kind"] == "line"] == run["lines"]
    records = [[one["level"], one["message"]] for one in logs if one["kind"] == "record"]
    assert records == run["records"]


def _compare_points(key: str, logged: list[list[Any]], points: Any) -> None:
    by_step = {step: (value, epoch, when) for step, value, epoch, when in logged}
    assert len(points) == len(by_step), key
    for step, value, epoch, when in zip(
        points.steps, points.values, points.epochs, points.times, strict=True
    ):
        want, want_epoch, want_time = by_step[step]
        assert same(value, want), (key, step, value, want)
        assert epoch == want_epoch, (key, step)
        if want_time is not None:
            assert abs(when - want_time) < 2e-6, (key, step)


def _compare_objects(run: dict[str, Any], id: str, opened: reader.Reader) -> None:
    found = {}
    for block in opened.blocks(id):
        for step, _, _, value in block.objects or ():
            if block.name not in ("logs", "__log_records"):
                found[json.dumps([block.name, block.context, step], sort_keys=True)] = value
    wanted = {}
    for name, context, step, fields, data in run["objects"]:
        wanted[json.dumps([name, context, step], sort_keys=True)] = fields, data
    assert sorted(found) == sorted(wanted)
    for key, (fields, data) in wanted.items():
        value = found[key]
        assert {name: value.get(name) for name in fields} == fields, key
        if data is not None:
            run_id, _, path = value["s3_key"].partition("/")
            assert run_id == id
            assert opened.artifact(id, path).read() == base64.b64decode(data), key
