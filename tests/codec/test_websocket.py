"""The fast way of a WebSocket message: what it takes is what the library reads, everything else it leaves."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, SERVER, Protocol

from matyan._codec import text_message


def read_by_the_library(data: bytes) -> list[Frame]:
    protocol = Protocol(SERVER, state=OPEN, max_size=None)
    protocol.receive_data(data)
    return [event for event in protocol.events_received() if isinstance(event, Frame)]


@pytest.mark.parametrize("size", [0, 1, 3, 4, 7, 8, 9, 125, 126, 127, 1000, 65_535])
def test_a_whole_message_is_taken(size: int) -> None:
    """At every form of the length that fits into 64 KiB, and at every rest of the mask's 4 and the word's 8 bytes."""
    payload = bytes(i * 7 % 256 for i in range(size))
    assert text_message(Frame(Opcode.TEXT, payload).serialize(mask=True)) == payload


TEXT = b"\x81\x82\0\0\0\0[]"
OTHERS = {
    "not final": b"\x01" + TEXT[1:],
    "a reserved bit": b"\xa1" + TEXT[1:],
    "compressed": b"\xc1" + TEXT[1:],
    "no mask": b"\x81\x02[]",
    "a continuation": b"\x80" + TEXT[1:],
    "binary": b"\x82" + TEXT[1:],
    "a ping": b"\x89" + TEXT[1:],
    "64 KiB": Frame(Opcode.TEXT, b" " * 65_536).serialize(mask=True),
    "two": TEXT * 2,
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS.keys())
def test_anything_else_is_left(data: bytes) -> None:
    assert text_message(TEXT) == b"[]"
    assert text_message(data) is None


@given(st.binary(max_size=200), st.integers(0, 210))
@example(b"x" * 126, 7)
def test_a_part_of_a_message_is_left(payload: bytes, cut: int) -> None:
    data = Frame(Opcode.TEXT, payload).serialize(mask=True)
    expected = payload if cut >= len(data) else None
    assert text_message(data[:cut]) == expected


@given(st.binary(max_size=20), st.binary(max_size=300))
def test_of_any_bytes_it_takes_what_the_library_reads(head: bytes, rest: bytes) -> None:
    """Where it takes a message the library reads one text frame of the same payload from the same bytes."""
    for data in (head + rest, b"\x81" + head + rest, b"\x81\xfe" + head + rest):
        taken = text_message(data)
        if taken is not None:
            (frame,) = read_by_the_library(data)
            assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.TEXT, True, taken)
