"""Experiments and tags beside the reference's API server, which renames and deletes them meanwhile."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan.keys import pack_value, range_of, unpack_value
from matyan.rules.queries import Queries
from matyan.rules.sequences import Sequences
from tests.ledger import Ledger, record

pytestmark = pytest.mark.usefixtures("bodies")

FAMILIES = ["experiments", "tags"]


def join(family: str, run: str, name: str, at: float = 0.0) -> bytes:
    if family == "tags":
        return record("add_tag", run, at, tag_name=name)
    return record("set_run_property", run, at, experiment=name)


def id_of(ledger: Ledger, family: str, name: str) -> str | None:
    found = ledger.system(f"{family}_by_name", name).get((f"{family}_by_name", name))
    return found if isinstance(found, str) else None


class Api:
    """What the reference's API server does to the rows of system when a user renames or deletes one."""

    def __init__(self, ledger: Ledger, family: str) -> None:
        keys = ledger.keys
        self._ledger = ledger
        self._row = keys.tag if family == "tags" else keys.experiment
        self._by_name = keys.tag_by_name if family == "tags" else keys.experiment_by_name
        self._member = keys.tag_run if family == "tags" else keys.experiment_run

    def rename(self, old: str, new: str) -> None:
        def body(tr: Any) -> None:
            packed = tr.get(self._by_name(old))
            tr.clear(self._by_name(old))
            tr.set(self._by_name(new), packed)
            tr.set(self._row(unpack_value(packed), "name"), pack_value(new))

        self._ledger.store.commit(body)

    def delete(self, name: str) -> None:
        """("run_experiment", run) stays; the rows ("run_tags", run, tag) go."""
        keys = self._ledger.keys

        def body(tr: Any) -> None:
            uuid = unpack_value(tr.get(self._by_name(name)))
            tr.clear(self._by_name(name))
            tr.clear_range(*range_of(self._row(uuid)))
            for row in self._ledger.system("tag_runs", uuid):
                tr.clear(keys.tag_of_run(row[2], uuid))
            tr.clear_range(*range_of(self._member(uuid)))

        self._ledger.store.commit(body)


def listed(ledger: Ledger, **wanted: str) -> set[str]:
    queries = Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))
    return {row["run"] for row in ledger.store.look(lambda snap: [*queries.runs(snap, **wanted)])}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_that_was_renamed_away_and_comes_again_is_another(family: str) -> None:
    """The first one keeps its rows, its runs and its count."""
    ledger = Ledger()
    ledger.apply(join(family, "r", "x"))
    first = id_of(ledger, family, "x")
    Api(ledger, family).rename("x", "y")
    ledger.apply(join(family, "s", "x", at=1.0))
    second = id_of(ledger, family, "x")
    assert first is not None
    assert second is not None
    assert first != second
    assert id_of(ledger, family, "y") == first
    assert UUID(second).version == 5
    assert ledger.counts(family) == {"x": 1, "y": 1}
    members = "tag_runs" if family == "tags" else "experiment_runs"
    assert {*ledger.system(members)} == {(members, first, "r"), (members, second, "s")}


