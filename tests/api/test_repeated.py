"""What people change, where it comes a second time: a commit of unknown outcome is run again, and a worker may be faster than whoever asks."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from matyan.api.asked import Refused
from matyan.api.changes import Changes
from matyan.broker.base import ControlEvent, DeadLetter
from matyan.keys import Keys
from matyan.rules import entities
from matyan.rules.entities import EXPERIMENTS, TAGS
from matyan.store.base import Transaction
from matyan.workers.parting import part
from tests.memory_store import MemoryStore, Twice


class Landed(Twice):
    """Each commit lands, nobody knows that, and the body is run again: once."""

    def happens(self, kind: str) -> bool:
        return kind == "landed" and super().happens("again")

    def either(self) -> bool:
        return False


class FastWorker:
    """Kafka with a control worker behind it that has done all when the event's delivery is known."""

    def __init__(self, store: MemoryStore, keys: Keys) -> None:
        self._store = store
        self._keys = keys

    async def before(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        for event in events:
            for family, field in ((EXPERIMENTS, "experiment_id"), (TAGS, "tag_id")):
                if field in event.payload:
                    uuid = str(event.payload[field])
                    await part(self._store, self._keys, family, uuid, event.timestamp)

    def within(
        self,
        tr: Transaction,
        events: Sequence[ControlEvent],
        dead: Sequence[DeadLetter],
        offsets: Sequence[int] = (),
    ) -> None: ...


async def no_deletion(run: str) -> None:
    raise NotImplementedError


def changes_of(store: MemoryStore) -> tuple[Changes, Keys]:
    keys = Keys(store)
    return Changes(store, keys, FastWorker(store, keys), no_deletion), keys


@pytest.mark.parametrize("family", [EXPERIMENTS, TAGS])
async def test_a_worker_may_delete_before_the_api_does(family: str) -> None:
    """It is deleted, as was asked; again it is not there."""
    store = MemoryStore()
    changes, keys = changes_of(store)
    made = await changes.make(family, "x")
    await changes.remove_entity(family, made)
    assert store.look(lambda snap: [*entities.listed(snap, keys, family)]) == []
    with pytest.raises(Refused, match="There is no"):
        await changes.remove_entity(family, made)


@pytest.mark.parametrize("family", [EXPERIMENTS, TAGS])
async def test_a_commit_of_unknown_outcome_is_no_conflict_with_itself(family: str) -> None:
    store = MemoryStore(Landed())
    changes, keys = changes_of(store)
    made = await changes.make(family, "x")
    assert store.look(lambda snap: entities.uuid_of(snap, keys, family, "x")) == made
    with pytest.raises(Refused, match="already"):
        await changes.make(family, "x")
    await changes.change(family, made, {"name": "y"})
    await changes.remove_entity(family, made)
    note = await changes.write("notes", None, {"content": "c"})
    await changes.remove("notes", note)
    assert store.look(lambda snap: [*entities.listed(snap, keys, family)]) == []
