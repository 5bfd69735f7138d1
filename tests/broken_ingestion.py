"""Ingestion workers with one promise broken on purpose, for the negative controls."""

from __future__ import annotations

import trio

from matyan.broker.base import Batch
from matyan.rules.records import Unit
from matyan.store.base import Snapshot, Transaction
from matyan.workers.ingest import Contents, Ingestion, IngestWorker
from matyan.workers.partition import Tenure


class _AcknowledgesEarly(Ingestion):
    async def transact(self, batch: Batch, contents: Contents) -> Unit:
        self.partition.committed(batch.next_offset)
        await trio.sleep(
            0.1
        )  # for a kill to come in between: a commit alone takes less than a millisecond
        return await super().transact(batch, contents)


class AcknowledgesEarly(IngestWorker):
    """Acknowledges a while before the commit: what is lost then was promised."""

    def ingestion(self, tenure: Tenure) -> Ingestion:
        return _AcknowledgesEarly(self, tenure)


class _IgnoresStoredOffset(Ingestion):
    def read_offset(self, snap: Snapshot) -> None:
        return None

    def write_offset(self, tr: Transaction, row: bytes) -> None: ...

    def remember_offset(self, offset: int, row: bytes) -> None: ...


class IgnoresStoredOffset(IngestWorker):
    """Neither writes nor reads the stored offset: what comes twice is stored twice."""

    def ingestion(self, tenure: Tenure) -> Ingestion:
        return _IgnoresStoredOffset(self, tenure)


class _FencesNobody(Ingestion):
    async def transact(self, batch: Batch, contents: Contents) -> Unit:
        self._stored_row = await self._worker.store.read(self.read_offset)
        return await super().transact(batch, contents)


class FencesNobody(IngestWorker):
    """Moves the stored offset, and never minds where it stood."""

    def ingestion(self, tenure: Tenure) -> Ingestion:
        return _FencesNobody(self, tenure)
