"""Nested values: what is read is what was written last, and no key of anything else is left."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import pack, unpack
from matyan.errors import InvalidRecord
from matyan.keys import unpack_value
from matyan.rules import trees
from tests.memory_store import MemoryStore

PREFIX = pack(("root",), b"\x01")


def written(*changes: tuple[tuple[str, ...], Any]) -> MemoryStore:
    store = MemoryStore()
    for path, value in changes:
        store.commit(partial(trees.replace, prefix=PREFIX, path=path, value=value))
    return store


def rows(store: MemoryStore) -> dict[tuple[object, ...], object]:
    return {unpack(key, len(PREFIX)): unpack_value(value) for key, value in store.rows.items()}


def test_the_keys_are_the_contracts() -> None:
    """One key a scalar, ending in __leaf__; int indexes for lists; markers for what is empty."""
    store = written((("a",), {"s": "x", "n": None, "l": [1.5, {"d": {}}, []], "e": {}}))
    assert rows(store) == {
        ("a", "s", "__leaf__"): "x",
        ("a", "n", "__leaf__"): None,
        ("a", "l", 0, "__leaf__"): 1.5,
        ("a", "l", 1, "d", "__empty_dict__"): True,
        ("a", "l", 2, "__empty_list__"): True,
        ("a", "e", "__empty_dict__"): True,
    }


def test_nothing_is_not_null() -> None:
    """A missing tree reads as MISSING, a null leaf as None."""
    assert written().look(lambda snap: trees.read(snap, PREFIX)) is trees.MISSING
    store = written((("a",), None))
    assert store.look(lambda snap: trees.read(snap, PREFIX)) == {"a": None}


def test_a_long_list_keeps_its_order() -> None:
    """Indexes beyond a byte too."""
    value = [*range(300)]
    store = written((("a",), value))
    assert store.look(lambda snap: trees.read(snap, PREFIX)) == {"a": value}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("x" * 100_001, "100000"),
        ({"k" * 4_096: 1}, "4096"),
        ({"a": {"b": {"k" * 4_096: {}}}}, "4096"),
        ([{"k" * 4_096: []}], "4096"),
    ],
)
def test_what_fits_no_row_is_refused_and_nothing_is_written(value: Any, reason: str) -> None:
    """The limits of the contract's section 6; what stood there still stands."""
    store = written((("a",), {"b": 1}))
    before = dict(store.rows)

    def body(tr: Any) -> None:
        with pytest.raises(InvalidRecord, match=reason):
            trees.replace(tr, PREFIX, ("a", "b"), value)

    store.commit(body)
    assert store.rows == before


names = st.sampled_from(["", "a", "__leaf__", "__empty_dict__", "__empty_list__", "0"])
leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False)
values = st.recursive(
    leaves | st.text(max_size=3),
    lambda inner: st.dictionaries(names, inner, max_size=3) | st.lists(inner, max_size=3),
    max_leaves=8,
)
paths = st.lists(names, min_size=1, max_size=3).map(tuple)


def put(tree: Any, path: tuple[str, ...], value: Any) -> Any:
    """The model: what is no object on the way is replaced by one."""
    tree = dict(tree) if isinstance(tree, dict) else {}
    name, *rest = path
    tree[name] = put(tree.get(name), tuple(rest), value) if rest else value
    return tree


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(paths, values), min_size=1, max_size=5))
def test_whatever_is_replaced_reads_back(changes: list[tuple[tuple[str, ...], Any]]) -> None:
    """Leaf to tree, tree to leaf, list to object, at any depth; and the rows are those of the result alone."""
    tree: Any = {}
    for path, value in changes:
        tree = put(tree, path, value)
    store = written(*changes)
    assert store.look(lambda snap: trees.read(snap, PREFIX)) == tree
    assert store.rows == written(*[((name,), value) for name, value in tree.items()]).rows
