"""`matyan backup` and `matyan restore`: a data folder copied while it is used, the copies looked after, and a folder made of one again.

They ask whoever has the folder open for a moment of it, and print; what is done with files is `backups/`'s.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Final, cast

import click

from matyan import reader
from matyan.backups.make import (
    Made,
    Moment,
    is_fed_by_kafka,
    make,
    prune,
    refuse_inside,
)
from matyan.backups.manifest import Manifest
from matyan.backups.restore import restore as restore_
from matyan.backups.shelf import Backup, Shelf
from matyan.backups.verify import Finding, Sums, verify
from matyan.cli import views
from matyan.cli.flags import CheckedPath, as_json_option, place_options
from matyan.errors import ConfigurationError, MatyanError
from matyan.service import private, terminal
from matyan.store.open import ClusterName, FolderName, StoreName, is_named, named

_PROGRESS_S: Final = 0.2
"""How often a terminal hears how far it is."""

Row = dict[str, Any]

NO_CLUSTER: Final = (
    "A FoundationDB store is not copied file by file: its servers back it up while it is used, by FoundationDB's own `fdbbackup` (start "
    "-d file:///backups -z, and `fdbrestore`), with `backup_agent` running. `matyan backup` is for a data folder."
)


class _Backup(click.Group):
    """`backup DIR` is `backup create DIR`: a folder that is called as a command is, is ./list."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [create.name or "", *args]
        return super().parse_args(ctx, args)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with click.Context(create, info_name=create.name, parent=ctx) as inner:
            create.format_options(inner, formatter)
        self.format_commands(ctx, formatter)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[DIR] --to FOLDER [OPTIONS]", "|", "list FOLDER", "|", "verify FOLDER [NAME]"]


@click.group(cls=_Backup)
def backup() -> None:
    """Copy a data folder into FOLDER while it is used, or when it is not; list and verify the copies.

    DIR is the data folder; --data and MATYAN_DATA name it as they do for other commands. What was acknowledged before the command began is in
    the backup, with its artifacts; whoever feeds the folder goes on meanwhile. Run it as the user who runs that.

    \b
      matyan backup runs/ --to /mnt/backups/runs
      matyan backup runs/ --to /mnt/backups/runs --keep 14      # from cron
      matyan backup list /mnt/backups/runs
      matyan backup verify /mnt/backups/runs
      matyan restore /mnt/backups/runs --to runs-again/

    Several backups of one store stand in FOLDER, each whole and named by its time. A file that has not changed since the one before
    takes no place again: it is a link to it. Where FOLDER is on the same disk as DIR, files are links to those of DIR, which are
    never written again: cheap, and good against mistakes, but not against the loss of the disk; --full copies everything.

    \b
    In it:      the store, the artifacts (blobs), the tokens' digests, what each token has uploaded today
    Not in it:  the key that signs URLs of uploads (a restored tracker makes a new one: what was signed in the hour
                before is refused), the socket, locks, logs, what pushes and pulls have noted; what lies outside of DIR: certificates and their keys,
                a tokens file of MATYAN_TOKENS_FILE, settings; the artifacts of a worker's folder, which are in S3

    A backup is as secret as the folder: all of it can be read by its owner alone. One without manifest.json is none: the next backup
    removes what was cut off. FoundationDB has its own: fdbbackup.
    """


@backup.command("create")
@click.argument("folder", metavar="[DIR]", required=False)
@place_options
@click.option(
    "--to",
    type=CheckedPath(file_okay=False),
    required=True,
    metavar="FOLDER",
    help="Where the backups stand; made when it is not there. Best on another disk, and never in DIR.",
)
@click.option(
    "--keep",
    type=click.IntRange(1),
    metavar="N",
    help="Then remove the oldest, so that N are left; the new one is verified before. Default: keep all.",
)
@click.option(
    "--full", is_flag=True, help="Copy every file anew, and link none: after damage was found."
)
@as_json_option
def create(
    folder: str | None,
    store: StoreName,
    to: Path,
    keep: int | None,
    full: bool,
    as_json: bool,
) -> int:
    """Make a backup: `matyan backup DIR` is short for it.

    \b
      matyan backup runs/ --to /mnt/backups/runs
      matyan backup --data runs/ --to /mnt/backups/runs --keep 14 --json
    """
    data = _data_folder(folder, store)
    refuse_inside(data, to)
    private.set_umask()
    began = time.monotonic()
    shelf = Shelf(to.absolute())
    with shelf.writing(), _progress() as report:
        made = make(shelf, lambda: _moment(data), data, full=full, report=report)
        took = time.monotonic() - began
        gone, held, findings = (
            prune(shelf, made.backup, keep, report) if keep is not None else ([], [], [])
        )
    row = {**_row(made.backup), "copied_bytes": made.copied_bytes, "seconds": round(took, 3)}
    if as_json:
        views.as_json({**row, "removed": gone, "findings": [one._asdict() for one in findings]})
    else:
        terminal.out(made.backup.path)
    _advise(made, data, gone, held)
    if findings:
        _tell(findings)
        terminal.note(
            f"The backup {made.backup.name} shares damaged files with the one before, so none was removed: see to the disk of {to}, and "
            "make one with --full."
        )
        return 1
    return 0


