"""What libraries log comes in the form of our own lines, and not over and over."""

from __future__ import annotations

import io
import json
import logging

import pytest

from matyan import logs


def test_a_library_that_repeats_itself_is_heard_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same line, numbers aside, comes again after REPEAT_S; another one at once."""
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    stream = io.StringIO()
    logs.configure("INFO", stream=stream)
    library = logging.getLogger("a.library")
    for attempt in range(3):
        library.error("attempt %d failed", attempt)
    library.error("gave up")
    now += logs.REPEAT_S
    library.error("attempt 99 failed")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["event"] for line in lines] == [
        "attempt 0 failed",
        "gave up",
        "attempt 99 failed",
    ]
    assert {(line["level"], line["logger"]) for line in lines} == {("error", "a.library")}
