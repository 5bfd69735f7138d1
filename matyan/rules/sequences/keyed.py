"""What stands in val, step, epoch and time keys: entries in both layouts, and the points of the compatible one."""

from __future__ import annotations

from collections.abc import Iterator

from matyan import readable
from matyan._codec import epoch_number, key_int
from matyan.keys import POINT_FIELDS, range_of, unpack
from matyan.rules.sequences.state import MAX_STEP, MIN_STEP
from matyan.store.base import KeyValue, Range, Snapshot, scan


def keyed(
    snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
) -> Iterator[tuple[int, int | float | None, float, bytes]]:
    """(step, epoch, time, packed value) of what stands in val/step/epoch/time keys.

    The fields stand in ranges of their own, each in the steps' order: they are walked side by side.
    """
    times = Beside(snap, prefix + POINT_FIELDS["time"], begin, end)
    epochs = Beside(snap, prefix + POINT_FIELDS["epoch"], begin, end)
    vals = prefix + POINT_FIELDS["val"]
    for key, value in scan_steps(snap, vals, begin, end):
        packed_step = key[len(vals) :]
        try:
            (step,) = unpack(packed_step)
        except ValueError:
            continue
        if type(step) is int and MIN_STEP <= step <= MAX_STEP:
            time = readable.number(times.at(packed_step))
            epoch = epochs.at(packed_step)
            yield (
                step,
                None if epoch is None else _epoch(epoch),
                0.0 if time is None else float(time),
                value,
            )


def last_val(prefix: bytes, below: int = MAX_STEP + 1) -> Range:
    """What `highest` reads."""
    vals = prefix + POINT_FIELDS["val"]
    end = key_int(vals, below) if below <= MAX_STEP else key_int(vals, MAX_STEP) + b"\x00"
    return Range(key_int(vals, MIN_STEP), end, limit=1, reverse=True)


def highest(snap: Snapshot, prefix: bytes, below: int = MAX_STEP + 1) -> tuple[int, bytes] | None:
    """The highest step below this one that has a val key, and the packed value there."""
    start = len(prefix + POINT_FIELDS["val"])
    wanted = last_val(prefix, below)
    # One row, unless a key is damaged.
    while (last := next(iter(scan(snap, wanted)), None)) is not None:
        if (found := readable.elements(last[0], start, int)) is not None:
            return found[0], last[1]
        wanted = wanted._replace(end=last[0])
    return None


def _epoch(packed: bytes) -> int | float | None:
    try:
        return epoch_number(readable.number(packed))
    except OverflowError:
        return None


def scan_steps(
    snap: Snapshot, prefix: bytes, begin: int | None, end: int | None
) -> Iterator[KeyValue]:
    """The rows whose keys go on with a step of this range."""
    low, high = range_of(prefix)
    if begin is not None:
        low = key_int(prefix, begin)
    if end is not None:
        high = key_int(prefix, end)
    return iter(snap.scan(low, high))


class Beside:
    """A range whose keys go on with a step, walked along with another one's steps."""

    def __init__(self, snap: Snapshot, prefix: bytes, begin: int | None, end: int | None) -> None:
        self._pairs = scan_steps(snap, prefix, begin, end)
        self._start = len(prefix)
        self._head = next(self._pairs, None)

    def at(self, packed_step: bytes) -> bytes | None:
        """The value at the step, or None. Steps are asked for in their order."""
        while self._head is not None:
            here = self._head[0][self._start :]
            if here >= packed_step:
                return self._head[1] if here == packed_step else None
            self._head = next(self._pairs, None)
        return None

    def all_at(self, packed_step: bytes) -> Iterator[bytes]:
        """The values of all keys that begin with the step: no packed integer is the beginning of another."""
        end = self._start + len(packed_step)
        while self._head is not None:
            here = self._head[0][self._start : end]
            if here > packed_step:
                return
            value = self._head[1]
            self._head = next(self._pairs, None)
            if here == packed_step:
                yield value
