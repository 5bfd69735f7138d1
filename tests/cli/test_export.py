"""Exports read back by the libraries that users would read them with."""

from __future__ import annotations

import csv
import io
import itertools
import json
import math
import struct
from array import array
from typing import Any

import pyarrow.csv as arrow_csv
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.cli.export import FIELDS, WRITERS
from matyan.reader import Block, Points

INT64 = st.integers(-(2**63), 2**63 - 1)

FRACTIONS = st.floats(-1e15, 1e15).filter(lambda number: not number.is_integer())


def points(epochs: st.SearchStrategy[int | float]) -> st.SearchStrategy[list[Any]]:
    finite = st.floats(allow_nan=False, allow_infinity=False)
    return st.lists(st.tuples(INT64, st.floats(), finite, st.none() | epochs))


POINTS = points(INT64 | FRACTIONS)
JSON_OBJECTS = st.dictionaries(
    st.text(),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=5,
    ),
    max_size=4,
)


def metric(rows: list[tuple[int, float, float, int | float | None]], **head: object) -> Block:
    points = Points(
        array("q", (row[0] for row in rows)),
        array("d", (row[1] for row in rows)),
        array("d", (row[2] for row in rows)),
        [row[3] for row in rows],
    )
    return Block(**{"name": "loss", "context": {}, "dtype": "float", **head}, points=points)


def written(format_: str, *blocks: Block) -> bytes:
    out = io.BytesIO()
    WRITERS[format_](blocks, out)
    return out.getvalue()


def same(left: float, right: float) -> bool:
    return struct.pack("<d", left) == struct.pack("<d", right) or (
        math.isnan(left) and math.isnan(right)
    )


def strictly(text: str) -> Any:
    """As a parser reads it that knows no NaN."""
    return json.loads(text, parse_constant=pytest.fail)


@given(POINTS, st.text(), JSON_OBJECTS)
def test_jsonl_gives_back_every_point(rows, name, context) -> None:
    """One object a point, with the fields of the issue, in strict JSON: NaN and infinities are strings."""
    lines = written("jsonl", metric(rows, name=name, context=context)).decode().splitlines()
    read = [strictly(line) for line in lines]
    assert len(read) == len(rows)
    for got, (step, value, when, epoch) in zip(read, rows, strict=True):
        assert tuple(got) == FIELDS
        assert (got["name"], got["context"], got["dtype"]) == (name, context, "float")
        assert (got["step"], got["epoch"], got["time"]) == (step, epoch, when)
        assert type(got["epoch"]) is type(epoch)
        if math.isfinite(value):
            assert same(got["value"], value)
        else:
            assert got["value"] == {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, "NaN")


@given(JSON_OBJECTS)
def test_jsonl_gives_back_objects(value) -> None:
    """The value of a custom object is the object."""
    block = Block("figure", {}, "figure", objects=[(3, None, 1.5, value)])
    (line,) = written("jsonl", block).decode().splitlines()
    assert strictly(line)["value"] == value


def test_what_is_not_finite_is_a_string_wherever_it_stands() -> None:
    """In a context, an object, a time."""
    odd = {"a": [math.nan, {"b": -math.inf}]}
    block = Block("figure", odd, "figure", objects=[(3, 0.5, math.inf, odd)])
    (line,) = written("jsonl", block).decode().splitlines()
    got = strictly(line)
    assert got["value"] == got["context"] == {"a": ["NaN", {"b": "-Infinity"}]}
    assert (got["time"], got["epoch"]) == ("Infinity", 0.5)
    (_, row) = csv.reader(io.StringIO(written("csv", block).decode(), newline=""))
    assert strictly(row[1]) == strictly(row[6]) == {"a": ["NaN", {"b": "-Infinity"}]}