@pytest.mark.parametrize("at", [0.0, 1.0], ids=["by the same record", "by a later one"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_name_that_was_deleted_and_comes_again_is_joined_anew(family: str, at: float) -> None:
    """What the API left of the first one is no association: each run counts that joins, the first one too."""
    ledger = Ledger()
    ledger.apply(join(family, "r", "x"), join(family, "s", "x"))
    Api(ledger, family).delete("x")
    ledger.apply(join(family, "s", "x", at))
    assert ledger.counts(family) == {"x": 1}
    ledger.apply(join(family, "r", "x", at), join(family, "r", "x", at))
    assert ledger.counts(family) == {"x": 2}
    uuid = id_of(ledger, family, "x")
    members = "tag_runs" if family == "tags" else "experiment_runs"
    assert {*ledger.system(members)} == {(members, uuid, "r"), (members, uuid, "s")}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_record_that_made_one_makes_another_where_that_was_renamed(family: str) -> None:
    """As it comes again, from an offset that was set back, or as another record of the same microsecond."""
    ledger = Ledger()
    ledger.apply(join(family, "r", "x"))
    first = id_of(ledger, family, "x")
    Api(ledger, family).rename("x", "y")
    ledger.apply(join(family, "s", "x"))
    assert id_of(ledger, family, "y") == first
    assert ledger.counts(family) == {"x": 1, "y": 1}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_record_gives_the_same_id(family: str) -> None:
    """In any store: a transaction that runs twice writes the same bytes. Another time gives another."""
    ids = []
    for at in (1.25, 1.25, 2.0):
        ledger = Ledger()
        ledger.apply(join(family, "r", "x", at))
        ids.append(id_of(ledger, family, "x"))
    assert ids[0] == ids[1] != ids[2]


@pytest.mark.parametrize("family", FAMILIES)
def test_one_of_an_older_version_keeps_its_id(family: str) -> None:
    """Which was made of the name alone; its count goes on."""
    ledger = Ledger()
    old = "c9e3a1f0-0000-5000-8000-000000000000"
    keys = ledger.keys
    row, by_name = (
        (keys.tag, keys.tag_by_name)
        if family == "tags"
        else (keys.experiment, keys.experiment_by_name)
    )

    def seed(tr: Any) -> None:
        tr.set(by_name("x"), pack_value(old))
        tr.set(row(old, "name"), pack_value("x"))
        tr.set(row(old, "run_count"), pack_value(3))

    ledger.store.commit(seed)
    ledger.apply(join(family, "r", "x"))
    assert id_of(ledger, family, "x") == old
    assert ledger.counts(family) == {"x": 4}


@pytest.mark.parametrize("family", FAMILIES)
def test_runs_are_listed_by_the_name_of_now(family: str) -> None:
    """Under a new name at once, and never under one that another has taken over or that is gone."""
    ledger = Ledger()
    wanted = "tag" if family == "tags" else "experiment"
    api = Api(ledger, family)
    ledger.apply(join(family, "r", "x"))
    api.rename("x", "y")
    ledger.apply(join(family, "s", "x", at=1.0))
    assert listed(ledger, **{wanted: "x"}) == {"s"}
    assert listed(ledger, **{wanted: "y"}) == {"r"}
    api.delete("x")
    assert listed(ledger, **{wanted: "x"}) == set()
    assert listed(ledger, **{wanted: "never"}) == set()


# --- any order ------------------------------------------------------------------------------------

NAMES = ["x", "y", "z"]
runs, names = st.sampled_from("rst"), st.sampled_from(NAMES)
STEPS = st.one_of(
    st.tuples(st.just("join"), runs, names),
    st.tuples(st.just("leave"), runs, names),
    st.tuples(st.just("rename"), names, names),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("delete_run"), runs),
)


@settings(deadline=None)
@given(st.sampled_from(FAMILIES), st.lists(STEPS, max_size=20))
def test_counts_are_associations_whatever_the_api_does(family: str, steps: list[Any]) -> None:
    """Each name is one experiment or tag with its own runs. Time stands still but for deletions."""
    ledger = Ledger()
    at = 0.0
    api = Api(ledger, family)
    held: dict[str, set[str]] = {}
    dead: set[str] = set()
    for what, *rest in steps:
        if what == "join":
            run, name = rest
            ledger.apply(join(family, run, name, at))
            if run not in dead:
                if family == "experiments":
                    for members in held.values():
                        members.discard(run)
                held.setdefault(name, set()).add(run)
        elif what == "leave" and family == "tags":
            run, name = rest
            ledger.apply(record("remove_tag", run, at, tag_name=name))
            if run not in dead:
                held.get(name, set()).discard(run)
        elif what == "rename" and rest[0] in held and rest[1] not in held:
            api.rename(*rest)
            held[rest[1]] = held.pop(rest[0])
        elif what == "delete" and rest[0] in held:
            api.delete(rest[0])
            at += 1
            del held[rest[0]]
        elif what == "delete_run":
            ledger.apply(record("delete_run", rest[0]))
            dead.add(rest[0])
            for members in held.values():
                members.discard(rest[0])
    assert ledger.counts(family) == {name: len(members) for name, members in held.items()}
    for run in "rst":
        of_run = sorted(name for name, members in held.items() if run in members)
        if family == "tags":
            assert ledger.tags(run) == of_run
        else:
            assert ledger.experiment(run) == (of_run[0] if of_run else None)
