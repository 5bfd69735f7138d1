"""The wait for the store of a FoundationDB cluster, at the start of a worker: alive at once, ready when it answers."""

from __future__ import annotations

import trio

from matyan.cli.start import FIRST_WAIT_S, LONGEST_WAIT_S, NOT_ASKED
from matyan.errors import Unavailable
from matyan.folder.opened import Opened, open_up
from matyan.service import telemetry
from matyan.service.backoff import Backoff
from matyan.service.logs import get_logger
from matyan.settings import Settings
from matyan.store.open import ClusterName, open_cluster_store


class ClusterStart:
    """As `KafkaStart`, for the store; and whether it answers ever after."""

    def __init__(self, name: ClusterName, settings: Settings) -> None:
        self._name = name
        self._settings = settings
        self._log = get_logger().bind(missing="store", store=str(name))
        self._opened: Opened | None = None
        self._missing = NOT_ASKED

    async def open(self) -> Opened:
        """Returns the store, made where there is none, when the cluster answers.

        Raises:
            ConfigurationError: it cannot be opened until the user changes something.
        """
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        while self._opened is None:
            try:
                self._opened = await self._open()
            except Unavailable as error:
                telemetry.RETRIES.labels("start", "store").inc()
                self._missing = str(error)
                self._log.warning("waits at its start", reason=self._missing)
                await trio.sleep(backoff.next())
        return self._opened

    async def _open(self) -> Opened:
        store = await open_cluster_store(self._name, self._settings, create=True)
        return await open_up(store, self._settings.layout)

    async def check(self) -> None:
        """Whether the store answers: a readiness check."""
        if self._opened is None:
            raise Unavailable(self._missing)
        keys = self._opened.keys
        await self._opened.store.read(lambda snap: snap.get(keys.layout()))
