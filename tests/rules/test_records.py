"""The rules of the contract's sections 4, 5 and 7, one claim each; the model of all of them is in test_records_model.py."""

from __future__ import annotations

import math
from typing import Any
from uuid import UUID, uuid5

import pytest

from matyan._codec import Malformed, Record, context_id, decode_records
from matyan.errors import InvalidRecord
from matyan.keys import unpack_value
from matyan.rules.entities import NAMESPACE
from matyan.rules.records import ACTIVITY_S, KINDS, Rules, event_of
from matyan.rules.sequences import Layout, Sequences
from matyan.store.base import exhausted
from tests.ledger import T0, Ledger, metric, moment, record

pytestmark = pytest.mark.usefixtures("bodies")


@pytest.fixture(params=["packed", "compatible"])
def ledger(request: pytest.FixtureRequest) -> Ledger:
    layout: Layout = request.param
    return Ledger(layout)


def create(run: str = "r", at: float = 0.0, start: float | None = None) -> bytes:
    return record(
        "create_run",
        run,
        at,
        client_datetime=moment(at if start is None else start),
        force_resume=False,
    )


# --- runs -----------------------------------------------------------------------------------------


def test_a_new_run_has_every_meta_field_and_its_indexes(ledger: Ledger) -> None:
    """create_run writes the contract's defaults, the client's start, and three indexes."""
    ledger.apply(create(at=2.0, start=1.0))
    assert ledger.meta() == {
        "name": "Run: r",
        "description": "",
        "created_at": T0 + 2,
        "updated_at": T0 + 2,
        "finalized_at": None,
        "is_archived": False,
        "active": True,
        "experiment_id": None,
        "client_start_ts": T0 + 1,
        "duration": None,
    }
    assert ledger.facts() == {("archived", False), ("active", True), ("created_at", T0 + 2)}
    rows = {("activity", "r"): T0 + 2, ("owner", "r"): "T/0", ("shape", "r"): bytes(16)}
    assert ledger.system() == rows


@pytest.mark.parametrize(
    "first",
    [
        metric("loss", 1.0, 0, at=3.0),
        record("log_hparams", at=3.0, value={"lr": 1}),
        record("log_terminal_line", at=3.0, line="x", step=0),
        record("add_tag", at=3.0, tag_name="t"),
        record("finish_run", at=3.0),
    ],
    ids=lambda value: value.split(b'"')[3].decode(),
)
def test_a_record_of_an_unknown_run_creates_it(ledger: Ledger, first: bytes) -> None:
    """Whatever comes first makes the run, at the record's timestamp and with no client start."""
    ledger.apply(first)
    assert ledger.meta()["created_at"] == T0 + 3
    assert ledger.meta()["client_start_ts"] is None
    assert ("created_at", T0 + 3) in ledger.facts()


def test_create_run_of_an_existing_run_takes_it_up_again(ledger: Ledger) -> None:
    """active, finalized_at and duration are reset; name, creation and the first client start stay."""
    ledger.apply(create(), record("set_run_property", name="mine", archived=True, experiment="e"))
    ledger.apply(record("finish_run", at=5, client_datetime=moment(5)))
    before = ledger.meta()
    ledger.apply(record("create_run", at=9, client_datetime=moment(9), force_resume=True))
    assert ledger.meta() == before | {
        "active": True,
        "finalized_at": None,
        "duration": None,
        "updated_at": T0 + 9,
    }
    assert {("active", True), ("archived", True), ("experiment", "e")} <= ledger.facts()
    assert ("active", False) not in ledger.facts()


def test_create_run_gives_a_run_made_on_demand_its_client_start(ledger: Ledger) -> None:
    """client_start_ts is set when it is unset, also long after the run was made; created_at stays."""
    ledger.apply(metric("loss", 1.0, 0, at=1))
    ledger.apply(create(at=4, start=3))
    assert ledger.meta()["client_start_ts"] == T0 + 3
    assert ledger.meta()["created_at"] == T0 + 1


def test_finish_run_measures_from_the_clients_start_to_its_end(ledger: Ledger) -> None:
    """duration is the client's time, finalized_at is created_at + duration."""
    ledger.apply(create(at=2, start=1), record("finish_run", at=30, client_datetime=moment(11.5)))
    meta = ledger.meta()
    assert (meta["active"], meta["duration"], meta["finalized_at"]) == (False, 10.5, T0 + 12.5)
    assert meta["updated_at"] == T0 + 30
    assert ("active", False) in ledger.facts()
    assert ("active", True) not in ledger.facts()


def test_finish_run_without_a_clients_time_takes_the_records(ledger: Ledger) -> None:
    """The reference's frontier drops client_datetime: the record's timestamp stands in."""
    ledger.apply(create(at=2, start=1), record("finish_run", at=30))
    assert ledger.meta()["duration"] == 29


