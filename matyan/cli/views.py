"""What the commands show: tables and colours in a terminal, tab-separated lines in a pipe. Plots are `plot.py`'s.

No store and no questions here: rows in, text out. rich is imported only where a terminal sees it.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matyan._codec import BLOBS
from matyan.service import json_text
from matyan.service.terminal import clean, is_utf8, takes_styles

Row = Mapping[str, Any]

_WIDE_COLUMNS = 120
"""From this many on the table of runs holds a generated id of 32 digits and a few words in each other cell."""
_LEAST_COLUMNS = 4
"""What a cell that may be broken is left with."""
_BESIDE_COLUMNS = 2
"""Between two columns, and at both ends together."""
_GENERATED = re.compile(r"[0-9a-f]{32}")


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
        whole: other columns whose cells are never broken; the first never is. Where there is no room for these, lines are longer than the
            terminal is wide: a number that is cut is another number.
        none: what a terminal says when there are no rows.
    """
    if not sys.stdout.isatty():
        for row in rows:
            print("\t".join(clean(cell) for cell in row))
        return
    from rich import box
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    unbroken = {columns[0], *right, *whole}
    cells = [[clean(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(columns, *cells, strict=True)]
    least = _BESIDE_COLUMNS + sum(
        (width if name in unbroken else min(width, _LEAST_COLUMNS)) + _BESIDE_COLUMNS
        for name, width in zip(columns, widths, strict=True)
    )
    for column in columns:
        drawn.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in unbroken,
            overflow="fold",
        )
    for row in cells:
        drawn.add_row(*map(Text, row))
    if drawn.rows or not none:
        Console(width=max(terminal_width(), least)).print(drawn)
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
    narrow = sys.stdout.isatty() and terminal_width() < _WIDE_COLUMNS
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
    _about(shown)
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
        _sequences(shown["sequences"])
    if shown.get("artifacts"):
        heading("Artifacts")
        artifacts(shown["artifacts"])


def _about(shown: Row) -> None:
    meta = shown["meta"]
    is_in = {"active": meta.get("active"), "archived": meta.get("is_archived")}
    table(
        ("run", shown["run"]),
        [
            ("name", meta.get("name")),
            *((("description", meta["description"]),) if meta.get("description") else ()),
            ("experiment", shown["experiment"] or "–"),
            ("tags", ", ".join(shown["tags"]) or "–"),
            ("state", state(is_in)),
            ("created", moment(meta.get("created_at"))),
            ("last record", moment(shown.get("last_record"))),
            ("duration", duration(meta.get("duration"))),
        ],
    )


def _sequences(rows: Iterable[Row]) -> None:
    table(
        ("name", "context", "type", "points", "last step", "last"),
        (
            (
                row["name"],
                json_text.dumps(row["context"], ascii=False) if row["context"] else "",
                row["dtype"],
                "unreadable" if row["points"] is None else row["points"],
                row["last_step"],
                number(row["last"]),
            )
            for row in rows
        ),
        right=("points", "last step", "last"),
    )


def artifacts(rows: Sequence[Row]) -> None:
    """A run's artifacts; where their bytes are kept elsewhere, nobody says how many there are."""
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


def tokens(rows: Iterable[Row]) -> None:
    table(
        ("name", "scopes", "state", "created", "expires", "quota"),
        (
            (
                row["name"],
                ",".join(row["scopes"]),
                row["state"],
                moment(row["created"]),
                moment(row["expires"]),
                row["quota"] or "",
            )
            for row in rows
        ),
        whole=("scopes", "state"),
        none="no tokens",
    )


def backups(rows: Iterable[Row]) -> None:
    """Backups of a data folder, and which of them cannot be used."""
    table(
        ("name", "moment", "files", "bytes", "new bytes", "store", "state"),
        (
            (
                row["name"],
                moment(row.get("moment")),
                *(or_none(row.get(name)) for name in ("files", "bytes", "new_bytes", "store")),
                row["state"],
            )
            for row in rows
        ),
        right=("files", "bytes", "new bytes"),
        whole=("moment",),
        none="no backups",
    )


def webhooks(rows: Iterable[Row]) -> None:
    table(
        ("name", "URL", "events"),
        ((row["name"], row["url"], ",".join(row["events"])) for row in rows),
        whole=("name",),
        none="no webhooks",
    )


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
