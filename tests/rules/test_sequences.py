"""Sequences: one suite for both layouts, on a real RocksDB store, and on the one in memory."""

from __future__ import annotations

import itertools
import math
import random
import struct
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import fdb.tuple
import msgpack
import pytest
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from matyan._codec import Columns, chunk_head, decode_chunk, encode_chunk, key_int
from matyan.errors import ConfigurationError, InvalidRecord
from matyan.keys import POINT_FIELDS, Keys, unpack_value
from matyan.rules.free_steps import find
from matyan.rules.sequences import (
    Entry,
    Growth,
    Layout,
    SequenceInfo,
    Sequences,
    SequenceWrites,
    open_layout,
)
from matyan.store.base import Snapshot, Store, Transaction
from matyan.store.rocks import open_rocks
from tests.memory_store import MemoryStore

T = TypeVar("T")
Row = tuple[int | None, float, float, int | float | None]
Groups = list[tuple[str, str, list[Row]]]
Told = tuple[int, float | None, float | None, float | None]

layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])
TINY = Growth(early=3, latest=4, chunk=8, rewrite=12)
_runs = itertools.count()
LAST = 2**63 - 1


@pytest.fixture(scope="module", params=["rocks", "memory"])
def store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Store]:
    opened: Store = (
        MemoryStore()
        if request.param == "memory"
        else open_rocks(tmp_path_factory.mktemp("sequences"), sync=False)
    )
    yield opened
    trio.run(opened.aclose)


class Aborted(Exception):
    pass


@dataclass
class Desk:
    """A store and sequences of one layout, used as a worker uses them."""

    store: Store
    layout: Layout
    growth: Growth | None = None
    cache_bytes: int = 1 << 20
    run: str = field(default_factory=lambda: f"run{next(_runs)}")
    keys: Keys = field(init=False)
    sequences: Sequences = field(init=False)
    tr: Transaction = field(init=False)

    def __post_init__(self) -> None:
        self.keys = Keys(self.store)
        self.restart()

    def restart(self) -> None:
        self.sequences = Sequences(
            self.keys, self.layout, cache_bytes=self.cache_bytes, growth=self.growth
        )

    def write(
        self,
        body: Callable[[SequenceWrites], T],
        *,
        abort: bool = False,
        known: bool = True,
    ) -> T:
        """One transaction; `abort`: rolled back at its end; `known`: whether its commit was noticed."""
        writes: list[SequenceWrites] = []

        def transaction(tr: Transaction) -> T:
            self.tr = tr
            writes.append(self.sequences.begin(tr))
            result = body(writes[-1])
            if abort:
                raise Aborted
            return result

        result = trio.run(self.store.transact, transaction)
        if known:
            self.sequences.committed(writes[-1])
        return result

    def read(self, body: Callable[[Snapshot], T]) -> T:
        return trio.run(self.store.read, body)

    def append(self, name: str, rows: list[Row], dtype: str = "float", ctx: int = 0) -> bool:
        return self.write(
            lambda writes: writes.append_points(self.run, ctx, name, dtype, columns_of(rows))
        )

    def put(
        self, name: str, step: int | None, value: object, epoch: int | float | None = None
    ) -> bool:
        return self.write(
            lambda writes: writes.append_object(
                self.run, 0, name, "custom", Entry(step, epoch, 2.5, value)
            )
        )

    def rows(self, name: str, begin: int | None = None, end: int | None = None) -> list[Row]:
        return self.read(
            lambda snap: [
                row
                for columns in self.sequences.points(snap, self.run, 0, name, begin, end)
                for row in columns.rows()
            ]
        )

    def values(self, name: str, begin: int | None, end: int | None) -> list[Row]:
        """Steps and values, where times and epochs are not asked for."""
        asked = 0, name, begin, end

        def body(snap: Snapshot) -> list[Row]:
            found = self.sequences.points(snap, self.run, *asked, values_only=True)
            rows = [row for columns in found for row in columns.rows()]
            return [(step, value, 0.0, None) for step, value, _, _ in rows]

        return self.read(body)

    def objects(self, name: str) -> list[tuple[int, int | float | None, float, object]]:
        return self.read(lambda snap: list(self.sequences.objects(snap, self.run, 0, name)))

    def count(self, name: str) -> int:
        (info,) = (info for info in self.infos() if (info.ctx, info.name) == (0, name))
        return self.read(lambda snap: self.sequences.count(snap, self.run, info))

    def summary(self, info: SequenceInfo) -> Told:
        """What its readers are told."""
        found = self.read(lambda snap: self.sequences.summary(snap, self.run, info))
        return found.count, found.first, found.min, found.max

    def infos(self) -> list[SequenceInfo]:
        return self.read(lambda snap: list(self.sequences.sequences(snap, self.run)))

    def stored(self) -> dict[tuple[Any, ...], bytes]:
        """All keys of the run as tuples without it, and their values."""
        size = len(self.keys.runs)
        return self.read(
            lambda snap: {
                fdb.tuple.unpack(key[size:])[1:]: value
                for key, value in snap.scan(*self.keys.run_range(self.run))
            }
        )

    def chunks(self, name: str) -> list[tuple[int, bytes]]:
        return [
            (key[4], value)
            for key, value in self.stored().items()
            if key[:4] == ("seqs", 0, name, "chunk")
        ]


def columns_of(rows: list[Row]) -> Columns:
    columns = Columns()
    for row in rows:
        columns.append(*row)
    return columns


def summary_of(count: int, finite: list[float]) -> Told:
    if not finite:
        return count, None, None, None
    return count, finite[0], min(finite), max(finite)


def bits(rows: list[Row]) -> list[tuple[int | None, bytes, bytes, int | float | None]]:
    """Comparable, NaN payloads and the sign of a zero included."""
    return [
        (step, struct.pack("<d", value), struct.pack("<d", time), epoch)
        for step, value, time, epoch in rows
    ]


# --- the model: what any layout must hold ----------------------------------------------------------


