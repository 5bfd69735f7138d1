"""What two servers of the read API are asked, route by route. Nothing here changes what is stored.

The questions that depend on what there is (ids, sequences, artifacts) follow one server's answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, Final

from tests.api.comparison import KINDS, Question, Server

ALL_POINTS: Final = 100_000
PLAIN: Final = {"exclude_params": "true", "exclude_traces": "true", "report_progress": "false"}


def questions(server: Server, runs: Sequence[str], queries: Sequence[str]) -> Iterator[Question]:
    """All of them.

    Args:
        runs: those that are looked at one by one.
        queries: for search/run, besides those that follow from what there is.
    """
    yield from _of_the_project(server)
    yield from _of_searches(server, runs, queries)
    for run in runs:
        yield from _of_a_run(server, run)
    yield from _of_nothing()


def _of_the_project(server: Server) -> Iterator[Question]:
    every_kind = ["metric", *KINDS]
    for path in ("projects", "projects/status", "projects/activity", "projects/pinned-sequences"):
        yield Question(path)
    yield Question("projects/params", {"sequence": every_kind})
    yield Question("projects/params", {"sequence": every_kind, "exclude_params": "true"})
    yield Question("projects/params", {"sequence": ["metric"]})
    yield Question("version")
    for entity in ("experiments", "tags"):
        yield Question(entity)
        yield Question(f"{entity}/search", {"q": "e"})
        yield Question(f"{entity}/no-such-id")
        for one in server.ask(Question(entity)).content:
            yield Question(f"{entity}/{one['id']}")
            yield Question(f"{entity}/{one['id']}/runs")
            if entity == "experiments":
                yield Question(f"{entity}/{one['id']}/activity")
                yield Question(f"{entity}/{one['id']}/note")
    for entity in ("dashboards", "apps", "reports"):
        yield Question(entity)


def _of_searches(server: Server, runs: Sequence[str], queries: Sequence[str]) -> Iterator[Question]:
    def search(
        path: str, *, sampled: bool = False, ordered: bool = False, **params: Any
    ) -> Question:
        return Question(
            f"runs/search/{path}", params, decode="stream", ordered=ordered, sampled=sampled
        )

    these = f"run.hash in {json.dumps([*runs])}"
    named = [
        f"run.experiment == {one['name']!r}" for one in server.ask(Question("experiments")).content
    ]
    named += [f"{one['name']!r} in run.tags" for one in server.ask(Question("tags")).content]
    for query in ("", "()", these, *named, *queries):
        yield search("run", q=query, ordered=True)
    yield search("run", ordered=True, limit=2, **PLAIN)
    yield search("run", ordered=True, sort='[{"field":"run","order":"asc"}]', **PLAIN)
    yield search("run", ordered=True, skip_system="false", **{**PLAIN, "exclude_params": "false"})
    order = [*server.ask(search("run", **PLAIN)).content]
    assert len(order) > 2
    yield search("run", ordered=True, limit=2, offset=order[1], **PLAIN)
    yield search("run", q="run.hparams.lr >")
    yield search("run", q="", sort='[{"field":"none"}]')
    yield Question("runs/active", decode="stream")
    yield search("metric", q=these, p=ALL_POINTS)
    yield search("metric", q=these, p=50, sampled=True)
    yield search(
        "metric", q="metric.name == 'loss' and metric.context.subset == 'val'", p=ALL_POINTS
    )
    for kind in KINDS:
        yield search(kind, q="", record_density=ALL_POINTS)
        yield search(kind, q=these, record_range="1:3")


def _of_a_run(server: Server, run: str) -> Iterator[Question]:
    info = Question(f"runs/{run}/info")
    yield info
    yield Question(f"runs/{run}/info", {"skip_system": "true"})
    yield Question(f"runs/{run}/info", {"sequence": ["metric", "images"]})
    content = server.ask(info).content
    traces = content["traces"]

    def wanted(one: Any) -> dict[str, Any]:
        return {"name": one["name"], "context": one["context"]}

    metrics = [wanted(one) for one in traces["metric"]]
    batch = f"runs/{run}/metric/get-batch"
    yield Question(batch, {"record_density": ALL_POINTS}, metrics)
    yield Question(batch, body=metrics, sampled=True)
    yield Question(batch, {"record_range": "10:20"}, metrics)
    yield Question(batch, body=[{"name": "no such name", "context": {}}])
    names = sorted({one["name"] for one in metrics})
    for name in names:
        clause = f"run.hash == {json.dumps(run)} and metric.name == {json.dumps(name)}"
        params = {"q": clause, "p": ALL_POINTS, "x_axis": "acc"}
        yield Question("runs/search/metric", params, decode="stream")
    sliced = [{**one, "slice": [0, ALL_POINTS, ALL_POINTS]} for one in metrics]
    for name in ("acc", "loss"):
        align = {"align_by": name, "runs": [{"run_id": run, "traces": sliced}]}
        yield Question("runs/search/metric/align", body=align, decode="stream")
    for kind in KINDS:
        path = f"runs/{run}/{kind}"
        for one in traces[kind]:
            for question, params in (
                ("get-batch", {"record_density": ALL_POINTS}),
                ("get-batch", {"record_range": "1:"}),
                ("get-step", {"record_density": 1}),
                ("get-step", {"record_step": 0}),
            ):
                # One alone: the members of several would stand in one object.
                yield Question(f"{path}/{question}", params, [wanted(one)], decode="stream")
    for name in ("logs", "log-records"):
        for params in ({}, {"record_range": "2:"}, {"record_range": "1:3"}):
            yield Question(f"runs/{run}/{name}", params, decode="stream")
    for artifact in content["artifacts"]:
        path = {"path": artifact["path"]}
        yield Question(f"runs/{run}/artifacts/download", path, decode="bytes")
    yield Question(f"runs/{run}/artifacts/download-all", decode="zip")
    yield Question(f"runs/{run}/artifacts/download", {"path": "no such path"}, decode="bytes")
    yield Question(f"runs/{run}/note")


def _of_nothing() -> Iterator[Question]:
    wanted = [{"name": "loss", "context": {}}]
    yield Question("runs/no-such-run/info")
    yield Question("runs/no-such-run/metric/get-batch", body=wanted)
    yield Question("runs/no-such-run/images/get-batch", body=wanted, decode="stream")
    yield Question("runs/no-such-run/logs", decode="stream")
    yield Question("runs/images/get-batch", body=["no such uri"], decode="stream")
