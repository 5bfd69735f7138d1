"""The tracker of one machine: store, broker, blobs and workers of one data folder, in one process.

Puts parts together; decides nothing about records. No listener: `cli/up.py` adds it.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from matyan.blobs.folder import FolderBlobs
from matyan.broker import local
from matyan.broker.base import DeadLetter
from matyan.broker.local import LocalBroker
from matyan.errors import ConfigurationError, NotFound, Unavailable
from matyan.folder.folder import DataFolder, finish_commands, open_folder
from matyan.folder.letters import Letters
from matyan.folder.opened import delete_by_record, delivered, finish_by_record
from matyan.folder.taking import Taking
from matyan.keys import Keys
from matyan.rules import runs
from matyan.rules.queries import Row
from matyan.rules.removals import awaited
from matyan.rules.rows import RunRows
from matyan.service import private
from matyan.service.health import Health
from matyan.service.supervise import Task
from matyan.settings import Settings
from matyan.store.base import Snapshot, Store
from matyan.store.open import FolderName
from matyan.workers.control import ControlWorker
from matyan.workers.ingest import IngestWorker
from matyan.workers.notices import Notices
from matyan.workers.parting import part
from matyan.workers.webhooks import Webhook, read_webhooks

_URL_EXPIRY_S = 3600
"""The embedded mode reads no S3 setting; the SDK presigns right before it uploads."""
_SECRET_BYTES = 32
_CONTROL_S = 30.0
"""How long a deletion waits for the run's blobs to go, too."""
_POLL_S = 0.02


