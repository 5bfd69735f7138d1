"""The SDK's readers, as they are on the package index, against a tracker: what was logged comes back, value by value."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matyan_client import Repo, Run
from matyan_client.objects import Audio, Distribution, Figure, Image, Text

from tests.cli.test_main import send
from tests.tracker import Tracker, running
from tests.until import wait_for

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
RUNS = ("run-a", "run-b", "run-c")


def log(tracker: Tracker, name: str, number: int, folder: Path) -> None:
    run = Run(name, repo=tracker.url, experiment=f"group {number % 2}", capture_terminal_logs=False)
    run.name = f"name of {name}"
    run["hparams"] = {"lr": 0.1 * (number + 1), "layers": [64, 32], "opt": {"name": "adam"}}
    run.add_tag("kept")
    for step in range(30):
        run.track(step / (number + 1), name="loss", step=step, context={"subset": "train"})
    run.track(Image(PNG, caption=f"image of {name}"), name="images", step=4)
    run.track(Audio(b"RIFF----WAVE", format_="wav", caption="beep"), name="sounds", step=5)
    run.track(Text(f"text of {name}"), name="texts", step=6)
    run.track(Distribution.from_histogram([1, 2, 1], (0.0, 3.0)), name="weights", step=7)
    run.track(Figure({"data": [{"y": [number]}], "layout": {}}), name="figure", step=8)
    artifact = folder / f"{name}.bin"
    artifact.write_bytes(name.encode() * 1000)
    run.log_artifact(str(artifact), name="model/weights ü.bin")
    run.close()


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    folder = tmp_path_factory.mktemp("sdk")
    with running(folder / "data") as tracker:
        for number, name in enumerate(RUNS):
            log(tracker, name, number, folder)
        yield tracker


@pytest.fixture
def repo(tracker: Tracker) -> Iterator[Repo]:
    repo = Repo(tracker.url)
    yield repo
    repo.close()


def items(tree: Any) -> list[Any]:
    """A list, as the SDK gives it: a dict by places."""
    return [tree[place] for place in range(len(tree))]


def doubles(of: dict[str, Any]) -> list[float]:
    return array("d", of["blob"]).tolist()


def test_runs_are_found(repo: Repo) -> None:
    found = repo.query_runs()
    assert [run["hash"] for run in found] == [*reversed(RUNS)]
    first = found[-1]
    assert first["params"]["hparams"]["lr"] == 0.1
    assert items(first["params"]["hparams"]["layers"]) == [64, 32]
    assert first["params"]["hparams"]["opt"] == {"name": "adam"}
    props = first["props"]
    assert (props["name"], props["active"], props["archived"]) == ("name of run-a", False, False)
    assert props["experiment"]["name"] == "group 0"
    assert [tag["name"] for tag in items(props["tags"])] == ["kept"]
    assert props["end_time"] > props["creation_time"]
    (loss,) = items(first["traces"]["metric"])
    assert (loss["name"], loss["context"]) == ("loss", {"subset": "train"})
    values = loss["values"]
    assert (values["last"], values["last_step"]) == (29.0, 29)
    assert (values["first"], values["min"], values["max"]) == (0.0, 0.0, 29.0)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("run.hparams.lr > 0.15", {"run-b", "run-c"}),
        ('run.experiment == "group 1"', {"run-b"}),
        ('"kept" in run.tags and run.metrics["loss"].last < 20', {"run-b", "run-c"}),
        ("run.active == True", set()),
    ],
)
def test_a_query_narrows(repo: Repo, query: str, found: set[str]) -> None:
    assert {run["hash"] for run in repo.query_runs(query)} == found
    assert {
        run["hash"] for page in repo.query_runs(query, paginated=True, limit=1) for run in page
    } == found


def test_runs_come_in_pages(repo: Repo) -> None:
    pages = [[run["hash"] for run in page] for page in repo.query_runs(paginated=True, limit=2)]
    assert pages == [["run-c", "run-b"], ["run-a"]]
    assert [run["hash"] for run in repo.query_runs(offset="run-c")] == ["run-b", "run-a"]


def test_all_runs_are_listed(repo: Repo) -> None:
    assert repo.list_all_runs() == [*reversed(RUNS)]
    assert [run.hash for run in repo.iter_runs()] == [*reversed(RUNS)]
    assert repo.total_runs_count() == 3
    assert repo.list_active_runs() == []
    assert repo.collect_params_info()["run-b"]["hparams"]["lr"] == 0.2
    assert repo.collect_sequence_info()["run-b"]["metric"] == [
        {"name": "loss", "context": {"subset": "train"}, "last_value": 14.5}
    ]


def test_metrics_are_found_with_their_points(repo: Repo) -> None:
    found = repo.query_metrics('metric.name == "loss" and run.hparams.lr < 0.25')
    assert [run["hash"] for run in found] == ["run-b", "run-a"]
    (loss,) = items(found[0]["traces"])
    assert doubles(loss["values"]) == [step / 2 for step in range(30)]
    assert doubles(loss["iters"]) == [*map(float, range(30))]
    assert len(doubles(loss["timestamps"])) == 30


@pytest.mark.parametrize(
    ("search", "subject", "name", "step", "value"),
    [
        ("query_images", "images", "images", 4, {"caption": "image of run-b", "format": "PNG"}),
        ("query_audios", "audios", "sounds", 5, {"caption": "beep", "format": "wav"}),
        ("query_texts", "texts", "texts", 6, {"data": "text of run-b"}),
        ("query_distributions", "distributions", "weights", 7, {"bin_count": 3}),
        ("query_figure_objects", "figures", "figure", 8, {}),
    ],
)
def test_objects_are_found(
    repo: Repo, search: str, subject: str, name: str, step: int, value: dict[str, Any]
) -> None:
    query = f'{subject}.name == "{name}" and run.hash == "run-b"'
    (run,) = getattr(repo, search)(query)
    (trace,) = items(run["traces"])
    assert (run["hash"], trace["name"], items(trace["iters"])) == ("run-b", name, [step])
    (shown,) = items(trace["values"])
    one = shown.get(0, shown)
    assert {name: one[name] for name in value} == value
    if subject == "figures":
        assert json.loads(one["data"])["data"] == [{"y": [1]}]
    if subject == "distributions":
        assert items(one["data"]) == [1.0, 2.0, 1.0]
        assert items(one["range"]) == [0.0, 3.0]
    assert getattr(repo, search)(f'{subject}.name == "other"') == []


def test_one_run_is_read(repo: Repo, tracker: Tracker) -> None:
    for run in repo.get_run("run-c"), Run(run_hash="run-c", repo=tracker.url, read_only=True):
        assert run is not None
        assert run.metrics() == [
            {"name": "loss", "context": {"subset": "train"}, "last_value": pytest.approx(29 / 3)}
        ]
        assert run.get_metric("loss", {"subset": "train"}) == run.metrics()[0]
        assert run.get_metric("loss", {"subset": "val"}) is None
        assert run["hparams"] == {
            "lr": pytest.approx(0.3),
            "layers": [64, 32],
            "opt": {"name": "adam"},
        }
        assert run.get("nothing", 5) == 5
        assert run.tags == ["kept"]
        assert [*run.collect_sequence_info("texts")["texts"]] == [
            {"name": "texts", "context": {}, "last_value": None}
        ]
    assert repo.get_run("nothing") is None
    assert not repo.run_exists("nothing")
    assert repo.run_exists("run-c")


def test_artifacts_are_downloaded(repo: Repo, tmp_path: Path) -> None:
    run = repo.get_run("run-a")
    assert run is not None
    assert [artifact["path"] for artifact in run.artifacts] == ["model/weights ü.bin"]
    assert run.get_artifact("model/weights ü.bin") == b"run-a" * 1000
    (file,) = run.download_artifacts(tmp_path)
    assert file == tmp_path / "model/weights ü.bin"
    assert file.read_bytes() == b"run-a" * 1000
    run.download_artifact("model/weights ü.bin", tmp_path / "one.bin")
    assert (tmp_path / "one.bin").read_bytes() == b"run-a" * 1000


def test_runs_and_experiments_are_deleted(tmp_path: Path) -> None:
    with running(tmp_path / "data") as tracker:
        begin = {"type": "create_run", "client_datetime": "2026-01-02T03:04:05"}
        for name in "abcd":
            send(tracker, name, begin, {"type": "set_run_property", "experiment": "one"})
        repo = Repo(tracker.url)
        assert repo.delete_run("a")
        assert repo.list_all_runs() == ["d", "c", "b"]
        assert repo.delete_runs(["b", "c"]) == (True, [])
        assert repo.delete_runs(["b", "nothing"]) == (False, ["b", "nothing"])
        (run,) = repo.query_runs('run.experiment == "one"')
        assert repo.delete_experiment(run["props"]["experiment"]["id"])
        wait_for(lambda: repo.query_runs('run.experiment == "one"') == [])
        assert repo.list_all_runs() == ["d"]
        repo.close()
