"""What commands that read share: where they read from, and where they write what they were asked for."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

import click

from matyan import reader
from matyan.cli.flags import CheckedPath, PlaceName
from matyan.errors import ConfigurationError
from matyan.service import terminal


@contextmanager
def reading(store: PlaceName) -> Iterator[reader.Reader]:
    """`reader.open` of the store, whoever has it open, which says at its end when what was read is not of one moment."""
    with reader.open(str(store)) as opened:
        yield opened
        if opened.moments > 1:
            terminal.note(
                f"This took longer than the store remembers a moment: it shows {opened.moments} moments, one after the other; "
                "what was written meanwhile may be missing."
            )


def output_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--output FILE; the command gets `output`, None for standard output. A file of the name - is ./-, as everywhere."""
    return click.option(
        "--output",
        "-o",
        type=CheckedPath(dir_okay=False, allow_dash=True),
        metavar="FILE",
        help=f"{help} Default, and for -: standard output.",
    )


def metrics_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--metrics NAME, which may be repeated; the command gets `names`."""
    return click.option("--metrics", "-m", "names", multiple=True, metavar="NAME", help=help)


def not_for_a_terminal(what: str, output: Path | None) -> None:
    """
    Raises:
        ConfigurationError: bytes that are no text would go to a terminal.
    """
    if output is None and sys.stdout.isatty():
        raise ConfigurationError(
            f"{what} is not for a terminal: name a file with --output FILE, or pipe it into a program."
        )


@contextmanager
def output_file(path: Path | None) -> Iterator[BinaryIO]:
    """Standard output, in a terminal without control characters, or a file that appears under its name only when it is whole."""
    if path is None:
        yield cast("BinaryIO", terminal.Shown()) if sys.stdout.isatty() else sys.stdout.buffer
        return
    if path.exists() and not path.is_file():
        # A device or a pipe: nothing may take its place.
        with open(path, "wb") as file:
            yield file
        return
    path = path.resolve()
    partial = path.with_name(f"{path.name}.part")
    try:
        with open(partial, "w+b") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be written ({error.strerror}): mend that, or name another file with --output."
        ) from None
    finally:
        partial.unlink(missing_ok=True)
