"""The key layout, row by row, and values."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import fdb.tuple
import msgpack
import pytest

from matyan.keys import Keys, pack_value, range_of, unpack, unpack_value


class Directories:
    """A store's directory layer and nothing more: all that Keys asks for."""

    is_shared = False

    def directory(self, path: tuple[str, ...]) -> bytes:
        return {
            ("data", "runs"): b"\x15\x01",
            ("data", "indexes"): b"\x15\x02",
            ("system",): b"\x15\x03",
        }[path]


KEYS = Keys(Directories())
RUNS, INDEXES, SYSTEM = KEYS.runs, KEYS.indexes, KEYS.system

ROWS: list[tuple[bytes, bytes, tuple[object, ...]]] = [
    (KEYS.meta("r", "name"), RUNS, ("r", "meta", "name", "__leaf__")),
    (KEYS.meta_prefix("r"), RUNS, ("r", "meta")),
    (KEYS.attrs("r"), RUNS, ("r", "attrs")),
    (KEYS.attrs("r", "hparams", "layers", 0), RUNS, ("r", "attrs", "hparams", "layers", 0)),
    (KEYS.context("r", 7), RUNS, ("r", "contexts", 7)),
    (KEYS.contexts_prefix("r"), RUNS, ("r", "contexts")),
    (KEYS.trace("r", 0, "loss", "last"), RUNS, ("r", "traces", 0, "loss", "last")),
    (KEYS.traces_prefix("r"), RUNS, ("r", "traces")),
    (KEYS.seq("r", 0, "loss"), RUNS, ("r", "seqs", 0, "loss")),
    (KEYS.seqs_prefix("r"), RUNS, ("r", "seqs")),
    (KEYS.entities_prefix("tags"), SYSTEM, ("tags",)),
    (KEYS.parts("r", 0, "fig"), RUNS, ("r", "parts", 0, "fig")),
    (KEYS.run_tag("r", "u"), RUNS, ("r", "tags", "u")),
    (KEYS.run_tags_prefix("r"), RUNS, ("r", "tags")),
    (KEYS.index("archived", False, "r"), INDEXES, ("archived", False, "r")),
    (KEYS.index("active", True, "r"), INDEXES, ("active", True, "r")),
    (KEYS.index("created_at", 1.5, "r"), INDEXES, ("created_at", 1.5, "r")),
    (KEYS.index("hparam", "lr", 1, "r"), INDEXES, ("hparam", "lr", 1, "r")),
    (KEYS.reverse_index("r", "tag", "x", "r"), INDEXES, ("_rev", "r", "tag", "x", "r")),
    (KEYS.reverse_index_prefix("r"), INDEXES, ("_rev", "r")),
    (KEYS.tombstone("r"), INDEXES, ("_deleted", "r")),
    (KEYS.tombstones_prefix(), INDEXES, ("_deleted",)),
    (KEYS.experiment("u", "name"), SYSTEM, ("experiments", "u", "name")),
    (KEYS.experiment("u"), SYSTEM, ("experiments", "u")),
    (KEYS.experiment_by_name("e"), SYSTEM, ("experiments_by_name", "e")),
    (KEYS.experiment_run("u", "r"), SYSTEM, ("experiment_runs", "u", "r")),
    (KEYS.experiment_of_run("r"), SYSTEM, ("run_experiment", "r")),
    (KEYS.tag("u", "color"), SYSTEM, ("tags", "u", "color")),
    (KEYS.tag_by_name("t"), SYSTEM, ("tags_by_name", "t")),
    (KEYS.tag_run("u", "r"), SYSTEM, ("tag_runs", "u", "r")),
    (KEYS.tag_of_run("r", "u"), SYSTEM, ("run_tags", "r", "u")),
    (KEYS.tag_of_run("r"), SYSTEM, ("run_tags", "r")),
    (KEYS.owed_deletion("r"), SYSTEM, ("deletion_owed", "r")),
    (KEYS.job_lock("j"), SYSTEM, ("job_lock", "j")),
    (KEYS.job_lock_owner("j"), SYSTEM, ("job_lock_owner", "j")),
    (KEYS.activity("r"), SYSTEM, ("activity", "r")),
    (KEYS.shape("r"), SYSTEM, ("shape", "r")),
    (KEYS.shape(), SYSTEM, ("shape",)),
    (KEYS.trace("r", 0, "loss", "summary"), RUNS, ("r", "traces", 0, "loss", "summary")),
    (KEYS.ingest("local", 0), SYSTEM, ("ingest", "local", 0)),
    (KEYS.ingest_prefix(), SYSTEM, ("ingest",)),
    (KEYS.layout(), SYSTEM, ("layout",)),
    (KEYS.control_event(3), SYSTEM, ("control_events", 3)),
    (KEYS.control_events_prefix(), SYSTEM, ("control_events",)),
    (KEYS.webhook_event("chat", 3), SYSTEM, ("webhook_events", "chat", 3)),
    (KEYS.webhook_events_prefix("chat"), SYSTEM, ("webhook_events", "chat")),
    (KEYS.webhook_events_prefix(), SYSTEM, ("webhook_events",)),
    (KEYS.dead_letter(300), SYSTEM, ("dead_letters", 300)),
    (KEYS.dead_letters_prefix(), SYSTEM, ("dead_letters",)),
]


@pytest.mark.parametrize(("key", "prefix", "items"), ROWS, ids=[str(row[2]) for row in ROWS])
def test_every_row_is_the_contracts_tuple(
    key: bytes, prefix: bytes, items: tuple[object, ...]
) -> None:
    """Byte-equal to fdb.tuple.pack behind the directory's prefix, and read back."""
    assert key == prefix + fdb.tuple.pack(items)
    assert unpack(key, len(prefix)) == items


def test_a_bool_an_int_and_a_float_are_three_keys() -> None:
    """So the hparam index tells 1, 1.0 and True apart."""
    assert len({KEYS.index("hparam", "x", value, "r") for value in (True, 1, 1.0)}) == 3


def test_a_runs_range_holds_its_keys_and_no_others() -> None:
    """`r1` starts with `r`, and is another run."""
    begin, end = KEYS.run_range("r")
    assert begin <= KEYS.meta("r", "name") < end
    assert not begin <= KEYS.meta("r1", "name") < end
    assert (begin, end) == range_of(RUNS + fdb.tuple.pack(("r",)))


@pytest.mark.parametrize(
    "value", [None, True, 2**64 - 1, -1.5, "ü", b"\x00", [1, {"a": []}], {"1": {}}]
)
def test_values_are_msgpack(value: object) -> None:
    assert pack_value(value) == msgpack.packb(value, use_bin_type=True)
    assert unpack_value(pack_value(value)) == value


def test_a_datetime_comes_back() -> None:
    moment = datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    assert unpack_value(pack_value(moment)) == moment


def test_a_nan_comes_back() -> None:
    assert math.isnan(unpack_value(pack_value(math.nan)))
