"""An open store of either engine: its layout, its id, and what everybody asks of it.

The same for a data folder (`folder.py`) and for a cluster (`cluster.py`), whoever feeds it; and how a command's change goes
through the log that feeds a store, by a record of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import NamedTuple, TypeVar

import trio

from matyan._codec import format_timestamp
from matyan.api.reading import Reading
from matyan.broker.base import DeliveryCallback, Producer
from matyan.errors import NotFound, Unavailable
from matyan.folder.server import Read
from matyan.jobs.served import ServedJobs
from matyan.keys import Keys
from matyan.rules import runs
from matyan.rules.identity import feeders, known_store_id, store_id
from matyan.rules.queries import Queries
from matyan.rules.records import Rules
from matyan.rules.rows import RunRows
from matyan.rules.sequences import Layout, Sequences, find_layout, open_layout
from matyan.store.base import Snapshot, Store

_WRITE_S = 60.0
"""How long a command waits for what it asked for; the store may be busy with large batches."""

GOES_ON = f"It was not taken within {_WRITE_S:g} s: it is done as soon as the store or the broker is back."
GIVEN_UP = (
    f"It was not taken within {_WRITE_S:g} s, and this command gives it up: see to the broker, look whether it was done all the "
    "same, and run the command again."
)

T = TypeVar("T")


class Opened:
    """A store, and how it is read. Made by `open_up`."""

    def __init__(self, store: Store, keys: Keys, layout: Layout, id: str) -> None:
        self.store = store
        self.keys = keys
        self.layout = layout
        self.id = id
        """Which store this is, wherever it stands."""
        self.sequences = Sequences(keys, layout)
        self.queries = Queries(keys, self.sequences)
        self.jobs = ServedJobs(store, keys, self.sequences)

    def rules(self) -> Rules:
        """New rules that remember nothing."""
        return Rules(self.keys, Sequences(self.keys, self.layout))

    def reads(self) -> Mapping[str, Read]:
        """What can be asked of every store."""
        return {
            **Reading(self.keys, self.sequences).reads(),
            "dropped": self.queries.dropped,
            **self.jobs.reads(),
        }

    async def feeders(self) -> set[str]:
        """As `rules.identity.feeders` has it."""
        return await self.store.read(lambda snap: feeders(snap, self.keys))

    async def exists(self, run: str) -> bool:
        return await self.store.read(lambda snap: runs.exists(RunRows(snap, self.keys, run)))

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


async def open_up(store: Store, wanted: Layout | None) -> Opened:
    """A store that records are going to be applied to: it gets its layout and its id, where it has none.

    wanted: None is the layout that the store has, else its engine's default.

    Raises:
        ConfigurationError: it has another layout.
        Unavailable: the store cannot be used now.
    """
    keys = Keys(store)
    layout = await store.transact(lambda tr: open_layout(tr, keys, wanted, store.default_layout))
    make_id = store_id()
    return Opened(store, keys, layout, await store.transact(lambda tr: make_id(tr, keys)))


async def open_to_read(store: Store) -> Opened:
    """A store that others write: nothing in it changes by this.

    Raises:
        ConfigurationError: it has a layout that this version does not know.
        Unavailable: the store cannot be used now.
    """
    keys = Keys(store)
    layout = await store.read(lambda snap: find_layout(snap, keys, None, store.default_layout))
    return Opened(store, keys, layout, await store.read(lambda snap: known_store_id(snap, keys)))


# --- changes by records --------------------------------------------------------------------------


async def delete_by_record(producer: Producer, run: str, late: str = GOES_ON) -> None:
    """Hands over the record that deletes a run; returns when it was delivered. late: see `delivered`."""
    # Somebody else's deletion may have come first: told like any other sender of that run.
    with suppress(NotFound):
        await _deliver(producer, "delete_run", run, {}, late)


async def finish_by_record(
    producer: Producer, run: str, last_record: float | None, stale: bool, late: str = GOES_ON
) -> None:
    """Hands over the record that ends a run when its last record came; returns when it was delivered. late: see `delivered`.

    stale: nobody ended it, it was not heard of for long; for those who are told of it (`rules.records.event_of`).

    Raises:
        NotFound: the run was deleted meanwhile.
    """
    payload: dict[str, object] = (
        {} if last_record is None else {"client_datetime": _text(last_record)}
    )
    if stale:
        payload["stale"] = True
    await _deliver(producer, "finish_run", run, payload, late)


async def _deliver(
    producer: Producer, kind: str, run: str, payload: dict[str, object], late: str
) -> None:
    value = record_of(kind, run, payload)
    await delivered(partial(producer.produce, run.encode(), [value]), late)


def record_of(kind: str, run: str, payload: dict[str, object]) -> bytes:
    """A record of the log, of now."""
    record = {"type": kind, "run_id": run, "timestamp": _text(time.time()), "payload": payload}
    return json.dumps(record, separators=(",", ":")).encode()


def _text(epoch_seconds: float) -> str:
    return format_timestamp(round(epoch_seconds * 1_000_000)).decode()


async def delivered(hand_over: Callable[[DeliveryCallback], T], late: str = GOES_ON) -> T:
    """Calls `hand_over`; returns its result when what it handed over was delivered (local: committed).

    Raises:
        QueueFull: nothing was handed over.
        Unavailable: not in time; `late` says what becomes of it, which its producer's owner knows.
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
        raise Unavailable(late)
    if outcome[0] is not None:
        raise outcome[0]
    return handed_over
