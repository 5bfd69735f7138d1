"""The wait for a store at the start of a service: alive at once, ready when it answers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import trio

from matyan.cli.start import FIRST_WAIT_S, LONGEST_WAIT_S, NOT_ASKED
from matyan.errors import ConfigurationError, NoStore, Unavailable
from matyan.folder.client import ask, connect
from matyan.folder.lent import LentStore, nobody_holds
from matyan.folder.opened import Opened, open_to_read, open_up
from matyan.service import telemetry
from matyan.service.backoff import Backoff
from matyan.service.logs import get_logger
from matyan.settings import Settings
from matyan.store.open import ClusterName, FolderName, StoreName, open_cluster_store


class StoreStart:
    """As `KafkaStart`, for the store; and whether it answers ever after.

    open_once: opens it, or raises Unavailable or NoStore.
    """

    def __init__(self, name: StoreName, open_once: Callable[[], Awaitable[Opened]]) -> None:
        self._open_once = open_once
        self._log = get_logger().bind(missing="store", store=str(name))
        self._opened: Opened | None = None
        self._missing = NOT_ASKED

    async def open(self) -> Opened:
        """Returns the store when it is there.

        Raises:
            ConfigurationError: it cannot be opened until the user changes something.
        """
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        while True:
            try:
                return await self.try_open()
            except Unavailable:
                telemetry.RETRIES.labels("start", "store").inc()
                self._log.warning("waits at its start", reason=self._missing)
                await trio.sleep(backoff.next())

    async def try_open(self) -> Opened:
        """
        Raises:
            Unavailable: it is not there now.
            ConfigurationError: it cannot be opened until the user changes something.
        """
        if self._opened is None:
            try:
                self._opened = await self._open_once()
            except (Unavailable, NoStore) as error:
                self._missing = str(error)
                raise Unavailable(self._missing) from error
        return self._opened

    def why(self) -> str:
        """Why the store is not there yet; or not what is being made of it."""
        return (
            self._missing
            if self._opened is None
            else "The store is there, and the service begins: ask again in a moment."
        )

    async def check(self) -> None:
        """Whether the store answers: a readiness check."""
        if self._opened is None:
            raise Unavailable(self._missing)
        keys = self._opened.keys
        await self._opened.store.read(lambda snap: snap.get(keys.layout()))


def fed_cluster(name: ClusterName, settings: Settings) -> StoreStart:
    """The store of a FoundationDB cluster, for who fills it: made where there is none."""

    async def open_once() -> Opened:
        store = await open_cluster_store(name, settings, create=True)
        return await open_up(store, settings.layout)

    return StoreStart(name, open_once)


def shared_store(name: StoreName, settings: Settings) -> StoreStart:
    """A store that ingestion workers fill, for who uses it beside them: a cluster's, or the one in a folder by way of its worker."""

    async def open_cluster() -> Opened:
        assert isinstance(name, ClusterName)
        return await open_to_read(await open_cluster_store(name, settings, create=False))

    async def open_lent() -> Opened:
        assert isinstance(name, FolderName)
        await trio.to_thread.run_sync(_must_be_a_workers, name)
        return await open_to_read(LentStore(name.folder))

    return StoreStart(name, open_cluster if isinstance(name, ClusterName) else open_lent)


def _must_be_a_workers(name: FolderName) -> None:
    """
    Raises:
        Unavailable: no process holds the folder.
        ConfigurationError: the one that does is a tracker.
    """
    try:
        (place,) = ask(partial(connect, name.folder), "job_place", {})
    except Unavailable:
        raise nobody_holds(name.folder) from None
    if place["is_tracker"]:
        raise ConfigurationError(
            f"`matyan up` holds {name.folder}, and shows what is in it at its own port: open that one, or name a folder that a "
            "worker fills with --store."
        )
