"""Waiting for what librdkafka has to say without a thread that waits in poll(): a pipe that it writes to.

How librdkafka comes to do that is `_answers.pyx`'s. What is polled, and when, is the owner's.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

import confluent_kafka
import trio

from matyan.broker.kafka import _answers

_PLUGINS: Final = "plugin.library.paths"
_MOST_BYTES: Final = 4096


def _load() -> None:
    # The binding's library, which is linked to the librdkafka that it uses: there can be another one on the machine.
    library = ctypes.CDLL(confluent_kafka.cimpl.__file__)
    _answers.load(
        [
            ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            for name in _answers.FUNCTIONS
        ]
    )


_load()


class Answers:
    """Tells its one task that a client has something to be polled for.

    librdkafka writes when its queue was empty before: so each time the queue must be polled until it is.
    """

    def __init__(self) -> None:
        self._hears, self._tells = os.pipe()
        os.set_blocking(self._hears, False)
        os.set_blocking(self._tells, False)

    def client(self, config: Mapping[str, Any]) -> confluent_kafka.Producer:
        """A client that tells this one from now on. What it has said before is heard after `look`."""
        plugins = ";".join(filter(None, (config.get(_PLUGINS), _answers.__file__)))
        _answers.expect(self._tells)
        client = confluent_kafka.Producer({**config, _PLUGINS: plugins})
        _answers.enable()
        return client

    def look(self) -> None:
        """Has the task look, whether there is something or not. From any thread."""
        with suppress(BlockingIOError):  # then so much is told that it will look
            os.write(self._tells, b"1")

    async def wait(self) -> None:
        """Returns when there is something, all that was told until then in one."""
        await trio.lowlevel.wait_readable(self._hears)
        os.read(self._hears, _MOST_BYTES)

    def close(self) -> None:
        """Nobody waits any more, or will; clients may go on."""
        trio.lowlevel.notify_closing(self._hears)
        os.close(self._hears)
        os.close(self._tells)
