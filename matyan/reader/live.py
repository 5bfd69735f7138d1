"""What a run logs while it goes on: asked for again and again, each time behind what was seen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, Protocol

from matyan._codec import LINES
from matyan.errors import Unavailable
from matyan.reader.blocks import Block, block
from matyan.rules import contexts

_FIRST_POLL_S: Final = 0.2
_LONGEST_POLL_S: Final = 1.0
"""A pause grows while nothing comes."""
_AWAY_S: Final = 30.0
"""How long a process that answered before may be away: one that is restarted comes back."""


class Asks(Protocol):
    def ask(self, op: str, **arguments: Any) -> Iterator[Any]: ...


Place = tuple[int, str]


def follow(reader: Asks, run: str, *, from_now: bool) -> Iterator[Block]:
    """See `Reader.follow`."""
    seen: dict[Place, int] = {}
    lines: dict[Place, object] = {}
    if from_now:
        for row in reader.ask("news", run=run, seen=None):
            if "place" in row:
                is_line = (row["place"], row["name"]) == (contexts.EMPTY, LINES)
                # The last line of a terminal is asked for again: it may have grown.
                seen[row["place"], row["name"]] = row["step"] + is_line
    pause, away_since = _FIRST_POLL_S, None
    while True:
        came = is_over = False
        try:
            for row in reader.ask(
                "news", run=run, seen=[[*place, at] for place, at in seen.items()]
            ):
                if "place" not in row:
                    is_over = not row["active"]
                    continue
                place = row["place"], row["name"]
                piece = block(row)
                if _is_told(lines, place, piece):
                    continue
                seen[place] = max(seen.get(place, _last(piece)), _last(piece))
                came = True
                yield piece
            away_since = None
        except Unavailable:
            now = time.monotonic()
            away_since = away_since or now
            if now - away_since > _AWAY_S:
                raise
        if is_over:
            return
        pause = _FIRST_POLL_S if came else min(2 * pause, _LONGEST_POLL_S)
        time.sleep(pause)


def _last(piece: Block) -> int:
    if piece.points is not None:
        return piece.points.steps[-1]
    assert piece.objects is not None
    return piece.objects[-1][0]


def _is_told(lines: dict[Place, object], place: Place, piece: Block) -> bool:
    """Whether it is the last line of a terminal, as it was told before."""
    if piece.name != LINES or not piece.objects:
        return False
    step, _, _, text = piece.objects[-1]
    is_told = lines.get(place) == (step, text)
    lines[place] = step, text
    return is_told
