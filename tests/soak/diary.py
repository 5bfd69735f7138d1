"""What one training program knows of its run, in a file that outlives it: what it logs, each frame, each reply.

One JSON array a line, each written at once by one `write`, so that whoever is killed has written it:

    ["log", mark]           before the SDK is called
    ["frame", n, [mark…]]   before the frame goes into the socket, once, however often the SDK sends it
    ["ok", n]               the frontier's reply: all of it is stored or will be
    ["kept", n, time]       the reply after 40 s: not stored yet, still being delivered
    ["refused", n, text]    any other reply
    ["end", text]           how the program ended by itself

A mark names one thing that is logged, and is unique in its run.
"""

from __future__ import annotations

import json
import os
import time
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

KEPT = "not stored yet"
"""How the reply of a frame begins that is kept and still being delivered."""


def mark_of(message: dict[str, Any]) -> str | None:
    """The mark of a message as the SDK sends it; None: it is not counted (create_run, a name)."""
    match message:
        case {"type": "log_metric", "name": name, "step": step, "context": context}:
            return metric_mark(name, context, step)
        case {"type": "log_custom_object", "name": name, "step": step}:
            return f"object {name} {step}"
        case {"type": "log_terminal_line", "line": line}:
            return f"line {line}"
        case {"type": "log_record", "message": text}:
            return f"record {text}"
        case {"type": "log_hparams", "value": {"soak": values}}:
            return f"attribute {next(iter(values))}"
        case {"type": "add_tag", "tag_name": tag}:
            return f"tag {tag}"
        case {"type": "blob_ref", "artifact_path": path}:
            return f"artifact {path}"
        case {"type": "finish_run"}:
            return "finish"
    return None


def metric_mark(name: str, context: dict[str, Any] | None, step: int) -> str:
    return f"metric {name}/{(context or {}).get('subset', '')} {step}"


def value_of(run: str, mark: str) -> float:
    """What a metric's point holds: unlike any other's."""
    return zlib.crc32(f"{run}/{mark}".encode()) / 1e3


def content_of(run: str, path: str) -> bytes:
    """The bytes of an artifact."""
    return f"{run}/{path}\n".encode() * 400


class Diary:
    """The file while it is written; from any thread."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        self._frames = 0

    def _write(self, *entry: object) -> None:
        os.write(self._file, json.dumps(entry).encode() + b"\n")

    def log(self, mark: str) -> None:
        self._write("log", mark)

    def frame(self, messages: Iterable[dict[str, Any]]) -> int:
        """A frame with these messages is about to be sent; its number."""
        number, self._frames = self._frames, self._frames + 1
        self._write("frame", number, [mark for one in messages if (mark := mark_of(one))])
        return number

    def reply(self, number: int, text: str | bytes) -> None:
        said = json.loads(text)
        if said == {"status": "ok", "error": None}:
            self._write("ok", number)
        elif str(said.get("error")).startswith(KEPT):
            self._write("kept", number, time.time())
        else:
            self._write("refused", number, str(said.get("error"))[:300])

    def end(self, how: str) -> None:
        self._write("end", how)


@dataclass
class Session:
    """One training program's diary, read."""

    run: str
    number: int
    frontier: int
    """Which of the frontiers it talked to."""
    logged: set[str] = field(default_factory=set)
    sent: set[str] = field(default_factory=set)
    acknowledged: set[str] = field(default_factory=set)
    kept: list[tuple[float, set[str]]] = field(default_factory=list)
    """When the frontier said so, and what of."""
    refused: list[str] = field(default_factory=list)
    unanswered: int = 0
    """Frames that nobody answered: the connection or the program ended first."""
    ended: str = ""


def name_of(run: str, session: int, frontier: int) -> str:
    """The name of a diary's file."""
    return f"{run}.{session}.{frontier}.diary"


def read(path: Path) -> Session:
    run, session, frontier, _ = path.name.split(".")
    return parse(Session(run, int(session), int(frontier)), path.read_text().splitlines())


def parse(session: Session, lines: Sequence[str]) -> Session:
    frames: dict[int, set[str]] = {}
    open_frames: set[int] = set()
    for line in lines:
        kind, *rest = json.loads(line)
        if kind == "log":
            session.logged.add(rest[0])
        elif kind == "frame":
            frames[rest[0]] = set(rest[1])
            open_frames.add(rest[0])
            session.sent |= frames[rest[0]]
        elif kind == "end":
            session.ended = rest[0]
        else:
            open_frames.discard(rest[0])
            if kind == "ok":
                session.acknowledged |= frames[rest[0]]
            elif kind == "kept":
                session.kept.append((rest[1], frames[rest[0]]))
            else:
                session.refused.append(rest[1])
    session.unanswered = len(open_frames)
    return session
