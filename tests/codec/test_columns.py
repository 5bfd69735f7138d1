"""Columns: what goes in comes out, and what is made of it agrees with a few lines of Python."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matyan._codec import Columns

Row = tuple[int | None, float, float, int | float | None]

INT64 = st.integers(-(2**63), 2**63 - 1)
STEPS = st.integers(-5, 20) | INT64
FLOATS = st.floats(allow_nan=False)
FRACTIONS = st.floats(-1e15, 1e15).filter(lambda number: not number.is_integer())


def rows_of(steps: st.SearchStrategy[int | None]) -> st.SearchStrategy[list[Row]]:
    return st.lists(st.tuples(steps, FLOATS, FLOATS, st.none() | INT64 | FRACTIONS), max_size=40)


WHOLE = rows_of(STEPS)
RUNS = st.lists(st.integers(0, 30).map(lambda n: list(range(n))), max_size=6).map(
    lambda runs: [(step, float(i), 0.0, None) for i, run in enumerate(runs) for step in run]
)


def columns_of(rows: list[Row]) -> Columns:
    columns = Columns()
    for row in rows:
        columns.append(*row)
    return columns


@given(rows_of(st.none() | STEPS))
def test_points_come_back_as_they_went_in(rows: list[Row]) -> None:
    """A step or an epoch that was not given stays None."""
    columns = columns_of(rows)
    assert columns.rows() == rows
    assert len(columns) == len(rows)
    assert columns.stepless == sum(row[0] is None for row in rows)


@given(rows_of(st.none() | STEPS), rows_of(st.none() | STEPS))
def test_extend_appends_a_copy(first: list[Row], second: list[Row]) -> None:
    columns, other = columns_of(first), columns_of(second)
    columns.extend(other)
    assert columns.rows() == first + second
    assert columns.stepless == sum(row[0] is None for row in first + second)
    other.extend(other)
    assert other.rows() == second * 2
    assert columns.rows() == first + second


@given(rows_of(st.none() | st.integers(-5, 50)), st.integers(0, 60))
def test_a_missing_step_is_the_next_free_one(rows: list[Row], next_step: int) -> None:
    expected = []
    following = next_step
    for step, *_ in rows:
        expected.append(following if step is None else step)
        following = max(following, expected[-1] + 1)
    columns = columns_of(rows)
    assert columns.fill_steps(next_step) == following
    assert [row[0] for row in columns.rows()] == expected
    assert columns.stepless == 0


@pytest.mark.parametrize(
    ("steps", "next_step"),
    [([None, None], 2**63 - 1), ([2**63 - 1, None], 0), ([None, 2**63 - 1, 5, None], 3)],
)
def test_where_no_step_is_free_nothing_changes(steps: list[int | None], next_step: int) -> None:
    columns = columns_of([(step, 1.0, 1.0, None) for step in steps])
    with pytest.raises(OverflowError):
        columns.fill_steps(next_step)
    assert [row[0] for row in columns.rows()] == steps


def test_the_last_free_step_is_given() -> None:
    columns = columns_of([(None, 1.0, 1.0, None)])
    assert columns.fill_steps(2**63 - 1) == 2**63 - 1
    assert columns.rows()[0][0] == 2**63 - 1


@given(WHOLE)
@example([])
@example([(step, 0.0, 0.0, None) for step in range(20, 0, -1)])
def test_merged_is_sorted_and_keeps_the_later_of_equal_steps(rows: list[Row]) -> None:
    assert columns_of(rows).merged().rows() == sorted({row[0]: row for row in rows}.values())


@given(RUNS)
def test_merged_takes_runs_apart(rows: list[Row]) -> None:
    """A resumed run counts from 0 again: a few ascending runs behind each other."""
    assert columns_of(rows).merged().rows() == sorted({row[0]: row for row in rows}.values())


@given(WHOLE, st.none() | STEPS, st.none() | STEPS)
def test_between_is_half_open(rows: list[Row], begin: int | None, end: int | None) -> None:
    assert columns_of(rows).between(begin, end).rows() == [
        row
        for row in rows
        if row[0] is not None
        and (begin is None or row[0] >= begin)
        and (end is None or row[0] < end)
    ]


@given(WHOLE, st.integers(0, 40), st.none() | STEPS)
def test_follow_does_not_depend_on_where_a_batch_ends(
    rows: list[Row], cut: int, before: int | None
) -> None:
    """last and last_step after two batches are those after one."""
    rows = [
        (step, math.nan if value < 0 else value, time, epoch) for step, value, time, epoch in rows
    ]
    first, second = columns_of(rows[:cut]), columns_of(rows[cut:])
    if before is None and not len(first):
        return
    step, value, ascending = first.follow(before, 0.0)
    step, value, ascending_too = second.follow(step, value)
    assert columns_of(rows).follow(before, 0.0) == (step, value, ascending and ascending_too)


def test_follow_needs_a_point() -> None:
    with pytest.raises(ValueError, match="no points"):
        Columns().follow(None, 0.0)


@given(WHOLE)
def test_the_bytes_are_little_endian_arrays(rows: list[Row]) -> None:
    columns = columns_of(rows)
    n = len(rows)
    assert columns.steps_bytes() == struct.pack(f"<{n}q", *[row[0] for row in rows])
    assert columns.values_bytes() == struct.pack(f"<{n}d", *[row[1] for row in rows])
    assert columns.times_bytes() == struct.pack(f"<{n}d", *[row[2] for row in rows])
    epochs = [row[3] or 0 for row in rows]
    assert columns.epochs_bytes() == b"".join(
        struct.pack("<d" if isinstance(epoch, float) else "<q", epoch) for epoch in epochs
    )
    kinds = {type(None): 0, int: 1, float: 3}
    assert columns.epoch_mask() == bytes(kinds[type(row[3])] for row in rows)


def test_points_without_a_step_are_refused_where_one_is_needed() -> None:
    columns = columns_of([(None, 1.0, 1.0, None)])
    for use in (
        columns.merged,
        columns.steps_bytes,
        lambda: columns.between(None, None),
        lambda: columns.follow(None, 0.0),
    ):
        with pytest.raises(ValueError, match="fill_steps"):
            use()


def test_a_step_beyond_int64_is_refused() -> None:
    columns = Columns()
    with pytest.raises(OverflowError):
        columns.append(2**63, 1.0, 1.0)
    assert len(columns) == 0


@given(st.lists(st.integers(0, 7), max_size=9), st.integers(1, 40))
def test_a_sample_can_be_taken_block_by_block(sizes: list[int], most: int) -> None:
    """Where it is known how many points there are, none but those of the sample need be held."""
    whole, found, seen = Columns(), Columns(), 0
    blocks = []
    for size in sizes:
        block = Columns()
        for step in range(size):
            block.append(seen + step, float(step), 0.0, step if step % 2 else None)
        blocks.append(block)
        whole.extend(block)
        seen += size
    before = 0
    for block in blocks:
        found.extend(block.sampled_of(before, seen, most))
        before += len(block)
    assert found.rows() == whole.sampled(most).rows()
