"""A data folder: the store in it, its sequence layout, and the socket at which commands read it.

The same for whoever feeds it: `tracker.py` (the frontier of the same process) or Kafka (`kafka_folder.py`). What only one
of them can answer it adds itself.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

import trio

from matyan._codec import format_timestamp
from matyan.broker.base import DeliveryCallback, Producer
from matyan.errors import FolderInUse, NotFound, Unavailable
from matyan.folder.compaction import Compaction
from matyan.folder.server import LocalAPI, Read, Write
from matyan.keys import LOCAL, Keys
from matyan.rules import runs
from matyan.rules.identity import feeders, store_id
from matyan.rules.queries import Queries
from matyan.rules.records import Rules
from matyan.rules.rows import RunRows
from matyan.rules.sequences import Layout, Sequences, open_layout
from matyan.service import private
from matyan.store.base import FolderStore, Snapshot
from matyan.store.open import open_store

_LOCK_POLL_S = 0.1
"""How often a lock that another process holds is looked at."""
_WRITE_S = 60.0
"""How long a command waits for what it asked for; the store may be busy with large batches."""
_GRACE_S = 2.0
"""How long commands that are being answered may take before the folder is given free."""

T = TypeVar("T")


class DataFolder:
    """An open data folder. Made by `open_folder`."""

    def __init__(
        self, path: Path, store: FolderStore, layout: Layout, id: str, feeders: set[str]
    ) -> None:
        self.path = path
        self.store = store
        self.layout = layout
        self.id = id
        """Which store this is, wherever the folder stands."""
        self.fed_by_kafka = bool(feeders - {LOCAL})
        """Whether records of a topic of Kafka were applied to it."""
        self.fed_by_tracker = LOCAL in feeders
        """Whether `matyan up` has stored records in it."""
        self.keys = Keys(store)
        self.compaction = Compaction(store, self.keys, path)
        self.queries = Queries(self.keys, Sequences(self.keys, layout))

    def rules(self) -> Rules:
        """New rules that remember nothing."""
        return Rules(self.keys, Sequences(self.keys, self.layout))

    def api(self, writes: Mapping[str, Write], reads: Mapping[str, Read] | None = None) -> LocalAPI:
        """The socket: the reads of every folder, and those of its feeder."""
        everywhere: dict[str, Read] = {
            "runs": self.queries.runs,
            "find": self.queries.find,
            "show": self.queries.show,
            "artifacts": self.queries.artifacts,
            "dropped": self.queries.dropped,
            "logs": self.queries.logs,
            "export": self.queries.export,
        }
        reads = {**everywhere, **(reads or {})}
        return LocalAPI(self.path, self.store, reads, {"compact": self._compact, **writes})

    async def _compact(self) -> AsyncIterator[object]:
        """Compacts the whole store, with what it took before and takes after, in bytes."""
        before = self.store.disk_bytes()
        await self.store.compact()
        yield {"before": before, "after": self.store.disk_bytes()}

    async def must_exist(self, run: str) -> None:
        """
        Raises:
            NotFound: there is no run of this id; a beginning of one is none.
        """
        await self.store.read(lambda snap: self.queries.exact(snap, run))

    async def last_heard(self, run: str) -> LastHeard:
        """What ending a run asks of the store.

        Raises:
            NotFound: there is no run of this id, or no more.
        """

        def body(snap: Snapshot) -> LastHeard:
            rows = RunRows(snap, self.keys, self.queries.exact(snap, run))
            meta = runs.read_meta(rows)
            return LastHeard(
                bool(meta.get("active")), meta.get("duration"), runs.get_activity(rows)
            )

        return await self.store.read(body)


class LastHeard(NamedTuple):
    """Whether a run goes on, how long it took if not, and when its last record came, in epoch seconds."""

    active: bool
    duration: float | None
    last_record: float | None


@asynccontextmanager
async def open_folder(
    path: Path, layout: Layout | None, *, strict: bool = False, patience_s: float = 0.0
) -> AsyncIterator[DataFolder]:
    """Opens a data folder, made when it is not there; leaving closes it.

    `layout`: None is what the folder has, else its engine's default; when `strict`, that default alone. `patience_s`: how long another process may go on holding it;
    a command that reads a folder without a service holds it for a moment.

    Raises:
        FolderInUse: another process holds it.
        ConfigurationError: it cannot be opened, or has the other layout.
    """
    private.make(path)
    store = await _wait_and_open(path, trio.current_time() + patience_s)
    private.tighten(path)
    try:
        keys = Keys(store)
        default = store.default_layout
        wanted = layout or (default if strict else None)
        stamped = await store.transact(lambda tr: open_layout(tr, keys, wanted, default))
        make_id = store_id()
        id = await store.transact(lambda tr: make_id(tr, keys))
        yield DataFolder(
            path, store, stamped, id, await store.read(lambda snap: feeders(snap, keys))
        )
    finally:
        await store.aclose()


async def _wait_and_open(path: Path, deadline: float) -> FolderStore:
    while True:
        try:
            return open_store(path)
        except FolderInUse:
            if trio.current_time() >= deadline:
                raise
            await trio.sleep(_LOCK_POLL_S)


async def finish_commands(api: LocalAPI) -> None:
    """Waits a moment for the commands that are being answered."""
    with trio.move_on_after(_GRACE_S):
        await api.finish()


async def delete_by_record(producer: Producer, run: str) -> None:
    """Hands over the record that deletes a run; returns when it was delivered."""
    # Somebody else's deletion may have come first: told like any other sender of that run.
    with suppress(NotFound):
        await _deliver(producer, "delete_run", run, {})


async def finish_by_record(producer: Producer, run: str, last_record: float | None) -> None:
    """Hands over the record that ends a run when its last record came; returns when it was delivered.

    Raises:
        NotFound: the run was deleted meanwhile.
    """
    payload = {} if last_record is None else {"client_datetime": _text(last_record)}
    await _deliver(producer, "finish_run", run, payload)


async def _deliver(producer: Producer, kind: str, run: str, payload: dict[str, str]) -> None:
    record = {"type": kind, "run_id": run, "timestamp": _text(time.time()), "payload": payload}
    value = json.dumps(record, separators=(",", ":")).encode()
    await delivered(partial(producer.produce, run.encode(), [value]))


def _text(epoch_seconds: float) -> str:
    return format_timestamp(round(epoch_seconds * 1_000_000)).decode()


async def delivered(hand_over: Callable[[DeliveryCallback], T]) -> T:
    """Calls `hand_over`; returns its result when what it handed over was delivered (local: committed).

    Raises:
        QueueFull: nothing was handed over.
        Unavailable: not in time; it goes on being delivered.
    """
    outcome: list[Exception | None] = []
    done = trio.Event()

    def on_done(error: Exception | None) -> None:
        outcome.append(error)
        done.set()

    handed_over = hand_over(on_done)
    with trio.move_on_after(_WRITE_S):
        await done.wait()
    if not outcome:
        raise Unavailable(
            f"It was not taken within {_WRITE_S:g} s: it is done as soon as the store or the broker is back."
        )
    if outcome[0] is not None:
        raise outcome[0]
    return handed_over
