"""Log lines: one form for ours and the libraries', no secrets, no control characters, and never worth an exception."""

from __future__ import annotations

import json
import logging
import os
import pty
import re
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from matyan.secret import Secret
from matyan.service import logs, telemetry
from tests.until import wait_for

HOSTILE = "\x1b]0;owned\x07 \x9b2J \u202eevil\u2066 \r\n\x00 \x7f \ud800 end"


@pytest.fixture(autouse=True)
def others_logging() -> Iterator[None]:
    """What the tests set up is taken back."""
    root, ours = logging.getLogger(), logging.getLogger("matyan")
    handlers, level, own_level = root.handlers[:], root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(own_level)


@pytest.fixture
def lines(tmp_path: Path) -> Iterator[Callable[[int], list[dict[str, object]]]]:
    """Logs into a file; lines(n) waits for n lines and gives them parsed."""
    with open(tmp_path / "log", "wb") as file:
        logs.configure("INFO", descriptor=file.fileno())

        def read(count: int) -> list[dict[str, object]]:
            wait_for(lambda: (tmp_path / "log").read_bytes().count(b"\n") >= count)
            return [
                json.loads(line, parse_constant=pytest.fail)
                for line in (tmp_path / "log").read_text("ascii").splitlines()
            ]

        yield read


def test_a_library_that_repeats_itself_is_heard_once(lines, monkeypatch) -> None:
    """The same line, numbers aside, comes again after REPEAT_S; another one at once. Our own lines all come."""
    now = 100.0
    monkeypatch.setattr(logs.time, "monotonic", lambda: now)
    library = logging.getLogger("a.library")
    for attempt in range(3):
        library.error("attempt %d failed", attempt)
    library.error("gave up")
    now += logs.REPEAT_S
    library.error("attempt 99 failed")
    logs.get_logger().info("ours", number=1)
    logs.get_logger().bind(run="r").info("ours", number=2)
    said = lines(5)
    assert [line["event"] for line in said] == [
        "attempt 0 failed",
        "gave up",
        "attempt 99 failed",
        "ours",
        "ours",
    ]
    assert {(line["level"], line["logger"]) for line in said[:3]} == {("error", "a.library")}
    assert [(line["number"], line.get("run")) for line in said[3:]] == [(1, None), (2, "r")]


def sign(password: str, settings: dict[str, str]) -> None:
    raise ValueError("the signature failed")


def connect() -> None:
    config = {"sasl.password": "hush-kafka"}
    sign("hush-s3", config)


def fails(log: Callable[..., None]) -> None:
    try:
        connect()
    except ValueError:
        try:
            raise ExceptionGroup("two", [KeyError("inner")]) from None
        except ExceptionGroup:
            log("a task crashed", exc_info=True)
    try:
        connect()
    except ValueError:
        log("and another one", exc_info=True, held=Secret("hush-held"))


@pytest.mark.parametrize("whose", ["ours", "a library's"])
def test_a_traceback_shows_no_locals(lines, whose) -> None:
    """Its frames and its sentence, and none of the values that stood in them: S3's and SASL's secrets are among them."""
    if whose == "ours":
        fails(logs.get_logger().error)
    else:
        fails(lambda text, held=None, **more: logging.getLogger("lib").error(text, **more))
    text = json.dumps(lines(2))
    assert "hush" not in text
    assert "the signature failed" in text
    assert '"name": "sign"' in text


def in_a_terminal(say: Callable[[], None]) -> str:
    """What a terminal gets of it, styles and the status line's own sequences taken out."""
    master, slave = pty.openpty()
    try:
        logs.configure("DEBUG", descriptor=slave)
        say()
        logs.get_logger().info("the end")
        seen = b""
        while b"the end" not in seen:
            seen += os.read(master, 65_536)
        return seen.decode()
    finally:
        os.close(slave)
        os.close(master)


def raises(text: str) -> None:
    try:
        raise RuntimeError(text)
    except RuntimeError:
        logs.get_logger().error("crashed", exc_info=True)


class Named:
    def __repr__(self) -> str:
        return HOSTILE


