"""What a terminal and a pipe see."""

from __future__ import annotations

import math
from array import array

import pytest

from matyan import views
from matyan.reader import Block, Points


def block(steps: list[int], values: list[float]) -> Block:
    points = Points(
        array("q", steps), array("d", values), array("d", [0.0] * len(steps)), [None] * len(steps)
    )
    return Block("loss", {}, "float", points=points)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0.0, "0 ms"),
        (0.85, "850 ms"),
        (12.34, "12.3 s"),
        (245, "4 min 05 s"),
        (11_520, "3 h 12 min"),
        (187_200, "2 d 04 h"),
    ],
)
def test_durations_are_for_people(seconds, text) -> None:
    """Two units at most."""
    assert views.duration(seconds) == text


def test_a_pipe_gets_lines_with_tabs(capsys) -> None:
    """No heading, no colours, one line a row."""
    views.table(("a", "b"), [(1, "x\ty"), (2, "z")])
    assert capsys.readouterr().out == "1\tx\\ty\n2\tz\n"


def test_a_rising_line_is_drawn_rising() -> None:
    """The first column's dot is at the bottom left, the last one's at the top right; the axes are labelled."""
    *lines, axis, steps = views.plot(
        [block([0, 50, 100], [1.0, 2.0, 3.0])], 100, width=20, height=5
    )
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
    assert views.plot([block(list(range(len(values))), values)], 1) == ["(no finite numbers)"]


def test_a_single_point_and_a_constant_are_drawn() -> None:
    """No division by an empty range."""
    assert len(views.plot([block([5], [2.0])], 5, height=3)) == 5
    assert len(views.plot([block([0, 1], [2.0, 2.0])], 1, height=3)) == 5
