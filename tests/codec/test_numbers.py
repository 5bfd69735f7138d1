"""Numbers: whatever text JSON allows is read as Python's float() and int() read it, by the frontier and by a worker."""

from __future__ import annotations

import json
import math
import struct
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matyan import _codec
from tests.codec.messages import STAMP, metric_members

# --- texts ----------------------------------------------------------------------------------------

edges = st.sampled_from([2**53, 2**62, 2**63, 2**64, 10**19, 10**18, 2**65, 10**22])
near = st.tuples(edges, st.integers(-3, 3), st.sampled_from(["", "-"])).map(
    lambda parts: f"{parts[2]}{parts[0] + parts[1]}"
)
integers = near | st.integers().map(str) | st.from_regex(r"-?[1-9][0-9]{15,45}", fullmatch=True)
tails = st.from_regex(r"(\.[0-9]{1,30}0{0,30})?([eE][+-]?0{0,20}[0-9]{1,3})?", fullmatch=True)


def halfway(double: float) -> str:
    """The exact decimal text of the middle between a float and the next one."""
    middle = (Fraction(double) + Fraction(math.nextafter(double, math.inf))) / 2
    digits = 0
    while middle.denominator != 1:
        middle *= 10
        digits += 1
    text = str(abs(middle.numerator)).rjust(digits + 1, "0")
    sign = "-" if middle < 0 else ""
    return f"{sign}{text[: len(text) - digits]}.{text[len(text) - digits :]}0".replace("..", ".")


halfways = st.floats(-1e60, 1e60).filter(lambda double: abs(double) > 1e-60).map(halfway)
nudged = st.tuples(halfways, st.sampled_from(["", "0" * 40, "0" * 40 + "1"])).map("".join)
moved = st.tuples(integers, st.integers(0, 60)).map(
    # The same digits behind zeros, or before them: what counts is where the first digit stands.
    lambda parts: (
        f"{'-' if parts[0][0] == '-' else ''}0.{'0' * parts[1]}{parts[0].lstrip('-')}e{parts[1]}"
    )
)
subnormal = st.tuples(
    st.integers(0, 10**25), st.integers(300, 345), st.sampled_from(["", "-"])
).map(lambda parts: f"{parts[2]}{parts[0]}e-{parts[1]}")
number_texts = st.one_of(
    st.tuples(integers, tails).map("".join), nudged, moved, subnormal, st.floats(0).map(repr)
).filter(lambda text: text not in ("inf", "nan"))

EXAMPLES = [
    "9223372036854775808",
    "-9223372036854775808",
    "922337203685477580.80",
    "18446744073709551616",
    "1.8446744073709551616",
    "184467440737095516160000000000.0",
    "9007199254740993.0000000000000000000000001",
    "0." + "0" * 100_000 + "1e100001",
    "0." + "0" * 100_000 + "1e1000001",
    "1" + "0" * 100_000 + "e-1000001",
    "1" + "0" * 5_000,
    "-0.0",
    "-0e5",
    "1e400",
    "2.4703282292062327e-324",
    "2.4703282292062328e-324",
]


def examples(function: Any) -> Any:
    for text in EXAMPLES:
        function = example(text)(function)
    return function


def message(**texts: str) -> bytes:
    """A log_metric with numbers as they are written here."""
    members = metric_members(type="log_metric")
    for name in texts:
        members[name] = f"<{name}>"
    out = json.dumps(members)
    for name, text in texts.items():
        out = out.replace(f'"<{name}>"', text)
    return out.encode()


def envelope(payload: bytes) -> bytes:
    """A record with this payload, as another producer may write it."""
    return b'{"type":"log_metric","run_id":"r","timestamp":"%b","payload":' % STAMP + payload + b"}"


def points(*records: bytes) -> list[tuple[int | None, float, float, int | float | None]]:
    return [
        row
        for op in _codec.decode_records(records)
        for row in (op.columns.rows() if isinstance(op, _codec.MetricPoints) else [])
    ]


def bits(number: float) -> bytes:
    return struct.pack("<d", number)


# --- values ---------------------------------------------------------------------------------------


@examples
@given(number_texts)
def test_a_value_is_the_nearest_double(text: str) -> None:
    """Through the frontier and straight to a worker; only an integer beyond every float is refused."""
    wanted = float(text) + 0.0 if is_integer(text) else float(text)  # an integer has one zero
    ((_, value, _, _),) = points(envelope(message(value=text)))
    assert bits(value) == bits(float(text))
    frame = _codec.validate(message(value=text), b"r", STAMP)
    if is_integer(text) and math.isinf(wanted):
        assert frame.rejected == [(0, "log_metric", "value: out of the range of float64")]
    else:
        ((_, value, _, _),) = points(*frame.records)
        assert bits(value) == bits(wanted)
        assert bits(json.loads(frame.records[0])["payload"]["value"]) == bits(wanted)


def is_integer(text: str) -> bool:
    return not set(text) & set(".eE")


# --- integers -------------------------------------------------------------------------------------


def exact(text: str) -> int | float:
    """As JSON's number is read: an integer exactly, anything else as a double."""
    return int(text) if is_integer(text) and len(text) < 4_000 else float(text)


def wanted_integer(text: str) -> int | None:
    """None: no int64."""
    number = exact(text)
    if not math.isfinite(number) or number != int(number) or not -(2**63) <= number < 2**63:
        return None
    return int(number)


