"""Index rows: a forward key F, which readers scan, and its twin ("_rev", run, *F), which deletion scans.

The two are written and cleared together, here and nowhere else. Which facts have an index is decided by
the callers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from matyan import readable
from matyan._codec import MAX_KEY_BYTES
from matyan.keys import Keys, range_of, unpack
from matyan.rules.rows import RunRows
from matyan.rules.trees import writing
from matyan.store.base import Snapshot, Transaction

_LONG_INT = 2**63
"""Larger ones are not looked for one by one."""


def put(rows: RunRows[Transaction], *fact: object) -> None:
    """Adds the run under `fact`, such as ("tag", name)."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    forward, twin = keys.index(*fact, run), keys.reverse_index(run, *fact, run)
    tr.set(forward, b"")
    tr.set(twin, b"")


def fits(rows: RunRows[Snapshot], *fact: object) -> bool:
    """Whether the rows of `fact` stay below the limit of a key (a hparam may be a long text)."""
    return len(rows.keys.reverse_index(rows.run, *fact, rows.run)) <= MAX_KEY_BYTES


def drop(rows: RunRows[Transaction], *fact: object) -> None:
    """Removes the run from under `fact`; missing rows are fine."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    tr.clear(keys.index(*fact, run))
    tr.clear(keys.reverse_index(run, *fact, run))


def drop_all(rows: RunRows[Transaction], *beginning: object) -> None:
    """Removes the run from under every fact that begins so: ("hparam",), or () for all that there is."""
    for _ in dropping_all(rows, *beginning):
        pass


def drop_some(rows: RunRows[Transaction], most_bytes: int) -> bool:
    """Removes the run from under the first facts in the order of their keys, whose twins have about so many bytes together;
    returns whether there are more."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    begin, end = range_of(keys.reverse_index(run))
    fact_at, root = len(keys.reverse_index(run)), keys.index()
    stale = []
    for twin, _ in tr.scan(begin, end):
        if most_bytes <= 0:
            end = twin
            break
        most_bytes -= len(twin)
        stale.append((root + twin[fact_at:], None))
    tr.update(stale)
    tr.clear_range(begin, end)
    return most_bytes <= 0


def dropping_all(rows: RunRows[Transaction], *beginning: object) -> Iterator[None]:
    """`drop_all`, with a pause wherever others may have a turn."""
    return replacing_all(rows, beginning, ())


def replacing_all(
    rows: RunRows[Transaction], beginning: tuple[object, ...], facts: Iterable[tuple[object, ...]]
) -> Iterator[None]:
    """Makes `facts` all those that begin so and that the run is under; pauses as `dropping_all` does."""
    tr, keys, run = rows.tr, rows.keys, rows.run
    forward: dict[bytes, bytes] = {}
    twins = []
    for fact in facts:
        forward[keys.index(*fact, run)] = b""
        twins.append((keys.reverse_index(run, *fact, run), b""))
        yield
    begin, end = range_of(keys.reverse_index(run, *beginning))
    fact_at = len(keys.reverse_index(run))
    # The twin is the forward key behind ("_rev", run): the tuple layer joins tuples as bytes.
    root = keys.index()
    stale = []
    for twin, _ in tr.scan(begin, end):
        # As in trees.replacing_each.
        if (key := root + twin[fact_at:]) not in forward:
            stale.append((key, None))
        yield
    tr.clear_range(begin, end)
    yield from writing(tr, stale)
    yield from writing(tr, [*forward.items()])
    yield from writing(tr, twins)


def runs_under(snap: Snapshot, keys: Keys, *fact: object, reverse: bool = False) -> Iterator[str]:
    """The runs under `fact`, or under all that begin with it, in key order."""
    return _runs_in(snap, keys, *range_of(keys.index(*fact)), reverse=reverse)


def _runs_in(
    snap: Snapshot, keys: Keys, begin: bytes, end: bytes, *, reverse: bool = False
) -> Iterator[str]:
    root = len(keys.index())
    for key, _ in snap.scan(begin, end, reverse=reverse):
        try:
            run = unpack(key, root)[-1]
        except ValueError:
            continue
        if isinstance(run, str):
            yield run


def runs_within(
    snap: Snapshot, keys: Keys, *fact: object, low: float | None, high: float | None
) -> Iterator[str]:
    """The runs whose last element of a fact, behind those that are given, is a number between these, both included: an integer, a float
    or a boolean; those next to the bounds may be among them. None: no bound."""
    below = -math.inf if low is None else math.nextafter(low, -math.inf)
    above = math.inf if high is None else math.nextafter(high, math.inf)
    prefix = keys.index(*fact)
    # In the order of keys each type stands by itself (FoundationDB's tuple layer).
    ints, floats, booleans = prefix + b"\x0b", prefix + b"\x21", prefix + b"\x26"
    ranges = [
        (
            keys.index(*fact, math.floor(below)) if abs(below) < _LONG_INT else ints,
            keys.index(*fact, math.ceil(above)) + b"\xff"
            if abs(above) < _LONG_INT
            else prefix + b"\x1e",
        ),
        (
            floats if low is None else keys.index(*fact, below),
            prefix + b"\x22" if high is None else keys.index(*fact, above) + b"\xff",
        ),
        (booleans, prefix + b"\x28"),
    ]
    for begin, end in ranges:
        yield from _runs_in(snap, keys, begin, end)


def runs_beginning(snap: Snapshot, keys: Keys, fact: str, text: str) -> Iterator[str]:
    """The runs under what begins with this text, such as the names of sequences; one may come several times."""
    # A packed text ends in a zero byte.
    begin = keys.index(fact, text)[:-1]
    return _runs_in(snap, keys, begin, begin + b"\xff")


def dated(snap: Snapshot, keys: Keys) -> Iterator[tuple[float, str]]:
    """When each run began, in epoch seconds, and its id; oldest first."""
    prefix = keys.index("created_at")
    for key, _ in snap.scan(*range_of(prefix)):
        if (found := readable.elements(key, len(prefix), float, str)) is not None:
            yield found