class Modelled:
    """One sequence as a dict, in a few lines that are plainly right."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.last = 0.0
        self.last_step: int | None = None
        self.dtype = ""
        self.rises = True  # each step was above the one before it

    def append(self, rows: list[Row], dtype: str) -> None:
        self.dtype = dtype
        for step, value, time, epoch in rows:
            if step is None:
                step = 0 if self.last_step is None else max(0, self.last_step + 1)
            self.rises = self.rises and (self.last_step is None or step > self.last_step)
            self.rows[step] = (step, value, time, epoch)
            if self.last_step is None or step >= self.last_step:
                self.last_step = step
                if math.isfinite(value):
                    self.last = value


NAMES = st.sampled_from(["loss", "a\0b", "ü"])
VALUES = st.floats() | st.sampled_from([math.nan, math.inf, -0.0])
STEPS = st.none() | st.integers(-3, 60) | st.sampled_from([-(2**63), 2**62])
EPOCHS = st.none() | st.integers(-2, 300) | st.sampled_from([0.25, -1.5, 2**63 - 1, 1 / 3])
POINTS = st.lists(
    st.tuples(STEPS, VALUES, st.floats(0, 2e9), EPOCHS),
    min_size=1,
    max_size=20,
)
RISING = st.integers(1, 20).map(lambda n: [(None, n / 3, 1.5 * n, None)] * n)
BATCHES = st.lists(
    st.tuples(
        st.lists(
            st.tuples(NAMES, st.sampled_from(["float", "int"]), RISING | POINTS),
            min_size=1,
            max_size=5,
        ),
        st.sampled_from(["commit", "commit", "commit", "abort", "unknown", "restart", "delete"]),
    ),
    max_size=20,
)


@layouts
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES, st.sampled_from([0, 4_000, 1 << 20]), st.integers(-3, 60), st.integers(-3, 60))
def test_same_points_in_same_points_out(
    store: Store,
    layout: Layout,
    batches: list[tuple[Groups, str]],
    cache_bytes: int,
    begin: int,
    end: int,
) -> None:
    """Whatever the order, the repeats and the sizes of the batches; aborted transactions, ones whose commit
    nobody noticed, restarts, deletions and a cache too small for it all included."""
    desk = Desk(store, layout, TINY, cache_bytes)
    model: dict[str, Modelled] = {}
    for groups, ending in batches:

        def body(
            writes: SequenceWrites, groups: Groups = groups, ending: str = ending
        ) -> list[bool]:
            if ending == "delete":
                desk.tr.clear_range(*desk.keys.run_range(desk.run))
                writes.forget_run(desk.run)
            return [
                writes.append_points(desk.run, 0, name, dtype, columns_of(rows))
                for name, dtype, rows in groups
            ]

        if ending == "abort":
            with pytest.raises(Aborted):
                desk.write(body, abort=True)
            continue
        is_new = desk.write(body, known=ending != "unknown")
        if ending == "delete":
            model.clear()
        if ending == "restart":
            desk.restart()
        for (name, dtype, rows), new in zip(groups, is_new, strict=True):
            assert new == (name not in model)
            model.setdefault(name, Modelled()).append(rows, dtype)

    for name, expected in model.items():
        rows = [row for _, row in sorted(expected.rows.items())]
        assert bits(desk.rows(name)) == bits(rows)
        assert bits(desk.rows(name, begin, end)) == bits(
            [row for row in rows if row[0] is not None and begin <= row[0] < end]
        )
        plain: list[Row] = [(step, value, 0.0, None) for step, value, _, _ in rows]
        assert bits(desk.values(name, None, None)) == bits(plain)
        assert desk.count(name) == len(rows)
        assert desk.objects(name) == []
    assert {(info.name, info.dtype, info.last_step) for info in desk.infos()} == {
        (name, expected.dtype, expected.last_step) for name, expected in model.items()
    }
    for info in desk.infos():
        expected = model[info.name]
        assert struct.pack("<d", info.last) == struct.pack("<d", expected.last)
        assert (info.summary is not None) == expected.rises
        values = [row[1] for _, row in sorted(expected.rows.items()) if math.isfinite(row[1])]
        assert desk.summary(info) == summary_of(len(expected.rows), values)


# --- summaries -------------------------------------------------------------------------------------

ENTRIES = st.lists(
    st.tuples(
        st.sampled_from(["points", "object", "line", "session"]),
        st.lists(st.tuples(st.integers(0, 12) | st.none(), VALUES), min_size=1, max_size=4),
        st.sampled_from(["commit", "commit", "abort", "unknown", "restart"]),
    ),
    max_size=12,
)


@layouts
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ENTRIES)
def test_a_summary_is_what_its_points_and_objects_make(
    store: Store, layout: Layout, batches: list[tuple[str, list[tuple[int | None, float]], str]]
) -> None:
    """Of a sequence that mixes points and objects, too: what stands in the trace is what a reader without it finds; and lines that
    are sent again and again at one step keep theirs."""
    desk = Desk(store, layout, TINY)
    has_lines = False
    for kind, rows, ending in batches:

        def body(
            writes: SequenceWrites,
            kind: str = kind,
            rows: list[tuple[int | None, float]] = rows,
        ) -> None:
            for step, value in rows:
                if kind == "points":
                    columns = columns_of([(step, value, 1.0, None)])
                    writes.append_points(desk.run, 0, "loss", "float", columns)
                elif kind == "object":
                    entry = Entry(step, None, 1.0, {"a": repr(value)})
                    writes.append_object(desk.run, 0, "loss", "custom", entry)
                elif kind == "line":
                    writes.append_line(desk.run, repr(value), step or 0, 1.0)
                else:
                    writes.begin_session(desk.run)

        if ending == "abort":
            with pytest.raises(Aborted):
                desk.write(body, abort=True)
            continue
        desk.write(body, known=ending != "unknown")
        has_lines = has_lines or kind == "line"
        if ending == "restart":
            desk.restart()
    for info in desk.infos():
        anew = info._replace(summary=None)
        assert desk.summary(info) == desk.summary(anew)
        assert info.summary is not None or info.name == "loss"
    assert has_lines == any(info.name == "logs" for info in desk.infos())


@layouts
@pytest.mark.parametrize(
    "damage",
    [
        lambda row: None,
        lambda row: b"\xc1",
        lambda row: msgpack.packb([8, 9, 1.0, 1.0, 1.0]),
        lambda row: msgpack.packb([9, 10, 1, 1, 1]),
        lambda row: msgpack.packb([9, True, 1.0, 1.0, 1.0]),
        lambda row: msgpack.packb([9, 10, math.nan, 1.0, 1.0]),
        lambda row: msgpack.packb([9, 10, None, 1.0, 1.0]),
        lambda row: msgpack.packb({"count": 10}),
    ],
)
def test_a_summary_that_is_none_counts_for_nobody(
    store: Store, layout: Layout, damage: Callable[[bytes], bytes | None]
) -> None:
    """Missing, damaged, or of another last step than the trace's: readers read the points, and its writer does not go on from it."""
    desk = Desk(store, layout, TINY)
    desk.append("loss", [(step, float(step), 1.0, None) for step in range(10)])
    row = desk.keys.trace(desk.run, 0, "loss", "summary")

    def spoil(tr: Transaction) -> None:
        packed = tr.get(row)
        assert packed is not None
        spoiled = damage(packed)
        if spoiled is None:
            tr.clear(row)
        else:
            tr.set(row, spoiled)

    trio.run(store.transact, spoil)
    (info,) = desk.infos()
    assert info.summary is None
    assert desk.summary(info) == (10, 0.0, 0.0, 9.0)
    desk.restart()
    desk.append("loss", [(10, -1.0, 1.0, None)])
    (info,) = desk.infos()
    assert info.summary is None
    assert desk.summary(info) == (11, 0.0, -1.0, 9.0)


