"""Runs with every kind of record, written as a client would, and all that a reader sees of one but what a move does not bring."""

from __future__ import annotations

import json
import random
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from websockets.sync.client import connect

from matyan.reader import Reader

_BEGIN = datetime(2025, 3, 1, 12, 30, 1, 123457, tzinfo=UTC)
_WORDS = ["loss", "acc", "ünï·çødé", "a/b", "x" * 300, "🧪", "with\ttab", 'quote"d']
_CONTEXTS: list[dict[str, Any] | None] = [
    None,
    {},
    {"subset": "val"},
    # Their ids are the same.
    {"layer": 4141},
    {"layer": 8106},
    {"x": 1},
    {"x": 1.0},
    {"x": True},
    {"deep": {"er": [1, None, "ü"]}},
]
_NUMBERS = [0.0, -0.0, float("nan"), float("inf"), float("-inf"), 5e-324, 1.7e308, 0.1, 1e-7, -3]
_INTEGERS = [0, 1, -1, 2**53 + 1, 2**63 - 1, -(2**63), 7]
_EPOCHS = [None, 0, 3, 2**53 + 1, 0.25, -1.5]
_VALUES: list[Any] = [
    *(2**64 - 1, -(2**63), 2**53 + 1, 1.0, 1, True, None, "", "ü\u2028\x00", float("nan"), -0.0),
    *({}, [], [1, [2.5, {}], None], {"a": {"b": {"c": []}}, "d": "e"}, float("inf")),
]


def every_kind(seed: int) -> Iterator[dict[str, Any]]:
    """The messages of a run, without its artifacts."""
    draw = random.Random(seed)
    clock = _BEGIN

    def now() -> str:
        nonlocal clock
        clock += timedelta(microseconds=draw.randrange(1, 5_000_000))
        return clock.isoformat(timespec="microseconds")

    if seed % 4:
        yield {"type": "create_run", "client_datetime": now()}
    if seed % 3:
        yield {
            "type": "set_run_property",
            "name": draw.choice(_WORDS),
            "description": "two\nlines",
            "experiment": f"experiment {seed % 2} ü",
            "archived": seed % 5 == 1,
        }
    for name in draw.sample(_WORDS, 3):
        yield {"type": "add_tag", "tag_name": name}
    yield {"type": "remove_tag", "tag_name": name}
    for _ in range(12):
        value = {draw.choice(_WORDS): draw.choice(_VALUES) for _ in range(draw.randrange(1, 4))}
        top = draw.choice(["hparams", "other", "__system_params"])
        yield {"type": "log_hparams", "value": {top: value} if draw.random() < 0.8 else value}
    for _ in range(draw.randrange(400)):
        yield {
            "type": "log_metric",
            "name": draw.choice(_WORDS),
            "value": draw.choice([*_NUMBERS, draw.random()]),
            "step": draw.choice([None, draw.randrange(-5, 300), draw.choice(_INTEGERS)])
            if draw.random() < 0.3
            else draw.randrange(300),
            "epoch": draw.choice(_EPOCHS),
            "context": draw.choice(_CONTEXTS),
            "dtype": draw.choice(["float", "int", "float32"]),
            "client_datetime": now(),
        }
    for number in range(draw.randrange(1, 25)):
        yield {
            "type": "log_custom_object",
            "name": f"objects {draw.randrange(3)}",
            "value": {
                "type": "text",
                "data": draw.choice(_WORDS) * draw.choice([1, 400]),
                "n": _NUMBERS,
            },
            "step": draw.choice([number, None, -number]),
            "epoch": draw.choice(_EPOCHS),
            "context": draw.choice(_CONTEXTS),
            "dtype": draw.choice(["text", "figure", "custom"]),
            "client_datetime": now(),
        }
    yield {
        "type": "log_custom_object",
        "name": "in parts",
        "value": {"type": "figure", "data": "ü" * draw.randrange(60_000, 140_000)},
        "step": 3,
        "client_datetime": now(),
    }
    for step in range(draw.randrange(60)):
        for _ in range(draw.choice([1, 1, 3])):  # a line that grows is sent at its step again
            text = draw.choice(_WORDS) * draw.randrange(1, 9)
            yield {"type": "log_terminal_line", "line": text, "step": step}
        if step % 20 == 19:  # another session, whose lines are counted from 0 again
            yield {"type": "create_run", "client_datetime": now()}
            yield {"type": "log_terminal_line", "line": "again", "step": 0}
    yield {"type": "log_terminal_line", "line": "long " * draw.randrange(30_000), "step": 1000}
    for _ in range(draw.randrange(60)):
        yield {
            "type": "log_record",
            "message": draw.choice(["the same", *_WORDS]),
            "level": draw.choice([10, 20, -5]),
            "timestamp": draw.choice([1.5, 2, 1700000000.123]),
            **draw.choice([{}, {"logger_info": ["a", 1, None], "extra_args": {"k": _VALUES}}]),
        }
    if seed % 2:
        yield {"type": "finish_run", **({"client_datetime": now()} if seed % 4 == 1 else {})}


