"""A training program on the unmodified SDK. What its runs log is known beforehand, message by message.

    python -m tests.training URL RUN,RUN,… [--steps N] [--pause SECONDS]

Each run trains in a thread of its own. Without --steps they go on until standard input ends, and then do
AFTERWARDS steps more. Prints one JSON object: what became of each run's sender.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import subprocess
import sys
import threading
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matyan_client import Run
from matyan_client.objects import Text

from matyan.reader import Block
from tests.tracker import environment
from tests.until import wait_for

AFTERWARDS = 20
Message = tuple[str, dict[str, Any]]
"""A kind, and the members that the training chooses; the SDK adds ids and times."""


def messages(run: str, steps: int) -> list[Message]:
    """Everything that a run of so many steps sends, in order."""
    trained = [message for number in range(steps) for message in step(run, number)]
    return [*beginning(run), *trained, ("finish_run", {})]


def beginning(run: str) -> list[Message]:
    hparams = {
        "lr": 1e-3,
        "layers": [64, 32],
        "seed": zlib.crc32(run.encode()),
        "optim": {"β": 0.9},
    }
    return [
        ("create_run", {"force_resume": False}),
        ("set_run_property", {"experiment": "trained"}),
        ("set_run_property", {"name": f"name of {run} ✓"}),
        ("log_hparams", {"value": {"hparams": hparams}}),
        ("add_tag", {"tag_name": "kept"}),
        ("add_tag", {"tag_name": "dropped"}),
        ("remove_tag", {"tag_name": "dropped"}),
    ]


def step(run: str, number: int) -> list[Message]:
    loss = zlib.crc32(f"{run}/{number}".encode()) / 1e6
    # Of ten steps one ends an epoch; the others stand within it.
    epoch = number / 10 if number % 10 else number // 10
    members = {"step": number, "epoch": epoch, "context": {"subset": "train"}}
    sent: list[Message] = [
        ("log_metric", {"name": "loss", "value": loss, "dtype": "float", **members})
    ]
    if number % 5 == 0:
        text = f"step {number}"
        sent.append(("log_record", {"message": text, "level": 20, "extra_args": {"at": number}}))
    if number % 7 == 0:
        sent.append(
            ("log_metric", {"name": "précision", "value": math.nan, "dtype": "float", **members})
        )
    if number % 11 == 0:
        value = {"type": "text", "data": f"sample {number}"}
        sent.append(
            ("log_custom_object", {"name": "text", "value": value, "dtype": "text", **members})
        )
    return sent


def perform(run: Run, message: Message) -> None:
    """The call of the SDK that sends this message."""
    match message:
        case "set_run_property", {"name": name}:
            run.name = name
        case "set_run_property", {"experiment": experiment}:
            run.experiment = experiment
        case "log_hparams", {"value": {"hparams": hparams}}:
            run["hparams"] = hparams
        case "add_tag", {"tag_name": tag}:
            run.add_tag(tag)
        case "remove_tag", {"tag_name": tag}:
            run.remove_tag(tag)
        case "log_record", {"message": text, "extra_args": args}:
            run.log_info(text, **args)
        case (("log_metric" | "log_custom_object"), {"value": value, "dtype": _, **members}):
            run.track(Text(value["data"]) if isinstance(value, dict) else value, **members)
        case kind, _:
            raise AssertionError(f"no call sends {kind}")


def train(
    url: str, name: str, steps: int | None, pause: float, told: threading.Event
) -> dict[str, Any]:
    """Trains one run; what became of it."""
    run = Run(name, repo=url, capture_terminal_logs=False)
    sender = run._ws
    for message in beginning(name)[1:]:
        perform(run, message)
    number, last = 0, steps
    while number != last:
        for message in step(name, number):
            perform(run, message)
        number += 1
        if last is None and told.is_set():
            last = number + AFTERWARDS
        time.sleep(pause)
    logged = len(messages(name, number)) - 1
    # Run.close() waits 8 s for its queue; on a slow machine that is little.
    with contextlib.suppress(TimeoutError):
        wait_for(lambda: sender.stats["sent"] >= logged or not sender._thread.is_alive(), 120)
    alive = sender._thread.is_alive()
    run.close()
    sender._thread.join(60)
    unsent = logged + 1 - sender.stats["sent"]
    return {"steps": number, "alive": alive, "unsent": unsent, "dropped": sender.stats["dropped"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("runs", type=lambda text: text.split(","))
    parser.add_argument("--steps", type=int)
    parser.add_argument("--pause", type=float, default=0.0)
    given = parser.parse_args()
    told = threading.Event()
    reports: dict[str, Any] = {}

    def one(name: str) -> None:
        reports[name] = train(given.url, name, given.steps, given.pause, told)

    threads = [threading.Thread(target=one, args=(name,)) for name in given.runs]
    for thread in threads:
        thread.start()
    sys.stdin.read()
    told.set()
    for thread in threads:
        thread.join()
    print(json.dumps(reports))


@dataclass
class Training:
    """The program as a process. A run that trains until it is told ends by `report`."""

    process: subprocess.Popen[str]

    def report(self, seconds: float = 240) -> dict[str, dict[str, Any]]:
        """Tells it to come to its end, and returns what it says of each run: `steps` that it did, whether its sender
        was `alive` at the end, how many messages were left `unsent` or were `dropped`."""
        printed, _ = self.process.communicate(timeout=seconds)
        reports: dict[str, dict[str, Any]] = json.loads(printed)
        return reports


def start(
    url: str, runs: Sequence[str], *, steps: int | None = None, pause: float = 0.0
) -> Training:
    """Starts the program. The caller ends it by `report`, or kills it."""
    words = [
        sys.executable,
        "-m",
        "tests.training",
        url,
        ",".join(runs),
        "--pause",
        str(pause),
    ]
    if steps is not None:
        words += ["--steps", str(steps)]
    return Training(
        subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
    )


def faults(records: Sequence[dict[str, Any]], run: str, steps: int) -> list[str]:
    """How a run's records in the topic differ from what it logged; empty when each stands there once, in order."""
    wanted = [_text(kind, members) for kind, members in messages(run, steps)]
    found = []
    for record in records:
        chosen = _CHOSEN[record["type"]]
        members = {name: value for name, value in record["payload"].items() if name in chosen}
        found.append(_text(record["type"], members))
    if found == wanted:
        return []
    checks = {
        "lost": Counter(wanted) - Counter(found),
        "stored twice or never logged": Counter(found) - Counter(wanted),
    }
    return [
        f"{run}: {some.total()} {what}: {sorted(some)[:3]}" for what, some in checks.items() if some
    ] or [f"{run}: out of order"]


