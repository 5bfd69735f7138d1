"""The commands that change runs: `matyan finish`, `matyan delete` and, for the space of what was deleted, `matyan compact`.

They choose runs, ask and tell; what is done is done by the process that feeds the store, through its log.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from matyan import reader
from matyan.cli import views
from matyan.cli.flags import place_options, run_filters, yes_option
from matyan.cli.output import reading
from matyan.errors import MatyanError, NotFound
from matyan.service import terminal
from matyan.store.open import ClusterName, StoreName

_NAMED_RUNS = 10
"""So many of the chosen runs are named in a question."""


def _chosen(
    opened: reader.Reader, names: Sequence[str], filters: dict[str, Any]
) -> list[views.Row]:
    """The runs that were named, or those that the filters let pass: never all of them by accident."""
    if bool(names) == bool(filters):
        raise click.UsageError("Name the runs, or choose them with filters such as --experiment.")
    return [*(opened.find(names) if names else opened.runs(**filters))]


def _abbreviated(names: Sequence[str], rows: Sequence[views.Row]) -> dict[str, str]:
    """The words that are no whole ids, and the runs that they were taken for."""
    ids = {row["run"] for row in rows}
    return {
        name: next(run for run in ids if run.startswith(name)) for name in names if name not in ids
    }


def _must_be_whole(verb: str, abbreviated: dict[str, str]) -> None:
    """What nobody is asked about needs the whole id: the run that was meant may be gone, and another begin with the same letters.

    Raises:
        NotFound: one is only the beginning of an id.
    """
    for name, run in abbreviated.items():
        raise NotFound(
            f"There is no run {name!r}, only {run}, which begins so: name it whole, or leave out --yes to be asked; "
            f"nothing was {verb}."
        )


def _note_abbreviated(abbreviated: dict[str, str]) -> None:
    for name, run in abbreviated.items():
        terminal.note(f"{terminal.clean(name)} is the beginning of {run}.")


def _confirm(verb: str, rows: Sequence[views.Row], what: str) -> None:
    if len(rows) > 1:
        for row in rows[:_NAMED_RUNS]:
            terminal.note(f"{row['run']}  {terminal.clean(row['name'] or '')}")
        if len(rows) > _NAMED_RUNS:
            terminal.note(f"… and {len(rows) - _NAMED_RUNS} more")
    if not terminal.ask(f"{verb} {what}?"):
        raise MatyanError(f"Nothing was {verb.lower().rstrip('e')}ed.")


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@place_options
@run_filters
@yes_option
def finish(runs: tuple[str, ...], store: StoreName, filters: dict[str, Any], yes: bool) -> None:
    """End runs that are active for ever, since their training was killed.

    A run's end is when it was last heard of, to the minute, and so its duration is true. A training that goes on is not
    stopped: what it still sends is stored. The beginning of an id is asked about; --yes takes whole ids alone.

    \b
      matyan finish 3f2a
      matyan finish --stale 1d
      matyan runs --stale 1h | cut -f1 | xargs matyan finish
    """
    with reading(store) as opened:
        rows = [row for row in _chosen(opened, runs, filters) if runs or row["active"]]
        abbreviated = _abbreviated(runs, rows)
        if yes:
            _must_be_whole("finished", abbreviated)
        elif rows and (filters or abbreviated):
            _note_abbreviated(abbreviated)
            _confirm(
                "Finish", rows, f"run {rows[0]['run']}" if len(rows) == 1 else f"{len(rows)} runs"
            )
        for row in rows:
            ended = opened.finish(row["run"])
            if ended["was_active"]:
                terminal.out(f"finished run {row['run']} ({views.duration(ended['duration'])})")
            else:
                terminal.note(f"Run {row['run']} had ended before.")
    if not rows:
        terminal.note("No such runs: `matyan runs` lists those that there are.")


@click.command()
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@place_options
@run_filters
@yes_option
def delete(runs: tuple[str, ...], store: StoreName, filters: dict[str, Any], yes: bool) -> None:
    """Delete runs, with their points, logs and artifacts, for good.

    The beginning of an id is enough where you are asked; --yes takes whole ids alone.

    \b
      matyan delete 3f2a
      matyan delete 3f2a 77b0
      matyan delete --experiment digits --finished
    """
    pending = False
    with reading(store) as opened:
        rows = _chosen(opened, runs, filters)
        abbreviated = _abbreviated(runs, rows)
        if yes:
            _must_be_whole("deleted", abbreviated)
        elif rows:
            _note_abbreviated(abbreviated)
            _confirm("Delete", rows, f"{_described(opened, rows)} for good")
        for row in rows:
            pending |= opened.delete(row["run"])["blobs_pending"]
            terminal.out(f"deleted run {row['run']}")
    if not rows:
        terminal.note("No such runs: `matyan runs` lists those that there are.")
    if pending:
        terminal.note("Artifacts are still being deleted: that goes on by itself.")


def _described(opened: reader.Reader, rows: Sequence[views.Row]) -> str:
    if len(rows) > 1:
        return f"{len(rows)} runs"
    shown = opened.show(rows[0]["run"])
    points = sum(sequence["points"] or 0 for sequence in shown["sequences"])
    return f"run {shown['run']} ({terminal.clean(shown['meta'].get('name'))}, {points} points)"


@click.command()
@place_options
def compact(store: StoreName) -> None:
    """Make the data folder as small as it can be, now.

    The space of deleted runs comes back by itself when little else is done. This rewrites everything, and takes a while; a
    tracker that runs goes on meanwhile. Artifacts are not touched.

    \b
      matyan compact
    """
    if isinstance(store, ClusterName):
        from matyan.folder.cluster import refuse_compaction

        refuse_compaction()
    with reading(store) as opened:
        sizes = opened.compact()
    terminal.out(f"{sizes['before']:,} bytes before, {sizes['after']:,} after")
