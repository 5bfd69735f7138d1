"""Where each read takes a round trip, a search says before what it will read: of many runs at once."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from matyan._codec import pack
from matyan.api import search
from matyan.api.query import parse
from matyan.api.runs import View
from matyan.rules.sequences import Sequences
from tests.ledger import Ledger, metric, record

RUNS = 200


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    ledger = Ledger()
    for number in range(RUNS):
        run = f"run{number}"
        ledger.apply(
            record("create_run", run, number, client_datetime="2026-01-02T03:04:05Z"),
            record("set_run_property", run, number, experiment="e", name=f"n{number}"),
            record("log_hparams", run, number, value={"hparams": {"lr": number, "text": "x"}}),
            record("add_tag", run, number, tag_name="t"),
            metric("loss", number, 0, run, number),
        )
    return ledger


@pytest.mark.parametrize(
    ("text", "options", "matches"),
    [
        ("", {}, RUNS),
        ("", {"limit": 45}, 45),
        ("", {"sort": (("run", False),), "limit": 45}, 45),
        ("", {"sort": (("experiment", False), ("duration", True)), "limit": 45}, 45),
        ("run.hparams.lr * 2 < 0", {}, 0),
        ("run.hparams.lr * 2 < 4", {}, 2),
        ("run['hparams']['lr'] >= 0", {}, RUNS),
        ("run.metrics['loss'].last * 2 < 0", {}, 0),
        ("run.duration is None or 't' in run.tags and run.experiment != 'e'", {}, 0),
    ],
)
def test_runs_are_read_many_at_once(
    ledger: Ledger, text: str, options: dict[str, Any], matches: int
) -> None:
    ledger.store.trips.clear()
    query = parse(text, subject=None)
    body = partial(search_all, ledger, query, options)
    found = ledger.store.look(body)
    assert found == matches
    assert of_runs(ledger) == []


def test_metrics_are_read_many_at_once(ledger: Ledger) -> None:
    """But for their points."""
    ledger.store.trips.clear()
    query = parse("metric.name != 'loss' and run.hparams.lr > 0", subject="metric")

    def body(snap: Any) -> int:
        return len(b"".join(search.metrics(view_of(ledger, snap), query, reported=False)))

    assert ledger.store.look(body) == 0
    assert of_runs(ledger) == []


def view_of(ledger: Ledger, snap: Any) -> View:
    return View(snap, ledger.keys, Sequences(ledger.keys, ledger.layout))


def search_all(ledger: Ledger, query: Any, options: dict[str, Any], snap: Any) -> int:
    found = search.runs(view_of(ledger, snap), query, reported=False, **options)
    return sum(1 for piece in found if piece)


def of_runs(ledger: Ledger) -> list[bytes]:
    """Trips for a run's rows, its experiment and its tags."""
    system = (pack((name,), ledger.keys.system) for name in ("run_experiment", "run_tags"))
    rows = (ledger.keys.runs, *system)
    return [key for key in ledger.store.trips if key.startswith(rows)]
