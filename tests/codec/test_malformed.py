"""Bad frames and bad records: an error object each time, never a crash (`make asan` runs this under sanitizers)."""

from __future__ import annotations

import contextlib
import json
import random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matyan import _codec

STAMP = b"2026-01-02T03:04:05.678901Z"
MESSAGES: list[dict[str, Any]] = [
    {
        "type": "log_metric",
        "run_id": "r",
        "name": "loss/é",
        "value": 0.1234567890123456789,
        "step": 12,
        "epoch": None,
        "context": {"subset": ["träin", {"a": -1.5e-7}]},
        "dtype": "float",
        "client_datetime": "2026-01-02T03:04:05.678901+00:00",
    },
    {
        "type": "log_metric",
        "run_id": "r",
        "name": "acc",
        "value": float("nan"),
        "step": 2.0,
        "epoch": -3,
        "context": {},
        "dtype": None,
        "client_datetime": "2026-01-02 03:04Z",
    },
    {
        "type": "create_run",
        "run_id": "r",
        "client_datetime": "2026-01-02T03:04",
        "force_resume": True,
    },
    {
        "type": "log_hparams",
        "value": {"hparams": {"lr": 0.1, "n": 2**63, "l": [1, None, True, "\\"]}},
    },
    {
        "type": "log_record",
        "message": "\ud83d\ude00 \n",
        "level": 20,
        "timestamp": 1,
        "logger_info": [],
    },
    {"type": "blob_ref", "s3_key": "r/a/b", "artifact_path": "a/b"},
    {"type": "log_custom_object", "name": "fig", "value": {"data": "x" * 40}, "unknown": [[]]},
]
FRAMES = [
    json.dumps(MESSAGES).encode(),
    json.dumps(MESSAGES, ensure_ascii=False, separators=(",", ":")).encode(errors="replace"),
    json.dumps(MESSAGES, indent=1).encode(),
]
RECORDS = _codec.validate(FRAMES[0], b"r", STAMP).records
INTERESTING = [
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\\u",
    b"\\ud800",
    b"\x80",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\0",
    b"-",
    b"9" * 30,
    b"1e999",
    b"NaN",
    b"null",
    b'"type":',
    b'"payload":{',
    b" " * 20,
]


def judge(frame: bytes) -> None:
    """What is Validated, whose items add up, or NotJSON; and NotJSON where Python's json reads nothing."""
    try:
        readable = isinstance(json.loads(frame.decode()), object)
    except (ValueError, RecursionError):
        readable = False
    if not readable:
        with pytest.raises(_codec.NotJSON):
            _codec.validate(frame, b"r", STAMP)
        return
    result = _codec.validate(frame, b"r", STAMP)
    assert result.count == len(result.records) + len(result.rejected)
    assert len(result.kinds) == len(result.records)
    for record in result.records:
        assert json.loads(record)["run_id"] == "r"
    for op in _codec.decode_records(result.records):
        assert not isinstance(op, _codec.Malformed)
    json.loads(_codec.error_reply(result))


def decode(values: list[bytes]) -> None:
    """Each record comes back exactly once, as a point, a record or a malformed one."""
    ops = _codec.decode_records(values)
    points = sum(len(op.columns) for op in ops if isinstance(op, _codec.MetricPoints))
    others = [op.index for op in ops if not isinstance(op, _codec.MetricPoints)]
    assert points + len(others) == len(values)
    assert others == sorted(others)


def mutated(data: bytes, rng: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(out) + 1)
        kind = rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] = rng.randrange(256)
        elif kind == 1:
            out[at:at] = rng.choice(INTERESTING)
        elif kind == 2:
            del out[at : at + rng.randrange(1, 9)]
        elif kind == 3:
            begin = rng.randrange(len(out) + 1)
            out[at:at] = out[begin : begin + rng.randrange(64)]
        else:
            out[at : at + 1] = rng.choice(INTERESTING)
    return bytes(out)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_cut_anywhere_is_no_json(frame: bytes) -> None:
    """Each prefix, and each suffix, in a buffer of its own so that a sanitizer sees its end."""
    for cut in range(len(frame)):
        with pytest.raises(_codec.NotJSON):
            _codec.validate(frame[:cut], b"r", STAMP)
        judge(frame[cut:])


def test_a_record_cut_anywhere_is_malformed() -> None:
    """Alone, and between good ones."""
    for record in RECORDS:
        for cut in range(len(record)):
            good, bad, again = RECORDS[0], record[:cut], RECORDS[0]
            ops = _codec.decode_records([good, bad, again])
            assert [type(op) for op in ops] == [_codec.MetricPoints, _codec.Malformed]
            assert isinstance(ops[0], _codec.MetricPoints)
            assert len(ops[0].columns) == 2


@pytest.mark.parametrize("seed", range(40))
def test_a_mutated_frame_ends_in_a_frame_or_not_json(seed: int) -> None:
    """Bytes changed, inserted, removed, doubled."""
    rng = random.Random(seed)
    for _ in range(100):
        judge(mutated(rng.choice(FRAMES), rng))


@pytest.mark.parametrize("seed", range(40))
def test_mutated_records_are_told_apart_from_good_ones(seed: int) -> None:
    """A batch of good and bad ones; nothing of one leaks into another."""
    rng = random.Random(seed)
    for _ in range(30):
        values = [
            mutated(record, rng) if rng.random() < 0.4 else record
            for record in rng.choices(RECORDS, k=8)
        ]
        decode(values)
        alone = [_codec.decode_records([value])[0] for value in values]
        together = [op for op in _codec.decode_records(values) if isinstance(op, _codec.Malformed)]
        reasons = [op.reason for op in alone if isinstance(op, _codec.Malformed)]
        assert [op.reason for op in together] == reasons


@given(st.binary(max_size=200))
@example(b"[" * 100_000)
@example(b'{"a":' * 100_000)
@example(b'"\\u')
@example(b"[-")
@example(b"[1e")
def test_any_bytes_are_judged(data: bytes) -> None:
    """As a frame, as an item, as a free value and as a record."""
    judge(data)
    judge(b"[" + data + b"]")
    judge(b'{"type":"log_hparams","value":{"a":' + data + b"}}")
    decode(
        [data, b'{"type":"x","run_id":"r","timestamp":"2026-01-02T03:04Z","payload":' + data + b"}"]
    )


@given(st.text(max_size=64), st.binary(max_size=64))
def test_any_text_is_a_time_or_is_none(text: str, data: bytes) -> None:
    """ValueError, nothing else."""
    for value in (text, data, "2026-01-02T03:04" + text):
        with contextlib.suppress(ValueError):
            assert isinstance(_codec.parse_timestamp(value), float)
