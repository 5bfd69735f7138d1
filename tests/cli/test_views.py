"""What a terminal and a pipe see."""

from __future__ import annotations

import pytest

from matyan.cli import views


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
