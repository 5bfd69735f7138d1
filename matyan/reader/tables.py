"""Rows and points as Arrow's tables, which pandas, polars and DuckDB take as they are.

Columns of points are the bytes that came, without a Python object a point. Only pyarrow here: rows in, tables out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from matyan.readable import is_number
from matyan.reader.columns import leaves, metric_column
from matyan.service import json_text

Row = dict[str, Any]

BATCH_ROWS: Final = 64 << 10
"""So many points, or some more, are one batch."""

_EXACT_FLOAT: Final = 1 << 53
_MOMENT: Final = pa.timestamp("us", tz="UTC")
_WORDS: Final = pa.dictionary(pa.int32(), pa.string())

POINTS: Final = pa.schema(
    [
        pa.field("run", _WORDS, nullable=False),
        pa.field("name", _WORDS, nullable=False),
        pa.field("context", _WORDS, nullable=False),
        pa.field("step", pa.int64(), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
        pa.field("epoch", pa.float64()),
        pa.field("time", pa.float64(), nullable=False),
    ]
)
"""Of metrics in long form: context as JSON text, {} for none; epoch null where none was given; time in epoch seconds. Rows stand by run,
metric and step."""

_ABOUT_RUNS: Final[dict[str, tuple[pa.DataType, Callable[[Row], object]]]] = {
    "run": (pa.string(), lambda row: row["run"]),
    "name": (pa.string(), lambda row: row["name"]),
    "description": (pa.string(), lambda row: row["description"]),
    "experiment": (pa.string(), lambda row: row["experiment"]),
    "tags": (pa.list_(pa.string()), lambda row: row["tags"]),
    "created": (_MOMENT, lambda row: _microseconds(row["created_at"])),
    "ended": (_MOMENT, lambda row: _microseconds(row["finalized_at"])),
    "duration": (pa.float64(), lambda row: _float(row["duration"])),
    "active": (pa.bool_(), lambda row: row["active"]),
    "archived": (pa.bool_(), lambda row: row["archived"]),
}
RUN_COLUMNS: Final = frozenset(_ABOUT_RUNS)


def runs_table(rows: Iterable[Row | None]) -> pa.Table:
    """A row a run: run, name, description, experiment, tags (list), created and ended (timestamps in UTC, of microseconds), duration
    (seconds), active, archived; then a column for each attribute of any of them, null where a run has it not, called as a query calls
    it behind `run.`: `hparams.lr`, `hparams["a.b"]` for a name with a dot; then, where the rows have them, `metrics.NAME CONTEXT`, the last
    values. `values_array` says what type a column of attributes has."""
    about: dict[str, list[object]] = {name: [] for name in _ABOUT_RUNS}
    attributes, metrics = _Columns(), _Columns()
    count = 0
    for row in rows:
        if row is None:
            continue
        for name, (_, value) in _ABOUT_RUNS.items():
            about[name].append(value(row))
        for path, leaf in leaves(row["attrs"], RUN_COLUMNS):
            attributes.put(path, count, leaf)
        for name, context, last in row.get("metrics", ()):
            metrics.put(metric_column(name, context), count, last)
        count += 1
    arrays = [pa.array(about[name], kind) for name, (kind, _) in _ABOUT_RUNS.items()]
    names = [*_ABOUT_RUNS]
    for column, values in attributes.filled(count):
        names.append(column)
        arrays.append(values_array(values))
    for column, values in metrics.filled(count):
        names.append(column)
        arrays.append(pa.array(values, pa.float64()))
    return pa.Table.from_arrays(arrays, names=names)


class _Columns:
    """Columns that are met one by one, in the order of their first row."""

    def __init__(self) -> None:
        self._columns: dict[str, dict[int, object]] = {}

    def put(self, column: str, row: int, value: object) -> None:
        self._columns.setdefault(column, {})[row] = value

    def filled(self, count: int) -> Iterator[tuple[str, list[object]]]:
        for name, values in self._columns.items():
            yield name, [values.get(row) for row in range(count)]


def values_array(values: list[Any]) -> pa.Array:
    """A column of whatever was logged, in the narrowest type that holds it exactly: bool; int64, or uint64; float64, of integers too
    where it holds each of them; string; a list of one of these. What nothing else holds is text: a text as it is, all else as JSON."""
    kind = _kind(values)
    return pa.array(
        [_text(value) for value in values] if kind is None else values, kind or pa.string()
    )


def _kind(values: Iterable[Any]) -> pa.DataType | None:
    """None: only text holds them all."""
    there = [value for value in values if value is not None]
    types = {type(value) for value in there}
    if not types:
        return pa.null()
    if types == {bool}:
        return pa.bool_()
    if types == {int}:
        least, most = min(there), max(there)
        if least >= -(1 << 63) and most < 1 << 63:
            return pa.int64()
        return pa.uint64() if least >= 0 and most < 1 << 64 else None
    if types <= {int, float}:
        exact = all(type(one) is float or abs(one) <= _EXACT_FLOAT for one in there)
        return pa.float64() if exact else None
    if types == {str}:
        return pa.string()
    if types == {list}:
        items = [item for one in there for item in one]
        if any(isinstance(item, (list, dict)) for item in items):
            return None
        inner = _kind(items)
        return None if inner is None else pa.list_(inner)
    return None


def _text(value: object) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json_text.dumps(value, ascii=False)


def _float(value: object) -> float | None:
    return float(value) if is_number(value) else None


def _microseconds(seconds: object) -> int | None:
    """None also for what no clock shows."""
    if not is_number(seconds) or not abs(seconds) < 1e12:
        return None
    return round(seconds * 1_000_000)


# --- points ----------------------------------------------------------------------------------------


def points_table(batches: Iterable[pa.RecordBatch]) -> pa.Table:
    """The batches as one table of POINTS."""
    return pa.Table.from_batches(batches, POINTS).unify_dictionaries()


def point_batches(rows: Iterable[Row | None]) -> Iterator[pa.RecordBatch]:
    """Batches of POINTS. rows: of metrics, `steps`, `values`, `times` and `epochs` as bytes."""
    batch = _Batch()
    for row in rows:
        if row is None:
            continue
        batch.add(row)
        if batch.count >= BATCH_ROWS:
            yield batch.made()
            batch = _Batch()
    if batch.count:
        yield batch.made()


class _Batch:
    def __init__(self) -> None:
        self.count = 0
        self._runs, self._names, self._contexts = _Words(), _Words(), _Words()
        self._steps: list[bytes] = []
        self._values: list[bytes] = []
        self._times: list[bytes] = []
        self._epochs: list[bytes | int] = []

    def add(self, row: Row) -> None:
        count = len(row["steps"]) // 8
        self._runs.add(row["run"], count)
        self._names.add(row["name"], count)
        self._contexts.add(json_text.dumps(row["context"]), count)
        self._steps.append(row["steps"])
        self._values.append(row["values"])
        self._times.append(row["times"])
        self._epochs.append(count if row["epochs"] is None else row["epochs"])
        self.count += count

    def made(self) -> pa.RecordBatch:
        columns = [
            self._runs.made(),
            self._names.made(),
            self._contexts.made(),
            _column(pa.int64(), self._steps, self.count),
            _column(pa.float64(), self._values, self.count),
            self._epoch_column(),
            _column(pa.float64(), self._times, self.count),
        ]
        return pa.record_batch(columns, schema=POINTS)

    def _epoch_column(self) -> pa.Array:
        if all(isinstance(part, int) for part in self._epochs):
            return pa.nulls(self.count, pa.float64())
        missing = array("d", [float("nan")])
        parts = [
            (missing * part).tobytes() if isinstance(part, int) else part for part in self._epochs
        ]
        epochs = _column(pa.float64(), parts, self.count)
        return pc.if_else(pc.is_nan(epochs), pa.scalar(None, pa.float64()), epochs)


class _Words:
    """A column of few words, many times each."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._indices = array("i")

    def add(self, word: str, count: int) -> None:
        place = self._places.setdefault(word, len(self._places))
        self._indices.extend(array("i", [place]) * count)

    def made(self) -> pa.DictionaryArray:
        indices = pa.Array.from_buffers(
            pa.int32(), len(self._indices), [None, pa.py_buffer(self._indices)]
        )
        return pa.DictionaryArray.from_arrays(indices, pa.array([*self._places], pa.string()))


