"""names_hash: the texts that a packed key begins with, and nothing else."""

from __future__ import annotations

import fdb.tuple
import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan._codec import names_hash, pack

TEXTS = st.lists(st.text(max_size=4) | st.sampled_from(["", "\0", "a\0"]), max_size=4)


@given(TEXTS, TEXTS, st.integers(), st.text())
def test_names_are_equal_when_their_hashes_are(
    one: list[str], other: list[str], item: int, marker: str
) -> None:
    def hashed(names: list[str], *behind: object) -> int:
        return names_hash(b"\x15\x01" + fdb.tuple.pack((*names, *behind)), 2)

    assert hashed(one, marker) == hashed(one, item, "x", marker) == names_hash(pack((*one, "")))
    assert (hashed(one, marker) == hashed(other, marker)) == (one == other)


@given(st.binary())
def test_any_bytes_have_a_hash(key: bytes) -> None:
    assert 0 <= names_hash(key, len(key) // 2) < 2**64


@pytest.mark.parametrize("start", [-1, 4])
def test_a_start_outside_of_the_key_is_refused(start: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        names_hash(b"abc", start)
