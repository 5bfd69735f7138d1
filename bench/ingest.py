"""The tracker of one machine under load: `matyan up` in its own process, `loadgen.py` in another.

    python -m bench.ingest [--rounds 3] [--seconds 5] [--scale 1] [--parts loads,disk,idle,long] [--json FILE]
    python -m bench.ingest --tokens|--tls [--rounds 3] [--seconds 5]

Acknowledged is stored: after each load the points that the tracker has are counted and must be as many as were acknowledged.

What is counted, and the bias that it has:
- messages/s and acknowledgements: the generator's, after a warm-up of a second; its own bias is printed (`loadgen.BIAS`). It costs 0.1–0.3
  of a core.
- CPU: the server's user and system seconds, threads of the store included, from the first frame to the last reply, for each
  message that was acknowledged in that time.
- Each round begins with an empty folder; the loads of one round follow each other on it.
- disk: 1 million points in 32 runs of 10 metrics, a step every 20 ms, give or take a tenth, so that the times do not compress as those of a closed loop
  would; the files' growth after an orderly stop, and again after compaction, everything else about the runs included.
- memory is VmRSS; the page cache and the files it holds are not in it.
- --tokens: two trackers in turn, one that asks for tokens (1,000 in its file, the last one is sent) and one that does not; what is told is
  the ratio. A token is judged at the handshake, of which a load has one a connection, before it is measured.
- --tls: the same with a listener under TLS, by the version and the cipher that both ends agree on, and what an idle connection takes.
  The generator, too, works for TLS on the cores that it shares with the server: of messages/s that is a part of the loss.
- The folder lies in build/: the file system is this machine's, and so is the price of its fdatasync (printed first).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import trio
import trustme

from bench import loadgen
from bench.loadgen import Load
from bench.machine import (
    Server,
    disk_bytes,
    environment,
    free_port,
    heading,
    number,
    say,
    table,
    workplace,
)
from matyan import reader
from matyan.service import tokens
from matyan.store.rocks import open_rocks

LOADS = {
    "packed": (
        Load(32, 100),
        Load(32, 100, metrics=10),
        Load(32, 1),
        Load(1, 1),
        Load(500, 10, rate=20),
        Load(100, 10, rate=5),
    ),
    "compatible": (Load(32, 100), Load(32, 1), Load(100, 10, rate=5)),
}
BESIDE_LOADS = (Load(32, 100), Load(32, 1))
PACKAGES = ("matyan-trio", "trio", "websockets", "rocksdict")
IDLE = 5000
TLS_IDLE = 2000


@contextmanager
def tracker(folder: Path, layout: str = "packed", **env: str) -> Iterator[tuple[Server, int]]:
    """`matyan up` on `folder`, ready, and its port."""
    folder.mkdir(exist_ok=True)
    port = free_port()
    command = Path(sys.executable).with_name("matyan")
    with Server(
        [command, "up", "--data", folder, "--port", str(port)],
        ready=f"{'https' if 'MATYAN_TLS_CERT_FILE' in env else 'http'}://127.0.0.1:{port}/health/ready/",
        env=environment(MATYAN_SEQUENCE_LAYOUT=layout, **env),
        folder=folder,
    ) as server:
        yield server, port


def stored(store: Path | str, prefix: str) -> int:
    """Points of the runs that begin with `prefix`; store: a data folder, or what `--store` takes."""
    with reader.open(store) as opened:
        return sum(
            run["points"] for run in opened.runs(counts=True) if run["run"].startswith(prefix)
        )


def put(server: Server, port: int, folder: Path, load: Load, **options: Any) -> dict[str, Any]:
    """Puts the load on it, and checks that what was acknowledged is stored."""
    result = loadgen.run(port, load, cpu=server.cpu, **options)
    result["rss_mb"] = server.memory() / 1e6
    found = stored(folder, result["prefix"])
    if found != result["acknowledged"]:
        raise RuntimeError(f"{load}: {result['acknowledged']} acknowledged, {found} stored")
    return result


def compact(store: Path) -> None:
    """Brings a store that nobody holds into its smallest form."""

    async def work() -> None:
        opened = open_rocks(store)
        try:
            await opened.compact()
        finally:
            await opened.aclose()

    trio.run(work)


def sync_ms(folder: Path) -> float:
    """The median of 200 appends of 4 KiB with fdatasync: below it no durable acknowledgement can be."""
    times = []
    with (folder / "sync").open("wb", buffering=0) as file:
        for _ in range(200):
            begun = time.perf_counter()
            file.write(bytes(4096))
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1e3


def measure_loads(scratch: Path, rounds: int, seconds: float) -> dict[str, list[dict[str, Any]]]:
    results: dict[str, list[dict[str, Any]]] = {}
    for turn in range(rounds):
        for layout, loads in LOADS.items():
            folder = scratch / f"loads-{turn}-{layout}"
            with tracker(folder, layout) as (server, port):
                for load in loads:
                    result = put(server, port, folder, load, seconds=seconds)
                    say(f"{layout}, {load}: {result}")
                    results.setdefault(f"{load}, {layout}", []).append(result)
            shutil.rmtree(folder)
    return results


def measure_beside(
    scratch: Path, rounds: int, seconds: float, name: str, env: Mapping[str, str], **options: Any
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """Load → "with" and "without" → the results of the rounds: with `env` for the tracker and `options` for the generator."""
    results: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for turn in range(rounds):
        # Whoever comes second finds another state of the machine: they take turns at that.
        for what in ("with", "without") if turn % 2 else ("without", "with"):
            has = what == "with"
            folder = scratch / f"{name}-{turn}-{what}"
            with tracker(folder, **(env if has else {})) as (server, port):
                for load in BESIDE_LOADS:
                    given = options if has else {}
                    result = put(server, port, folder, load, seconds=seconds, **given)
                    say(f"{what} {name}, {load}: {result}")
                    results.setdefault(str(load), {}).setdefault(what, []).append(result)
            shutil.rmtree(folder)
    return results


def measure_tokens(
    scratch: Path, rounds: int, seconds: float
) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """As `measure_beside`, what it costs to ask for tokens."""
    file = scratch / "tokens"
    secret = tokens.new_secret().reveal()
    with tokens.changing(file) as known:
        for index in range(1000):
            digest = tokens.digest(secret if index == 999 else str(index))
            scopes = frozenset({tokens.Scope.WRITE})
            known[f"n{index}"] = tokens.Token(f"n{index}", digest, scopes, time.time())
    env = {"MATYAN_TOKENS_FILE": str(file)}
    return measure_beside(scratch, rounds, seconds, "tokens", env, token=secret)


def certificate(scratch: Path) -> dict[str, str]:
    """The variables of a listener under TLS: a key on P-256, as authorities give them today."""
    leaf = trustme.CA().issue_cert("127.0.0.1")
    both = scratch / "tls.pem"
    leaf.private_key_and_cert_chain_pem.write_to_path(both)
    return {"MATYAN_TLS_CERT_FILE": str(both), "MATYAN_TLS_KEY_FILE": str(both)}


def beside_table(results: dict[str, dict[str, list[dict[str, Any]]]]) -> str:
    """With divided by without: of each round (median, least and most), and of the best rounds, which others disturbed least."""

    def told(rows: dict[str, list[dict[str, Any]]], key: str) -> str:
        pairs = zip(rows["with"], rows["without"], strict=True)
        ratios = [one[key] / other[key] for one, other in pairs]
        return f"{statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f})"

    def best(rows: dict[str, list[dict[str, Any]]]) -> str:
        least = {what: min(row["cpu_s_per_million"] for row in rows[what]) for what in rows}
        return f"{least['with'] / least['without']:.3f}"

    columns = (
        "connections × messages a frame",
        "messages/s",
        "CPU a message",
        "CPU of the best rounds",
    )
    return table(
        [*columns],
        (
            [name, told(rows, "messages_per_s"), told(rows, "cpu_s_per_million"), best(rows)]
            for name, rows in results.items()
        ),
    )


def loads_table(results: dict[str, list[dict[str, Any]]]) -> str:
    def median(rows: list[dict[str, Any]], *path: str) -> str:
        values = []
        for row in rows:
            value: Any = row
            for key in path:
                value = value[key]
            values.append(value)
        return number(statistics.median(values))

    columns = {
        "messages/s": ("messages_per_s",),
        "frames/s": ("frames_per_s",),
        "ack p50, ms": ("ack_ms", "p50"),
        "p99": ("ack_ms", "p99"),
        "max": ("ack_ms", "max"),
        "p99 from schedule": ("ack_from_schedule_ms", "p99"),
        "CPU s / million": ("cpu_s_per_million",),
        "RSS, MB": ("rss_mb",),
        "generator CPU, s": ("generator_cpu_s",),
    }
    return table(
        ["connections × messages a frame", *columns],
        (
            [name, *(median(rows, *path) for path in columns.values())]
            for name, rows in results.items()
        ),
    )


def measure_disk(scratch: Path, scale: float) -> list[tuple[str, int, float, float]]:
    """(what, points, bytes a point after the stop, after compaction)"""
    rows = []
    for layout in LOADS:
        for values in ("smooth", "random"):
            folder = scratch / f"disk-{layout}-{values}"
            load = Load(32, 100, metrics=10, values=values, spacing_us=20_000)
            frames = max(1, round(1_000_000 * scale / load.connections / load.messages))
            with tracker(folder, layout) as (server, port):
                before = disk_bytes(folder)
                points = put(server, port, folder, load, frames=frames, seconds=600)["acknowledged"]
            after = (disk_bytes(folder) - before) / points
            compact(folder / "rocksdb")
            rows.append(
                (
                    f"{layout}, {values} values",
                    points,
                    after,
                    (disk_bytes(folder) - before) / points,
                )
            )
            say(str(rows[-1]))
            shutil.rmtree(folder)
    return rows


def measure_idle(
    scratch: Path, connections: int, env: Mapping[str, str] | None = None, **options: Any
) -> list[tuple[str, float]]:
    """KB of the server's memory that a connection takes which sends nothing."""
    rows = []
    for create, what in ((False, "just opened"), (True, "after its create_run")):
        folder = scratch / f"idle-{create}"
        with tracker(folder, **(env or {})) as (server, port):
            time.sleep(1)
            before = server.memory()
            with loadgen.idle(port, connections, create=create, **options):
                time.sleep(2)
                rows.append((what, (server.memory() - before) / connections / 1e3))
                say(str(rows[-1]))
        shutil.rmtree(folder)
    return rows