def test_a_duration_is_never_negative(ledger: Ledger) -> None:
    """A client's clock that was set back gives 0."""
    ledger.apply(create(start=10), record("finish_run", at=1, client_datetime=moment(4)))
    assert ledger.meta()["duration"] == 0
    assert ledger.meta()["finalized_at"] == T0


def test_finish_run_of_a_run_without_a_start_has_no_duration(ledger: Ledger) -> None:
    """duration stays null, finalized_at is the record's timestamp."""
    ledger.apply(metric("loss", 1.0, 0), record("finish_run", at=7, client_datetime=moment(6)))
    assert ledger.meta()["duration"] is None
    assert ledger.meta()["finalized_at"] == T0 + 7


def test_client_datetimes_with_an_offset_or_none_are_read_as_such(ledger: Ledger) -> None:
    """No offset means UTC."""
    ledger.apply(
        record("create_run", client_datetime="2023-11-14T22:13:20"),
        record("finish_run", at=9, client_datetime="2023-11-15T00:13:25.500+02:00"),
    )
    assert ledger.meta()["client_start_ts"] == T0
    assert ledger.meta()["duration"] == 5.5


def test_set_run_property_changes_what_it_names(ledger: Ledger) -> None:
    """Each property by itself; the others stay; the archived index follows."""
    ledger.apply(create())
    ledger.apply(record("set_run_property", at=1, name="n"))
    ledger.apply(record("set_run_property", at=2, description="d", name=None))
    ledger.apply(record("set_run_property", at=3, archived=True))
    meta = ledger.meta()
    assert (meta["name"], meta["description"], meta["is_archived"]) == ("n", "d", True)
    assert meta["updated_at"] == T0 + 3
    assert ("archived", True) in ledger.facts()
    assert ("archived", False) not in ledger.facts()
    ledger.apply(record("set_run_property", at=4, archived=False))
    assert ("archived", False) in ledger.facts()
    assert ("archived", True) not in ledger.facts()


def test_updated_at_moves_with_meta_attrs_blobs_and_experiment_only(ledger: Ledger) -> None:
    """Points, objects, logs and tags leave it alone."""
    ledger.apply(create())
    for i, still in enumerate(
        [
            metric("loss", 1.0, 0, at=1),
            record("log_custom_object", at=1, name="o", value={"type": "text"}, step=0),
            record("log_terminal_line", at=1, line="x", step=0),
            record("log_record", at=1, message="m", level=20, timestamp=1.0),
            record("add_tag", at=1, tag_name="t"),
            record("remove_tag", at=1, tag_name="t"),
        ]
    ):
        ledger.apply(still)
        assert ledger.meta()["updated_at"] == T0, i
    for i, moving in enumerate(
        [
            record("log_hparams", at=1, value={"a": 1}),
            record("blob_ref", at=2, s3_key="r/p", artifact_path="p"),
            record("set_run_property", at=3, experiment="e"),
            record("set_run_property", at=4, name="n"),
            record("finish_run", at=5),
        ],
        1,
    ):
        ledger.apply(moving)
        assert ledger.meta()["updated_at"] == T0 + i


def test_activity_is_written_again_when_it_is_a_minute_older(ledger: Ledger) -> None:
    """It is at most a minute behind the run's last record, and not written at every batch."""
    ledger.apply(create())
    ledger.apply(metric("loss", 1.0, 0, at=ACTIVITY_S - 1))
    assert ledger.system("activity") == {("activity", "r"): T0}
    ledger.apply(record("log_terminal_line", at=ACTIVITY_S, line="x", step=0))
    assert ledger.system("activity") == {("activity", "r"): T0 + ACTIVITY_S}
    fresh = ledger.make_rules()
    ledger.apply(metric("loss", 1.0, 1, at=ACTIVITY_S + 1), rules=fresh)
    assert ledger.system("activity") == {("activity", "r"): T0 + ACTIVITY_S}


def test_a_run_of_another_program_gets_its_activity_with_its_first_record(ledger: Ledger) -> None:
    """The reference's worker writes none."""
    ledger.apply(create())
    ledger.store.commit(lambda tr: tr.clear(ledger.keys.activity("r")))
    ledger.apply(metric("loss", 1.0, 0, at=1), rules=ledger.make_rules())
    assert ledger.system("activity") == {("activity", "r"): T0 + 1}


# --- deletion -------------------------------------------------------------------------------------


