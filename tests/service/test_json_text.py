"""JSON that strict parsers take and terminals do not obey."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import unicodedata
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.service import json_text

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text()
    | st.binary()
)
KEYS = st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner) | st.tuples(inner)
)


def strictly(text: str) -> object:
    return json.loads(text, parse_constant=pytest.fail)


@given(VALUES, st.booleans(), st.none() | st.integers(0, 3))
def test_whatever_msgpack_holds_is_strict_json(value, ascii, indent) -> None:
    """And no character in it is one that Unicode calls a control, a format or an unassigned one."""
    text = json_text.dumps(value, ascii=ascii, indent=indent)
    strictly(text)
    assert all(unicodedata.category(letter)[0] != "C" for letter in text.replace("\n", ""))
    if ascii:
        assert text.isascii()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (math.nan, "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        ({"a": [math.nan, (1.5, math.inf)]}, {"a": ["NaN", [1.5, "Infinity"]]}),
        ({math.nan: 1, 2: 3, None: True, True: 0}, {"NaN": 1, "2": 3, "null": True, "true": 0}),
        ("\x1b]0;owned\x07\x9b\u202e\x7f\ud800é", "\x1b]0;owned\x07\x9b\u202e\x7f\ud800é"),
        (b"text \xff", "text \\xff"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02 00:00:00+00:00"),
        (1e308, 1e308),
        (2**64 - 1, 2**64 - 1),
        (5e-324, 5e-324),
        (-0.0, -0.0),
    ],
)
def test_values_come_back(value, expected) -> None:
    """What JSON has no word for comes as text."""
    for ascii in (True, False):
        assert strictly(json_text.dumps(value, ascii=ascii)) == expected
    if isinstance(value, float):
        assert strictly(json_text.number(value)) == expected


@pytest.mark.parametrize(
    "program", [["jq", "-c", "."], ["node", "-e", "JSON.parse(fs.readFileSync(0, 'utf8'))"]]
)
def test_other_parsers_take_it(program) -> None:
    """jq and node, where they are installed; the strict parser of the other tests stands for them elsewhere."""
    text = json_text.dumps({"a": [math.nan, math.inf, 1e308, "\x1b\u202e", 2**64 - 1]})
    strictly(text)
    if shutil.which(program[0]):
        subprocess.run(program, input=text.encode(), check=True, stdout=subprocess.DEVNULL)
