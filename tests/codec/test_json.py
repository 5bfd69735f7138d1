"""Frames: what is accepted becomes the record that the models would write, what is not is rejected alone."""

from __future__ import annotations

import json
import math
import random
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from matyan_api_models.kafka import IngestionMessage
from matyan_api_models.ws import WsRequestTAdapter
from pydantic import ValidationError

from matyan import _codec
from tests.codec.messages import STAMP, metric_members

RUN = "0a1b2c3d"
NOW = metric_members()["client_datetime"]


def frame_of(*messages: Any) -> bytes:
    return json.dumps(list(messages)).encode()


def validate(frame: bytes, run: str = RUN) -> _codec.Validated:
    return _codec.validate(frame, run.encode(), STAMP)


def metric(**changes: Any) -> dict[str, Any]:
    """A log_metric message as the SDK writes it."""
    return metric_members(**{"type": "log_metric", "run_id": RUN, **changes})


def payload(message: Any) -> dict[str, Any]:
    """The payload of one valid message."""
    frame = validate(frame_of(message))
    assert frame.rejected == []
    record = json.loads(frame.records[0])
    assert list(record) == ["type", "run_id", "timestamp", "payload"]
    assert record["type"] == message["type"] == _codec.KINDS[frame.kinds[0]]
    return record["payload"]


def reason(message: Any, run: str = RUN) -> str:
    """Why one message is rejected."""
    frame = validate(frame_of(message), run)
    assert frame.records == []
    return frame.rejected[0][2]


# --- against the models of matyan-api-models ----------------------------------------------------

times = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30)).flatmap(
    lambda t: st.sampled_from(["", "Z", "+00:00", "-03:30", "+0545"]).flatmap(
        lambda zone: st.sampled_from(
            [
                t.isoformat() + zone,
                t.isoformat(" ", "minutes") + zone,
                t.isoformat("T", "milliseconds") + zone,
            ]
        )
    )
)
int64 = st.integers(-(2**63), 2**63 - 1)
steps = st.one_of(int64, st.integers(0, 10**6), st.integers(-(2**52), 2**52).map(float))
fractions = st.floats(-1e15, 1e15).filter(lambda number: not number.is_integer())
epochs = st.none() | steps | fractions
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text()
)
free = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)
objects = st.dictionaries(st.text(), free, max_size=4)
names = st.text(min_size=1, max_size=100)
numbers = st.one_of(st.floats(), st.booleans(), st.integers())
VALID = {
    "create_run": ({"client_datetime": times}, {"force_resume": st.booleans()}),
    "log_metric": (
        {
            "name": names.filter(lambda n: n not in ("logs", "__log_records")),
            "value": numbers,
            "step": st.none() | steps,
            "epoch": epochs,
            "context": st.none() | objects,
            "dtype": st.none() | st.text(),
            "client_datetime": times,
        },
        {},
    ),
    "log_hparams": ({"value": objects}, {}),
    "finish_run": ({}, {"client_datetime": times}),
    "set_run_property": (
        {},
        {
            "name": st.none() | st.text(),
            "description": st.none() | st.text(),
            "archived": st.none() | st.booleans(),
            "experiment": st.none() | names,
        },
    ),
    "add_tag": ({"tag_name": names}, {}),
    "remove_tag": ({"tag_name": names}, {}),
    "log_custom_object": (
        {
            "name": names.filter(lambda n: n not in ("logs", "__log_records")),
            "value": objects,
        },
        {
            "step": st.none() | steps,
            "epoch": epochs,
            "context": st.none() | objects,
            "dtype": st.text(),
            "client_datetime": st.none() | times,
        },
    ),
    "log_terminal_line": ({"line": st.text(), "step": steps}, {}),
    "log_record": (
        {"message": st.text(), "level": steps, "timestamp": st.floats() | st.integers()},
        {"logger_info": st.none() | st.lists(free), "extra_args": st.none() | objects},
    ),
    "blob_ref": (
        {"artifact_path": st.text("abc/é _-"), "s3_key": st.just("")},
        {"content_type": st.text()},
    ),
}


def messages_of(kind: str) -> st.SearchStrategy[dict[str, Any]]:
    required, optional = VALID[kind]
    fixed = {"type": st.just(kind), "run_id": st.just(RUN)}
    return st.fixed_dictionaries(fixed | required, optional=optional | {"unknown": free})