def test_delete_run_leaves_a_tombstone_and_nothing_else(ledger: Ledger) -> None:
    """R rows, forward indexes, their twins, tags, experiment, activity: all gone; other runs stay."""
    everything = [
        create("gone"),
        metric("loss", 1.0, 0, "gone", context={"a": 1}),
        record("log_hparams", "gone", value={"hparams": {"lr": 0.1, "n": 2}}),
        record("add_tag", "gone", tag_name="t"),
        record("add_tag", "gone", tag_name="u"),
        record("set_run_property", "gone", experiment="e"),
        record("log_custom_object", "gone", name="o", value={"type": "x", "data": "y" * 200_000}),
        record("blob_ref", "gone", s3_key="gone/p", artifact_path="p"),
        record("log_record", "gone", message="m", level=20, timestamp=1.0),
    ]
    ledger.apply(
        *[value.replace(b'"gone"', b'"r"').replace(b"gone/", b"r/") for value in everything]
    )
    alone = dict(ledger.store.rows)
    ledger.apply(*everything)
    ledger.apply(record("delete_run", "gone", at=9))
    tombstone = ledger.keys.tombstone("gone")
    left = dict(ledger.store.rows)
    assert unpack_value(left.pop(tombstone)) == T0 + 9
    assert left == alone


def test_records_of_a_deleted_run_are_dropped_and_counted(ledger: Ledger) -> None:
    """In the same batch and later, by this owner and by one that remembers nothing; create_run too."""
    unit = ledger.apply(
        create(), record("delete_run", at=1), metric("loss", 1.0, 0, at=2), create(at=3)
    )
    assert unit.dropped == 2
    assert unit.applied == {"create_run": 1, "delete_run": 1}
    rows = dict(ledger.store.rows)
    late = [
        metric("loss", 1.0, 0, at=4),
        metric("loss", 1.0, 1, at=4),
        record("add_tag", tag_name="t"),
    ]
    assert ledger.apply(*late).dropped == 3
    assert ledger.apply(*late, rules=ledger.make_rules()).dropped == 3
    assert ledger.store.rows == rows


def test_order_within_a_batch_is_the_logs(ledger: Ledger) -> None:
    """What came before the deletion is deleted, what came after is dropped."""
    ledger.apply(
        metric("loss", 1.0, 0),
        record("add_tag", tag_name="t"),
        record("delete_run", at=1),
        record("add_tag", at=2, tag_name="t"),
        record("set_run_property", at=2, archived=True),
        record("set_run_property", "other", at=2, archived=True),
        record("set_run_property", "other", at=3, archived=False),
    )
    assert ledger.rows_of("r") == {}
    assert ledger.facts() == set()
    assert ledger.counts("tags") == {"t": 0}
    assert ledger.meta("other")["is_archived"] is False


def test_a_remembered_run_that_another_program_deleted_takes_nothing(ledger: Ledger) -> None:
    """The tombstone is read in the transaction, whatever the caches say."""
    ledger.apply(create())
    ledger.store.commit(lambda tr: tr.set(ledger.keys.tombstone("r"), b"\xc0"))
    assert ledger.apply(metric("loss", 1.0, 0)).dropped == 1
    assert ledger.points("loss") == []


def test_delete_run_of_a_run_that_never_was_leaves_a_tombstone(ledger: Ledger) -> None:
    """The log's order counts: what comes after belongs to a deleted run."""
    ledger.apply(record("delete_run"))
    assert ledger.apply(create(at=1)).dropped == 1
    assert ledger.meta() == {}


def test_a_new_run_after_its_tombstone_was_cleaned_starts_from_nothing(ledger: Ledger) -> None:
    """What was remembered about the deleted one does not leak into it."""
    ledger.apply(create(), metric("loss", 5.0, 7))
    ledger.apply(record("delete_run", at=1))
    ledger.store.commit(lambda tr: tr.clear(ledger.keys.tombstone("r")))
    ledger.apply(metric("loss", 1.0, None, at=2))
    assert ledger.points("loss") == [(0, 1.0, 2.0, None)]
    assert ("trace", "loss") in ledger.facts()
    assert ledger.meta()["created_at"] == T0 + 2


def test_delete_run_is_announced_with_the_records_time() -> None:
    """So a repeat of the event is byte-identical; no other kind has an event."""
    for kind in [*KINDS, "log_metric"]:
        (op,) = decode_records([record(kind, at=1.5, name="x", value=1)])
        assert not isinstance(op, Malformed)
        if kind == "log_metric":
            continue
        event = event_of(op)
        if kind == "delete_run":
            assert event is not None
            assert (event.type, event.timestamp, event.payload) == (
                "run_deleted",
                T0 + 1.5,
                {"run_id": "r"},
            )
        else:
            assert event is None


