"""What a place is that takes runs: connections for frames, uploads, and what it knows of a run. What its reply to a frame means.

No I/O here. The places: `url`, `folder`.
"""

from __future__ import annotations

import json
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

from matyan._codec import LINES, LOG_RECORDS
from matyan.errors import MatyanError, NotFound
from matyan.moving.moved import MovedBlob
from matyan.reader.reading import Reader


class Standing(NamedTuple):
    """What a target has of a run: how many lines and records, and when its meta was last changed, in epoch seconds."""

    lines: int
    records: int
    updated_at: float


class Connection(Protocol):
    """Frames of one run to a target, in order, and its replies."""

    async def send(self, frame: bytes) -> None:
        """
        Raises:
            Unavailable: the connection broke; what was not answered has come, or not.
        """
        ...

    async def reply(self) -> bytes:
        """The next one.

        Raises:
            Unavailable: as `send`.
        """
        ...


class Target(Protocol):
    """Where runs go. str(): its name, without secrets.

    Every call raises Unavailable where the target is away for now, and ConfigurationError where it will never take anything.
    """

    can_tell: bool
    """Whether `standing` can be asked; known once `open` has returned."""

    async def open(self) -> None:
        """Says hello: whatever makes the whole move impossible is raised here."""
        ...

    def connect(self, run: str) -> AbstractAsyncContextManager[Connection]: ...

    async def standing(self, run: str) -> Standing | None:
        """None: there is no such run."""
        ...

    async def put(self, run: str, blob: MovedBlob) -> None:
        """Uploads a blob; its `blob_ref` is the caller's.

        Raises:
            NotFound: there are no bytes of it.
            Refused: the target will not have it.
        """
        ...


class Refused(MatyanError):
    """A run or a blob that a target will not have, whatever is tried: the others go on. str() is a sentence."""


class Outcome(Enum):
    """What became of a frame."""

    TAKEN = auto()
    """But for the items that the answer names."""
    KEPT = auto()
    """Taken, and not stored yet."""
    NOT_TAKEN = auto()
    """Nothing of it: the same may be sent again later."""
    PERHAPS = auto()
    """Nobody knows what of it has come."""
    ONE_BAD = auto()
    """One of its messages was refused, and nobody says which."""
    NEVER = auto()
    """The run cannot be written there."""


@dataclass(frozen=True, slots=True)
class Answer:
    outcome: Outcome
    reason: str = ""
    rejected: int = 0
    """How many of the items were."""
    named: list[tuple[str, str]] = field(default_factory=list)
    """Kind and reason of the first of these."""


def answer(reply: bytes, count: int) -> Answer:
    """What a reply (contract, section 1) to a frame of `count` messages says."""
    try:
        said = json.loads(reply)
        status, error = said["status"], said.get("error") or ""
    except (ValueError, KeyError, TypeError, AttributeError):
        return Answer(Outcome.PERHAPS, "what came is no reply of a tracker")
    if status == "ok":
        return Answer(Outcome.TAKEN)
    error = str(error)
    accepted = said.get("accepted")
    named = [
        (str(one.get("type")), str(one.get("reason")))
        for one in said.get("rejected") or ()
        if isinstance(one, dict)
    ]
    rejected = count - accepted if isinstance(accepted, int) else len(named)
    if error.startswith("not stored yet:"):
        return Answer(Outcome.KEPT, error, rejected, named)
    if error.startswith("refused, not stored:"):
        return Answer(Outcome.NOT_TAKEN, error)
    if error.startswith("not stored:"):
        gone = "was deleted" in error
        return Answer(Outcome.NEVER if gone else Outcome.PERHAPS, error)
    if isinstance(accepted, int):
        return Answer(Outcome.TAKEN, error, rejected, named)
    if "publish error" in error:  # the reference's frontier, whose broker is away
        return Answer(Outcome.PERHAPS, error)
    if count == 1:
        return Answer(Outcome.TAKEN, error, 1, [("", error)])
    return Answer(Outcome.ONE_BAD, error)


def standing_of(reader: Reader, run: str) -> Standing | None:
    """What a reader of the target says."""
    try:
        shown = reader.show(run)
    except NotFound:
        return None
    if shown["run"] != run:  # the only one that begins so
        return None
    counts = {one["name"]: one["points"] or 0 for one in shown["sequences"] if not one["context"]}
    changed = shown["meta"].get("updated_at")
    return Standing(counts.get(LINES, 0), counts.get(LOG_RECORDS, 0), float(changed or 0.0))