def finished(message: dict[str, Any]) -> dict[str, Any]:
    """The s3_key of a blob_ref follows from its path."""
    if message["type"] == "blob_ref":
        message["s3_key"] = f"{RUN}/{message['artifact_path']}"
    return message


valid_messages = st.sampled_from(list(VALID)).flatmap(messages_of).map(finished)


def expected_payload(message: dict[str, Any]) -> dict[str, Any]:
    """What the models make of a message, as the contract's table says, with the differences of its section 7."""
    epoch = message.get("epoch")
    fraction = isinstance(epoch, float) and not epoch.is_integer()
    model = WsRequestTAdapter.validate_python(message | {"epoch": None} if fraction else message)
    out = model.model_dump(exclude={"type", "run_id"})
    kind = message["type"]
    if fraction:
        out["epoch"] = epoch
    if kind == "finish_run" and message.get("client_datetime"):
        out["client_datetime"] = message["client_datetime"]
    if kind in ("set_run_property", "log_record"):
        out = {k: v for k, v in out.items() if v is not None}
    return out


def same(ours: Any, theirs: Any) -> bool:
    """Equal in value and in type; NaN equals NaN."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(ours, float) and math.isnan(ours):
        return math.isnan(theirs)
    return bool(ours == theirs)


def moment(text: Any) -> Any:
    """A time as the models read it, no offset taken as UTC."""
    value = datetime.fromisoformat(text) if isinstance(text, str) else text
    return value if value is None or value.tzinfo else value.replace(tzinfo=UTC)


@given(valid_messages)
def test_a_payload_is_what_the_models_would_write(message: dict[str, Any]) -> None:
    """Every member, in value and in type; times are the same moments."""
    ours = payload(message)
    theirs = expected_payload(message)
    if "client_datetime" in theirs:
        assert re.search(r"Z|[+-]\d\d:?\d\d$", ours["client_datetime"] or "Z")
        assert moment(ours.pop("client_datetime")) == moment(theirs.pop("client_datetime"))
    assert same(ours, theirs)


@given(valid_messages)
def test_a_record_is_read_by_the_models(message: dict[str, Any]) -> None:
    """The envelope is an IngestionMessage, with NaN and infinities kept."""
    (record,) = validate(frame_of(message)).records
    model = IngestionMessage.model_validate_json(record)
    assert (model.type, model.run_id) == (message["type"], RUN)
    assert model.timestamp == datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    assert same(model.payload, json.loads(record)["payload"])


# Where we differ from the models on purpose (contract, section 7): the one table of it.
# What a member is, and what the models coerce to it; we reject these.
COERCED: dict[str, list[Any]] = {
    "string": [],
    "value": ["1", "NaN"],
    "number": ["1", "NaN", True, False],
    "integer": ["1", True, False],
    "epoch": ["1", True, False],
    "boolean": [1, 0.0, "1", "true"],
    "object": [],
    "array": [],
    "time": ["1", "2026-01-01", 1, 0.0, 1.5],
}
# And this we take, which they refuse.
KEPT: dict[str, list[Any]] = {"epoch": [1.5]}
# (message, member of the payload or part of the reason that is ours, the models' verdict)
OTHERWISE: list[tuple[dict[str, Any], str, bool]] = [
    ({"type": "finish_run", "client_datetime": NOW}, "client_datetime", True),
    (
        {"type": "log_custom_object", "name": "a", "value": {}, "client_datetime": NOW},
        "client_datetime",
        True,
    ),
    (metric(step=2**63), "step: out of the range of int64", True),
    (metric(epoch=-(2**63) - 1), "epoch: out of the range of int64", True),
    (metric(context={"a": 2**64}), "context: an integer is outside", True),
    (metric(context={"a": -(2**63) - 1}), "context: an integer is outside", True),
    (metric(name=""), "name: has 0 bytes; a name has 1 to 512", True),
    (metric(name="é" * 257), "name: has 514 bytes; a name has 1 to 512", True),
    (metric(name="logs"), "name: belongs to the run's own logs", True),
    (metric(name="__log_records", context=None), "name: belongs to the run's own logs", True),
    (metric(dtype="\ud800"), "dtype: a lone surrogate", True),
    (metric(context={"\udfff": 1}), "context: a lone surrogate", True),
    (
        metric(client_datetime="2026-01-01T00:00:00,5"),
        "client_datetime: expected an ISO 8601",
        True,
    ),
    (metric(client_datetime="2026-01-01t00:00z"), "client_datetime: expected an ISO 8601", True),
    (
        {"type": "blob_ref", "s3_key": "other/a", "artifact_path": "a"},
        "s3_key: expected run_id/artifact_path",
        True,
    ),
    (
        {"type": "blob_ref", "s3_key": f"{RUN}/../a", "artifact_path": "../a"},
        "artifact_path: holds a segment",
        True,
    ),
]

MEMBERS = {
    "client_datetime": "time",
    "force_resume": "boolean",
    "name": "string",
    "step": "integer",
    "epoch": "epoch",
    "context": "object",
    "dtype": "string",
    "description": "string",
    "archived": "boolean",
    "experiment": "string",
    "tag_name": "string",
    "line": "string",
    "message": "string",
    "level": "integer",
    "timestamp": "number",
    "logger_info": "array",
    "extra_args": "object",
    "s3_key": "string",
    "artifact_path": "string",
    "content_type": "string",
    "value": "object",
}
BASE: dict[str, dict[str, Any]] = {
    "create_run": {"client_datetime": NOW},
    "log_metric": metric(),
    "log_hparams": {"value": {"a": 1}},
    "finish_run": {},
    "set_run_property": {},
    "add_tag": {"tag_name": "t"},
    "remove_tag": {"tag_name": "t"},
    "log_custom_object": {"name": "n", "value": {}},
    "log_terminal_line": {"line": "l", "step": 1},
    "log_record": {"message": "m", "level": 20, "timestamp": 1.5},
    "blob_ref": {"s3_key": f"{RUN}/text", "artifact_path": "text"},
}
TRIED: list[Any] = [
    ...,
    None,
    True,
    False,
    1,
    0.0,
    1.5,
    "text",
    "1",
    "true",
    "NaN",
    "2026-01-01",
    NOW,
    "2026-13-01T00:00",
    [],
    {},
    [1],
    {"a": [None]},
    float("nan"),
]


@pytest.mark.parametrize("kind", list(VALID))
def test_a_member_of_another_type_is_rejected_where_the_models_reject_it(kind: str) -> None:
    """Each member of each kind, absent, null and of every type: only what COERCED names differs."""
    for member in VALID[kind][0] | VALID[kind][1]:
        what = "value" if (kind, member) == ("log_metric", "value") else MEMBERS[member]
        for value in TRIED:
            message = {**BASE[kind], "type": kind, "run_id": RUN, member: value}
            message = {k: v for k, v in message.items() if v is not ...}
            if member == "artifact_path" and isinstance(value, str):
                message = finished(message)
            elif member == "s3_key" and isinstance(value, str):
                value = message[member] = f"{RUN}/text"
            frame = validate(frame_of(message))
            ours = frame.rejected == []
            if kind == "finish_run" and member in message and value is not None:
                message["type"] = "create_run"  # the models' finish_run has no time, ours has
            theirs = accepted(message)
            theirs = theirs or value in KEPT.get(what, [])
            assert ours == (theirs and (type(value), value) not in coerced(what)), message
            if not ours:
                ((index, named, why),) = frame.rejected
                assert (index, named) == (0, kind)
                assert why.startswith(f"{member}: ")


def accepted(message: dict[str, Any]) -> bool:
    """By the models."""
    try:
        WsRequestTAdapter.validate_python(message)
    except ValidationError:
        return False
    return True


def coerced(what: str) -> list[tuple[type, Any]]:
    return [(type(value), value) for value in COERCED[what]]


@pytest.mark.parametrize(("message", "ours", "theirs"), OTHERWISE)
def test_what_differs_from_the_models_differs_as_the_table_says(
    message: dict[str, Any], ours: str, theirs: bool
) -> None:
    """A payload that keeps more, or a rejection that names the limit."""
    message = {"run_id": RUN, **message}
    assert accepted(message) == theirs
    frame = validate(frame_of(message))
    if frame.rejected:
        assert frame.rejected[0][2].startswith(ours)
    else:
        assert ours in json.loads(frame.records[0])["payload"]


# --- against Python's json ----------------------------------------------------------------------

texts = st.recursive(
    st.sampled_from(
        [
            "0",
            "-0",
            "1",
            "-12",
            "1.5",
            "-0.0",
            "1e5",
            "1E-7",
            "2e+3",
            "NaN",
            "Infinity",
            "-Infinity",
            "null",
            "true",
            "false",
            '""',
            '"a"',
            r'"\u00e9\ud83d\ude00\n\/"',
            '"é€😀"',
            "01",
            "1.",
            ".5",
            "-",
            "+1",
            "1e",
            "nan",
            "-NaN",
            "nul",
            "'a'",
            '"\t"',
            r'"\x"',
            r'"\u12g4"',
            '"',
            "\x00",
            "//",
            "[1,]",
            '{"a":1,}',
            '{"a"}',
            "{a:1}",
            "[1 2]",
            '{"a":1 "b":2}',
            "]",
            "",
        ]
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda x: "[ " + " ,\n".join(x) + "]"),
        st.lists(
            st.tuples(st.sampled_from(['"a"', '"type"', r'"\u0062"', '""']), inner), max_size=3
        ).map(lambda x: "{" + ",\t".join(f"{k} : {v}" for k, v in x) + " }"),
    ),
    max_leaves=6,
)


@given(texts)
def test_a_frame_is_json_where_python_reads_it(text: str) -> None:
    """Whatever Python's json refuses is NotJSON, and nothing else is."""
    try:
        value = json.loads(text)
    except ValueError:
        with pytest.raises(_codec.NotJSON):
            validate(text.encode())
    else:
        frame = validate(text.encode())
        assert frame.count == (len(value) if isinstance(value, list) else 1)
        assert len(frame.records) + len(frame.rejected) == frame.count


