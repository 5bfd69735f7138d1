"""The read API under the questions that the web app asks: how soon the first match and the end come, and at what cost.

    python -m bench.api [--runs 10000] [--points 10000] [--layouts packed,compatible] [--rounds 5] [--questions NAME,NAME]
        [--seconds 5] [--peer NAME=URL]... [--keep FOLDER] [--json FILE]
    python -m bench.api --peers mlflow,aim [--peer-runs 1000] [--rounds 5] [--envs FOLDER] [--keep FOLDER] [--json FILE]

The data are written by the project's own rules, into a folder of each layout (`api_data.py`): `--runs` runs of 20 hparams and 10 metrics; 100 runs
of 10 metrics with `--points` points each (a tenth of them in the compatible layout, where a point is four keys); a run of 300
metrics. `matyan up` serves a folder in a process of its own; this one asks, a question at a time, and reads as fast as it can.

What is counted, and the bias that it has:
- first: from the request to the first byte of the body. A search sends nothing before something has matched, so it is the first match;
  end: to the last byte. Medians of `--rounds`, after a round that is not counted: what is asked for lies in the page cache.
- CPU: the server's user and system seconds for one answer. The client decodes nothing and still takes part of the other core.
- memory: by how much VmHWM, reset before the question, went beyond what was resident then; the largest of the rounds.
- ratio: of the end, beside a `--peer`'s that was asked in turn, question by question. A peer is any server of the same API, with whatever it
  holds: filling it is the caller's affair, and so is that it holds the same (bytes tells). One that has no such route, or says no, has a dash.
- ingest: `loadgen.py` at half a thousand frames a second of 10 messages each, alone, and while one client asks the same again and again, in turn;
  the acknowledgements from the schedule, medians of the rounds. The generator and the client share the cores with the server.
- Nothing is compared with the goals of the specification here: those stand beside the figures in the last column.

With --peers, this alone: MLflow's and Aim's servers, each in an environment of its own (as `bench.peers` makes them), on the same
runs, 20 params and 10 metrics each, written by their own libraries straight into their files; each question in its own words
(`api_peers.py`, where the bias stands). Its size is smaller, since to fill Aim takes over a minute for 1,000 runs.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import api_data, api_peers, loadgen
from bench.api_ask import Peer, Question
from bench.api_data import Sizes
from bench.ingest import sync_ms, tracker
from bench.loadgen import Load
from bench.machine import Server, heading, medians, number, say, table, workplace
from dev import environments
from matyan.store.base import Layout

PACKAGES = ("matyan-trio", "trio", "quart-trio", "hypercorn", "rocksdict")
LOAD = Load(50, 10, rate=10)
COMPATIBLE_SHARE = 0.1
"""Of the points of the long runs."""


def questions(sizes: Sizes) -> list[Question]:
    def runs(name: str, goal: str, q: str = "", **params: Any) -> Question:
        return Question(name, "/runs/search/run", goal, {"q": q, **params})

    middle = api_data.name_of(sizes.runs // 2)
    wide = [{"name": f"metric_{i}", "context": {}} for i in range(api_data.WIDE_METRICS)]
    return [
        runs("page", "150", limit=45),
        runs("hash", "50", f'run.hash == "{middle}"'),
        runs("tag", "50", '"tag 7" in run.tags', limit=45),
        runs("experiment", "50", 'run.experiment == "experiment 3"', limit=45),
        runs("whole tag", "", '"tag 7" in run.tags'),
        runs("whole experiment", "", 'run.experiment == "experiment 3"'),
        runs("hparam", "", "run.hparams.lr == 0.25"),
        runs("predicate", "1000, first 200", "run.hparams.lr < 0.01"),
        runs("no match", "1000", "bool(run.hparams) and run.hparams.lr < -1"),
        runs("by last value", "", 'run.metrics["metric_3"].last > 4.99'),
        runs("all", "3000"),
        runs("sorted page", "", limit=45, sort='[{"field":"run","order":"asc"}]'),
        Question("activity", "/projects/activity", "200"),
        Question("params", "/projects/params", "200", {"sequence": "metric"}),
        Question("info", f"/runs/{middle}/info", "30"),
        Question("info of 300 metrics", "/runs/wide/info", "30"),
        Question("300 metrics", "/runs/wide/metric/get-batch", "300", body=wide),
        Question("points", "/runs/search/metric", "1000", {"q": '"long" in run.tags', "p": 500}),
        Question("active", "/runs/active"),
    ]


def asked(server: Server, ours: Peer, question: Question) -> dict[str, float]:
    """One answer of ours."""
    pid = server.process.pid
    # 5: the peak begins anew at what is resident now (proc(5)).
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    before, cpu = _status(pid, "VmHWM"), server.cpu()
    first, end, size = ours.ask(question)
    return {
        "first": first * 1e3,
        "end": end * 1e3,
        "cpu": (server.cpu() - cpu) * 1e3,
        "memory": (_status(pid, "VmHWM") - before) / 1e6,
        "kB": size / 1e3,
    }


def _status(pid: int, name: str) -> int:
    """Bytes of a field of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"no {name}")


