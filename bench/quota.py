"""A neighbour beside a flood, with and without a quota on the flooder's token: what its acknowledgements take.

    python -m bench.quota [--rounds 3] [--seconds 5] [--quota messages=20000/s] [--json FILE]

In each round, in turn on one `matyan up` with an empty folder: the neighbour alone; beside a flood whose token has no quota; beside the
same flood whose token has one. The neighbour's token has none in any of them.

What is counted, and the bias that it has:
- the neighbour's times are from when its schedule wanted a frame sent (no coordinated omission), after a warm-up of a second; the flood
  begins before it and ends after it.
- ratio: the neighbour's p99 beside the flood by its p99 alone, of the same round; the medians of the rounds are printed.
- The flood is a closed loop, as the SDK is: without a quota it takes all that the tracker can do. Its generator and the neighbour's
  share the machine's cores with the tracker, so that a part of what the neighbour waits for is the flood's generator.
- The first second's worth of a quota passes at once (its burst), and is over before the neighbour is measured.
- The tracker must have stored all that it acknowledged to either.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import threading
import time
from pathlib import Path
from typing import Any

from bench import loadgen
from bench.ingest import PACKAGES, stored, sync_ms, tracker
from bench.loadgen import Load
from bench.machine import Server, heading, number, say, table, workplace
from matyan.service.quotas import Quota, read_quota
from matyan.service.tokens import Scope, Token, digest, dump

NEIGHBOUR = Load(20, 10, rate=20)
FLOOD = Load(32, 100)
WARM_UP_S = 1.0
AHEAD_S = 2.0
"""The flood has begun for so long when the neighbour begins."""
ALONE, FREE, LIMITED = "alone", "beside a flood", "beside a flood with a quota"


def write_tokens(file: Path, quota: Quota) -> None:
    quotas = {"neighbour": None, FREE: None, LIMITED: quota}
    names = {name: name.replace(" ", "-") for name in quotas}
    tokens = [
        Token(names[name], digest(name), frozenset({Scope.WRITE}), time.time(), quota=one)
        for name, one in quotas.items()
    ]
    file.write_bytes(dump({token.name: token for token in tokens}))


def beside(server: Server, port: int, folder: Path, mode: str, seconds: float) -> dict[str, Any]:
    """The neighbour's times, and what the flood got through."""
    flood: dict[str, Any] = {}

    def pour() -> None:
        whole = AHEAD_S + WARM_UP_S + seconds + 1
        flood.update(loadgen.run(port, FLOOD, seconds=whole, warmup=0, token=mode))

    pouring = threading.Thread(target=pour)
    if mode != ALONE:
        pouring.start()
        time.sleep(AHEAD_S)
    result = loadgen.run(
        port, NEIGHBOUR, seconds=seconds, warmup=WARM_UP_S, token="neighbour", cpu=server.cpu
    )
    if mode != ALONE:
        pouring.join()
        result["flood_messages_per_s"] = flood["messages_per_s"]
    for done in filter(None, (result, flood)):
        found = stored(folder, done["prefix"])
        # What the flood's last frames were stored as may not have been answered.
        if not done["acknowledged"] <= found <= done["acknowledged"] + 32 * 100:
            raise RuntimeError(f"{mode}: {done['acknowledged']} acknowledged, {found} stored")
    return result


def measure(scratch: Path, rounds: int, seconds: float, quota: Quota) -> dict[str, Any]:
    results: dict[str, list[dict[str, Any]]] = {ALONE: [], FREE: [], LIMITED: []}
    tokens = scratch / "tokens"
    write_tokens(tokens, quota)
    for turn in range(rounds):
        folder = scratch / f"quota-{turn}"
        with tracker(folder, MATYAN_TOKENS_FILE=str(tokens)) as (server, port):
            for mode, rows in results.items():
                rows.append(beside(server, port, folder, mode, seconds))
                say(f"{mode}: {rows[-1]}")
                server.quiet(10)
        shutil.rmtree(folder)
    return results


def summary(results: dict[str, list[dict[str, Any]]]) -> str:
    def times(row: dict[str, Any], what: str) -> float:
        return float(row["ack_from_schedule_ms"][what])

    rows = []
    for mode, found in results.items():
        ratios = [
            times(row, "p99") / times(alone, "p99")
            for row, alone in zip(found, results[ALONE], strict=True)
        ]
        poured = [row.get("flood_messages_per_s", 0.0) for row in found]
        rows.append(
            [
                mode,
                *(
                    number(statistics.median(times(row, what) for row in found))
                    for what in ("p50", "p99", "max")
                ),
                number(statistics.median(ratios)),
                number(statistics.median(poured)),
                number(statistics.median(row["messages_per_s"] for row in found)),
            ]
        )
    columns = [
        "neighbour",
        "p50, ms",
        "p99",
        "max",
        "p99 by alone",
        "flood, messages/s",
        "neighbour's",
    ]
    return table(columns, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description="A neighbour beside a flood.")
    parser.add_argument("--rounds", type=int, default=3, help="medians over so many")
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--quota", type=read_quota, default=read_quota("messages=20000/s"))
    parser.add_argument("--json", type=Path, help="write all results there")
    given = parser.parse_args()
    with workplace("quota") as scratch:
        print(
            f"{heading(*PACKAGES)}; fdatasync {sync_ms(scratch):.2f} ms; medians of {given.rounds} × {given.seconds:g} s; "
            f"neighbour {NEIGHBOUR}, flood {FLOOD}, its quota {given.quota}\n"
        )
        results = measure(scratch, given.rounds, given.seconds, given.quota)
        print(summary(results))
    if given.json:
        given.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
