"""Structured logs: pretty in a terminal, JSON lines otherwise. Bound names: run, connection, partition.

Logs go to stderr; stdout belongs to what a command prints.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog


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
    # Hypercorn and the other libraries log through the standard module.
    logging.basicConfig(level=logging.WARNING, stream=stream, force=True)