def measure(
    server: Server, ours: Peer, peers: Sequence[Peer], wanted: Sequence[Question], rounds: int
) -> list[dict[str, Any]]:
    """A row a question."""
    found = []
    for question in wanted:
        asked(server, ours, question)
        own: list[dict[str, float]] = []
        others: dict[str, list[float]] = {peer.name: [] for peer in peers}
        for _ in range(rounds):
            own.append(asked(server, ours, question))
            for peer in peers:
                try:
                    others[peer.name].append(peer.ask(question)[1] * 1e3)
                except (OSError, RuntimeError, http.client.HTTPException) as error:
                    say(str(error))
        row: dict[str, Any] = {"question": question.name, "goal": question.goal, **medians(own)}
        row["memory"] = max(one["memory"] for one in own)
        for name, ends in others.items():
            row[name] = medians([{"end": end} for end in ends])["end"] if ends else None
        found.append(row)
        say(f"{question.name}: {row}")
    return found


def report(layout: str, rows: Sequence[dict[str, Any]], peers: Sequence[Peer]) -> str:
    columns = [f"{layout}: ms", "first", "end", "CPU", "peak MB", "kB"]
    columns += [f"{peer.name}, by ours" for peer in peers]

    def cells(row: dict[str, Any]) -> Iterator[str]:
        yield row["question"]
        for key in ("first", "end", "cpu", "memory", "kB"):
            yield number(row[key])
        for peer in peers:
            there = row[peer.name]
            yield "–" if there is None else f"{number(there)}, {number(there / row['end'])}"
        yield row["goal"]

    return table([*columns, "goal"], [[*cells(row)] for row in rows])


@contextmanager
def asking(ours: Peer, question: Question) -> Iterator[list[float]]:
    """Asks it again and again meanwhile; the seconds of each answer."""
    ends: list[float] = []
    over = threading.Event()

    def ask() -> None:
        while not over.is_set():
            ends.append(ours.ask(question)[1])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield ends
    finally:
        over.set()
        thread.join()


