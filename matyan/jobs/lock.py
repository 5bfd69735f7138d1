"""The lock of a job: one process runs it at a time, whatever store it is on, and the reference's jobs keep to it too.

| row                      | value                                                                            |
|--------------------------|----------------------------------------------------------------------------------|
| ("job_lock", job)        | when it expires, epoch seconds: a float, since the reference steals anything else |
| ("job_lock_owner", job)  | [whose it is, the float that they wrote]: another float is somebody else's lock   |

Each transaction that changes something for a job reads both rows, so that it is not committed when the lock was lost before it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from matyan import readable
from matyan.errors import LockLost
from matyan.keys import Keys, pack_value
from matyan.store.base import Snapshot, Transaction


class Lock(NamedTuple):
    """A job's lock, and who holds it or wants to."""

    job: str
    owner: str
    """Somebody's own word; empty: nobody locks."""


REFERENCE_NAMES: Final = {"cleanup-orphan-blobs", "cleanup-tombstones"}
"""Jobs that the reference has too, and locks under these names with underscores."""


def name_of(job: str) -> str:
    """The name under which a job is locked."""
    return job.replace("-", "_") if job in REFERENCE_NAMES else job


def take(tr: Transaction, keys: Keys, lock: Lock, now: float, ttl_s: float) -> float | None:
    """Takes the lock, or goes on holding it, until `now` + `ttl_s`; returns when it expires of whoever else holds it, or None."""
    row = keys.job_lock(name_of(lock.job))
    until = readable.number(tr.get(row))
    if until is not None and until > now and not _is_ours(tr, keys, lock):
        return float(until)
    tr.set(row, pack_value(now + ttl_s))
    tr.set(keys.job_lock_owner(name_of(lock.job)), pack_value([lock.owner, now + ttl_s]))
    return None


def release(tr: Transaction, keys: Keys, lock: Lock) -> None:
    """Gives the lock free, if it is still held."""
    if _is_ours(tr, keys, lock):
        tr.clear(keys.job_lock(name_of(lock.job)))
        tr.clear(keys.job_lock_owner(name_of(lock.job)))


def require(tr: Snapshot, keys: Keys, lock: Lock) -> None:
    """
    Raises:
        LockLost: somebody else has taken it.
    """
    if lock.owner and not _is_ours(tr, keys, lock):
        raise LockLost(
            f"The lock of {lock.job} was lost to another process: what was done so far stands; run it again when that one is through."
        )


def _is_ours(tr: Snapshot, keys: Keys, lock: Lock) -> bool:
    until = readable.number(tr.get(keys.job_lock(name_of(lock.job))))
    noted = readable.found(tr.get(keys.job_lock_owner(name_of(lock.job))))
    return until is not None and noted == [lock.owner, until]