@given(texts)
def test_a_free_value_is_copied_as_it_stands(text: str) -> None:
    """The slice of the frame, byte for byte."""
    try:
        value = json.loads(text)
    except ValueError:
        return
    message = f'{{"value":{{"x":{text}}},"type":"log_hparams"}}'
    frame = validate(message.encode())
    assert frame.rejected == []
    assert f'"payload":{{"value":{{"x":{text}}}}}'.encode() in frame.records[0]
    assert same(json.loads(frame.records[0])["payload"], {"value": {"x": value}})


@given(st.binary(max_size=12))
def test_utf8_is_judged_as_python_judges_it(data: bytes) -> None:
    """Inside a string; over 16 bytes, so that the fast scan sees it too."""
    frame = b'{"type":"add_tag","tag_name":"' + data + b'abcdefghijklmnopq"}'
    try:
        text = json.loads(frame.decode())["tag_name"]
    except (ValueError, KeyError):
        return
    if validate(frame).records:
        assert json.loads(validate(frame).records[0])["payload"]["tag_name"] == text


@given(st.binary(min_size=1, max_size=6).filter(lambda b: b >= b"\x80"))
def test_invalid_utf8_makes_the_frame_unreadable(data: bytes) -> None:
    """Surrogates, overlong forms, stray bytes."""
    frame = b'["' + data.replace(b'"', b"").replace(b"\\", b"") + b'"]'
    try:
        json.loads(frame.decode())
    except ValueError:
        with pytest.raises(_codec.NotJSON):
            validate(frame)
    else:
        assert validate(frame).count == 1