@backup.command("list")
@click.argument("folder", type=CheckedPath(file_okay=False), metavar="FOLDER")
@as_json_option
def list_(folder: Path, as_json: bool) -> None:
    """List the backups in FOLDER, oldest first. Whether their files are what they were, `matyan backup verify` says.

    \b
    In a pipe: name, moment, files, bytes, new bytes, store, state; with tabs.
      matyan backup list /mnt/backups/runs
      matyan backup list /mnt/backups/runs --json | jq -r '.[-1].name'
    """
    shelf = _shelf(folder)
    rows = [_row(one) for one in shelf.backups()]
    if as_json:
        views.as_json(rows)
    else:
        views.backups(rows)
    for name in shelf.unfinished():
        terminal.note(f"{name} is not finished: it is being made, or the next backup removes it.")


@backup.command("verify")
@click.argument("folder", type=CheckedPath(file_okay=False), metavar="FOLDER")
@click.argument("name", required=False)
@as_json_option
def verify_(folder: Path, name: str | None, as_json: bool) -> int:
    """Read every file of the backup NAME again, or of all in FOLDER, and compare its checksum.

    Exit code 1: a file is damaged, missing, or was not put there by the backup; each is named.

    \b
    In a pipe: name, ok; or name, kind, path, meaning; with tabs.
      matyan backup verify /mnt/backups/runs
      matyan backup verify /mnt/backups/runs 20261127T201503Z --json
    """
    shelf = _shelf(folder)
    backups = shelf.backups() if name is None else [shelf.find(name)]
    if not backups:
        shelf.find(None)
    sums = Sums()
    found: dict[str, list[Finding]] = {}
    with _progress() as report:
        for one in backups:
            with one.held():
                found[one.name] = [*verify(one, sums, report)]
    if as_json:
        views.as_json(
            [
                {"name": one, "findings": [finding._asdict() for finding in findings]}
                for one, findings in found.items()
            ]
        )
    else:
        for one_name, findings in found.items():
            for finding in findings:
                terminal.out(one_name, *finding)
            if not findings:
                terminal.out(one_name, "ok")
    return int(any(found.values()))


@click.command()
@click.argument("folder", type=CheckedPath(file_okay=False), metavar="FOLDER")
@click.argument("name", required=False)
@click.option(
    "--to",
    type=CheckedPath(file_okay=False),
    required=True,
    metavar="DIR",
    help="The new data folder; one that is there must be empty.",
)
@as_json_option
def restore(folder: Path, name: str | None, to: Path, as_json: bool) -> int:
    """Make the data folder DIR of the backup NAME in FOLDER, or of the newest.

    Every checksum is compared before anything is written. All files are copied: the backup stays as it is, and one that is damaged later does
    not damage the folder. What was cut off is removed by the next attempt, and no service starts on it.

    \b
      matyan restore /mnt/backups/runs --to runs-again/
      matyan restore /mnt/backups/runs 20261127T201503Z --to runs-again/
      matyan up --data runs-again/

    The folder has the id of its original: never run both. That of a worker goes on in Kafka where the backup's stored offsets are, so
    nothing is missing and nothing there twice, as long as Kafka keeps the records from there on. What `matyan up` has taken after the backup is not
    in it.
    """
    private.set_umask()
    found = _shelf(folder).find(name)
    with found.held(), _progress() as report:
        manifest = _good(found, [*verify(found, Sums(), report)])
        began = time.monotonic()
        restore_(found, manifest, to.absolute(), report)
    if as_json:
        row = {**_row(found), "to": str(to.absolute())}
        views.as_json({**row, "seconds": round(time.monotonic() - began, 3)})
    else:
        terminal.out(to)
    if is_fed_by_kafka(manifest):
        go_on = f"matyan ingest-worker --store {FolderName(to)}"
        terminal.note(
            f"It goes on in Kafka from the offsets of the backup ({views.moment(manifest.moment)}), with: {go_on}. The artifacts are "
            "where they were, in S3."
        )
    else:
        terminal.note(
            f"It is as it was at {views.moment(manifest.moment)}; go on with: matyan up --data {to}."
        )
    terminal.note(
        f"It has the id of its original, {manifest.store} (then in {manifest.folder}): never run both."
    )
    return 0


