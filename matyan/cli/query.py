"""`matyan query`: runs, or the points of their metrics, that an expression is true of; as a table, CSV, JSON lines or Parquet.

What an expression means stands in `api/query/`, what a table holds in `reader/tables.py`; here it is only written.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

import click

from matyan.cli import views
from matyan.cli.export import cell
from matyan.cli.flags import PlaceName, read_options
from matyan.cli.output import (
    metrics_option,
    not_for_a_terminal,
    output_file,
    output_option,
    reading,
)
from matyan.reader import Reader
from matyan.service import json_text, terminal

FORMATS: Final = ("table", "csv", "jsonl", "parquet")
_SHOWN_POINTS: Final = 1000
"""What a terminal shows of more; a pipe gets all."""

Rows = Iterable[Sequence[object]]


@click.command()
@click.argument("query", default="")
@read_options
@metrics_option(
    "The points of the metrics of this name, in place of runs; may be repeated. The QUERY may be about `metric` then, too: its name, "
    "context, last and last_step."
)
@click.option(
    "--column",
    "-c",
    "columns",
    multiple=True,
    metavar="NAME",
    help="Show this attribute in the table, beside those that the QUERY names: hparams.batch; may be repeated.",
)
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The N newest runs.")
@click.option(
    "--format",
    "format_",
    type=click.Choice(FORMATS),
    help="Default: what the name of --output ends in, else a table.",
)
@output_option("The file to write.")
def query(
    query: str,
    store: PlaceName,
    names: tuple[str, ...],
    columns: tuple[str, ...],
    limit: int | None,
    format_: str | None,
    output: Path | None,
) -> None:
    """Find runs, or the points of their metrics, by an expression.

    QUERY is one of Python that is true of what you want: `run` has hash, name, experiment, tags, created_at, duration, active, archived,
    metrics["loss"].last, and what was logged, such as hparams. Without one all runs that are not archived are found.

    \b
      matyan query 'run.hparams.lr < 0.01 and "good" in run.tags'
      matyan query 'run.experiment == "digits"' -c hparams.lr
      matyan query 'run.created_at > datetime(2026, 1, 31)' --format csv
      matyan query 'run.metrics["loss"].last < 0.1' --format jsonl | jq -r .run
    \b
    The points of metrics, a row each: run, name, context, step, value, epoch, time.
      matyan query 'run.active' --metrics loss
      matyan query 'metric.context.subset == "val"' -m loss -m acc -o points.parquet
    \b
    In a pipe a table is lines with tabs, without a heading. CSV, JSON lines and Parquet have every column.
    """
    chosen = format_ or _by_name(output)
    if chosen == "parquet":
        not_for_a_terminal("Parquet", output)
    if chosen == "table" and output is not None:
        raise click.UsageError("A table is for standard output: name a --format for --output.")
    if names and (limit is not None or columns):
        raise click.UsageError(
            "--limit and --column are about runs: leave out --metrics, or these."
        )
    with reading(store) as opened:
        if names:
            _points(opened, query, names, chosen, output)
        else:
            _runs(opened, query, limit, columns, chosen, output)


def _by_name(output: Path | None) -> str:
    if output is None:
        return "table"
    ending = output.suffix.removeprefix(".").lower()
    if ending in FORMATS:
        return ending
    raise click.UsageError(
        f"Name a --format: {str(output)!r} does not end in .csv, .jsonl or .parquet."
    )


# --- runs ------------------------------------------------------------------------------------------


def _runs(
    opened: Reader,
    query: str,
    limit: int | None,
    columns: tuple[str, ...],
    format_: str,
    output: Path | None,
) -> None:
    table = opened.runs(query, limit=limit)
    if format_ == "table":
        _run_table(table, query, columns)
        return
    if columns:
        raise click.UsageError("--column is for the table: the other formats have every column.")
    with output_file(output) as out:
        if format_ == "parquet":
            import pyarrow.parquet as parquet

            parquet.write_table(table, out)
        else:
            rows = (row.values() for row in table.to_pylist())
            _WRITERS[format_](table.column_names, rows, out)


def _run_table(table: Any, query: str, columns: tuple[str, ...]) -> None:
    there = table.column_names
    for name in columns:
        if name.removeprefix("run.") not in there and table.num_rows:
            raise click.UsageError(
                f"None of these runs has {name!r}; `matyan query … --format csv` shows what they have."
            )
    asked = {name.removeprefix("run.") for name in columns}
    own = {"run", "name", "experiment", "tags", "active", "archived", "created"}
    extra = [
        name for name in there if name not in own and (name in asked or f"run.{name}" in query)
    ]
    rows = table.to_pylist()
    views.table(
        ("run", "name", "experiment", "tags", "state", "created", *extra),
        (
            (
                views.run_id(row["run"]),
                row["name"] or "",
                row["experiment"] or "",
                ", ".join(row["tags"]),
                views.state(row),
                views.moment(row["created"] and row["created"].timestamp()),
                *(_shown(row[name]) for name in extra),
            )
            for row in rows
        ),
        right=[name for name in extra if all(_is_number(row[name]) for row in rows)],
        whole=("state",),
        none="no runs",
    )


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))


def _shown(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, (bool, list)):
        return json_text.dumps(value, ascii=False)
    return views.number(value)


# --- points ----------------------------------------------------------------------------------------


def _points(
    opened: Reader, query: str, names: tuple[str, ...], format_: str, output: Path | None
) -> None:
    batches = opened.point_batches(query, names=names)
    if format_ == "table":
        _point_table(_rows(batches))
        return
    with output_file(output) as out:
        if format_ == "parquet":
            import pyarrow.parquet as parquet

            from matyan.reader.tables import POINTS

            with parquet.ParquetWriter(out, POINTS) as writer:
                for batch in batches:
                    writer.write_batch(batch)
        else:
            _WRITERS[format_](_POINT_COLUMNS, _rows(batches), out)


_POINT_COLUMNS: Final = ("run", "name", "context", "step", "value", "epoch", "time")


def _rows(batches: Iterable[Any]) -> Iterator[tuple[Any, ...]]:
    for batch in batches:
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


def _point_table(rows: Iterator[tuple[Any, ...]]) -> None:
    is_terminal, is_more = sys.stdout.isatty(), False
    if is_terminal:
        shown = list(itertools.islice(rows, _SHOWN_POINTS))
        is_more = next(rows, None) is not None
        rows = iter(shown)
    views.table(
        _POINT_COLUMNS,
        (
            (
                views.run_id(run),
                name,
                "" if context == "{}" else context,
                step,
                views.number(value) if is_terminal else repr(value),
                "" if epoch is None else f"{epoch:g}",
                views.moment(when) if is_terminal else repr(when),
            )
            for run, name, context, step, value, epoch, when in rows
        ),
        right=("step", "value", "epoch"),
        none="no points",
    )
    if is_more:
        terminal.note(
            f"These are the first {_SHOWN_POINTS:,} points: --format csv, or a pipe, has all of them."
        )


# --- files -----------------------------------------------------------------------------------------


def _write_csv(columns: Sequence[str], rows: Rows, out: BinaryIO) -> None:
    """RFC 4180: nothing for null, lists as JSON, times in ISO 8601."""
    out.write((",".join(map(cell, columns)) + "\n").encode())
    for row in rows:
        out.write((",".join(map(_csv_text, row)) + "\n").encode(errors="backslashreplace"))


def _csv_text(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, datetime):
        return _iso(value)
    if isinstance(value, (bool, list)):
        return cell(json_text.dumps(value, ascii=False))
    return repr(value) if isinstance(value, float) else cell(str(value))


def _write_jsonl(columns: Sequence[str], rows: Rows, out: BinaryIO) -> None:
    """One object a line: null for null, NaN and infinities as the strings of `json_text`, times in ISO 8601."""
    for row in rows:
        line = json_text.dumps(dict(zip(columns, row, strict=True)), default=_json_value)
        out.write(f"{line}\n".encode())


def _json_value(value: object) -> str:
    return _iso(value) if isinstance(value, datetime) else str(value)


def _iso(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


_WRITERS: Final[dict[str, Callable[[Sequence[str], Rows, BinaryIO], None]]] = {
    "csv": _write_csv,
    "jsonl": _write_jsonl,
}
