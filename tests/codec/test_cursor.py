"""One cursor reads: the claim that cursor.pxi makes, held against the text of the other files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import matyan

FAMILIES = Path(matyan.__file__).parent / "codec"

# What reads through a pointer: comparing and searching memory, a Cursor's or a Span's own pointers, a pointer to bytes that
# cannot be written, and the memory of a bytes object taken for one.
READING = re.compile(
    r"memcmp|memchr|strlen|\.(at|end|begin|start|stop)\[|\b(c|text|span|s|inner)\.(at|end|begin|start|stop)\b"
    r"|const uint8_t \*(?!(epochs|marks|flags|step)\b)|<const uint8_t \*>|<uint8_t \*>PyBytes_AS_STRING"
)


@pytest.mark.parametrize(
    "path", sorted(FAMILIES.glob("*.pxi")), ids=lambda path: getattr(path, "stem", "")
)
def test_only_the_cursor_reads_through_a_pointer(path: Path) -> None:
    lines = path.read_text().splitlines()
    found = [line.strip() for line in lines if READING.search(line.split("#")[0])]
    assert bool(found) == (path.stem == "cursor"), found


def test_the_loops_over_bare_pointers_are_the_named_ones() -> None:
    """The cursor's first comment names them all."""
    text = (FAMILIES / "cursor.pxi").read_text()
    fence, rest = text.split("\n\n", 1)
    named = set(re.findall(r"`(\w+)`", fence))
    assert named
    assert named <= set(re.findall(r"^cdef .*?(\w+)\(", rest, re.MULTILINE))
