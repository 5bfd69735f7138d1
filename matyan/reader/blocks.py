"""What a reader gives of sequences: points as columns, objects as they were logged."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one metric, ordered by step; times are epoch seconds. An epoch is an int where it was given as an integer
    (5.0 too), a float where it has a fraction, None where none was given."""

    steps: array[int]
    values: array[float]
    times: array[float]
    epochs: list[int | float | None]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of one sequence: `points` of a metric, or `objects` as (step, epoch, time, value)."""

    name: str
    context: dict[str, Any]
    dtype: str
    points: Points | None = None
    objects: list[tuple[int, int | float | None, float, Any]] | None = None

    def __len__(self) -> int:
        return len(self.points) if self.points is not None else len(self.objects or ())


def block(item: dict[str, Any]) -> Block:
    """A row of an answer."""
    if "objects" in item:
        return Block(
            item["name"],
            item["context"],
            item["dtype"],
            objects=[(step, epoch, when, value) for step, epoch, when, value in item["objects"]],
        )
    steps, values, times = array("q"), array("d"), array("d")
    steps.frombytes(item["steps"])
    values.frombytes(item["values"])
    times.frombytes(item["times"])
    return Block(
        item["name"],
        item["context"],
        item["dtype"],
        points=Points(steps, values, times, _epochs(item, len(steps))),
    )


def _epochs(item: dict[str, Any], count: int) -> list[int | float | None]:
    if item["epochs"] is None:
        return [None] * count
    # The mask says what the eight bytes of each are: nothing, an integer, a fraction.
    integers, fractions = array("q", item["epochs"]), array("d", item["epochs"])
    return [
        integer if kind == 1 else fraction if kind else None
        for integer, fraction, kind in zip(integers, fractions, item["epoch_mask"], strict=True)
    ]
