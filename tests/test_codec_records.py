"""Records: what a worker reads is what the frontier, ours or the reference's, has written."""

from __future__ import annotations

import json
import math
from typing import Any

from matyan import _codec

STAMP = b"2026-01-02T03:04:05.678901Z"


def metric(run: str = "r", **changes: Any) -> bytes:
    """A log_metric record as the reference's frontier writes it."""
    body = {
        "name": "loss",
        "value": 0.5,
        "step": 3,
        "epoch": None,
        "context": {},
        "dtype": "float",
        "client_datetime": "2026-01-02T03:04:05.500000Z",
    }
    body.update(changes)
    return record(run, "log_metric", {k: v for k, v in body.items() if v is not ...})


def record(run: str, kind: str, payload: dict[str, Any]) -> bytes:
    return json.dumps(
        {"type": kind, "run_id": run, "timestamp": STAMP.decode(), "payload": payload}
    ).encode()


def test_a_frame_comes_back_as_points() -> None:
    """What `validate` writes is read back, one Points a sequence."""
    message = {"type": "log_metric", "name": "a", "value": 1, "step": 2.0, "epoch": 4}
    message |= {"context": {"s": 1}, "dtype": None, "client_datetime": "2026-01-01T00:00"}
    frame = _codec.validate(json.dumps([message, message | {"value": 2}]).encode(), b"r", STAMP)
    (points,) = _codec.decode_records(frame.records)
    assert isinstance(points, _codec.Points)
    assert (points.run, points.name, points.dtype) == ("r", "a", "float")
    assert points.context == b'{"s": 1}'
    assert points.ctx == _codec.context_id({"s": 1})
    assert points.columns.rows() == [(2, 1.0, 1767225600.0, 4), (2, 2.0, 1767225600.0, 4)]


def test_null_is_nan_and_no_time_is_the_records_time() -> None:
    """The reference's frontier writes null for NaN."""
    (points,) = _codec.decode_records([metric(value=None, client_datetime=..., step=...)])
    assert isinstance(points, _codec.Points)
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
        (op.run, op.first, len(op.columns)) if isinstance(op, _codec.Points) else op.index
        for op in ops
    ] == [("a", 0, 2), 1, 3, ("a", 4, 1), 5]