def test_what_the_references_worker_has_written_is_counted_anew(store: Store) -> None:
    """It moves last_step to what it wrote last, above and below."""
    for step in (4, 20):
        desk = Desk(store, "compatible")
        desk.append("loss", [(at, float(at), 1.0, None) for at in range(10)])

        def theirs(tr: Transaction, desk: Desk = desk, step: int = step) -> None:
            seq = desk.keys.seq(desk.run, 0, "loss")
            tr.set(key_int(seq + POINT_FIELDS["val"], step), msgpack.packb(99.0))
            tr.set(desk.keys.trace(desk.run, 0, "loss", "last_step"), msgpack.packb(step))

        trio.run(store.transact, theirs)
        desk.restart()
        for _ in range(2):
            (info,) = desk.infos()
            assert info.summary is None
            assert desk.summary(info)[3] == 99.0
            desk.append("loss", [(30, 1.0, 1.0, None)])


# --- keys ------------------------------------------------------------------------------------------

EXPECTED_KEYS: dict[str, dict[tuple[Any, ...], Any]] = {
    "compatible": {
        ("seqs", 0, "loss", "val", 0): 0.5,
        ("seqs", 0, "loss", "val", 300): 0.25,
        ("seqs", 0, "loss", "step", 0): 0,
        ("seqs", 0, "loss", "step", 300): 300,
        ("seqs", 0, "loss", "epoch", 300): 2,
        ("seqs", 0, "loss", "time", 0): 10.0,
        ("seqs", 0, "loss", "time", 300): 11.5,
    },
    "packed": {
        ("seqs", 0, "loss", "chunk", 0): [(0, 0.5, 10.0, None), (300, 0.25, 11.5, 2)],
    },
}
EXPECTED_IN_BOTH: dict[tuple[Any, ...], Any] = {
    ("seqs", 0, "logs", "val", 7): "a line",
    ("seqs", 0, "logs", "step", 7): 7,
    ("seqs", 0, "logs", "time", 7): 12.0,
    ("traces", 0, "loss", "dtype"): "float",
    ("traces", 0, "loss", "last"): 0.25,
    ("traces", 0, "loss", "last_step"): 300,
    ("traces", 0, "loss", "summary"): [300, 2, 0.5, 0.25, 0.5],
    ("traces", 0, "logs", "dtype"): "logs",
    ("traces", 0, "logs", "last"): 0.0,
    ("traces", 0, "logs", "last_step"): 7,
    ("traces", 0, "logs", "summary"): [7, 1, None, None, None],
}


@layouts
def test_the_keys_are_the_contracts(store: Store, layout: Layout) -> None:
    """Every key and every value of two points and a log line, in both layouts, and no others."""
    desk = Desk(store, layout)

    def body(writes: SequenceWrites) -> None:
        rows: list[Row] = [(0, 0.5, 10.0, None), (300, 0.25, 11.5, 2)]
        writes.append_points(desk.run, 0, "loss", "float", columns_of(rows))
        writes.append_object(desk.run, 0, "logs", "logs", Entry(7, None, 12.0, "a line"))

    desk.write(body)
    found = {}
    for key, value in desk.stored().items():
        if "chunk" in key:
            columns = Columns()
            decode_chunk(value, columns)
            found[key] = columns.rows()
        else:
            found[key] = msgpack.unpackb(value)
            assert msgpack.packb(found[key]) == value
    expected = EXPECTED_KEYS[layout] | EXPECTED_IN_BOTH
    assert found == expected
    assert [type(value) for value in found.values()] == [type(expected[key]) for key in found]


@layouts
def test_an_epoch_with_a_fraction_is_kept_as_it_is(store: Store, layout: Layout) -> None:
    """A float64 beside integers that no float64 holds, of points and of objects; through merges too."""
    desk = Desk(store, layout, TINY)
    epochs = [0.25, 2**63 - 1, None, 1 / 3, -(2**63), -0.5, 2.0, 7]
    rows: list[Row] = [(step, 1.0, 2.0, epochs[step % 8]) for step in range(60)]
    for row in rows:
        desk.append("loss", [row])
    kept: list[Row] = [(*row[:3], 2) if row[3] == 2.0 else row for row in rows]
    assert [repr(row) for row in desk.rows("loss")] == [repr(row) for row in kept]
    desk.put("figure", 1, {}, epoch=0.75)
    desk.put("figure", 2, {}, epoch=3.0)
    assert [repr(row[1]) for row in desk.objects("figure")] == ["0.75", "3"]
    if layout == "compatible":
        stored = desk.stored()
        assert stored[("seqs", 0, "loss", "epoch", 3)] == msgpack.packb(1 / 3)
        assert stored[("seqs", 0, "loss", "epoch", 6)] == msgpack.packb(2)
        assert stored[("seqs", 0, "figure", "epoch", 1)] == msgpack.packb(0.75)


