"""The `matyan` command: the composition root. The only place that picks engines and reads settings.

Commands only parse, ask and print: answers come through `reader.py`, text through `views.py`, services from
`services.py`, `matyan up` from `up.py`, the operator's commands from the modules that the table names. What a command does not need it does not import, so that each starts at once.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from matyan import __version__
from matyan.cli.flags import as_json_option, data_option, run_filters
from matyan.cli.output import not_for_a_terminal, output_file, output_option
from matyan.errors import ConfigurationError, MatyanError, NotFound
from matyan.service import terminal

if TYPE_CHECKING:
    from matyan.broker.kafka.letters import KafkaLetters
    from matyan.reader import Block, Reader

    Letters = Reader | KafkaLetters

# --- commands that live elsewhere: name -> ("module:attribute", one line for --help) -------------

LAZY: dict[str, tuple[str, str]] = {
    "frontier": ("matyan.cli.services:frontier", "Take data from clients and hand it to Kafka."),
    "ingest-worker": (
        "matyan.cli.services:ingest_worker",
        "Apply the records in Kafka to the store.",
    ),
    "control-worker": ("matyan.cli.services:control_worker", "Do what control events ask for."),
    "topics": ("matyan.cli.topics:topics", "Make and check the topics in Kafka."),
    "offsets": ("matyan.cli.offsets:offsets", "Compare stored and Kafka's offsets; set them."),
    "artifacts": ("matyan.cli.artifacts:artifacts", "List a run's artifacts, or bring them back."),
    "finish": ("matyan.cli.changes:finish", "End runs whose training was killed."),
    "delete": ("matyan.cli.changes:delete", "Delete runs, with all that they hold, for good."),
    "compact": ("matyan.cli.changes:compact", "Make the data folder as small as it can be, now."),
    "doctor": ("matyan.cli.doctor:doctor", "Check what the services need, and how to mend it."),
}


class Commands(click.Group):
    """Imports a command of LAZY when it is called."""

    def make_context(self, *arguments: Any, **extra: Any) -> click.Context:
        with _printing():  # of --help
            return super().make_context(*arguments, **extra)

    def invoke(self, ctx: click.Context) -> Any:
        with _printing():
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*super().list_commands(ctx), *LAZY]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in LAZY:
            return super().get_command(ctx, cmd_name)
        module, _, attribute = LAZY[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, command.get_short_help_str(70)) for name, command in self.commands.items()]
        rows += [(name, short_help) for name, (_, short_help) in LAZY.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


_OUTPUT_ENDED = {errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class _OutputEnded(Exception):
    """What a command prints cannot be written: nobody reads it, or there is no room. No OSError, since click ends with 1 at those."""

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
    except MatyanError as error:
        code = 2 if isinstance(error, ConfigurationError) else 1
        _end(code, terminal.clean(f"matyan: {error}"))
    except _OutputEnded as error:
        # `matyan export RUN | head` is no error.
        _end(141) if error.is_unread else _end(1, f"matyan: cannot write the output: {error}")
    except click.exceptions.Abort:
        _drop_output()
        _end(130, "")
    except KeyboardInterrupt:
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
    """What standard output has not taken yet goes nowhere: who is interrupted waits for no pager."""
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
      matyan export RUN --format csv > run.csv
    \b
    RUN is a run id or a unique beginning of one; what changes a run asks before it takes a beginning.
    """


# --- the tracker ---------------------------------------------------------------------------------


@cli.command()
@data_option
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=53801, show_default=True, help="0: any free."
)
def up(data: Path, host: str, port: int) -> int:
    """Run the whole tracker on this machine, until Ctrl-C.

    \b
    Everything is kept in the data folder. The commands that read and write it work meanwhile:
      matyan up --data runs/ &
      matyan runs --data runs/
    \b
    Reachable from other machines, on another port:
      matyan up --host 0.0.0.0 --port 8080
    """
    from matyan import settings
    from matyan.cli.up import run

    return run(data, host, port, settings.load(ignore=settings.EMBEDDED_IGNORES))


