"""Contexts: which are the same, and which id each has."""

from __future__ import annotations

import itertools
import json
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import MetricPoints, context_id, context_text, decode_records
from matyan.keys import Keys
from matyan.rules import contexts
from matyan.rules.queries import Queries
from matyan.rules.rows import RunRows
from matyan.rules.sequences import Layout, Sequences
from tests.ledger import Ledger, metric, record
from tests.memory_store import MemoryStore

pytestmark = pytest.mark.usefixtures("bodies")

TWINS = [
    ({"layer": 4141}, {"layer": 8106}),
    ({"subset": "caf\u00e9 68808"}, {"subset": "caf\u00e9 77950"}),
    ({"lr": 18408.5}, {"lr": 59935.5}),
    ({"a": {"b": [67110]}}, {"a": {"b": [165972]}}),
]
"""Pairs with the same first 8 hex digits of their texts' SHA-256."""


@pytest.fixture(params=["packed", "compatible"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    layout: Layout = request.param
    return Ledger(layout)


def exported(ledger: Ledger, **wanted: Any) -> list[tuple[str, str, int]]:
    """(name, context's text, points) of what readers get."""
    queries = Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))
    return [
        (block["name"], context_text(block["context"]), len(block.get("steps", b"")) // 8)
        for block in ledger.store.look(lambda snap: [*queries.export(snap, run="r", **wanted)])
    ]


@pytest.mark.parametrize(("one", "other"), TWINS)
def test_contexts_that_share_an_id_are_two_sequences(
    ledger: Ledger, one: dict[str, Any], other: dict[str, Any]
) -> None:
    """In one batch, in two, and for an owner that remembers nothing: the second has the next id."""
    assert context_id(one) == context_id(other)
    ledger.apply(metric("m", 1.0, 0, context=one), metric("m", 2.0, 0, context=other))
    ledger.apply(metric("m", 3.0, 1, context=other), metric("m", 4.0, 1, context=one))
    ledger.apply(
        metric("m", 5.0, 2, context=other),
        metric("m", 6.0, 2, context=one),
        rules=ledger.make_rules(),
    )
    first = context_id(one)
    assert ledger.contexts() == {first: one, first + 1: other}
    assert [value for _, value, _, _ in ledger.points("m", one)] == [1.0, 4.0, 6.0]
    assert [value for _, value, _, _ in ledger.points("m", other)] == [2.0, 3.0, 5.0]
    for context in one, other:
        assert exported(ledger, context=context) == [("m", context_text(context), 3)]


def test_objects_find_their_context_too(ledger: Ledger) -> None:
    """A custom object meets the id that a metric has taken, and the other way round; another run has its own."""
    one, other = TWINS[0]
    for run, order in ("r", (one, other)), ("s", (other, one)):
        for context in order:
            ledger.apply(
                record("log_custom_object", run, name="o", value={"n": 1}, step=0, context=context)
            )
        ledger.apply(metric("m", 1.0, 0, run, context=one))
        assert ledger.contexts(run) == dict(enumerate(order, context_id(one)))
        assert len(ledger.points("m", one, run)) == 1
        assert len(ledger.objects("o", other, run)) == 1


SAME: list[list[str]] = [
    [
        '{"a": 1, "b": "\u00e9"}',
        '{"b":"\\u00e9","a":1}',
        '{ "\\u0061" : 2, "b": "\u00e9", "a": 1 }',
    ],
    ['{"x": 1.0}', '{"x": 1e0}', '{"x": 10.0E-1}'],
    ['{"x": NaN}'],
    ['{"x": Infinity}', '{"x": 1e400}'],
    ['{"x": 1}'],
    ['{"x": true}'],
    ['{"x": "1"}'],
    ['{"x": null}'],
    ['{"x": -0.0}'],
    ['{"x": 0.0}'],
    ['{"x": 0}', '{"x": -0}'],
    ['{"x": 18446744073709551615}'],
    ['{"x": 18446744073709551615.0}', '{"x": 1.8446744073709552e19}'],
    ['{"x": {"b": [1, {"d": 1, "c": 2}], "a": {}}}', '{"x":{"a":{},"b":[1,{"c":2,"d":1}]}}'],
    ['{"x": "e\u0301"}'],
    ['{"x": "\u00e9"}'],
    ['{"x": "\U0001f600"}', '{"x": "\\ud83d\\ude00"}'],
    ["{}", "null", "{ }"],
]
"""Each line is one context, in several spellings."""


@pytest.mark.parametrize("together", [True, False])
def test_a_context_is_the_same_however_it_is_spelled(ledger: Ledger, together: bool) -> None:
    """And no other one: true, 1, 1.0 and "1" are four; in one batch or in one each; readers look for it so too."""
    log = []
    for spellings in SAME:
        for spelling in spellings:
            value = metric("m", 1.0, None, context="here")
            log.append(value.replace(b'"here"', spelling.encode()))
    ledger.apply_split(log, [] if together else range(1, len(log)))
    if not together:
        ledger.rules = ledger.make_rules()
    for spellings in SAME:
        context = json.loads(spellings[-1])
        expected = [("m", context_text(context), len(spellings))]
        assert exported(ledger, name="m", context=context or {}) == expected
    assert len(ledger.contexts()) == len(SAME)


numbers = st.integers(-(2**63), 2**64 - 1) | st.floats()
free = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=5,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(max_size=3), free))
def test_the_text_is_pythons(context: dict[str, Any]) -> None:
    """From a frame's text as from the stored object."""
    text = json.dumps(context, sort_keys=True, separators=(",", ":"))
    (points,) = decode_records([metric("m", 1.0, 0, context=context)])
    assert isinstance(points, MetricPoints)
    assert points.context_text == context_text(context) == text
    assert context_text(msgpack.unpackb(msgpack.packb(context))) == text


