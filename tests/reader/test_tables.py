"""Arrow's tables hold what was logged: each value in a type that holds it exactly, each attribute in a column of its own."""

from __future__ import annotations

import json
import math
from array import array
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import Columns
from matyan.api.reading import _columns
from matyan.reader.tables import (
    POINTS,
    objects_table,
    point_batches,
    points_table,
    runs_table,
    values_array,
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([2**53, 2**53 + 1, -(2**63), 2**63 - 1, 2**63, 0, 1])
    | st.floats()
    | st.sampled_from(["", "a", "1", "ünï"])
)
NAMES = st.sampled_from(["lr", "a.b", "", "[", '"', "run", "metrics", "name", "ünï", "x y"]) | (
    st.text('.[]" a', max_size=3)
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def same(one: Any, other: Any) -> bool:
    """Equal, NaN to itself, and a bool to no number."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


@settings(max_examples=50)
@given(st.lists(VALUES, max_size=6))
def test_a_column_holds_each_value_exactly(values) -> None:
    """As itself, or all of them as text: a text as it is, anything else as the JSON that gives it back."""
    column = values_array(values)
    got = column.to_pylist()
    assert len(got) == len(values)
    if column.type != pa.string() or all(
        value is None or isinstance(value, str) for value in values
    ):
        assert same(got, values)
        return
    for text, value in zip(got, values, strict=True):
        if value is None or isinstance(value, str):
            assert text == value
        elif "NaN" not in text and "Infinity" not in text:
            assert same(json.loads(text), value)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([0.1, 1], pa.float64()),
        ([1, None], pa.int64()),
        ([2**63, 1], pa.uint64()),
        ([2**63, -1], pa.string()),
        ([2**53 + 1, 0.5], pa.string()),
        ([True, 1], pa.string()),
        ([True, None], pa.bool_()),
        (["a", 1], pa.string()),
        ([[1, 2], [0.5], []], pa.list_(pa.float64())),
        ([["a"], None], pa.list_(pa.string())),
        ([[1], 1], pa.string()),
        ([[{}]], pa.string()),
        ([None], pa.null()),
        ([], pa.null()),
    ],
)
def test_the_narrowest_type_is_chosen(values, kind) -> None:
    assert values_array(values).type == kind


def row(run: str, attrs: dict[str, Any], **more: Any) -> dict[str, Any]:
    about = {
        **{"name": run, "description": "", "experiment": None, "tags": ["a", "b"]},
        **{"created_at": 1767323046.25, "finalized_at": None, "duration": None},
        **{"active": True, "archived": False},
    }
    return {"run": run, **about, "attrs": attrs, **more}


def test_a_row_a_run() -> None:
    """Times are timestamps, tags a list, attributes columns as a query names them; what a run has not is null."""
    table = runs_table(
        [
            row("one", {"hparams": {"lr": 0.5, "opt": {"name": "adam"}, "a.b": [1]}}),
            None,
            row("two", {"hparams": {"lr": 1, "opt": {}}, "run": "mine"}, created_at=math.nan),
        ]
    )
    assert table.schema.field("created").type == pa.timestamp("us", tz="UTC")
    assert table.schema.field("ended").type == pa.timestamp("us", tz="UTC")
    assert [at and at.timestamp() for at in table["created"].to_pylist()] == [1767323046.25, None]
    assert table["tags"].to_pylist() == [["a", "b"]] * 2
    assert table["run"].to_pylist() == ["one", "two"]
    assert table["hparams.lr"].to_pylist() == [0.5, 1.0]
    assert table["hparams.opt.name"].to_pylist() == ["adam", None]
    assert table["hparams.opt"].to_pylist() == [None, "{}"]
    assert table['hparams["a.b"]'].to_pylist() == [[1], None]
    assert table['["run"]'].to_pylist() == [None, "mine"]


def test_last_values_stand_beside_each_other() -> None:
    metrics = [
        ["loss", {}, 0.5],
        ["loss", {"subset": "val"}, 0.7],
        ['loss {"subset": "val"}', {}, 1.0],
    ]
    table = runs_table([row("one", {}, metrics=metrics), row("two", {}, metrics=[])])
    assert table["metrics.loss"].to_pylist() == [0.5, None]
    assert table['metrics.loss {"subset": "val"}'].to_pylist() == [0.7, None]
    assert table.num_columns == runs_table([]).num_columns + 3


@settings(max_examples=50)
@given(st.dictionaries(NAMES, VALUES, max_size=5))
def test_no_two_attributes_share_a_column(attrs) -> None:
    """Whatever they are called: dots, brackets, quotes, names of the run's own columns."""

    def leaves(tree: Any) -> int:
        return sum(map(leaves, tree.values())) if isinstance(tree, dict) and tree else 1

    own = runs_table([]).column_names
    names = runs_table([row("one", attrs)]).column_names
    assert len({*names}) == len(names) == len(own) + (leaves(attrs) if attrs else 0)


EPOCHS = st.none() | st.integers(0, 100) | st.floats(0, 100)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["one", "two"]),
            st.sampled_from(["loss", "ünï"]),
            st.sampled_from([{}, {"subset": "train"}, {"k": 1.0}]),
            st.lists(
                st.tuples(
                    st.integers(-(2**63), 2**63 - 1), st.floats(), st.floats(0, 1e10), EPOCHS
                ),
                max_size=5,
            ),
        ),
        max_size=6,
    ),
    st.integers(1, 8),
)
def test_points_come_whole_whatever_the_batches(blocks, batch_rows) -> None:
    """Each point in its order, with a null for an epoch that was not given."""
    rows: list[dict[str, Any] | None] = []
    expected = []
    for run, name, context, points in blocks:
        columns = Columns()
        for step, value, time, epoch in points:
            columns.append(step, value, time, epoch)
            expected.append([run, name, json.dumps(context), step, value, epoch, time])
        rows += [None, {"run": run, "name": name, "context": context, **_columns(columns)}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("matyan.reader.tables.BATCH_ROWS", batch_rows)
        table = points_table(point_batches(rows))
    assert table.schema.equals(POINTS)
    got = [[*one.values()] for one in table.to_pylist()]
    assert all(map(same, got, expected))
    assert len(got) == len(expected)


def test_points_are_the_bytes_that_came() -> None:
    """No Python object a point: a million points take a few calls, and no copy beyond the one that joins their pieces."""
    count = 1 << 20
    steps = array("q", range(count)).tobytes()
    doubles = array("d", [1.0]) * count
    block = {
        "steps": steps,
        "values": doubles.tobytes(),
        "times": doubles.tobytes(),
        "epochs": None,
    }
    batches = [*point_batches([{"run": "a", "name": "b", "context": {}, **block}])]
    assert [batch.num_rows for batch in batches] == [count]
    (values,) = points_table(batches)["value"].chunks
    assert values.null_count == 0
    # numpy refuses where it would have to copy.
    assert values.to_numpy(zero_copy_only=True).shape == (count,)


@pytest.mark.parametrize("value", [None, 5, {}, {"data": 5, "range": 1, "s3_key": 7, "width": "w"}])
@pytest.mark.parametrize("kind", ["images", "audios", "texts", "figures", "distributions"])
def test_an_object_that_is_none_is_a_row_of_nulls(kind, value) -> None:
    at = {"run": "one", "name": "x", "context": {}, "step": 1, "epoch": None, "time": 2.0}
    (got,) = objects_table(kind, [{**at, "index": 0, "value": value}]).to_pylist()
    assert (got["run"], got["step"]) == ("one", 1)
    assert [value for name, value in got.items() if name not in {*at, "index"} and value] in (
        [],
        ["5"],
    )