# --- reading -------------------------------------------------------------------------------------


@contextmanager
def _reader(data: Path) -> Iterator[Reader]:
    from matyan import reader

    with reader.open(data) as opened:
        yield opened


@cli.command()
@data_option
@run_filters
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The N newest.")
@click.option(
    "--counts", is_flag=True, help="Count sequences and points, too: long for large runs."
)
@as_json_option
def runs(
    data: Path, filters: dict[str, Any], limit: int | None, counts: bool, as_json: bool
) -> None:
    """List the runs, newest first, and when each was last heard of.

    \b
    In a pipe: one line a run, with tabs, without a heading.
      matyan runs --experiment digits --limit 5
      matyan runs --stale 1h
      matyan runs --counts --json | jq '.[] | select(.points > 1000) | .run'
    """
    from matyan.cli import views

    with _reader(data) as reader:
        rows: Iterable[dict[str, Any]] = reader.runs(limit=limit, counts=counts, **filters)
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


@cli.command()
@click.argument("run")
@data_option
@click.option("--plot", metavar="NAME", help="Draw this metric, in each of its contexts.")
@as_json_option
def show(run: str, data: Path, plot: str | None, as_json: bool) -> None:
    """Show one run: its parameters, and its sequences with their last values.

    \b
      matyan show 3f2a
      matyan show 3f2a --plot loss
      matyan show 3f2a --json | jq .attrs.hparams
    """
    from matyan.cli import views

    with _reader(data) as reader:
        shown = reader.show(run)
        if as_json:
            views.as_json(shown)
            return
        if plot is None:
            views.show(shown)
            return
        is_drawn = False
        for sequence in views.called(shown, plot):
            blocks = reader.blocks(shown["run"], name=plot, context=sequence["context"])
            first = next(blocks, None)
            # Objects come behind the points of their sequence.
            if first is not None and first.points is None:
                continue
            views.heading(views.title(sequence))
            views.draw(blocks if first is None else chain([first], blocks), sequence["last_step"])
            is_drawn = True
        if not is_drawn:
            raise NotFound(
                f"{plot!r} is no metric: run {shown['run']} has objects there; "
                f"`matyan export {shown['run']} --format jsonl` writes them"
            )


@cli.command()
@click.argument("run")
@data_option
@as_json_option
def logs(run: str, data: Path, as_json: bool) -> None:
    """Print a run's log records and terminal lines, by time.

    \b
    With --json, one object a line: kind ("record" or "line"), step, message, level, time.
      matyan logs 3f2a
      matyan logs 3f2a --json | jq -r 'select(.level >= 30) | .message'
    """
    from matyan.cli import views

    with _reader(data) as reader:
        rows = reader.logs(run)
        if as_json:
            views.json_lines(rows)
        else:
            views.logs(rows)


@cli.command()
@click.argument("run")
@data_option
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
)
@output_option("The file to write.")
def export(run: str, data: Path, format_: str, output: Path | None) -> None:
    """Write every point, object and log line of a run to a file.

    \b
    One row a point: name, context, dtype, step, epoch, time (epoch seconds), value.
      matyan export 3f2a > run.csv
      matyan export 3f2a --format parquet -o run.parquet
      matyan export 3f2a --format jsonl | jq 'select(.name == "loss")'
    """
    from matyan.cli.export import WRITERS

    if format_ == "parquet":
        not_for_a_terminal("Parquet", output)
    with _reader(data) as reader:
        shown = reader.show(run)
        total = sum(sequence["points"] or 0 for sequence in shown["sequences"])
        with output_file(output) as out, _progress(reader.blocks(shown["run"]), total) as blocks:
            WRITERS[format_](blocks, out)


