"""A message judged as it arrives: the same outcome as of the whole, whatever the pieces, and little held meanwhile."""

from __future__ import annotations

import json
import random
import threading
import time
from typing import Any

import pytest

from matyan._codec import NotJSON, Validator, unmask, validate
from tests.codec.messages import STAMP, metric_members

RUN = b"run-1"
Outcome = tuple[int, list[bytes], list[int], list[tuple[int, str, str]]] | str

METRIC = json.dumps({"type": "log_metric", **metric_members(context={"a": [1, {"b": "}]"}]})})
GOOD = [
    METRIC.encode(),
    b'{"type":"add_tag","tag_name":"x\\"y\\\\"}',
    '{"type":"add_tag","tag_name":"é€😀"}'.encode(),
    b'{"type":"log_metric","name":"n","value":NaN,"step":null,"epoch":1,"context":null,"dtype":"x",'
    b'"client_datetime":"2026-01-02 03:04"}',
]
REJECTED = [b'{"type":"nope"}', b"12", b'"a,]b"', b"null", b"[1,[2]]", b"{}", b"-1.5e3", b"true"]
BROKEN = [b"tru", b'{"a":]', b'{"a" 1}', b"[}", b'"a\x01"', b'{"a":1', b"01", b'"\xff"']


def of_the_whole(message: bytes) -> Outcome:
    try:
        frame = validate(message, RUN, STAMP)
    except NotJSON as error:
        return str(error)
    return frame.count, frame.records, frame.kinds, frame.rejected


def of_pieces(message: bytes, cuts: list[int]) -> Outcome:
    validator = Validator(RUN, STAMP)
    for begin, end in zip([0, *cuts], [*cuts, len(message)], strict=True):
        ready = validator.feed(message[begin:end])
        while not ready:
            validator.judge()
            ready = validator.feed(b"")
    while not validator.end():
        validator.judge()
    try:
        frame = validator.result()
    except NotJSON as error:
        return str(error)
    return frame.count, frame.records, frame.kinds, frame.rejected


def a_message(rng: random.Random) -> bytes:
    """An array, or one item, of good, rejected and broken items with space between; sometimes damaged."""
    items = [
        rng.choice(rng.choices([GOOD, REJECTED, BROKEN], [8, 3, 1])[0])
        for _ in range(rng.randrange(6))
    ]
    spaced = [rng.choice([b"", b" ", b"\n\t "]) + item + rng.choice([b"", b" "]) for item in items]
    message = bytearray(b"[" + b",".join(spaced) + b"]")
    if len(items) == 1 and rng.random() < 0.5:
        message = bytearray(spaced[0])
    for _ in range(rng.choice([0, 0, 1, 2])):
        place = rng.randrange(len(message) + 1)
        if rng.random() < 0.3:
            del message[place:]
        elif rng.random() < 0.5:
            del message[place : place + 1]
        else:
            message.insert(place, rng.choice(b'{}[]",:\\ 1ea\xff\xc3'))
    return bytes(message)


@pytest.mark.parametrize("seed", range(20))
def test_pieces_are_judged_as_the_whole(seed: int) -> None:
    """Records, reasons and the error's text and place, for messages cut at random and byte by byte."""
    rng = random.Random(seed)
    for _ in range(300):
        message = a_message(rng)
        cuts = sorted(rng.randrange(len(message) + 1) for _ in range(rng.randrange(5)))
        for way in (cuts, list(range(len(message)))):
            assert of_pieces(message, way) == of_the_whole(message), (message, way)


