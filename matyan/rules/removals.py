"""What goes on behind a deletion: the runs of an experiment or tag leave it some at a time, and what was deleted of a run may not be
made anew before all of it is gone.

An experiment's own rows go first, in one transaction: from then on no reader meets it, nothing can join it, and its name is another's. What
is left of it stands where nobody looks: the rows of its runs, which are as many as there are runs. The rows that name these are
the list of what is left to do, so whoever is killed in between leaves the rest to the next attempt.
"""

from __future__ import annotations

from collections.abc import Generator

from matyan.broker.base import ControlEvent
from matyan.keys import Keys, range_of
from matyan.rules import entities, runs
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction


def parting(
    tr: Transaction, keys: Keys, family: str, uuid: str, now: float, most: int
) -> Generator[None, None, bool]:
    """Takes the rows of an experiment or tag away, where they still stand, and its first runs out of it, `most` of them; returns
    whether there may be more. With a pause wherever others may have a turn.

    now: when it was deleted, epoch seconds.
    """
    entities.remove(tr, keys, family, uuid)
    leaving = [*entities.runs_of(tr, keys, family, uuid, limit=most)]
    for run in leaving:
        rows = RunRows(tr, keys, run)
        entities.part(rows, family, uuid)
        if family == entities.EXPERIMENTS and runs.get_meta(rows, "experiment_id") == uuid:
            runs.put_meta(rows, now, {"experiment_id": None})
        yield
    return len(leaving) == most


def awaited(snap: Snapshot, keys: Keys) -> set[object]:
    """The runs of the control events that stand in a store that is its own broker: their blobs may not be gone yet."""
    standing = snap.scan(*range_of(keys.control_events_prefix()))
    return {ControlEvent.from_bytes(value).payload.get("run_id") for _, value in standing}


def forget_deletion(rows: RunRows[Transaction]) -> bool:
    """Lets a deleted run be made anew; False: its deletion goes on, and would take of the new run what it takes of the old one."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    goes_on = (
        runs.get_meta(rows, "pending_deletion")
        or tr.get(keys.owed_deletion(run)) is not None
        or run in awaited(tr, keys)
    )
    if not goes_on:
        tr.clear(keys.tombstone(run))
    return not goes_on
