"""A consumer group's offsets: those that the store has beside those that Kafka has, and setting both.

For `matyan offsets` and `matyan doctor`. Runs no service and applies no record. Where a worker may start is decided by
`broker/kafka/start.py`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import trio

from matyan import readable
from matyan.broker.kafka.admin import PATIENCE_S, Group, Place, describe_topic, patiently
from matyan.broker.kafka.start import FedStore, where_to_start
from matyan.errors import ConfigurationError, MatyanError
from matyan.folder import client
from matyan.keys import LOCAL, Keys, pack_value, unpack_value
from matyan.reader import Reader
from matyan.rules.identity import feeders, store_id
from matyan.settings import Settings
from matyan.store.base import Snapshot, Store, Transaction
from matyan.store.open import StoreName, open_store


@dataclass(frozen=True, slots=True)
class PartitionOffsets:
    """One partition: where the store and where Kafka say that it stands."""

    partition: int
    stored: int | None
    kafka: Place
    dropped: int | None = None
    """Records of deleted runs that the store was brought and did not take; None: it cannot be asked."""

    def row(self) -> dict[str, int | None]:
        known = self.stored if self.stored is not None else self.kafka.committed
        return {
            "partition": self.partition,
            "stored": self.stored,
            "committed": self.kafka.committed,
            "start": self.kafka.low,
            "end": self.kafka.high,
            "lag": self.kafka.high - (self.kafka.low if known is None else known),
            "dropped": self.dropped,
        }

    def prospect(self, target: int) -> str:
        """What setting it to `target` does, as a sentence."""
        name, low = f"Partition {self.partition}", self.kafka.low
        if self.stored is None:
            return f"{name}: this store has no offset of it; it gets what stands at {target} and after, and nothing before."
        said = []
        if self.stored < low:
            said.append(
                f"{low - self.stored} records are lost, which the topic's retention removed"
            )
        known = max(self.stored, low)
        if target < known:
            said.append(f"{known - target} records that it has are applied again")
        elif target > known:
            said.append(f"{target - known} records that it has not are skipped for good")
        return f"{name}: {self.stored} → {target}: {', '.join(said) or 'nothing is applied again or skipped'}."


Choice = Callable[[list[PartitionOffsets], str], dict[int, int]]
"""Given each partition and the store's id, the new offset of those that are to be set."""


class GroupOffsets:
    """A consumer group of one topic, and the offsets in its store."""

    def __init__(
        self,
        settings: Settings,
        patience_s: float = PATIENCE_S,
        *,
        topic: str | None = None,
        group: str | None = None,
    ) -> None:
        """
        Args:
            patience_s: how long a broker that loads its groups is waited for.
            topic, group: the ingestion workers' by default.
        """
        from matyan.broker.kafka.client import client_config

        self._settings = settings
        self._patience_s = patience_s
        self.topic = topic or settings.kafka_data_ingestion_topic
        self._group = Group(client_config(settings), group or settings.ingestion_group)
        self._described = describe_topic(self._group.admin, self.topic)
        self._topic_id = str(self._described.topic_id)

    def committed(self) -> list[PartitionOffsets]:
        """Each partition, by what Kafka knows alone."""
        return [
            PartitionOffsets(number, None, place)
            for number, place in sorted(self._places().items())
        ]

    def told_by(self, folder: Path, rows: list[PartitionOffsets]) -> list[PartitionOffsets]:
        """The same with what the process that holds the folder can tell, where one answers."""
        try:
            reader = Reader(partial(client.connect, folder))
            answer = [*reader.ask("dropped", topic_id=self._topic_id)]
        except MatyanError:
            return rows
        told = {one["partition"]: one["dropped"] for one in answer}
        return [replace(row, dropped=told.get(row.partition, 0)) for row in rows]

    async def stored(self, name: StoreName) -> list[PartitionOffsets]:
        """Each partition, by what the store and Kafka know; a data folder is held meanwhile.

        Raises:
            FolderInUse: another process holds it.
            NoStore: there is none.
        """
        async with self._opened(name, create=False) as (store, keys):
            return await self._read(store, keys)

    async def reset(self, name: StoreName, choose: Choice) -> list[PartitionOffsets]:
        """Sets what `choose` says, in the store and in Kafka, with the store's id; a data folder is held meanwhile.

        Returns:
            Each partition, as it stands then.

        Raises:
            FolderInUse: another process holds it.
            ConfigurationError: its records do not come from Kafka.
        """
        async with self._opened(name, create=True) as (store, keys):
            rows = await self._read(store, keys)
            if LOCAL in await store.read(lambda snap: feeders(snap, keys)):
                raise ConfigurationError(
                    f"The records of {name} come from `matyan up`, and not from Kafka: name a worker's store."
                )
            make_id = store_id()
            id = await store.transact(lambda tr: make_id(tr, keys))
            chosen = choose(rows, id)
            if chosen:
                # Kafka first: it refuses while the group has members, and then nothing has changed. A worker of a cluster's
                # store that joins before the next line is fenced by it, and reads its offset again.
                self._group.commit(self.topic, self._topic_id, chosen, id)
                await store.transact(partial(self._write, keys, chosen))
            return [replace(row, stored=chosen.get(row.partition, row.stored)) for row in rows]

    def conflicts(self, fed_store: FedStore, rows: Iterable[PartitionOffsets]) -> list[str]:
        """Why partitions would stand still, or no worker of that store may start.

        Where the stored offset is not known, what Kafka has of it stands in: it follows within a second.
        """
        found = []
        for row in rows:
            place = row.kafka
            stored = place.committed if row.stored is None and place.is_ours else row.stored
            try:
                where_to_start(self.topic, row.partition, stored, place, fed_store)
            except ConfigurationError as error:
                found.append(str(error))
        return found

    @asynccontextmanager
    async def _opened(self, name: StoreName, *, create: bool) -> AsyncIterator[tuple[Store, Keys]]:
        store = await open_store(name, self._settings, create=create)
        try:
            yield store, Keys(store)
        finally:
            await store.aclose()

    def _places(self) -> dict[int, Place]:
        numbers = [row.id for row in self._described.partitions]
        return patiently(lambda: self._group.places(self.topic, numbers), self._patience_s)

    async def _read(self, store: Store, keys: Keys) -> list[PartitionOffsets]:
        places = await trio.to_thread.run_sync(self._places, abandon_on_cancel=True)

        def read(snap: Snapshot) -> list[PartitionOffsets]:
            found = []
            for number, place in sorted(places.items()):
                packed = snap.get(keys.ingest(self._topic_id, number))
                stored = None if packed is None else int(unpack_value(packed))
                dropped = int(readable.number(snap.get(keys.dropped(self._topic_id, number))) or 0)
                found.append(PartitionOffsets(number, stored, place, dropped))
            return found

        return await store.read(read)

    def _write(self, keys: Keys, chosen: Mapping[int, int], tr: Transaction) -> None:
        for number, offset in chosen.items():
            tr.set(keys.ingest(self._topic_id, number), pack_value(offset))