@pytest.mark.parametrize("count", [9_999, 10_000, 10_001])
def test_the_number_of_items_is_limited_alike(count: int) -> None:
    message = b"[" + b",".join([b"5"] * count) + b"]"
    assert of_pieces(message, [len(message) // 2]) == of_the_whole(message)


LARGE: dict[str, bytes] = {
    "a figure that is too large": b'{"type":"log_custom_object","name":"f","value":{"a":"%b"}}'
    % (b"x" * 3_000_000),
    "an unknown member": b'{"type":"add_tag","unknown":[%b],"tag_name":"t"}'
    % b",".join([b"1"] * 1_000_000),
    "a member of another kind": b'{"type":"add_tag","line":"%b","tag_name":"t"}'
    % (b"\\u00e9" * 400_000),
    "many members": b'{"type":"add_tag",%b"tag_name":"t"}' % (b'"a":1,' * 400_000),
    "many keys with escapes": b'{"type":"add_tag",%b"tag_\\u006eame":"t"}' % (b'"\\u0061":1,' * 200_000),
    "a long key": b'{"type":"add_tag","%b":1,"tag_name":"t"}' % (b"\\u0061" * 400_000),
    "space": b'{"type":"add_tag",%b"tag_name":"t"}' % (b" " * 2_000_000),
    "a long type": b'{"type":"%b"}' % (b"x" * 2_000_000),
    "no object": b"[%b]" % b",".join([b"[]"] * 600_000),
    "no JSON at its end": b'{"type":"add_tag","a":"%b","tag_name":t}' % (b"x" * 2_000_000),
    "no end": b'{"type":"add_tag","a":"%b' % (b"x" * 2_000_000),
}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_a_large_item_waits_for_its_judgement(name: str) -> None:
    """Its neighbours are records, and so is it where it is legal; the same as of the whole."""
    message = b'[{"type":"add_tag","tag_name":"before"},' + LARGE[name]
    if name != "no end":
        message += b',{"type":"add_tag","tag_name":"behind"}]'
    cuts = list(range(65_536, len(message), 65_536))
    assert of_pieces(message, cuts) == of_the_whole(message)


def test_a_large_item_is_judged_beside_other_threads() -> None:
    """The interpreter is let go of: another thread turns while 60 MB are looked at."""
    item = b'{"type":"add_tag","unknown":[%b],"tag_name":"t"}' % b",".join([b"1"] * 30_000_000)
    validator = Validator(RUN, STAMP)
    validator.feed(b"[")
    assert not validator.feed(item)
    longest, last, ended = 0.0, time.perf_counter(), threading.Event()

    def judge() -> None:
        validator.judge()
        ended.set()

    judging = threading.Thread(target=judge)
    judging.start()
    turns = 0
    while not ended.is_set():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last, turns = max(longest, now - last), now, turns + 1
    judging.join()
    assert turns > 10, longest
    assert validator.feed(b"]")
    assert validator.end()
    assert len(validator.result().records) == 1


def test_what_is_judged_is_not_held() -> None:
    """Of 20 MB of space, of an array that is no JSON and of rejected items next to nothing."""
    for filler in (b" " * 65_536, b"x" * 65_536, b"5," * 100):
        validator = Validator(RUN, STAMP)
        validator.feed(b"[")
        for _ in range(20_000_000 // len(filler) if len(filler) > 1000 else 40):
            validator.feed(filler)
            assert validator.held < 4_000_000
    validator = Validator(RUN, STAMP)
    validator.feed(b'{"a":"')
    for _ in range(100):
        validator.feed(b"x" * 65_536)
    assert 100 * 65_536 < validator.held < 130 * 65_536


def test_records_are_counted_as_held() -> None:
    message = b"[" + b",".join([METRIC.encode()] * 1000) + b"]"
    validator = Validator(RUN, STAMP)
    validator.feed(message)
    validator.end()
    size = sum(map(len, validator.result().records))
    assert size < validator.held < size + 200_000


def test_unmask() -> None:
    """Any stretch of a frame, from any place of its mask on."""
    rng = random.Random(1)
    for _ in range(2000):
        mask = rng.randbytes(4)
        data = rng.randbytes(rng.randrange(60))
        begin = rng.randrange(len(data) + 1)
        size = rng.randrange(len(data) - begin + 1)
        turn = rng.randrange(8)
        expected = bytes(data[begin + i] ^ mask[(turn + i) % 4] for i in range(size))
        assert unmask(data, begin, size, mask, turn) == expected


@pytest.mark.parametrize(("begin", "size"), [(-1, 1), (0, -1), (0, 5), (4, 1), (1 << 62, 1 << 62)])
def test_unmask_stays_within_its_bounds(begin: int, size: int) -> None:
    with pytest.raises(ValueError, match="bounds"):
        unmask(b"abcd", begin, size, b"\0\0\0\0", 0)


def test_unmask_wants_a_mask() -> None:
    arguments: tuple[Any, ...] = (b"abcd", 0, 4, b"\0\0\0", 0)
    with pytest.raises(ValueError, match="bounds"):
        unmask(*arguments)
