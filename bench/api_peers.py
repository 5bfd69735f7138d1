"""The read API beside the servers of MLflow and Aim, each asked in its own words about the same runs: `bench.api --peers`.

The runs are one list of messages (`api_data.shared`); ours stores them by the project's own rules, and each of the others is filled with
them by its own library, straight into its files, before its server starts. What an answer holds differs, see `BIAS`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import api_data, peers
from bench.api_ask import Peer, Question
from bench.ingest import tracker
from bench.machine import Server, environment, free_port, medians, number, say, table
from matyan.store.base import Layout

LONG_POINTS = 1_000
"""Of each metric of the one long run."""
PAGE = 45
LOW, HIGH = 0.01, 4.99
BATCH = 8
EXPERIMENT = "experiment 3"
SAMPLED = 500


@dataclass(frozen=True)
class Pair:
    """The same asked of ours and, in as many requests as it takes, of the other; none: it cannot be asked for."""

    ours: Question
    theirs: Sequence[Question]


Ids = dict[str, dict[str, str]]
"""What the other's library has called each run and each experiment: {"runs": {ours: its}, "experiments": {name: its}}."""


def asked_of_ours() -> dict[str, Question]:
    def runs(q: str = "", **params: Any) -> Question:
        return Question("", "/runs/search/run", params={"q": q, **params})

    def points(q: str, most: int) -> Question:
        return Question("", "/runs/search/metric", params={"q": q, "p": most})

    last = f'run.metrics["metric_3", {json.dumps(api_data.CONTEXT)}].last > {HIGH}'
    experiment = f"run.experiment == {EXPERIMENT!r}"
    return {
        f"page of {PAGE}": runs(limit=PAGE),
        "a param is": runs(f"run.hparams.batch == {BATCH}"),
        "a param is less": runs(f"run.hparams.lr < {LOW}"),
        "by last value": runs(last),
        "whole experiment": runs(experiment),
        "all": runs(),
        "info": Question("", f"/runs/{api_data.name_of(0)}/info"),
        f"10 metrics × {LONG_POINTS:,} points": points(
            f'run.hash == "{api_data.LONG}"', LONG_POINTS
        ),
        "an experiment's points": points(experiment, SAMPLED),
    }


def asked_of_aim(name: str, ours: Question, ids: Ids) -> list[Question]:
    """The same paths, which end with a slash; the same queries; its own ids."""
    path, params = ours.path, dict(ours.params)
    for own, its in ids["runs"].items():
        path = path.replace(f"/{own}/", f"/{its}/")
        if "q" in params:
            params["q"] = params["q"].replace(f'"{own}"', f'"{its}"')
    return [Question(name, path + "/", params=params)]


def asked_of_mlflow(name: str, ours: Question, ids: Ids) -> list[Question]:
    experiments = list(ids["experiments"].values())

    def runs(limit: int = 50_000, filter: str = "", among: list[str] = experiments) -> Question:
        body = {"experiment_ids": among, "max_results": limit, "filter": filter}
        return Question(name, "/api/2.0/mlflow/runs/search", body=body)

    run = ids["runs"][api_data.name_of(0)]
    long = ids["runs"][api_data.LONG]
    among = [ids["experiments"][EXPERIMENT]]
    some = [
        ids["runs"][api_data.name_of(i)]
        for i in range(len(ids["runs"]) - 1)
        if api_data.experiment_of(i) == EXPERIMENT
    ]
    metrics = [f"metric_{i}" for i in range(api_data.METRICS)]
    history = "/api/2.0/mlflow/metrics/get-history"
    # A request may name so many runs.
    hundreds = [some[first : first + 100] for first in range(0, len(some), 100)]
    return {
        f"page of {PAGE}": [runs(PAGE)],
        "a param is": [runs(filter=f"params.batch = '{BATCH}'")],
        "by last value": [runs(filter=f"metrics.metric_3 > {HIGH}")],
        "whole experiment": [runs(among=among)],
        "all": [runs()],
        "info": [Question(name, "/api/2.0/mlflow/runs/get", params={"run_id": run})],
        f"10 metrics × {LONG_POINTS:,} points": [
            Question(name, history, params={"run_id": long, "metric_key": one}) for one in metrics
        ],
        "an experiment's points": [
            Question(
                name,
                "/ajax-api/2.0/mlflow/metrics/get-history-bulk-interval",
                params={"run_ids": hundred, "metric_key": one, "max_results": SAMPLED},
            )
            for one in metrics
            for hundred in hundreds
        ],
    }.get(name, [])


@dataclass(frozen=True)
class Other:
    start: Callable[[Path, Path, int], peers.Start]
    base: str
    asked: Callable[[str, Question, Ids], list[Question]]
    bias: str


