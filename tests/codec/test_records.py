"""Records: what a worker reads is what the frontier, ours or the reference's, has written."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matyan_api_models import context_to_id

from matyan import _codec
from tests.codec.messages import STAMP, metric_members

free = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


def metric(run: str = "r", **changes: Any) -> bytes:
    """A log_metric record as the reference's frontier writes it."""
    return record(
        run,
        "log_metric",
        metric_members(**{"client_datetime": "2026-01-02T03:04:05.500000Z", **changes}),
    )


def record(run: str, kind: str, payload: dict[str, Any]) -> bytes:
    return json.dumps(
        {"type": kind, "run_id": run, "timestamp": STAMP.decode(), "payload": payload}
    ).encode()


def test_a_frame_comes_back_as_points() -> None:
    """What `validate` writes is read back, one MetricPoints a sequence."""
    message = {"type": "log_metric", "name": "a", "value": 1, "step": 2.0, "epoch": 4}
    message |= {"context": {"s": 1}, "dtype": None, "client_datetime": "2026-01-01T00:00"}
    frame = _codec.validate(json.dumps([message, message | {"value": 2}]).encode(), b"r", STAMP)
    (points,) = _codec.decode_records(frame.records)
    assert isinstance(points, _codec.MetricPoints)
    assert (points.run, points.name, points.dtype) == ("r", "a", "float")
    assert points.context == b'{"s": 1}'
    assert points.ctx == _codec.context_id({"s": 1})
    assert points.columns.rows() == [(2, 1.0, 1767225600.0, 4), (2, 2.0, 1767225600.0, 4)]


def test_null_is_nan_and_no_time_is_the_records_time() -> None:
    """The reference's frontier writes null for NaN."""
    (points,) = _codec.decode_records([metric(value=None, client_datetime=..., step=...)])
    assert isinstance(points, _codec.MetricPoints)
    ((step, value, time, epoch),) = points.columns.rows()
    assert (step, epoch) == (None, None)
    assert math.isnan(value)
    assert time == points.timestamp == points.last_timestamp == _codec.parse_timestamp(STAMP)


def test_a_record_of_its_run_closes_a_group() -> None:
    """Points stand before the next record of their run; another run's record changes nothing."""
    ops = _codec.decode_records(
        [
            metric("a"),
            record("b", "finish_run", {}),
            metric("a"),
            record("a", "delete_run", {}),
            metric("a"),
            b"{",
        ]
    )
    assert [
        (op.run, op.first, len(op.columns)) if isinstance(op, _codec.MetricPoints) else op.index
        for op in ops
    ] == [("a", 0, 2), 1, 3, ("a", 4, 1), 5]


def test_a_sequence_has_one_group_however_it_is_spelled() -> None:
    """Escapes, spaces and the order of members make no difference; the last dtype counts."""
    plain = metric(context={"a": 1, "b": 2}, dtype="int")
    spelled = metric(name="LOSS", context={"b": 2, "a": 1}).replace(b"LOSS", rb"\u006coss")
    (points,) = _codec.decode_records([plain, spelled, plain.replace(b": ", b" :  ")])
    assert isinstance(points, _codec.MetricPoints)
    assert len(points.columns) == 3
    assert (points.dtype, points.context) == ("int", b'{"a": 1, "b": 2}')


def test_groups_of_many_sequences_and_runs() -> None:
    """More of them than the reader can guess at once, in any order."""
    rng = random.Random(3)
    keys = [(f"r{i % 3}", f"n{i}", {"k": i % 5} if i % 2 else {}) for i in range(900)]
    sent = rng.choices(keys, k=5_000)
    ops = _codec.decode_records(
        [metric(r, name=n, context=c, step=i) for i, (r, n, c) in enumerate(sent)]
    )
    got = {}
    for op in ops:
        assert isinstance(op, _codec.MetricPoints)
        got[op.run, op.name, op.ctx] = [row[0] for row in op.columns.rows()]
        assert op.first == got[op.run, op.name, op.ctx][0]
    expected: dict[tuple[str, str, int], list[int]] = {}
    for i, (r, n, c) in enumerate(sent):
        expected.setdefault((r, n, context_to_id(c)), []).append(i)
    assert got == expected
    assert [op.first for op in ops if isinstance(op, _codec.MetricPoints)] == sorted(
        s[0] for s in got.values()
    )


@given(st.one_of(st.none(), st.dictionaries(st.text(), free)))
def test_context_ids_are_the_references(context: dict[str, Any] | None) -> None:
    """Also when they are worked out from a record's text."""
    assert _codec.context_id(context) == context_to_id(context)
    (points,) = _codec.decode_records([metric(context=context)])
    assert isinstance(points, _codec.MetricPoints)
    assert points.ctx == context_to_id(context)
    assert repr(json.loads(points.context)) == repr(context or {})


@given(
    st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(0, 2**64).map(float))
)
def test_floats_are_read_exactly(value: float) -> None:
    """Python's own text of a float, as the SDK writes it."""
    assert value_of(repr(value)) == value


