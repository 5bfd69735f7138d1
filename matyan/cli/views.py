"""What the commands show: tables and colours in a terminal, tab-separated lines in a pipe.

No store and no questions here: rows in, text out. rich is imported only where a terminal sees it.
"""

from __future__ import annotations

import difflib
import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matyan._codec import BLOBS
from matyan.errors import NotFound
from matyan.reader import Block
from matyan.service import json_text
from matyan.service.terminal import clean, is_utf8, takes_styles

Row = Mapping[str, Any]

# From this many columns on the table of runs holds a generated id of 32 digits and a few words in each other cell.
_WIDE = 120
_GENERATED = re.compile(r"[0-9a-f]{32}")

# Braille cells hold 2 x 4 dots; the bit of each, by column and row from the top (Unicode 15, U+2800).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK = 0x2800
# The same for an encoding that has no braille.
_PLAIN: dict[int, str] = {
    _BLANK: " ",
    **dict.fromkeys(range(_BLANK + 1, _BLANK + 0x100), "*"),
    ord("┤"): "|",
    ord("└"): "+",
    ord("─"): "-",
}
_HALF_OF_LARGEST = sys.float_info.max / 2
# So many names of metrics stand in one sentence.
_NAMED = 20
# Among so many the near ones are looked for.
_COMPARED = 10_000
_LABELS = len("-1.79769e+308 ┤")
_NARROWEST_PLOT, _WIDEST_PLOT = 8, 100


def duration(seconds: float | None) -> str:
    """Seconds as "850 ms", "12.3 s", "4 min 05 s", "3 h 12 min" or "2 d 04 h"."""
    if seconds is None:
        return "–"
    if not math.isfinite(seconds):
        return str(seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    return f"{hours // 24} d {hours % 24:02d} h"


def moment(epoch_seconds: float | None) -> str:
    """A time of day in the reader's time zone."""
    if epoch_seconds is None:
        return "–"
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(epoch_seconds))
    except (OSError, OverflowError, ValueError):
        return str(epoch_seconds)  # no clock shows it