@contextmanager
def _progress(blocks: Iterable[Block], total: int) -> Iterator[Iterable[Block]]:
    """Counts points past a bar on a terminal's standard error; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield blocks
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    with Progress(
        BarColumn(),
        MofNCompleteColumn(),
        "points",
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task("export", total=total)

        def counted() -> Iterator[Block]:
            for block in blocks:
                yield block
                bar.advance(task, len(block))

        yield counted()


# --- writing -------------------------------------------------------------------------------------


_kafka = click.option(
    "--kafka",
    is_flag=True,
    help="The dead-letter topics in Kafka (KAFKA_… variables) in place of a data folder.",
)


@contextmanager
def _letters(data: Path, kafka: bool) -> Iterator[Letters]:
    if not kafka:
        with _reader(data) as reader:
            yield reader
        return
    from matyan.broker.kafka.letters import open_letters
    from matyan.settings import load

    with open_letters(load()) as letters:
        yield letters


def _ids(words: Iterable[str], kafka: bool) -> list[Any]:
    """Numbers in the embedded store; TOPIC/PARTITION/OFFSET on Kafka."""
    if kafka:
        return [*words]
    number = click.IntRange(0, (1 << 63) - 1)
    return [number(word) for word in words]


@cli.group()
def dlq() -> None:
    """Look at records that could not be applied, and send them again.

    \b
    On the data folder of `matyan up`, or with --kafka on the dead-letter topics of a deployment:
      matyan dlq list
      matyan dlq list --kafka
    """


@dlq.command("list")
@data_option
@_kafka
@click.option("--limit", type=click.IntRange(1), metavar="N", help="The first N.")
@as_json_option
def dlq_list(data: Path, kafka: bool, limit: int | None, as_json: bool) -> None:
    """List the dead letters: where each came from and why it could not be applied.

    \b
      matyan dlq list --json | jq -r '.[] | [.time, .version, .error_text] | @tsv'
      matyan dlq list --kafka --limit 20
    """
    from matyan.cli import views

    with _letters(data, kafka) as letters:
        rows = letters.dead_letters(limit)
        if as_json:
            views.as_json(list(rows))
        else:
            views.dead_letters(rows)


@dlq.command("show")
@click.argument("id_", metavar="ID")
@data_option
@_kafka
def dlq_show(id_: str, data: Path, kafka: bool) -> None:
    """Print the original bytes of one dead letter, as they came; in a terminal without control characters.

    \b
      matyan dlq show 12
      matyan dlq show --kafka data-ingestion-dlq/0/12 | jq
    """

    with _letters(data, kafka) as letters:
        value: bytes = letters.dead_letter(_ids([id_], kafka)[0])["value"]
    if sys.stdout.isatty():
        terminal.out(value.decode(errors="backslashreplace"))
    else:
        sys.stdout.buffer.write(value)


@dlq.command("replay")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@data_option
@_kafka
@click.option("--all", "everything", is_flag=True, help="Every dead letter there is.")
def dlq_replay(ids: tuple[str, ...], data: Path, kafka: bool, everything: bool) -> None:
    """Send dead letters through the ingestion again; those that are applied leave the list.

    \b
      matyan dlq replay 12 13
      matyan dlq replay --all
      matyan dlq replay --kafka data-ingestion-dlq/0/12
      matyan dlq replay --kafka --all

    On Kafka their bytes and keys are produced to the topic that they came from, and they leave the list when every
    in-sync replica has them there; a record that cannot be applied yet comes back as a new dead letter. What was sent
    is remembered as committed offsets of the consumer group matyan-dlq, and is not sent twice. A crash right after a
    delivery can send the last 100 again: harmless for all but objects and log records without a step. Kafka forgets
    the offsets of a group that was not used for offsets.retention.minutes (7 days), which is as long as it keeps a
    topic's records by default: keep the two alike. Run one replay at a time.
    """
    if bool(ids) == everything:
        raise click.UsageError("name the dead letters by their ids, or all of them with --all")
    again = 0
    with _letters(data, kafka) as letters:
        for outcome in letters.replay(None if everything else _ids(ids, kafka)):
            terminal.out(outcome["id"], outcome["outcome"])
            again += outcome["outcome"].startswith("dead again")
    if again:
        raise MatyanError(f"{again} of them could not be applied; `matyan dlq list` says why")