def measure_ingest(
    server: Server, port: int, ours: Peer, wanted: Sequence[Question], rounds: int, seconds: float
) -> list[list[str]]:
    """A row a question that is asked meanwhile, in turn; the first is of none."""
    found: dict[str, list[dict[str, float]]] = {}
    loadgen.run(port, LOAD, cpu=server.cpu, seconds=1)
    for _ in range(rounds):
        for question in [None, *wanted]:
            if question is None:
                result, ends = loadgen.run(port, LOAD, cpu=server.cpu, seconds=seconds), []
            else:
                with asking(ours, question) as ends:
                    result = loadgen.run(port, LOAD, cpu=server.cpu, seconds=seconds)
            acks = {name: result["ack_from_schedule_ms"][name] for name in ("p50", "p99")}
            end = sum(ends) / len(ends) * 1e3 if ends else 0.0
            found.setdefault(question.name if question else "nothing", []).append(
                {**acks, "end": end}
            )
    middle = {name: medians(rows) for name, rows in found.items()}
    alone = middle["nothing"]["p99"]
    return [
        [
            name,
            *(number(row[key]) for key in ("p50", "p99")),
            number(row["p99"] / alone),
            number(row["end"] or None),
        ]
        for name, row in middle.items()
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--runs", type=int, default=10_000, help="of 20 hparams and 10 metrics (10000)"
    )
    parser.add_argument(
        "--points", type=int, default=10_000, help="of each metric of 100 runs more (10000)"
    )
    parser.add_argument("--layouts", default="packed,compatible", help="comma list (both)")
    parser.add_argument("--rounds", type=int, default=5, help="medians over so many (5)")
    parser.add_argument(
        "--seconds", type=float, default=5, help="of each load on the ingestion (5); 0: none"
    )
    parser.add_argument("--questions", help="comma list of those to ask, as the table names them")
    parser.add_argument(
        "--peer", action="append", default=[], metavar="NAME=URL", help="a server of the same API"
    )
    parser.add_argument(
        "--peers",
        help=f"comma list of {', '.join(api_peers.OTHERS)}: those alone, beside the first of --layouts",
    )
    parser.add_argument(
        "--peer-runs", type=int, default=1000, help="that they and ours hold then (1000)"
    )
    parser.add_argument(
        "--envs", type=Path, default=environments.FOLDER, help="where their environments are"
    )
    parser.add_argument(
        "--keep",
        type=Path,
        help="the data, made there by the first call and used again by the next",
    )
    parser.add_argument("--json", type=Path, help="every figure, too")
    given = parser.parse_args()
    sizes = Sizes(given.runs, given.points)
    names = given.questions and [name.strip() for name in given.questions.split(",")]
    every = questions(sizes)
    wanted = [one for one in every if not names or one.name in names]
    if not wanted:
        parser.error(f"the questions are {', '.join(one.name for one in every)}")
    peers = [Peer(*text.split("=", 1)) for text in given.peer]
    others = given.peers.split(",") if given.peers else []
    if not api_peers.OTHERS.keys() >= set(others):
        parser.error(f"the peers are {', '.join(api_peers.OTHERS)}")
    everything: dict[str, Any] = {}
    with workplace("api") as scratch:
        print(f"{heading(*PACKAGES)}; fdatasync {sync_ms(scratch):.2f} ms")
        layouts = given.layouts.split(",")
        if others:
            place = (given.keep or scratch).resolve()
            everything = api_peers.compare(
                others, layouts[0], given.peer_runs, given.rounds, place, given.envs
            )
            layouts = []
        for layout in layouts:
            folder, held = made((given.keep or scratch).resolve(), layout, sizes)
            print(
                f"{layout}: {held.runs:,} runs, {api_data.LONG_RUNS} × {api_data.METRICS} × {held.long_points:,} points and a run of "
                f"{api_data.WIDE_METRICS} metrics; medians of {given.rounds}\n"
            )
            with tracker(folder, layout) as (server, port):
                ours = Peer("ours", f"http://127.0.0.1:{port}")
                rows = measure(server, ours, peers, wanted, given.rounds)
                print(report(layout, rows, peers) + "\n")
                everything[layout] = rows
            if given.seconds:
                # On a copy: a load leaves runs behind.
                copy = scratch / f"{layout}-load"
                shutil.copytree(folder, copy)
                heavy = [one for one in every if one.name in ("all", "no match", "points")]
                with tracker(copy, layout) as (server, port):
                    ours = Peer("ours", f"http://127.0.0.1:{port}")
                    loads = measure_ingest(server, port, ours, heavy, given.rounds, given.seconds)
                head = [f"{layout}, {LOAD}: ack ms beside", "p50", "p99", "by alone", "its end"]
                print(table(head, loads) + "\n")
                everything[f"{layout}, ingest"] = loads
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))


def made(place: Path, layout: Layout, sizes: Sizes) -> tuple[Path, Sizes]:
    """The data folder of a layout, and what it holds."""
    if layout == "compatible":
        sizes = Sizes(sizes.runs, max(1, int(sizes.long_points * COMPATIBLE_SHARE)))
    folder = place / f"{layout}-{sizes.runs}-{sizes.long_points}"
    if not folder.exists():
        begun = time.perf_counter()
        api_data.fill(folder, layout, sizes)
        say(f"{folder.name}: {sizes.points:,} points in {time.perf_counter() - begun:.0f} s")
    return folder, sizes


if __name__ == "__main__":
    main()