OTHERS = {
    "mlflow": Other(
        peers.start_mlflow,
        "",
        asked_of_mlflow,
        "MLflow: SQLite, JSON in one piece, where ours streams. Params are texts, which cannot be compared "
        "with <; metrics have no context. Search is one request (a page may hold 50,000 runs). A run's points take a request for each metric, "
        "each on a connection of its own, as all requests here.",
    ),
    "aim": Other(
        peers.start_aim_up,
        "/api",
        asked_of_aim,
        "Aim: `aim up` on its own files, which are local to it, with nobody writing; the same API in its older form, so the same queries and the same stream. "
        "Its answer holds some more of each metric (first step, dtype, version), its ids and times of creation are its own.",
    ),
}
BIAS = (
    "The runs and points are the same; ms to the last byte, medians, ours and the other in turn after a round that is not counted. The client decodes nothing. "
    "One worker process each, so that it is the one that was warmed which is asked."
)


def compare(
    names: Sequence[str],
    layout: Layout,
    runs: int,
    rounds: int,
    place: Path,
    envs: Path,
) -> dict[str, Any]:
    """Prints a table for each; the figures by name."""
    own = place / f"shared-{layout}-{runs}"
    if not own.exists():
        api_data.fill_shared(own, layout, runs, LONG_POINTS)
    found = {}
    for name in names:
        other = OTHERS[name]
        bin = peers.prepared(peers.TRACKERS[name], envs)
        folder = place / f"{name}-{runs}"
        ids = filled(name, bin, folder, runs)
        port = free_port()
        start = other.start(bin, folder, port)
        env = environment(**start.env)
        with (
            Server(
                [*start.command, "--workers", "1"], ready=start.ready, env=env, folder=folder
            ) as server,
            tracker(own, layout) as (_, own_port),
        ):
            server.quiet()
            ours = Peer("ours", f"http://127.0.0.1:{own_port}")
            peer = Peer(name, f"http://127.0.0.1:{port}", other.base)
            pairs = {
                question: Pair(asked, other.asked(question, asked, ids))
                for question, asked in asked_of_ours().items()
            }
            rows = measure(ours, peer, pairs, rounds)
        version = ", ".join(peers.versions({name: bin}))
        print(f"{version}, {runs:,} runs and one of 10 × {LONG_POINTS:,} points; {layout}.")
        print(f"{BIAS} {other.bias}\n\n{report(name, rows)}\n")
        found[version] = rows
    return found


def filled(name: str, bin: Path, folder: Path, runs: int) -> Ids:
    """Made when it is not there."""
    known = folder.with_name(folder.name + ".json")
    if not known.exists():
        folder.mkdir()
        lines = folder.with_name(folder.name + ".jsonl")
        with lines.open("w") as file:
            file.writelines(
                json.dumps([run, messages]) + "\n"
                for run, messages, _ in api_data.shared(runs, LONG_POINTS)
            )
        begun = time.perf_counter()
        client = peers.Client(peers.TRACKERS[name], bin, "fill", "", str(lines), folder, 0, 0, 0)
        known.write_text(json.dumps(client.result()))
        say(f"{name}: {runs:,} runs in {time.perf_counter() - begun:.0f} s")
    ids: Ids = json.loads(known.read_text())
    return ids


def measure(ours: Peer, peer: Peer, pairs: dict[str, Pair], rounds: int) -> list[dict[str, Any]]:
    """A row a question."""
    rows = []
    for name, pair in pairs.items():
        own, others = [], []
        for round in range(rounds + 1):
            answers = asked(ours, [pair.ours]), asked(peer, pair.theirs)
            if round:
                own.append(answers[0])
                others.append(answers[1])
        row = {"question": name, "requests": len(pair.theirs), "ours": medians(own)}
        row["theirs"] = medians(others) if pair.theirs else None
        rows.append(row)
        say(str(row))
    return rows


def asked(peer: Peer, questions: Sequence[Question]) -> dict[str, float]:
    """One answer, of as many requests as there are, one after the other."""
    answers = [peer.ask(question) for question in questions]
    return {
        "end": sum(end for _, end, _ in answers) * 1e3,
        "kB": sum(size for _, _, size in answers) / 1e3,
    }


def report(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Where it cannot be asked for there is a dash."""
    lines = []
    for row in rows:
        ours, theirs = row["ours"], row["theirs"] or {}
        ratio = theirs["end"] / ours["end"] if theirs else None
        figures = (ours["end"], theirs.get("end"), ratio, ours["kB"], theirs.get("kB"))
        lines.append([row["question"], *map(number, figures), row["requests"] or "–"])
    columns = ["", "ours, ms", f"{name}, ms", "by ours", "ours, kB", f"{name}, kB", "its requests"]
    return table(columns, lines)