class Tracker:
    """The parts of one data folder. Made by `open_tracker`; works while its tasks run."""

    def __init__(
        self, folder: DataFolder, queue_bytes: int, webhooks: Sequence[Webhook] = ()
    ) -> None:
        self._folder = folder
        self.store = store = folder.store
        self.keys = keys = folder.keys
        self._broker = broker = LocalBroker(keys, queue_bytes)
        self.outbox = broker.outbox()
        self.producer = broker.producer()
        secret = _secret(folder.path / "secret")
        self.blobs = FolderBlobs(folder.path / "blobs", secret, _URL_EXPIRY_S, self._is_deleted)
        self.ingest = IngestWorker(
            broker.ingest_consumer(),
            store,
            keys,
            folder.rules,
            self.outbox,
            on_deletion=folder.compaction.deleted,
            told=bool(webhooks),
        )
        self._replaying = trio.Lock()
        self._control = ControlWorker(
            broker.control_consumer(store),
            self.blobs,
            self._bury,
            partial(part, store, keys),
            Notices(webhooks, self._open_store, local.CONTROL_TOPIC, self._bury),
        )
        self._queries = folder.queries
        self.sequences = folder.sequences
        self.delete = partial(delete_by_record, self.producer)
        """Hands over the record that deletes a run; returns when that is done."""
        self._letters = Letters(keys)
        folder.jobs.is_tracker = True
        self._api = folder.api(
            {
                "delete": self._delete,
                "finish": self._finish,
                "artifact": self._artifact,
                "dlq_replay": self._replay,
                "job_blob_page": self._blob_page,
                "job_delete_blobs": self._delete_blobs,
                **Taking(self.producer, self.blobs, self._require_store).writes(),
            },
            {
                "show": self._show,
                "artifacts": self._artifacts,
                "dlq_list": self._letters.rows,
                "dlq_show": self._letters.row,
            },
            self.blobs,
        )
        self.health = Health()
        self.health.add("store", self._check_store)

    def tasks(self) -> list[Task]:
        return [
            Task("ingest", self.ingest.run),
            Task("control", self._control.run),
            Task("commands", self._api.serve),
            Task("compaction", self._folder.compaction.run),
        ]

    async def drain(self, deadline: float) -> int:
        """Waits for what was accepted and for commands being answered; returns the records not stored.

        What the control worker has not done stands in the store and is done by the next process.
        """
        left = await self.producer.flush(deadline)
        await finish_commands(self._api)
        return left

    async def _check_store(self) -> None:
        trouble = self.ingest.trouble()
        if trouble is not None:
            raise Unavailable(trouble)
        await self.store.read(lambda snap: snap.get(self.keys.layout()))

    async def _open_store(self) -> tuple[Store, Keys]:
        await trio.lowlevel.checkpoint()
        return self.store, self.keys

    async def _is_deleted(self, run: str) -> bool:
        return await self.store.read(lambda snap: runs.is_deleted(RunRows(snap, self.keys, run)))

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        await self.store.transact(lambda tr: self.outbox.within(tr, [], letters))

    # --- blobs, which lie in the same folder -----------------------------------------------------

    def _artifacts(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        """What was signed for a run, how many bytes came and when; no bytes (None): it was never uploaded."""
        run = self._queries.resolve(snap, run)
        for row in self._queries.artifacts(snap, run=run):
            if (held := self.blobs.held(run, row["path"])) is None:
                yield {**row, "bytes": None}
            else:
                size, modified = held
                yield {**row, "bytes": size, "modified": modified}

    def _show(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        for shown in self._queries.show(snap, run=run):
            if "artifacts" in shown:
                shown["artifacts"] = [*self._artifacts(snap, run=shown["run"])]
            yield shown

    async def _blob_page(self, *, prefix: str, after: str) -> AsyncIterator[object]:
        """The next blobs that are here, whether a record names them or not, as `blobs.base.ListedBlob`."""
        async with aclosing(self.blobs.pages(prefix, after)) as pages:
            async for page in pages:
                for blob in page:
                    yield [*blob]
                return

    async def _delete_blobs(self, *, keys: Sequence[str]) -> AsyncIterator[object]:
        yield await self.blobs.delete(keys)

    async def _artifact(self, *, run: str, path: str) -> AsyncIterator[object]:
        """The bytes of an artifact, in pieces."""
        _, _, pieces = await self.blobs.open(run, path)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    # --- what the CLI writes -----------------------------------------------------------------------

    async def _delete(self, *, run: str) -> AsyncIterator[object]:
        """Deletes a run and waits for its blobs to go."""
        await self._folder.must_exist(run)
        self._require_store()
        await delete_by_record(self.producer, run)
        pending = True
        with trio.move_on_after(_CONTROL_S):
            while pending:
                pending = await self.store.read(lambda snap: run in awaited(snap, self.keys))
                await trio.sleep(_POLL_S if pending else 0)
        yield {"run": run, "blobs_pending": pending}

    async def _finish(self, *, run: str, stale: bool = False) -> AsyncIterator[object]:
        """Ends a run when it was last heard of; one that has ended stays as it is."""
        before = await self._folder.last_heard(run)
        if before.active:
            self._require_store()
            await finish_by_record(self.producer, run, before.last_record, stale)
        after = await self._folder.last_heard(run)
        yield {"run": run, "was_active": before.active, "duration": after.duration}

    async def _replay(self, *, ids: Sequence[int] | None) -> AsyncIterator[object]:
        """Hands dead letters over again; the transaction that applies one takes it out of the store."""
        if ids is None:
            ids = await self.store.read(
                lambda snap: [one.id for one in local.dead_letters(snap, self.keys)]
            )
        for number in ids:
            # One at a time: what was read of a letter holds only while nobody else hands it over.
            async with self._replaying:
                if self._broker.is_redelivered(number):
                    raise Unavailable(
                        f"Dead letter {number} was sent before and waits for the store."
                    )
                letter = await self.store.read(partial(self._letters.standing, id=number))
                self._require_store()
                became = await self._sent_again(number, letter.letter)
            yield {"id": number, "outcome": became}

    async def _sent_again(self, number: int, letter: DeadLetter) -> str:
        """What became of a dead letter."""
        if letter.topic == local.CONTROL_TOPIC:
            await self.store.transact(partial(self._broker.requeue_event, number, letter.value))
            return "handled again soon"
        try:
            again = await delivered(partial(self._broker.redeliver, number, letter))
        except NotFound as error:
            return f"dropped: {error}"
        return "dead again" if again.died else "applied"

    def _require_store(self) -> None:
        """Says at once that the store is away: what a person asked for must not be done after they gave it up.

        Raises:
            Unavailable: it is.
        """
        trouble = self.ingest.trouble()
        if trouble is not None:
            raise Unavailable(f"Nothing was done: {trouble}")


@asynccontextmanager
async def open_tracker(data: Path, settings: Settings) -> AsyncIterator[Tracker]:
    """Opens a data folder as a tracker of its own, in the layout that is set or else the default; see `open_folder`.

    Raises:
        ConfigurationError: its records come from Kafka.
    """
    async with open_folder(data, settings.layout, strict=True) as folder:
        if folder.fed_by_kafka:
            raise ConfigurationError(
                f"The records of {data} come from Kafka: run its worker, with: "
                f"matyan ingest-worker --store {FolderName(data)}, or name another folder with --data."
            )
        yield Tracker(folder, settings.queue_bytes, read_webhooks(settings.webhooks_file))


def _secret(path: Path) -> bytes:
    """The key that signs blob URLs: made once, readable by its owner alone."""
    try:
        with suppress(FileNotFoundError):
            secret = path.read_bytes()
            private.tighten(path)
            if len(secret) == _SECRET_BYTES:
                return secret
        secret = secrets.token_bytes(_SECRET_BYTES)
        partial = path.with_name(f"{path.name}.part")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be used ({error.strerror}): mend its permissions, or name another folder with --data."
        ) from None
    return secret
