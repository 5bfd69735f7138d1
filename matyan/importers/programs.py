"""The programs whose files are read."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Final, Protocol, cast

from matyan.errors import ConfigurationError
from matyan.importers.source import Report, Run

PROGRAMS: Final = {
    "tensorboard": "a folder of event files (events.out.tfevents.…), or one such file",
    "aim": "a folder with a repository (.aim)",
    "wandb": "a folder with runs (wandb/offline-run-…), or one .wandb file",
    "mlflow": "a SQLite database (mlflow.db), or a folder mlruns",
    "trackio": "trackio's folder (TRACKIO_DIR), or a project's .db",
}
"""Name, which is the name of the module, and what PATH is."""


class Importer(Protocol):
    """What a module of a program has."""

    def looks_like(self, path: Path) -> bool:
        """Whether there is something of the program."""
        ...

    def runs(self, path: Path, report: Report) -> Iterator[Run]:
        """
        Raises:
            ConfigurationError: there is nothing of the program, it cannot be read, or a library is missing.
        """
        ...


def importer(program: str) -> Importer:
    return cast("Importer", import_module(f"matyan.importers.{program}"))


def runs(program: str, path: Path, report: Report) -> Iterator[Run]:
    """The runs at a path.

    Raises:
        ConfigurationError: as `Importer.runs`; where the path is another program's, it says so.
    """
    if not path.exists():
        raise ConfigurationError(f"There is no {path}.")
    chosen = importer(program)
    if not chosen.looks_like(path):
        for other in PROGRAMS:
            if other != program and importer(other).looks_like(path):
                raise ConfigurationError(
                    f"{path} has nothing of {program} in it; it looks like {other}'s: call `matyan import {other} {path}`."
                )
    return chosen.runs(path, report)
