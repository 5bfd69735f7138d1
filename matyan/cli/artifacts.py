"""`matyan artifacts`: the list of a run's artifacts, and their bytes back as files.

The list comes from the store. The bytes lie in its data folder, or in S3 where Kafka feeds it; then this process
asks S3 itself. Paths are a client's: whatever they say, nothing is written outside of the folder that was named.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from matyan.cli import views
from matyan.cli.flags import S3, CheckedPath, as_json_option, place_options
from matyan.cli.output import not_for_a_terminal, output_file, output_option, reading
from matyan.errors import ConfigurationError, NotFound
from matyan.service import terminal
from matyan.service.terminal import clean
from matyan.store.open import StoreName

_NAME_BYTES = 200
"""The longest name of a file below --all DIR; file systems take 255."""

Advance = Callable[[int], None]
"""Told of each number of bytes that came."""
Fetch = Callable[[str, str], Iterator[bytes]]
"""The bytes of run and path."""


@click.command()
@click.argument("run")
@place_options
@click.option("--get", "path", metavar="PATH", help="Write the bytes of this artifact.")
@output_option("The file for --get.")
@click.option(
    "--all",
    "folder",
    type=CheckedPath(file_okay=False),
    metavar="DIR",
    help="Write every artifact to a file below this folder.",
)
@as_json_option
def artifacts(
    run: str,
    store: StoreName,
    path: str | None,
    output: Path | None,
    folder: Path | None,
    as_json: bool,
) -> None:
    """List a run's artifacts, or bring them back.

    One that was signed and never uploaded has no bytes. The artifacts of a store that Kafka feeds are in S3, which is asked
    with the S3_… variables of the services.

    \b
    In a pipe: path, bytes, type; with tabs.
      matyan artifacts 3f2a
      matyan artifacts 3f2a --get model.pt -o model.pt
      matyan artifacts 3f2a --all ./artifacts
      matyan artifacts 3f2a --json | jq -r '.[] | select(.bytes == null) | .path'
    """
    if (path is not None) + (folder is not None) + as_json > 1:
        raise click.UsageError("Name only one of --get, --all and --json.")
    if output is not None and path is None:
        raise click.UsageError("Name the artifact with --get: --output is where its bytes go.")
    if folder == Path("-"):
        raise click.UsageError(
            "Name a folder with --all: standard output takes one artifact, with --get."
        )
    if path is not None:
        not_for_a_terminal("an artifact", output)
    with reading(store) as opened:
        (row,) = opened.find([run])
        run = row["run"]
        rows = [*opened.artifacts(run)]
        fetch: Fetch = opened.artifact
        if rows and "bytes" not in rows[0]:
            from matyan.blobs.s3 import S3Blobs
            from matyan.settings import load

            blobs = S3Blobs(load(used=S3))
            fetch, there = blobs.pieces, blobs.held(run)
            rows = [{**one, "bytes": there.get(one["path"], (None,))[0]} for one in rows]
        if path is not None:
            _get(fetch, run, rows, path, output)
        elif folder is not None:
            _get_all(fetch, run, rows, folder)
        elif as_json:
            views.as_json(rows)
        else:
            views.artifacts(rows)


def _get(fetch: Fetch, run: str, rows: Sequence[views.Row], path: str, file: Path | None) -> None:
    row = next((one for one in rows if one["path"] == path), None)
    if row is None:
        raise NotFound(
            f"Run {run} has no artifact {path!r}: `matyan artifacts {run}` lists those that it has."
        )
    if row["bytes"] is None:
        raise NotFound(f"The artifact {path!r} of run {run} has no bytes: it was never uploaded.")
    with output_file(file) as out, _progress(row["bytes"]) as advance:
        for piece in fetch(run, path):
            out.write(piece)
            advance(len(piece))


def _get_all(fetch: Fetch, run: str, rows: Sequence[views.Row], folder: Path) -> None:
    there = [row for row in rows if row["bytes"] is not None]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        root = folder.resolve()
        places = places_for([row["path"] for row in there])
        with _progress(sum(row["bytes"] for row in there)) as advance:
            for row in there:
                place = places[row["path"]]
                _write(root, place, fetch(run, row["path"]), advance)
                terminal.out(row["path"], folder / place)
    except OSError as error:
        raise ConfigurationError(
            f"Nothing can be written below {folder} ({clean(error.filename or '')}: {error.strerror}): mend that, or name another folder."
        ) from None
    missing = len(rows) - len(there)
    if missing:
        terminal.note(
            f"{missing} of {len(rows)} artifacts have no bytes: they were never uploaded."
        )


def _write(root: Path, place: str, pieces: Iterable[bytes], advance: Advance) -> None:
    """The file appears under its name only when it is whole."""
    target = root / place
    # A link that stood there before may lead anywhere.
    if not target.parent.resolve().is_relative_to(root):
        raise ConfigurationError(f"{target.parent} leads out of {root}: name another folder.")
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=".matyan-", dir=root)
    try:
        with open(handle, "wb") as out:
            os.fchmod(handle, 0o666 & ~_umask())
            for piece in pieces:
                out.write(piece)
                advance(len(piece))
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise


def _umask() -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return umask


# --- names ---------------------------------------------------------------------------------------


def places_for(paths: Iterable[str]) -> dict[str, str]:
    """Where each artifact goes below a folder: its own path, where a file system can have it beside the others.

    What cannot stand as it is (an empty segment, "..", a control character, a long name) is written in percent
    encoding or cut; a hash of the path tells apart what would meet, such as "a" and "a/b".
    """
    places: dict[str, str] = {}
    files: set[str] = set()
    folders: set[str] = set()
    for path in sorted(set(paths)):
        mark = "~" + hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        names = [_name(segment, mark) for segment in path.split("/")]
        for depth in range(1, len(names)):
            while "/".join(names[:depth]) in files:
                names[depth - 1] += mark
        while (place := "/".join(names)) in files or place in folders:
            names[-1] += mark
        places[path] = place
        files.add(place)
        folders.update("/".join(names[:depth]) for depth in range(1, len(names)))
    return places


def _name(segment: str, mark: str) -> str:
    if segment in {"", ".", ".."}:
        return segment.replace(".", "%2E") or "%"
    name = "".join(letter if letter.isprintable() else _percent(letter) for letter in segment)
    if len(name.encode()) <= _NAME_BYTES:
        return name
    return name.encode()[: _NAME_BYTES - len(mark)].decode(errors="ignore") + mark


def _percent(letter: str) -> str:
    return "".join(f"%{byte:02X}" for byte in letter.encode("utf-8", "surrogatepass"))


@contextmanager
def _progress(total: int) -> Iterator[Advance]:
    """Counts bytes past a bar on a terminal's standard error; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("artifacts", total=total)
        yield lambda count: bar.advance(task, count)