def number(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else clean(value)


def state(row: Row) -> str:
    words = "active" if row["active"] else "finished"
    return words + ", archived" if row["archived"] else words


def as_json(value: object) -> None:
    print(json_text.dumps(value, indent=2, ascii=not is_utf8(sys.stdout)))


def json_lines(rows: Iterable[Row]) -> None:
    """One object a line."""
    for row in rows:
        print(json_text.dumps(row, ascii=not is_utf8(sys.stdout)))


def table(
    columns: Sequence[str],
    rows: Iterable[Iterable[object]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
    none: str = "",
) -> None:
    """A table in a terminal, lines with tabs and without a heading in a pipe.

    Args:
        right: the columns of numbers.
        whole: other columns whose cells are never broken; the first never is.
        none: what a terminal says when there are no rows.
    """
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(clean(cell) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for column in columns:
        drawn.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in (columns[0], *right, *whole),
            overflow="fold",
        )
    for row in rows:
        drawn.add_row(*(Text(clean(cell)) for cell in row))
    if drawn.rows or not none:
        Console().print(drawn)
    else:
        print(none)


def heading(text: str) -> None:
    bold = f"\x1b[1m{clean(text)}\x1b[0m" if takes_styles(sys.stdout) else clean(text)
    print(f"\n{bold}" if sys.stdout.isatty() else f"# {clean(text)}")


def terminal_width() -> int:
    return shutil.get_terminal_size((86, 24)).columns


def title(sequence: Row) -> str:
    """A sequence's name with its context, such as loss {"subset": "train"}."""
    context = json_text.dumps(sequence["context"], ascii=False) if sequence["context"] else ""
    return f"{sequence['name']} {context}".rstrip()


def run_id(run: str) -> str:
    """A run's id; of a generated one a narrow terminal shows the beginning, which every command takes."""
    narrow = sys.stdout.isatty() and terminal_width() < _WIDE
    return run[:12] if narrow and _GENERATED.fullmatch(run) else run


def runs(rows: Iterable[Row], *, counts: bool = False) -> None:
    counted = ("sequences", "points") if counts else ()
    table(
        ("run", "name", "experiment", "tags", "state", "duration", "last record", *counted),
        (
            (
                run_id(row["run"]),
                row["name"] or "",
                row["experiment"] or "",
                ", ".join(row["tags"]),
                state(row),
                duration(row["duration"]),
                moment(row.get("last_record")),
                *(row[name] for name in counted),
            )
            for row in rows
        ),
        right=("duration", *counted),
        whole=("state",),
        none="no runs",
    )


def show(shown: Row) -> None:
    meta = shown["meta"]
    table(
        ("run", shown["run"]),
        [
            ("name", meta.get("name")),
            *((("description", meta["description"]),) if meta.get("description") else ()),
            ("experiment", shown["experiment"] or "–"),
            ("tags", ", ".join(shown["tags"]) or "–"),
            (
                "state",
                state(
                    {
                        "active": meta.get("active"),
                        "archived": meta.get("is_archived"),
                    }
                ),
            ),
            ("created", moment(meta.get("created_at"))),
            ("last record", moment(shown.get("last_record"))),
            ("duration", duration(meta.get("duration"))),
        ],
    )
    attributes = dict(shown["attrs"])
    blobs = attributes.get(BLOBS)
    # An attribute of that name that another program wrote is one like any other.
    if isinstance(blobs, dict) and all(isinstance(blob, dict) for blob in blobs.values()):
        del attributes[BLOBS]
    if attributes:
        heading("Parameters")
        table(("parameter", "value"), _leaves(attributes))
    if shown["sequences"]:
        heading("Sequences")
        table(
            ("name", "context", "type", "points", "last step", "last"),
            (
                (
                    sequence["name"],
                    json_text.dumps(sequence["context"], ascii=False)
                    if sequence["context"]
                    else "",
                    sequence["dtype"],
                    "unreadable" if sequence["points"] is None else sequence["points"],
                    sequence["last_step"],
                    number(sequence["last"]),
                )
                for sequence in shown["sequences"]
            ),
            right=("points", "last step", "last"),
        )
    if shown.get("artifacts"):
        heading("Artifacts")
        artifacts(shown["artifacts"])


def artifacts(rows: Sequence[Row]) -> None:
    """A run's artifacts; who holds the bytes of them elsewhere does not say how many there are."""
    sized = all("bytes" in row for row in rows)
    table(
        ("path", "bytes", "type") if sized else ("path", "type"),
        (
            (
                row["path"],
                *(("no bytes" if row["bytes"] is None else row["bytes"],) if sized else ()),
                row["content_type"],
            )
            for row in rows
        ),
        right=("bytes",),
        none="no artifacts",
    )


def _leaves(tree: Any, path: str = "") -> Iterable[tuple[str, str]]:
    if isinstance(tree, dict) and tree:
        for key, value in tree.items():
            yield from _leaves(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, json_text.dumps(tree, ascii=False)


_LEVELS = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "critical"}
_COLOURS = {"warning": "33", "error": "31", "critical": "1;31", "debug": "2"}


def logs(rows: Iterable[Row]) -> None:
    """One line a log record or terminal line, by time."""
    is_terminal, styled = sys.stdout.isatty(), takes_styles(sys.stdout)
    for row in rows:
        known = _LEVELS.get(row["level"], row["level"]) if row["kind"] == "record" else "line"
        level, message = clean(known), clean(row["message"])
        if is_terminal:
            head = f"{clean(moment(row['time']))} {level:>8}"
            if styled:
                head = f"\x1b[2m{head}\x1b[0m"
                if colour := _COLOURS.get(level):
                    message = f"\x1b[{colour}m{message}\x1b[0m"
            print(f"{head}  {message}")
        else:
            print(f"{row['time']!r}\t{level}\t{message}")


def dead_letters(rows: Iterable[Row]) -> None:
    table(
        ("id", "topic", "partition", "offset", "run", "type", "bytes", "error"),
        (
            (
                row["id"],
                row["topic"],
                row["partition"],
                row["offset"],
                row["run"] or "",
                row["type"] or "",
                row["size"],
                f"{row['error_class']}: {row['error_text']}",
            )
            for row in rows
        ),
        right=("id", "partition", "offset", "bytes"),
        none="no dead letters",
    )


def or_none(value: object) -> object:
    """A dash in place of None."""
    return "–" if value is None else value


def topics(rows: Iterable[Row]) -> None:
    """Kafka's topics, a verdict on each."""
    table(
        (
            "topic",
            "partitions",
            "replication",
            "max.message.bytes",
            "min.insync.replicas",
            "verdict",
        ),
        (
            (
                row["topic"],
                row["partitions"],
                row["replication"],
                or_none(row["max.message.bytes"]),
                or_none(row["min.insync.replicas"]),
                "wrong" if row["trouble"] else "could be safer" if row["advice"] else "ok",
            )
            for row in rows
        ),
        right=("partitions", "replication", "max.message.bytes", "min.insync.replicas"),
    )


def offsets(rows: Iterable[Row]) -> None:
    """Where each partition stands; and what it brought for deleted runs, when there is some."""
    rows = [*rows]
    names = ["partition", "stored", "committed", "end", "lag"]
    if any(row["dropped"] for row in rows):
        names.append("dropped")
    table(names, ((or_none(row[name]) for name in names) for row in rows), right=names)


# In the empty context these names are the logs' (contract, section 4).
_LOG_NAMES = {"logs": "terminal lines", "__log_records": "log records"}


def called(shown: Row, name: str) -> list[Row]:
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
            f"{name!r} is no metric but the {_LOG_NAMES[name]} of run {run}; `matyan logs {run}` prints them"
        )
    names = sorted({one["name"] for one in others})
    near = difflib.get_close_matches(name, names[:_COMPARED], n=_NAMED, cutoff=0.5)
    told = ", ".join(near + [one for one in names if one not in near][: _NAMED - len(near)])
    rest = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    raise NotFound(f"run {run} has no metric {name!r}; it has: {told or 'none'}{rest}")


def draw(blocks: Iterable[Block], last_step: int | None) -> None:
    """Prints a plot of one metric that fits the terminal, or why there is none."""
    width = min(_WIDEST_PLOT, terminal_width() - _LABELS)
    if width < _NARROWEST_PLOT:
        print(f"(a plot needs {_LABELS + _NARROWEST_PLOT} columns)")
        return
    text = "\n".join(plot(blocks, last_step, width=width))
    try:
        text.encode(sys.stdout.encoding)
    except UnicodeEncodeError:
        text = text.translate(_PLAIN)
    print(text)


def plot(
    blocks: Iterable[Block], last_step: int | None, *, width: int = 72, height: int = 12
) -> list[str]:
    """Lines of a plot of one metric in braille dots: the mean of each column's finite values, over the steps.

    Reads `blocks` once and keeps two numbers a column, whatever the number of points.
    """
    columns = width * 2
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
    dots = [
        (column, mean)
        for column, (mean, count) in enumerate(zip(means, counts, strict=True))
        if count
    ]
    if not dots or first_step is None:
        return ["(no finite numbers)"]
    low = min(value for _, value in dots)
    high = max(value for _, value in dots)
    # So that neither the span nor a distance is infinite; where it matters what half of a float loses, nothing is halved.
    half = 0.5 if high / 2 - low / 2 > _HALF_OF_LARGEST else 1.0
    span = (high * half - low * half) or 1.0
    cells = [[_BLANK] * width for _ in range(height)]
    above: int | None = None
    for column, value in dots:
        row = round((high * half - value * half) / span * (height * 4 - 1))
        for dot in _between(above, row):
            cells[dot // 4][column // 2] |= _DOTS[column % 2][dot % 4]
        above = row
    margin = max(len(number(low)), len(number(high)))
    lines = []
    for index, line in enumerate(cells):
        label = {height - 1: number(low), 0: number(high)}.get(index, "")
        lines.append(f"{label:>{margin}} ┤{''.join(map(chr, line))}")
    first, last = str(first_step), str(last_step)
    lines.append(f"{' ' * margin} └{'─' * width}")
    if len(first) + 1 + len(last) <= width:
        lines.append(f"{' ' * margin}  {first} {last.rjust(width - len(first) - 1)}")
    else:
        # One above the other, from the plot's left end and to its right one where there is room for it.
        whole = margin + 2 + width
        lines += [f"{' ' * min(margin + 2, whole - len(first))}{first}", last.rjust(whole)]
    return lines


def _between(above: int | None, row: int) -> range:
    """The dots of this column: from next to the last column's to this one's, so that the line is whole."""
    if above is None or abs(above - row) <= 1:
        return range(row, row + 1)
    return range(row, above) if row < above else range(above + 1, row + 1)
