"""`matyan push` and `matyan pull`: runs of one tracker to another, with what a person is told meanwhile and at the end.

How runs travel stands in `moving/`. `bring` is for whatever else brings runs to a tracker, too.
"""

from __future__ import annotations

import hashlib
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import click
import trio

from matyan.cli import views
from matyan.cli.flags import (
    S3,
    CheckedPath,
    PlaceName,
    ServerName,
    age,
    as_json_option,
    data_option,
    read_options,
)
from matyan.cli.output import reading
from matyan.errors import ConfigurationError, MatyanError, NotFound
from matyan.folder.folder import MOVES
from matyan.moving import stored
from matyan.moving.folder import folder_target
from matyan.moving.ledger import Entry, Ledger
from matyan.moving.moved import Message, MovedRun
from matyan.moving.sender import PATIENCE_S, RUNS_AT_ONCE, WAY_OUT, Progress, Summary, send_runs
from matyan.moving.stored import Elsewhere, Source
from matyan.moving.target import Target
from matyan.moving.url import UrlTarget
from matyan.reader import Reader
from matyan.service import terminal
from matyan.store.open import FolderName

_SHOW_S: Final = 0.5
_NAMED: Final = 20

_LOST = "\n".join(
    textwrap.fill(row, 76, initial_indent="- ", subsequent_indent="  ") for row in stored.LOSSES
)


def url_of(context: click.Context, option: click.Parameter, value: str) -> str:
    """A callback of an option: the URL of a process."""
    if not value.lower().startswith(("http://", "https://")):
        raise click.BadParameter(f"{value!r}: expected http://[NAME:TOKEN@]HOST:PORT.")
    return value


def _move_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What `push` and `pull` have in common."""
    for option in reversed(
        (
            click.argument("runs", metavar="RUN...", nargs=-1),
            click.option("--all", "every", is_flag=True, help="Every run, archived ones too."),
            click.option(
                "--query",
                metavar="EXPRESSION",
                help="The runs that it is true of, as `matyan query` finds them.",
            ),
            click.option(
                "--as", "as_", metavar="NEW", help="The id that it is to have there; of one run."
            ),
            click.option(
                "--force",
                is_flag=True,
                help="Also into runs that are there and were not brought by this command: what has the same step is replaced, "
                "lines and records are added.",
            ),
            *bring_options,
            click.option("--dry-run", is_flag=True, help="Only say what would be sent."),
            as_json_option,
        )
    ):
        command = option(command)
    return command


bring_options = (
    click.option(
        "--at-once",
        type=click.IntRange(1, 64),
        default=RUNS_AT_ONCE,
        show_default=True,
        help="So many runs side by side.",
    ),
    click.option(
        "--wait",
        "patience_s",
        type=age,
        metavar="AGE",
        default=f"{PATIENCE_S:g}s",
        show_default=True,
        help="How long to wait for a target that goes away meanwhile.",
    ),
    click.option(
        "--ledger",
        type=CheckedPath(dir_okay=False),
        metavar="FILE",
        help="Where to keep what was acknowledged. Default: in the data folder, or under ~/.local/state/matyan.",
    ),
)
"""The options of whatever brings runs: `at_once`, `patience_s` and `ledger`, as `bring` takes them."""


@click.command()
@_move_options
@click.option(
    "--to",
    "url",
    metavar="URL",
    required=True,
    callback=url_of,
    help="The tracker or frontier, http://[NAME:TOKEN@]HOST:PORT.",
)
@read_options
def push(store: PlaceName, url: str, **given: Any) -> int:
    """Send runs to another tracker, artifacts too, each point once."""
    with reading(store) as opened:
        source = Source(opened, opened.artifact, _elsewhere(store))
        folder = store.folder if isinstance(store, FolderName) else None
        ledger = default_ledger(folder, "push", *([] if folder else [str(store)]), url)
        return _move(source, UrlTarget(url), ledger, **given)


@click.command()
@_move_options
@click.option(
    "--from",
    "url",
    metavar="URL",
    required=True,
    callback=url_of,
    help="A process that serves the read API: matyan up, or matyan api; http://[NAME:TOKEN@]HOST:PORT.",
)
@data_option
def pull(data: Path, url: str, **given: Any) -> int:
    """Bring runs of another tracker into a data folder, artifacts too, each point once."""
    with reading(ServerName(url)) as opened, folder_target(data) as target:
        source = Source(opened, opened.artifact, None)
        return _move(source, target, default_ledger(data, "pull", url), **given)


push.help = f"""Send runs to another tracker, artifacts too, each point once.

RUN is a run id or a unique beginning of one. The target is a tracker (matyan up) or a frontier; a frontier of the reference, too.