# --- frames -------------------------------------------------------------------------------------


def test_every_valid_item_of_a_frame_is_taken() -> None:
    """The bad ones are named by their index, type and reason."""
    frame = validate(
        frame_of(metric(), metric(step="3"), 7, {"type": "nope"}, {}, metric(value=1), {"type": 1})
    )
    assert frame.count == 7
    assert [_codec.KINDS[k] for k in frame.kinds] == ["log_metric"] * 2
    assert [(i, kind) for i, kind, _ in frame.rejected] == [
        (1, "log_metric"),
        (2, ""),
        (3, ""),
        (4, ""),
        (6, ""),
    ]
    assert [why[:24] for _, _, why in frame.rejected] == [
        "step: expected an intege",
        "expected an object",
        "type: 'nope' is none of ",
        "type: required",
        "type: expected a string",
    ]


def test_the_reply_names_the_first_twenty() -> None:
    """As the contract's section 1 draws it."""
    frame = validate(frame_of(*[metric(step="x")] * 3, metric()))
    assert json.loads(_codec.error_reply(frame)) == {
        "status": "error",
        "error": "3 of 4 messages rejected: [0] log_metric: step: expected an integer; "
        "[1] log_metric: step: expected an integer; [2] log_metric: step: expected an integer",
        "accepted": 1,
        "rejected": [
            {"index": i, "type": "log_metric", "reason": "step: expected an integer"}
            for i in range(3)
        ],
    }
    reply = json.loads(_codec.error_reply(validate(frame_of(*[1] * 30))))
    assert len(reply["rejected"]) == 20
    assert reply["error"].endswith("[19] expected an object; …")
    assert reply["accepted"] == 0


