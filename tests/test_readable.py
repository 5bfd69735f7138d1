"""Readers survive whatever stands in a store: what is damaged is skipped or marked, the rest is read."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import fdb.tuple
import msgpack
import pytest

from matyan import readable
from matyan._codec import pack
from matyan.broker.base import DeadLetter
from matyan.broker.local import _pack_letter
from matyan.cli import export, views
from matyan.errors import ConfigurationError, MatyanError
from matyan.folder.letters import Letters
from matyan.folder.wire import unpack_message
from matyan.keys import LEAF
from matyan.reader import _block
from matyan.rules.queries import Queries
from matyan.rules.sequences import Layout, Sequences
from tests.ledger import Ledger, metric, record

LAYOUTS: list[Layout] = ["packed", "compatible"]


@pytest.fixture(params=LAYOUTS)
def ledger(request: pytest.FixtureRequest) -> Ledger:
    layout: Layout = request.param
    ledger = Ledger(layout)
    ledger.apply(*LOG)
    ledger.store.rows[ledger.keys.dead_letter(0)] = _pack_letter(
        DeadLetter("t", 0, 3, b"k", b'{"run_id":"\\ud800","type":1}', "Malformed", "why")
    )
    return ledger


LOG = [
    record("create_run", client_datetime="2026-01-01T00:00:00"),
    record("set_run_property", name="n", experiment="e"),
    record("add_tag", tag_name="t"),
    record("log_hparams", value={"hparams": {"lr": 0.1, "layers": [1, {"n": 2}], "e": {}}}),
    record("blob_ref", s3_key="r/p", artifact_path="p"),
    metric("loss", 1.5, 0, epoch=0.5),
    metric("loss", float("nan"), 1, epoch=1),
    metric("loss", 2.5, None, context={"subset": "val"}),
    record("log_custom_object", name="o", value={"type": "x", "data": "y" * 100_000}, step=0),
    record("log_custom_object", name="loss", value={"type": "x"}, step=3),
    record("log_terminal_line", line="z" * 100_000, step=0),
    record("log_terminal_line", line="line", step=1),
    record("log_record", message="m", level=20, timestamp=12.5, extra_args={"a": 1}),
    record("create_run", "other", client_datetime="2026-01-01T00:00:00"),
]


def answers(ledger: Ledger, op: str, **arguments: Any) -> list[Any]:
    """What a client gets: through the wire's msgpack."""
    queries = Queries(ledger.keys, Sequences(ledger.keys, ledger.layout))
    read = Letters(ledger.keys).rows if op == "dlq_list" else getattr(queries, op)
    return ledger.store.look(
        lambda snap: [
            unpack_message(msgpack.packb(item, use_bin_type=True))
            for item in read(snap, **arguments)
        ]
    )


def read_all(ledger: Ledger) -> None:
    """Every reading command, up to what it prints."""
    runs = answers(ledger, "runs")
    json.dumps(runs)
    views.runs(runs)
    for run in "r", "other":
        try:
            (shown,) = answers(ledger, "show", run=run)
            json.dumps(shown)
            views.show(shown)
            logs = answers(ledger, "logs", run=run)
            json.dumps(logs)
            views.logs(logs)
            blocks = [_block(item) for item in answers(ledger, "export", run=run)]
            for write in export.write_csv, export.write_jsonl, export.write_parquet:
                write(blocks, io.BytesIO())
        except MatyanError:
            pass
    letters = answers(ledger, "dlq_list")
    json.dumps(letters)
    views.dead_letters(letters)


def leaf(*path: str | int) -> Callable[[Ledger], bytes]:
    return lambda ledger: pack(("r", *path), ledger.keys.runs)


BLOBS: list[object] = [1, "text", [1], {"a": 1}, {"a": {"b": 1}, "c": "d"}, None, {}, [], True, 1.5]