@pytest.mark.parametrize(
    ("kind", "payload", "told"),
    [
        ("finish_run", {}, ("run_finished", {"run_id": "r"})),
        (
            "finish_run",
            {"client_datetime": "2026-01-02T03:04:05Z"},
            ("run_finished", {"run_id": "r"}),
        ),
        ("finish_run", {"stale": True}, ("run_stale", {"run_id": "r"})),
        ("finish_run", {"stale": "yes"}, ("run_finished", {"run_id": "r"})),
        (
            "set_run_property",
            {"archived": True},
            ("run_archived", {"run_id": "r", "archived": True}),
        ),
        (
            "set_run_property",
            {"archived": False, "name": "x"},
            ("run_unarchived", {"run_id": "r", "archived": False}),
        ),
        ("set_run_property", {"name": "x"}, None),
        ("create_run", {}, None),
    ],
)
def test_where_somebody_is_told_ends_are_announced_too(
    kind: str, payload: dict[str, Any], told: tuple[str, object] | None
) -> None:
    """With the record's time, so a repeat is byte-identical; and nowhere else."""
    (op,) = decode_records([record(kind, at=1.5, **payload)])
    assert isinstance(op, Record)
    assert event_of(op) is None
    event = event_of(op, told=True)
    assert (event and (event.type, event.payload)) == told
    assert event is None or event.timestamp == T0 + 1.5


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("finish_run", {"client_datetime": "soon"}), ("set_run_property", {"archived": "yes"})],
)
def test_nobody_is_told_of_what_can_never_be_applied(kind: str, payload: dict[str, Any]) -> None:
    (op,) = decode_records([record(kind, **payload)])
    assert isinstance(op, Record)
    with pytest.raises(InvalidRecord):
        event_of(op, told=True)


# --- hparams --------------------------------------------------------------------------------------

HPARAMS: list[tuple[str, list[dict[str, Any]], Any]] = [
    ("a single key descends", [{"a": {"x": 1}}, {"a": {"y": 2}}], {"a": {"x": 1, "y": 2}}),
    (
        "several keys replace their parent",
        [{"a": {"x": 1}}, {"a": {"y": 2, "z": 3}}],
        {"a": {"y": 2, "z": 3}},
    ),
    (
        "several keys at the top replace themselves only",
        [{"a": {"x": 1}, "b": 1}, {"a": 2, "c": 3}],
        {"a": 2, "b": 1, "c": 3},
    ),
    ("nothing at the top changes nothing", [{"a": 1}, {}], {"a": 1}),
    ("an empty object replaces", [{"a": {"x": 1}}, {"a": {}}], {"a": {}}),
    ("an empty list replaces", [{"a": {"x": 1}}, {"a": []}], {"a": []}),
    ("a leaf becomes a tree", [{"a": 1}, {"a": {"b": {"c": 2}}}], {"a": {"b": {"c": 2}}}),
    ("a tree becomes a leaf", [{"a": {"b": {"c": 2}}}, {"a": 1}], {"a": 1}),
    ("an empty object becomes a tree", [{"a": {}}, {"a": {"b": 1}}], {"a": {"b": 1}}),
    (
        "an empty list becomes a tree",
        [{"a": {"b": []}}, {"a": {"b": {"c": 1}}}],
        {"a": {"b": {"c": 1}}},
    ),
    ("a list becomes a tree", [{"a": [1, [2, {"x": 3}]]}, {"a": {"b": 1}}], {"a": {"b": 1}}),
    ("a list's items are not keys", [{"a": [1, 2]}, {"a": {"0": 1}}], {"a": {"0": 1}}),
    ("a shorter list replaces a longer", [{"a": [1, 2, 3]}, {"a": [4]}], {"a": [4]}),
    ("null is a value", [{"a": {"x": 1, "y": None}}], {"a": {"x": 1, "y": None}}),
    (
        "deep, one key each",
        [{"a": {"b": {"c": {"d": 1}}}}, {"a": {"b": {"c": {"e": [1]}}}}],
        {"a": {"b": {"c": {"d": 1, "e": [1]}}}},
    ),
    (
        "a name that looks like a marker",
        [{"a": {"__leaf__": 1, "__empty_dict__": {}}}, {"a": {"b": 2}}],
        {"a": {"__leaf__": 1, "__empty_dict__": {}, "b": 2}},
    ),
    ("the empty name", [{"": {"": 1}}], {"": {"": 1}}),
    (
        "values of every type",
        [{"a": [True, 1, 1.5, "x", None, 2**63, -(2**63)]}],
        {"a": [True, 1, 1.5, "x", None, 2**63, -(2**63)]},
    ),
]


