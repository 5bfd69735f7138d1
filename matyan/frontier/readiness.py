"""Which sockets have something to read: how the lane waits for all of its sockets at once.

Linux has epoll, which is one descriptor that stands for them all. Elsewhere (a Mac) a task of each socket waits by what trio has
there. Nothing here knows what a connection is.
"""

from __future__ import annotations

import select
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from itertools import islice
from typing import Any, Protocol

import trio
from trio.lowlevel import wait_readable


class Readiness(Protocol):
    """Sockets that are waited for; each until it is removed."""

    @property
    def wait(self) -> Callable[[], Awaitable[None]]:
        """Returns when there may be something to read."""

    @property
    def ready(self) -> Callable[[int], Sequence[tuple[int, int]]]:
        """Up to so many sockets with something to read, first in each pair; one that is not read then is named again."""

    def add(self, fd: int) -> None: ...

    def remove(self, fd: int) -> None:
        """Forgets one that was added, before it is closed."""

    def close(self) -> None: ...


class Epoll:
    """The kernel's list of sockets: a burst of frames on many costs one wait and one call."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        # No functions of ours: each frame comes by here.
        self.wait = partial(wait_readable, self._epoll)
        self.ready = partial(self._epoll.poll, 0)

    def add(self, fd: int) -> None:
        self._epoll.register(fd, select.EPOLLIN)

    def remove(self, fd: int) -> None:
        self._epoll.unregister(fd)

    def close(self) -> None:
        self._epoll.close()


class TaskEach:
    """A task a socket, in whatever trio waits with: for systems that have no epoll.

    Args:
        spawn: starts a task, which ends when its socket is removed.
    """

    def __init__(self, spawn: Callable[[Callable[[], Any]], object]) -> None:
        self._spawn = spawn
        self._tasks: dict[int, trio.CancelScope] = {}
        self._ready: dict[int, trio.Event] = {}
        """Those with something to read, in their order, and what their tasks wait for then."""
        self._some = trio.Event()

    def add(self, fd: int) -> None:
        scope = self._tasks[fd] = trio.CancelScope()
        self._spawn(partial(self._watch, fd, scope))

    def remove(self, fd: int) -> None:
        # The next socket may get the same number: what was said of this one is not meant for it.
        self._ready.pop(fd, None)
        self._tasks.pop(fd).cancel()

    async def wait(self) -> None:
        await self._some.wait()

    def ready(self, most: int) -> Sequence[tuple[int, int]]:
        taken = [(fd, select.POLLIN) for fd in islice(self._ready, most)]
        for fd, _ in taken:
            self._ready.pop(fd).set()
        if not self._ready:
            self._some = trio.Event()
        return taken

    def close(self) -> None:
        for scope in self._tasks.values():
            scope.cancel()

    async def _watch(self, fd: int, scope: trio.CancelScope) -> None:
        with scope:
            # A cancelled task must not ask for a number that may be another socket's by now.
            while not scope.cancel_called:
                await wait_readable(fd)
                read = self._ready[fd] = trio.Event()
                self._some.set()
                await read.wait()


def readiness(name: str, spawn: Callable[[Callable[[], Any]], object]) -> Readiness:
    """What MATYAN_READINESS names."""
    return Epoll() if name == "auto" and hasattr(select, "epoll") else TaskEach(spawn)
