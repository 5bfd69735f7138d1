"""A run's sequences as CSV, JSON lines or Parquet, written as they arrive: memory does not grow with the run.

Only formats. Where the blocks come from stands in `reader.py`, where they go in `cli.py`.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, BinaryIO

from matyan.reader import Block

FIELDS = ("name", "context", "dtype", "step", "epoch", "time", "value")

# What json.dumps writes for the floats that repr writes otherwise.
_TOKENS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}

Writer = Callable[[Iterable[Block], BinaryIO], None]


def _number(value: float) -> str:
    text = repr(value)
    return _TOKENS.get(text, text)


def _rows(block: Block) -> Iterator[tuple[int, int | None, float, Any]]:
    if block.objects is not None:
        return iter(block.objects)
    assert block.points is not None
    points = block.points
    return zip(points.steps, points.epochs, points.times, points.values, strict=True)


def write_jsonl(blocks: Iterable[Block], out: BinaryIO) -> None:
    """One object a point: FIELDS; time in epoch seconds, NaN and infinities as json.dumps writes them."""
    for block in blocks:
        head = "{" + ", ".join(
            f'"{field}": {json.dumps(value)}'
            for field, value in (
                ("name", block.name),
                ("context", block.context),
                ("dtype", block.dtype),
            )
        )
        value_text = _number if block.points is not None else json.dumps
        lines = [
            f'{head}, "step": {step}, "epoch": {"null" if epoch is None else epoch}, '
            f'"time": {_number(when)}, "value": {value_text(value)}}}\n'
            for step, epoch, when, value in _rows(block)
        ]
        out.write("".join(lines).encode())


def write_csv(blocks: Iterable[Block], out: BinaryIO) -> None:
    """A header of FIELDS and one row a point; context and objects as JSON, a missing epoch empty."""
    text = io.TextIOWrapper(out, encoding="utf-8", newline="", write_through=True)
    try:
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(FIELDS)
        for block in blocks:
            head = (block.name, json.dumps(block.context), block.dtype)
            objects = block.objects is not None
            rows.writerows(
                (*head, step, epoch, repr(when), json.dumps(value) if objects else repr(value))
                for step, epoch, when, value in _rows(block)
            )
    finally:
        # The caller closes `out`.
        text.detach()


def write_parquet(blocks: Iterable[Block], out: BinaryIO) -> None:
    """FIELDS with typed columns; `value` is null for objects, which stand as JSON in the column `object`."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    words = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema(
        [
            pa.field("name", words, nullable=False),
            pa.field("context", words, nullable=False),
            pa.field("dtype", words, nullable=False),
            pa.field("step", pa.int64(), nullable=False),
            pa.field("epoch", pa.int64()),
            pa.field("time", pa.float64(), nullable=False),
            pa.field("value", pa.float64()),
            pa.field("object", pa.string()),
        ]
    )
    with parquet.ParquetWriter(out, schema) as writer:
        for block in blocks:
            count = len(block)
            if not count:
                continue
            if block.points is not None:
                points = block.points
                steps: Any = pa.Array.from_buffers(
                    pa.int64(), count, [None, pa.py_buffer(points.steps)]
                )
                times: Any = pa.Array.from_buffers(
                    pa.float64(), count, [None, pa.py_buffer(points.times)]
                )
                values: Any = pa.Array.from_buffers(
                    pa.float64(), count, [None, pa.py_buffer(points.values)]
                )
                epochs = pa.array(points.epochs, pa.int64())
                objects = pa.nulls(count, pa.string())
            else:
                rows = list(_rows(block))
                steps = pa.array([row[0] for row in rows], pa.int64())
                epochs = pa.array([row[1] for row in rows], pa.int64())
                times = pa.array([row[2] for row in rows], pa.float64())
                values = pa.nulls(count, pa.float64())
                objects = pa.array([json.dumps(row[3]) for row in rows], pa.string())
            constant = [
                pa.DictionaryArray.from_arrays(pa.array([0] * count, pa.int32()), pa.array([word]))
                for word in (block.name, json.dumps(block.context), block.dtype)
            ]
            writer.write_batch(
                pa.record_batch([*constant, steps, epochs, times, values, objects], schema=schema)
            )


WRITERS: dict[str, Writer] = {
    "csv": write_csv,
    "jsonl": write_jsonl,
    "parquet": write_parquet,
}