@pytest.mark.parametrize(
    ("values", "expected"), [case[1:] for case in HPARAMS], ids=[case[0] for case in HPARAMS]
)
def test_hparams_merge(ledger: Ledger, values: list[dict[str, Any]], expected: Any) -> None:
    """The table above; and blobs are left alone by all of it."""
    ledger.apply(record("blob_ref", s3_key="r/p", artifact_path="p"))
    for value in values:
        ledger.apply(record("log_hparams", value=value))
    blobs = {"p": {"s3_key": "r/p", "content_type": "application/octet-stream"}}
    assert ledger.attrs() == {**expected, "__blobs__": blobs}


def hparams(ledger: Ledger) -> set[tuple[Any, ...]]:
    return {
        (name, type(value), value)
        for kind, name, value in (f for f in ledger.facts() if f[0] == "hparam")
    }


def test_the_hparam_index_holds_top_level_scalars(ledger: Ledger) -> None:
    """Of attrs `hparams` only; no null, no nested value; 1, 1.0 and true are three values."""
    ledger.apply(
        record(
            "log_hparams",
            value={
                "lr": 5,
                "hparams": {
                    "i": 1,
                    "f": 1.0,
                    "b": True,
                    "s": "x",
                    "n": None,
                    "o": {"k": 1},
                    "l": [1],
                },
            },
        )
    )
    assert hparams(ledger) == {("i", int, 1), ("f", float, 1.0), ("b", bool, True), ("s", str, "x")}


@pytest.mark.parametrize(
    ("then", "expected"),
    [
        ({"hparams": {"a": 2}}, {("a", int, 2), ("b", int, 1)}),
        ({"hparams": {"a": {"x": 1}}}, {("b", int, 1)}),
        ({"hparams": {"a": {"x": 1, "y": 2}}}, {("b", int, 1)}),
        ({"hparams": {"a": None}}, {("b", int, 1)}),
        ({"hparams": {"c": 3, "d": 4}}, {("c", int, 3), ("d", int, 4)}),
        ({"hparams": {}}, set()),
        ({"hparams": 5}, set()),
        ({"hparams": {"a": 7, "z": 1}, "other": {"b": 9}}, {("a", int, 7), ("z", int, 1)}),
        ({"other": 1}, {("a", int, 1), ("b", int, 1)}),
    ],
)
def test_the_hparam_index_follows(ledger: Ledger, then: dict[str, Any], expected: set[Any]) -> None:
    """Whatever replaces a hparam or what stands above it takes its index row along."""
    ledger.apply(record("log_hparams", value={"hparams": {"a": 1, "b": 1}}))
    ledger.apply(record("log_hparams", value=then))
    assert hparams(ledger) == expected


def test_a_hparam_that_fits_no_key_is_stored_and_not_indexed(ledger: Ledger) -> None:
    """A long text is a legal value; it can be replaced too."""
    ledger.apply(record("log_hparams", value={"hparams": {"prompt": "x" * 5_000}}))
    assert ledger.attrs() == {"hparams": {"prompt": "x" * 5_000}}
    assert hparams(ledger) == set()
    ledger.apply(record("log_hparams", value={"hparams": {"prompt": "y"}}))
    assert hparams(ledger) == {("prompt", str, "y")}


@pytest.mark.parametrize("single", [True, False])
def test_a_hparam_goes_in_and_out_of_the_index(ledger: Ledger, single: bool) -> None:
    """Whether it is named alone or beside others; the others stay indexed."""
    others: dict[str, Any] = {} if single else {"lr": 0.1, "seed": 7}
    for text, indexed in [("x" * 4_100, False), ("y", True), ("é\0" * 1_200, False), ("z", True)]:
        ledger.apply(record("log_hparams", value={"hparams": {**others, "prompt": text}}))
        assert ledger.attrs() == {"hparams": {**others, "prompt": text}}
        found = {(name, value) for name, _, value in hparams(ledger)}
        assert found == {*others.items(), *([("prompt", text)] if indexed else [])}


# --- blobs ----------------------------------------------------------------------------------------


def test_blob_ref_is_one_entry_however_often_it_comes(ledger: Ledger) -> None:
    """The frontier's record and the client's are the same; a path with slashes is one name."""
    ref = record("blob_ref", s3_key="r/a/b.png", artifact_path="a/b.png", content_type="image/png")
    ledger.apply(ref)
    rows = dict(ledger.store.rows)
    ledger.apply(ref)
    assert ledger.store.rows == rows
    ledger.apply(record("blob_ref", s3_key="r/a", artifact_path="a"))
    assert ledger.attrs() == {
        "__blobs__": {
            "a/b.png": {"s3_key": "r/a/b.png", "content_type": "image/png"},
            "a": {"s3_key": "r/a", "content_type": "application/octet-stream"},
        }
    }


