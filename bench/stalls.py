"""How long the loop of a tracker stands still under the worst legal messages: the longest round trip of a ping beside them.

A real `matyan up`; one connection sends a message of each kind, another, of a process of its own, pings every 2 ms (the
sender's process stands still itself while it masks 90 MB). Bias: both, the tracker and its store's thread share the machine's
cores, so a busy machine shows stops that are not the tracker's; run it alone.

    python -m bench.stalls
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from websockets.sync.client import connect

from bench.machine import Server, free_port, heading, say, table, workplace


def figures() -> str:
    """90 MB: a hundred legal figures."""
    item = {"type": "log_custom_object", "name": "f", "value": {"data": "x" * 900_000}}
    return json.dumps([item | {"step": step} for step in range(100)])


def items() -> str:
    """10,000 metrics, each of its own name."""
    item = {
        "type": "log_metric", "value": 0.5, "step": 1, "epoch": 0.25, "context": {"a": [1, 2]},
        "dtype": "float", "client_datetime": "2026-01-02T03:04:05+00:00",
    }  # fmt: skip
    return json.dumps([item | {"name": f"metric-{number}"} for number in range(10_000)])


def blobs() -> str:
    """10,000 artifacts."""
    return json.dumps(
        [
            {"type": "blob_ref", "s3_key": f"RUN/{number}", "artifact_path": f"{number}"}
            for number in range(10_000)
        ]
    )


def hparams() -> str:
    """One message of 40,000 hyperparameters."""
    return json.dumps({"type": "log_hparams", "value": {f"h{n}": n for n in range(40_000)}})


def tokens() -> str:
    """An object of 900 kB in the smallest tokens."""
    data = ",".join(["[]"] * 220_000)
    return '{"type":"log_custom_object","name":"t","value":{"data":[' + data + "]}}"


def rejected() -> str:
    """10,000 items that are none."""
    return "[" + ",".join(["5"] * 10_000) + "]"


def unknown() -> str:
    """A tag with a member of 60 MB that nobody knows."""
    return '{"type":"add_tag","tag_name":"t","unknown":[' + ",".join(["1"] * 30_000_000) + "]}"


KINDS: tuple[Callable[[], str], ...] = (figures, items, blobs, hparams, tokens, rejected, unknown)


def watch(url: str, channel: Connection) -> None:
    """Pings until it is told to stop; says when it begins, and the longest round trip in seconds."""
    longest = 0.0
    with connect(url, ping_interval=None) as pinger:
        channel.send(None)
        while not channel.poll(0.002):
            began = time.perf_counter()
            pinger.ping().wait(60)
            longest = max(longest, time.perf_counter() - began)
    channel.send(longest)


def measure(url: str, make: Callable[[], str]) -> tuple[float, float]:
    """Seconds until the reply, and the longest round trip beside it."""
    message = make().replace("RUN", make.__name__).encode()
    processes = get_context("spawn")
    ours, theirs = processes.Pipe()
    watcher = processes.Process(target=watch, args=(f"{url}/pings", theirs))
    watcher.start()
    theirs.close()
    with connect(f"{url}/{make.__name__}", ping_interval=None, max_size=None) as sender:
        ours.recv()
        began = time.perf_counter()
        sender.send(message, text=True)
        sender.recv(timeout=120)
        took = time.perf_counter() - began
    ours.send(None)
    longest: float = ours.recv()
    watcher.join()
    return took, longest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    say(heading("websockets"))
    rows = []
    with workplace("stalls") as scratch:
        port = free_port()
        folder = scratch / "data"
        folder.mkdir()
        command: list[str | Path] = [
            sys.executable,
            "-m",
            "matyan",
            "up",
            "--data",
            folder,
            "--port",
            str(port),
        ]
        ready = f"http://127.0.0.1:{port}/health/ready/"
        with Server(command, ready=ready, folder=folder):
            for make in KINDS:
                took, longest = measure(f"ws://127.0.0.1:{port}/api/v1/ws/runs", make)
                rows.append((make.__name__, f"{1000 * took:,.0f}", f"{1000 * longest:,.0f}"))
    say(table(("message", "until its reply, ms", "longest stop, ms"), rows))


if __name__ == "__main__":
    main()