def _good(found: Backup, findings: list[Finding]) -> Manifest:
    """
    Raises:
        MatyanError: something is wrong with it; what, is told.
    """
    if found.manifest is not None and not findings:
        return found.manifest
    _tell(findings)
    raise MatyanError(
        f"The backup {found.name} is damaged, and nothing was restored: name another one of `matyan backup list {found.path.parent}`."
    )


# --- places ----------------------------------------------------------------------------------------


def _data_folder(folder: str | None, store: StoreName) -> Path:
    """
    Raises:
        ConfigurationError: it is a cluster's store.
    """
    if folder is not None:
        context = click.get_current_context()
        given = click.core.ParameterSource.COMMANDLINE
        if given in map(context.get_parameter_source, ("data", "store")):
            raise click.UsageError("Name the data folder once: as DIR, or with --data.")
        try:
            store = named(folder) if is_named(folder) else FolderName(Path(folder))
        except ValueError as error:
            raise click.BadParameter(f"{folder!r}: {error}.") from error
        if isinstance(store, FolderName):
            CheckedPath(inside=True, utf8=True).convert(store.folder, None, None)
    if isinstance(store, ClusterName):
        raise ConfigurationError(NO_CLUSTER)
    return store.folder.absolute()


def _shelf(folder: Path) -> Shelf:
    """
    Raises:
        ConfigurationError: there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigurationError(
            f"There is no folder {folder}: name the one in which the backups stand, or make one with `matyan backup DIR --to {folder}`."
        )
    return Shelf(folder.absolute())


@contextmanager
def _moment(data: Path) -> Iterator[Moment]:
    """A moment of the folder, by whoever has it open, for as long as the block lasts."""
    with reader.open(data) as opened:
        at = time.time()
        words = cast("Generator[Row, None, None]", opened.ask("checkpoint"))
        with closing(words):
            place = next(words)
            blobs = place["blobs"]
            yield Moment(at, data / place["path"], None if blobs is None else data / blobs)


# --- what is told ----------------------------------------------------------------------------------


def _row(one: Backup) -> Row:
    manifest = one.manifest
    if manifest is None:
        return {"name": one.name, "path": str(one.path), "state": one.trouble}
    facts = asdict(replace(manifest, files={}))
    return {
        "name": one.name,
        "path": str(one.path),
        "state": "finished",
        **facts,
        "files": len(manifest.files),
        "bytes": manifest.bytes,
    }


def _tell(findings: list[Finding]) -> None:
    for one in findings:
        terminal.note(f"{one.kind}: {one.path}: {one.meaning}")


def _advise(made: Made, data: Path, gone: list[str], held: list[str]) -> None:
    manifest = made.manifest
    terminal.note(
        f"{len(manifest.files):,} files, {manifest.bytes:,} bytes; new: {manifest.new_files:,} files, {manifest.new_bytes:,} bytes"
    )
    if manifest.blobs == "s3":
        terminal.note("The artifacts of this store are in S3, and not in the backup.")
    if made.is_linked:
        terminal.note(
            f"It is on the same file system as {data}, and shares files with it: for the loss of a disk make one on another disk, too."
        )
    if made.unknown:
        terminal.note(f"Not in the backup, since no command has made it: {', '.join(made.unknown)}")
    for name in gone:
        terminal.note(f"removed {name}")
    for name in held:
        terminal.note(f"{name} is being read, and stays.")


@contextmanager
def _progress() -> Iterator[Any]:
    """Tells a terminal now and then how far it is."""
    next_s = 0.0

    def report(what: str, done: int, total: int) -> None:
        nonlocal next_s
        if time.monotonic() >= next_s:
            next_s = time.monotonic() + _PROGRESS_S
            share = f" {done / total:.0%} of {total / 1e6:,.0f} MB" if total else ""
            terminal.progress(f"{what}{share}")

    try:
        yield report
    finally:
        terminal.progress("")
