"""Kafka's hash of a key, beside what its own tests expect and beside a twin in Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan._codec import murmur2


@pytest.mark.parametrize(
    ("key", "signed"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"a-little-bit-longer-string", -1486304829),
        (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58897971),
        (b"abc", 479470107),
    ],
)
def test_as_in_kafka_s_own_tests(key: bytes, signed: int) -> None:
    """UtilsTest.testMurmur2; Java's ints are signed."""
    assert murmur2(key) == signed % 2**32


def twin(key: bytes) -> int:
    """Kafka's Utils.murmur2, written from its description: MurmurHash2 with seed 0x9747b28c."""
    m, mask = 0x5BD1E995, 0xFFFFFFFF
    h = (0x9747B28C ^ len(key)) & mask
    whole = len(key) & ~3
    for at in range(0, whole, 4):
        k = int.from_bytes(key[at : at + 4], "little") * m & mask
        k = (k ^ k >> 24) * m & mask
        h = (h * m & mask) ^ k
    if rest := key[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * m & mask
    h = (h ^ h >> 13) * m & mask
    return h ^ h >> 15


@given(st.binary(max_size=300))
def test_as_its_twin(key: bytes) -> None:
    assert murmur2(key) == twin(key)
