"""Structured logs: pretty in a terminal, JSON lines otherwise. Bound names: run, connection, partition.

Logs go to stderr; stdout belongs to what a command prints.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from typing import Any, Final

import structlog

REPEAT_S: Final = 30.0
"""A library says the same again after so many seconds: librdkafka reports each of its two attempts a second."""


class Seldom(logging.Filter):
    """Lets a line through that was not there, numbers aside, within REPEAT_S."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text, now = re.sub(r"[0-9]+", "0", record.getMessage()), time.monotonic()
        if now < self._said.get(text, 0.0):
            return False
        if len(self._said) >= 1_000:
            self._said.clear()
        self._said[text] = now + REPEAT_S
        return True


def configure(level: str, *, stream: Any = None) -> None:
    """Sets structlog up for this process. `level` is a name of the logging module, such as "INFO"."""
    stream = sys.stderr if stream is None else stream
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Any]
    if stream.isatty():
        renderer = [structlog.dev.ConsoleRenderer()]
    else:
        renderer = [
            structlog.processors.dict_tracebacks,
            structlog.processors.JSONRenderer(),
        ]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    # Hypercorn, librdkafka and the other libraries log through the standard module.
    handler = logging.StreamHandler(stream)
    handler.addFilter(Seldom())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
