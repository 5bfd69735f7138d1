"""For a command on a data folder that nobody holds: this process holds it, in a thread, and answers at its socket.

The same parts as `matyan up` runs, without a port.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import outcome
import trio

from matyan.errors import MatyanError
from matyan.folder.folder import open_folder
from matyan.folder.kafka_folder import KafkaFolder
from matyan.folder.tracker import Tracker
from matyan.settings import Settings


@contextmanager
def hold(data: Path, settings: Settings) -> Iterator[None]:
    """Holds a data folder in a thread of this process and answers at its socket.

    Raises:
        ConfigurationError: as `open_folder` does.
    """
    began: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.Event] | BaseException] = (
        queue.SimpleQueue()
    )

    async def answer() -> None:
        async with open_folder(data, None) as folder, trio.open_nursery() as nursery:
            holder: Tracker | KafkaFolder = (
                KafkaFolder(folder, None)
                if folder.fed_by_kafka
                else Tracker(folder, settings.queue_bytes)
            )
            for task in holder.tasks():
                await nursery.start(task.run)
            stop = trio.Event()
            began.put((trio.lowlevel.current_trio_token(), stop))
            await stop.wait()
            await holder.drain(trio.current_time() + settings.shutdown_flush_timeout)
            nursery.cancel_scope.cancel()

    def thread() -> None:
        ended = outcome.capture(trio.run, answer)
        if isinstance(ended, outcome.Error):
            began.put(ended.error)

    holder = threading.Thread(target=thread, name="matyan store", daemon=True)
    holder.start()
    first = began.get()
    if isinstance(first, BaseException):
        raise _unwrapped(first)
    token, stop = first
    try:
        yield
    finally:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(stop.set)
        holder.join()
    if not began.empty():
        late = began.get()
        assert isinstance(late, BaseException)
        raise _unwrapped(late)


def _unwrapped(error: BaseException) -> BaseException:
    """The error inside groups of one; the first of ours inside a larger one."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup(MatyanError)
        error = (ours or error).exceptions[0]
    return error
