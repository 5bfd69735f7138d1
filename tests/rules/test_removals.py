"""A deleted experiment or tag leaves nothing behind, however often its deletion was broken off; a restored run meets none of its past."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan.broker.base import ControlEvent
from matyan.keys import pack_value
from matyan.rules import entities, removals, runs
from matyan.store.base import exhausted
from tests.ledger import Ledger, metric, record
from tests.rules.audit import findings
from tests.rules.test_entities import FAMILIES, id_of, join

pytestmark = pytest.mark.usefixtures("bodies")


def steps(ledger: Ledger, family: str, uuid: str, most: int, times: int) -> bool:
    """Some transactions of a deletion; returns whether it goes on."""

    def body(tr: Any) -> bool:
        return bool(exhausted(removals.parting(tr, ledger.keys, family, uuid, 9.5, most)))

    goes_on = True
    while goes_on and times:
        goes_on, times = ledger.store.commit(body), times - 1
    return goes_on


def remove(ledger: Ledger, family: str, name: str) -> str:
    """What the API does in its own transaction."""
    uuid = id_of(ledger, family, name)
    assert uuid is not None
    ledger.store.commit(lambda tr: entities.remove(tr, ledger.keys, family, uuid))
    return uuid


def names_of(ledger: Ledger, family: str, run: str) -> list[str]:
    if family == "tags":
        return ledger.tags(run)
    name = ledger.experiment(run)
    return [] if name is None else [name]


def rows_with(ledger: Ledger, *needles: str) -> list[tuple[str, bytes]]:
    return [
        place
        for place, value in ledger.dump().items()
        if any(needle.encode() in place[1] + value for needle in needles)
    ]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_deleted_is_gone_at_once_and_its_rows_by_and_by(family: str) -> None:
    """From the runs, the index and everywhere; the others keep theirs."""
    ledger = Ledger()
    ledger.apply(*(join(family, f"r{n}", "gone") for n in range(5)), join(family, "s", "kept"))
    if family == "tags":
        ledger.apply(join(family, "r0", "kept"))
    uuid = remove(ledger, family, "gone")
    assert id_of(ledger, family, "gone") is None
    assert names_of(ledger, family, "r1") == []
    assert steps(ledger, family, uuid, 2, times=2), "five runs take three transactions of two"
    assert not steps(ledger, family, uuid, 2, times=9)
    assert rows_with(ledger, uuid, "gone") == []
    kept = ["kept"] if family == "tags" else []
    assert names_of(ledger, family, "r0") == kept
    assert names_of(ledger, family, "s") == ["kept"]
    assert ledger.counts(family) == {"kept": 1 + len(kept)}
    assert findings(ledger) == []
    if family == "experiments":
        assert ledger.meta("r0")["experiment_id"] is None
        assert ledger.meta("r0")["updated_at"] == 9.5
    before = ledger.dump()
    assert not steps(ledger, family, uuid, 2, times=1)
    assert ledger.dump() == before, "once more changes nothing"


@pytest.mark.parametrize("at", [0.0, 7.0], ids=["by the same record", "by a later one"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_that_comes_again_meets_none_of_the_old_rows(family: str, at: float) -> None:
    """Whether it comes before the runs have left, in between or afterwards."""
    ledger = Ledger()
    ledger.apply(*(join(family, f"r{n}", "x") for n in range(4)))
    uuid = remove(ledger, family, "x")
    ledger.apply(join(family, "r3", "x", at))
    assert id_of(ledger, family, "x") not in (None, uuid)
    assert ledger.counts(family) == {"x": 1}
    assert steps(ledger, family, uuid, 2, times=1)
    ledger.apply(join(family, "r0", "x", at))
    assert not steps(ledger, family, uuid, 2, times=9)
    ledger.apply(join(family, "r1", "x", at))
    assert ledger.counts(family) == {"x": 3}
    assert [names_of(ledger, family, f"r{n}") for n in range(4)] == [["x"], ["x"], [], ["x"]]
    assert rows_with(ledger, uuid) == []
    assert findings(ledger) == []


@settings(max_examples=40, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("family", FAMILIES)
def test_deletions_among_everything_else_leave_a_store_without_a_fault(
    family: str, data: st.DataObject
) -> None:
    """Runs join, leave and are deleted while deletions are begun, broken off, and repeated."""
    ledger = Ledger()
    names, ids = st.sampled_from("xyz"), st.sampled_from(["r", "s", "t", "u"])
    begun: list[str] = []
    for at in range(data.draw(st.integers(1, 12))):
        match data.draw(st.sampled_from(["join", "join", "join", "delete run", "delete", "steps"])):
            case "join":
                run = data.draw(ids)
                ledger.apply(record("create_run", run, at), join(family, run, data.draw(names), at))
            case "delete run":
                ledger.apply(record("delete_run", data.draw(ids), at))
            case "delete" if id_of(ledger, family, name := data.draw(names)) is not None:
                begun.append(remove(ledger, family, name))
            case "steps" if begun:
                steps(ledger, family, data.draw(st.sampled_from(begun)), 1, times=1)
    for uuid in begun:
        assert not steps(ledger, family, uuid, 2, times=99)
        assert rows_with(ledger, uuid) == []
    assert findings(ledger) == []


def test_a_deleted_run_is_made_anew_once_its_deletion_was_forgotten() -> None:
    """It begins empty, and by the rules that have deleted it."""
    ledger = Ledger()
    ledger.apply(record("create_run"), metric("loss", 1.0, 7), join("tags", "r", "old"))
    ledger.apply(record("delete_run", at=1.0))
    assert ledger.apply(metric("loss", 2.0, 0, at=2.0)).dropped == 1
    assert ledger.store.commit(lambda tr: removals.forget_deletion(ledger.rows(tr, "r")))
    ledger.apply(record("create_run", at=3.0), metric("loss", 3.0, 0, at=3.0))
    (trace,) = ledger.traces()
    assert trace.last_step == 0
    assert names_of(ledger, "tags", "r") == []
    assert findings(ledger) == []


@pytest.mark.parametrize("why", ["hidden", "rows left", "blobs left"])
def test_a_deletion_that_goes_on_is_not_forgotten(why: str) -> None:
    """It would take from the new run what it takes from the old one."""
    ledger = Ledger()
    keys = ledger.keys
    ledger.apply(record("create_run"))
    if why == "hidden":
        ledger.store.commit(
            lambda tr: runs.put_meta(ledger.rows(tr, "r"), 1.0, {"pending_deletion": True})
        )
    else:
        ledger.apply(record("delete_run", at=1.0))
        event = ControlEvent("run_deleted", 1.0, {"run_id": "r"}).to_bytes()
        row = (
            (keys.owed_deletion("r"), pack_value(True))
            if why == "rows left"
            else (keys.control_event(0), event)
        )
        ledger.store.commit(lambda tr: tr.set(*row))
    before = ledger.dump()
    assert not ledger.store.commit(lambda tr: removals.forget_deletion(ledger.rows(tr, "r")))
    assert ledger.dump() == before
