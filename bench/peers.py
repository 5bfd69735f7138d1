"""This tracker beside those that a user would pick instead: the same points, in turn, in one run on one machine.

Here stand how each server is started, what is written and what is counted. The clients are in `peer_clients.py`, run by
each tracker's own environment, which is made from the package index under build/envs (or given by --envs).

    python -m bench.peers [--rounds 3] [--scale 1] [--only trackio,aim] [--markdown FILE]

What is counted, and the bias that it has:
- points/s: from the first call to the last acknowledgement by the server, and an fsync of its files (ours has done
  that before it acknowledges; for the others it is what "durable" still costs). Every tracker is driven by its own library
  in one process; the rows that say otherwise name the clients. The raw client of ours is `loadgen.py`, in C: it shows the server without the cost of a client in Python.
- A run has 10 metrics; slower trackers get fewer points. Values are a smooth curve, so a store that compresses gains.
- bytes a point: the files' growth from before the load until after the server's orderly stop; ours as it is and after compaction.
- CPU: the server and its children, during the load. Memory: Pss, so that workers that share pages are not charged twice.
- start to ready: a first start on an empty folder, compiled modules in place, until its health page answers. The load
  begins, and memory at rest is read, when the server has come to rest after that.
- read: one metric of 100,000 points in a run of its own, into Python objects, median of five in a warm process, by the fastest way that the
  library offers: trackio and Aim open their files directly, MLflow and ours ask the server.
- Clients and servers share the machine's cores.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import loadgen
from bench.ingest import compact
from bench.machine import (
    Server,
    disk_bytes,
    environment,
    free_port,
    heading,
    medians,
    number,
    say,
    settle,
    table,
    workplace,
)
from dev import environments

HERE = Path(__file__).resolve().parent
METRICS = 10
READ_POINTS = 100_000


@dataclass(frozen=True)
class Start:
    """How one server is started in `folder` on `port`."""

    command: list[str]
    ready: str
    url: str
    env: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Tracker:
    name: str
    packages: tuple[str, ...]
    start: Callable[[Path, Path, int], Start]
    """(its environment's bin folder, data folder, port)"""
    read_batch: int = 1


def start_matyan(bin: Path, folder: Path, port: int) -> Start:
    url = f"http://127.0.0.1:{port}"
    return Start(
        [str(bin / "matyan"), "up", "--data", str(folder), "--port", str(port)],
        f"{url}/health/ready/",
        url,
    )


def start_trackio(bin: Path, folder: Path, port: int) -> Start:
    url = f"http://127.0.0.1:{port}"
    return Start(
        [str(bin / "trackio"), "show"],
        f"{url}/version",
        f"{url}/?write_token=bench",
        {
            "TRACKIO_DIR": str(folder),
            "TRACKIO_WRITE_TOKEN": "bench",
            "GRADIO_SERVER_PORT": str(port),
            "BROWSER": "true",
            "HF_HUB_OFFLINE": "1",
        },
    )


def start_aim(bin: Path, folder: Path, port: int) -> Start:
    return Start(
        [
            *(str(bin / "aim"), "server", "--repo", str(folder), "-y"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        f"http://127.0.0.1:{port}/status/",
        f"aim://127.0.0.1:{port}",
        {"PATH": f"{bin}:/usr/bin:/bin"},
    )


def start_aim_up(bin: Path, folder: Path, port: int) -> Start:
    """Its web app's server, which answers questions; that of `start_aim` takes points."""
    url = f"http://127.0.0.1:{port}"
    return Start(
        [
            *(str(bin / "aim"), "up", "--repo", str(folder), "-y"),
            *("--host", "127.0.0.1", "--port", str(port)),
        ],
        f"{url}/",
        url,
        {"PATH": f"{bin}:/usr/bin:/bin"},
    )


def start_mlflow(bin: Path, folder: Path, port: int) -> Start:
    url = f"http://127.0.0.1:{port}"
    return Start(
        [
            *(
                str(bin / "mlflow"),
                "server",
                "--backend-store-uri",
                f"sqlite:///{folder}/mlflow.db",
            ),
            *("--artifacts-destination", f"{folder}/artifacts", "--port", str(port)),
        ],
        f"{url}/health",
        url,
        {"PATH": f"{bin}:/usr/bin:/bin", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )


TRACKERS = {
    "matyan": Tracker("matyan", (), start_matyan),
    "trackio": Tracker("trackio", ("trackio",), start_trackio),
    "aim": Tracker("aim", ("aim",), start_aim),
    "mlflow": Tracker("mlflow", ("mlflow",), start_mlflow, read_batch=1000),
}


@dataclass(frozen=True)
class Row:
    tracker: str
    label: str
    points: int
    """At --scale 1."""
    batch: int = 1
    clients: int = 1
    load: loadgen.Load | None = None
    """For the raw client."""


ROWS = [
    Row(
        "matyan",
        "matyan, raw client, 32 connections × 100",
        6_400_000,
        load=loadgen.Load(32, 100, metrics=METRICS),
    ),
    Row(
        "matyan",
        "matyan, raw client, 1 connection × 100",
        1_000_000,
        load=loadgen.Load(1, 100, metrics=METRICS),
    ),
    Row("matyan", "matyan, unmodified SDK", 200_000),
    Row("matyan", "matyan, unmodified SDK, 4 processes", 400_000, clients=4),
    Row("trackio", "trackio, 10 metrics a call", 500_000, batch=10),
    Row("trackio", "trackio, 10 a call, 4 processes", 1_000_000, batch=10, clients=4),
    Row("trackio", "trackio, 1 metric a call", 100_000),
    Row("aim", "Aim", 10_000),
    Row("mlflow", "MLflow, log_batch of 100", 30_000, batch=100),
    Row("mlflow", "MLflow, log_batch of 1,000", 100_000, batch=1000),
]


def prepared(tracker: Tracker, envs: Path) -> Path:
    """The bin folder of the tracker's environment, made when it is not there."""
    if not tracker.packages:
        return Path(sys.executable).parent
    return environments.make(tracker.name, tracker.packages, folder=envs)


class Client:
    """A process of peer_clients.py."""

    def __init__(
        self,
        tracker: Tracker,
        bin: Path,
        action: str,
        url: str,
        run: str,
        folder: Path,
        steps: int,
        metrics: int,
        batch: int,
    ) -> None:
        words = [url, run, folder, steps, metrics, batch]
        self.log = folder.with_name(f"{folder.name}-{action}-{Path(run).name}.log")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(bin / "python", HERE / "peer_clients.py", tracker.name, action),
                    *map(str, words),
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env=environment(HF_HUB_OFFLINE="1", MLFLOW_DISABLE_TELEMETRY="true"),
                text=True,
            )

    def line(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            raise RuntimeError("a client failed: " + self.log.read_text()[-1500:])
        return line

    def begin(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        result: dict[str, Any] = json.loads(self.line())
        self.process.wait(60)
        return result


def write(row: Row, scale: float, bin: Path, folder: Path) -> dict[str, float]:
    """One fresh server, one load."""
    tracker = TRACKERS[row.tracker]
    folder.mkdir()
    port = free_port()
    start = tracker.start(bin, folder, port)
    steps = max(1, round(row.points * scale / METRICS / row.clients))
    with Server(
        start.command, ready=start.ready, env=environment(**start.env), folder=folder
    ) as server:
        server.quiet()
        result = {"start_s": server.started_in, "rest_mb": server.memory("Pss") / 1e6}
        before = disk_bytes(folder)
        if row.load:
            frames = max(1, round(row.points * scale / row.load.connections / row.load.messages))
            done = loadgen.run(port, row.load, frames=frames, seconds=600, cpu=server.cpu)
            seconds, points = done["seconds"], done["acknowledged"]
            result["cpu_s_per_million"] = done["cpu_s_per_million"]
        else:
            clients = [
                Client(
                    tracker, bin, "write", start.url, f"run-{i}", folder, steps, METRICS, row.batch
                )
                for i in range(row.clients)
            ]
            for client in clients:
                client.line()
            cpu = server.cpu()
            for client in clients:
                client.begin()
            results = [client.result() for client in clients]
            seconds = max(r["ended"] for r in results) - min(r["started"] for r in results)
            points = sum(r["points"] for r in results)
            result["cpu_s_per_million"] = (server.cpu() - cpu) / points * 1e6
        result["peak_mb"] = server.memory("Pss") / 1e6
        began = time.perf_counter()
        settle(folder)
        seconds += time.perf_counter() - began
        result["points_per_s"] = points / seconds
    result["bytes_per_point"] = (disk_bytes(folder) - before) / points
    if row.tracker == "matyan":
        compact(folder / "rocksdb")
        result["compacted_bytes_per_point"] = (disk_bytes(folder) - before) / points
    return result


def read(tracker: Tracker, scale: float, bin: Path, folder: Path) -> float:
    """Seconds for one metric of READ_POINTS points."""
    folder.mkdir()
    port = free_port()
    start = tracker.start(bin, folder, port)
    steps = max(1000, round(READ_POINTS * scale))
    with Server(
        start.command, ready=start.ready, env=environment(**start.env), folder=folder
    ) as server:
        # Aim's server takes minutes for so many points: they are written into its files directly.
        url = str(folder) if tracker.name == "aim" else start.url
        if tracker.name == "aim":
            server.stop()
        writer = Client(tracker, bin, "write", url, "run-0", folder, steps, 1, tracker.read_batch)
        writer.line()
        writer.begin()
        writer.result()
        reader = Client(tracker, bin, "read", url, "run-0", folder, steps, 1, 1)
        result = reader.result()
    if result["points"] != steps:
        raise RuntimeError(f"{tracker.name}: {steps} points written, {result['points']} read")
    return float(result["seconds"])


COLUMNS: dict[str, Callable[[dict[str, float]], str]] = {
    "points/s": lambda r: number(r["points_per_s"]),
    "bytes a point": lambda r: (
        number(r["bytes_per_point"])
        + (
            f" ({number(r['compacted_bytes_per_point'])} compacted)"
            if "compacted_bytes_per_point" in r
            else ""
        )
    ),
    "server CPU s / million": lambda r: number(r["cpu_s_per_million"]),
    "start to ready, s": lambda r: number(r["start_s"]),
    "memory at rest, MB": lambda r: number(r["rest_mb"]),
    "after the load, MB": lambda r: number(r["peak_mb"]),
    "read 100,000 points, s": lambda r: number(r["read_s"]),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="The same points through this tracker and others.")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many")
    parser.add_argument("--scale", type=float, default=1, help="of the points of every row")
    parser.add_argument("--only", help="comma list of " + ", ".join(TRACKERS))
    parser.add_argument(
        "--envs", type=Path, default=environments.FOLDER, help="where their environments are"
    )
    parser.add_argument("--markdown", type=Path, help="write the table there, too")
    given = parser.parse_args()
    names = given.only.split(",") if given.only else list(TRACKERS)
    bins = {name: prepared(TRACKERS[name], given.envs) for name in names}
    machine = heading("matyan-trio", "matyan-client")
    say(machine)

    rows = [row for row in ROWS if row.tracker in names]
    rounds: dict[str, list[dict[str, float]]] = {row.label: [] for row in rows}
    reads: dict[str, list[float]] = {name: [] for name in names}
    with workplace("peers") as scratch:
        for turn in range(given.rounds):
            for row in rows:
                folder = scratch / f"{turn}-{len(rounds[row.label])}-{row.tracker}"
                result = write(row, given.scale, bins[row.tracker], folder)
                say(f"{row.label}: {result}")
                rounds[row.label].append(result)
                shutil.rmtree(folder)
            for name in names:
                folder = scratch / f"read-{turn}-{name}"
                reads[name].append(read(TRACKERS[name], given.scale, bins[name], folder))
                say(f"{name}: read in {reads[name][-1]:.3f} s")
                shutil.rmtree(folder)
    lines = []
    for row in rows:
        median = medians(rounds[row.label])
        median["read_s"] = statistics.median(reads[row.tracker])
        lines.append([row.label, *(show(median) for show in COLUMNS.values())])
    text = "\n".join(
        [
            f"{machine}; {', '.join(versions(bins))}; medians of {given.rounds}.",
            "",
            table(["", *COLUMNS], lines),
        ]
    )
    print(text)
    if given.markdown:
        given.markdown.write_text(text + "\n")


def versions(bins: dict[str, Path]) -> list[str]:
    """The peers' own versions."""
    found = []
    for name, bin in bins.items():
        for package in TRACKERS[name].packages:
            code = f"from importlib.metadata import version; print(version({package!r}))"
            done = subprocess.run(
                [bin / "python", "-c", code], capture_output=True, text=True, check=True
            )
            found.append(f"{package} {done.stdout.strip()}")
    return found


if __name__ == "__main__":
    main()
