"""Structured logs: pretty in a terminal, JSON lines otherwise. Bound names: run, connection, partition.

Logs go to stderr; stdout belongs to what a command prints. Every module takes its logger from `get_logger`: until a program of
ours calls `configure`, its lines go to the logger `matyan` of the standard module and no further, as a library's should, so that
`matyan.reader` leaves its user's logging alone.

A line is never worth the process: one that cannot be written, or not even be formed, is counted and that is all.
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import sys
import time
import traceback
from collections.abc import MutableMapping
from datetime import UTC, datetime
from typing import Any, Final

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from matyan.service import json_text, telemetry
from matyan.service.terminal import Sink, StatusLine, clean, clean_lines

REPEAT_S: Final = 30.0
"""A library says the same again after so many seconds: librdkafka reports each of its two attempts a second."""

_OURS: Final = "matyan"
_STDERR: Final = 2


# --- what modules call ---------------------------------------------------------------------------


class _Event(dict[str, Any]):
    """A line's names and values on their way through the standard module; its text is for handlers that are not ours."""

    def __str__(self) -> str:
        return " ".join(
            [str(self["event"]), *(f"{k}={v!r}" for k, v in self.items() if k != "event")]
        )


def _as_record(
    logger: Any, method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[_Event], dict[str, Any]]:
    """structlog's names and values as arguments of a logger of the standard module."""
    exc_info = event.pop("exc_info", None)
    return (_Event(event),), {"exc_info": exc_info}


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger with `bind`, `info`, `warning` and so on: names and values beside each sentence."""
    logger: structlog.stdlib.BoundLogger = structlog.wrap_logger(
        logging.getLogger(_OURS),
        processors=[structlog.stdlib.filter_by_level, _as_record],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return logger


logging.getLogger(_OURS).addHandler(logging.NullHandler())


# --- what programs of ours set up ----------------------------------------------------------------


class _Seldom:
    """Knows what libraries said within REPEAT_S, numbers aside."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}

    def repeats(self, record: logging.LogRecord) -> bool:
        if record.name == _OURS:
            return False
        text, now = re.sub(r"[0-9]+", "0", record.getMessage()), time.monotonic()
        if now < self._said.get(text, 0.0):
            return True
        if len(self._said) >= 1_000:
            self._said.clear()
        self._said[text] = now + REPEAT_S
        return False


def configure(level: str, *, descriptor: int = _STDERR) -> StatusLine | None:
    """Sets the logs of this process up, ours and its libraries'. `level` is a name of the logging module, such as "INFO".

    Returns:
        In a terminal the line below the logs.
    """
    is_terminal = os.isatty(descriptor)
    form = _Console() if is_terminal else _JsonLines()
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"

    def told(lost: int, why: str) -> str:
        return form.format(_about_logs("log lines were lost", lines=lost, reason=why)) + "\n"

    sink = Sink(descriptor, encoding, told, telemetry.LOG_LINES_LOST.inc)
    atexit.register(sink.close)
    line = StatusLine(sink) if is_terminal else None
    handler = _Handler(line or sink)
    handler.setFormatter(form)
    # Hypercorn, librdkafka and the other libraries log through the standard module, too.
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger(_OURS).setLevel(level.upper())
    return line


class _Handler(logging.Handler):
    def __init__(self, out: Sink | StatusLine) -> None:
        super().__init__()
        self._out = out
        self._seldom = _Seldom()

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if self._seldom.repeats(record):
                return
            line = self.format(record)
        except Exception as error:  # noqa: BLE001 - whatever the repr of a value raises, the caller only wanted to log
            place = f"{record.module}:{record.lineno}"
            line = self.format(
                _about_logs(
                    "a log line could not be formed", place=place, error=type(error).__name__
                )
            )
        self._out.write(f"{line}\n")


def _about_logs(sentence: str, **values: object) -> logging.LogRecord:
    """A warning that nobody logged."""
    event = {"msg": _Event(event=sentence, **values), "name": _OURS}
    return logging.makeLogRecord({**event, "levelno": logging.WARNING, "levelname": "WARNING"})


def _named(record: logging.LogRecord) -> dict[str, Any]:
    """A line's names and values, whoever logged it."""
    event = (
        dict(record.msg)
        if isinstance(record.msg, _Event)
        else {"event": record.getMessage(), "logger": record.name}
    )
    event["level"] = record.levelname.lower()
    moment = datetime.fromtimestamp(record.created, UTC)
    event["timestamp"] = moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    return event


class _JsonLines(logging.Formatter):
    # No locals: among them stand the secrets of whoever signs, connects or encrypts.
    _exception = ExceptionDictTransformer(show_locals=False)

    def format(self, record: logging.LogRecord) -> str:
        event = _named(record)
        if record.exc_info and record.exc_info[0] is not None:
            event["exception"] = self._exception(record.exc_info)
        return json_text.dumps(event, default=repr)


class _Console(logging.Formatter):
    def __init__(self) -> None:
        super().__init__()
        self._render = structlog.dev.ConsoleRenderer()

    def format(self, record: logging.LogRecord) -> str:
        event = {name: _shown(value) for name, value in _named(record).items()}
        line: str = self._render(None, record.levelname.lower(), event)
        if record.exc_info and record.exc_info[0] is not None:
            # As Python itself prints it, which shows no locals.
            line += "\n" + clean_lines("".join(traceback.format_exception(*record.exc_info)))
        return line.rstrip("\n")


def _shown(value: object) -> str:
    return clean(value if isinstance(value, str) else repr(value))