@pytest.mark.parametrize(
    "say",
    [
        lambda: logs.get_logger().info(HOSTILE),
        lambda: logs.get_logger().info("closed", reason=HOSTILE),
        lambda: logs.get_logger().bind(run=HOSTILE).warning("closed"),
        lambda: logs.get_logger().warning("closed", value=Named(), inner=[Named(), HOSTILE]),
        lambda: logging.getLogger("lib").warning("said %s", HOSTILE),
        lambda: logging.getLogger(HOSTILE).warning("said"),
        lambda: raises(HOSTILE),
    ],
)
def test_no_text_of_others_moves_the_cursor_of_a_log(say) -> None:
    """Events, values, names of loggers and messages of exceptions: escapes, C0, C1 and bidi characters come out as notation."""
    seen = in_a_terminal(say)
    ours = ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[K", "\r\n", "\r\x1b[K", "\n")
    for colour in range(30, 38):
        ours = (*ours, f"\x1b[{colour}m", f"\x1b[{colour};1m", f"\x1b[1;{colour}m")
    for own in sorted(ours, key=len, reverse=True):
        seen = seen.replace(own, "")
    assert [c for c in seen if unicodedata.category(c)[0] == "C"] == [], seen
    assert "owned" in seen


def without_pytest_s_handlers() -> None:
    """For this test: they raise what forming a line raises, and their copy of a lone surrogate cannot be reported by one of
    several test processes."""
    root = logging.getLogger()
    root.handlers[:] = [
        one for one in root.handlers if type(one).__module__ == "matyan.service.logs"
    ]


def test_a_line_in_a_pipe_is_strict_ascii_json(lines) -> None:
    """Whatever stands in it; a parser of JSON gets the text back."""
    without_pytest_s_handlers()
    logs.get_logger().info(HOSTILE, nan=float("nan"), value=Named(), data=b"\xff", keys={1: 2})
    (line,) = lines(1)
    assert line["event"] == HOSTILE
    assert (line["nan"], line["keys"]) == ("NaN", {"1": 2})


class Bad:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


def test_a_line_that_cannot_be_formed_is_no_ones_error(lines) -> None:
    """Its place is told in its stead, and the next line comes."""
    without_pytest_s_handlers()
    logs.get_logger().info("bad value", value=Bad())
    logging.getLogger("lib").error("%d points", "three")
    logs.get_logger().info("goes on")
    bad, wrong, after = lines(3)
    assert bad["event"] == wrong["event"] == "a log line could not be formed"
    assert (bad["error"], wrong["error"]) == ("RuntimeError", "TypeError")
    assert str(wrong["place"]).startswith("test_logs:")
    assert after["event"] == "goes on"


def test_lost_lines_are_counted_and_told() -> None:
    """Lines that a closed pipe did not take are a number in a metric; the first line that is taken again is preceded by it."""
    before = telemetry.LOG_LINES_LOST._value.get()
    reading, writing = os.pipe()
    os.close(reading)
    logs.configure("INFO", descriptor=writing)
    for number in range(5):
        logs.get_logger().info("nobody hears", number=number)
    wait_for(lambda: telemetry.LOG_LINES_LOST._value.get() == before + 5)
    reading, again = os.pipe()
    os.dup2(again, writing)
    logs.get_logger().info("somebody hears")
    with open(reading) as heard:
        told, said = json.loads(heard.readline()), json.loads(heard.readline())
        os.close(writing)
    assert (told["level"], told["event"]) == ("warning", "log lines were lost")
    assert (told["lines"], told["reason"]) == (5, "Broken pipe")
    assert said["event"] == "somebody hears"
    os.close(again)


def test_without_configure_our_lines_go_where_the_user_of_the_library_says(caplog) -> None:
    """To the logger `matyan` of the standard module, as text with its values; nothing is printed."""
    with caplog.at_level(logging.INFO, "matyan"):
        logs.get_logger().bind(run="r").info("the log ended", number=1)
    (record,) = caplog.records
    assert record.getMessage() == "the log ended run='r' number=1"
    assert record.levelname == "INFO"


def test_every_module_takes_its_logger_from_logs() -> None:
    """structlog's own would print to the standard output of whoever uses `matyan.reader`."""
    package = Path(logs.__file__).parent
    assert {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if re.search(r"^\s*(import|from) structlog", path.read_text(), re.MULTILINE)
    } == {"logs.py"}
