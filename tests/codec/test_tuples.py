"""Tuples and msgpack, byte for byte against `fdb.tuple` and `msgpack`."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import fdb.tuple
import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matyan import _codec
from matyan._codec import Columns

INT64 = st.integers(-(2**63), 2**63 - 1)
EDGES = sorted(
    {
        sign * (2**bits + near)
        for bits in (0, 7, 8, 15, 16, 31, 32, 56, 63, 64, 65, 72)
        for near in (-1, 0, 1)
        for sign in (-1, 1)
    }
)
TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
FLOATS = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
ITEMS = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        INT64,
        st.sampled_from(EDGES),
        st.integers(-(2**2000), 2**2000),
        st.floats(),
        FLOATS,
        TEXT,
        st.binary(max_size=20),
        st.sampled_from(["", "\0", "a\0", "\0\0b", b"\x00", b"\x00\xff", b"\xff"]),
    ),
    lambda inner: st.lists(inner, max_size=4).map(tuple),
    max_leaves=10,
)
TUPLES = st.lists(ITEMS, max_size=6).map(tuple)


def same(left: object, right: object) -> bool:
    """Equality that tells 1, 1.0 and True apart, and NaNs of other bits."""
    if isinstance(left, tuple) and isinstance(right, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return struct.pack("<d", left) == struct.pack("<d", right)
    return type(left) is type(right) and left == right


@given(TUPLES)
@example((2**64 - 1, -(2**64) + 1, 2**64 - 2, 2**64, -(2**64), 0, -1, -255, -256))
def test_pack_writes_the_tuple_layers_bytes(items: tuple[object, ...]) -> None:
    """Whatever the items and however nested, pack and fdb.tuple.pack agree, and unpack inverts both."""
    key = _codec.pack(items)
    assert key == fdb.tuple.pack(items)
    assert same(_codec.unpack(key), items)


@given(TUPLES, TUPLES)
def test_a_prefix_is_continued(first: tuple[object, ...], second: tuple[object, ...]) -> None:
    """Tuples concatenate: that is what directories and precomputed prefixes build on."""
    prefix = _codec.pack(first)
    assert _codec.pack(second, prefix) == fdb.tuple.pack(first + second)
    assert same(_codec.unpack(_codec.pack(second, prefix), len(prefix)), second)


@given(st.binary(max_size=8), st.one_of(INT64, st.sampled_from([2**63 - 1, -(2**63), 0])))
def test_key_int_is_pack_of_one_integer(prefix: bytes, number: int) -> None:
    assert _codec.key_int(prefix, number) == prefix + fdb.tuple.pack((number,))


@given(st.lists(TUPLES, min_size=2, max_size=6))
def test_a_range_holds_what_continues_its_prefix(tuples: list[tuple[object, ...]]) -> None:
    """range_of agrees with fdb.tuple.range."""
    for items in tuples:
        begin, end = _codec.range_of(_codec.pack(items))
        expected = fdb.tuple.range(items)
        assert (begin, end) == (expected.start, expected.stop)


@given(st.one_of(st.binary(max_size=40), TUPLES.map(_codec.pack)), st.data())
def test_unpack_accepts_only_what_pack_writes(key: bytes, data: st.DataObject) -> None:
    """Any bytes, a damaged key too: a ValueError, or items that pack to the same bytes."""
    if key and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(key) - 1))
        key = key[:at] + data.draw(st.binary(max_size=2)) + key[at + 1 :]
    try:
        items = _codec.unpack(key)
    except ValueError:
        return
    assert _codec.pack(items) == key


@pytest.mark.parametrize(
    "bad",
    [
        b"\x02abc",
        b"\x01",
        b"\x15",
        b"\x15\x00",
        b"\x13\xff",
        b"\x1c" + b"\xff" * 8,
        b"\x0c" + b"\x00" * 8,
        b"\x1d",
        b"\x1d\x08\x01",
        b"\x1d\x01\x01",
        b"\x0b\xfe\x01",
        b"\x21\x00",
        b"\x05",
        b"\x05\x15\x01",
        b"\x02\xff\x00",
        b"\x02\xed\xa0\x80\x00",
        b"\x20\x00\x00\x00\x00",
        b"\x30" + b"\x00" * 16,
        b"\xff",
        b"\x05" * 100,
    ],
)
def test_bytes_that_are_no_key_are_refused(bad: bytes) -> None:
    """Cut short, not minimal, not UTF-8, of a type that no key of ours has, nested without end."""
    with pytest.raises(ValueError, match=r"."):
        _codec.unpack(bad)


@pytest.mark.parametrize("start", [-1, 5])
def test_unpack_starts_inside_the_key(start: int) -> None:
    with pytest.raises(ValueError, match="outside"):
        _codec.unpack(b"\x15\x01", start)


@pytest.mark.parametrize("bad", [object(), {1: 2}, 1j, bytearray(b"a")])
def test_what_the_tuple_layer_does_not_know_is_refused(bad: object) -> None:
    with pytest.raises(TypeError):
        _codec.pack((bad,))


def test_a_lone_surrogate_is_no_key() -> None:
    with pytest.raises(UnicodeEncodeError):
        _codec.pack(("\ud800",))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**64 - 1),
        st.sampled_from([n for n in EDGES if -(2**63) <= n < 2**64]),
        FLOATS,
        TEXT,
        st.sampled_from(["x" * n for n in (31, 32, 255, 256, 65535, 65536)]),
        st.binary(max_size=20),
        st.sampled_from([b"x" * n for n in (255, 256, 65535, 65536)]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=20), st.dictionaries(TEXT | INT64, inner, max_size=20)
    ),
    max_leaves=20,
)


@given(VALUES)
@example(list(range(70_000)))
@example({str(n): n for n in range(70_000)})
def test_msgpack_value_writes_msgpacks_bytes(value: object) -> None:
    assert _codec.msgpack_value(value) == msgpack.packb(value, use_bin_type=True)


@given(FLOATS, INT64)
def test_numbers_have_a_short_way(value: float, number: int) -> None:
    assert _codec.msgpack_float(value) == msgpack.packb(value)
    assert _codec.msgpack_int(number) == msgpack.packb(number)


def test_a_datetime_is_ext_type_1_of_epoch_seconds() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    assert _codec.msgpack_value(moment) == msgpack.packb(
        msgpack.ExtType(1, msgpack.packb(moment.timestamp()))
    )


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (object(), TypeError),
        (datetime(2026, 1, 2), TypeError),
        (2**64, OverflowError),
        (-(2**63) - 1, OverflowError),
        ("\ud800", UnicodeEncodeError),
    ],
)
def test_what_msgpack_cannot_hold_is_refused(bad: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        _codec.msgpack_value([bad])


def test_a_value_nested_without_end_is_refused() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(ValueError, match="deep"):
        _codec.msgpack_value(value)


def expected_pairs(
    names: tuple[object, ...], step: int, epoch: int | None, time: float, packed: bytes
) -> list[tuple[bytes, bytes | None]]:
    return [
        (fdb.tuple.pack((*names, "val", step)), packed),
        (fdb.tuple.pack((*names, "step", step)), msgpack.packb(step)),
        (fdb.tuple.pack((*names, "epoch", step)), None if epoch is None else msgpack.packb(epoch)),
        (fdb.tuple.pack((*names, "time", step)), msgpack.packb(time)),
    ]


@given(
    TEXT,
    INT64,
    st.lists(st.tuples(INT64, FLOATS, FLOATS, st.none() | INT64), max_size=10),
    st.none() | INT64,
)
def test_points_are_packed_as_four_keys_each(
    name: str, ctx: int, rows: list[tuple[int, float, float, int | None]], highest: int | None
) -> None:
    """Keys and values equal fdb.tuple.pack and msgpack; an absent epoch is cleared where one may stand."""
    names = ("run", "seqs", ctx, name)
    columns = Columns()
    fields: list[list[tuple[bytes, bytes | None]]] = [[], [], [], []]
    for step, value, time, epoch in rows:
        columns.append(step, value, time, epoch)
        pairs = expected_pairs(names, step, epoch, time, msgpack.packb(value))
        for field, pair in zip(fields, pairs, strict=True):
            field.append(pair)
        if epoch is None and highest is not None and step > highest:
            fields[2].pop()
    val, step_, epoch_, time_ = fields
    packed = _codec.compatible_points(fdb.tuple.pack(names), columns, highest)
    assert packed == [*epoch_, *step_, *time_, *val]


@given(TEXT, INT64, st.none() | INT64, FLOATS, st.binary(max_size=9))
def test_an_object_is_packed_as_four_keys(
    name: str, step: int, epoch: int | None, time: float, value: bytes
) -> None:
    names = ("run", "seqs", 0, name)
    assert _codec.compatible_object(
        fdb.tuple.pack(names), step, epoch, time, value
    ) == expected_pairs(names, step, epoch, time, value)
