"""The commands that show what a store holds: `matyan runs`, `matyan show` and `matyan logs`.

They only ask and print: answers come through `reader/`, text through `views.py` and `plot.py`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import click

from matyan import reader
from matyan.cli import views
from matyan.cli.flags import PlaceName, as_json_option, read_options, run_filters
from matyan.cli.output import reading
from matyan.cli.plot import draw, metrics_named
from matyan.errors import NotFound


@click.command()
@read_options
@run_filters
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The N newest.")
@click.option(
    "--counts", is_flag=True, help="Count sequences and points, too: long for large runs."
)
@as_json_option
def runs(
    store: PlaceName, filters: dict[str, Any], limit: int | None, counts: bool, as_json: bool
) -> None:
    """List the runs, newest first, and when each was last heard of.

    \b
    In a pipe: one line a run, with tabs, without a heading.
      matyan runs --experiment digits --limit 5
      matyan runs --stale 1h
      matyan runs --counts --json | jq '.[] | select(.points > 1000) | .run'
    """
    with reading(store) as opened:
        rows: Iterable[dict[str, Any]] = opened.runs(limit=limit, counts=counts, **filters)
        if counts:
            with _counting(rows) as counted:
                rows = list(counted)
        if as_json:
            views.as_json(list(rows))
        else:
            views.runs(rows, counts=counts)


@contextmanager
def _counting(rows: Iterable[dict[str, Any]]) -> Iterator[Iterable[dict[str, Any]]]:
    """Counts the rows as they come, on a terminal's standard error."""
    if not sys.stderr.isatty():
        yield rows
        return
    from rich.console import Console

    with Console(stderr=True).status("counting") as status:

        def counted() -> Iterator[dict[str, Any]]:
            for number, row in enumerate(rows, 1):
                status.update(f"counted {number} runs")
                yield row

        yield counted()


@click.command()
@click.argument("run")
@read_options
@click.option("--plot", metavar="NAME", help="Draw this metric, in each of its contexts.")
@as_json_option
def show(run: str, store: PlaceName, plot: str | None, as_json: bool) -> None:
    """Show one run: its parameters, and its sequences with their last values.

    \b
      matyan show 3f2a
      matyan show 3f2a --plot loss
      matyan show 3f2a --json | jq .attrs.hparams
    """
    with reading(store) as opened:
        shown = opened.show(run)
        if as_json:
            views.as_json(shown)
        elif plot is None:
            views.show(shown)
        else:
            _draw(opened, shown, plot)


def _draw(opened: reader.Reader, shown: views.Row, name: str) -> None:
    """
    Raises:
        NotFound: the run has no metric of this name.
    """
    is_drawn = False
    for sequence in metrics_named(shown, name):
        blocks = opened.blocks(shown["run"], name=name, context=sequence["context"])
        first = next(blocks, None)
        # Objects come behind the points of their sequence.
        if first is not None and first.points is None:
            continue
        views.heading(views.title(sequence))
        draw(blocks if first is None else chain([first], blocks), sequence["last_step"])
        is_drawn = True
    if not is_drawn:
        raise NotFound(
            f"{name!r} is no metric: run {shown['run']} has objects there; "
            f"`matyan export {shown['run']} --format jsonl` writes them."
        )


@click.command()
@click.argument("run")
@read_options
@as_json_option
def logs(run: str, store: PlaceName, as_json: bool) -> None:
    """Print a run's log records and terminal lines, by time.

    \b
    With --json, one object a line: kind ("record" or "line"), step, message, level, time.
      matyan logs 3f2a
      matyan logs 3f2a --json | jq -r 'select(.level >= 30) | .message'
    """
    with reading(store) as opened:
        rows = opened.logs(run)
        if as_json:
            views.json_lines(rows)
        else:
            views.logs(rows)