def _column(kind: pa.DataType, parts: list[bytes], count: int) -> pa.Array:
    return pa.Array.from_buffers(kind, count, [None, pa.py_buffer(b"".join(parts))])


# --- objects ---------------------------------------------------------------------------------------

_ABOUT_OBJECTS: Final = [
    ("run", pa.string()),
    ("name", pa.string()),
    ("context", pa.string()),
    ("step", pa.int64()),
    ("epoch", pa.float64()),
    ("time", pa.float64()),
    ("index", pa.int64()),
]
_BLOB: Final = [("caption", pa.string()), ("format", pa.string()), ("path", pa.string())]
_FIELDS: Final[dict[str, list[tuple[str, pa.DataType]]]] = {
    "images": [("width", pa.int64()), ("height", pa.int64()), *_BLOB],
    "audios": [("rate", pa.int64()), *_BLOB],
    "texts": [("text", pa.string())],
    "figures": [("figure", pa.string())],
    "distributions": [
        ("counts", pa.list_(pa.float64())),
        ("low", pa.float64()),
        ("high", pa.float64()),
    ],
}
KINDS: Final = tuple(_FIELDS)


def objects_table(kind: str, rows: Iterable[Row | None]) -> pa.Table:
    """A row an object: run, name, context (JSON text), step, epoch, time (epoch seconds), index within its step; then what the kind
    has. images: width, height, caption, format, path (of the artifact with its bytes); audios: rate, caption, format, path; texts: text;
    figures: figure (JSON text, of Plotly); distributions: counts of each bin, low and high. What was logged as something else is null."""
    fields = [*_ABOUT_OBJECTS, *_FIELDS[kind]]
    columns: dict[str, list[object]] = {name: [] for name, _ in fields}
    for row in rows:
        if row is None:
            continue
        value = row["value"] if isinstance(row["value"], dict) else {}
        about = {
            **row,
            "context": json_text.dumps(row["context"]),
            "epoch": _float(row["epoch"]),
            **_shown(kind, row["run"], value),
        }
        for name, _ in fields:
            columns[name].append(about[name])
    arrays = [pa.array(columns[name], type_) for name, type_ in fields]
    return pa.Table.from_arrays(arrays, names=[name for name, _ in fields])


def _shown(kind: str, run: str, value: Row) -> Row:
    if kind == "texts":
        return {"text": _word(value.get("data"))}
    if kind == "figures":
        data = value.get("data")
        return {"figure": data if data is None or isinstance(data, str) else json_text.dumps(data)}
    if kind == "distributions":
        counts, bounds = value.get("data"), value.get("range")
        low, high = bounds if isinstance(bounds, list) and len(bounds) == 2 else (None, None)
        return {
            "counts": [_float(one) for one in counts] if isinstance(counts, list) else None,
            "low": _float(low),
            "high": _float(high),
        }
    key = value.get("s3_key")
    path = key.removeprefix(f"{run}/") if isinstance(key, str) else None
    return {
        **{name: _whole(value.get(name)) for name in ("width", "height", "rate")},
        **{name: _word(value.get(name)) for name in ("caption", "format")},
        "path": None if path == key else path,
    }


def _word(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _whole(value: object) -> int | None:
    return value if type(value) is int and abs(value) < 1 << 63 else None
