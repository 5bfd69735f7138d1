"""What `bench.api_peers` asks other trackers for, and the table that it prints."""

from __future__ import annotations

from bench import api_data, api_peers

RUNS = 400
IDS = {
    "runs": {run: f"its-{run}" for run, _, _ in api_data.shared(RUNS, 1)},
    "experiments": {
        name: str(number)
        for number, name in enumerate(
            [api_data.LONG, *map(api_data.experiment_of, range(api_data.EXPERIMENTS))]
        )
    },
}


def test_mlflow_is_asked_everything_that_its_api_has() -> None:
    asked = {
        name: api_peers.asked_of_mlflow(name, ours, IDS)
        for name, ours in api_peers.asked_of_ours().items()
    }
    assert [name for name, requests in asked.items() if not requests] == ["a param is less"]
    named = [one.params["run_ids"] for one in asked["an experiment's points"]]
    assert len(named) == api_data.METRICS
    assert {len(runs) for runs in named} == {RUNS // api_data.EXPERIMENTS}


def test_aim_is_asked_the_same_with_its_own_ids() -> None:
    ours = api_peers.asked_of_ours()
    (info,) = api_peers.asked_of_aim("info", ours["info"], IDS)
    assert info.path == f"/runs/its-{api_data.name_of(0)}/info/"
    name = f"10 metrics × {api_peers.LONG_POINTS:,} points"
    (points,) = api_peers.asked_of_aim(name, ours[name], IDS)
    assert points.params == {"q": 'run.hash == "its-long"', "p": api_peers.LONG_POINTS}


def test_what_cannot_be_asked_for_has_dashes() -> None:
    rows = [
        {"question": "a", "requests": 0, "ours": {"end": 2.0, "kB": 1.0}, "theirs": None},
        {
            "question": "b",
            "requests": 1,
            "ours": {"end": 2.0, "kB": 1.0},
            "theirs": {"end": 5.0, "kB": 3.0},
        },
    ]
    cells = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in api_peers.report("aim", rows).splitlines()[2:]
    ]
    assert cells == [["a", "2", "–", "–", "1", "–", "–"], ["b", "2", "5", "2.5", "1", "3", "1"]]