def test_ids_wrap_round_to_one() -> None:
    """After the highest of 8 hex digits comes 1: 0 belongs to the empty context, also when another one prefers it."""
    store = MemoryStore()
    keys = Keys(store)

    def place(context: dict[str, Any], first: int) -> int:
        text = context_text(context)
        return store.commit(
            lambda tr: contexts.find_or_create(RunRows(tr, keys, "r"), text, first, context)
        )

    assert place({"a": 1}, 0) == 1
    assert place({}, 0) == 0
    assert place({"a": 2}, 2**32 - 1) == 2**32 - 1
    assert place({"a": 3}, 2**32 - 1) == 2
    assert place({"a": 1}, 2**32 - 1) == 1
    assert place({"a": 2}, 2**32 - 1) == 2**32 - 1
    assert store.look(lambda snap: contexts.read(RunRows(snap, keys, "r"))) == {
        0: {},
        1: {"a": 1},
        2: {"a": 3},
        2**32 - 1: {"a": 2},
    }


def test_what_is_no_context_is_left_alone() -> None:
    """A row that another program damaged is not written over: the context takes the next id."""
    store = MemoryStore()
    keys = Keys(store)
    store.rows[keys.context("r", 7)] = b"\xc1"

    def place(tr: Any) -> int:
        return contexts.find_or_create(RunRows(tr, keys, "r"), '{"a":1}', 7, {"a": 1})

    assert store.commit(place) == 8
    assert store.rows[keys.context("r", 7)] == b"\xc1"


def test_a_deleted_run_takes_its_contexts_along(ledger: Ledger) -> None:
    """What comes after the tombstone was cleaned starts from nothing."""
    one, other = TWINS[0]
    ledger.apply(metric("m", 1.0, 0, context=one), metric("m", 1.0, 0, context=other))
    ledger.apply(record("delete_run", at=1))
    ledger.store.commit(lambda tr: tr.clear(ledger.keys.tombstone("r")))
    ledger.apply(metric("m", 1.0, 0, context=other))
    assert ledger.contexts() == {context_id(other): other}


def test_what_is_remembered_is_bounded() -> None:
    """The run that got its last context longest ago goes first, the only one too when it is too large."""
    remembered = contexts.Remembered(most_bytes=1_000)
    for run in "aba":
        remembered.add(run, {f"{run}{next(_count)}": 1, "x" * 50: 2})
    assert remembered.get("a", "x" * 50) == 2
    assert remembered.get("b", "x" * 50) is None
    remembered.add("c", {"x" * 900: 3})
    assert remembered.get("a", "x" * 50) is None
    remembered.forget("c")
    remembered.add("d", {"y" * 100: 4})
    assert remembered.get("d", "y" * 100) == 4


_count = itertools.count()