@pytest.mark.parametrize("value", BLOBS, ids=repr)
def test_an_attribute_in_the_artifacts_place_is_shown_like_any_other(
    ledger: Ledger, value: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another program may have written it: show goes on, and the run's next artifact takes its place."""
    ledger.apply(record("log_hparams", value={"__blobs__": value, "x": 1}))
    (shown,) = answers(ledger, "show", run="r")
    assert shown["attrs"]["__blobs__"] == value
    views.show(shown)
    assert "__blobs__" in capsys.readouterr().out or value in ({}, {"a": {"b": 1}})
    ledger.apply(record("blob_ref", s3_key="r/q", artifact_path="q"))
    (shown,) = answers(ledger, "show", run="r")
    assert shown["attrs"]["__blobs__"]["q"]["s3_key"] == "r/q"


def test_a_trace_without_a_type_is_shown(ledger: Ledger) -> None:
    """And one whose rows hold anything else."""
    rows, keys = ledger.store.rows, ledger.keys
    del rows[keys.trace("r", 0, "loss", "dtype")]
    rows[keys.trace("r", 0, "o", "last_step")] = msgpack.packb("three")
    rows[keys.trace("r", 0, "logs", "last")] = b"\xc1"
    (shown,) = answers(ledger, "show", run="r")
    found = {(one["name"], one["dtype"], one["last_step"]) for one in shown["sequences"]}
    assert {("loss", "float", 3), ("o", "custom", 0), ("logs", "logs", 1)} <= found


def test_a_meta_field_of_another_type_is_null(ledger: Ledger) -> None:
    """And a key without its end is none."""
    rows, keys = ledger.store.rows, ledger.keys
    for field, value in {"name": 5, "active": "yes", "duration": [1], "created_at": True}.items():
        rows[keys.meta("r", field)] = msgpack.packb(value)
    rows[pack(("r", "meta", "description"), keys.runs)] = msgpack.packb("bare")
    (shown,) = answers(ledger, "show", run="r")
    meta = shown["meta"]
    assert [meta[name] for name in ("name", "active", "duration", "created_at")] == [None] * 4
    assert meta["description"] == ""
    read_all(ledger)


def test_two_contexts_that_are_missing_are_two(ledger: Ledger) -> None:
    """So no two sequences look as one."""
    one, other = {"layer": 4141}, {"layer": 8106}
    ledger.apply(metric("m", 1.0, 0, context=one), metric("m", 2.0, 0, context=other))
    first = ledger.context_id(one)
    del ledger.store.rows[ledger.keys.context("r", first)]
    ledger.store.rows[ledger.keys.context("r", first + 1)] = msgpack.packb([1])
    (shown,) = answers(ledger, "show", run="r")
    assert [one["context"] for one in shown["sequences"] if one["name"] == "m"] == [
        {"unreadable context": first},
        {"unreadable context": first + 1},
    ]
    wanted = {"unreadable context": first}
    (block,) = answers(ledger, "export", run="r", name="m", context=wanted)
    assert block["context"] == wanted


def test_a_damaged_chunk_is_said_and_the_rest_is_read() -> None:
    """`show` marks its sequence; `export` gives all others before it says what cannot be read."""
    ledger = Ledger("packed")
    ledger.apply(*LOG)
    ledger.store.rows[ledger.keys.seq("r", 0, "loss") + pack(("chunk", 0))] = b"\xff"
    (shown,) = answers(ledger, "show", run="r")
    points = {(one["name"], bool(one["context"])): one["points"] for one in shown["sequences"]}
    assert points["loss", False] is None
    assert points["loss", True] == 1
    views.show(shown)
    queries = Queries(ledger.keys, Sequences(ledger.keys, "packed"))
    names = []

    def body(snap: Any) -> None:
        names.extend(
            (block["name"], bool(block["context"])) for block in queries.export(snap, run="r")
        )

    with pytest.raises(ConfigurationError, match="chunk"):
        ledger.store.look(body)
    assert {("loss", True), ("o", False), ("logs", False), ("__log_records", False)} <= {*names}


VALUES: list[tuple[bytes, object]] = [
    (b"", "[unreadable: 0 bytes]"),
    (b"\xc1", "[unreadable: 1 bytes]"),
    (msgpack.packb({"a": b"x", 1: [b""]}), {"a": "[1 bytes]", "1": ["[0 bytes]"]}),
    (msgpack.packb(msgpack.ExtType(5, b"x")), "[ExtType]"),
    (msgpack.packb(msgpack.ExtType(1, msgpack.packb(0.0))), "1970-01-01T00:00:00+00:00"),
    (msgpack.packb(msgpack.ExtType(1, msgpack.packb(1e300))), "[unreadable: 12 bytes]"),
    (msgpack.packb(msgpack.ExtType(1, b"")), "[unreadable: 3 bytes]"),
    (b"\x81\x91\x01\x02", "[unreadable: 4 bytes]"),
    (b"\xa1\xff", "[unreadable: 2 bytes]"),
    (msgpack.packb([1, None, True, 1.5, "x", {}]), [1, None, True, 1.5, "x", {}]),
]


@pytest.mark.parametrize(("packed", "expected"), VALUES)
def test_a_value_is_what_json_can_hold(packed: bytes, expected: object) -> None:
    """What msgpack cannot read is marked with its size."""
    assert readable.value(packed) == expected
    json.dumps(readable.value(packed))


def test_what_is_nested_too_deep_is_cut() -> None:
    """No recursion ends a reader."""
    for depth in 129, 500, 1_000, 5_000:
        json.dumps(readable.value(b"\x91" * depth + b"\x01"))
        json.dumps(readable.value(b"\x81\xa1x" * depth + b"\x01"))


# --- anything ------------------------------------------------------------------------------------

ODD: list[object] = [
    None,
    True,
    0,
    -1,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
    float("nan"),
    float("inf"),
    1e300,
    1.7e18,
    "",
    "x" * 300,
    "\x1b[2J\r\n",
    b"\xff",
    [],
    [1, [2]],
    {},
    {"type": "x"},
    {1: 2, b"k": b"v"},
    {"__parts__": 3},
    msgpack.ExtType(1, msgpack.packb(1.5)),
    msgpack.ExtType(7, b"?"),
    datetime(2026, 1, 1, tzinfo=UTC).isoformat(),
]
ELEMENTS: list[Any] = [
    *("r", "other", "meta", "attrs", "contexts", "traces", "seqs", "parts", "tags", "name", "loss"),
    *("val", "step", "time", "epoch", "chunk", "dtype", "last", "last_step", "logs", "__blobs__"),
    *(LEAF, "__empty_dict__", "__empty_list__", "created_at", "hparam", "trace", "tag", "_rev"),
    *(0, 1, -1, 3, 2**63, -(2**70), 1.5, True, None, b"\x00", ("r", 1), ""),
]


def damage(rows: dict[bytes, bytes], rng: random.Random, prefixes: list[bytes]) -> None:
    """A few rows lost, replaced, cut, moved or added."""
    for _ in range(rng.randint(1, 6)):
        key = rng.choice(sorted(rows))
        kind = rng.randrange(7)
        if kind == 0:
            del rows[key]
        elif kind == 1:
            rows[key] = msgpack.packb(rng.choice(ODD))
        elif kind == 2:
            rows[key] = rng.randbytes(rng.randint(0, 12))
        elif kind == 3:
            rows[key[: rng.randint(1, len(key))]] = rows[key]
        elif kind == 4:
            rows[key + rng.randbytes(rng.randint(1, 4))] = rows[key]
        elif kind == 5:
            prefix = rng.choice(prefixes)
            path = tuple(rng.choices(ELEMENTS, k=rng.randint(0, 6)))
            rows[prefix + fdb.tuple.pack(path)] = msgpack.packb(rng.choice(ODD))
        else:
            rows[key] = rows[rng.choice(sorted(rows))]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("seed", range(12))
def test_every_reader_survives_any_rows(
    layout: Layout, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each command answers, or says in one sentence what it cannot read."""
    whole = Ledger(layout)
    whole.apply(*LOG)
    letter = DeadLetter("t", 0, 3, b"k", b'{"run_id":"\\ud800","type":1}', "Malformed", "why")
    whole.store.rows[whole.keys.dead_letter(0)] = _pack_letter(letter)
    keys = whole.keys
    prefixes = [keys.runs, keys.indexes, keys.system, pack(("r",), keys.runs)]
    prefixes += [pack(("r", room), keys.runs) for room in ("meta", "attrs", "traces", "contexts")]
    prefixes += [keys.seq("r", 0, "loss"), keys.parts("r", 0, "o"), keys.dead_letters_prefix()]
    for number in range(10):
        rng = random.Random(seed * 100 + number)
        damaged = Ledger(layout)
        damaged.store.rows = dict(whole.store.rows)
        damage(damaged.store.rows, rng, prefixes)
        read_all(damaged)
        capsys.readouterr()