# --- experiments and tags -------------------------------------------------------------------------


def test_a_new_experiment_is_named_deterministically(ledger: Ledger) -> None:
    """UUID v5 of the name and the record's time, dashed, with every field; the run, its meta and its index point there."""
    ledger.apply(record("set_run_property", at=1, experiment="e"))
    uuid = str(uuid5(NAMESPACE, f"{T0 + 1!r} e"))
    assert UUID(uuid).version == 5
    assert ledger.system() == {
        ("activity", "r"): T0 + 1,
        ("owner", "r"): "T/0",
        ("shape", "r"): bytes(16),
        ("experiments", uuid, "name"): "e",
        ("experiments", uuid, "description"): "",
        ("experiments", uuid, "is_archived"): False,
        ("experiments", uuid, "run_count"): 1,
        ("experiments", uuid, "created_at"): T0 + 1,
        ("experiments", uuid, "updated_at"): T0 + 1,
        ("experiments_by_name", "e"): uuid,
        ("experiment_runs", uuid, "r"): True,
        ("run_experiment", "r"): uuid,
    }
    assert ledger.meta()["experiment_id"] == uuid
    assert ("experiment", "e") in ledger.facts()
    assert ledger.experiment() == "e"


def test_moving_a_run_moves_the_counters_once(ledger: Ledger) -> None:
    """A run has one experiment; a repeat counts nothing; the old index row goes."""
    for name in ["e", "e", "f", "f"]:
        ledger.apply(record("set_run_property", experiment=name))
    ledger.apply(record("set_run_property", "s", experiment="f"))
    assert ledger.counts("experiments") == {"e": 0, "f": 2}
    assert {fact for fact in ledger.facts() if fact[0] == "experiment"} == {("experiment", "f")}
    assert {row[2] for row in ledger.system("experiment_runs")} == {"r", "s"}


def test_what_exists_by_name_keeps_its_uuid(ledger: Ledger) -> None:
    """The reference's API server gives random ones."""
    keys = ledger.keys

    def seed(tr: Any) -> None:
        for row, by_name in (
            (keys.experiment, keys.experiment_by_name),
            (keys.tag, keys.tag_by_name),
        ):
            tr.set(by_name("x"), b"\xa2id")
            tr.set(row("id", "name"), b"\xa1x")
            tr.set(row("id", "run_count"), b"\x05")

    ledger.store.commit(seed)
    ledger.apply(record("set_run_property", experiment="x"), record("add_tag", tag_name="x"))
    assert ledger.meta()["experiment_id"] == "id"
    assert ledger.counts("experiments") == ledger.counts("tags") == {"x": 6}


def test_tags_count_associations(ledger: Ledger) -> None:
    """Added twice counts once, removed twice too; a tag that nobody has can be removed."""
    ledger.apply(
        record("add_tag", tag_name="t"),
        record("add_tag", tag_name="t"),
        record("add_tag", tag_name="a"),
    )
    ledger.apply(record("add_tag", "s", tag_name="t"))
    assert ledger.tags() == ["a", "t"]
    assert ledger.counts("tags") == {"a": 1, "t": 2}
    uuid = str(uuid5(NAMESPACE, f"{T0!r} t"))
    assert ledger.rows_of("r")[("tags", uuid)] == b"\xc3"
    assert ledger.system("run_tags", "r")[("run_tags", "r", uuid)] is True
    assert ledger.system("tag_runs", uuid) == {
        ("tag_runs", uuid, "r"): True,
        ("tag_runs", uuid, "s"): True,
    }
    assert ledger.system("tags", uuid)[("tags", uuid, "color")] == ""
    assert ("tag", "t") in ledger.facts()
    for _ in range(2):
        ledger.apply(record("remove_tag", tag_name="t"), record("remove_tag", tag_name="never"))
    assert ledger.tags() == ["a"]
    assert ledger.counts("tags") == {"a": 1, "t": 1}
    assert ("tag", "t") not in ledger.facts()
    assert ("tags", uuid) not in ledger.rows_of("r")


# --- sequences ------------------------------------------------------------------------------------


def test_a_new_sequence_has_its_context_and_its_trace_index(ledger: Ledger) -> None:
    """Context 0 is written too, as {}; a context is the same whatever the order of its keys."""
    ledger.apply(
        metric("loss", 1.0, 0),
        metric("loss", 2.0, 0, context={"b": 1, "a": "x"}),
        metric("loss", 3.0, 1, context={"a": "x", "b": 1}),
        metric("acc", 3.0, 1, context={}),
    )
    ctx = ledger.context_id({"a": "x", "b": 1})
    assert ctx == context_id({"a": "x", "b": 1})
    assert ledger.contexts() == {0: {}, ctx: {"a": "x", "b": 1}}
    assert {fact for fact in ledger.facts() if fact[0] == "trace"} == {
        ("trace", "loss"),
        ("trace", "acc"),
    }
    assert [p[:2] for p in ledger.points("loss", {"a": "x", "b": 1})] == [(0, 2.0), (1, 3.0)]


