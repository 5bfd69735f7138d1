"""Keys, values and chunks of metric points: ours against the packages that define the formats.

    python -m bench.keys

What is compared: the four keys and values of a point (compatible layout) as `compatible_points` packs them, 1,024
points a call as a full batch of one sequence does, against `fdb.tuple.pack` and `msgpack.packb` called once for
each key and each value, as a worker written on them does it. Both in this process, in turn, best of several rounds.

Bias: the packages' side packs whole tuples each time; with the sequence's prefix packed once and the step appended
it would save some of the text encoding, which the second line shows.
"""

from __future__ import annotations

import math
import platform
import random
import time
from collections.abc import Callable
from functools import partial

import fdb.tuple
import msgpack

from matyan._codec import (
    CHUNK_POINTS,
    Columns,
    compatible_points,
    decode_chunk,
    encode_chunk,
    pack,
)

ROUNDS = 15
FIELDS = ("val", "step", "epoch", "time")


def best_ns(work: Callable[[], object], points: int) -> float:
    """Nanoseconds a point in the best round, CPU time of this thread."""
    best = math.inf
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        work()
        best = min(best, (time.thread_time_ns() - start) / points)
    return best


def columns_of(kind: str) -> Columns:
    rng = random.Random(1)
    columns = Columns()
    us = 1_770_000_000_000_000
    for step in range(CHUNK_POINTS):
        us += rng.randint(5_000, 20_000)
        value = rng.random() if kind == "random" else math.exp(-step / 300) + math.sin(step / 50)
        columns.append(step, value, us / 1e6, step // 100)
    return columns


def decoded(chunk: bytes) -> None:
    decode_chunk(chunk, Columns())


def main() -> None:
    names = ("0123456789abcdef0123456789abcdef", "seqs", 0, "train/loss")
    columns = columns_of("random")
    rows = columns.rows()

    def ours() -> None:
        compatible_points(pack(names), columns)

    def packages() -> None:
        for step, value, moment, epoch in rows:
            for field, stored in zip(FIELDS, (value, step, epoch, moment), strict=True):
                fdb.tuple.pack((*names, field, step))
                msgpack.packb(stored, use_bin_type=True)

    def packages_with_prefixes() -> None:
        prefixes = [fdb.tuple.pack((*names, field)) for field in FIELDS]
        for step, value, moment, epoch in rows:
            for prefix, stored in zip(prefixes, (value, step, epoch, moment), strict=True):
                fdb.tuple.pack((step,), prefix)
                msgpack.packb(stored, use_bin_type=True)

    print(f"{platform.machine()}, Python {platform.python_version()}, msgpack {msgpack.version}")
    print(f"{CHUNK_POINTS} points, keys of about 60 bytes, best of {ROUNDS} rounds, CPU time")
    own, theirs, prefixed = (
        best_ns(work, len(rows)) for work in (ours, packages, packages_with_prefixes)
    )
    print(f"four keys and values a point: ours {own:8.0f} ns")
    print(f"  fdb.tuple + msgpack:             {theirs:8.0f} ns   ours takes 1/{theirs / own:.0f}")
    print(
        f"  the same, prefixes packed once:  {prefixed:8.0f} ns   ours takes 1/{prefixed / own:.0f}"
    )

    for kind in ("random", "smooth"):
        columns = columns_of(kind)
        chunk = encode_chunk(columns)
        encode = best_ns(partial(encode_chunk, columns), CHUNK_POINTS)
        decode = best_ns(partial(decoded, chunk), CHUNK_POINTS)
        print(
            f"a chunk of {kind} values: {len(chunk) / CHUNK_POINTS:.1f} bytes a point before compression, "
            f"encode {encode:.1f} ns, decode {decode:.1f} ns a point"
        )


if __name__ == "__main__":
    main()