@layouts
def test_a_step_written_again_without_epoch_loses_the_old_one(store: Store, layout: Layout) -> None:
    """In another batch and in the same one; `last` follows an equal step."""
    desk = Desk(store, layout)
    desk.append("loss", [(1, 1.0, 1.0, 5), (2, 2.0, 1.0, 5), (2, 3.0, 2.0, None)])
    desk.append("loss", [(1, 4.0, 3.0, None)])
    assert desk.rows("loss") == [(1, 4.0, 3.0, None), (2, 3.0, 2.0, None)]
    assert not [key for key in desk.stored() if "epoch" in key]
    desk.append("loss", [(2, 9.0, 3.0, None)])
    assert [(info.last, info.last_step) for info in desk.infos()] == [(9.0, 2)]


@pytest.mark.parametrize(
    ("batches", "last", "last_step"),
    [
        ([[(0, math.nan)]], 0.0, 0),
        ([[(0, 1.0), (1, math.nan)]], 1.0, 1),
        ([[(0, 1.0)], [(1, math.inf)]], 1.0, 1),
        ([[(5, 1.0)], [(3, 2.0)]], 1.0, 5),
        ([[(5, 1.0), (5, 2.0)]], 2.0, 5),
        ([[(5, 1.0)], [(5, math.nan)]], 1.0, 5),
        ([[(5, math.nan)], [(3, 2.0)]], 0.0, 5),
        ([[(-5, 1.0), (-7, 2.0)]], 1.0, -5),
    ],
)
@layouts
def test_last_is_the_last_finite_value_at_the_highest_step(
    store: Store,
    layout: Layout,
    batches: list[list[tuple[int, float]]],
    last: float,
    last_step: int,
) -> None:
    """0.0 while there was none; what comes below the highest step does not count."""
    desk = Desk(store, layout)
    for batch in batches:
        desk.append("loss", [(step, value, 1.0, None) for step, value in batch])
    assert [(info.last, info.last_step) for info in desk.infos()] == [(last, last_step)]


NAN, INF = math.nan, math.inf
SHOWN: list[tuple[list[list[tuple[int, float]]], float, int]] = [
    ([[(0, NAN)]], NAN, 0),
    ([[(0, INF), (1, -INF)]], -INF, 1),
    ([[(0, 1.0)], [(1, NAN)]], NAN, 1),
    ([[(0, NAN)], [(1, 2.0)]], 2.0, 1),
    ([[(5, NAN)], [(3, 2.0)]], NAN, 5),
    ([[(5, 1.0)], [(3, NAN)]], 1.0, 5),
    ([[(5, 1.0)], [(5, INF)]], INF, 5),
    ([[(5, NAN), (5, 4.0)]], 4.0, 5),
    ([[(-5, NAN)]], NAN, -5),
    ([[(2**63 - 1, INF)], [(0, 1.0)]], INF, 2**63 - 1),
    ([[(step, float(step))] for step in range(40)] + [[(40, NAN)]], NAN, 40),
    ([[(step, NAN if step == 40 else 1.0)] for step in range(40, -1, -1)], NAN, 40),
]
"""Batches of points, and the value and step that are shown as the last ones."""


@layouts
@pytest.mark.parametrize(("batches", "last", "last_step"), SHOWN)
def test_the_last_value_is_shown_as_it_is(
    store: Store,
    layout: Layout,
    batches: list[list[tuple[int, float]]],
    last: float,
    last_step: int,
) -> None:
    """NaN and infinities too, of which the trace knows nothing; of an object the trace's."""
    desk = Desk(store, layout, TINY)
    for batch in batches:
        desk.append("loss", [(step, value, 1.0, None) for step, value in batch])
    desk.put("figure", 3, {"a": 1})
    desk.put("figure", 2, {"a": 1})
    figure, loss = desk.infos()
    steps = {step for batch in batches for step, _ in batch}
    shown = desk.read(lambda snap: desk.sequences.last(snap, desk.run, loss))
    assert repr(shown) == repr((last, last_step))
    assert desk.count("loss") == len(steps)
    shown = desk.read(lambda snap: desk.sequences.last(snap, desk.run, figure))
    assert shown == (0.0, 3)
    assert desk.count("figure") == 2


@layouts
def test_a_missing_step_is_the_next_free_one(store: Store, layout: Layout) -> None:
    """Counted over points and objects alike, across batches, transactions and restarts; the caller's columns
    stay as they were, since a transaction's body may run again."""
    desk = Desk(store, layout)
    columns = columns_of([(None, 1.0, 1.0, None), (7, 2.0, 1.0, None), (None, 3.0, 1.0, None)])
    for _ in range(2):
        desk.write(lambda writes: writes.append_points(desk.run, 0, "loss", "float", columns))
        assert columns.stepless == 2
        desk.restart()
    assert [row[0] for row in desk.rows("loss")] == [0, 7, 8, 9, 10]
    desk.put("figure", None, {"a": 1})
    desk.put("figure", 4, {"a": 1})
    desk.put("figure", None, {"a": 1})
    assert [row[0] for row in desk.objects("figure")] == [0, 4, 5]


def behind(steps: list[int]) -> int:
    """What the next free step is: behind all, or behind those that stand below the full end of int64."""
    free = LAST
    while free in steps:
        free -= 1
    return max([0, *(step + 1 for step in steps if step < free)])


