"""Sequences that another program wrote before: the reference's worker, whose trace rows name the step that it wrote last, or
one whose trace rows are missing. What we append stands behind all of it."""

from __future__ import annotations

import math
from typing import Any

import fdb.tuple
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import pack
from matyan.keys import POINT_FIELDS, pack_value, unpack_value
from matyan.rules.sequences import Layout
from tests.ledger import T0, Ledger, metric, record

pytestmark = pytest.mark.usefixtures("bodies")

KINDS = ["metric", "object", "line", "record"]
NAMES = {"metric": "m", "object": "o", "line": "logs", "record": "__log_records"}
DTYPES = {"metric": "float", "object": "custom", "line": "logs", "record": "log_records"}
ROWS = ("dtype", "last", "last_step")


def theirs(ledger: Ledger, kind: str, steps: list[int], without: tuple[str, ...] = ()) -> None:
    """Leaves what the reference's worker leaves that wrote these steps in this order: rows of points and, but for those
    `without`, of the trace."""
    name, keys = NAMES[kind], ledger.keys
    prefix = keys.seq("r", 0, name)

    def body(tr: Any) -> None:
        tr.set(keys.context("r", 0), pack_value({}))
        for step in steps:
            for field, value in (("val", their_value(kind, step)), ("step", step), ("time", T0)):
                tr.set(prefix + POINT_FIELDS[field] + pack((step,)), pack_value(value))
        last = their_value(kind, steps[-1]) if kind == "metric" else 0.0
        for field, value in zip(ROWS, (DTYPES[kind], last, steps[-1]), strict=True):
            if field not in without:
                tr.set(keys.trace("r", 0, name, field), pack_value(value))

    ledger.store.commit(body)


def their_value(kind: str, step: int) -> Any:
    if kind == "metric":
        return float(step) + 0.5
    return f"theirs {step}" if kind == "line" else {"theirs": step}


def ours(kind: str, step: int | None, n: int = 0) -> bytes:
    """A record of ours; a line's step is where its client stands, and a log record has none."""
    if kind == "metric":
        return metric("m", 1000.0 + n, step)
    if kind == "object":
        return record("log_custom_object", name="o", value={"ours": n}, step=step)
    if kind == "line":
        return record("log_terminal_line", line=f"ours {n}", step=step or 0)
    return record("log_record", message=f"ours {n}", level=20, timestamp=1.0)


def steps_of(ledger: Ledger, kind: str) -> list[int]:
    """All steps of its rows, those too that a packed store's reader of metrics does not look at."""
    found = [row[4] for row in ledger.rows_of("r") if row[:4] == ("seqs", 0, NAMES[kind], "val")]
    if kind == "metric" and ledger.layout == "packed":
        found += [step for step, _, _, _ in ledger.points("m")]
    return sorted({*found})


def trace(ledger: Ledger, kind: str) -> dict[str, Any]:
    rows = ledger.rows_of("r")
    return {
        field: unpack_value(rows["traces", 0, NAMES[kind], field])
        for field in ROWS
        if ("traces", 0, NAMES[kind], field) in rows
    }


layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])
kinds = pytest.mark.parametrize("kind", KINDS)
missing = pytest.mark.parametrize(
    "without", [(), ROWS, ("last_step",), ("last",)], ids=lambda rows: "-".join(rows) or "none"
)


@layouts
@kinds
@missing
@pytest.mark.parametrize(
    ("before", "lands_on"),
    [
        ([10, 5], 11),
        ([0, 1, 2, 0], 3),
        ([0, 1, 2, 3, 4, 0], 5),
        ([0], 1),
        ([7, -3], 8),
        ([-3], 0),
        ([2**40, 1], 2**40 + 1),
    ],
    ids=str,
)
def test_what_has_no_step_lands_behind_all_that_is_there(
    layout: Layout, kind: str, before: list[int], lands_on: int, without: tuple[str, ...]
) -> None:
    """Whatever the row of the trace says, and where none is; nothing of theirs is written over."""
    ledger = Ledger(layout)
    theirs(ledger, kind, before, without)
    if kind == "line" and lands_on == 0:
        lands_on = -2  # a line's place is the one behind the highest, though that be below 0
    ledger.apply(ours(kind, -(2**62) if kind == "line" else None))
    assert steps_of(ledger, kind) == sorted({*before, lands_on})
    assert trace(ledger, kind)["last_step"] == lands_on
    assert trace(ledger, kind)["dtype"] == DTYPES[kind]
    for step in before:
        row = ledger.rows_of("r")["seqs", 0, NAMES[kind], "val", step]
        assert unpack_value(row) == their_value(kind, step)
    assert (("trace", NAMES[kind]) in ledger.facts()) == ("last_step" in without)