@given(POINTS, st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\0")))
def test_csv_gives_back_every_point(rows, name) -> None:
    """Floats are written so that reading them gives the same bits; a missing epoch is empty."""
    text = written("csv", metric(rows, name=name, context={"a": 'b,"c'})).decode()
    head, *read = csv.reader(io.StringIO(text, newline=""))
    assert tuple(head) == FIELDS
    assert len(read) == len(rows)
    for got, (step, value, when, epoch) in zip(read, rows, strict=True):
        assert got[0] == name
        assert json.loads(got[1]) == {"a": 'b,"c'}
        assert (int(got[3]), float(got[5])) == (step, when)
        assert got[4] == ("" if epoch is None else str(epoch))
        assert same(float(got[6]), value)


@pytest.mark.parametrize(
    "name", ["a\rb", "\r", "a\r\nb", 'quote"d', "a,b", " lead", "", "\n", "=1+1", "\\", "\x1b[2J"]
)
def test_a_name_in_csv_is_one_field_to_every_reader(name) -> None:
    """A bare carriage return too, which Python's own writer left bare until 3.11.9."""
    text = written("csv", metric([(1, 2.0, 3.0, None)], name=name)).decode()
    head, row = csv.reader(io.StringIO(text, newline=""))
    assert (row[0], len(row)) == (name, len(head))
    table = arrow_csv.read_csv(
        io.BytesIO(text.encode()),
        parse_options=arrow_csv.ParseOptions(newlines_in_values=True),
        convert_options=arrow_csv.ConvertOptions(column_types={"name": "string"}),
    )
    assert table.to_pylist()[0]["name"] == name


@given(points(INT64))
def test_parquet_gives_back_every_point_and_object(rows) -> None:
    """Metrics stand in `value`, objects as JSON in `object`."""
    figure = Block(
        "figure", {"subset": "test"}, "figure", objects=[(7, 2, 1.5, {"type": "figure"})]
    )
    table = parquet.read_table(io.BytesIO(written("parquet", metric(rows), figure))).to_pylist()
    assert len(table) == len(rows) + 1
    for got, (step, value, when, epoch) in zip(table, rows, strict=False):
        assert (got["step"], got["time"], got["epoch"], got["object"]) == (step, when, epoch, None)
        assert same(got["value"], value)
    assert json.loads(table[-1]["object"]) == {"type": "figure"}
    assert table[-1]["value"] is None
    assert json.loads(table[-1]["context"]) == {"subset": "test"}


@pytest.mark.parametrize("readable", [True, False])
@given(st.lists(points(st.integers(-(2**53), 2**53) | FRACTIONS), max_size=3))
def test_a_fraction_makes_parquets_epochs_floats(readable, blocks) -> None:
    """Those written before it too, and in a pipe; the type is that of all epochs of the file."""
    rows = [row for block in blocks for row in block]
    out = io.BytesIO() if readable else Pipe()
    WRITERS["parquet"](map(metric, blocks), out)
    table = parquet.read_table(io.BytesIO(out.getvalue()))
    fractions = any(isinstance(row[3], float) for row in rows)
    assert str(table.schema.field("epoch").type) == ("double" if fractions else "int64")
    assert table.column("epoch").to_pylist() == [row[3] for row in rows]
    assert table.column("step").to_pylist() == [row[0] for row in rows]


class Pipe(io.BytesIO):
    """Can be neither read nor sought in."""

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


@pytest.mark.parametrize("format_", WRITERS)
def test_no_blocks_is_a_valid_file(format_) -> None:
    """A run without sequences exports to an empty table, not to an error."""
    text = written(format_)
    if format_ == "csv":
        assert text.decode().strip() == ",".join(FIELDS)
    elif format_ == "jsonl":
        assert text == b""
    else:
        assert parquet.read_table(io.BytesIO(text)).num_rows == 0


@pytest.mark.parametrize("format_", WRITERS)
def test_blocks_are_written_as_they_come(format_) -> None:
    """Memory does not grow with the run: a block is written before the next one is asked for."""
    out = io.BytesIO()
    sizes = []

    def blocks():
        for start in range(0, 8 * 65_536, 65_536):
            sizes.append(out.tell())
            yield metric([(step, step * 0.1, 1.0, None) for step in range(start, start + 65_536)])

    WRITERS[format_](blocks(), out)
    assert all(later > earlier for earlier, later in itertools.pairwise(sizes[1:]))
