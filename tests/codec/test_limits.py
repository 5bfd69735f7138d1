"""Limits: what the frontier takes is stored, and what it refuses for its size could not be."""

from __future__ import annotations

import json
from typing import Any

import fdb.tuple
import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from matyan import _codec
from tests.codec.messages import STAMP, metric_members

RUN = "0a1b2c3d" * 16
METRIC = metric_members(type="log_metric")
OBJECT = {"type": "log_custom_object", "name": "n", "value": {}}
RECORD = {"type": "log_record", "message": "m", "level": 1, "timestamp": 0}


def validate(message: dict[str, Any], ensure_ascii: bool = True) -> _codec.Validated:
    return _codec.validate(
        json.dumps(message, ensure_ascii=ensure_ascii).encode(), RUN.encode(), STAMP
    )


def accepted(message: dict[str, Any]) -> bool:
    return bool(validate(message).records)


def reason(message: dict[str, Any]) -> str:
    """Why one message is rejected."""
    ((_, _, why),) = validate(message).rejected
    return why


def hparams(value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "log_hparams", "value": value}


# --- one stored value -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "member"),
    [
        ({"type": "set_run_property"}, "description"),
        ({"type": "set_run_property"}, "name"),
        ({"type": "blob_ref", "artifact_path": "a", "s3_key": f"{RUN}/a"}, "content_type"),
        (METRIC, "dtype"),
        (OBJECT, "dtype"),
    ],
)
def test_a_stored_value(message: dict[str, Any], member: str) -> None:
    """100,000 bytes as msgpack, counted in UTF-8 and not in JSON's escapes."""
    assert accepted({**message, member: "é" * ((100_000 - 5) // 2)})
    why = reason({**message, member: "é" * (100_000 // 2)})
    assert why == f"{member}: 100,005 bytes as stored; the limit is 100,000"


@pytest.mark.parametrize("message", [METRIC, OBJECT])
def test_a_context_is_a_stored_value(message: dict[str, Any]) -> None:
    assert reason({**message, "context": {"a": "x" * 100_000}}).startswith(
        "context: 100,008 bytes as stored"
    )
    assert accepted({**message, "context": {"a": [0.5] * 11_000}})
    assert reason({**message, "context": {"a": [0.5] * 11_112}}).startswith(
        "context: 100,014 bytes"
    )


def test_what_counts_of_equal_members_is_the_last() -> None:
    """As in all that is read of a message."""
    twice = b'{"a":"%b","a":"y"}' % (b"x" * 200_000)
    for body in (
        b'{"type":"log_hparams","value":%b}' % twice,
        json.dumps(METRIC | {"context": 7}).encode().replace(b": 7", b":" + twice),
    ):
        frame = _codec.validate(body, RUN.encode(), STAMP)
        assert frame.rejected == []


sizes = st.sampled_from([0, 1, 31, 32, 255, 256, 65_535, 65_536]) | st.integers(0, 300)
packed = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.sampled_from([-33, -32, 127, 128, 255, 256, 2**16, 2**32])
    | st.floats()
    | st.tuples(sizes, st.sampled_from(["x", "é", "\0", '"'])).map(lambda p: p[1] * p[0]),
    lambda inner: st.lists(inner, max_size=20) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(max_size=3), packed), st.booleans())
def test_a_value_is_refused_when_msgpack_makes_it_too_long(
    value: dict[str, Any], ascii: bool
) -> None:
    """And only then, whatever it is made of: filled up to the limit, and one byte over it."""
    value = {**value, "fill": ""}
    free = 100_000 - len(msgpack.packb(value)) - 4
    if free < 65_536:
        return
    for more, refused in ((0, False), (1, True)):
        value["fill"] = "x" * (free + more)
        assert len(msgpack.packb(value)) == 100_000 + more
        assert bool(validate(METRIC | {"context": value}, ascii).rejected) == refused


# --- what is stored in parts ------------------------------------------------------------------------


def test_one_message() -> None:
    """900 KiB of record; an object, a line and a log record may fill it, whatever they hold."""
    for message, member, fill in (
        (OBJECT, "value", lambda size: {"data": "x" * size}),
        ({"type": "log_terminal_line", "step": 1}, "line", lambda size: "x" * size),
        (RECORD, "message", lambda size: "x" * size),
        (RECORD, "extra_args", lambda size: {"a": "x" * size}),
        (RECORD, "logger_info", lambda size: ["x" * size]),
    ):
        (record,) = validate({**message, member: fill(0)}).records
        free = 900 * 1024 - len(record)
        assert len(validate({**message, member: fill(free)}).records[0]) == 900 * 1024
        why = reason({**message, member: fill(free + 1)})
        assert why == "the record takes 921,601 bytes; the limit of a message is 900 KiB (921,600)"
    assert accepted(OBJECT | {"value": {"data": [1.5] * 150_000}})


@pytest.mark.parametrize("spelled", ["type", r"t\u0079pe"])
@pytest.mark.parametrize("kind", ["x" * 500_000, ["x" * 60_000] * 2, {"a": [1] * 120_000}])
def test_the_type_of_a_large_object_is_a_stored_value(spelled: str, kind: object) -> None:
    """It stands in front of the parts."""
    body = json.dumps(OBJECT | {"value": {"data": 1, "type": kind}}).encode()
    body = body.replace(b'"type": ' + json.dumps(kind).encode(), b'"type":<>')
    body = body.replace(b'"type":<>', f'"{spelled}":{json.dumps(kind)}'.encode())
    ((_, _, why),) = _codec.validate(body, RUN.encode(), STAMP).rejected
    assert why.startswith("value: type: ")
    assert why.endswith(" bytes as stored; the limit is 100,000")


# --- hyperparameters --------------------------------------------------------------------------------


def rows_of(value: dict[str, Any]) -> list[tuple[bytes, bytes]]:
    """The rows of the contract's section 4 that a log_hparams writes, behind a directory's prefix of three bytes."""
    rows = []

    def walk(node: Any, *path: Any) -> None:
        if isinstance(node, dict | list) and node:
            for name, child in node.items() if isinstance(node, dict) else enumerate(node):
                walk(child, *path, name)
            return
        marker = "__empty_dict__" if node == {} else "__empty_list__" if node == [] else "__leaf__"
        leaf = True if isinstance(node, dict | list) else node
        rows.append((key(RUN, "attrs", *path, marker), msgpack.packb(leaf)))
        of_hparams = len(path) == 2 and path[0] == "hparams" and isinstance(path[1], str)
        if of_hparams and isinstance(node, str | int | float):
            forward = ("hparam", path[1], node, RUN)
            twin = key("_rev", RUN, *forward)
            if len(twin) <= 4_096 + 3:
                rows.extend([(key(*forward), b""), (twin, b"")])

    def key(*items: Any) -> bytes:
        return b"xyz" + bytes(fdb.tuple.pack(items))

    if value:
        walk(value)
    return rows


def verdict(value: dict[str, Any]) -> str:
    """What of a log_hparams is too large."""
    rows = rows_of(value)
    if sum(len(key) + len(packed) for key, packed in rows) > 4_000_000:
        return "4 MB"
    if any(len(key) > 4_096 and packed for key, packed in rows):
        return "4,096"
    return "100,000" if any(len(packed) > 100_000 for _, packed in rows) else ""


leaves = st.recursive(
    st.sampled_from([None, True, 1, -(2**63), 2**64 - 1, 1.5, "", "text", "é", "\0", "a_b"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc\0é"), inner, max_size=3)
    ),
    max_leaves=6,
)
names = st.tuples(
    st.sampled_from(["x", "é", "\0", "__"]),
    st.integers(1, 4) | st.integers(1_300, 1_400) | st.integers(3_700, 4_000),
).map(lambda parts: (parts[0] * parts[1])[: parts[1]])
values = st.dictionaries(
    names | st.just("hparams"), leaves | st.dictionaries(names, leaves, max_size=3), max_size=4
)


@given(values, st.booleans())
@example({"hparams": {"a": "x" * 4_100, "lr": 0.1, "seed": 1}}, True)
@example({"hparams": {"a" * 3_900: 1}}, True)
@example({"x" * 3_500: {"__": {}}}, True)
@example({"x" * 3_930: []}, True)
@example({"hparams": {"a": "x" * 100_000}}, True)
def test_hparams_are_taken_when_each_of_their_rows_fits(value: dict[str, Any], ascii: bool) -> None:
    """And only then; the reason names the limit."""
    frame = validate(hparams(value), ascii)
    expected = verdict(value)
    assert bool(frame.rejected) == bool(expected)
    if expected:
        assert expected in frame.rejected[0][2]


SHAPES: dict[str, Any] = {
    "indexed": lambda n: {"hparams": {f"name{i}": i for i in range(n)}},
    "indexed texts": lambda n: {"hparams": {f"{i}": "é" * 100 for i in range(n)}},
    "at the top": lambda n: {f"some name{i}" * 3: i for i in range(n)},
    "long paths": lambda n: {"x" * 3_000: {f"{i}": None for i in range(n)}},
    "zeros": lambda n: {"a": {"\0" * 1_500: list(range(n))}},
    "empty": lambda n: {"a": {"b" * 2_000: [[] if i % 2 else {} for i in range(n)]}},
    "lists": lambda n: {"hparams": {"a": {"b" * 100: [1.5] * n}}},
    "texts": lambda n: {"a" * 3_000: [f"{i}" * 50 for i in range(n)]},
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_all_of_a_log_hparams(shape: Any) -> None:
    """4 MB of keys and values as they are written, index rows and their twins too, to the byte."""

    def total(value: dict[str, Any]) -> int:
        return sum(len(key) + len(packed) for key, packed in rows_of(value))

    fits, over = 0, 120_000
    while over - fits > 1:
        middle = (fits + over) // 2
        if accepted(hparams(shape(middle))):
            fits = middle
        else:
            over = middle
    why = reason(hparams(shape(over)))
    if "900 KiB" in why:
        assert total(shape(fits)) < 4_000_000
    else:
        assert why == (
            "value: over 4,000,000 bytes as stored, with its keys and index rows; "
            "that is the limit of a log_hparams (4 MB)"
        )
        assert total(shape(fits)) <= 4_000_000 < total(shape(over))


# --- names that the layout keeps --------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"__blobs__": {"a": 1}},
        {"__blobs__": "text"},
        {"__blobs__": [1]},
        {"__blobs__": {}},
        {"__blobs__": {"a": {"s3_key": "r/a", "content_type": "b"}}, "hparams": {"lr": 1}},
        {"hparams": {"lr": 1}, "__leaf__": 1},
        {"hparams": {"a": [{"b": {"__leaf__": {"c": 1}}}]}},
        {"a": {"__empty_dict__": True}},
        {"a": [[{"__empty_list__": 0}]], "b": "x" * 5_000},
    ],
)
@pytest.mark.parametrize("escaped", [False, True])
def test_reserved_names_are_refused_by_name(value: dict[str, Any], escaped: bool) -> None:
    """At the top the blobs' place, and anywhere the markers of trees; however they are spelled."""
    body = json.dumps(hparams(value))
    (name,) = {
        name
        for name in ("__blobs__", "__leaf__", "__empty_dict__", "__empty_list__")
        if name in body
    }
    if escaped:
        body = body.replace(name, r"\u005f" + name[1:])
    ((_, _, why),) = _codec.validate(body.encode(), RUN.encode(), STAMP).rejected
    assert why.endswith(f"the store keeps the name {name} for itself; choose another one")


@pytest.mark.parametrize(
    "value",
    [
        {"__system_params": {"env_variables": {"__": 1, "__leaf_": 2, "_": "__leaf__"}}},
        {"hparams": {"__blobs__": 1, "a": ["__blobs__", "__empty_dict__"]}},
        {"__leaf__x": 1, "x__leaf__": 2, "__parts__": 3, "meta": 4, "leaf": 5},
        {},
    ],
)
def test_names_that_are_only_like_them_are_taken(value: dict[str, Any]) -> None:
    assert accepted(hparams(value))
