"""Chunks: bit-exact, small, and deaf to damage."""

from __future__ import annotations

import math
import random
import struct

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matyan import _codec
from matyan._codec import CHUNK_POINTS, Columns

Row = tuple[int, float, float, int | float | None]

INT64 = st.integers(-(2**63), 2**63 - 1)
BITS = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits))[0])
ODD = st.sampled_from([0.0, -0.0, math.inf, -math.inf, math.nan, 5e-324, 1.7e308])
MOMENTS = st.integers(-(2**53), 2**53).map(lambda us: us / 1e6)
FRACTIONS = st.sampled_from([0.25, 0.5]) | st.floats(-1e15, 1e15).filter(
    lambda number: not number.is_integer()
)


def rows_of(epochs: st.SearchStrategy[int | float | None]) -> st.SearchStrategy[list[Row]]:
    return st.lists(
        st.tuples(
            st.integers(0, 20) | INT64,
            st.floats(0, 1) | ODD | BITS,
            MOMENTS | ODD | BITS,
            epochs,
        ),
        min_size=1,
        max_size=50,
    )


WHOLE_EPOCHS = st.none() | st.integers(0, 3) | INT64
ROWS = rows_of(WHOLE_EPOCHS) | rows_of(WHOLE_EPOCHS | FRACTIONS)
TAME = st.lists(
    st.tuples(st.integers(0, 20), st.floats(0, 1), MOMENTS, st.none() | st.integers(0, 3)),
    min_size=1,
    max_size=50,
)


def columns_of(rows: list[Row]) -> Columns:
    columns = Columns()
    for row in rows:
        columns.append(*row)
    return columns


def bits(columns: Columns) -> tuple[bytes, ...]:
    return (
        columns.steps_bytes(),
        columns.values_bytes(),
        columns.times_bytes(),
        columns.epochs_bytes(),
        columns.epoch_mask(),
    )


@given(ROWS | TAME, st.integers(0, 3), st.booleans(), st.integers(0, 2**63))
@example([(0, 0.0, -0.0, None)], 0, True, 0)
@example([(2**63 - 1, 1.0, 1.5, -(2**63)), (-(2**63), 2.0, 1.5, 2**63 - 1)], 0, True, 0)
@example([(n, 1.0, 1.5, (-(2**63), 0.25, None, 2**63 - 1)[n % 4]) for n in range(1024)], 0, True, 0)
def test_points_come_back_bit_for_bit(
    rows: list[Row], level: int, ordered: bool, before: int
) -> None:
    """Steps, values, times and epochs, whatever they are; the head tells what it was told."""
    columns = columns_of(rows)
    chunk = _codec.encode_chunk(columns, level=level, ordered=ordered, before=before)
    assert _codec.chunk_head(chunk) == (level, ordered, len(rows), before)
    out = columns_of(rows[:1])
    _codec.decode_chunk(chunk, out)
    assert bits(out) == bits(columns_of(rows[:1] + rows))


WITHOUT_FRACTIONS = (
    "010506ac020003020108010280dac409c0843dc0843da0c21ea0c21ec0a198c9c7f3a406020500030103ffffffffffffffffff01"
    "020400000000009c0000000000750000000000008800000000003c0000000000e4e0d0c0f800373f3f3f7f807e"
)
"""As 0.1.0 writes these points."""


def test_a_chunk_without_fractions_is_what_it_was() -> None:
    """Byte for byte, so that an older version reads it; one with a fraction has a flag that it refuses."""
    rows: list[Row] = [
        (0, 0.5, 10.0, None),
        (1, 0.25, 10.5, 0),
        (2, 0.125, 11.0, 0),
        (3, math.nan, 11.25, -1),
        (7, -0.0, 11.5, 2**63 - 1),
        (8, 1e300, 1770000000.123456, None),
    ]
    chunk = _codec.encode_chunk(columns_of(rows), level=1, ordered=True, before=300)
    assert chunk.hex() == WITHOUT_FRACTIONS
    old = Columns()
    _codec.decode_chunk(bytes.fromhex(WITHOUT_FRACTIONS), old)
    assert bits(old) == bits(columns_of(rows))
    fraction = columns_of([*rows, (9, 1.0, 1.0, 0.25)])
    assert _codec.encode_chunk(fraction, level=1, ordered=True, before=300)[1] == chunk[1] | 16
    # The flag is that of the slice, not of the columns.
    assert _codec.encode_chunk(fraction, 0, 6, level=1, ordered=True, before=300) == chunk