def test_empty_frames() -> None:
    """`[]` is ok; nothing at all is no JSON."""
    assert validate(b" [ ] ").count == 0
    for frame in (b"", b" ", b"[", b"[]]", b"{}{}", b"\xef\xbb\xbf[]"):
        with pytest.raises(_codec.NotJSON, match="at byte"):
            validate(frame)


def test_the_last_of_equal_members_counts() -> None:
    """Also when the first is wrong, and when a name is spelled with escapes."""
    frame = validate(
        rb'{"type":"add_tag","tag_name":1,"\u0074ag_name":"a","tag_name":"b","type":"remove_tag"}'
    )
    assert json.loads(frame.records[0])["payload"] == {"tag_name": "b"}
    assert _codec.KINDS[frame.kinds[0]] == "remove_tag"


def texts_of(message: dict[str, Any]) -> st.SearchStrategy[str]:
    """A message with its members in any order, some left out, of another type or there twice."""
    members = st.permutations([(json.dumps(k), json.dumps(v)) for k, v in message.items()])
    other = st.tuples(
        st.sampled_from([json.dumps(name) for name in MEMBERS] + ['"type"', r'"\u006eame"', '"x"']),
        st.sampled_from([json.dumps(value) for value in TRIED if value is not ...] + ["1e400"]),
    )
    return st.tuples(members, st.integers(0, 20), st.lists(other, max_size=3)).flatmap(
        lambda parts: st.permutations(parts[0][parts[1] // 2 :] + parts[2]).map(
            lambda pairs: "{" + ", ".join(f"{k}: {v}" for k, v in pairs) + "}"
        )
    )


junk = st.sampled_from(
    [
        *('"1999-01-01T00:00:00Z"', '"log_metric"', "7", "null", "{}", "[]", "true", "NaN"),
        *('["2026-01-02T03:04"]', '[{"type": "create_run"}]', '{"payload": {"name": "a"}}'),
        *('{"type": "create_run"}', '{"type": "add_tag"}', '{"tag_name": "t"}', '"\\u0000"'),
        '{"type": "log_custom_object", "name": "logs", "value": {}}',
    ]
)
items = st.lists(
    valid_messages.flatmap(texts_of) | valid_messages.map(json.dumps) | junk, max_size=8
)


@given(items)
@example(['"1999-01-01T00:00:00Z"', '{"type": "create_run"}'])
@example(["7", '{"type": "create_run"}', '{"type": "create_run"}'])
def test_an_item_is_judged_by_itself(texts: list[str]) -> None:
    """A frame's records and rejects are those of its items, each in a frame of its own."""
    together = validate(f"[{','.join(texts)}]".encode())
    alone = [validate(text.encode() if text[0] == "{" else f"[{text}]".encode()) for text in texts]
    assert together.count == len(texts)
    assert together.records == [record for frame in alone for record in frame.records]
    assert together.kinds == [kind for frame in alone for kind in frame.kinds]
    assert together.rejected == [
        (index, kind, why) for index, frame in enumerate(alone) for _, kind, why in frame.rejected
    ]


def spelled(name: str, dice: random.Random) -> str:
    """The name in quotes, some of its characters as escapes."""
    forms = (lambda c: c, lambda c: f"\\u{ord(c):04x}", lambda c: f"\\u{ord(c):04X}")
    return '"' + "".join(dice.choice(forms)(c) for c in name) + '"'


@pytest.mark.parametrize("seed", range(20))
def test_a_name_is_the_same_however_it_is_spelled(seed: int) -> None:
    """With escapes too; and what is only like a name is none."""
    dice = random.Random(seed)
    message = metric(dtype="float64", context={"a": 1}, epoch=3)
    like = ["valu", "valuee", "Value", "value\0", "v\u0101lue", "\\value", "value\n", "/value", ""]
    members = [*message.items(), *((name, "other") for name in like)]
    dice.shuffle(members)
    text = ", ".join(
        f"{json.dumps(name) if name in like else spelled(name, dice)}: {json.dumps(value)}"
        for name, value in members
    )
    frame = validate(f"{{{text}}}".encode())
    assert frame.rejected == []
    assert frame.records == validate(frame_of(message)).records


@pytest.mark.parametrize(
    "message",
    [
        '{"type":"add_tag","tag_name":"t",%s}',
        '{"type":"log_hparams","value":{%s}}',
        '{"type":"log_custom_object","name":"o","value":{"data":"' + "x" * 40_000 + '",%s}}',
    ],
)
def test_no_object_is_made_of_a_name(message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """75,000 names with escapes in one message held the loop up for a third of a second."""
    loads, calls = json.loads, []
    monkeypatch.setattr(json, "loads", lambda text: calls.append(text) or loads(text))
    names = ",".join(f'"\\u006e{i}":1' for i in range(500))
    frame = validate((message % names).encode())
    assert frame.rejected == []
    assert calls == []


def test_a_time_of_no_digits_is_no_time() -> None:
    """Whatever the reader of times holds before it has read one."""
    for text in ("\0" * 16, "\xff" * 16, "\0" * 20):
        with pytest.raises(ValueError, match="ISO 8601"):
            _codec.parse_timestamp(text.encode("latin-1"))
        assert reason(metric(client_datetime=text)).startswith("client_datetime: expected")


def test_the_order_of_members_and_items_makes_no_difference() -> None:
    """What the scan remembers of one item never leaks into the next."""
    rng = random.Random(7)
    messages = [
        metric(step=i, unknown=i)
        if i % 3
        else {"type": "add_tag", "run_id": str(i % 2), "tag_name": str(i)}
        for i in range(60)
    ]
    for message in messages[1::2]:
        for _ in range(rng.randrange(3)):
            message.pop(rng.choice(list(message)))
    shuffled = [dict(rng.sample(list(m.items()), len(m))) for m in messages]
    alone = [validate(frame_of(m)) for m in messages]
    together = validate(frame_of(*shuffled))
    assert together.records == [r for frame in alone for r in frame.records]
    assert [r[1:] for r in together.rejected] == [r[1:] for f in alone for r in f.rejected]


def test_the_urls_run_id_wins() -> None:
    """Whatever the body says."""
    for run_id in ("other", 5, None, ...):
        (record,) = validate(frame_of(metric(run_id=run_id))).records
        assert json.loads(record)["run_id"] == RUN


def test_a_time_without_offset_is_utc() -> None:
    """It gets +00:00; one with an offset stays as it stands."""
    for text, kept in {
        "2026-01-02T03:04": "2026-01-02T03:04+00:00",
        "2026-01-02 03:04:05.1": "2026-01-02 03:04:05.1+00:00",
        "2024-02-29T03:04:05.123456789Z": "2024-02-29T03:04:05.123456789Z",
        "2026-01-02T03:04:05-0130": "2026-01-02T03:04:05-0130",
    }.items():
        assert payload(metric(client_datetime=text))["client_datetime"] == kept
    escaped = json.dumps(metric()).replace("T03:04", r"\u005403:04").encode()
    assert json.loads(validate(escaped).records[0])["payload"]["client_datetime"] == NOW


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-01-02",
        "2026-02-29T00:00",
        "2026-00-01T00:00",
        "2026-01-32T00:00",
        "0000-01-01T00:00",
        "2026-01-02T24:00",
        "2026-01-02T23:60",
        "2026-01-02T23:59:60",
        "2026-01-02T23:59:5",
        "2026-1-2T03:04",
        "2026-01-02T03:04:05.",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04ZZ",
        "2026-01-02T03:04+24:00",
        "2026-01-02T03:04+1",
        "2026-01-02T03:04+01:60",
        "2026-01-02T03:04+01:",
        "2026-01-02T03:04 +01:00",
        "20x6-01-02T03:04",
        "2026-01-02T03:04\u0000",
        "２026-01-02T03:04",
    ],
)
def test_a_bad_time_is_rejected(text: str) -> None:
    """By the frontier, and by what workers read times with."""
    assert reason(metric(client_datetime=text)).startswith("client_datetime: expected an ISO 8601")
    with pytest.raises(ValueError, match="ISO 8601"):
        _codec.parse_timestamp(text)