def log(url: str, run: str, messages: Iterator[dict[str, Any]], batch: int = 100) -> None:
    """Sends them as a client of the protocol, which is none of ours."""
    with connect(
        f"{url.replace('http', 'ws', 1)}/api/v1/ws/runs/{run}", max_size=None, compression=None
    ) as socket:
        left = [*messages]
        while left:
            frame, left = left[:batch], left[batch:]
            socket.send(json.dumps(frame))
            reply = json.loads(socket.recv())
            assert reply["status"] == "ok", reply


def upload(url: str, run: str, path: str, data: bytes, content_type: str = "text/plain") -> None:
    """An artifact, or with b"" its announcement alone."""
    body = json.dumps({"run_id": run, "artifact_path": path, "content_type": content_type}).encode()
    asked = urllib.request.Request(
        f"{url}/api/v1/rest/artifacts/presign", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(asked, timeout=30) as response:
        signed = json.load(response)
    if data:
        put = urllib.request.Request(
            signed["upload_url"], data, {"Content-Type": content_type}, method="PUT"
        )
        urllib.request.urlopen(put, timeout=30).close()


def everything(reader: Reader, run: str, *, artifacts: bool = True) -> dict[str, Any]:
    """What stands in the run, as text, so that a NaN is itself and 1 is not 1.0."""
    shown = reader.show(run)
    meta = shown["meta"]
    # The target stamps these.
    for field in ("created_at", "updated_at", "finalized_at", "experiment_id"):
        meta.pop(field, None)
    points = []
    for block in reader.blocks(run):
        head = f"{block.name!r} {json.dumps(block.context, sort_keys=True)} {block.dtype!r}"
        if block.points is not None:
            one = block.points
            rows: Any = zip(one.steps, one.epochs, one.times, one.values, strict=True)
        else:
            rows = block.objects
        is_log = block.name in ("logs", "__log_records") and not block.context
        points += [
            f"{head} {step} {epoch!r} {None if is_log else when!r} {value!r}"
            for step, epoch, when, value in rows
        ]
    said = shown.get("artifacts", [])
    found: dict[str, Any] = {
        "meta": sorted(map(repr, meta.items())),
        "attrs": _canonical({k: v for k, v in shown["attrs"].items() if k != "__blobs__"}),
        "tags": shown["tags"],
        "experiment": shown["experiment"],
        "sequences": sorted(map(_canonical, shown["sequences"])),
        "points": sorted(points),
        "logs": [
            repr((row["kind"], row["step"], row["message"], row["level"]))
            for row in reader.logs(run)
            if row["kind"] == "record"
        ],
        "artifacts": sorted((row["path"], row["content_type"]) for row in said),
    }
    if artifacts:
        found["bytes"] = {row["path"]: _bytes(reader, run, row["path"]) for row in said}
    return found


def _bytes(reader: Reader, run: str, path: str) -> bytes | None:
    from matyan.reader import NotFound

    try:
        return reader.artifact(run, path).read()
    except NotFound:
        return None


def _canonical(value: object) -> str:
    if isinstance(value, dict):
        inner = ", ".join(f"{key!r}: {_canonical(value[key])}" for key in sorted(value, key=repr))
        return "{" + inner + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_canonical, value)) + "]"
    return repr(value)
