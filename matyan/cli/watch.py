"""`matyan watch`: a run's metrics drawn in a terminal while they come; lines in a pipe.

What comes is `Reader.follow`'s, how a curve is drawn `plot.py`'s.
"""

from __future__ import annotations

import queue
import shutil
import sys
import threading
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import click
import outcome

from matyan._codec import LINES, LOG_RECORDS
from matyan.cli import views
from matyan.cli.flags import PlaceName, read_options
from matyan.cli.output import metrics_option, reading
from matyan.cli.plot import fitting
from matyan.errors import NotFound
from matyan.reader import Block, Points, Reader
from matyan.service import json_text, terminal

_MOST_POINTS: Final = 4096
"""Of a curve: twice as many become half as many again, each the mean of two."""
_REDRAW_S: Final = 0.5
_SYSTEM: Final = "__system__"
_PLOT_LINES: Final = 10
"""The least that a curve takes, with its title and its axis."""


@click.command()
@click.argument("run")
@read_options
@metrics_option(
    "Only metrics of this name; may be repeated. Default: all but those of the system, as many as there is room for."
)
@click.option("--from-now", is_flag=True, help="Leave out what was logged before.")
def watch(run: str, store: PlaceName, names: tuple[str, ...], from_now: bool) -> None:
    """Draw a run's metrics while it goes on.

    It ends with the run, or by Ctrl-C. In a pipe: a line a point, with tabs: name, context, step, value; and a line of the log as
    `log`, nothing, step, text.

    \b
      matyan watch 3f2a
      matyan watch 3f2a --metrics loss --metrics acc
      matyan watch 3f2a --from-now | grep --line-buffered nan
    """
    with reading(store) as opened:
        (row,) = opened.find([run])
        coming = opened.follow(row["run"], from_now=from_now)
        wanted = [*names] or None
        if terminal.takes_styles(sys.stdout):
            _draw(opened, row, coming, wanted)
        else:
            _print(coming, wanted)


def _is_wanted(block: Block, names: Sequence[str] | None) -> bool:
    return block.name in names if names else not block.name.startswith(_SYSTEM)


def _print(coming: Iterator[Block], names: Sequence[str] | None) -> None:
    for block in coming:
        if block.points is not None and _is_wanted(block, names):
            context = json_text.dumps(block.context, ascii=False) if block.context else ""
            for step, value in zip(block.points.steps, block.points.values, strict=True):
                terminal.out(block.name, context, step, repr(value))
        elif block.objects is not None and block.name in (LINES, LOG_RECORDS) and not names:
            for step, _, _, value in block.objects:
                text = value.get("message") if isinstance(value, dict) else value
                terminal.out("log", "", step, text)


class Curve:
    """The points of one metric, thinned so that drawing them costs the same however many there are."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.points = Points(array("q"), array("d"), array("d"), [])
        self.last: float | None = None
        self.count = 0

    def add(self, points: Points) -> None:
        self.points.steps.extend(points.steps)
        self.points.values.extend(points.values)
        self.last = points.values[-1]
        self.count += len(points)
        while len(self.points.steps) > 2 * _MOST_POINTS:
            steps, values = self.points.steps, self.points.values
            means = [a / 2 + b / 2 for a, b in zip(values[::2], values[1::2], strict=False)]
            odd = values[2 * len(means) :]
            self.points = Points(steps[::2], array("d", means) + odd, array("d"), [])

    def block(self) -> Block:
        return Block(self.title, {}, "float", points=self.points)


def _draw(
    opened: Reader, row: dict[str, Any], coming: Iterator[Block], names: Sequence[str] | None
) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    curves: dict[str, Curve] = {}
    console = Console()
    name = row["name"] or row["run"]

    def frame(is_over: bool) -> Text:
        head = f"{name}  {'ended' if is_over else 'goes on: Ctrl-C stops watching'}"
        lines = [terminal.clean(head), *_screen([*curves.values()])]
        return Text("\n".join(lines), no_wrap=True, overflow="crop")

    arrived, is_over = _in_thread(coming), False
    with Live(
        frame(False),
        console=console,
        auto_refresh=False,
        redirect_stdout=False,
        redirect_stderr=False,
        vertical_overflow="crop",
    ) as live:
        due = 0.0
        while not is_over:
            for came in arrived(_REDRAW_S):
                if came is None:
                    is_over = True
                elif came.points is not None and len(came) and _is_wanted(came, names):
                    title = views.title({"name": came.name, "context": came.context})
                    curves.setdefault(title, Curve(title)).add(came.points)
            if is_over or time.monotonic() >= due:
                live.update(frame(is_over), refresh=True)
                due = time.monotonic() + _REDRAW_S
    if names and not curves:
        raise NotFound(f"Run {row['run']} has logged no metric called {' or '.join(names)}.")


def _screen(curves: list[Curve]) -> list[str]:
    """The lines of as many curves as there is room for."""
    if not curves:
        return ["", "no points yet"]
    rows = shutil.get_terminal_size((86, 24)).lines - 2
    shown = max(1, min(len(curves), rows // _PLOT_LINES))
    height = max(3, rows // shown - 4)
    lines: list[str] = []
    for curve in curves[:shown]:
        last = "" if curve.last is None else f"  {views.number(curve.last)}"
        lines += ["", f"{terminal.clean(curve.title)}{last}"]
        lines += fitting([curve.block()], curve.points.steps[-1], height=height)
    if shown < len(curves):
        lines.append(f"and {len(curves) - shown} more: choose with --metrics NAME")
    return lines


def _in_thread(coming: Iterator[Block]) -> Callable[[float], list[Block | None]]:
    """What takes all that has come within so many seconds; None stands at the end. A terminal is drawn also while nothing comes.

    Raises, when it is called: what the iterator has raised.
    """
    came: queue.SimpleQueue[outcome.Outcome[Block | None]] = queue.SimpleQueue()

    def run() -> None:
        def take() -> None:
            for block in coming:
                came.put(outcome.Value(block))

        ended = outcome.capture(take)
        came.put(ended)

    threading.Thread(target=run, name="matyan watch", daemon=True).start()

    def arrived(seconds: float) -> list[Block | None]:
        found: list[Block | None] = []
        try:
            found.append(came.get(timeout=seconds).unwrap())
            while found[-1] is not None:
                found.append(came.get_nowait().unwrap())
        except queue.Empty:
            pass
        return found

    return arrived