def test_a_points_time_is_the_clients_else_the_records(ledger: Ledger) -> None:
    """And an epoch only when one was given."""
    ledger.apply(
        metric("m", 1.0, 0, at=5, client_datetime=moment(3)),
        metric("m", 2.0, 1, at=6, client_datetime=None, epoch=4),
    )
    assert ledger.points("m") == [(0, 1.0, 3.0, None), (1, 2.0, 6.0, 4)]


def test_an_objects_epoch_is_an_integer_or_a_fraction(ledger: Ledger) -> None:
    """What another producer sends and is neither goes to the dead letters."""

    def sent(epoch: object) -> bytes:
        return record("log_custom_object", name="o", value={"a": 1}, step=None, epoch=epoch)

    ledger.apply(sent(0.25), sent(3.0), sent(2**63 - 1), sent(None))
    assert [repr(row[1]) for row in ledger.objects("o")] == ["0.25", "3", str(2**63 - 1), "None"]
    for epoch in (2**63, 1e300, math.nan, math.inf, "1", True):
        with pytest.raises(InvalidRecord, match="epoch: "):
            ledger.apply(sent(epoch))


def test_nan_and_infinities_are_kept(ledger: Ledger) -> None:
    """As floats; `last` keeps the last finite value."""
    ledger.apply(
        metric("m", 1.5, 0),
        metric("m", math.nan, 1),
        metric("m", math.inf, 2),
        metric("m", -math.inf, 3),
    )
    values = [value for _, value, _, _ in ledger.points("m")]
    assert math.isnan(values[1])
    assert values[2:] == [math.inf, -math.inf]
    assert unpack_value(ledger.rows_of("r")[("traces", 0, "m", "last")]) == 1.5
    assert unpack_value(ledger.rows_of("r")[("traces", 0, "m", "last_step")]) == 3


def test_custom_objects_are_kept_whole(ledger: Ledger) -> None:
    """Large ones in parts; last is 0.0; step null takes the next free one; dtype as sent or "custom"."""
    big = {"type": "figure", "data": "é" * 250_000}
    ledger.apply(
        record(
            "log_custom_object",
            name="fig",
            value=big,
            step=3,
            epoch=1,
            context=None,
            dtype="figure",
            client_datetime=moment(2),
        ),
        record(
            "log_custom_object", at=1, name="fig", value={"type": "text"}, step=None, context={}
        ),
    )
    assert ledger.objects("fig") == [(3, 1, 2.0, big), (4, None, 1.0, {"type": "text"})]
    rows = ledger.rows_of("r")
    assert unpack_value(rows[("traces", 0, "fig", "dtype")]) == "custom"
    assert unpack_value(rows[("traces", 0, "fig", "last")]) == 0.0
    assert ("trace", "fig") in ledger.facts()


def test_terminal_lines_and_log_records_are_sequences_of_their_own(ledger: Ledger) -> None:
    """`logs` by the sent step, `__log_records` by the next free one, both in context 0."""
    ledger.apply(
        record("log_terminal_line", at=1, line="first", step=0),
        record("log_terminal_line", at=2, line="second", step=4),
        record(
            "log_record",
            at=3,
            message="m",
            level=30,
            timestamp=12.5,
            logger_info=["f.py", 3],
            extra_args={"a": 1},
        ),
        record("log_record", at=4, message="n", level=20, timestamp=13),
    )
    assert ledger.objects("logs") == [(0, None, 1.0, "first"), (4, None, 2.0, "second")]
    assert ledger.objects("__log_records") == [
        (
            0,
            None,
            3.0,
            {
                "message": "m",
                "log_level": 30,
                "timestamp": 12.5,
                "args": {"a": 1},
                "logger_info": ["f.py", 3],
            },
        ),
        (
            1,
            None,
            4.0,
            {"message": "n", "log_level": 20, "timestamp": 13.0, "args": None, "logger_info": None},
        ),
    ]
    rows = ledger.rows_of("r")
    assert unpack_value(rows[("traces", 0, "logs", "dtype")]) == "logs"
    assert unpack_value(rows[("traces", 0, "__log_records", "dtype")]) == "log_records"
    assert {("trace", "logs"), ("trace", "__log_records")} <= ledger.facts()
    assert ledger.contexts() == {0: {}}


