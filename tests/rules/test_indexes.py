"""Index rows and their twins."""

from __future__ import annotations

from typing import Any

import pytest

from matyan.rules import indexes
from tests.ledger import Ledger, record

pytestmark = pytest.mark.usefixtures("bodies")


def test_runs_are_found_by_fact_in_key_order_and_backwards() -> None:
    """A bool is no int: each archived state is a range of its own; so is the beginning of a fact."""
    ledger = Ledger()
    for run in "cab":
        ledger.apply(record("create_run", run, "abc".index(run)))
    ledger.apply(record("set_run_property", "b", archived=True))
    ledger.apply(record("add_tag", "a", tag_name="t"), record("add_tag", "c", tag_name="tt"))

    def under(*fact: object, **options: Any) -> list[str]:
        return ledger.store.look(
            lambda snap: [*indexes.runs_under(snap, ledger.keys, *fact, **options)]
        )

    assert under("archived", False) == ["a", "c"]
    assert under("archived", True) == ["b"]
    assert under("tag", "t") == ["a"]
    assert under("tag") == ["a", "c"]
    assert under("created_at") == ["a", "b", "c"]
    assert under("created_at", reverse=True) == ["c", "b", "a"]
    assert under("tag", "nobody") == []


def test_dropping_all_that_begins_so_leaves_the_rest() -> None:
    """Of this run and of others, in both directions of the twins."""
    ledger = Ledger()
    for run in "r", "rr":
        ledger.apply(record("log_hparams", run, value={"hparams": {"a": 1, "aa": 2}}))
    facts = ledger.facts()

    def body(tr: Any) -> None:
        indexes.drop_all(ledger.rows(tr, "r"), "hparam", "a")

    ledger.store.commit(body)
    assert ledger.facts() == facts - {("hparam", "a", 1)}
    assert ledger.facts("rr") >= {("hparam", "a", 1), ("hparam", "aa", 2)}