@layouts
@missing
def test_the_highest_step_is_kept_where_ours_is_below(
    layout: Layout, without: tuple[str, ...]
) -> None:
    """They wrote 10, then 5; our 7 and 5 stand between, and last is the value at 10."""
    ledger = Ledger(layout)
    theirs(ledger, "metric", [10, 5], without)
    ledger.apply(ours("metric", 7))
    ledger.apply(ours("metric", 5))
    assert trace(ledger, "metric") == {"dtype": "float", "last": 10.5, "last_step": 10}


@layouts
def test_a_highest_value_that_is_none_leaves_the_last_finite_one(layout: Layout) -> None:
    """The reference stores null for NaN."""
    ledger = Ledger(layout)
    theirs(ledger, "metric", [3, 10, 5])
    prefix = ledger.keys.seq("r", 0, "m") + POINT_FIELDS["val"]
    for packed in (pack_value(None), pack_value(math.nan), pack_value("text"), b"\xc1"):

        def put(tr: Any, packed: bytes = packed) -> None:
            tr.set(prefix + pack((10,)), packed)

        ledger.store.commit(put)
        ledger.rules = ledger.make_rules()
        ledger.apply(ours("metric", 7))
        assert trace(ledger, "metric") == {"dtype": "float", "last": 5.5, "last_step": 10}


@layouts
@kinds
def test_keys_that_are_no_steps_are_passed_over(layout: Layout, kind: str) -> None:
    """Steps beyond int64, texts, floats, and bytes that are no tuple at all."""
    ledger = Ledger(layout)
    theirs(ledger, kind, [4, 2], ("last_step",))
    prefix = ledger.keys.seq("r", 0, NAMES[kind]) + POINT_FIELDS["val"]

    def body(tr: Any) -> None:
        for end in (
            *(fdb.tuple.pack((step,)) for step in (2**63, 2**70, -(2**63) - 1, -(2**80))),
            *(b"\x15\x09\xff", b"\x02x\x00", b"\x21" + bytes(8), b"\x15", b"\xff", b""),
        ):
            tr.set(prefix + end, pack_value(1.0))

    ledger.store.commit(body)
    ledger.apply(ours(kind, -9 if kind == "line" else None))
    assert [info.last_step for info in ledger.traces()] == [5]


@layouts
def test_a_line_after_theirs_is_none_of_ours_again(layout: Layout) -> None:
    """Ours was sent with step 4; theirs counted from 0 again; the next one with step 4 is appended."""
    ledger = Ledger(layout)
    ledger.apply(*(ours("line", step, step) for step in range(5)))
    theirs(ledger, "line", [0, 1])
    ledger.rules = ledger.make_rules()
    ledger.apply(ours("line", 4, 9))
    assert ledger.objects("logs")[-1] == (5, None, 0.0, "ours 9")


@layouts
def test_chunks_without_a_trace_are_not_written_over(layout: Layout) -> None:
    """A damaged store: the points tell where the sequence stands."""
    ledger = Ledger(layout)
    ledger.apply(metric("m", 1.0, 0), metric("m", 2.0, 9), metric("m", 3.0, 4))

    def body(tr: Any) -> None:
        for field in ROWS:
            tr.clear(ledger.keys.trace("r", 0, "m", field))

    ledger.store.commit(body)
    ledger.rules = ledger.make_rules()
    ledger.apply(metric("m", 4.0, None))
    assert [(step, value) for step, value, _, _ in ledger.points("m")] == [
        (0, 1.0),
        (4, 3.0),
        (9, 2.0),
        (10, 4.0),
    ]
    assert trace(ledger, "metric") == {"dtype": "float", "last": 4.0, "last_step": 10}


steps = st.integers(-3, 12) | st.sampled_from([2**62, -(2**63), 2**40])


@settings(deadline=None)
@given(
    st.sampled_from(["compatible", "packed"]),
    st.sampled_from(KINDS),
    st.lists(steps, min_size=1, max_size=8),
    st.sets(st.sampled_from(ROWS)),
    st.lists(st.lists(st.none() | steps, min_size=1, max_size=4), max_size=4),
)
def test_whatever_was_there_is_followed(
    layout: Any, kind: str, before: list[int], without: set[str], batches: list[list[int | None]]
) -> None:
    """What has no step is never written over what stands, and the trace names the highest step, after each batch."""
    ledger = Ledger(layout)
    theirs(ledger, kind, before, tuple(without))
    standing = {*before}
    for n, batch in enumerate(batches):
        ledger.apply(*(ours(kind, step, n) for step in batch))
        for step in batch:
            highest = max(standing)
            if kind == "line":
                continue
            if step is None or kind == "record":
                step = max(0, highest + 1)
            standing.add(step)
        found = steps_of(ledger, kind)
        if kind != "line":
            assert found == sorted(standing)
        assert {*before} <= {*found}
        assert trace(ledger, kind)["last_step"] == found[-1]
        assert trace(ledger, kind)["dtype"] == DTYPES[kind]
    if batches and kind == "metric" and layout == "compatible":
        assert len(ledger.points("m")) == len(standing)
