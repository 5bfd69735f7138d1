"""The reference's API, `matyan-backend` 0.3.0, on what our worker has stored, and our API on the same: route by route.

The store has the layout that the reference reads. It is served by the reference's own code with a map in memory in FoundationDB's
place (reference/), and by our tracker; where two answers differ, `comparison.MEANT` says why.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgpack
import pytest
import trio

from dev.environments import reference_backend
from dev.process import free_ports
from matyan.blobs.folder import FolderBlobs
from matyan.store.open import DATABASE
from matyan.store.rocks import open_rocks
from matyan.store.rocks.store import DIRECTORIES
from tests.api.changes import Session, steps
from tests.api.comparison import (
    KINDS,
    MEANT,
    Answer,
    Question,
    Server,
    altered,
    differences,
    reason_of,
)
from tests.api.logged import log_runs
from tests.api.questions import questions
from tests.needs import needed
from tests.tracker import running, started
from tests.until import wait_for

SERVE: Final = Path(__file__).parent / "reference" / "serve.py"
QUERIES: Final = (
    "run.active == True",
    "run.archived == True",
    "run.hparams.lr == 0.1",
    "run.hparams.opt.name == 'adam' and run.dataset.version > 1",
    "run.metrics['acc'].last > 400",
    "run.name.startswith('The')",
    "run.duration >= 0 and not run.active",
)
CHANGES: Final = 20
"""How often each answer is altered."""


async def dump(data: Path) -> bytes:
    """A stopped tracker's store and blobs, as reference/serve.py takes them."""
    blobs = FolderBlobs(data / "blobs", b"", 60)
    store = open_rocks(data / DATABASE)
    try:
        pairs = await store.read(lambda snap: list(snap.scan(b"", b"\xff")))
    finally:
        await store.aclose()
    found = {}
    async for page in blobs.pages():
        for listed in page:
            run, _, path = listed.key.partition("/")
            _, _, pieces = await blobs.open(run, path)
            found[listed.key] = b"".join([piece async for piece in pieces])
            await pieces.aclose()
    prefixes = {"/".join(path): prefix for path, prefix in DIRECTORIES.items()}
    packed: bytes = msgpack.packb({"directories": prefixes, "pairs": pairs, "blobs": found})
    return packed


@contextmanager
def reference(python: Path, file: Path) -> Iterator[Server]:
    """The reference's API on a dump."""
    (port,) = free_ports(1)
    with started([str(python), str(SERVE), "--port", str(port), str(file)]) as process:
        server = Server(f"http://127.0.0.1:{port}")

        def answers() -> bool:
            try:
                return server.ask(Question("version")).status == 200
            except OSError:
                return False

        wait_for(lambda: process.process.poll() is not None or answers())
        assert process.process.poll() is None, "".join(process.output)
        yield server


Compared = list[tuple[Question, Answer, Answer]]
"""Questions, their answers and ours."""


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Compared:
    python = needed(reference_backend, "MATYAN_TEST_REQUIRE_REFERENCE") / "python"
    folder = tmp_path_factory.mktemp("reference")
    data = folder / "data"
    compatible = {"MATYAN_SEQUENCE_LAYOUT": "compatible"}
    with running(data, **compatible) as tracker:
        log_runs(tracker.url, folder)
        assert tracker.stop() == 0, "".join(tracker.output)
    file = folder / "store.msgpack"
    file.write_bytes(trio.run(dump, data))
    with reference(python, file) as theirs, running(data, **compatible) as tracker:
        ours = Server(tracker.url)
        asked = questions(theirs, ("finished", "running"), QUERIES)
        found = [(question, theirs.ask(question), ours.ask(question)) for question in asked]
        sessions = Session(theirs), Session(ours)
        return found + [
            (step.question, sessions[0].take(step), sessions[1].take(step)) for step in steps()
        ]


def test_every_answer_is_the_reference_s_or_differs_as_it_is_meant(compared: Compared) -> None:
    """And each reason is still needed."""
    seen: Counter[str] = Counter()
    unexplained = []
    for question, theirs, ours in compared:
        for difference in differences(question, theirs, ours):
            reason = reason_of(question, difference)
            seen[reason or ""] += 1
            if reason is None:
                unexplained.append(f"{question}\n    {difference}")
    assert unexplained == [], "\n".join(unexplained)
    assert [reason for reason, _ in MEANT if not seen[reason]] == []


def test_there_was_something_to_compare(compared: Compared) -> None:
    """Most answers are the same, and whole; the others are refusals, or of what there is nothing of."""
    same = [one for one in compared if not differences(*one)]
    whole = [question for question, theirs, _ in same if theirs.status == 200 and theirs.content]
    assert len(whole) > 80, (len(compared), len(same), len(whole))
    assert {kind for kind in KINDS for one in whole if kind in one.path} == {*KINDS}


def test_an_altered_answer_is_seen(compared: Compared) -> None:
    """The negative control: whatever is changed in an answer that was the same is an unexplained difference."""
    dice = random.Random(20261127)

    def is_seen(question: Question, theirs: Answer, **changed: Any) -> bool:
        found = differences(question, theirs, replace(theirs, **changed))
        return None in {reason_of(question, one) for one in found}

    for question, theirs, ours in compared:
        if differences(question, theirs, ours):
            continue
        for _ in range(CHANGES):
            content = altered(theirs.content, dice)
            assert is_seen(question, theirs, content=content), (question, content)
        assert is_seen(question, theirs, status=500)
        if theirs.status < 400 and theirs.content is not None:
            assert is_seen(question, theirs, kind="text/plain")
        if question.ordered and len(theirs.content) > 1:
            turned = dict(reversed(theirs.content.items()))
            assert is_seen(question, theirs, content=turned)