def measure_long(scratch: Path, scale: float) -> dict[str, float]:
    """One run, one metric, 5 million points over one connection: the rate in its first and its last tenth; and the starts."""
    folder = scratch / "long"
    with tracker(folder) as (server, port):
        result = {"start, empty folder, s": server.started_in}
        result["RSS at rest, MB"] = server.memory() / 1e6
        frames = max(10, round(5_000_000 * scale / 100))
        done = put(server, port, folder, Load(1, 100), frames=frames, seconds=600)
        rates = done["per_second"]
        tenth = max(1, len(rates) // 10)
        result["points"] = done["acknowledged"]
        result["points/s, first tenth"] = statistics.mean(rates[:tenth])
        result["points/s, last tenth"] = statistics.mean(rates[-tenth:])
        result["RSS after it, MB"] = server.memory() / 1e6
        begun = time.perf_counter()
        with reader.open(folder) as opened:
            opened.metric(done["prefix"] + "-00000", "metric_000", {"subset": "train"})
        result["reading it all, s"] = time.perf_counter() - begun
    with tracker(folder) as (server, port):
        result["start, that folder, s"] = server.started_in
    shutil.rmtree(folder)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description="The tracker of one machine under load.")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many (loads)")
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--scale", type=float, default=1, help="of the points of disk and long")
    parser.add_argument("--parts", default="loads,disk,idle,long", help="comma list")
    parser.add_argument("--tokens", action="store_true", help="only what tokens cost")
    parser.add_argument("--tls", action="store_true", help="only what TLS costs")
    parser.add_argument("--json", type=Path, help="write all results there")
    given = parser.parse_args()
    parts = [] if given.tokens or given.tls else given.parts.split(",")
    everything: dict[str, Any] = {}
    with workplace("ingest") as scratch:
        print(
            f"{heading(*PACKAGES)}; fdatasync {sync_ms(scratch):.2f} ms; "
            f"loads: medians of {given.rounds} × {given.seconds:g} s\n\n{loadgen.BIAS}\n"
        )
        if "loads" in parts:
            loads = everything["loads"] = measure_loads(scratch, given.rounds, given.seconds)
            print(loads_table(loads) + "\n")
        if given.tokens:
            asked = everything["tokens"] = measure_tokens(scratch, given.rounds, given.seconds)
            print(beside_table(asked) + "\n")
        if given.tls:
            env = certificate(scratch)
            secured = everything["tls"] = measure_beside(
                scratch, given.rounds, given.seconds, "TLS", env, tls=True
            )
            print(beside_table(secured) + "\n")
            idle = everything["tls idle"] = measure_idle(scratch, TLS_IDLE, env, tls=True)
            rows = ([what, number(kb)] for what, kb in idle)
            print(table([f"{TLS_IDLE:,} idle connections, TLS", "KB each"], rows) + "\n")
        if "disk" in parts:
            disk = everything["disk"] = measure_disk(scratch, given.scale)
            rows = ([what, f"{n:,}", number(a), number(b)] for what, n, a, b in disk)
            print(table(["bytes a point", "points", "after the stop", "compacted"], rows) + "\n")
        if "idle" in parts:
            idle = everything["idle"] = measure_idle(scratch, IDLE)
            rows = ([what, number(kb)] for what, kb in idle)
            print(table([f"{IDLE:,} idle connections", "KB each"], rows) + "\n")
        if "long" in parts:
            long = everything["long"] = measure_long(scratch, given.scale)
            print(table(["one run, one metric", ""], ([k, number(v)] for k, v in long.items())))
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
