"""The SDK's own backup and restore, unmodified: what was deleted stands there again, value by value.

All but what its backup 0.3.0 loses on its way, whoever serves it: it reads the places of a list for its items, so images, texts and
figures come back as numbers, and the file and line of a log record as an object that no server takes.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from matyan_client import Repo, Run
from matyan_client.transport.ws import WsTransport

from tests.api.test_api import API
from tests.tracker import environment, running


def sdk(*words: str) -> str:
    """A command of the SDK's CLI; what it says."""
    done = subprocess.run(
        [sys.executable, "-c", "from matyan_client.cli import main; main()", *words],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0, done
    assert "Failed" not in done.stdout + done.stderr
    return done.stdout + done.stderr


def log(url: str) -> None:
    run = Run("kept", repo=url, experiment="baseline", capture_terminal_logs=False)
    run.name, run.description = "the name", "what it is"
    run["hparams"] = {"lr": 0.1, "layers": [1, 2, {"a": None}], "deep": {"er": "x"}}
    run["other"] = {"answer": 42}
    for step in range(120):
        run.track(step * 0.5, name="loss", step=step, context={"subset": "train"})
        run.track(-step, name="loss", step=step, context={"subset": "val"})
    run.track(7, name="once", step=5)
    run.close()
    more = WsTransport(url, "kept")
    for step, line in enumerate(("one", "", "three")):
        more.send_log_terminal_line(line, step)
    more.send_log_record(message="slow", level=30, timestamp=1.5, extra_args={"size": 3})
    more.wait_for_flush(timeout=30.0)
    more.close()


def everything(api: API) -> dict[str, Any]:
    """What the API says of the run, but for what a restored run cannot have: its times, and the tags, which no backup holds."""
    info = api.json("GET", "runs/kept/info")
    props = info["props"]
    for name in ("creation_time", "end_time", "tags"):
        del props[name]
    del props["experiment"]["id"]
    metrics = [{"name": one["name"], "context": one["context"]} for one in info["traces"]["metric"]]
    found = {
        "info": info,
        "points": api.json("POST", "runs/kept/metric/get-batch", metrics, record_density=50_000),
    }
    found["lines"] = api.stream("runs/kept/logs", record_range="")
    found["records"] = api.stream("runs/kept/log-records", record_range="")
    return found


@pytest.fixture
def api(tmp_path: Path) -> Any:
    with running(tmp_path / "data") as tracker:
        yield API(tracker)


def test_a_deleted_run_is_restored_value_by_value(api: API, tmp_path: Path) -> None:
    """By the process that has deleted it, and twice: names that are taken are told apart from failures."""
    log(api.url)
    api.json("POST", "tags", {"name": "taken", "color": "#fff"})
    before = everything(api)
    assert len(before["points"]) == 3
    assert len(before["records"]) == 2, "one, and how many there are"
    assert len(before["lines"]) == 3
    sdk("backup", str(tmp_path / "out"), "--backend-url", api.url)
    (backup,) = (tmp_path / "out").iterdir()

    Repo(api.url).delete_run("kept")
    api.json("GET", "runs/kept/info", status=404)
    restore = ("restore-reingest", str(backup), "--backend-url", api.url, "--frontier-url", api.url)
    said = sdk(*restore)
    assert everything(api) == before
    # The experiment and the tag are there already: 409, which it takes for restored.
    assert "WARNING" not in said
    assert [one["name"] for one in api.json("GET", "experiments")] == ["baseline"]
    assert [one["run_count"] for one in api.json("GET", "experiments")] == [1]


def test_without_the_route_a_deleted_run_stays_deleted(api: API) -> None:
    """And what was never deleted is nobody's affair."""
    log(api.url)
    api.json("DELETE", "runs/kept")
    run = Run("kept", repo=api.url, capture_terminal_logs=False)
    run.close()
    api.json("GET", "runs/kept/info", status=404)
    api.json("POST", "runs/kept/clear-tombstone/", status=204)
    api.json("GET", "runs/kept/info", status=404)
    run = Run("kept", repo=api.url, capture_terminal_logs=False)
    run.track(1.0, name="loss", step=0)
    run.close()
    found = api.json("GET", "runs/kept/info")
    assert [one["name"] for one in found["traces"]["metric"]] == ["loss"]
    assert found["props"]["experiment"]["name"] is None
    api.json("POST", "runs/kept/clear-tombstone", status=204)
    api.json("POST", "runs/never/clear-tombstone", status=204)
    api.json("GET", "runs/never/info", status=404)
    api.json("POST", "runs/no id/clear-tombstone".replace(" ", "%20"), status=422)


@pytest.mark.parametrize("family", ["experiments", "tags"])
def test_a_deleted_experiment_or_tag_leaves_its_runs(api: API, family: str) -> None:
    """As the web app and the SDK delete it; the name is free, and who takes it meets none of the old runs."""
    kind = family[:-1]
    for name in ("a", "b"):
        run = Run(name, repo=api.url, experiment="gone", capture_terminal_logs=False)
        run.add_tag("gone")
        run.close()
    (there,) = api.json("GET", family)
    if family == "experiments":
        Repo(api.url).delete_experiment(there["id"])
    else:
        assert api.json("DELETE", f"tags/{there['id']}") is None
    assert api.json("GET", family) == []
    api.json("GET", f"{family}/{there['id']}", status=404)
    api.json("DELETE", f"{family}/{there['id']}", status=404)
    query = "run.experiment == 'gone'" if family == "experiments" else "'gone' in run.tags"
    assert api.stream("runs/search/run", q=query) == {}
    props = api.json("GET", "runs/a/info")["props"]
    assert props["tags"] == [] if kind == "tag" else props["experiment"]["name"] is None
    again = api.json("POST", family, {"name": "gone"})["id"]
    assert again != there["id"]
    api.json("PUT", "runs/b", {"experiment": "gone"})
    api.json("POST", "runs/b/tags/new", {"tag_name": "gone"})
    assert [*api.stream("runs/search/run", q=query)] == ["b"]
    assert [one["run_count"] for one in api.json("GET", family) if one["id"] == again] == [1]
