"""What is stored against what the training programs know: nothing acknowledged is lost, nothing stands twice, nothing is invented.

No I/O of its own but the reading of a store (`stored_run`): a test feeds it evidence.

What was acknowledged is promised. What the SDK had in its queue when its program died, and a frame that waited for its reply
when its connection closed, is the SDK's to lose: it stands there once or not at all.
Log records and lines are the witnesses of a record that was applied twice, since each is appended; points, whose step is
given, would lie on each other, and are counted in the topic (`topic_faults`).
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matyan import reader
from tests.faults.load import contradictions
from tests.soak.diary import Session, mark_of, metric_mark, value_of

DELIVERY_S = 300.0
"""How long a frontier goes on with what it kept (MATYAN_DELIVERY_TIMEOUT_S)."""


@dataclass
class Stored:
    """One run as a reader sees it."""

    marks: list[str] = field(default_factory=list)
    """Of all that stands in it, in the order in which it is read."""
    wrong: list[str] = field(default_factory=list)
    """Points that hold another value than was logged."""
    active: bool = True


@dataclass
class Book:
    """All that is known of one run by those who logged it."""

    run: str
    sessions: list[Session] = field(default_factory=list)

    @property
    def sent(self) -> set[str]:
        return set().union(*(one.sent for one in self.sessions))

    @property
    def acknowledged(self) -> set[str]:
        return set().union(*(one.acknowledged for one in self.sessions))

    def promised(self, kills: Mapping[int, Sequence[float]]) -> set[str]:
        """What a frontier kept and said so, and was not killed over it. kills: when each frontier was."""
        return {
            mark
            for one in self.sessions
            for when, marks in one.kept
            if not any(
                when <= killed <= when + DELIVERY_S for killed in kills.get(one.frontier, ())
            )
            for mark in marks
        }

    @property
    def is_quiet(self) -> bool:
        """Whether every frame was answered: none can have landed after the last one's `finish`."""
        return all(
            one.ended == "finished" and not one.unanswered and "finish" in one.acknowledged
            for one in self.sessions
        )


def books(sessions: Iterable[Session]) -> dict[str, Book]:
    found: dict[str, Book] = {}
    for one in sessions:
        found.setdefault(one.run, Book(one.run)).sessions.append(one)
    return found


def faults(book: Book, stored: Stored, kills: Mapping[int, Sequence[float]]) -> list[str]:
    """How a run contradicts what is known of it; empty when all is well."""
    counted = {mark for mark in book.acknowledged if mark != "finish"}
    logged = set().union(*(one.logged for one in book.sessions))
    # The frontier tells of an artifact when it signs its upload: one whose program died over it is named all the same.
    signed = {mark for mark in logged if mark.startswith("artifact ")}
    found = contradictions(counted, book.sent | signed, stored.marks)
    kept = book.promised(kills) - counted - {"finish"} - set(stored.marks)
    if kept:
        found.append(f"{len(kept)} kept by a frontier and lost: {sorted(kept)[:5]}")
    unlogged = {mark for mark in book.sent - logged if mark != "finish"}
    if unlogged:
        found.append(f"{len(unlogged)} sent and never logged: {sorted(unlogged)[:5]}")
    found += stored.wrong[:5]
    refused = [text for one in book.sessions for text in one.refused]
    found += [f"refused: {text}" for text in refused[:3]]
    if book.is_quiet and stored.active:
        found.append("it has finished and is active")
    return [f"{book.run}: {one}" for one in found]


def topic_faults(records: Iterable[Mapping[str, Any]]) -> list[str]:
    """What stands twice in the topic: what the frontiers handed over twice."""
    times: dict[str, Counter[str]] = defaultdict(Counter)
    for record in records:
        message = {"type": record["type"], **record["payload"]}
        mark = mark_of(message)
        # A tag may be added again, a run finishes once a session, and a blob's key is told by frontier and client.
        if mark and not mark.startswith(("tag ", "finish", "artifact ")):
            times[str(record["run_id"])][mark] += 1
    twice = {
        run: sorted(mark for mark, often in marks.items() if often > 1)
        for run, marks in times.items()
    }
    return [
        f"{run}: {len(some)} twice in the topic: {some[:5]}" for run, some in twice.items() if some
    ]


def stored_run(opened: reader.Reader, run: str) -> Stored:
    """
    Raises:
        NotFound: there is no such run.
    """
    shown = opened.show(run)
    stored = Stored(active=bool(shown["meta"]["active"]))
    stored.marks += [f"tag {tag}" for tag in shown["tags"]]
    stored.marks += [f"attribute {name}" for name in shown["attrs"].get("soak", {})]
    stored.marks += [f"artifact {one['path']}" for one in opened.artifacts(run)]
    for block in opened.blocks(run):
        if block.points is not None:
            for step, value in zip(block.points.steps, block.points.values, strict=True):
                mark = metric_mark(block.name, block.context, step)
                stored.marks.append(mark)
                if value != value_of(run, mark):
                    stored.wrong.append(f"{mark} is {value!r} and not {value_of(run, mark)!r}")
        elif block.name == "logs":
            stored.marks += [f"line {value}" for _, _, _, value in block.objects or []]
        elif block.name == "__log_records":
            stored.marks += [f"record {value['message']}" for _, _, _, value in block.objects or []]
        else:
            stored.marks += [f"object {block.name} {step}" for step, _, _, _ in block.objects or []]
    return stored


def parsed(values: Iterable[bytes | None]) -> Iterable[Mapping[str, Any]]:
    """The records of the topic but those that delete a run."""
    for value in values:
        record = json.loads(value or b"{}")
        if record.get("type") not in (None, "delete_run"):
            yield record