def stored_faults(
    shown: dict[str, Any], blocks: Iterable[Block], run: str, steps: int
) -> list[str]:
    """How a run in the store (what `matyan.reader` says of it) differs from what it logged."""
    found: dict[str, list[Any]] = {}
    for block in blocks:
        rows = found.setdefault(block.name, [])
        if block.points is not None:
            points = block.points
            rows += zip(points.steps, points.epochs, points.values, strict=True)
        else:
            rows += [(step, epoch, value) for step, epoch, _, value in block.objects or []]
    rows = found.pop("__log_records", [])
    logged = [(value["message"], value["log_level"], value["args"]) for _, _, value in rows]
    meta = shown["meta"]
    is_there = {
        "sequences": found,
        "log records": logged,
        "steps of the log records": [step for step, _, _ in rows],
        "name": meta["name"],
        "ended": (meta["active"], meta["duration"] is not None),
        "experiment": shown["experiment"],
        "tags": shown["tags"],
        "attributes": shown["attrs"],
    }
    wanted = _wanted(messages(run, steps))
    wrong = [what for what, there in is_there.items() if _text(there) != _text(wanted[what])]
    return [
        f"{run}: {what}: {is_there[what]!r:.300} and not {wanted[what]!r:.300}" for what in wrong
    ]


def _wanted(sent: Sequence[Message]) -> dict[str, Any]:
    sequences: dict[str, list[Any]] = {}
    for kind, members in sent:
        if kind in ("log_metric", "log_custom_object"):
            point = (members["step"], members["epoch"], members["value"])
            sequences.setdefault(members["name"], []).append(point)

    def of(kind: str) -> list[dict[str, Any]]:
        return [members for one, members in sent if one == kind]

    records = of("log_record")
    properties = {
        name: value for members in of("set_run_property") for name, value in members.items()
    }
    removed = {members["tag_name"] for members in of("remove_tag")}
    return {
        "sequences": dict(sorted(sequences.items())),
        "log records": [(row["message"], row["level"], row["extra_args"]) for row in records],
        "steps of the log records": list(range(len(records))),
        "name": properties["name"],
        "ended": (False, True),
        "experiment": properties["experiment"],
        "tags": [row["tag_name"] for row in of("add_tag") if row["tag_name"] not in removed],
        "attributes": of("log_hparams")[0]["value"],
    }


def _text(*values: Any) -> str:
    """What can be compared: NaN equals NaN, and the order of an object's members makes no difference."""
    return json.dumps(values, sort_keys=True)


_CHOSEN = {kind: set(members) for kind, members in messages("any", 12)} | {
    "set_run_property": {"name", "experiment"}
}

if __name__ == "__main__":
    main()