@examples
@example("9223372036854775807.0")
@example("9223372036854775807")
@example("-9223372036854775809")
@given(number_texts)
def test_an_integer_is_exact_or_refused(text: str) -> None:
    """step and level at the frontier, step at a worker: what is no int64 is never another one."""
    wanted = wanted_integer(text)
    frame = _codec.validate(message(step=text), b"r", STAMP)
    record = b'{"type":"log_record","message":"m","timestamp":1,"level":%b}' % text.encode()
    level = _codec.validate(record, b"r", STAMP)
    if wanted is None:
        for refused, member in ((frame, "step"), (level, "level")):
            assert refused.rejected[0][2] in (
                f"{member}: out of the range of int64",
                f"{member}: expected an integer",
            )
        assert points(envelope(message(step=text))) == []
    else:
        step = json.loads(frame.records[0])["payload"]["step"]
        assert (type(step), step) == (int, wanted)
        assert json.loads(level.records[0])["payload"]["level"] == wanted
        assert [row[0] for row in points(*frame.records)] == [wanted]
        assert [row[0] for row in points(envelope(message(step=text)))] == [wanted]


@examples
@given(number_texts)
def test_a_log_records_timestamp_is_the_nearest_double(text: str) -> None:
    body = b'{"type":"log_record","message":"m","level":1,"timestamp":%b}' % text.encode()
    frame = _codec.validate(body, b"r", STAMP)
    if is_integer(text) and math.isinf(float(text)):
        assert frame.rejected[0][2] == "timestamp: out of the range of float64"
    else:
        assert json.loads(frame.records[0])["payload"]["timestamp"] == float(text)


@example("18446744073709551615")
@example("18446744073709551616")
@example("-9223372036854775808")
@example("-9223372036854775809")
@given(integers)
def test_a_free_integer_is_what_msgpack_holds(text: str) -> None:
    """-2^63 ... 2^64-1, at the frontier and in a record; it is copied as it stands."""
    fits = -(2**63) <= int(text) < 2**64
    body = b'{"value":{"hparams":{"a":[%b]}}' % text.encode()
    frame = _codec.validate(body + b',"type":"log_hparams"}', b"r", STAMP)
    (op,) = _codec.decode_records([envelope(body + b"}").replace(b"log_metric", b"log_hparams")])
    if fits:
        assert json.loads(frame.records[0])["payload"]["value"]["hparams"]["a"] == [int(text)]
        assert isinstance(op, _codec.Record)
        assert op.payload["value"]["hparams"]["a"] == [int(text)]
    else:
        assert frame.rejected[0][2] == "value: an integer is outside -2^63 ... 2^64-1"
        assert isinstance(op, _codec.Malformed)


# --- epochs ---------------------------------------------------------------------------------------


def wanted_epoch(text: str) -> int | float | None:
    """None: no epoch."""
    number = exact(text)
    if not math.isfinite(number):
        return None
    return wanted_integer(text) if number == int(number) else number


@examples
@example("0.25")
@example("1e18")
@example("9.3e18")
@example("1e300")
@example("-1e-300")
@example("4503599627370497.5")
@given(number_texts | st.floats(-1e17, 1e17).map(repr))
def test_an_epoch_is_an_integer_or_a_fraction(text: str) -> None:
    """Of a metric and of an object, through the frontier and straight to a worker: kept as it is, or refused."""
    wanted = wanted_epoch(text)
    body = b'{"type":"log_custom_object","name":"n","value":{},"epoch":%b}' % text.encode()
    for frame in (
        _codec.validate(message(epoch=text), b"r", STAMP),
        _codec.validate(body, b"r", STAMP),
    ):
        if wanted is None:
            assert frame.rejected[0][2] in (
                "epoch: out of the range of int64",
                "epoch: expected a finite number",
            )
        else:
            epoch = json.loads(frame.records[0])["payload"]["epoch"]
            assert (type(epoch), epoch) == (type(wanted), wanted)
    rows = points(envelope(message(epoch=text)))
    if wanted is None:
        assert rows == []
    else:
        assert [(type(row[3]), row[3]) for row in rows] == [(type(wanted), wanted)]
        number = _codec.epoch_number(exact(text))
        assert (type(number), number) == (type(wanted), wanted)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "epoch: expected a finite number"),
        ("Infinity", "epoch: expected a finite number"),
        ("-Infinity", "epoch: expected a finite number"),
        ("1e400", "epoch: expected a finite number"),
        ("true", "epoch: expected a finite number"),
        ('"1"', "epoch: expected a finite number"),
        ("[]", "epoch: expected a finite number"),
        ("1e300", "epoch: out of the range of int64"),
        ("9.3e18", "epoch: out of the range of int64"),
        ("9223372036854775808", "epoch: out of the range of int64"),
        ("9223372036854775808.0", "epoch: out of the range of int64"),
    ],
)
def test_what_is_no_epoch_says_why(text: str, reason: str) -> None:
    """At the frontier; a worker takes it from no one either."""
    assert _codec.validate(message(epoch=text), b"r", STAMP).rejected[0][2] == reason
    (op,) = _codec.decode_records([envelope(message(epoch=text))])
    assert isinstance(op, _codec.Malformed)
    assert op.reason.startswith("epoch: expected ")


@pytest.mark.parametrize("epoch", [math.nan, math.inf, -math.inf, 2.0**63, 1e300, 2**63])
def test_no_column_takes_what_is_no_epoch(epoch: float) -> None:
    columns = _codec.Columns()
    with pytest.raises(OverflowError):
        columns.append(1, 1.0, 1.0, epoch)
    assert len(columns) == 0
    with pytest.raises(OverflowError):
        _codec.epoch_number(epoch)
