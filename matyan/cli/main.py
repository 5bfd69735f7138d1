"""The `matyan` command: its entry point, and the table of its commands.

Each command stands in the module that the table names, which is imported when it is called: what a command does not need
it does not import, so that each starts at once. This room is the composition root, the only one that picks engines and
reads settings.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click

from matyan import __version__
from matyan.errors import ConfigurationError, InvalidQuery, MatyanError
from matyan.service import terminal

COMMANDS: dict[str, tuple[str, str]] = {
    "up": ("matyan.cli.up:up", "Run the whole tracker on this machine, until Ctrl-C."),
    "runs": (
        "matyan.cli.reading:runs",
        "List the runs, newest first, and when each was last heard of.",
    ),
    "show": (
        "matyan.cli.reading:show",
        "Show one run: its parameters, and its sequences with their last values.",
    ),
    "logs": (
        "matyan.cli.reading:logs",
        "Print a run's log records and terminal lines, by time.",
    ),
    "query": (
        "matyan.cli.query:query",
        "Find runs, or the points of their metrics, by an expression.",
    ),
    "compare": (
        "matyan.cli.compare:compare",
        "Show in what runs differ, and how their metrics ended.",
    ),
    "watch": ("matyan.cli.watch:watch", "Draw a run's metrics while it goes on."),
    "export": (
        "matyan.cli.export:export",
        "Write every point, object and log line of a run to a file.",
    ),
    "push": ("matyan.cli.move:push", "Send runs to another tracker, each point once."),
    "pull": ("matyan.cli.move:pull", "Bring runs of another tracker into a data folder."),
    "import": (
        "matyan.cli.importing:import_",
        "Bring in the runs of another tracker, from its files.",
    ),
    "dlq": (
        "matyan.cli.dlq:dlq",
        "Look at records that could not be applied, and send them again.",
    ),
    "frontier": ("matyan.cli.frontier:frontier", "Take data from clients and hand it to Kafka."),
    "ingest-worker": (
        "matyan.cli.workers:ingest_worker",
        "Apply the records in Kafka to the store.",
    ),
    "control-worker": ("matyan.cli.workers:control_worker", "Do what control events ask for."),
    "api": ("matyan.cli.api:api", "Show what was logged: the read API and the web app."),
    "topics": ("matyan.cli.topics:topics", "Make and check the topics in Kafka."),
    "offsets": ("matyan.cli.offsets:offsets", "Compare stored and Kafka's offsets; set them."),
    "artifacts": ("matyan.cli.artifacts:artifacts", "List a run's artifacts, or bring them back."),
    "finish": ("matyan.cli.changes:finish", "End runs whose training was killed."),
    "delete": ("matyan.cli.changes:delete", "Delete runs, with all that they hold, for good."),
    "compact": ("matyan.cli.changes:compact", "Make the data folder as small as it can be, now."),
    "backup": (
        "matyan.cli.backup:backup",
        "Copy a data folder while it is used; look after the copies.",
    ),
    "restore": ("matyan.cli.backup:restore", "Make a data folder of a backup."),
    "check": ("matyan.cli.jobs:check", "Look for damage in a store, and mend it."),
    "reindex": ("matyan.cli.jobs:reindex", "Make a store's indexes anew."),
    "finish-stale": ("matyan.cli.jobs:finish_stale", "End runs that were not heard of for long."),
    "cleanup-orphan-blobs": (
        "matyan.cli.jobs:cleanup_orphan_blobs",
        "Delete objects that no run has.",
    ),
    "cleanup-tombstones": (
        "matyan.cli.jobs:cleanup_tombstones",
        "Forget runs that were deleted long ago.",
    ),
    "webhooks": (
        "matyan.cli.webhooks:webhooks",
        "Tell other programs of runs that end, go stale or are deleted.",
    ),
    "tokens": ("matyan.cli.tokens:tokens", "Make, list and revoke the tokens that clients show."),
    "health": ("matyan.cli.health:health", "Tell whether a service is well, by an exit code."),
    "doctor": ("matyan.cli.doctor:doctor", "Check what the services need, and how to mend it."),
}
"""Name → "module:attribute", and one line for --help."""


class Commands(click.Group):
    """Imports a command of COMMANDS when it is called."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _printing():  # of --help
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _printing():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, line) in COMMANDS.items()])


_OUTPUT_ENDED = {errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _OutputEnded(Exception):
    """What a command prints cannot be written: nobody reads it, or there is no room. It is no OSError, at which click would end with 1."""

    def __init__(self, error: OSError) -> None:
        super().__init__(error.strerror)
        self.is_unread = isinstance(error, BrokenPipeError)


@contextmanager
def _printing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _OUTPUT_ENDED:
            raise
        raise _OutputEnded(error) from error


def main() -> None:
    """The entry point of the console script. Each known error is one sentence and an exit code: 2 for the surroundings, 130 for
    Ctrl-C, 141 when nobody reads the output any more (as of a program that SIGPIPE ends), 1 for the rest."""
    terminal.open_standard_streams()
    terminal.forgive_encodings()
    terminal.forget_odd_sizes()
    try:
        code = cli.main(prog_name="matyan", standalone_mode=False)
        with _printing():
            sys.stdout.flush()
    except InvalidQuery as error:
        marked = f"\n{error.place}" if error.place else ""
        _end(2, f"matyan: {terminal.clean(error)}{marked}")
    except MatyanError as error:
        code = 2 if isinstance(error, ConfigurationError) else 1
        _end(code, terminal.clean(f"matyan: {error}"))
    except _OutputEnded as error:
        # `matyan export RUN | head` is no error.
        _end(141) if error.is_unread else _end(1, f"matyan: The output cannot be written: {error}.")
    except click.exceptions.Abort:
        _drop_output()
        _end(130, "")
    except KeyboardInterrupt:
        _drop_output()
        _end(130)
    except BaseExceptionGroup as group:
        # Ctrl-C in a nursery.
        if group.subgroup(KeyboardInterrupt) is None:
            raise
        _drop_output()
        _end(130)
    except click.ClickException as error:
        said = io.StringIO()
        error.show(said)
        _end(error.exit_code, said.getvalue().rstrip("\n"))
    sys.exit(code if isinstance(code, int) else 0)


def _end(code: int, sentence: str | None = None) -> NoReturn:
    try:
        if sentence is not None:
            terminal.note(sentence)
        sys.stdout.flush()
    except OSError:
        # What is still in Python's buffers cannot be written at exit either.
        _drop_output()
        os.dup2(1, 2)
    raise SystemExit(code)


def _drop_output() -> None:
    """What standard output has not taken yet goes nowhere: a command that is interrupted does not wait for a pager."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="matyan")
def cli() -> None:
    """A tracker for training runs: no metric is ever lost.

    \b
    Start one, and point the SDK at it:
      matyan up
      python examples/digits.py
    \b
    Then look at what it holds:
      matyan runs
      matyan show RUN --plot loss
      matyan query 'run.hparams.lr < 0.01'
      matyan watch RUN
      matyan export RUN --format csv > run.csv
    \b
    RUN is a run id or a unique beginning of one; what changes a run asks before it takes a beginning.
    """
