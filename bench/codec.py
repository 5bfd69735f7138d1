"""Frames and records: ours against msgspec's typed structs and against the message models of matyan-api-models.

    python -m bench.codec

The workload is the frame of the SDK: a JSON array of 100 log_metric messages as `json.dumps` writes them, 236 bytes
each. Validating and enveloping gives one broker record a message. All run in this process, one after the other in
each round; a number is the median of the rounds. The keys, values and chunks of points follow (bench/keys.py).

Bias: against us, msgspec is given no envelope to write in its first line (no type, run id and timestamp around the
payload), checks no limit, and knows only this one kind of message; we check all of the contract and take all kinds.
For us: the frame repeats itself as the SDK's frames do, and our scan guesses by that; the line "members shuffled"
shows what is left when it cannot. The models' path is what the reference's frontier does a message, without Kafka.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
from matyan_api_models.kafka import IngestionMessage
from matyan_api_models.ws import WsRequestTAdapter

from bench import keys
from bench.machine import describe
from matyan import _codec

MESSAGES = 100
BYTES = 236
ROUNDS = 41
RUN = "0123456789abcdef01234567"
STAMP = b"2026-01-02T03:04:05.678901Z"


class Metric(msgspec.Struct, tag="log_metric", tag_field="type"):
    run_id: str
    name: str
    value: float
    step: int | None
    epoch: int | None
    context: dict[str, Any] | None
    dtype: str | None
    client_datetime: datetime


class Envelope(msgspec.Struct):
    type: str
    run_id: str
    timestamp: str
    payload: Metric


def frame_of(shuffled: bool = False) -> bytes:
    rng = random.Random(1)
    start = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    messages = []
    for step in range(1_000, 1_000 + MESSAGES):
        message = {
            "type": "log_metric",
            "run_id": RUN,
            "name": "loss",
            "value": rng.random(),
            "step": step,
            "epoch": None,
            "context": {"on": "val"},
            "dtype": "float",
            "client_datetime": (start + timedelta(milliseconds=9 * step)).isoformat(),
        }
        message["name"] = "loss" + "x" * (
            BYTES - 2 - len(json.dumps(message))
        )  # and ", " behind it
        items = list(message.items())
        if shuffled:
            rng.shuffle(items)
        messages.append(dict(items))
    return json.dumps(messages).encode()


def measure(works: dict[str, tuple[Callable[[], object], int]]) -> dict[str, float]:
    """Median nanoseconds a message of each work, called so many times a round, in turn."""
    taken: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, (work, times) in works.items():
            start = time.perf_counter_ns()
            for _ in range(times):
                work()
            taken[name].append((time.perf_counter_ns() - start) / times / MESSAGES)
    return {name: statistics.median(values) for name, values in taken.items()}


def main() -> None:
    frame = frame_of()
    shuffled = frame_of(shuffled=True)
    records = _codec.validate(frame, RUN.encode(), STAMP).records
    assert len(records) == MESSAGES
    decoder = msgspec.json.Decoder(list[Metric])
    encode = msgspec.json.Encoder().encode
    stamp = STAMP.decode()

    def plain() -> list[bytes]:
        return [encode(message) for message in decoder.decode(frame)]

    def enveloped() -> list[bytes]:
        return [
            encode(Envelope("log_metric", RUN, stamp, message)) for message in decoder.decode(frame)
        ]

    def models() -> list[bytes]:
        out = []
        for item in json.loads(frame):
            request = WsRequestTAdapter.validate_python(item)
            out.append(
                IngestionMessage(
                    type=request.type,
                    run_id=RUN,
                    timestamp=datetime.now(UTC),
                    payload=request.model_dump(mode="json", exclude={"type", "run_id"}),
                )
                .model_dump_json()
                .encode()
            )
        return out

    print(describe("msgspec", "pydantic", "matyan-api-models"))
    print(
        f"frames of {MESSAGES} messages, {len(frame) / MESSAGES:.0f} bytes a message, median of {ROUNDS} rounds"
    )
    names = {
        "ours: validate and envelope": (lambda: _codec.validate(frame, RUN.encode(), STAMP), 20),
        "ours, members shuffled": (lambda: _codec.validate(shuffled, RUN.encode(), STAMP), 20),
        "msgspec: typed decode + encode": (plain, 10),
        "msgspec: with the envelope": (enveloped, 10),
        "matyan-api-models": (models, 1),
        "ours: records to points": (lambda: _codec.decode_records(records), 20),
    }
    taken = measure(names)
    ours = taken["ours: validate and envelope"]
    for name, ns in taken.items():
        print(f"  {name:32} {ns:8.0f} ns a message   {ns / ours:6.2f} × validate")
    print(
        f"validate takes 1/{taken['msgspec: typed decode + encode'] / ours:.1f} of msgspec (at most 1/3)",
        end="",
    )
    print(f" and 1/{taken['matyan-api-models'] / ours:.0f} of matyan-api-models (at most 1/30)")
    print()
    keys.main()


if __name__ == "__main__":
    main()
