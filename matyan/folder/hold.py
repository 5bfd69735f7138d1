"""For a command on a store that no process answers for: this process has it open, in a thread, and answers itself.

A data folder that nobody holds: the same parts as `matyan up` runs, without a port. A FoundationDB cluster, always: any number
of processes may have its store open.
"""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Generic, TypeVar

import outcome
import trio

from matyan.errors import MatyanError, Unavailable
from matyan.folder.client import Connect
from matyan.folder.cluster import OpenStore, cluster_answers
from matyan.folder.folder import open_folder
from matyan.folder.kafka_folder import KafkaFolder
from matyan.folder.tracker import Tracker
from matyan.settings import Settings

_LEAVE_S: Final = 0.5
"""How long a cluster's answers are waited for at the end: only one that was interrupted is still under way then, it may wait
for a cluster that is away, and it holds nothing that others need."""

T = TypeVar("T")


@contextmanager
def hold(data: Path, settings: Settings) -> Iterator[None]:
    """Holds a data folder in a thread of this process and answers at its socket.

    Raises:
        ConfigurationError: as `open_folder` does.
    """

    async def answer(began: Callable[[None], Awaitable[None]]) -> None:
        async with open_folder(data, None) as folder, trio.open_nursery() as nursery:
            holder: Tracker | KafkaFolder = (
                KafkaFolder(folder, None)
                if folder.fed_by_kafka
                else Tracker(folder, settings.queue_bytes)
            )
            for task in holder.tasks():
                await nursery.start(task.run)
            await began(None)
            await holder.drain(trio.current_time() + settings.shutdown_flush_timeout)
            nursery.cancel_scope.cancel()

    with _thread(answer, leave_s=None):
        yield


@contextmanager
def open_cluster(open_store: OpenStore, settings: Settings) -> Iterator[Connect]:
    """Opens the store of a cluster in a thread of this process, and answers there who connects.

    Raises:
        ConfigurationError, Unavailable: as `open_store` does.
    """

    async def answer(began: Callable[[Connect], Awaitable[None]]) -> None:
        async with cluster_answers(open_store, settings) as answers, trio.open_nursery() as nursery:
            token = trio.lowlevel.current_trio_token()

            def take(connection: socket.socket) -> None:
                stream = trio.SocketStream(trio.socket.from_stdlib_socket(connection))
                nursery.start_soon(answers.to, stream)

            def connect() -> socket.socket:
                ours, theirs = socket.socketpair()
                try:
                    token.run_sync_soon(take, theirs)
                except trio.RunFinishedError:
                    raise Unavailable("The store was closed: open it again.") from None
                return ours

            await began(connect)
            nursery.cancel_scope.cancel()

    with _thread(answer, leave_s=_LEAVE_S) as connect:
        yield connect


class _Began(Generic[T]):
    """What a thread has begun with, and what ends it."""

    def __init__(self, value: T, token: trio.lowlevel.TrioToken, stop: trio.Event) -> None:
        self.value = value
        self.token = token
        self.stop = stop


@contextmanager
def _thread(
    main: Callable[[Callable[[T], Awaitable[None]]], Awaitable[None]], *, leave_s: float | None
) -> Iterator[T]:
    """Runs `main` in a thread until the context is left; main calls what it is given with the context's value, which
    returns when it is time to end.

    leave_s: how long its end is waited for; None: until it has come.
    """
    told: queue.SimpleQueue[_Began[T] | BaseException] = queue.SimpleQueue()

    async def began(value: T) -> None:
        stop = trio.Event()
        told.put(_Began(value, trio.lowlevel.current_trio_token(), stop))
        await stop.wait()

    def run() -> None:
        ended = outcome.capture(trio.run, main, began)
        if isinstance(ended, outcome.Error):
            told.put(ended.error)

    thread = threading.Thread(target=run, name="matyan store", daemon=True)
    thread.start()
    first = told.get()
    if isinstance(first, BaseException):
        raise _unwrapped(first)
    try:
        yield first.value
    finally:
        with suppress(trio.RunFinishedError):
            first.token.run_sync_soon(first.stop.set)
        thread.join(leave_s)
    if not told.empty():
        late = told.get()
        assert isinstance(late, BaseException)
        raise _unwrapped(late)


def _unwrapped(error: BaseException) -> BaseException:
    """The error inside groups of one; the first of ours inside a larger one."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup(MatyanError)
        error = (ours or error).exceptions[0]
    return error