\b
  matyan push 3f2a --to http://tracker:53801
  matyan push --all --to https://laptop:TOKEN@tracker.example.org
  matyan push --query 'run.experiment == "digits"' --to http://tracker:53801
  matyan push 3f2a --as digits-1 --to http://tracker:53801
  SSL_CERT_FILE=ca.crt matyan push --all --to https://tracker:53801

Interrupted by whatever (Ctrl-C, a crash, the network, the target): the same command goes on where it was, by a ledger that it keeps
beside the data. Runs that were sent and have not changed since are passed over; of a run that still goes on what is there is sent, and
the same command sends the rest later.

\b
What does not come along:
{_LOST}

A frontier does not say what it has, as a tracker does. There a run of the same id is added to, and one that was deleted takes nothing,
without a word; log records are sent one by one, and one that was under way when the connection broke may stand there twice, which is
then said. A line is sent again at its own step, which changes nothing.

Exits with 1 when something was not taken; the summary says what.
"""

pull.help = f"""Bring runs of another tracker into a data folder, artifacts too, each point once.

RUN is a run id or a unique beginning of one. The data folder may be that of a running tracker, or nobody's; it is made where there is
none.

\b
  matyan pull 3f2a --from http://tracker:53801
  matyan pull --query 'run.metrics["loss"].last < 0.1' --from http://me:TOKEN@tracker:53801 --data best/
  matyan pull --all --from https://api.example.org --data copy/

The same command goes on where it was, and brings later what has come since.

\b
What does not come along:
{_LOST}

