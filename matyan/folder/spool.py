"""An answer between its socket and its reader: taken at the pace of the process that answers, handed over at the reader's.

The process that answers holds a snapshot of the store until the answer is taken, and drops a client that takes nothing
(`server.py`). A reader may pause for hours, as a pager does. So a thread takes the messages; what the reader leaves waits in memory, and from
HELD_BYTES on in a temporary file. No wire here: messages are bytes.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import IO, Final

import outcome

from matyan.errors import MatyanError

HELD_BYTES: Final = 4 << 20
"""So much waits in memory."""
PATIENCE_S = 5.0
"""A reader that takes nothing for so long is waited for no more: the rest goes into a file, at once. A reader that is only slower
than the answer needs no file, however long the answer is."""


class Spool:
    """Iterate over it once, and close it.

    Args:
        messages: the answer; asked for in a thread.
        stop: makes `messages` end or raise, from another thread.
    """

    def __init__(self, messages: Iterator[bytes], stop: Callable[[], None]) -> None:
        self._messages = messages
        self._stop = stop
        self._turn = threading.Condition()
        # Guarded by `_turn`; first what waits in memory, then what stands in the file.
        self._waiting: deque[bytes] = deque()
        self._held = 0
        self._taken = 0
        self._spilled: deque[int] = deque()  # the messages' lengths
        self._closed = False
        self._outcome: outcome.Outcome[None] | None = None
        """How the answer ended."""
        # Written by the thread at its end, read by the reader at its own place.
        self._file: IO[bytes] | None = None
        self._thread = threading.Thread(target=self._run, name="matyan answer", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[bytes]:
        """The messages, and then what ended them, when it was an error."""
        place = 0
        while True:
            with self._turn:
                self._turn.wait_for(lambda: self._waiting or self._spilled or self._outcome)
                if self._waiting:
                    message, length = self._waiting.popleft(), 0
                    self._held -= len(message)
                    self._taken += 1
                    self._turn.notify_all()
                elif self._spilled:
                    message, length = b"", self._spilled.popleft()
                else:
                    assert self._outcome is not None
                    self._outcome.unwrap()
                    return
            if length:
                assert self._file is not None
                message = os.pread(self._file.fileno(), length, place)
                place += length
            yield message

    def close(self) -> None:
        """Ends the thread and drops what was not taken."""
        with self._turn:
            self._closed = True
            self._turn.notify_all()
        self._stop()
        self._thread.join()
        if self._file is not None:
            self._file.close()

    def _run(self) -> None:
        ended = outcome.capture(self._take)
        if isinstance(ended, outcome.Error):
            self._stop()  # the other side must not wait for a client that takes nothing more
        with self._turn:
            self._outcome = ended
            self._turn.notify_all()

    def _take(self) -> None:
        for message in self._messages:
            if not self._keep(message):
                break

    def _keep(self, message: bytes) -> bool:
        """Whether somebody still wants more."""
        with self._turn:
            if self._file is None and self._has_room():
                self._waiting.append(message)
                self._held += len(message)
                self._turn.notify_all()
                return not self._closed
        if self._closed:
            return False
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile(prefix="matyan-", buffering=0)  # noqa: SIM115 - closed in close()
            left = memoryview(message)
            while left:
                left = left[os.write(self._file.fileno(), left) :]
        except OSError as error:
            raise MatyanError(
                f"The rest of the answer finds no place in {tempfile.gettempdir()} ({error.strerror}), where it waits for a "
                "reader that pauses: set TMPDIR to a folder with more room."
            ) from None
        with self._turn:
            self._spilled.append(len(message))
            self._turn.notify_all()
        return True

    def _has_room(self) -> bool:
        """Waits for it as long as the reader takes something."""
        while self._held >= HELD_BYTES and not self._closed:
            taken = self._taken
            self._turn.wait_for(partial(self._has_moved, taken), PATIENCE_S)
            if not self._has_moved(taken):
                return False
        return not self._closed

    def _has_moved(self, taken: int) -> bool:
        return self._taken != taken or self._closed