@layouts
@pytest.mark.parametrize(
    ("steps", "free"),
    [
        ([LAST], 0),
        ([5, LAST], 6),
        ([LAST, 5], 6),
        ([LAST - 1, LAST], 0),
        ([7, LAST - 3, LAST - 1, LAST], LAST - 2),
        ([-9, LAST], 0),
        ([-(2**63), LAST], 0),
        ([3, *range(LAST - 500, LAST + 1)], 4),
        ([LAST - 9_000, *range(LAST - 5_000, LAST + 1)], LAST - 8_999),
        ([*range(LAST, LAST - 1_200, -1), 2], 3),
    ],
)
def test_behind_the_last_step_of_all_comes_the_next_free_one(
    store: Store, layout: Layout, steps: list[int], free: int
) -> None:
    """What was accepted is stored and takes nothing's place: points, in one batch and in others, and objects, after a restart too."""
    points: list[Row] = [(step, 1.0, 1.0, None) for step in steps]
    new: list[Row] = [(None, 2.0, 1.0, None)] * 2
    expected = [*steps]
    for _ in range(4):
        expected.append(behind(expected))
    assert expected[len(steps)] == free
    one = Desk(store, layout, TINY)
    one.append("loss", points + new)
    one.append("loss", new)
    assert [row[0] for row in one.rows("loss")] == sorted(expected)
    many = Desk(store, layout, TINY)
    many.append("loss", points)
    for _ in range(2):
        many.restart()
        many.append("loss", new)
    assert [row[0] for row in many.rows("loss")] == sorted(expected)
    info = many.infos()[0]
    shown = many.read(lambda snap: many.sequences.last(snap, many.run, info))
    assert shown == (1.0, LAST)
    assert many.count("loss") == len(expected)
    objects = Desk(store, layout)

    def put_all(writes: SequenceWrites) -> None:
        for step in steps:
            writes.append_object(objects.run, 0, "figure", "custom", Entry(step, None, 1.0, {}))

    objects.write(put_all)
    for number in range(4):
        objects.put("figure", None, {"a": 1})
        if number % 2:
            objects.restart()
    assert [row[0] for row in objects.objects("figure")] == sorted(expected)


_few_steps = st.one_of(
    st.none(),
    st.none(),
    st.integers(-2, 4),
    st.integers(LAST - 5, LAST),
    st.sampled_from([-(2**63), LAST - 80, LAST - 81]),
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["points", "points", "object", "restart", "abort"]),
            st.lists(_few_steps, min_size=1, max_size=6),
        ),
        max_size=12,
    ),
    st.sampled_from(["packed", "compatible"]),
)
def test_a_next_free_step_is_free_whatever_came_before(
    store: Store, work: list[tuple[str, list[int | None]]], layout: Layout
) -> None:
    """Points and objects under one name, at the end of int64 and elsewhere, forgotten and rolled back in between."""
    desk = Desk(store, layout, TINY)
    desk.append("x", [(LAST, 0.0, 1.0, None)])
    steps = [LAST]
    for kind, sent in work:
        if kind == "restart":
            desk.restart()
            continue
        if kind == "abort":
            with pytest.raises(Aborted):
                desk.write(
                    lambda writes, sent=sent: writes.append_points(
                        desk.run,
                        0,
                        "x",
                        "float",
                        columns_of([(one, 1.0, 1.0, None) for one in sent]),
                    ),
                    abort=True,
                )
            continue
        for step in sent:
            steps.append(behind(steps) if step is None else step)
        if kind == "points":
            desk.append("x", [(step, 1.0, 1.0, None) for step in sent])
        else:
            for step in sent:
                desk.put("x", step, {"a": 1})
    found = {step for step, *_ in desk.rows("x")} | {step for step, *_ in desk.objects("x")}
    assert found == {*steps}


def test_the_search_for_a_free_step_is_short_whatever_was_sent() -> None:
    """Rows of taken steps are passed over in strides; what it finds is free, and behind what stands below."""
    for taken in (
        {LAST - number for number in range(100_000)},
        {LAST - number for number in range(100_000)} - {LAST - 70_000},
        {LAST - 2**number for number in range(62)} | {LAST},
        {LAST - number for number in range(65)} | {LAST - 64 - 2**number for number in range(62)},
    ):
        asked: list[int] = []
        ordered = sorted(taken)

        def below(step: int, ordered=ordered, asked=asked) -> int | None:
            asked.append(step)
            place = bisect_left(ordered, step)
            return ordered[place - 1] if place else None

        free = find(below)
        assert free is not None
        assert free.next not in taken
        assert free.next == 0 or free.next - 1 in taken
        assert free.end in taken or free.end - 1 not in taken
        assert len(asked) < 130


# --- objects ---------------------------------------------------------------------------------------


@layouts
def test_objects_come_back(store: Store, layout: Layout) -> None:
    """In the steps' order, the later one of a step, its epoch gone when the later one has none."""
    desk = Desk(store, layout)
    assert desk.put("figure", 3, {"type": "figure", "data": [1, None]}, epoch=1)
    assert not desk.put("figure", 1, {"type": "figure", "data": 2**64 - 1}, epoch=2)
    assert not desk.put("figure", 3, {"x": "y"})
    assert desk.objects("figure") == [
        (1, 2, 2.5, {"type": "figure", "data": 2**64 - 1}),
        (3, None, 2.5, {"x": "y"}),
    ]
    assert desk.rows("figure") == []
    assert desk.count("figure") == 2
    assert desk.infos() == [SequenceInfo(0, "figure", "custom", 0.0, 3)]


