"""Damage of every kind is found where it is, and what can be derived is mended, without a change of anything else.

What the rules wrote has no finding: `test_records_model.py` says so of any log.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from matyan._codec import (
    Columns,
    compatible_object,
    decode_chunk,
    encode_chunk,
    key_int,
    pack,
)
from matyan.keys import CHUNK, EMPTY_DICT, EMPTY_LIST, LEAF, POINT_FIELDS, pack_value
from matyan.rules.audit.findings import KINDS
from matyan.rules.sequences import Growth, Layout
from tests.ledger import Ledger, metric, record
from tests.rules.audit import findings

RUNS = ("r", "s")
GONE = "gone"


def whole(layout: Layout) -> Ledger:
    """A store with something of everything, and nothing wrong."""
    ledger = Ledger(layout)
    ledger.store.rows = dict(rows_of_everything(layout))
    return ledger


@cache
def rows_of_everything(layout: Layout) -> dict[bytes, bytes]:
    ledger = Ledger(layout, Growth(early=3, latest=4, chunk=8))
    for run in RUNS:
        hparams = {"lr": 0.1, "layers": [1, 2], "opt": {"name": "adam"}, "empty": {}, "none": None}
        ledger.apply(
            record("create_run", run, client_datetime="2026-01-02T03:04:05Z"),
            record("log_hparams", run, value={"hparams": hparams}),
            record("log_hparams", run, value={"note": "x", "deep": {"a": {"b": 1}}}),
            record("set_run_property", run, experiment="digits", archived=False),
            record("add_tag", run, tag_name="red"),
            record("add_tag", run, tag_name="blue"),
            record("remove_tag", run, tag_name="blue"),
            record("blob_ref", run, s3_key=f"{run}/a", artifact_path="a", content_type="x/y"),
        )
        for step in range(30):
            ledger.apply(
                metric("loss", 1 / (step + 1), step, run, epoch=step // 3),
                metric("loss", float(step), step, run, context={"subset": "val"}),
                record("log_terminal_line", run, line=f"line {step}", step=step),
                record("log_record", run, message="m", level=20, timestamp=1.0),
            )
        large = {"type": "figure", "data": "x" * 200_000}
        for step, value in ((0, {"type": "text", "data": "y"}), (1, large)):
            ledger.apply(
                record(
                    "log_custom_object",
                    run,
                    name="figure",
                    value=value,
                    step=step,
                    epoch=None,
                    context=None,
                    dtype="figure",
                )
            )
    ledger.apply(record("create_run", GONE, client_datetime=None), metric("loss", 1.0, 0, GONE))
    ledger.apply(record("delete_run", GONE))
    return ledger.store.rows


Change = dict[bytes, bytes | None]
"""Rows to set, or to take away."""


def uuid_of(ledger: Ledger, family: str, name: str) -> str:
    return str(ledger.system(f"{family}_by_name", name)[f"{family}_by_name", name])


def drop(*keys: bytes) -> Change:
    return dict.fromkeys(keys)


def rows_of(ledger: Ledger, prefix: bytes) -> list[bytes]:
    return sorted(key for key in ledger.store.rows if key.startswith(prefix))


# Each damages one run's rows; and the kinds of findings that must come of it.
Damage = Callable[[Ledger, str, random.Random], Change]


def index_forward(ledger: Ledger, run: str, dice: random.Random) -> Change:
    facts = sorted(ledger.facts(run), key=repr)
    return drop(ledger.keys.index(*dice.choice(facts), run))


def index_twin(ledger: Ledger, run: str, dice: random.Random) -> Change:
    facts = sorted(ledger.facts(run), key=repr)
    return drop(ledger.keys.reverse_index(run, *dice.choice(facts), run))


def index_both(ledger: Ledger, run: str, dice: random.Random) -> Change:
    fact = dice.choice(sorted(ledger.facts(run), key=repr))
    return drop(ledger.keys.index(*fact, run), ledger.keys.reverse_index(run, *fact, run))


STALE: list[tuple[Any, ...]] = [
    ("tag", "blue"),
    ("experiment", "other"),
    ("hparam", "lr", 0.2),
    ("hparam", "lr", True),
    ("hparam", "nothing", "x"),
    ("trace", "accuracy"),
    ("active", False),
    ("archived", True),
    ("created_at", 1.5),
]


def index_stale(ledger: Ledger, run: str, dice: random.Random) -> Change:
    fact = dice.choice(STALE)
    keys = [ledger.keys.index(*fact, run), ledger.keys.reverse_index(run, *fact, run)]
    return dict.fromkeys(dice.choice([keys, keys[:1], keys[1:]]), b"")


def index_of_nobody(ledger: Ledger, run: str, dice: random.Random) -> Change:
    fact = dice.choice(STALE)
    keys = [
        ledger.keys.index(*fact, "nobody"),
        ledger.keys.reverse_index("nobody", *fact, "nobody"),
    ]
    return dict.fromkeys(dice.choice([keys, keys[:1], keys[1:]]), b"")


def meta_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(ledger.keys.meta(run, "created_at"))


def deleted(ledger: Ledger, run: str, dice: random.Random) -> Change:
    keys = ledger.keys
    rows = [
        (keys.seq(GONE, 0, "loss") + POINT_FIELDS["val"] + pack((0,)), pack_value(1.0)),
        (keys.activity(GONE), pack_value(1.0)),
        (keys.owner(GONE), pack_value("T/0")),
        (keys.index("tag", "red", GONE), b""),
        (keys.reverse_index(GONE, "tag", "red", GONE), b""),
        (keys.meta(GONE, "name"), pack_value("x")),
        (keys.tag_of_run(GONE, uuid_of(ledger, "tags", "red")), pack_value(True)),
    ]
    return dict(dice.sample(rows, dice.randint(1, len(rows))))


def activity_of_nobody(ledger: Ledger, run: str, dice: random.Random) -> Change:
    keys = ledger.keys
    rows = [(keys.activity("nobody"), pack_value(1.0)), (keys.owner("nobody"), pack_value("T/0"))]
    return dict(dice.sample(rows, dice.randint(1, 2)))


def leaf_beside_tree(ledger: Ledger, run: str, dice: random.Random) -> Change:
    path, marker = dice.choice(
        [
            (("hparams", "opt"), LEAF),
            (("hparams", "layers"), EMPTY_DICT),
            (("hparams",), LEAF),
            (("deep", "a"), EMPTY_LIST),
            (("hparams", "lr"), EMPTY_DICT),
        ]
    )
    value = pack_value("stale" if marker == LEAF else True)
    return {ledger.keys.attrs(run, *path, marker): value}


def list_beside_object(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return {ledger.keys.attrs(run, "hparams", "opt", 0, LEAF): pack_value(1)}


def empty_context_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(ledger.keys.context(run, 0))


def context_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(ledger.keys.context(run, ledger.context_id({"subset": "val"}, run)))


SEQUENCES = [("loss", 0), ("logs", 0), ("__log_records", 0), ("figure", 0)]


def trace_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    name, ctx = dice.choice(SEQUENCES)
    return drop(ledger.keys.trace(run, ctx, name, "last_step"))


def last_step(ledger: Ledger, run: str, dice: random.Random) -> Change:
    name, ctx = dice.choice(SEQUENCES)
    return {
        ledger.keys.trace(run, ctx, name, "last_step"): pack_value(dice.choice([0, 7, 99, "x"]))
    }


def last_value(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return {ledger.keys.trace(run, 0, "loss", "last"): pack_value(dice.choice([0.0, 7.5, "x"]))}


def points_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(*rows_of(ledger, ledger.keys.seq(run, 0, "loss")))


def keyed_sequence(ledger: Ledger, dice: random.Random) -> str:
    return dice.choice(
        ["logs", "__log_records"] + (["loss"] if ledger.layout == "compatible" else [])
    )


def point_row(
    ledger: Ledger, run: str, dice: random.Random, field: str, steps: tuple[int, int] = (0, 28)
) -> bytes:
    """Of a step below the highest."""
    prefix = ledger.keys.seq(run, 0, keyed_sequence(ledger, dice)) + POINT_FIELDS[field]
    return key_int(prefix, dice.randint(*steps))


def val_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(point_row(ledger, run, dice, "val"))


def time_left(ledger: Ledger, run: str, dice: random.Random) -> Change:
    field = dice.choice(["time", "step", "epoch"])
    return {point_row(ledger, run, dice, field, (100, 5_000)): pack_value(1)}


def step_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    key = point_row(ledger, run, dice, "step")
    return dice.choice([drop(key), {key: pack_value(77)}])


def time_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(point_row(ledger, run, dice, "time"))


def chunks(ledger: Ledger, run: str) -> list[bytes]:
    return rows_of(ledger, ledger.keys.seq(run, 0, "loss") + CHUNK)


def chunk_unreadable(ledger: Ledger, run: str, dice: random.Random) -> Change:
    key = dice.choice(chunks(ledger, run))
    value = ledger.store.rows[key]
    return {key: dice.choice([b"", b"\xff" + value[1:], value[: len(value) // 2]])}


def chunk_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(dice.choice(chunks(ledger, run)[:-1]))


def chunk_order(ledger: Ledger, run: str, dice: random.Random) -> Change:
    key = chunks(ledger, run)[-1]
    columns = Columns()
    decode_chunk(ledger.store.rows[key], columns)
    turned = Columns()
    turned.append(3, 1.0, 1.0)
    turned.append(2, 1.0, 1.0)
    return {key: encode_chunk(turned, ordered=True, before=30 - len(columns))}


def parts_left(ledger: Ledger, run: str, dice: random.Random) -> Change:
    prefix = key_int(ledger.keys.parts(run, 0, "figure"), dice.choice([5, 17]))
    return {key_int(prefix, i): b"x" * 50 for i in range(dice.randint(1, 3))}


def part_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(dice.choice(rows_of(ledger, ledger.keys.parts(run, 0, "figure"))))


def member_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    keys = ledger.keys
    experiment, tag = uuid_of(ledger, "experiments", "digits"), uuid_of(ledger, "tags", "red")
    return drop(
        dice.choice(
            [
                keys.experiment_run(experiment, run),
                keys.experiment_of_run(run),
                keys.tag_run(tag, run),
                keys.tag_of_run(run, tag),
            ]
        )
    )


def member_of_nobody(ledger: Ledger, run: str, dice: random.Random) -> Change:
    keys = ledger.keys
    experiment, tag = uuid_of(ledger, "experiments", "digits"), uuid_of(ledger, "tags", "red")
    key = dice.choice([keys.experiment_run(experiment, "nobody"), keys.tag_run(tag, "nobody")])
    return {key: pack_value(True)}


def tag_row_left(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return {ledger.keys.run_tag(run, uuid_of(ledger, "tags", "blue")): pack_value(True)}


def name_gone(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return drop(
        dice.choice([ledger.keys.experiment_by_name("digits"), ledger.keys.tag_by_name("red")])
    )


def name_stale(ledger: Ledger, run: str, dice: random.Random) -> Change:
    keys = ledger.keys
    key = dice.choice([keys.experiment_by_name("digits"), keys.tag_by_name("new")])
    return {key: pack_value("nobody")}


def name_taken(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return {ledger.keys.tag("another", "name"): pack_value("red")}


def counter(ledger: Ledger, run: str, dice: random.Random) -> Change:
    keys = ledger.keys
    key = dice.choice(
        [
            keys.experiment(uuid_of(ledger, "experiments", "digits"), "run_count"),
            keys.tag(uuid_of(ledger, "tags", "red"), "run_count"),
            keys.tag(uuid_of(ledger, "tags", "blue"), "run_count"),
        ]
    )
    return {key: pack_value(dice.choice([7, -1, "x"]))}


def shape(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return {ledger.keys.shape(run): dice.choice([pack_value(bytes(16)), pack_value(7), b""])}


def shape_of_nobody(ledger: Ledger, run: str, dice: random.Random) -> Change:
    return {ledger.keys.shape("nobody"): pack_value(bytes(16))}


def summary(ledger: Ledger, run: str, dice: random.Random) -> Change:
    wrong = [[29, 29, 1.0, 1 / 30, 1.0], [29, 30, 1.0, 0.0, 1.0], [28, 30, 1.0, 1 / 30, 1.0], None]
    return {ledger.keys.trace(run, 0, "loss", "summary"): pack_value(dice.choice(wrong))}


DAMAGES: list[tuple[Damage, set[str]]] = [
    (index_forward, {"index-missing"}),
    (index_twin, {"index-missing"}),
    (index_both, {"index-missing"}),
    (index_stale, {"index-stale"}),
    (index_of_nobody, {"index-stale"}),
    (meta_gone, {"run-without-meta"}),
    (deleted, {"deleted-run"}),
    (activity_of_nobody, {"rows-without-run"}),
    (leaf_beside_tree, {"leaf-beside-tree"}),
    (list_beside_object, {"list-beside-object"}),
    (empty_context_gone, {"context-missing"}),
    (context_gone, {"context-missing"}),
    (trace_gone, {"trace-missing"}),
    (last_step, {"last-step"}),
    (last_value, {"last-value"}),
    (points_gone, {"points-missing"}),
    (val_gone, {"field-without-value"}),
    (time_left, {"field-without-value"}),
    (step_gone, {"value-without-step"}),
    (time_gone, {"value-without-time"}),
    (chunk_unreadable, {"chunk-unreadable"}),
    (chunk_gone, {"chunk-order"}),
    (chunk_order, {"chunk-order"}),
    (parts_left, {"parts-without-value"}),
    (part_gone, {"parts-incomplete"}),
    (member_gone, {"member-one-sided"}),
    (member_of_nobody, {"rows-without-run"}),
    (tag_row_left, {"tag-row-left"}),
    (name_gone, {"name-missing"}),
    (name_stale, {"name-stale"}),
    (name_taken, {"name-taken"}),
    (counter, {"counter"}),
    (shape, {"shape"}),
    (shape_of_nobody, {"rows-without-run"}),
    (summary, {"summary"}),
]
UNDONE = {
    *("list_beside_object", "context_gone", "points_gone", "time_gone", "chunk_unreadable"),
    *("chunk_gone", "chunk_order", "part_gone", "name_taken"),
}
"""What no other row tells: found, told, and left alone."""
FORGOTTEN = {"val_gone"}
"""What is lost is lost; what hung on it goes."""
PACKED_ALONE = {"chunk_unreadable", "chunk_gone", "chunk_order"}
ids = [damage.__name__ for damage, _ in DAMAGES]
layouts = pytest.mark.parametrize("layout", ["compatible", "packed"])


def spoil(ledger: Ledger, change: Change) -> None:
    rows = dict(ledger.store.rows)
    for key, value in change.items():
        if value is None:
            del rows[key]
        else:
            rows[key] = value
    ledger.store.rows = rows


def without_owners(ledger: Ledger) -> dict[bytes, bytes]:
    """A mend takes away who owns the run, so that its writers read it anew."""
    owners = pack(("owner",), ledger.keys.system)
    return {key: value for key, value in ledger.store.rows.items() if not key.startswith(owners)}


@layouts
def test_a_whole_store_has_no_finding(layout: Layout) -> None:
    """And a mend has nothing to do there."""
    ledger = whole(layout)
    before = dict(ledger.store.rows)
    assert findings(ledger) == []
    assert findings(ledger, mend=True) == []
    assert ledger.store.rows == before


def test_every_kind_has_a_damage() -> None:
    told = set().union(*(kinds for _, kinds in DAMAGES))
    assert told == {name for name, kind in KINDS.items() if kind.is_damage}


@layouts
def test_what_a_store_without_shapes_and_summaries_lacks_is_made_by_a_mend_of_its_indexes(
    layout: Layout,
) -> None:
    """As an older version or the reference has left it: a look finds no damage, and what is made is what the rules keep."""
    ledger = whole(layout)
    sound = without_owners(ledger)
    made = [ledger.keys.shape(run) for run in RUNS]
    made += [
        key
        for run in RUNS
        for key in rows_of(ledger, ledger.keys.traces_prefix(run))
        if key.endswith(pack(("summary",)))
    ]
    assert len(made) == len(RUNS) * 6
    spoil(ledger, drop(*made))
    spoiled = without_owners(ledger)
    assert findings(ledger, mend=True) == []
    assert without_owners(ledger) == spoiled
    kinds = {"shape-missing", "summary-missing"}
    assert {one.kind for one in findings(ledger, only_indexes=True)} == kinds
    assert without_owners(ledger) == spoiled
    told = findings(ledger, mend=True, only_indexes=True)
    assert ({one.kind for one in told}, all(one.mended for one in told)) == (kinds, True)
    assert differences(without_owners(ledger), sound) == []
    assert findings(ledger, only_indexes=True) == []


@layouts
@pytest.mark.parametrize(("damage", "kinds"), DAMAGES, ids=ids)
def test_a_damage_is_found_and_mended(damage: Damage, kinds: set[str], layout: Layout) -> None:
    """By its kind. What was whole comes back byte by byte; what cannot be derived stays as it is."""
    name = damage.__name__
    if layout == "compatible" and name in PACKED_ALONE:
        return
    sound = without_owners(whole(layout))
    for seed in range(4):
        ledger = whole(layout)
        change = damage(ledger, RUNS[seed % 2], random.Random(seed))
        spoil(ledger, change)
        spoiled = without_owners(ledger)
        told = findings(ledger)
        assert {one.kind for one in told} >= kinds, told
        assert not any(one.mended for one in told)
        assert without_owners(ledger) == spoiled, "a look changes nothing"
        mended = findings(ledger, mend=True)
        if damage is not deleted:  # piece by piece, as its rows are come across
            assert {one.kind for one in mended} >= kinds
        if name in UNDONE:
            assert not any(one.mended for one in mended if one.kind in kinds)
            assert {one.kind for one in findings(ledger)} >= kinds
            changed = differences(without_owners(ledger), spoiled)
            # It follows the attributes, whatever stands there.
            assert [key for key, *_ in changed if key not in map(ledger.keys.shape, RUNS)] == []
            continue
        assert all(one.mended for one in mended), mended
        assert findings(ledger) == []
        if name not in FORGOTTEN:
            assert differences(without_owners(ledger), sound) == []


def test_a_writer_reads_anew_what_was_mended() -> None:
    """What it remembers of the run counts no more: a point without a step comes behind all that stands there."""
    ledger = Ledger("compatible")
    ledger.apply(metric("loss", 1.0, 5))
    rows = compatible_object(ledger.keys.seq("r", 0, "loss"), 99, None, 1.0, pack_value(2.0))
    spoil(ledger, {key: value for key, value in rows if value is not None})
    assert [one.kind for one in findings(ledger, mend=True)] == ["last-step", "summary"]
    ledger.apply(metric("loss", 3.0, None))
    assert [point[0] for point in ledger.points("loss")] == [5, 99, 100]
    assert findings(ledger) == []


@layouts
def test_a_deletion_that_goes_on_is_no_damage(layout: Layout) -> None:
    """Index rows that a worker still has to clear are left to it; when it is through, they are found."""
    ledger = whole(layout)
    owed = ledger.keys.owed_deletion(GONE)
    fact = ("trace", "loss")
    rows = [ledger.keys.index(*fact, GONE), ledger.keys.reverse_index(GONE, *fact, GONE)]
    spoil(ledger, {**dict.fromkeys(rows, b""), owed: pack_value(True)})
    before = dict(ledger.store.rows)
    assert findings(ledger, mend=True) == []
    assert ledger.store.rows == before
    spoil(ledger, {owed: None})
    assert findings(ledger, mend=True) != []
    assert findings(ledger) == []


def differences(one: dict[bytes, bytes], other: dict[bytes, bytes]) -> list[Any]:
    return [
        (key, one.get(key), other.get(key))
        for key in sorted(one.keys() | other.keys())
        if one.get(key) != other.get(key)
    ]


@layouts
@pytest.mark.parametrize("seed", range(6))
def test_many_damages_at_once_are_mended(layout: Layout, seed: int) -> None:
    """Of those that can be: whatever else is wrong with the store, and the rest of it is left alone."""
    dice = random.Random(seed)
    ledger = whole(layout)
    sound = without_owners(ledger)
    chosen = [
        damage for damage, _ in dice.sample(DAMAGES, 8) if damage.__name__ not in UNDONE | FORGOTTEN
    ]
    change: Change = {}
    for damage in chosen:
        for key, value in damage(ledger, dice.choice(RUNS), dice).items():
            change.setdefault(key, value)
    spoil(ledger, change)
    for _ in range(3):  # what is derived from what was mended comes the next time
        findings(ledger, mend=True)
    assert findings(ledger) == [], [damage.__name__ for damage in chosen]
    assert differences(without_owners(ledger), sound) == []
