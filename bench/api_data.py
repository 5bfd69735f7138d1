"""The data folders that `bench.api` asks about, written by the project's own rules without a listener.

What a service would have stored of the same messages, in large transactions. Three sets in one folder:

- many: runs that have ended, 20 hparams and 10 metrics of 5 points each, in 20 experiments and with one of 50 tags each; the
  newest 100 of them go on;
- long: 100 runs of 10 metrics with many points each, tagged "long";
- wide: one run of 300 metrics of 1,000 points each.

What is compared with other trackers (`shared`) is one list of messages for all: such runs as the many, and one long one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import trio

from matyan._codec import Columns, Malformed, decode_records, validate
from matyan.folder.folder import open_folder
from matyan.rules import contexts
from matyan.rules.records import Rules, Unit
from matyan.store.base import Layout, Store, Transaction

OWNER = "local/0"
EXPERIMENTS, TAGS = 20, 50
HPARAMS, METRICS = 20, 10
FEW_POINTS = 5
GOING_ON = 100
LONG_RUNS, WIDE_METRICS, WIDE_POINTS = 100, 300, 1_000
LONG = "long"
CONTEXT = {"subset": "train"}
_BEGUN = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_RUNS_AT_ONCE = 50
_POINTS_AT_ONCE = 1_000
_MESSAGES_AT_ONCE = 1_000


@dataclass(frozen=True)
class Sizes:
    runs: int = 10_000
    long_points: int = 10_000

    @property
    def points(self) -> int:
        return (
            self.runs * METRICS * FEW_POINTS
            + LONG_RUNS * METRICS * self.long_points
            + WIDE_METRICS * WIDE_POINTS
        )


def name_of(run: int) -> str:
    """A run id as the SDK makes one: random to look at."""
    return f"{run * 0x9E3779B1 % (1 << 32):08x}{run:08x}"


def experiment_of(run: int) -> str:
    return f"experiment {run % EXPERIMENTS}"


Messages = list[dict[str, Any]]


def shared(runs: int, points: int) -> Iterator[tuple[str, Messages, datetime]]:
    """Name, messages and begin of runs that have ended: a long one, the oldest, of 10 metrics of `points`, and `runs` small ones."""
    begun = _BEGUN - timedelta(days=1)
    messages: Messages = [
        {"type": "create_run", "client_datetime": begun.isoformat()},
        {"type": "set_run_property", "name": LONG, "experiment": LONG},
        {"type": "log_hparams", "value": {"hparams": {"lr": 0.5}}},
        {"type": "add_tag", "tag_name": LONG},
    ]
    for step in range(points):
        at = begun + timedelta(seconds=step / 50)
        for metric in range(METRICS):
            messages.append(_point(f"metric_{metric}", step, math.sin(step / 100), at, None))
    messages.append({"type": "finish_run", "client_datetime": _BEGUN.isoformat()})
    yield LONG, messages, begun
    for run in range(runs):
        yield name_of(run), _messages(run, is_over=True), _begun(run)


def fill_shared(folder: Path, layout: Layout, runs: int, points: int) -> None:
    """Makes the data folder of what is `shared`."""
    trio.run(_fill_shared, folder, layout, runs, points)


async def _fill_shared(folder: Path, layout: Layout, runs: int, points: int) -> None:
    async with open_folder(folder, layout) as opened:
        rules = opened.rules()
        for name, messages, begun in shared(runs, points):
            for first in range(0, len(messages), _MESSAGES_AT_ONCE):
                some = messages[first : first + _MESSAGES_AT_ONCE]
                await _commit(opened.store, rules, partial(_apply, validated(name, some, begun)))


def fill(folder: Path, layout: Layout, sizes: Sizes) -> None:
    """Makes the data folder."""
    trio.run(_fill, folder, layout, sizes)


async def _fill(folder: Path, layout: Layout, sizes: Sizes) -> None:
    async with open_folder(folder, layout) as opened:
        rules, store = opened.rules(), opened.store
        for first in range(0, sizes.runs, _RUNS_AT_ONCE):
            runs = range(first, min(first + _RUNS_AT_ONCE, sizes.runs))
            going_on = sizes.runs - GOING_ON
            values = [
                record
                for run in runs
                for record in validated(
                    name_of(run), _messages(run, is_over=run < going_on), _begun(run)
                )
            ]
            await _commit(store, rules, partial(_apply, values))
        for run in range(LONG_RUNS):
            await _long(store, rules, f"long-{run:03d}", "long", METRICS, sizes.long_points)
        await _long(store, rules, "wide", "wide", WIDE_METRICS, WIDE_POINTS)


async def _commit(store: Store, rules: Rules, work: Callable[[Unit], None]) -> None:
    def body(tr: Transaction) -> Unit:
        unit = rules.begin(tr, OWNER)
        work(unit)
        for _ in unit.ending():
            pass
        return unit

    rules.committed(await store.transact(body))


def _apply(values: list[bytes], unit: Unit) -> None:
    for op in decode_records(values):
        assert not isinstance(op, Malformed)
        unit.apply(op)


def _begun(run: int) -> datetime:
    return _BEGUN + timedelta(minutes=10 * run)


def _messages(run: int, *, is_over: bool) -> Messages:
    begun = _begun(run)
    messages: Messages = [
        {"type": "create_run", "client_datetime": begun.isoformat()},
        {
            "type": "set_run_property",
            "name": f"run {run}",
            "experiment": experiment_of(run),
        },
        {
            "type": "log_hparams",
            "value": {
                "hparams": {
                    "lr": (run % 1000) / 1000,
                    "batch": 2 ** (run % 10),
                    "optimizer": ["adam", "sgd", "lion"][run % 3],
                    **{f"option_{i:02d}": run * 0.01 + i for i in range(HPARAMS - 3)},
                }
            },
        },
        {"type": "add_tag", "tag_name": f"tag {run % TAGS}"},
    ]
    for step in range(FEW_POINTS):
        at = begun + timedelta(seconds=step)
        for metric in range(METRICS):
            value = math.sin(run + metric) + step
            messages.append(_point(f"metric_{metric}", step, value, at, CONTEXT))
    if is_over:
        over = begun + timedelta(seconds=FEW_POINTS)
        messages.append({"type": "finish_run", "client_datetime": over.isoformat()})
    return messages


def _point(
    name: str, step: int, value: float, at: datetime, context: dict[str, str] | None
) -> dict[str, Any]:
    return {
        "type": "log_metric",
        "name": name,
        "value": value,
        "step": step,
        "epoch": 0,
        "context": context,
        "dtype": "float",
        "client_datetime": at.isoformat(),
    }


def validated(run: str, messages: Messages, at: datetime) -> list[bytes]:
    """The records of a run's messages, as the frontier makes them."""
    stamp = at.strftime("%Y-%m-%dT%H:%M:%S.%fZ").encode()
    found = validate(json.dumps(messages).encode(), run.encode(), stamp)
    if found.rejected:
        raise RuntimeError(f"the frame is not as the contract wants it: {found.rejected[0]}")
    return found.records


async def _long(store: Store, rules: Rules, run: str, tag: str, metrics: int, points: int) -> None:
    """A run whose points come in commits of a thousand of each metric."""
    names = [f"metric_{metric}" for metric in range(metrics)]
    messages: Messages = [
        {"type": "create_run", "client_datetime": _BEGUN.isoformat()},
        {"type": "set_run_property", "name": run},
        {"type": "log_hparams", "value": {"hparams": {"lr": 0.5}}},
        {"type": "add_tag", "tag_name": tag},
        *(_point(name, 0, 0.0, _BEGUN, None) for name in names),
    ]
    await _commit(store, rules, partial(_apply, validated(run, messages, _BEGUN)))
    for first in range(1, points, _POINTS_AT_ONCE):
        columns = Columns()
        for step in range(first, min(first + _POINTS_AT_ONCE, points)):
            columns.append(step, math.sin(step / 100), 1.77e9 + step / 50, step // 100)
        await _commit(store, rules, partial(_append, run, names, columns))


def _append(run: str, names: list[str], columns: Columns, unit: Unit) -> None:
    # Beside `apply`, since ten million messages of JSON would take minutes. The sequences are there already.
    for name in names:
        unit.sequences.append_points(run, contexts.EMPTY, name, "float", columns)
