"""The encoder of the read API's stream: the bytes of its description, and what the web app's decoder needs."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan._codec import sample_ranks, tree_records
from tests.api.stream import objects

WRITTEN_DOWN = [
    (
        "r1",
        {"params": {"lr": 0.5, "n": -2}, "traces": []},
        "0d000000 7231fe706172616d73fe6c72fe 09000000 03000000000000e03f"
        "0c000000 7231fe706172616d73fe6efe 09000000 02feffffffffffffff"
        "0a000000 7231fe747261636573fe 01000000 06",
    ),
    (
        "progress_0",
        [1, 2],
        "0b000000 70726f67726573735f30fe 01000000 06"
        "15000000 70726f67726573735f30fefe0000000000000000fe 09000000 020100000000000000"
        "15000000 70726f67726573735f30fefe0000000000000001fe 09000000 020200000000000000",
    ),
    (7, "hi", "0a000000 fe0000000000000007fe 03000000 046869"),
]


@pytest.mark.parametrize(("name", "tree", "hexadecimal"), WRITTEN_DOWN)
def test_the_bytes_are_those_of_the_description(
    name: str | int, tree: Any, hexadecimal: str
) -> None:
    assert tree_records(name, tree) == bytes.fromhex(hexadecimal)


plain = st.none() | st.booleans() | st.integers(-(2**31), 2**31 - 1) | st.text() | st.binary()
names = st.text(min_size=1)
trees = st.recursive(
    plain | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=20,
)


@given(names, trees)
def test_what_is_written_is_read(name: str, tree: Any) -> None:
    assert objects(tree_records(name, tree)) == {name: tree}


@pytest.mark.parametrize(
    ("number", "sent"),
    [
        (2**31 - 1, 2**31 - 1),
        (-(2**31), -(2**31)),
        (2**31, float(2**31)),
        (-(2**31) - 1, float(-(2**31) - 1)),
        (2**53, float(2**53)),
        (2**53 + 1, str(2**53 + 1)),
        (2**63 - 1, str(2**63 - 1)),
        (2**64 - 1, str(2**64 - 1)),
        (-(2**63), str(-(2**63))),
    ],
)
def test_an_integer_that_a_browser_reads_wrongly_goes_another_way(number: int, sent: Any) -> None:
    """As a float where that is exact, else as a text."""
    (got,) = objects(tree_records("n", number)).values()
    assert (got, type(got)) == (sent, type(sent))


def test_an_empty_name_is_none_of_the_stream() -> None:
    assert objects(tree_records("r", {"": 1, "a": {"": {}}})) == {
        "r": {"(empty)": 1, "a": {"(empty)": {}}}
    }


def test_nan_and_infinities_pass() -> None:
    (got,) = objects(tree_records("r", [math.nan, math.inf, -math.inf])).values()
    assert math.isnan(got[0])
    assert got[1:] == [math.inf, -math.inf]


@pytest.mark.parametrize("tree", [object(), {"a": {1, 2}}, 1j])
def test_what_has_no_place_is_an_error(tree: object) -> None:
    with pytest.raises(TypeError):
        tree_records("r", tree)


@given(st.integers(0, 5_000), st.integers(1, 600))
def test_samples_are_even_by_rank(size: int, most: int) -> None:
    """All where they are few enough; else the first, the last, and round(i * (size - 1) / (most - 1)) between them."""
    ranks = sample_ranks(size, most)
    if size <= most:
        assert ranks == [*range(size)]
    elif most == 1:
        assert ranks == [0]
    else:
        assert ranks == [round(place * (size - 1) / (most - 1)) for place in range(most)]
