"""The points of metrics, sampled by rank, as the arrays of the stream or as lists."""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from typing import Any

from matyan._codec import Columns
from matyan.api.asked import Range
from matyan.api.runs import METRIC, RunView
from matyan.rules.sequences import SequenceInfo


def sampled(
    run: RunView,
    info: SequenceInfo,
    most: int,
    steps: Range = (None, None),
    *,
    values_only: bool = False,
) -> Generator[bytes, None, Columns]:
    """At most so many points of a metric in this range, by rank. Yields b"" while it reads, as a search does.

    values_only: they need have neither time nor epoch. Where it is known beforehand how many there are, none are held but those; otherwise all of them are, 32 bytes each.
    """
    known = info.summary if steps == (None, None) else None
    if known is not None and known.count > most:
        found, seen = Columns(), 0
        for block in _blocks(run, info, steps, values_only=values_only):
            found.extend(block.sampled_of(seen, known.count, most))
            seen += len(block)
            yield b""
        if seen == known.count:
            return found
    whole = Columns()
    for block in _blocks(run, info, steps, values_only=values_only):
        whole.extend(block)
        yield b""
    return whole.sampled(most)


def _blocks(
    run: RunView, info: SequenceInfo, steps: Range, *, values_only: bool
) -> Iterator[Columns]:
    view = run.view
    place = view.snap, run.run, info.ctx, info.name
    return view.sequences.points(*place, *steps, values_only=values_only)


def numpy(doubles: bytes) -> dict[str, object]:
    """An array as the stream has it; doubles: float64 little endian."""
    return {"type": "numpy", "shape": len(doubles) // 8, "dtype": "float64", "blob": doubles}


def lists(points: Columns) -> dict[str, list[Any]]:
    """Steps and values; what is not finite is null, since JSON has no word for it."""
    steps, values = array("q", points.steps_bytes()), array("d", points.values_bytes())
    return {
        "iters": steps.tolist(),
        "values": [value if value - value == 0 else None for value in values],
    }


def trace(
    run: RunView, info: SequenceInfo, most: int, x_axis: str | None = None
) -> Generator[bytes, None, dict[str, Any] | None]:
    """A metric in a search for metrics; None where it has no point that is a number. Yields b"" while it reads."""
    points = yield from sampled(run, info, most)
    if not len(points):
        return None
    steps = array("q", points.steps_bytes())
    found: dict[str, Any] = {
        "name": info.name,
        "context": run.context(info),
        "slice": [steps[0], _behind(steps[-1]), most],
        "values": numpy(points.values_bytes()),
        "iters": numpy(points.steps_as_doubles()),
        "epochs": numpy(points.epochs_as_doubles()),
        "timestamps": numpy(points.times_bytes()),
    }
    if x_axis is not None:
        found |= {"x_axis_values": numpy(b""), "x_axis_iters": numpy(b"")}
        found |= yield from _along(run, run.context(info), x_axis, points)
    return found


def aligned(
    run: RunView, name: str, context: dict[str, Any], slice_: Range, most: int, x_axis: str
) -> Generator[bytes, None, dict[str, Any]]:
    """The x axis of a metric whose points were sent before, at the steps that were sent; null where it has none. Yields b"" while it
    reads."""
    info = run.find(METRIC, name, context)
    missing = {"x_axis_values": None, "x_axis_iters": None}
    if info is None:
        return {"name": name, "context": context, **missing}
    sent = yield from sampled(run, info, most, slice_, values_only=True)
    along = yield from _along(run, context, x_axis, sent)
    return {"name": name, "context": context, **missing, **along}


def _along(
    run: RunView, context: dict[str, Any], x_axis: str, points: Columns
) -> Generator[bytes, None, dict[str, dict[str, object]]]:
    """The points of the metric `x_axis` of the same context, at exactly the steps of `points`."""
    info = run.find(METRIC, x_axis, context)
    steps = array("q", points.steps_bytes())
    if info is None or not steps:
        return {}
    wanted = set(steps)
    at: dict[int, float] = {}
    between = steps[0], _behind(steps[-1])
    for block in _blocks(run, info, between, values_only=True):
        pairs = zip(array("q", block.steps_bytes()), array("d", block.values_bytes()), strict=True)
        at |= {step: value for step, value in pairs if step in wanted}
        yield b""
    found = [step for step in steps if step in at]
    if not found:
        return {}
    return {
        "x_axis_values": numpy(array("d", [at[step] for step in found]).tobytes()),
        "x_axis_iters": numpy(array("d", found).tobytes()),
    }


def _behind(step: int) -> int | None:
    """The end of a range that ends with the step; None behind the last step that there can be."""
    return None if step == (1 << 63) - 1 else step + 1
