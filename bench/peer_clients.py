"""One client process of one tracker: writes points with that tracker's own library, reads a metric back, or fills its files with runs.

Runs in the environment of the tracker, so it imports nothing of this project and each library only in its own class.
`peers.py` starts these processes, gives the word to begin on stdin, and takes the times from their one line of JSON.

The points are the same for all: step s of metric k has the value `value(s, k)`. Time counts from the first call of
the library's log function to when its server has acknowledged the last point; connecting and creating the run is not counted.

Filling takes a file of lines [run id, the run's messages] and tells what the library has called the runs and experiments; no server runs then.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from datetime import datetime
from typing import Any

CONTEXT = {"subset": "train"}
Messages = list[dict[str, Any]]


def value(step: int, metric: int) -> float:
    return 2.3 * math.exp(-step / 9000) + 0.05 + 0.01 * math.sin(step / 50 + metric)


def name(metric: int) -> str:
    return f"metric_{metric:03d}"


def only(messages: Messages, kind: str) -> Messages:
    return [message for message in messages if message["type"] == kind]


def seconds(message: dict[str, Any]) -> float:
    return datetime.fromisoformat(message["client_datetime"]).timestamp()


class Matyan:
    """The unmodified SDK, matyan-client."""

    def connect(self, url: str, run: str, folder: str) -> None:
        from matyan_client import Run

        self.run = Run(run_hash=run, repo=url, capture_terminal_logs=False)
        self.transport = self.run._ws
        self.wait(1)  # the create_run

    def wait(self, sent: int) -> None:
        """close() would give up after 8 s with the rest unsent: wait for the acknowledgements first."""
        while self.transport._sent_count < sent:
            if not self.transport._thread.is_alive():
                raise RuntimeError("the SDK's sender has ended")
            time.sleep(0.001)

    def write(self, steps: int, metrics: int, batch: int) -> None:
        track = self.run.track
        for step in range(steps):
            for metric in range(metrics):
                track(value(step, metric), name=name(metric), step=step, context=CONTEXT)
        self.wait(1 + steps * metrics)

    def finish(self) -> None:
        self.run.close()

    def read(self, url: str, run: str, folder: str, metric: str) -> int:
        from matyan import reader

        with reader.open(folder) as opened:
            started = time.perf_counter()
            count = len(opened.metric(run, metric, CONTEXT))
            self.seconds = time.perf_counter() - started
        return count


class Trackio:
    """batch: metrics a call of log()."""

    def connect(self, url: str, run: str, folder: str) -> None:
        import trackio

        os.environ["TRACKIO_DIR"] = folder + "-client"
        self.run = trackio.init(project="bench", name=run, server_url=url, embed=False)
        while self.run._client is None:  # its connection is made in the background
            time.sleep(0.01)

    def write(self, steps: int, metrics: int, batch: int) -> None:
        log = self.run.log
        for step in range(steps):
            for first in range(0, metrics, batch):
                log({name(k): value(step, k) for k in range(first, first + batch)}, step=step)
        self.finish()

    def finish(self) -> None:
        """Flushes; returns when the server has answered."""
        self.run.finish()
        if self.run._has_local_buffer:
            raise RuntimeError("points were left in the client's local buffer")

    def read(self, url: str, run: str, folder: str, metric: str) -> int:
        os.environ["TRACKIO_DIR"] = folder
        from trackio.sqlite_storage import SQLiteStorage

        return len(SQLiteStorage.get_metric_values("bench", run, metric))


class MLflow:
    """batch: points a call of log_batch()."""

    def connect(self, url: str, run: str, folder: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric

        self.metric = Metric
        self.client = MlflowClient(tracking_uri=url)
        experiment = self.client.get_experiment_by_name("bench")
        number = experiment.experiment_id if experiment else self.client.create_experiment("bench")
        self.id = self.client.create_run(number, run_name=run).info.run_id

    def write(self, steps: int, metrics: int, batch: int) -> None:
        held = []
        for step in range(steps):
            now = int(time.time() * 1000)
            for metric in range(metrics):
                held.append(self.metric(name(metric), value(step, metric), now, step))
                if len(held) == batch:
                    self.client.log_batch(self.id, metrics=held)
                    held = []
        if held:
            self.client.log_batch(self.id, metrics=held)

    def finish(self) -> None:
        self.client.set_terminated(self.id)

    def read(self, url: str, run: str, folder: str, metric: str) -> int:
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=url)
        number = client.get_experiment_by_name("bench").experiment_id
        found = client.search_runs([number], f"attributes.run_name = '{run}'")[0]
        started = time.perf_counter()
        points = client.get_metric_history(found.info.run_id, metric)
        self.seconds = time.perf_counter() - started
        return len(points)

    def open(self, folder: str) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self.metric, self.param = Metric, Param
        self.client = MlflowClient(tracking_uri=f"sqlite:///{folder}/mlflow.db")
        self.folder = folder
        self.experiments: dict[str, str] = {}

    def add(self, run: str, messages: Messages) -> str:
        """In batches of a thousand points, the most that it takes."""
        (properties,) = only(messages, "set_run_property")
        experiment = properties["experiment"]
        if experiment not in self.experiments:
            self.experiments[experiment] = self.client.create_experiment(
                experiment, artifact_location=f"{self.folder}/artifacts"
            )
        begun, over = (
            int(seconds(only(messages, kind)[0]) * 1000) for kind in ("create_run", "finish_run")
        )
        id: str = self.client.create_run(
            self.experiments[experiment],
            start_time=begun,
            run_name=properties["name"],
            tags={message["tag_name"]: "" for message in only(messages, "add_tag")},
        ).info.run_id
        points = [
            self.metric(m["name"], m["value"], int(seconds(m) * 1000), m["step"])
            for m in only(messages, "log_metric")
        ]
        (hparams,) = only(messages, "log_hparams")
        params = [self.param(key, str(one)) for key, one in hparams["value"]["hparams"].items()]
        for first in range(0, len(points), 1000):
            self.client.log_batch(id, points[first : first + 1000], [] if first else params)
        self.client.set_terminated(id, end_time=over)
        return id


class Aim:
    def connect(self, url: str, run: str, folder: str) -> None:
        import aim

        self.run = aim.Run(
            repo=url, system_tracking_interval=None, capture_terminal_logs=False, experiment=run
        )
        if url.startswith("aim://"):
            self.run.repo._client.get_queue().wait_for_finish()

    def write(self, steps: int, metrics: int, batch: int) -> None:
        track = self.run.track
        for step in range(steps):
            for metric in range(metrics):
                track(value(step, metric), name=name(metric), step=step, context=CONTEXT)
        if self.run.repo.is_remote_repo:
            self.run.repo._client.get_queue().wait_for_finish()

    def finish(self) -> None:
        self.run.close()

    def read(self, url: str, run: str, folder: str, metric: str) -> int:
        import aim
        from aim.storage.context import Context

        repo = aim.Repo(folder)
        # Opened for writing: a run that no `aim up` has indexed yet reads as empty otherwise.
        found = aim.Run(repo.list_all_runs()[0], repo=repo, system_tracking_interval=None)
        started = time.perf_counter()
        points = found.get_metric(metric, Context(CONTEXT)).values.sparse_numpy()
        self.seconds = time.perf_counter() - started
        return len(points[0])

    def open(self, folder: str) -> None:
        import aim

        self.repo = aim.Repo.from_path(folder, init=True)
        self.experiments: dict[str, str] = {}

    def add(self, run: str, messages: Messages) -> str:
        import aim

        (properties,) = only(messages, "set_run_property")
        made = aim.Run(
            repo=self.repo,
            experiment=properties["experiment"],
            system_tracking_interval=None,
            capture_terminal_logs=False,
        )
        made.name = properties["name"]
        for message in only(messages, "log_hparams"):
            for key, one in message["value"].items():
                made[key] = one
        for message in only(messages, "add_tag"):
            made.add_tag(message["tag_name"])
        for m in only(messages, "log_metric"):
            made.track(m["value"], name=m["name"], step=m["step"], context=m["context"] or {})
        made.close()
        return str(made.hash)


CLIENTS: dict[str, Any] = {"matyan": Matyan, "trackio": Trackio, "mlflow": MLflow, "aim": Aim}


def main() -> None:
    kind, action, url, run, folder, steps, metrics, batch = sys.argv[1:9]
    # Libraries that print go to stderr: stdout holds the protocol.
    protocol, sys.stdout = sys.stdout, sys.stderr
    client = CLIENTS[kind]()
    if action == "write":
        client.connect(url, run, folder)
        print("ready", file=protocol, flush=True)
        sys.stdin.readline()
        started = time.time()
        client.write(int(steps), int(metrics), int(batch))
        print(
            json.dumps(
                {"started": started, "ended": time.time(), "points": int(steps) * int(metrics)}
            ),
            file=protocol,
            flush=True,
        )
        client.finish()
    elif action == "fill":
        client.open(folder)
        with open(run) as lines:
            runs = {one: client.add(one, messages) for one, messages in map(json.loads, lines)}
        print(json.dumps({"runs": runs, "experiments": client.experiments}), file=protocol)
    else:
        times = []
        for _ in range(5):
            client.seconds = None
            started = time.perf_counter()
            count = client.read(url, run, folder, name(0))
            times.append(client.seconds or time.perf_counter() - started)
        print(json.dumps({"points": count, "seconds": statistics.median(times)}), file=protocol)


if __name__ == "__main__":
    main()