@given(
    st.from_regex(r"-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
)
@example("9007199254740993")
@example("9007199254740993e22")
@example("0." + "0" * 400 + "1")
@example("1" + "0" * 400 + "e-400")
@example("123456789012345678901234567890.5")
@example("2.2250738585072011e-308")
@example("179769313486231580793728971405301e277")
@example("1e-999999999999999999999")
@example("0e999999999999999999999")
def test_any_number_is_read_as_python_reads_it(text: str) -> None:
    """Correctly rounded, whatever its length."""
    ours, theirs = value_of(text), float(text)
    assert (ours, math.copysign(1, ours)) == (theirs, math.copysign(1, theirs))


one_of = st.sampled_from
metrics = st.builds(
    metric,
    one_of(["a", "b"]),
    name=one_of(["m", "n", 5, ...]),
    value=one_of([0.5, 1, None, True, "x", ...]),
    step=one_of([None, 7, 2.0, 1.5, ...]),
    epoch=one_of([None, 1, 0.25, math.inf, "x", ...]),
    context=one_of([None, {}, {"s": 1}, [], ...]),
    dtype=one_of([None, "int", 5, ...]),
    client_datetime=one_of(["2026-01-02T03:04:05Z", "2026", None, 5, ...]),
)
bare = record("a", "log_metric", {}).replace(b'"payload": {}', b'"payload": 5')


@given(
    st.lists(metrics | one_of([bare, b"[]", b"{}", b'{"payload": {"name": "m"}, ']), max_size=12)
)
def test_a_record_is_judged_by_itself(values: list[bytes]) -> None:
    """What a batch holds is what its records hold one by one: nothing of one is seen in the next."""

    def held(ops: list[Any]) -> list[tuple[Any, ...]]:
        return [
            (op.run, op.name, op.context_text, *row)
            if isinstance(op, _codec.MetricPoints)
            else (op.reason,)
            for op in ops
            for row in (op.columns.rows() if isinstance(op, _codec.MetricPoints) else [()])
        ]

    together = held(_codec.decode_records(values))
    alone = [held(_codec.decode_records([value])) for value in values]
    assert sorted(map(repr, together)) == sorted(repr(one) for [one] in alone)


def value_of(text: str) -> float:
    (points,) = _codec.decode_records([metric(value="VALUE").replace(b'"VALUE"', text.encode())])
    assert isinstance(points, _codec.MetricPoints), text
    return points.columns.rows()[0][1]


@given(
    st.sampled_from(["create_run", "finish_run", "log_hparams", "delete_run", "log_record", "new"]),
    st.dictionaries(st.text(), free),
    st.sampled_from(
        ["2026-01-02T03:04:05.678901Z", "2026-01-02T03:04:05+00:00", "2026-01-02T03:04:05Z"]
    ),
)
def test_other_records_keep_their_payload(kind: str, body: dict[str, Any], stamp: str) -> None:
    """As Python's json reads it."""
    data = {"payload": body, "timestamp": stamp, "run_id": "rün", "type": kind}
    (op,) = _codec.decode_records([json.dumps(data).encode()])
    assert isinstance(op, _codec.Record)
    assert (op.index, op.kind, op.run) == (0, kind, "rün")
    assert op.timestamp == _codec.parse_timestamp(stamp)
    assert repr(op.payload) == repr(body)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", "not a JSON object"),
        (b"[]", "not a JSON object"),
        (b'{"type":1', "not JSON: the text ends early at byte 9"),
        (b"{} {}", "not JSON: unexpected text behind the end"),
        (b"{}", "type: expected a string"),
        (record("r", "a", {}).replace(b'"r"', b"1"), "run_id: expected a string"),
        (
            record("r", "a", {}).replace(b"2026-01", b"2026-13"),
            "timestamp: expected an ISO 8601 date and time",
        ),
        (record("r", "a", {}).replace(b"{}", b"[]"), "payload: expected an object"),
        (record("r", "a", {"x": "\ud800"}), "payload: a lone surrogate is not valid Unicode"),
        (record("r", "a", {"x": [2**64]}), "payload: an integer is outside -2^63 ... 2^64-1"),
        (metric(name=...), "name: expected a string"),
        (metric(value="1"), "value: expected a number or null"),
        (metric(value=...), "value: expected a number or null"),
        (metric(step=1.5), "step: expected an integer in int64 or null"),
        (
            metric(epoch=2**63),
            "epoch: expected an integer in int64, a finite number with a fraction, or null",
        ),
        (metric(context=[]), "context: expected an object or null"),
        (metric(dtype=1), "dtype: expected a string or null"),
        (metric(client_datetime=""), "client_datetime: expected an ISO 8601 date and time or null"),
    ],
)
def test_what_is_no_record_says_why(value: bytes, reason: str) -> None:
    """For the dead letters; its neighbours are read."""
    good = metric()
    ops = _codec.decode_records([good, value, good])
    assert isinstance(ops[0], _codec.MetricPoints)
    assert isinstance(ops[1], _codec.Malformed)
    assert (ops[1].index, ops[1].reason) == (1, reason)
    assert len(ops[0].columns) == 2


def test_the_bytes_of_values() -> None:
    """All of them together; what is no bytes has no size here."""
    assert _codec.total_bytes([]) == 0
    assert _codec.total_bytes([b"", b"abc", bytes(1_000)]) == 1_003
    with pytest.raises(TypeError):
        _codec.total_bytes(["abc"])
