"""Plots in a terminal: of any numbers, in any width."""

from __future__ import annotations

import io
import math
import sys
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.cli.plot import draw, plot
from matyan.reader import Block, Points


def block(steps: list[int], values: list[float]) -> Block:
    points = Points(
        array("q", steps), array("d", values), array("d", [0.0] * len(steps)), [None] * len(steps)
    )
    return Block("loss", {}, "float", points=points)


def test_a_rising_line_is_drawn_rising() -> None:
    """The first column's dot is at the bottom left, the last one's at the top right; the axes are labelled."""
    *lines, axis, steps = plot([block([0, 50, 100], [1.0, 2.0, 3.0])], 100, width=20, height=5)
    assert lines[0].startswith("3 ┤")
    assert lines[-1].startswith("1 ┤")
    blank = "\u2800"
    assert lines[0][-1] != blank
    assert lines[0][3] == blank
    assert lines[-1][3] != blank
    assert lines[-1][-1] == blank
    assert axis.strip().startswith("└")
    assert steps.split() == ["0", "100"]


@pytest.mark.parametrize("values", [[], [math.nan, math.inf]])
def test_nothing_finite_is_said(values) -> None:
    """A metric of NaN alone has no plot, and no traceback either."""
    assert plot([block(list(range(len(values))), values)], 1) == ["(no finite numbers)"]


EDGES = st.sampled_from(
    [
        *(1e308, -1e308, sys.float_info.max, -sys.float_info.max, math.inf, -math.inf, math.nan),
        *(5e-324, -5e-324, 1e-308, 0.0, -0.0, 1.0, 1 + 2**-52),
    ]
)
STEPS = st.integers(-(2**63), 2**63 - 1)


@given(
    st.dictionaries(STEPS | st.integers(0, 50), EDGES | st.floats(), max_size=60),
    st.integers(1, 120),
    st.integers(1, 40),
    st.none() | STEPS,
)
def test_whatever_the_numbers_there_is_a_plot_or_a_sentence(
    points, width, height, last_step
) -> None:
    """The largest and the smallest floats, any width and height, and a last step that the trace row has wrong or not at all."""
    steps = sorted(points)
    whole = [block(steps, [points[step] for step in steps])]
    last = steps[-1] if steps and last_step is None else last_step
    lines = plot(whole, last, width=width, height=height)
    finite = [value for value in points.values() if math.isfinite(value)]
    if not finite:
        assert lines == ["(no finite numbers)"]
        return
    assert len(lines) in {height + 2, height + 3}  # long steps stand one above the other
    assert all(
        "\u2800" <= cell <= "\u28ff" for line in lines[:height] for cell in line.split("┤")[1]
    )
    assert all(len(line.split("┤")[1]) == width for line in lines[:height])
    drawn = sum(cell != "\u2800" for line in lines[:height] for cell in line.split("┤")[1])
    assert drawn >= 1


def test_the_largest_numbers_are_drawn_where_they_are() -> None:
    """From -1e308 to 1e308 is a rise from the bottom to the top, with its labels."""
    *lines, _, _ = plot([block([0, 1, 2], [-1e308, 0.0, 1e308])], 2, width=30, height=5)
    assert lines[0].startswith(" 1e+308 ┤")
    assert lines[-1].startswith("-1e+308 ┤")
    first, last = lines[-1].split("┤")[1], lines[0].split("┤")[1]
    assert first[0] != "\u2800"
    assert last[20] != "\u2800"
    assert last[0] == first[20] == "\u2800"


@pytest.mark.parametrize("columns", [1, 8, 14, 22, 23, 24, 30, 40, 54, 80, 300])
@pytest.mark.parametrize("largest", [1.0, sys.float_info.max])
@pytest.mark.parametrize("steps", [[0, 1], [-10, -1], [10**12, 10**12 + 4], [-(2**63), 2**63 - 1]])
def test_a_plot_fits_its_terminal_or_a_sentence_stands_there(
    columns, largest, steps, monkeypatch, capsys
) -> None:
    """In 14 columns too, and however long its steps are, which are both named."""
    monkeypatch.setenv("COLUMNS", str(columns))
    draw([block(steps, [-largest, largest])], steps[-1])
    text = capsys.readouterr().out
    assert ("┤" in text) == (columns >= 23)
    if columns >= 23:
        assert max(map(len, text.splitlines())) <= columns
        assert text.split("─\n")[1].split() == [str(step) for step in steps]


def test_an_encoding_without_braille_gets_a_plot_of_ascii(monkeypatch) -> None:
    """Not a question mark for each cell."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    draw([block([0, 1], [1.0, 2.0])], 1)
    out.seek(0)
    text = out.read()
    assert "*" in text
    assert "?" not in text


def test_a_single_point_and_a_constant_are_drawn() -> None:
    """No division by an empty range."""
    assert len(plot([block([5], [2.0])], 5, height=3)) == 5
    assert len(plot([block([0, 1], [2.0, 2.0])], 1, height=3)) == 5