Exits with 1 when something was not taken; the summary says what.
"""


def _elsewhere(store: PlaceName) -> Callable[[], Elsewhere] | None:
    """Where the artifacts of a store are that Kafka feeds."""
    if isinstance(store, ServerName):
        return None

    def bucket() -> Elsewhere:
        from matyan.blobs.s3 import S3Blobs
        from matyan.settings import load

        blobs = S3Blobs(load(used=S3))
        return Elsewhere(blobs.pieces, blobs.held)

    return bucket


def default_ledger(folder: Path | None, what: str, *ends: str) -> Path:
    """The ledger of one source and one target: in the data folder that one of them is, else among the user's files.

    ends: what the others are; that folder is none of them, since it may be called by any path. By its token or a slash at its end no URL
        is told from others.
    """
    place = "\n".join(re.sub(r"//[^/@]*@", "//", one).rstrip("/") for one in ends)
    name = (
        f"{what}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:16]}.ledger"
    )
    if folder is not None:
        return folder.absolute() / MOVES / name
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "matyan" / name


def _move(
    source: Source,
    target: Target,
    default: Path,
    *,
    runs: tuple[str, ...],
    every: bool,
    query: str | None,
    as_: str | None,
    dry_run: bool,
    as_json: bool,
    ledger: Path | None,
    **given: Any,
) -> int:
    chosen = _chosen(source.reader, runs, every, query)
    if as_ is not None and len(chosen) != 1:
        raise click.UsageError(
            f"--as names one run, and these are {len(chosen)}: name one RUN with it."
        )
    moved = (_moved(source, run, as_) for run in chosen)
    if dry_run:
        _preview(target, moved, ledger or default, as_json=as_json)
        return 0
    brought = bring(target, moved, ledger or default, total=len(chosen), **given)
    if as_json:
        views.as_json(brought.row())
    else:
        report(brought)
    return 0 if brought.summary.is_clean else 1


def _moved(source: Source, run: str, as_: str | None) -> MovedRun:
    """A run; one that is gone by now fails, and only that."""
    try:
        return source.run(run, as_)
    except NotFound as error:
        gone = error

        def messages() -> Iterator[Message]:
            raise gone

        return MovedRun(as_ or run, messages, origin=run)


def _chosen(opened: Reader, runs: tuple[str, ...], every: bool, query: str | None) -> list[str]:
    """The ids, those of the oldest runs first."""
    if bool(runs) + every + (query is not None) != 1:
        raise click.UsageError("Name the runs: RUN..., --query EXPRESSION or --all.")
    rows: Iterable[dict[str, Any]]
    if query is not None:
        rows = opened.found("query_runs", query)
    else:
        rows = opened.rows() if every else opened.find(runs)
    found = [(row["created_at"] or 0.0, row["run"]) for row in rows if row is not None]
    return [run for _, run in sorted(found)]


# --- what a person sees ----------------------------------------------------------------------------


class Brought(NamedTuple):
    """What became of runs that were sent."""

    target: Target
    progress: Progress
    summary: Summary
    seconds: float

    def row(self) -> dict[str, Any]:
        """For JSON."""
        counts = asdict(self.progress)
        del counts["waiting"], counts["runs"]
        return {
            "target": str(self.target),
            **asdict(self.summary),
            **counts,
            "seconds": self.seconds,
        }


def bring(
    target: Target,
    runs: Iterable[MovedRun],
    ledger: Path,
    *,
    total: int | None,
    at_once: int = RUNS_AT_ONCE,
    patience_s: float = PATIENCE_S,
    force: bool = False,
    way_out: str = WAY_OUT,
) -> Brought:
    """Sends the runs, and shows how far that is. total: how many runs, where that is known. way_out: as `send_runs` takes it.

    Raises:
        MatyanError: the target takes nothing, or has been away for too long.
    """
    progress, summary = Progress(), Summary()

    async def work() -> float:
        begun = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, progress, total)
            await send_runs(
                target,
                runs,
                held,
                progress,
                summary,
                at_once=at_once,
                patience_s=patience_s,
                force=force,
                way_out=way_out,
            )
            nursery.cancel_scope.cancel()
        return trio.current_time() - begun

    with Ledger(ledger) as held, _goes_on():
        seconds = trio.run(partial(_unwrapped, work))
    return Brought(target, progress, summary, seconds)


async def _unwrapped(work: Callable[[], Any]) -> float:
    """The sentence of an error that came out of a nursery."""
    try:
        seconds: float = await work()
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, MatyanError):
            raise error from None
        raise
    return seconds


@contextmanager
def _goes_on() -> Iterator[None]:
    try:
        yield
    except ConfigurationError:
        raise
    except BaseException:
        terminal.progress("")
        terminal.note("Not all was sent: the same command goes on where this one was.")
        raise


async def _show(progress: Progress, total: int | None) -> None:
    """A line of a terminal; in a pipe nothing is shown."""
    points, moment = 0, trio.current_time()
    while True:
        await trio.sleep(_SHOW_S)
        now = trio.current_time()
        rate = (progress.points - points) / (now - moment)
        points, moment = progress.points, now
        of = "" if total is None else f" of {total:,}"
        waiting = f" · waits: {progress.waiting}" if progress.waiting else ""
        terminal.progress(
            f"{progress.runs:,}{of} runs · {progress.points:,} points · {progress.blobs:,} artifacts · "
            f"{progress.bytes / 1e6:,.1f} MB · {rate:,.0f} points/s{waiting}"
        )


def report(brought: Brought) -> None:
    """Says what became of them."""
    target, progress, summary, seconds = brought
    terminal.progress("")
    for run, sentence in summary.failed.items():
        terminal.note(f"{run}: {sentence}")
    named = summary.rejections[:_NAMED]
    for one in named:
        what = f"the artifact {one.path!r}" if one.path else one.kind or "a message"
        terminal.note(f"{one.run}: {what} was not taken: {one.reason}")
    if summary.rejected > len(named):
        terminal.note(
            f"… and {summary.rejected - len(named):,} more; --json names {len(summary.rejections)}."
        )
    for run, count in summary.perhaps_twice.items():
        terminal.note(
            f"{run}: {count} log records may stand there twice, since the connection broke while they were under way."
        )
    if summary.unconfirmed:
        terminal.note(
            f"{summary.unconfirmed:,} messages were taken, and were not stored yet when {target} said so: it goes on delivering them."
        )
    if not target.can_tell and summary.sent:
        terminal.note(
            f"{target} does not say what it has: that all is there can be seen where its runs are read."
        )
    failed = f", {len(summary.failed):,} could not be sent" if summary.failed else ""
    rejected = (
        f", {summary.rejected:,} messages and artifacts were not taken" if summary.rejected else ""
    )
    there = f", {len(summary.skipped):,} were there as they are" if summary.skipped else ""
    terminal.out(
        f"{len(summary.sent):,} runs sent{there}{failed}{rejected}: {progress.points:,} points, {progress.messages:,} messages, "
        f"{progress.blobs:,} artifacts, {progress.bytes / 1e6:,.1f} MB in {seconds:.1f} s."
    )


def _preview(target: Target, runs: Iterable[MovedRun], ledger: Path, *, as_json: bool) -> None:
    """What would be sent, a row a run."""
    trio.run(target.open)
    rows: list[tuple[str, int, str]] = []
    with Ledger(ledger) as held:
        for run in runs:
            standing = trio.run(target.standing, run.run_id) if target.can_tell else None
            state = _state(held.entry(run.run_id), run, is_there=standing is not None)
            rows.append((run.run_id, run.points or 0, state))
    names = ("run", "points", "state")
    if as_json:
        views.as_json([dict(zip(names, row, strict=True)) for row in rows])
    else:
        views.table(
            names, ((views.run_id(run), f"{points:,}", state) for run, points, state in rows)
        )


def _state(entry: Entry | None, run: MovedRun, *, is_there: bool) -> str:
    if entry is None:
        return "in the way: there is one of this id" if is_there else "new"
    if entry.done is not None and entry.done == run.version:
        return "there as it is"
    return "goes on"
