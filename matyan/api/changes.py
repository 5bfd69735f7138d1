"""What the read API writes: in the store itself, with the control events that the contract asks for; a deletion through the log.

Each change is one transaction, which looks whether what it changes is there.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import trio

from matyan.api.asked import Refused
from matyan.broker.base import ControlEvent, Outbox
from matyan.errors import InvalidRecord
from matyan.keys import Keys
from matyan.rules import counts, documents, entities, runs
from matyan.rules.documents import Family
from matyan.rules.entities import EXPERIMENTS, TAGS
from matyan.rules.records import archival
from matyan.rules.removals import forget_deletion
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Store, Transaction

_SETTLE_S: Final = 20.0
"""How long a deletion that goes on is waited for: the SDK waits for an answer for 30 s."""
_SETTLE_POLL_S: Final = 0.05

Delete = Callable[[str], Awaitable[None]]
"""Hands over the record that deletes a run; returns when the log has it."""


class Changes:
    """
    Args:
        outbox: takes the control events.
    """

    def __init__(self, store: Store, keys: Keys, outbox: Outbox, delete: Delete) -> None:
        self._store = store
        self._keys = keys
        self._outbox = outbox
        self._delete = delete

    async def transact(self, body: Callable[[Transaction], Any]) -> Any:
        """
        Raises:
            Refused: what `body` raises as such, or a value is over the store's limit.
            Unavailable: as `Store.transact` does.
        """
        try:
            return await self._store.transact(body)
        except InvalidRecord as error:
            raise Refused(422, f"It cannot be stored: {error}.") from None

    # --- runs --------------------------------------------------------------------------------------

    async def run(self, run: str, wish: Mapping[str, Any]) -> None:
        """Any of name, description, archived, active, experiment.

        Raises:
            Refused: there is no such run.
        """
        now = time.time()
        events = [archival(run, wish["archived"], now)] if "archived" in wish else []
        if events:
            # Nobody is told of a run that is not there.
            await self._store.read(lambda snap: _rows(snap, self._keys, run))
            await self._outbox.before(events, [])

        def body(tr: Transaction) -> None:
            rows = _rows(tr, self._keys, run)
            fields = {name: wish[name] for name in ("name", "description") if name in wish}
            if "archived" in wish:
                fields["is_archived"] = wish["archived"]
            if "active" in wish:
                fields |= _activity(rows, wish["active"], now)
            if "experiment" in wish:
                fields["experiment_id"] = entities.set_experiment(rows, wish["experiment"], now)
            runs.put_meta(rows, now, fields)
            self._outbox.within(tr, events, [])

        await self.transact(body)
        if "experiment" in wish:
            await self._count()

    async def _count(self) -> None:
        """Brings what a change of an association owes into the counts, where a store has these apart."""
        while self._keys.are_shared and await self.transact(partial(counts.fold, keys=self._keys)):
            pass

    async def archive(self, names: Sequence[str], archived: bool) -> None:
        await self._each(names, {"archived": archived})

    async def finish(self, names: Sequence[str]) -> None:
        await self._each(names, {"active": False})

    async def _each(self, names: Sequence[str], wish: Mapping[str, Any]) -> None:
        """Those of the runs that are there: another page may have deleted one."""
        for run in dict.fromkeys(names):
            try:
                await self.run(run, wish)
            except Refused as refused:
                if refused.status != 404:
                    raise

    async def delete(self, run: str) -> None:
        """The log has it before the run is hidden: otherwise a run could be hidden for ever and never be deleted.

        Raises:
            Refused: there is no such run.
            Unavailable: the log did not take it.
        """
        await self._store.read(lambda snap: _rows(snap, self._keys, run))
        await self._delete(run)

        def body(tr: Transaction) -> None:
            rows = RunRows(tr, self._keys, run)
            if runs.exists(rows):  # a worker may have been faster
                runs.put_meta(rows, time.time(), {"pending_deletion": True})

        await self.transact(body)

    async def clear_tombstone(self, run: str) -> None:
        """Lets a deleted run be made anew, as somebody does who restores it; one that was not deleted stays as it is.

        Raises:
            Refused: its deletion still goes on.
        """
        end = trio.current_time() + _SETTLE_S
        while not await self.transact(lambda tr: forget_deletion(RunRows(tr, self._keys, run))):
            if trio.current_time() >= end:
                raise Refused(503, f"Run {run} is still being deleted: ask again later.")
            await trio.sleep(_SETTLE_POLL_S)

    async def add_tag(self, run: str, name: str) -> str:
        """Returns the tag's id.

        Raises:
            Refused: there is no such run.
        """
        now = time.time()
        tag = await self.transact(
            lambda tr: entities.add_tag(_rows(tr, self._keys, run), name, now)
        )
        await self._count()
        return str(tag)

    async def remove_tag(self, run: str, tag: str) -> None:
        """
        Raises:
            Refused: there is no such run, or no such tag.
        """

        def body(tr: Transaction) -> None:
            rows = _rows(tr, self._keys, run)
            name = entities.read(tr, self._keys, TAGS, tag).get("name")
            if not isinstance(name, str):
                raise Refused(404, f"There is no tag {tag[:64]}.")
            entities.remove_tag(rows, name)

        await self.transact(body)
        await self._count()

    # --- experiments and tags ------------------------------------------------------------------------

    async def make(self, family: str, name: str, **fields: object) -> str:
        """A new experiment or tag; its id.

        Raises:
            Refused: the name is taken.
        """
        now, made = time.time(), ""

        def body(tr: Transaction) -> None:
            nonlocal made
            # After a commit of unknown outcome it may be there already.
            if entities.uuid_of(tr, self._keys, family, name) != made:
                _must_be_free(tr, self._keys, family, name)
                made = entities.make(tr, self._keys, family, name, now, fields)

        await self.transact(body)
        return made

    async def change(self, family: str, id: str, fields: Mapping[str, Any]) -> None:
        """
        Raises:
            Refused: there is none of this id, or the new name is taken.
        """
        now = time.time()

        def body(tr: Transaction) -> None:
            there = entities.read(tr, self._keys, family, id)
            if not there:
                raise Refused(404, f"There is no {_ONE[family]} {id[:64]}.")
            name = fields.get("name", there.get("name"))
            if name != there.get("name"):
                _must_be_free(tr, self._keys, family, name)
            entities.change(tr, self._keys, family, id, now, fields)

        await self.transact(body)

    async def remove_entity(self, family: str, id: str) -> None:
        """Deletes an experiment or tag; what belongs to it leaves it by way of the control event.

        Raises:
            Refused: there is none of this id.
            Unavailable: the log did not take the event, and nothing was deleted; or the store was away, and it will be deleted.
        """
        one = _ONE[family]
        events = [ControlEvent(f"{one}_deleted", time.time(), {f"{one}_id": id})]

        def must_be_there(snap: Snapshot) -> None:
            if not entities.read(snap, self._keys, family, id):
                raise Refused(404, f"There is no {one} {id[:64]}.")

        def body(tr: Transaction) -> None:
            entities.remove(tr, self._keys, family, id)  # a worker may have been faster
            self._outbox.within(tr, events, [])

        await self._store.read(must_be_there)
        await self._outbox.before(events, [])
        await self.transact(body)

    # --- documents ---------------------------------------------------------------------------------

    async def write(self, family: Family, id: str | None, fields: Mapping[str, object]) -> str:
        """A document, new where no id is given; its id.

        Raises:
            Refused: there is none of this id.
        """
        now, place = time.time(), id or str(uuid.uuid4())

        def body(tr: Transaction) -> None:
            if id is not None:
                must_be(tr, self._keys, family, id)
            documents.put(tr, self._keys, family, place, now, fields)

        await self.transact(body)
        return place

    async def remove(self, family: Family, id: str) -> None:
        """
        Raises:
            Refused: there is none of this id.
        """

        await self._store.read(lambda snap: must_be(snap, self._keys, family, id))
        # Not within: after a commit of unknown outcome it may be gone already.
        await self.transact(lambda tr: documents.remove(tr, self._keys, family, id))

    async def pin(self, sequences: list[Any]) -> None:
        await self.transact(partial(documents.pin, keys=self._keys, sequences=sequences))


_ONE = {EXPERIMENTS: "experiment", TAGS: "tag"}


def must_be(snap: Snapshot, keys: Keys, family: Family, id: str) -> documents.Fields:
    """
    Raises:
        Refused: there is no document of this id.
    """
    there = documents.read(snap, keys, family, id)
    if not there:
        raise Refused(
            404, f"There is nothing of the id {id[:64]} among the {family.replace('_', ' ')}."
        )
    return there


def _must_be_free(tr: Transaction, keys: Keys, family: str, name: str) -> None:
    if entities.uuid_of(tr, keys, family, name) is not None:
        raise Refused(
            409, f"The {_ONE[family]} {name[:255]!r} is there already: take another name."
        )


def _rows(tr: Any, keys: Keys, run: str) -> RunRows[Any]:
    rows = RunRows(tr, keys, run)
    if not runs.exists(rows) or runs.get_meta(rows, "pending_deletion"):
        raise Refused(404, f"There is no run {run[:128]}.")
    return rows


def _activity(rows: RunRows[Transaction], active: bool, now: float) -> dict[str, Any]:
    if active:
        return {"active": True, "finalized_at": None, "duration": None}
    if runs.get_meta(rows, "finalized_at") is None:
        return {"active": False, "finalized_at": now}
    return {"active": False}