@given(times)
def test_times_are_read_as_python_reads_them(text: str) -> None:
    """To the microsecond; what a float cannot hold any more is off by a unit in its last place."""
    value = moment(text).timestamp()
    assert abs(_codec.parse_timestamp(text) - value) <= math.ulp(value)
    assert _codec.parse_timestamp(text.encode()) == _codec.parse_timestamp(text)


@given(st.datetimes())
def test_timestamps_are_written_as_python_writes_them(time: datetime) -> None:
    """With six digits and Z."""
    micros = (time - datetime(1970, 1, 1)) // timedelta(microseconds=1)
    assert _codec.format_timestamp(micros).decode() == time.isoformat(timespec="microseconds") + "Z"


# --- limits -------------------------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def test_nesting() -> None:
    """64 levels of a free value; deeper ones are rejected alone, however deep."""
    assert payload(
        {"type": "log_record", "message": "", "level": 1, "timestamp": 1, "logger_info": nested(64)}
    )
    deep = {
        "type": "log_record",
        "message": "",
        "level": 1,
        "timestamp": 1,
        "logger_info": nested(65),
    }
    assert reason(deep) == "logger_info: nested deeper than 64"
    frame = validate(
        b'[{"type":"log_hparams","value":{"a":'
        + b"[" * 10**6
        + b"]" * 10**6
        + b"}},"
        + json.dumps(metric()).encode()
        + b"]"
    )
    assert len(frame.records) == 1
    assert frame.rejected == [(0, "log_hparams", "value: nested deeper than 64")]


