"""Rows as a reader meets them: trees and traces are what the plain Python below makes of the same rows, whoever wrote them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan import readable
from matyan._codec import msgpack_value, pack, read_traces, read_tree, unpack
from matyan.keys import EMPTY_DICT, EMPTY_LIST, LEAF

MISSING = object()
MOST_DEPTH = 5
PREFIX = b"\x01root"

Pairs = list[tuple[bytes, bytes]]


def plain_tree(pairs: Iterable[tuple[bytes, bytes]]) -> object:
    """The oracle: each row's value is put at its path, and what has children is a list where all their names are integers."""
    root: dict[Any, Any] = {}
    values: dict[int, object] = {}
    for key, packed in pairs:
        try:
            *path, marker = unpack(key, len(PREFIX))
        except ValueError:
            continue
        if marker not in (LEAF, EMPTY_DICT, EMPTY_LIST) or len(path) > MOST_DEPTH:
            continue
        if not all(type(element) in (str, int) for element in path):
            continue
        node = root
        for element in path:
            node = node.setdefault(element, {})
        made = {EMPTY_DICT: {}, EMPTY_LIST: []}.get(marker, readable.value(packed))
        values[id(node)] = made

    def built(node: dict[Any, Any]) -> object:
        if not node:
            return values.get(id(node), MISSING)
        if all(isinstance(element, int) for element in node):
            return [built(child) for child in node.values()]
        return {str(element): built(child) for element, child in node.items()}

    return built(root)


def plain_traces(pairs: Pairs) -> Iterator[tuple[tuple[int, str], dict[str, Any]]]:
    at, fields = None, {}  # type: tuple[int, str] | None, dict[str, Any]
    for key, packed in pairs:
        found = readable.elements(key, len(PREFIX), int, str, str)
        if found is None:
            continue
        ctx, name, field = found
        if at is not None and at != (ctx, name):
            yield at, fields
            fields = {}
        at = ctx, name
        fields[field] = readable.value(packed)
    if at is not None:
        yield at, fields


numbers = st.integers(-(2**63), 2**64 - 1) | st.sampled_from(
    [
        sign * 2**bits + more
        for bits in (5, 7, 8, 15, 16, 31, 32, 63)
        for sign in (1, -1)
        for more in (-1, 0, 1)
    ]
).filter(lambda number: -(2**63) <= number < 2**64)
scalars = st.none() | st.booleans() | numbers | st.floats(allow_nan=False) | st.text(max_size=40)
values = (
    scalars
    | st.lists(scalars, max_size=3)
    | st.dictionaries(st.text(max_size=3), scalars, max_size=2)
)
packed = (
    values.map(msgpack_value)
    | st.text(min_size=200, max_size=300).map(msgpack_value)
    | st.binary(max_size=12)
    | st.tuples(scalars.map(msgpack_value), st.binary(max_size=2)).map(b"".join)
    | scalars.map(lambda value: msgpack_value(value)[:-1])
)
names = st.sampled_from(
    ["a", "b", "", "a\x02__leaf__", "\x00", LEAF, EMPTY_DICT, EMPTY_LIST]
) | st.integers(-1, 3)
strange = st.sampled_from([None, True, 1.5, b"a", (1,)])


def keyed(elements: st.SearchStrategy[list[Any]]) -> st.SearchStrategy[bytes]:
    return elements.map(lambda path: pack(path, PREFIX)) | st.binary(max_size=5).map(PREFIX.__add__)


markers = st.sampled_from([LEAF, EMPTY_DICT, EMPTY_LIST])
tree_keys = keyed(
    st.tuples(st.lists(names, max_size=MOST_DEPTH + 2), markers).map(lambda row: [*row[0], row[1]])
    | st.lists(names | strange, max_size=3)
)
trace_keys = keyed(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["a", "b"]), st.sampled_from(["dtype", "last"])
    ).map(list)
    | st.lists(names | strange, max_size=4)
)


def scanned(keys: st.SearchStrategy[bytes]) -> st.SearchStrategy[Pairs]:
    """As a store gives them: ascending, each key once."""
    return st.dictionaries(keys, packed, max_size=12).map(lambda rows: sorted(rows.items()))


@given(scanned(tree_keys))
def test_a_tree_is_what_its_rows_say(pairs: Pairs) -> None:
    """Lists, markers, what stands beside a leaf, rows that are none of a tree's, damaged values."""
    found = read_tree(pairs, len(PREFIX), MOST_DEPTH, readable.value, MISSING)
    assert repr(found) == repr(plain_tree(pairs))


@given(scanned(trace_keys))
def test_traces_are_gathered_by_context_and_name(pairs: Pairs) -> None:
    found = list(read_traces(pairs, len(PREFIX), readable.value))
    assert repr(found) == repr(list(plain_traces(pairs)))


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xd9",
        b"\xda\x00",
        b"\xcc",
        b"\xd3\x80" + bytes(7),
        b"\xcf" + b"\xff" * 8,
        b"\xca\x3f\xc0\x00\x00",
        b"\xa1\xff",
        b"\xa2a",
        b"\xc1",
        b"\xdb\x00\x00\x00\x01a",
        b"\xd7\x01" + bytes(8),
    ],
)
def test_a_value_is_read_as_readable_reads_it(packed: bytes) -> None:
    """Whatever form a writer has chosen, and whatever is damaged."""
    pairs = [(pack(("a", LEAF), PREFIX), packed)]
    found = read_tree(pairs, len(PREFIX), MOST_DEPTH, readable.value, MISSING)
    assert repr(found) == repr({"a": readable.value(packed)})
