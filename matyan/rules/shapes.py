"""What kinds of things a run holds, as two numbers: which parameters it has, and which sequences.

A list of all parameters or sequences of a store would have to read every run. But most runs have the same ones: so each run has a
row with a number for the names of its parameters and one for its sequences (dtype, name, context), and runs whose numbers are
equal have equal ones; of each number a reader looks at one run. Each is a sum of 64-bit hashes, so that it can be kept up to date
and does not depend on an order. A run without the row was written by a program that keeps none: a reader looks at it.

No values, no steps: what changes only those does not change a shape. Items of lists have no names.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterator
from itertools import chain
from typing import Final, NamedTuple

from matyan import readable
from matyan._codec import BLOBS, context_text, names_hash, pack
from matyan.keys import Keys, pack_value, range_of
from matyan.rules import contexts
from matyan.rules.rows import RunRows
from matyan.store.base import Snapshot, Transaction

_SUMS: Final = struct.Struct(">QQ")
_BITS: Final = 64


class Shape(NamedTuple):
    """Two sums of hashes, of 64 bits each."""

    params: int
    sequences: int


EMPTY: Final = Shape(0, 0)


def read(rows: RunRows[Snapshot]) -> Shape | None:
    """The row of the run; None: there is none that can be read."""
    return _shape(rows.tr.get(rows.keys.shape(rows.run)))


def put(rows: RunRows[Transaction], shape: Shape) -> None:
    rows.tr.set(rows.keys.shape(rows.run), packed(shape))


def packed(shape: Shape) -> bytes:
    return pack_value(_SUMS.pack(*shape))


def all_of(snap: Snapshot, keys: Keys) -> Iterator[tuple[str, Shape]]:
    """The rows of all runs, in the order of their ids."""
    prefix = keys.shape()
    for key, value in snap.scan(*range_of(prefix)):
        run, shape = readable.elements(key, len(prefix), str), _shape(value)
        if run is not None and shape is not None:
            yield run[0], shape


def _shape(value: bytes | None) -> Shape | None:
    # 16 bytes, as msgpack's bin 8.
    if value is None or len(value) != 2 + _SUMS.size or value[:2] != b"\xc4\x10":
        return None
    return Shape(*_SUMS.unpack_from(value, 2))


def changed(shape: Shape, sequences: int) -> Shape:
    """The shape of a run whose sum of sequences has changed by so much."""
    return shape._replace(sequences=(shape.sequences + sequences) % (1 << _BITS))


def sequence(dtype: str, name: str, context: str) -> int:
    """What a sequence adds to the sum; context: its canonical text."""
    # The last text is left out where nothing follows it, as a leaf's marker.
    return names_hash(pack((dtype, name, context, "")))


def summing_params(rows: RunRows[Snapshot]) -> Generator[None, None, int]:
    """The sum of the run's parameters, with a pause at each row."""
    total = 0
    for added in _param_hashes(rows):
        total += added
        yield
    return total % (1 << _BITS)


def _param_hashes(rows: RunRows[Snapshot]) -> Iterator[int]:
    """What each row of the run's attributes adds to the sum of the parameters. Blobs are none."""
    keys, run = rows.keys, rows.run
    start = len(keys.attrs(run))
    (begin, end), (without, on) = range_of(keys.attrs(run)), range_of(keys.attrs(run, BLOBS))
    latest = None
    for key, _ in chain(rows.tr.scan(begin, without), rows.tr.scan(on, end)):
        found = names_hash(key, start)
        # What stands at one place comes one after the other: the items of a list.
        yield 0 if found == latest else found
        latest = found


def counted(rows: RunRows[Snapshot]) -> Shape:
    """The shape as the run's rows make it: what its own row should say."""
    params = sum(_param_hashes(rows))
    prefix = rows.keys.traces_prefix(rows.run)
    texts = {ctx: context_text(found) for ctx, found in contexts.read(rows).items()}
    total = 0
    for key, value in rows.tr.scan(*range_of(prefix)):
        found = readable.elements(key, len(prefix), int, str, str)
        if (
            found is not None
            and found[2] == "dtype"
            and (dtype := readable.text(value)) is not None
        ):
            ctx, name, _ = found
            text = texts.get(ctx) or context_text(contexts.stand_in(ctx))
            total += sequence(dtype, name, text)
    return Shape(params % (1 << _BITS), total % (1 << _BITS))
