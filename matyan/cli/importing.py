"""`matyan import`: runs of other trackers' files, into a data folder or to a URL; what could not be taken is said.

The readers stand in `importers/`, the sending in `moving/`; here is what connects them, and what is printed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from matyan import _codec
from matyan.cli import move, views
from matyan.cli.flags import CheckedPath, as_json_option, data_option
from matyan.cli.move import Brought
from matyan.errors import ConfigurationError, MatyanError
from matyan.importers import programs
from matyan.importers.programs import PROGRAMS
from matyan.importers.source import Blob, Message, Report, Run, Tally
from matyan.moving.folder import folder_target
from matyan.moving.moved import MovedBlob, MovedRun, Unwritable, encoded
from matyan.moving.sender import Summary
from matyan.moving.target import Refused, Target
from matyan.moving.url import UrlTarget
from matyan.service import terminal
from matyan.service.logs import get_logger

log = get_logger()

T = TypeVar("T")

_FRAME_ITEMS: Final = 1000
_WAY_OUT: Final = "add to it with --force, or import into another data folder"
_COUNTED: Final = {
    "log_metric": "points",
    "log_custom_object": "objects",
    "log_terminal_line": "lines",
    "log_record": "records",
    "add_tag": "tags",
    "log_hparams": "attributes",
}
"""What a dry run counts of each run."""


def _url(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    return None if value is None else move.url_of(context, option, value)


def _with(options: Sequence[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.command(name="import")
@click.argument("program", type=click.Choice([*PROGRAMS]))
@click.argument("path", type=CheckedPath(exists=True))
@data_option
@click.option(
    "--to",
    "url",
    metavar="URL",
    callback=_url,
    help="A tracker in place of the data folder, http://[NAME:TOKEN@]HOST:PORT.",
)
@click.option("--dry-run", is_flag=True, help="Say what would be taken, and send nothing.")
@click.option(
    "--force",
    is_flag=True,
    help="Add to runs, too, that the tracker has and that were not sent from here: their log lines may then stand there twice.",
)
@_with(move.bring_options)
@as_json_option
def import_(
    program: str,
    path: Path,
    data: Path,
    url: str | None,
    dry_run: bool,
    force: bool,
    ledger: Path | None,
    as_json: bool,
    **given: Any,
) -> int:
    """Bring in the runs of another tracker: tensorboard, aim, wandb, mlflow or trackio, from its files.

    \b
    PATH is
      tensorboard  a folder of event files, at any depth, or one such file
      aim          a folder with a repository (.aim)
      wandb        a folder with runs (wandb/offline-run-…), or one .wandb file
      mlflow       a SQLite database (mlflow.db), or a folder mlruns
      trackio      trackio's folder (TRACKIO_DIR), or a project's .db

    Nothing is written there. A run gets an id that follows from the one that it has there: calling this again goes on where it was
    interrupted, adds what has come since, and brings in nothing twice. What a run here has no place for is counted and named.

    \b
      matyan import tensorboard ./runs --dry-run
      matyan import wandb ./wandb
      matyan import mlflow mlflow.db --to http://tracker:53801

    The exit code is 0 when all that was read is there, 1 when something was damaged or refused.
    """
    source = click.get_current_context().get_parameter_source("data")
    if url is not None and source is click.core.ParameterSource.COMMANDLINE:
        raise click.UsageError("Name one place, with --to or with --data.")
    taken = _Import(program, path)
    if dry_run:
        _print(taken, [*taken.tried()], None, as_json)
    else:
        with _target(data, url) as target:
            place = ledger or _ledger(program, data, url)
            brought = move.bring(
                target, taken.moved(), place, total=None, force=force, way_out=_WAY_OUT, **given
            )
        _print(taken, [*taken.sent(brought.summary)], brought, as_json)
    return 0 if taken.is_clean else 1


# --- what is imported --------------------------------------------------------------------------------


@dataclass
class _Import:
    """One call: the runs of a source, and what their readers have said."""

    program: str
    path: Path
    report: Report = field(default_factory=Report)
    """Of the source as a whole."""
    labels: dict[str, str] = field(default_factory=dict)
    of_messages: dict[str, Report] = field(default_factory=dict)
    of_blobs: dict[str, Report] = field(default_factory=dict)
    """Of each run, by its last reading: one that was interrupted is read again."""
    failed: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Tally] = field(default_factory=dict)
    """Kind and reason of messages and blobs that are not taken."""

    def runs(self) -> Iterator[Run]:
        for run in self._read(str(self.path), programs.runs, self.program, self.path, self.report):
            self.labels[run.id] = run.label
            yield run

    def moved(self) -> Iterator[MovedRun]:
        """The runs as a sender takes them."""
        for run in self.runs():
            yield MovedRun(
                run.id, partial(self._messages, run), partial(self._blobs, run), run.version
            )

    def _messages(self, run: Run) -> Iterator[Message]:
        report = self.of_messages[run.id] = Report()
        return self._read(run.label, run.messages, report)

    def _blobs(self, run: Run) -> Iterator[MovedBlob]:
        report = self.of_blobs[run.id] = Report()
        return map(_moved, self._read(run.label, run.blobs, report))

    def _read(self, what: str, read: Callable[..., Iterator[T]], *given: Any) -> Iterator[T]:
        """What a reader gives. Files may hold anything: what their reader did not reckon with ends `what`, in a sentence."""
        try:
            yield from read(*given)
        except MatyanError:
            raise
        except Exception as error:
            log.debug("a reader failed", what=what, exc_info=True)
            raise ConfigurationError(
                f"{what} cannot be read: it is damaged, or not as {self.program} writes it ({type(error).__name__}: {error})."
            ) from error

    def tried(self) -> Iterator[dict[str, Any]]:
        """What each run would be, judged as a tracker does."""
        for run in self.runs():
            counts = dict.fromkeys(_COUNTED.values(), 0)
            sizes: list[int] = []
            state = "would be imported"
            try:
                for message in self._judged(run):
                    if counted := _COUNTED.get(message["type"]):
                        counts[counted] += 1
                sizes += (blob.size or 0 for blob in self._blobs(run))
            except MatyanError as error:
                self.failed[run.id] = str(error)
                state = "cannot be read as a whole"
            yield {
                "run": run.id,
                "name": run.label,
                "state": state,
                **counts,
                "artifacts": len(sizes),
                "bytes": sum(sizes),
            }

    def _judged(self, run: Run) -> Iterator[Message]:
        held: list[tuple[Message, bytes]] = []
        for message in self._messages(run):
            try:
                held.append((message, encoded(message)))
            except Unwritable as error:
                self._refuse(message["type"], str(error), run.label)
            if len(held) == _FRAME_ITEMS:
                yield from self._valid(run, held)
                held = []
        yield from self._valid(run, held)

    def _valid(self, run: Run, held: list[tuple[Message, bytes]]) -> Iterator[Message]:
        frame = b"[" + b",".join(data for _, data in held) + b"]"
        found = _codec.validate(frame, run.id.encode(), b"2026-01-01T00:00:00.000000Z")
        for _, kind, reason in found.rejected:
            self._refuse(kind, reason, run.label)
        bad = {index for index, _, _ in found.rejected}
        yield from (message for at, (message, _) in enumerate(held) if at not in bad)

    def _refuse(self, kind: str, reason: str, example: str, count: int = 1) -> None:
        what = f"{kind}: {reason}" if kind else reason
        self.refused.setdefault(what, Tally()).add(example, count)

    def sent(self, summary: Summary) -> Iterator[dict[str, Any]]:
        """What became of each run."""
        for rejection in summary.rejections:
            example = rejection.path or self.labels.get(rejection.run, rejection.run)
            self._refuse(rejection.kind, rejection.reason, example)
        more = summary.rejected - len(summary.rejections)
        if more > 0:
            self._refuse("", "and others", "", more)
        for run, count in summary.perhaps_twice.items():
            self._refuse("log_record", "may stand there twice", self.labels[run], count)
        self.failed = summary.failed
        states = dict.fromkeys(summary.sent, "imported") | dict.fromkeys(
            summary.skipped, "unchanged"
        )
        for run, label in self.labels.items():
            yield {"run": run, "name": label, "state": states.get(run, "failed")}

    @property
    def is_clean(self) -> bool:
        return not (self.failed or self.refused or self.whole().damaged)

    def whole(self) -> Report:
        """Of the source and all its runs."""
        whole = Report()
        for report in (self.report, *self.of_messages.values(), *self.of_blobs.values()):
            whole.add(report)
        return whole


def _moved(blob: Blob) -> MovedBlob:
    def pieces() -> Iterator[bytes]:
        try:
            yield from blob.read()
        except OSError as error:  # the target's own are another matter
            raise Refused(f"Its file cannot be read ({error.strerror}).") from None

    return MovedBlob(blob.path, blob.content_type, blob.size, pieces, blob.version)


# --- sending -----------------------------------------------------------------------------------------


@contextmanager
def _target(data: Path, url: str | None) -> Iterator[Target]:
    if url is not None:
        yield UrlTarget(url)
    else:
        with folder_target(data) as target:
            yield target


def _ledger(program: str, data: Path, url: str | None) -> Path:
    """One for all sources of a program: the ids of runs say which they are, wherever their files are moved."""
    folder = None if url is not None else data
    return move.default_ledger(folder, f"import-{program}", *([] if url is None else [url]))


# --- what is printed ---------------------------------------------------------------------------------


def _print(
    taken: _Import, rows: list[dict[str, Any]], brought: Brought | None, as_json: bool
) -> None:
    """brought: None where nothing was sent."""
    whole = taken.whole()
    if as_json:
        views.as_json(
            {
                **(brought.row() if brought else {}),
                "program": taken.program,
                "path": str(taken.path),
                "runs": rows,
                "failed": taken.failed,
                "refused": _tallies(taken.refused),
                "damaged": _tallies(whole.damaged),
                "left_out": _tallies(whole.left_out),
                "changed": _tallies(whole.changed),
            }
        )
        return
    columns = (
        [name for name in rows[0] if name != "state" or "points" not in rows[0]]
        if rows
        else ["run"]
    )
    views.table(
        columns,
        ([row[column] for column in columns] for row in rows),
        right=[column for column in columns if column not in ("run", "name", "state")],
        none="There are no runs.",
    )
    if brought is not None:
        move.report(brought)
    else:
        for run, sentence in taken.failed.items():
            terminal.note(f"{taken.labels[run]}: {sentence}")
    for heading, tallies in (
        ("Refused", {} if brought else taken.refused),
        ("Damaged", whole.damaged),
        ("Left out", whole.left_out),
        ("Changed", whole.changed),
    ):
        for kind, tally in tallies.items():
            terminal.note(f"{heading}: {tally.count:,} × {kind} ({_examples(tally)})")


def _examples(tally: Tally) -> str:
    more = " …" if tally.count > len(tally.examples) else ""
    return ", ".join(map(terminal.clean, tally.examples)) + more


def _tallies(tallies: dict[str, Tally]) -> list[dict[str, Any]]:
    return [
        {"kind": kind, "count": tally.count, "examples": tally.examples}
        for kind, tally in tallies.items()
    ]
