"""What a batch will read is said before: nothing that a rule reads in the usual case costs a round trip of its own."""

from __future__ import annotations

from typing import Any

import pytest

from matyan._codec import unpack
from matyan.errors import Expired
from matyan.rules.records import KINDS
from matyan.rules.sequences import Layout
from tests.ledger import Ledger, metric, record
from tests.memory_store import DIRECTORIES, MemoryStore

layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])

MOMENT = "2026-01-02T03:04:05Z"
PAYLOADS: dict[str, list[dict[str, Any]]] = {
    "create_run": [{"client_datetime": MOMENT}],
    "finish_run": [{"client_datetime": MOMENT}],
    "set_run_property": [{"name": "n", "archived": True}, {"experiment": "e"}],
    "add_tag": [{"tag_name": "t"}],
    "remove_tag": [{"tag_name": "t"}],
    "log_hparams": [
        {"value": {"hparams": {"a": 1, "b": 2}}},
        {"value": {"hparams": {"a": 1}, "other": 2}},
        {"value": {"hparams": {"a": {"b": 1}}}},
    ],
    "blob_ref": [{"artifact_path": "a", "s3_key": "k"}],
    "log_custom_object": [
        {"name": "o", "value": {"a": 1}},
        {"name": "o", "value": {"a": 1}, "step": 3, "context": {"s": 1}},
    ],
    "log_terminal_line": [{"line": "l", "step": 1}],
    "log_record": [{"message": "m", "level": 20, "timestamp": 1.0}],
    "delete_run": [{}],
}
LATE = {"experiments", "tags", "experiment_runs", "tag_runs", "run_tags"}
"""Rows of an experiment or a tag, whose keys are known only when its name was read."""


def unsaid(ledger: Ledger, *values: bytes) -> list[tuple[Any, ...]]:
    """The keys that applying the records to this store reads, and that were not said before."""
    ledger.rules = ledger.make_rules()
    ledger.store.trips.clear()
    ledger.apply(*values)
    roots = sorted(DIRECTORIES.values())
    assert all(key[:1] in roots for key in ledger.store.trips)
    rows = [unpack(key, 1) for key in map(complete, ledger.store.trips)]
    return [row for row in rows if not LATE & set(row)]


def complete(key: bytes) -> bytes:
    """Without the byte behind a tuple that begins a range below it."""
    while True:
        try:
            unpack(key, 1)
        except ValueError:
            key = key[:-1]
        else:
            return key


def test_every_kind_is_listed() -> None:
    assert PAYLOADS.keys() == KINDS.keys()


@layouts
@pytest.mark.parametrize("kind", [*KINDS, "log_metric"])
def test_each_kind_reads_what_was_said(kind: str, layout: Layout) -> None:
    """Of new runs, of runs that are taken over, and of some in one batch."""

    def records(run: str) -> list[bytes]:
        if kind == "log_metric":
            contexts: list[Any] = [None, {"subset": "val"}]
            return [metric(name, 1.0, None, run, context=c) for name in "mn" for c in contexts]
        return [record(kind, run, **payload) for payload in PAYLOADS[kind]]

    ledger = Ledger(layout)
    assert unsaid(ledger, *records("a"), *records("b")) == []
    if kind != "delete_run":
        assert unsaid(ledger, *records("a"), *records("b"), *records("c")) == []


@layouts
def test_where_all_is_remembered_only_the_runs_are_asked_for(layout: Layout) -> None:
    """Each run's tombstone and owner, which another owner could have written."""
    ledger = Ledger(layout)
    values = [metric(f"m{i}", 1.0, 0, run) for run in "ab" for i in range(50)]
    ledger.apply(*values)
    reads: list[bytes] = []
    ledger.store.on_get = reads.append
    ledger.store.trips.clear()
    ledger.apply(*values)
    assert len(reads) == 4
    assert ledger.store.trips == []


@layouts
def test_a_cold_batch_of_many_sequences_is_in_time(layout: Layout) -> None:
    """3,000 sequences at half a millisecond a read: one after the other they would take longer than a transaction may."""

    def values(step: int) -> list[bytes]:
        return [metric(f"m{i}", 1.0, step, f"r{run}") for run in range(10) for i in range(300)]

    ledger = Ledger(layout)
    ledger.store = MemoryStore(round_trip_s=0.0005)
    for step in range(3):
        ledger.rules = ledger.make_rules()
        ledger.apply(*values(step))
    assert [row[0] for row in ledger.points("m7", run="r3")] == [0, 1, 2]
    assert ledger.store.now() < 0.2
    ledger.rules = ledger.make_rules()
    ledger.store.prefetches = False
    with pytest.raises(Expired):
        ledger.apply(*values(3))


def test_what_no_rule_would_take_is_passed_over() -> None:
    """Names and contexts of any type, keys over the limit: nothing is asked for that an engine would refuse."""
    ledger = Ledger()
    values = [
        metric("m" * 5_000, 1.0, 0),
        metric("m", 1.0, 0, "r" * 600),
        record("log_custom_object", name=5, value={}),
        record("log_custom_object", name="o", value={}, context=[1]),
        record("add_tag", tag_name=None),
        record("set_run_property", experiment=7),
        record("log_hparams", value=[1]),
        record("no_such_kind"),
    ]
    for value in values:
        with pytest.raises(Exception, match=r"expected|over the limit|no kind"):
            ledger.apply(value)
    assert ledger.store.rows == {}