@layouts
@pytest.mark.parametrize("size", [90_001, 500_000, 900_000])
def test_a_large_object_stands_in_parts(store: Store, layout: Layout, size: int) -> None:
    """val says how many, each has 90,000 bytes, joined they are the packed value; a smaller object over it, and
    after a restart too, clears them."""
    desk = Desk(store, layout)
    large = {"type": "figure", "data": "x" * size}
    packed = msgpack.packb(large)
    desk.put("figure", 2, large)
    desk.put("figure", 3, large)
    stored = desk.stored()
    count = -(-len(packed) // 90_000)
    assert unpack_value(stored[("seqs", 0, "figure", "val", 2)]) == {
        "type": "figure",
        "data": None,
        "__parts__": count,
    }
    parts = [stored[("parts", 0, "figure", 2, i)] for i in range(count)]
    assert b"".join(parts) == packed
    assert all(len(part) <= 90_000 for part in parts)
    assert [row[3] for row in desk.objects("figure")] == [large, large]

    desk.restart()
    desk.put("figure", 2, {"small": True})
    assert {key[3] for key in desk.stored() if key[0] == "parts"} == {3}
    assert [row[3] for row in desk.objects("figure")] == [{"small": True}, large]


def test_a_point_over_a_large_object_clears_its_parts(store: Store) -> None:
    """In the compatible layout, where they share a key."""
    desk = Desk(store, "compatible")
    desk.put("x", 2, {"data": "x" * 100_000})
    desk.append("x", [(2, 1.0, 1.0, None), (3, 1.0, 1.0, None)])
    assert not [key for key in desk.stored() if key[0] == "parts"]
    assert desk.objects("x") == []


LONG = "é€😀" * 20_000
RECORD = {
    "message": "m",
    "log_level": 20,
    "timestamp": 1.5,
    "args": {"x": LONG},
    "logger_info": ["f.py", 3],
}
SEEN: list[tuple[str, object, object]] = [
    (
        "logs",
        LONG,
        LONG[:20_000].encode()[:60_000].decode(errors="ignore") + " … [cut, 180000 bytes]",
    ),
    ("logs", "x" * 90_000, "x" * 60_000 + " … [cut, 90000 bytes]"),
    (
        "__log_records",
        RECORD,
        {**RECORD, "message": "m … [cut, 1 bytes]", "args": None, "logger_info": None},
    ),
    (
        "__log_records",
        {**RECORD, "message": "x" * 100_000, "args": None},
        {
            **RECORD,
            "message": "x" * 60_000 + " … [cut, 100000 bytes]",
            "args": None,
            "logger_info": None,
        },
    ),
    ("o", {"type": 7, "data": LONG}, {"type": 7, "data": None, "__parts__": 3}),
    ("o", {"message": LONG}, {"type": None, "data": None, "__parts__": 3}),
]
"""What is stored, and what stands as val for readers that know no parts."""


@layouts
@pytest.mark.parametrize(("name", "value", "seen"), SEEN)
def test_what_is_over_90_000_bytes_stands_in_parts(
    store: Store, layout: Layout, name: str, value: object, seen: object
) -> None:
    """A terminal line and a log record too: whole for readers of ours, and the beginning for others."""
    desk = Desk(store, layout)
    desk.put(name, 3, value)
    desk.put(name, 4, "plain")
    desk.put(name, 5, value)
    stored = desk.stored()
    assert unpack_value(stored["seqs", 0, name, "val", 3]) == seen
    parts = [part for key, part in stored.items() if key[:4] == ("parts", 0, name, 3)]
    assert b"".join(parts) == msgpack.packb(value)
    assert [len(part) for part in parts[:-1]] == [90_000] * (len(parts) - 1)
    assert [row[3] for row in desk.objects(name)] == [value, "plain", value]

    desk.restart()
    desk.put(name, 3, "short")
    assert {key[3] for key in desk.stored() if key[0] == "parts"} == {5}
    assert [row[3] for row in desk.objects(name)] == ["short", "plain", value]


@layouts
@pytest.mark.parametrize("short", [0, 1])
def test_90_000_bytes_are_one_value(store: Store, layout: Layout, short: int) -> None:
    """Head included."""
    desk = Desk(store, layout)
    desk.put("logs", 0, "x" * (90_000 - 5 + 1 - short))
    assert len([key for key in desk.stored() if key[0] == "parts"]) == (2 if short == 0 else 0)


def test_a_value_whose_outline_is_too_large_is_refused(store: Store) -> None:
    """The type of an object stands in one value."""
    desk = Desk(store, "packed")
    with pytest.raises(InvalidRecord, match="100000"):
        desk.put("o", 0, {"type": "x" * 500_000, "data": 1})


@layouts
def test_parts_are_looked_for_and_no_text_is_read(store: Store, layout: Layout) -> None:
    """A line that looks cut is itself; of a value whose parts are damaged the beginning is left."""
    desk = Desk(store, layout)
    cut = "x … [cut, 180000 bytes]"
    desk.put("logs", 0, cut)
    desk.put("logs", 1, LONG)
    assert [row[3] for row in desk.objects("logs")] == [cut, LONG]
    part = desk.keys.parts(desk.run, 0, "logs") + fdb.tuple.pack((1, 1))
    trio.run(store.transact, lambda tr: tr.clear(part))
    assert desk.objects("logs")[1][3] == SEEN[0][2]


# --- terminal lines --------------------------------------------------------------------------------

Sent = list[int | None]
LINES: list[tuple[str, Sent, list[tuple[int, int]]]] = [
    ("as sent", [0, 1, 5], [(0, 0), (1, 1), (5, 2)]),
    ("an unfinished line is sent again", [0, 1, 1, 1, 2], [(0, 0), (1, 3), (2, 4)]),
    ("a second session", [0, 1, None, 0, 1, 2], [(0, 0), (1, 1), (2, 3), (3, 4), (4, 5)]),
    ("a session that begins where the last one ended", [0, None, 0, 0], [(0, 0), (1, 3)]),
    ("two in turn", [7, 0, 8, 1], [(7, 0), (8, 1), (9, 2), (10, 3)]),
    ("again, though it stands elsewhere", [9, 3, 3, 3], [(9, 0), (10, 3)]),
    ("not the line before it", [3, 4, 3], [(3, 0), (4, 1), (5, 2)]),
    ("below zero", [-5, -4, None, -9], [(-5, 0), (-4, 1), (-3, 3)]),
    ("the last step", [4, LAST, 0, 0, 9, None, 9], [(4, 0), (5, 3), (6, 4), (7, 6), (LAST, 1)]),
    ("the last step again", [LAST, LAST, None, LAST], [(0, 3), (LAST, 1)]),
    (
        "the last steps",
        [2, LAST - 2, 0, 1, 2, 3],
        [(2, 0), (3, 4), (4, 5), (LAST - 2, 1), (LAST - 1, 2), (LAST, 3)],
    ),
    ("below zero and the last", [-2, LAST, 7], [(-2, 0), (0, 2), (LAST, 1)]),
]
"""Sent steps, None for a create_run; and the steps of the lines, each with the number of the one that stands there."""


@layouts
@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("sent", "expected"), [case[1:] for case in LINES], ids=[case[0] for case in LINES]
)
def test_no_line_takes_anothers_place(
    store: Store, layout: Layout, sent: Sent, expected: list[tuple[int, int]], restarts: bool
) -> None:
    """The table above: by an owner that remembers the lines before, and by one that reads them."""
    desk = Desk(store, layout)
    for number, step in enumerate(sent):
        if restarts:
            desk.restart()
        if step is None:
            desk.write(lambda writes: writes.begin_session(desk.run))
        else:
            text, at = str(number), step
            desk.write(lambda writes, text=text, at=at: writes.append_line(desk.run, text, at, 1.0))
    assert [(step, int(str(line))) for step, _, _, line in desk.objects("logs")] == expected
    assert desk.rows("logs") == []