@pytest.mark.parametrize("number", [1.0, -0.0, math.nan, math.inf, 2.0**63])
def test_an_epoch_that_is_an_integer_stands_as_one(number: float) -> None:
    """So that the same epoch is the same bytes; a chunk that says otherwise is damaged."""
    chunk = _codec.encode_chunk(columns_of([(0, 1.0, 1.0, 0.3)]))
    whole = chunk.replace(struct.pack("<d", 0.3), struct.pack("<d", number))
    assert whole != chunk
    with pytest.raises(ValueError, match="fraction"):
        _codec.decode_chunk(whole, Columns())


@given(ROWS, st.data())
def test_a_slice_is_a_chunk_of_its_own(rows: list[Row], data: st.DataObject) -> None:
    begin = data.draw(st.integers(0, len(rows) - 1))
    end = data.draw(st.integers(begin + 1, len(rows)))
    assert _codec.encode_chunk(columns_of(rows), begin, end) == _codec.encode_chunk(
        columns_of(rows[begin:end])
    )


@pytest.mark.parametrize(("begin", "end"), [(0, 0), (-1, 1), (0, 1025), (3, 2), (0, 3000)])
def test_a_chunk_holds_1_to_1024_points(begin: int, end: int) -> None:
    columns = columns_of([(step, 0.5, 1.0, None) for step in range(2000)])
    with pytest.raises(ValueError, match="1 to 1024"):
        _codec.encode_chunk(columns, begin, end)


def test_a_point_without_a_step_is_no_chunk() -> None:
    columns = Columns()
    columns.append(None, 1.0, 2.0)
    with pytest.raises(ValueError, match="step"):
        _codec.encode_chunk(columns)


@given(ROWS, st.data())
def test_a_damaged_chunk_is_a_value_error_or_points(rows: list[Row], data: st.DataObject) -> None:
    """Changed, cut or lengthened anywhere: never a crash, and a refused one appends nothing."""
    chunk = bytearray(_codec.encode_chunk(columns_of(rows)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(chunk)))
        chunk[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    out = Columns()
    try:
        _codec.decode_chunk(bytes(chunk), out)
    except ValueError:
        assert len(out) == 0
    else:
        assert len(out) == _codec.chunk_head(bytes(chunk))[2]


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_are_a_value_error_or_points(data: bytes, headed: bool) -> None:
    """Random bytes, half of them behind a valid format byte so that they get further."""
    out = Columns()
    try:
        _codec.decode_chunk((b"\x01\x04" if headed else b"") + data, out)
    except ValueError:
        assert len(out) == 0


@given(TAME)
def test_every_cut_is_noticed(rows: list[Row]) -> None:
    chunk = _codec.encode_chunk(columns_of(rows))
    for end in range(len(chunk)):
        with pytest.raises(ValueError, match=r"."):
            _codec.decode_chunk(chunk[:end], Columns())


def test_an_unknown_format_is_named() -> None:
    """A chunk of a later version must not be read as one of this."""
    with pytest.raises(ValueError, match="unknown format 2"):
        _codec.decode_chunk(
            b"\x02" + _codec.encode_chunk(columns_of([(0, 1.0, 1.0, None)]))[1:], Columns()
        )


def test_fractional_epochs_are_small() -> None:
    """Those of a trainer that logs every tenth step: their eight bytes a point, and no more."""
    columns = columns_of([(step, 0.5, 1.0, step / 937) for step in range(0, 10_240, 10)])
    whole = columns_of([(step, 0.5, 1.0, 0) for step in range(0, 10_240, 10)])
    size = len(_codec.encode_chunk(columns)) - len(_codec.encode_chunk(whole))
    assert size < 8 * CHUNK_POINTS


@pytest.mark.parametrize(
    ("kind", "limit"), [("random", 12.0), ("smooth", 12.0), ("rounded", 12.0), ("constant", 4.0)]
)
def test_a_full_chunk_is_small(kind: str, limit: float) -> None:
    """Bytes a point before any compression, with times of a jittering training loop."""
    rng = random.Random(7)
    columns = Columns()
    us = 1_770_000_000_000_000
    for step in range(CHUNK_POINTS):
        us += rng.randint(5_000, 20_000)
        value = {
            "random": rng.random(),
            "smooth": math.exp(-step / 300) + 0.01 * math.sin(step / 50),
            "rounded": round(rng.random(), 3),
            "constant": 0.001,
        }[kind]
        columns.append(step, value, us / 1e6, step // 100)
    assert len(_codec.encode_chunk(columns)) / CHUNK_POINTS < limit
