"""Runs in an environment of mlflow: a SQLite store or a store of files, and what was logged.

python -m writers.write_mlflow FOLDER [files]
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path

FOLDER = Path(sys.argv[1])
FILES = len(sys.argv) > 2
os.environ.update(
    MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ALLOW_FILE_STORE="true", GIT_PYTHON_REFRESH="quiet"
)
os.chdir(FOLDER)

import mlflow  # noqa: E402 - it reads the environment
from mlflow.entities import Metric  # noqa: E402 - behind it
from writers.truth import Run, tell  # noqa: E402 - behind it


def main() -> None:
    where = (FOLDER / "mlruns").as_uri() if FILES else f"sqlite:///{FOLDER}/mlflow.db"
    mlflow.set_tracking_uri(where)
    mlflow.set_experiment("exp é 1")
    params = {"lr": 0.1, "layers": 3, "name": "é", "flag": True, "text": "007", "nothing": "None"}
    first = Run(
        "r1",
        experiment="exp é 1",
        description="what it is",
        tags=["plain"],
        params=params,
        attributes={"mlflow_tags": {"plain": "", "team": "x é"}},
    )
    with mlflow.start_run(run_name="r1", description="what it is") as run:
        mlflow.set_tags({"team": "x é", "plain": ""})
        mlflow.log_params(params)
        id = run.info.run_id
        client = mlflow.MlflowClient()
        for begin in range(0, 2000, 1000):
            points = [
                Metric("train/loss", 1 / (step + 1), 1_700_000_000_000 + step, step)
                for step in range(begin, begin + 1000)
            ]
            client.log_batch(id, metrics=points)
        for step in range(2000):
            first.point("train/loss", step, 1 / (step + 1), time=1_700_000_000 + step / 1000)
        for number in range(5):
            client.log_metric(id, "no steps", number * 1.5, timestamp=1_700_000_000_000 + number)
            first.point("no steps", number, number * 1.5, time=1_700_000_000 + number / 1000)
        for step, value in ((1, math.nan), (2, math.inf), (-3, -math.inf), (2**40, 1e-300)):
            if FILES and math.isinf(value):
                continue
            client.log_metric(id, "odd", value, step=step)
            first.point("odd", step, value)
        for value in (1.0, 2.0):
            client.log_metric(id, "again", value, timestamp=1_700_000_000_000 + int(value), step=7)
        first.point("again", 7, 2.0)
        client.log_metric(id, "system/cpu", 50.0, step=0)
        first.point("__system__cpu", 0, 50.0)
        mlflow.log_text("hello é", "notes/a b.txt")
        first.artifact("notes/a b.txt", "hello é".encode())
        mlflow.log_dict({"a": 1}, "c.json")
        (made,) = FOLDER.rglob("c.json")
        first.artifact("c.json", made.read_bytes())
        with mlflow.start_run(run_name="child", nested=True):
            mlflow.log_metric("x", 1.0, step=3)
    child = Run("child", experiment="exp é 1")
    child.point("x", 3, 1.0)
    with mlflow.start_run(run_name="failed") as run:
        pass
    failed = Run("failed", experiment="exp é 1")
    client.set_terminated(run.info.run_id, "FAILED")
    open_ = client.create_run(
        client.get_experiment_by_name("exp é 1").experiment_id, run_name="open"
    )
    client.log_metric(open_.info.run_id, "x", 2.0, step=1)
    running = Run("open", experiment="exp é 1", active=True)
    running.point("x", 1, 2.0)
    gone = client.create_run("0", run_name="deleted")
    client.delete_run(gone.info.run_id)
    deleted = Run("deleted", experiment="Default", archived=True, active=True)
    tell(
        [first, child, failed, running, deleted],
        left_out={"point at a step where a later one stands": 1},
        changed={"metric without steps, numbered in the order of time": 1},
    )


main()