def test_items_of_a_frame() -> None:
    """10,000 and no more; the error says the limit."""
    assert validate(b"[" + b",".join([b"0"] * 10_000) + b"]").count == 10_000
    with pytest.raises(_codec.NotJSON, match="more than 10,000 items"):
        validate(b"[" + b",".join([b"0"] * 10_001) + b"]")


def test_one_message() -> None:
    """900 KiB of record; a custom object may fill it."""
    message = {"type": "log_custom_object", "name": "n", "value": {"data": ""}}
    (record,) = validate(frame_of(message)).records
    free_bytes = 900 * 1024 - len(record)
    message["value"] = {"data": "x" * free_bytes}
    assert len(validate(frame_of(message)).records[0]) == 900 * 1024
    message["value"] = {"data": "x" * (free_bytes + 1)}
    assert "the limit of a message is 900 KiB" in reason(message)


def test_log_sequences_are_free_in_other_contexts() -> None:
    """`logs` belongs to the run in the empty context only."""
    assert payload(metric(name="logs", context={"a": 1}))["name"] == "logs"
    assert payload(metric(name="logsx"))["name"] == "logsx"
    spelled = json.dumps(metric(context=None)).replace('"loss"', r'"\u006cogs"').encode()
    assert validate(spelled).rejected[0][2].startswith("name: belongs to")
    assert reason({"type": "log_custom_object", "name": "logs", "value": {}}).startswith("name: ")


def test_a_number_too_large_for_a_float() -> None:
    """A literal becomes infinite, as in Python; an integer is rejected, as by the models."""
    frame = validate(json.dumps(metric()).replace("0.5,", "1e400,").encode())
    assert json.loads(frame.records[0])["payload"]["value"] == math.inf
    assert reason(metric(value=10**400)) == "value: out of the range of float64"
    assert payload(metric(value=10**300))["value"] == 1e300


def test_run_ids() -> None:
    """1 to 128 of a few characters."""
    for run in ("a", "A-Z_0.9:", "x" * 128, "...", "-"):
        assert _codec.check_run_id(run) is None
    for run in ("", ".", "..", "x" * 129, "a/b", "a b", "é", "a\n", "\ud800"):
        assert _codec.check_run_id(run) is not None


def test_artifact_paths() -> None:
    """Anything that S3 and a folder can hold apart."""
    for path in ("a", "a/b.png", "", "a//b/", "...", "a/..b", "é" * 510, "\\", "C:"):
        assert _codec.check_artifact_path("r", path) is None
    for path in (".", "..", "a/../b", "./a", "a/.", "a\n", "\x7f", "\x85", "é" * 512, "\ud800"):
        assert _codec.check_artifact_path("r", path) is not None


def test_a_frame_may_be_any_buffer() -> None:
    """bytes, bytearray and memoryview give the same."""
    frame = frame_of(metric())
    for view in (bytearray(frame), memoryview(b"x" + frame)[1:]):
        assert (
            _codec.validate(view, b"r", STAMP).records
            == _codec.validate(frame, b"r", STAMP).records
        )