def test_many_lines_at_the_end_of_int64_do_not_end_the_search(store: Store) -> None:
    """It is short, and a line finds its place."""
    desk = Desk(store, "packed")

    def body(writes: SequenceWrites) -> None:
        for step in range(LAST - 1_000, LAST + 1):
            writes.append_line(desk.run, "x", step, 1.0)

    desk.write(body)
    desk.write(lambda writes: writes.append_line(desk.run, "y", 0, 1.0))
    assert desk.objects("logs")[0] == (0, None, 1.0, "y")


@layouts
def test_the_row_of_the_sent_step_is_the_contracts(store: Store, layout: Layout) -> None:
    """Cleared by the next session."""
    desk = Desk(store, layout)
    row = ("traces", 0, "logs", "sent")
    for sent in 4, 1:
        desk.write(lambda writes, sent=sent: writes.append_line(desk.run, "x", sent, 1.0))
        assert unpack_value(desk.stored()[row]) == sent
    desk.write(lambda writes: writes.begin_session(desk.run))
    assert row not in desk.stored()


@layouts
def test_a_long_line_that_is_rewritten_leaves_no_part(store: Store, layout: Layout) -> None:
    """From large to small and back."""
    desk = Desk(store, layout)
    for text in LONG, "short", LONG:
        desk.write(lambda writes, text=text: writes.append_line(desk.run, text, 3, 1.0))
        assert desk.objects("logs") == [(3, None, 1.0, text)]
        assert len([key for key in desk.stored() if key[0] == "parts"]) == (
            3 if text == LONG else 0
        )


def test_a_sequence_of_the_reference_goes_on_after_its_highest_step(store: Store) -> None:
    """Its row names the step that was written last."""
    desk = Desk(store, "compatible")
    desk.append("loss", [(step, float(step), 1.0, None) for step in range(8)])
    desk.put("figure", 9, {"a": 1})

    def older(tr: Transaction) -> None:
        for name in "loss", "figure":
            tr.set(desk.keys.trace(desk.run, 0, name, "last_step"), b"\x03")
            tr.set(desk.keys.trace(desk.run, 0, name, "last"), msgpack.packb(3.0))

    trio.run(store.transact, older)
    desk.restart()
    desk.append("loss", [(None, 0.5, 1.0, None), (4, 9.0, 1.0, None)])
    desk.put("figure", None, {"a": 2})
    assert [(info.name, info.last, info.last_step) for info in desk.infos()] == [
        ("figure", 3.0, 10),
        ("loss", 0.5, 8),
    ]


def test_what_msgpack_cannot_hold_is_refused(store: Store) -> None:
    desk = Desk(store, "packed")
    for value in ({"n": 2**64}, {"s": "\ud800"}):
        with pytest.raises(InvalidRecord, match="figure"):
            desk.put("figure", 0, value)


def test_an_object_that_looks_like_parts_is_itself(store: Store) -> None:
    desk = Desk(store, "packed")
    desk.put("x", 0, {"type": None, "data": None, "__parts__": 2})
    assert desk.objects("x")[0][3] == {"type": None, "data": None, "__parts__": 2}


