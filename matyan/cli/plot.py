"""`matyan show --plot`: the metrics of a name, each drawn with braille dots in a terminal.

No store here: blocks in, lines out.
"""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from matyan._codec import LINES, LOG_RECORDS
from matyan.cli.views import Row, number, terminal_width
from matyan.errors import NotFound
from matyan.reader import Block

_BLANK = 0x2800
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
"""Braille cells hold 2 x 4 dots; the bit of each, by column and row from the top (Unicode 15, U+2800)."""
_PLAIN: dict[int, str] = {
    _BLANK: " ",
    **dict.fromkeys(range(_BLANK + 1, _BLANK + 0x100), "*"),
    ord("┤"): "|",
    ord("└"): "+",
    ord("─"): "-",
}
"""What stands for our signs in an encoding that has no braille."""
_HALF_OF_LARGEST = sys.float_info.max / 2
_TOLD_NAMES = 20
"""So many names of metrics stand in one sentence."""
_COMPARED_NAMES = 10_000
"""Among so many the near ones are looked for."""
_LABEL_COLUMNS = len("-1.79769e+308 ┤")
_NARROWEST_COLUMNS, _WIDEST_COLUMNS = 8, 100


# In the empty context these names are the logs' (contract, section 4).
_LOG_NAMES = {LINES: "terminal lines", LOG_RECORDS: "log records"}


def metrics_named(shown: Row, name: str) -> list[Row]:
    """The sequences of this name that may be metrics: logs are none, objects are told by their blocks.

    Raises:
        NotFound: there are none.
    """
    logs_ = [one for one in shown["sequences"] if one["name"] in _LOG_NAMES and not one["context"]]
    others = [one for one in shown["sequences"] if one not in logs_]
    found = [one for one in others if one["name"] == name]
    if found:
        return found
    run = shown["run"]
    if any(one["name"] == name for one in logs_):
        raise NotFound(
            f"{name!r} is no metric but the {_LOG_NAMES[name]} of run {run}: `matyan logs {run}` prints them."
        )
    names = sorted({one["name"] for one in others})
    near = difflib.get_close_matches(name, names[:_COMPARED_NAMES], n=_TOLD_NAMES, cutoff=0.5)
    told = ", ".join(near + [one for one in names if one not in near][: _TOLD_NAMES - len(near)])
    rest = f" and {len(names) - _TOLD_NAMES} more" if len(names) > _TOLD_NAMES else ""
    raise NotFound(f"Run {run} has no metric {name!r}; it has: {told or 'none'}{rest}.")


def draw(blocks: Iterable[Block], last_step: int | None) -> None:
    """Prints a plot of one metric that fits the terminal, or why there is none."""
    print("\n".join(fitting(blocks, last_step)))


def fitting(blocks: Iterable[Block], last_step: int | None, height: int = 12) -> list[str]:
    """The lines of a plot of one metric that fits the terminal and its encoding, or why there is none."""
    width = min(_WIDEST_COLUMNS, terminal_width() - _LABEL_COLUMNS)
    if width < _NARROWEST_COLUMNS:
        return [f"(a plot needs {_LABEL_COLUMNS + _NARROWEST_COLUMNS} columns)"]
    lines = plot(blocks, last_step, width=width, height=height)
    try:
        "".join(lines).encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        return [line.translate(_PLAIN) for line in lines]
    return lines


def plot(
    blocks: Iterable[Block], last_step: int | None, *, width: int = 72, height: int = 12
) -> list[str]:
    """Lines of a plot of one metric in braille dots: the mean of each column's finite values, over the steps."""
    curve = _curve(blocks, last_step, width * 2)
    if curve is None:
        return ["(no finite numbers)"]
    values = [mean for _, mean in curve.means]
    low, high = min(values), max(values)
    labels = {0: number(high), height - 1: number(low)}
    margin = max(map(len, labels.values()))
    canvas = _canvas(curve.means, low, high, width, height)
    return [
        *(f"{labels.get(row, ''):>{margin}} ┤{line}" for row, line in enumerate(canvas)),
        f"{' ' * margin} └{'─' * width}",
        *_step_labels(curve, margin, width),
    ]


@dataclass(frozen=True, slots=True)
class _Curve:
    first_step: int
    last_step: int
    means: list[tuple[int, float]]
    """Of each column of dots that has finite values: its number from the left, and their mean."""


def _curve(blocks: Iterable[Block], last_step: int | None, columns: int) -> _Curve | None:
    """None: there are no finite values. Reads `blocks` once and keeps two numbers a column, whatever the number of points."""
    means, counts = [0.0] * columns, [0] * columns
    first_step: int | None = None
    scale = 0.0
    for block in blocks:
        if block.points is None or not len(block):
            continue
        if first_step is None:
            first_step = block.points.steps[0]
            last_step = max(first_step, last_step or 0)
            scale = columns / (last_step - first_step + 1)
        for step, value in zip(block.points.steps, block.points.values, strict=True):
            if math.isfinite(value):
                # Points may have come since `last_step` was read.
                column = min(columns - 1, int((step - first_step) * scale))
                counts[column] += 1
                # Each term is divided first: a sum, or a difference, of the largest floats is infinite.
                means[column] += value / counts[column] - means[column] / counts[column]
    found = [(column, means[column]) for column in range(columns) if counts[column]]
    if first_step is None or last_step is None or not found:
        return None
    return _Curve(first_step, last_step, found)


def _canvas(
    means: Sequence[tuple[int, float]], low: float, high: float, width: int, height: int
) -> list[str]:
    """The curve as `height` lines of `width` cells."""
    # So that neither the span nor a distance is infinite; where it matters what half of a float loses, nothing is halved.
    half = 0.5 if high / 2 - low / 2 > _HALF_OF_LARGEST else 1.0
    span = (high * half - low * half) or 1.0
    cells = [[_BLANK] * width for _ in range(height)]
    above: int | None = None
    for column, value in means:
        row = round((high * half - value * half) / span * (height * 4 - 1))
        for dot in _between(above, row):
            cells[dot // 4][column // 2] |= _DOTS[column % 2][dot % 4]
        above = row
    return ["".join(map(chr, line)) for line in cells]


def _step_labels(curve: _Curve, margin: int, width: int) -> list[str]:
    """The first and the last step below the plot, at its ends."""
    first, last = str(curve.first_step), str(curve.last_step)
    if len(first) + 1 + len(last) <= width:
        return [f"{' ' * margin}  {first} {last.rjust(width - len(first) - 1)}"]
    # One above the other, from the plot's left end and to its right one where there is room for it.
    whole = margin + 2 + width
    return [f"{' ' * min(margin + 2, whole - len(first))}{first}", last.rjust(whole)]


def _between(above: int | None, row: int) -> range:
    """The dots of this column: from next to the last column's to this one's, so that the line is whole."""
    if above is None or abs(above - row) <= 1:
        return range(row, row + 1)
    return range(row, above) if row < above else range(above + 1, row + 1)
