"""Summaries of sequences: what they count, and the bytes that they become."""

from __future__ import annotations

import math

import msgpack
from hypothesis import given
from hypothesis import strategies as st

from matyan._codec import Columns, Summary


@given(
    st.lists(st.lists(st.floats()), max_size=5), st.integers(0, 3), st.integers(-(2**63), 2**63 - 1)
)
def test_it_is_exact_however_the_points_are_cut(
    batches: list[list[float]], entries: int, last_step: int
) -> None:
    summary = Summary()
    for batch in batches:
        columns = Columns()
        for value in batch:
            columns.append(0, value, 0.0)
        summary.add(columns)
    summary.add_entries(entries)
    values = [value for batch in batches for value in batch]
    finite = [value for value in values if math.isfinite(value)]
    extremes = [finite[0], min(finite), max(finite)] if finite else [None] * 3
    count = len(values) + entries
    assert [summary.count, summary.first, summary.min, summary.max] == [count, *extremes]
    packed = summary.packed(last_step)
    assert msgpack.unpackb(packed) == [last_step, count, *extremes]
    assert packed == msgpack.packb([last_step, count, *extremes])
    again = Summary(count, *extremes)
    assert again.packed(last_step) == packed