# --- chunks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 10, 50, 300, 1024, 3000])
def test_a_point_is_written_three_times_at_most(store: Store, size: int) -> None:
    """And the keys stay few, whatever the size of the batches."""
    desk = Desk(store, "packed")
    written = 0
    total = 0
    most = 0

    def body(writes: SequenceWrites) -> None:
        nonlocal written
        rows: list[Row] = [(total + i, 0.5, 1.0, None) for i in range(size)]
        before = writes.budget + 4 * size
        writes.append_points(desk.run, 0, "loss", "float", columns_of(rows))
        written += max(size, before - writes.budget)

    for appends in range(max(8, min(2500, 30_000 // size))):
        desk.write(body)
        total += size
        if appends % 31 == 30:
            most = max(most, len(desk.chunks("loss")) - total // 512)
    assert written <= 3 * total
    assert most <= 62
    assert len(desk.rows("loss")) == total == desk.count("loss")


def test_sequences_that_grow_in_step_are_merged_in_turn(store: Store) -> None:
    """No transaction rewrites much more than its budget, though all sequences are due together."""
    desk = Desk(store, "packed", Growth(rewrite=2_000))
    worst = 0

    def body(writes: SequenceWrites, step: int) -> None:
        nonlocal worst
        for number in range(200):
            rows: list[Row] = [(step * 10 + i, 0.5, 1.0, None) for i in range(10)]
            writes.append_points(desk.run, 0, f"loss{number}", "float", columns_of(rows))
        worst = max(worst, 2_000 + 4 * 2_000 - writes.budget)

    for step in range(60):
        desk.write(partial(body, step=step))
    assert worst <= 2_000 + 4 * 2_000
    assert all(desk.count(f"loss{number}") == 600 for number in range(0, 200, 50))


def test_a_later_chunk_has_a_higher_number(store: Store) -> None:
    """And the head tells the points before it, so that a count is one read."""
    desk = Desk(store, "packed", TINY)
    numbers = -1
    for step in range(100):
        desk.append("loss", [(step, 1.0, 1.0, None)])
        chunks = desk.chunks("loss")
        assert chunks[-1][0] > numbers
        numbers = chunks[-1][0]
        points = 0
        for _, chunk in chunks:
            _, ordered, count, before = chunk_head(chunk)
            assert (ordered, before) == (True, points)
            points += count
        assert points == step + 1


@layouts
def test_transactions_may_overlap_their_commits(store: Store, layout: Layout) -> None:
    """The first is told of its commit after the second has begun: what it knew of the sequence is old then."""
    desk = Desk(store, layout)
    begun: list[SequenceWrites] = []

    def body(tr: Transaction) -> None:
        step = len(begun)
        begun.append(desk.sequences.begin(tr))
        columns = columns_of([(step, float(step), 1.0, None)])
        begun[-1].append_points(desk.run, 0, "loss", "float", columns)

    for _ in range(6):
        trio.run(store.transact, body)
        trio.run(store.transact, body)
        desk.sequences.committed(begun[-2])
        desk.sequences.committed(begun[-1])
    trio.run(store.transact, body)
    trio.run(store.transact, body)
    desk.sequences.committed(begun[-1])
    desk.sequences.committed(begun[-2])
    trio.run(store.transact, body)
    assert [row[0] for row in desk.rows("loss")] == list(range(15))


def test_the_cache_is_bounded(store: Store) -> None:
    """It forgets the longest unused sequences first."""
    desk = Desk(store, "packed", cache_bytes=20_000)
    for number in range(100):
        desk.append(f"loss{number}", [(0, 1.0, 1.0, None)])
    cached = desk.sequences._cache._states
    assert 5 < len(cached) < 20
    assert next(reversed(cached)) == (desk.run, 0, "loss99")


@layouts
def test_a_small_cache_loses_no_point(store: Store, layout: Layout) -> None:
    """Whatever is cached, thrown out, aborted and forgotten, in whatever order."""
    chance = random.Random(7)
    desk = Desk(store, layout, TINY, cache_bytes=6_000)
    runs = [desk.run, *(f"run{next(_runs)}" for _ in range(2))]
    kept: dict[tuple[str, str], int] = dict.fromkeys(itertools.product(runs, "abc"), 0)
    for _ in range(400):
        names = chance.sample(sorted(kept), chance.randint(1, 4))
        forgotten = chance.choice(runs) if chance.random() < 0.2 else ""

        def body(writes: SequenceWrites, names: list[tuple[str, str]], forgotten: str) -> None:
            if forgotten:
                writes.forget_run(forgotten)
            for run, name in names:
                columns = columns_of([(None, 1.0, 1.0, None)])
                writes.append_points(run, 0, name, "float", columns)

        abort = chance.random() < 0.2
        with suppress(Aborted):
            desk.write(partial(body, names=names, forgotten=forgotten), abort=abort)
        if not abort:
            for key in names:
                kept[key] += 1
        cache = desk.sequences._cache
        assert len(cache._states) <= 4
        assert all(key in cache._of_run[key[0]] for key in cache._states)
    for (desk.run, name), count in kept.items():
        assert [row[0] for row in desk.rows(name)] == list(range(count))


def test_a_damaged_chunk_is_an_error_not_other_points(store: Store) -> None:
    desk = Desk(store, "packed")
    desk.append("loss", [(0, 1.0, 1.0, None)])
    key = desk.keys.seq(desk.run, 0, "loss") + fdb.tuple.pack(("chunk", 0))
    damaged = b"\x02" + encode_chunk(columns_of([(0, 1.0, 1.0, None)]))[1:]
    trio.run(store.transact, lambda tr: tr.set(key, damaged))
    for use in (lambda: desk.rows("loss"), lambda: desk.append("loss", [(1, 1.0, 1.0, None)])):
        desk.restart()
        with pytest.raises(ConfigurationError, match="holds a chunk"):
            use()


# --- the stamp -------------------------------------------------------------------------------------


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = open_rocks(tmp_path_factory.mktemp("empty"), sync=False)
    yield opened
    trio.run(opened.aclose)


@layouts
def test_a_new_store_is_stamped_and_keeps_its_layout(empty: Store, layout: Layout) -> None:
    """Opened with the other one it is an error that says what to set."""
    keys = Keys(empty)
    for _ in range(2):
        trio.run(empty.transact, lambda tr: open_layout(tr, keys, layout, "packed"))
    stamp = trio.run(empty.transact, lambda tr: tr.get(keys.layout()))
    assert unpack_value(stamp) == {"compatible": 1, "packed": 2}[layout]
    other: Layout = "packed" if layout == "compatible" else "compatible"
    with pytest.raises(ConfigurationError, match=f"MATYAN_SEQUENCE_LAYOUT={layout}"):
        trio.run(empty.transact, lambda tr: open_layout(tr, keys, other, "packed"))


@layouts
def test_a_new_store_gets_its_engines_default(empty: Store, layout: Layout) -> None:
    """Where none is wanted; ever after it is what the store has."""
    keys = Keys(empty)
    other: Layout = "packed" if layout == "compatible" else "compatible"
    for default in layout, other:
        got = trio.run(
            empty.transact, lambda tr, default=default: open_layout(tr, keys, None, default)
        )
        assert got == layout
    trio.run(empty.transact, lambda tr: tr.clear(keys.layout()))
    assert trio.run(empty.transact, lambda tr: open_layout(tr, keys, other, layout)) == other


def test_runs_without_a_stamp_are_the_references(empty: Store) -> None:
    """So they are compatible: chunks beside them would be invisible to who reads that store."""
    keys = Keys(empty)
    trio.run(empty.transact, lambda tr: tr.set(keys.meta("r", "name"), b"\xa1r"))
    with pytest.raises(ConfigurationError, match="compatible"):
        trio.run(empty.transact, lambda tr: open_layout(tr, keys, "packed", "packed"))
    trio.run(empty.transact, lambda tr: open_layout(tr, keys, "compatible", "packed"))


def test_an_unknown_layout_is_a_clear_error(empty: Store) -> None:
    keys = Keys(empty)
    trio.run(empty.transact, lambda tr: tr.set(keys.layout(), b"\x03"))
    with pytest.raises(ConfigurationError, match="layout 3"):
        trio.run(empty.transact, lambda tr: open_layout(tr, keys, "packed", "packed"))
