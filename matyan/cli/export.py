"""`matyan export`: a run's sequences as CSV, JSON lines or Parquet, written as they arrive: memory does not grow with the run.

Where the blocks come from stands in `reader/`, where they go in `output.py`.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import click

from matyan.cli.flags import PlaceName, read_options
from matyan.cli.output import not_for_a_terminal, output_file, output_option, reading
from matyan.reader import Block
from matyan.service import json_text

FIELDS = ("name", "context", "dtype", "step", "epoch", "time", "value")

Writer = Callable[[Iterable[Block], BinaryIO], None]


def _rows(block: Block) -> Iterator[tuple[int, int | float | None, float, Any]]:
    if block.objects is not None:
        return iter(block.objects)
    assert block.points is not None
    points = block.points
    return zip(points.steps, points.epochs, points.times, points.values, strict=True)


def write_jsonl(blocks: Iterable[Block], out: BinaryIO) -> None:
    """One object a point: FIELDS; time in epoch seconds, NaN and infinities as the strings of `json_text`."""
    for block in blocks:
        head = "{" + ", ".join(
            f'"{field}": {json_text.dumps(value)}'
            for field, value in (
                ("name", block.name),
                ("context", block.context),
                ("dtype", block.dtype),
            )
        )
        value_text = json_text.number if block.points is not None else json_text.dumps
        lines = [
            f'{head}, "step": {step}, "epoch": {"null" if epoch is None else json_text.number(epoch)}, '
            f'"time": {json_text.number(when)}, "value": {value_text(value)}}}\n'
            for step, epoch, when, value in _rows(block)
        ]
        out.write("".join(lines).encode())


def write_csv(blocks: Iterable[Block], out: BinaryIO) -> None:
    """A header of FIELDS and one row a point (RFC 4180); context and objects as JSON, a missing epoch empty."""
    out.write(f"{','.join(FIELDS)}\n".encode())
    for block in blocks:
        head = ",".join(map(cell, (block.name, json_text.dumps(block.context), block.dtype)))
        value_text = repr if block.points is not None else _json_cell
        lines = [
            f"{head},{step},{'' if epoch is None else epoch},{when!r},{value_text(value)}\n"
            for step, epoch, when, value in _rows(block)
        ]
        out.write("".join(lines).encode(errors="backslashreplace"))


def cell(text: str) -> str:
    """A field, in quotes where it must be. Not by the module csv: until Python 3.11.9 it leaves a bare carriage return without
    quotes, and every reader takes that for the end of the row."""
    if any(special in text for special in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text


def _json_cell(value: object) -> str:
    return cell(json_text.dumps(value))


def write_parquet(blocks: Iterable[Block], out: BinaryIO) -> None:
    """FIELDS with typed columns; `value` is null for objects, which stand as JSON in the column `object`.

    `epoch` is an int64; in a file that holds one with a fraction it is a float64.
    """
    with _rewritable(out) as file, closing(_ParquetFile(file)) as parquet:
        for block in blocks:
            if len(block):
                parquet.write(block)


@contextmanager
def _rewritable(out: BinaryIO) -> Iterator[BinaryIO]:
    """`out`, or what it gets the bytes of at the end when it cannot be read back (a pipe).

    A Parquet file is of no use to its reader before its end.
    """
    if out.seekable() and out.readable():
        yield out
        return
    with tempfile.TemporaryFile() as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, out)


class _ParquetFile:
    """A Parquet file whose epochs are integers until the first one with a fraction: then it is written anew."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._fractions = False
        self._writer = self._open()

    def close(self) -> None:
        self._writer.close()

    def write(self, block: Block) -> None:
        if not self._fractions and any(isinstance(epoch, float) for epoch in _epochs(block)):
            self._widen()
        self._writer.write_batch(_batch(block, self._writer.schema))

    def _open(self) -> Any:
        import pyarrow as pa
        import pyarrow.parquet as parquet

        words = pa.dictionary(pa.int32(), pa.string())
        schema = pa.schema(
            [
                pa.field("name", words, nullable=False),
                pa.field("context", words, nullable=False),
                pa.field("dtype", words, nullable=False),
                pa.field("step", pa.int64(), nullable=False),
                pa.field("epoch", pa.float64() if self._fractions else pa.int64()),
                pa.field("time", pa.float64(), nullable=False),
                pa.field("value", pa.float64()),
                pa.field("object", pa.string()),
            ]
        )
        return parquet.ParquetWriter(self._file, schema)

    def _widen(self) -> None:
        import pyarrow.parquet as parquet

        self._writer.close()
        self._fractions = True
        with tempfile.TemporaryFile() as written:
            self._file.seek(0)
            shutil.copyfileobj(self._file, written)
            self._file.seek(0)
            self._file.truncate()
            self._writer = self._open()
            for batch in parquet.ParquetFile(written).iter_batches():
                # Beyond 2^53 an integer becomes the nearest float64: a column has one type.
                self._writer.write_batch(batch.cast(self._writer.schema, safe=False))


def _epochs(block: Block) -> list[int | float | None]:
    if block.points is not None:
        return block.points.epochs
    return [epoch for _, epoch, _, _ in block.objects or ()]


def _batch(block: Block, schema: Any) -> Any:
    import pyarrow as pa

    count = len(block)
    if block.points is not None:
        points = block.points
        steps: Any = pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(points.steps)])
        times: Any = pa.Array.from_buffers(pa.float64(), count, [None, pa.py_buffer(points.times)])
        values: Any = pa.Array.from_buffers(
            pa.float64(), count, [None, pa.py_buffer(points.values)]
        )
        objects = pa.nulls(count, pa.string())
    else:
        rows = list(_rows(block))
        steps = pa.array([row[0] for row in rows], pa.int64())
        times = pa.array([row[2] for row in rows], pa.float64())
        values = pa.nulls(count, pa.float64())
        objects = pa.array([json_text.dumps(row[3]) for row in rows], pa.string())
    numbers = _epochs(block)
    kind = schema.field("epoch").type
    if kind == pa.float64():
        numbers = [None if number is None else float(number) for number in numbers]
    epochs = pa.array(numbers, kind)
    constant = [
        pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([word]))
        for word in (block.name, json_text.dumps(block.context), block.dtype)
    ]
    return pa.record_batch([*constant, steps, epochs, times, values, objects], schema=schema)


WRITERS: dict[str, Writer] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}


# --- the command ---------------------------------------------------------------------------------


@click.command()
@click.argument("run")
@read_options
@click.option(
    "--format",
    "format_",
    type=click.Choice(["csv", "jsonl", "parquet"]),
    default="csv",
    show_default=True,
)
@output_option("The file to write.")
def export(run: str, store: PlaceName, format_: str, output: Path | None) -> None:
    """Write every point, object and log line of a run to a file.

    \b
    One row a point: name, context, dtype, step, epoch, time (epoch seconds), value.
      matyan export 3f2a > run.csv
      matyan export 3f2a --format parquet -o run.parquet
      matyan export 3f2a --format jsonl | jq 'select(.name == "loss")'
    """
    if format_ == "parquet":
        not_for_a_terminal("Parquet", output)
    with reading(store) as opened:
        shown = opened.show(run)
        total = sum(sequence["points"] or 0 for sequence in shown["sequences"])
        with output_file(output) as out, _progress(opened.blocks(shown["run"]), total) as blocks:
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
