"""`matyan compare`: in what runs differ, beside each other: their parameters, and the last, lowest and highest values of their metrics."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

import click

from matyan.cli import views
from matyan.cli.flags import PlaceName, as_json_option, read_options
from matyan.cli.output import metrics_option, reading
from matyan.errors import NotFound
from matyan.reader import Reader
from matyan.reader.columns import leaves
from matyan.service import json_text

_ABOUT: Final = ("name", "experiment", "tags", "duration")
_VALUES: Final = ("last", "min", "max")
_SYSTEM: Final = "__system__"

_RUN_COLUMNS: Final = 15
"""What a run takes in a terminal: twelve digits of its id, and as many of a number."""

Row = dict[str, Any]


@click.command()
@click.argument("runs", metavar="RUN RUN…", nargs=-1, required=True)
@read_options
@metrics_option("Only metrics of this name; may be repeated.")
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="Show what is the same in all of them, and the metrics of the system, too.",
)
@as_json_option
def compare(
    runs: tuple[str, ...],
    store: PlaceName,
    names: tuple[str, ...],
    everything: bool,
    as_json: bool,
) -> None:
    """Show in what runs differ, and how their metrics ended.

    A column a run: the parameters that are not the same in all of them, then of each metric its last value, and the lowest and the highest
    of its finite ones.

    \b
      matyan compare 3f2a 81c0 9d7e
      matyan compare 3f2a 81c0 --metrics loss --all
      matyan compare 3f2a 81c0 --json | jq '.metrics[] | select(.name == "loss")'
    """
    with reading(store) as opened:
        found = [row["run"] for row in opened.find(runs)]
        if len(found) < 2:
            raise click.UsageError("Name two runs or more: there is nothing to compare one with.")
        about = _about(opened, found)
        metrics = _metrics(opened, found, names, everything)
    parameters = {
        name: values
        for name, values in _beside(about).items()
        if everything or len({json_text.dumps(value) for value in values}) > 1
    }
    if as_json:
        views.as_json({"runs": found, "parameters": parameters, "metrics": metrics})
    else:
        _show(found, parameters, metrics)


def _of(runs: Sequence[str]) -> str:
    """The query for these runs, archived ones too."""
    return f"run.hash in {json.dumps(runs)} and run.archived in [True, False]"


def _about(opened: Reader, runs: Sequence[str]) -> list[Row]:
    rows = {row["run"]: row for row in opened.found("query_runs", _of(runs)) if row}
    gone = [run for run in runs if run not in rows]
    if gone:
        raise NotFound(f"Run {gone[0]} was deleted meanwhile: compare the others.")
    return [rows[run] for run in runs]


def _beside(rows: Iterable[Row]) -> dict[str, list[Any]]:
    """The values of each parameter, None where a run has it not."""
    rows = [*rows]
    found: dict[str, list[Any]] = {}
    for place, row in enumerate(rows):
        own = [(name, row[name]) for name in _ABOUT]
        for name, value in [*own, *leaves(row["attrs"], _ABOUT)]:
            found.setdefault(name, [None] * len(rows))[place] = value
    return found


def _metrics(
    opened: Reader, runs: Sequence[str], names: Sequence[str], everything: bool
) -> list[Row]:
    """Name, context, and of each run, by its id, what `Reader.metric_values` has; by name and context."""
    found: dict[tuple[str, str], Row] = {}
    for row in opened.metric_values(_of(runs), names=names or None):
        if row["name"].startswith(_SYSTEM) and not (everything or names):
            continue
        head = {"name": row["name"], "context": row["context"]}
        key = row["name"], json_text.dumps(row["context"])
        values = {name: row[name] for name in (*_VALUES, "first", "last_step", "points")}
        found.setdefault(key, {**head, "runs": {}})["runs"][row["run"]] = values
    return [found[key] for key in sorted(found)]


def _show(runs: Sequence[str], parameters: dict[str, list[Any]], metrics: list[Row]) -> None:
    shown = [views.run_id(run) for run in runs]
    views.heading("Parameters that differ")
    for part in _parts(len(runs), [*parameters]):
        views.table(
            ("parameter", *shown[part]),
            (
                (name, *(_cell(name, value) for value in values[part]))
                for name, values in parameters.items()
            ),
            none="none",
        )
    views.heading("Metrics")
    titles = [views.title(metric) for metric in metrics]
    for part in _parts(len(runs), [f"{title}   value" for title in titles]):
        views.table(
            ("metric", "value", *shown[part]),
            (
                (
                    title,
                    value,
                    *(_number(metric["runs"].get(run, {}).get(value)) for run in runs[part]),
                )
                for title, metric in zip(titles, metrics, strict=True)
                for value in _VALUES
            ),
            right=shown[part],
            whole=("value",),
            none="none",
        )


def _parts(runs: int, names: Sequence[str]) -> Iterator[slice]:
    """As many of the runs at a time as there is room for in a terminal, beside the names."""
    most = runs
    if sys.stdout.isatty():
        room = views.terminal_width() - max(map(len, names), default=0)
        most = max(1, room // _RUN_COLUMNS)
    return (slice(begin, begin + most) for begin in range(0, runs, most))


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name == "duration":
        return views.duration(value)
    if name == "tags":
        return ", ".join(value) or "–"
    return value if isinstance(value, str) else json_text.dumps(value, ascii=False)


def _number(value: float | None) -> str:
    return "–" if value is None else views.number(value)