# --- what can never be applied --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (record("no_such_kind"), "no kind of record"),
        (record("create_run", client_datetime="yesterday"), "client_datetime"),
        (record("create_run", client_datetime=5), "client_datetime: expected str"),
        (record("set_run_property", archived="yes"), "archived: expected bool"),
        (record("set_run_property", archived=1), "archived: expected bool"),
        (record("add_tag"), "tag_name: expected str"),
        (record("log_hparams", value=[1]), "value: expected dict"),
        (record("log_hparams", value={"a": "x" * 200_000}), "100000"),
        (record("log_hparams", value={"a": {"x" * 5_000: 1}}), "4096"),
        (record("log_terminal_line", line="x", step=True), "step: expected int"),
        (
            record("log_record", message="m", level=20, timestamp="1"),
            "timestamp: expected int or float",
        ),
        (record("log_custom_object", name="o", value="text"), "value: expected dict"),
        (record("blob_ref", artifact_path="p"), "s3_key: expected str"),
        (record("set_run_property", description="x" * 200_000), "100000"),
        (record("log_custom_object", name="o", value={"type": "x" * 500_000}), "100000"),
        (record("log_custom_object", name="o", value={}, dtype="x" * 200_000), "100000"),
        (record("log_custom_object", name="o", value={}, context={"x": "y" * 200_000}), "100000"),
        (metric("m", 1.0, 0, dtype="x" * 200_000), "100000"),
        (metric("m" * 4_100, 1.0, 0), "4096"),
        (record("log_custom_object", name="o" * 4_100, value={}), "4096"),
        (metric("m", 1.0, 0, context={"x": "y" * 200_000}), "100000"),
        (record("blob_ref", s3_key="x" * 200_000, artifact_path="p"), "100000"),
        (record("blob_ref", s3_key="k", artifact_path="p" * 5_000), "4096"),
        (record("add_tag", tag_name="x" * 5_000), "4096"),
        # The name's own row has room for it, its index has not.
        (record("add_tag", tag_name="x" * 4_079), "4096"),
        (record("set_run_property", experiment="x" * 4_072), "4096"),
    ],
)
def test_what_can_never_be_applied_says_why(ledger: Ledger, bad: bytes, reason: str) -> None:
    """InvalidRecord, with the member's name; the transaction leaves nothing."""
    with pytest.raises(InvalidRecord, match=reason):
        ledger.apply(create(), bad)
    assert ledger.store.rows == {}


# --- caches ---------------------------------------------------------------------------------------


def test_nothing_is_remembered_before_the_commit(ledger: Ledger) -> None:
    """A transaction that failed leaves the rules as they were: the same records apply in full afterwards."""

    class Lost(Exception):
        pass

    def body(tr: Any) -> None:
        unit = ledger.rules.begin(tr, "T/0")
        for op in decode_records([create(), metric("loss", 1.0, None)]):
            unit.apply(op)
        exhausted(unit.ending())
        raise Lost

    with pytest.raises(Lost):
        ledger.store.commit(body)
    ledger.apply(create(), metric("loss", 1.0, None))
    assert ledger.meta()["active"] is True
    assert ledger.points("loss") == [(0, 1.0, 0.0, None)]


def test_the_same_batch_writes_the_same_bytes(ledger: Ledger) -> None:
    """On equal stores, by rules that remember and by rules that do not; and its second run on one store too."""
    first = [create(), metric("m", 1.0, None), record("add_tag", tag_name="t")]
    second = [
        metric("m", 2.0, None, at=1),
        record("add_tag", at=1, tag_name="u"),
        record("set_run_property", at=1, experiment="e"),
        record("log_record", at=1, message="m", level=1, timestamp=0.5),
        record("log_hparams", at=1, value={"hparams": {"a": [1, {}], "b": 2.5}}),
        record("finish_run", at=70),
    ]
    twin = Ledger(ledger.layout)
    for one in ledger, twin:
        one.apply(*first)
    ledger.apply(*second)
    twin.apply(*second, rules=twin.make_rules())
    assert ledger.dump() == twin.dump()


def test_remembered_runs_are_bounded(ledger: Ledger) -> None:
    """The run used longest ago is forgotten first, and is found in the store when it comes back."""
    rules = Rules(ledger.keys, Sequences(ledger.keys, ledger.layout), remembered_runs=2)
    for run in ["a", "b", "a", "c"]:
        ledger.apply(metric("m", 1.0, None, run), rules=rules)
    assert [rules.remembered(run) is not None for run in "abc"] == [True, False, True]
    ledger.apply(metric("m", 2.0, None, "b", at=5), rules=rules)
    assert ledger.meta("b")["created_at"] == T0
    assert len(ledger.points("m", run="b")) == 2
