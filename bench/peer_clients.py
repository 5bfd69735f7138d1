"""One client process of one tracker: writes points with that tracker's own library, or reads a metric back.

Runs in the environment of the tracker, so it imports nothing of this project and each library only in its own class.
`peers.py` starts these processes, gives the word to begin on stdin, and takes the times from their one line of JSON.

The points are the same for all: step s of metric k has the value `value(s, k)`. Time counts from the first call of
the library's log function to when its server has acknowledged the last point; connecting and creating the run is not counted.
"""

from __future__ import annotations

import json
import math
import os
import statistics
import sys
import time
from typing import Any

CONTEXT = {"subset": "train"}


def value(step: int, metric: int) -> float:
    return 2.3 * math.exp(-step / 9000) + 0.05 + 0.01 * math.sin(step / 50 + metric)


def name(metric: int) -> str:
    return f"metric_{metric:03d}"


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
