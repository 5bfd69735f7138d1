"""RFC 6455 as bytes in, messages out: whatever the pieces, the same messages, and nothing large is held."""

from __future__ import annotations

import random
import zlib

import pytest
from websockets.frames import CloseCode

from matyan.frontier.wire import PIECE_BYTES, SMALL_BYTES, Kind, Wire

TEXT, CONT, BINARY, CLOSE, PING, PONG = 1, 0, 2, 8, 9, 10


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    reserved: int = 0,
    mask: bytes = b"\x11\x22\x33\x44",
) -> bytes:
    size = len(payload)
    head = bytes([(0x80 if fin else 0) | opcode | reserved])
    if size < 126:
        head += bytes([0x80 | size])
    elif size < 1 << 16:
        head += bytes([0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head += bytes([0x80 | 127]) + size.to_bytes(8, "big")
    return head + mask + bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))


def deflated(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def messages(wire: Wire, data: bytes, cuts: list[int]) -> list[bytes]:
    """What comes out of `data`, cut there."""
    found: list[bytes] = []
    parts: list[bytes] | None = None
    for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        wire.feed(data[begin:end])
        while (event := wire.next()) is not None:
            kind, piece = event
            assert len(piece) <= max(SMALL_BYTES, PIECE_BYTES)
            if kind is Kind.WHOLE:
                assert parts is None
                found.append(piece)
            elif kind is Kind.BEGIN:
                assert parts is None
                parts = []
            elif kind is Kind.PIECE:
                assert parts is not None
                parts.append(piece)
            else:
                assert parts is not None
                found.append(b"".join(parts))
                parts = None
    return found


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_the_pieces_change_nothing(seed: int, deflate: bool) -> None:
    """Whole, fragmented, compressed and large messages with pings between, cut at random and byte by byte."""
    rng = random.Random(seed)
    data, expected, pings = b"", [], 0
    for number in range(rng.randrange(1, 8)):
        text = f"{number} é€😀 ".encode() * rng.choice([0, 1, 40, 300, 9000])
        expected.append(text)
        packed = deflate and rng.random() < 0.6
        payload = deflated(text) if packed else text
        places = [rng.randrange(len(payload) + 1) for _ in range(rng.choice([0, 0, 1, 3]))]
        bounds = [0, *sorted(places), len(payload)]
        for i in range(len(bounds) - 1):
            mask = rng.randbytes(4)
            data += frame(
                CONT if i else TEXT,
                payload[bounds[i] : bounds[i + 1]],
                fin=i == len(bounds) - 2,
                reserved=0x40 if packed and not i else 0,
                mask=mask,
            )
            if rng.random() < 0.3:
                data += frame(PING, b"alive?")
                pings += 1
    ways = [[], sorted(rng.randrange(len(data) + 1) for _ in range(9))]
    if len(data) < 20_000:
        ways.append(list(range(len(data))))
    for cuts in ways:
        wire = Wire(1 << 20, deflate=deflate)
        assert messages(wire, data, cuts) == expected
        assert wire.is_open
        assert wire.is_between
        assert wire.held == 0
        assert wire.data_to_send() == (b"\x8a\x06alive?") * pings


CLOSES = [
    ("a binary frame", frame(BINARY, b"x"), 1003),
    ("a binary frame of any size", frame(BINARY, b"x" * 300_000)[:40], 1003),
    ("a bad opcode", frame(3), 1002),
    ("a bad control opcode", frame(11), 1002),
    ("a reserved bit", frame(TEXT, b"[]", reserved=0x20), 1002),
    ("a binary frame with reserved bits", frame(BINARY, b"x", reserved=0x50), 1002),
    ("a binary frame within a text", frame(TEXT, b"[", fin=False) + frame(BINARY, b"x"), 1002),
    ("a compressed frame", frame(TEXT, b"[]", reserved=0x40), 1002),
    ("no mask", b"\x81\x02[]", 1002),
    ("a continuation of nothing", frame(CONT, b"x"), 1002),
    ("a text within another", frame(TEXT, b"[", fin=False) + frame(TEXT, b"]"), 1002),
    ("a ping in fragments", frame(PING, b"x", fin=False), 1002),
    ("a long ping", frame(PING, b"x" * 126), 1002),
    ("a ping with a reserved bit", frame(PING, b"x", reserved=0x40), 1002),
    ("a close of one byte", frame(CLOSE, b"x"), 1002),
    ("a close code that may not be sent", frame(CLOSE, b"\x03\xed"), 1002),
    ("a close reason that is no UTF-8", frame(CLOSE, b"\x03\xe8\xff"), 1007),
    ("no UTF-8 in a fragment", frame(TEXT, b"\xff", fin=False), 1007),
    ("half a character", frame(TEXT, b"\xc3", fin=False) + frame(CONT, b""), 1007),
    ("a surrogate", frame(TEXT, b"\xed", fin=False) + frame(CONT, b"\xa0", fin=False), 1007),
    ("no UTF-8 in a large one", frame(TEXT, b"x" * 70_000 + b"\xff" + b"x" * 70_000), 1007),
    ("too large", frame(TEXT, b"x" * 2_000_000)[:20], 1009),
    ("a size of 2^64-1", b"\x81\xff" + b"\xff" * 8 + bytes(4), 1009),
    (
        "too large in fragments",
        frame(TEXT, b"x" * 900_000, fin=False) + frame(CONT, b"x" * 200_000)[:20],
        1009,
    ),
]  # fmt: skip


@pytest.mark.parametrize("size", [1, 3, 1 << 20])
@pytest.mark.parametrize(("data", "code"), [row[1:] for row in CLOSES], ids=[r[0] for r in CLOSES])
def test_what_is_wrong_has_its_close_code(data: bytes, code: int, size: int) -> None:
    """After the messages before it, and nothing behind it counts but the client's own close."""
    if size < 1 << 20 and len(data) > 1000:
        size = 1000
    wire = Wire(1_000_000)
    head = frame(TEXT, b"before")
    whole = head + data
    assert messages(wire, whole, list(range(size, len(whole), size))) == [b"before"]
    assert wire.failed
    assert wire.close_sent is not None
    assert wire.close_sent.code == code
    assert wire.data_to_send().startswith(b"\x88")
    wire.feed(frame(TEXT, b"behind") + frame(PING, b"x"))
    assert wire.next() is None
    assert wire.data_to_send() == b""


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_the_clients_close_is_seen_behind_what_is_not_taken(size: int) -> None:
    wire = Wire(1_000_000)
    data = frame(TEXT, b"\xff", fin=False) + frame(TEXT, b"x" * 300) + frame(PING, b"x")
    close = frame(CLOSE, b"\x03\xf0bye")
    for start in range(0, len(data), size):
        assert not wire.closed
        wire.feed(data[start : start + size])
        while (event := wire.next()) is not None:
            assert event[0] is Kind.BEGIN
    assert wire.failed
    assert not wire.closed
    for start in range(0, len(close), size):
        wire.feed(close[start : start + size])
        assert wire.next() is None
    assert wire.closed


@pytest.mark.parametrize(
    ("before", "payload", "answer"),
    [
        (b"", b"\x03\xe8bye", b"\x88\x05\x03\xe8bye"),
        (b"", b"", b"\x88\x00"),
        (frame(TEXT, b"[", fin=False), b"\x0f\xa0bye", b"\x88\x05\x0f\xa0bye"),
        (frame(TEXT, b"[", fin=False), b"", b"\x88\x02\x03\xe8"),
    ],
)
def test_a_close_is_answered_with_its_own_code(
    before: bytes, payload: bytes, answer: bytes
) -> None:
    """Between two fragments too (RFC 6455, 5.4)."""
    wire = Wire(1_000_000)
    wire.feed(before + frame(CLOSE, payload) + frame(TEXT, b"[]"))
    while (event := wire.next()) is not None:
        assert event[0] is not Kind.WHOLE
    assert wire.closed
    assert wire.data_to_send() == answer


def test_after_our_own_close_messages_are_still_taken() -> None:
    """Until the client's comes: they crossed ours on the wire."""
    wire = Wire(1_000_000)
    wire.send_close(CloseCode.GOING_AWAY, "")
    assert not wire.is_open
    assert messages(wire, frame(TEXT, b"crossed"), []) == [b"crossed"]
    wire.feed(frame(CLOSE, b"\x03\xe9"))
    assert wire.next() is None
    assert wire.closed
    assert wire.data_to_send() == b"\x88\x02\x03\xe9"


def test_a_large_message_is_not_held() -> None:
    """Of 8 MB in one frame at most a piece; of what announced itself nothing."""
    wire = Wire(1 << 24)
    data = frame(TEXT, b"x" * 8_000_000)
    size = 0
    for start in range(0, len(data), 50_000):
        wire.feed(data[start : start + 50_000])
        while (event := wire.next()) is not None:
            size += len(event[1])
            if event[0] is Kind.BEGIN:
                assert wire.declared == 8_000_000
        assert wire.held == 0
    assert size == 8_000_000


def test_a_bomb_comes_out_a_piece_at_a_time() -> None:
    """16 kB that are 16 MB: whoever takes no further piece holds one."""
    wire = Wire(1 << 26, deflate=True)
    text = b"[" + b" " * 16_000_000 + b"]"
    data = frame(TEXT, deflated(text), reserved=0x40)
    assert len(data) < 20_000
    wire.feed(data)
    size = pieces = 0
    while (event := wire.next()) is not None:
        size += len(event[1])
        pieces += 1
        assert wire.held < 20_000
    assert size == len(text)
    assert pieces > 200


def test_the_inflated_size_is_limited() -> None:
    wire = Wire(1_000_000, deflate=True)
    wire.feed(frame(TEXT, deflated(b" " * 1_000_001), reserved=0x40))
    while wire.next() is not None:
        pass
    assert wire.close_sent is not None
    assert wire.close_sent.code == 1009


@pytest.mark.parametrize("extra", [b"", b"\0", b"x" * 200])
def test_what_stands_behind_a_final_block(extra: bytes) -> None:
    """A little is legal (RFC 7692, 7.2.3.4), and much is not held."""
    packer = zlib.compressobj(wbits=-15)
    payload = packer.compress(b"[]") + packer.flush() + extra
    wire = Wire(1_000_000, deflate=True)
    found = messages(wire, frame(TEXT, payload, reserved=0x40), [])
    assert found == ([] if len(extra) > 100 else [b"[]"])
    assert wire.is_open is (len(extra) < 100)


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"\x07", b"\x00\x05\x00\x00\x00hello"])
def test_what_cannot_be_inflated(payload: bytes) -> None:
    wire = Wire(1_000_000, deflate=True)
    assert messages(wire, frame(TEXT, payload, reserved=0x40), []) == []
    assert wire.close_sent is not None
    assert wire.close_sent.code == 1002
