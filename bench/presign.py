"""Presigning of uploads: how many a second one process signs, in the thread of the event loop.

    python -m bench.presign

Each is another run and path, as the SDK asks for an image a step. Nothing is sent: signing opens no network. A number is the
median of the rounds; CPU is this process's. Bias: no HTTP request is read and no record published, which a frontier does beside it.
"""

from __future__ import annotations

import argparse
import statistics
import time

import trio

from bench.machine import describe
from matyan.blobs.s3 import S3Blobs
from matyan.settings import load

GOAL = 2_000
"""A second, of one process."""


async def signed(blobs: S3Blobs, count: int) -> tuple[float, float]:
    """URLs a second, by the clock and of CPU time."""
    began, used = time.perf_counter(), time.process_time()
    for number in range(count):
        await blobs.presign_put(f"run{number % 50}", f"seq/image/{number}.png", "image/png", "")
    return count / (time.perf_counter() - began), count / (time.process_time() - used)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=2_000, help="URLs a round")
    options = parser.parse_args()
    blobs = S3Blobs(load({"S3_ENDPOINT": "http://s3.invalid:9000"}))
    rounds = [trio.run(signed, blobs, options.count) for _ in range(options.rounds)]
    wall, cpu = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(describe())
    print(f"presigned URLs: {wall:,.0f}/s, {cpu:,.0f} a second of CPU; wanted: {GOAL:,}/s")


if __name__ == "__main__":
    main()
