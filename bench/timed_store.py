"""`matyan` with a clock around each call of RocksDB: python -m bench.timed_store FILE WORDS OF MATYAN…

For `bench.frame`, since rocksdict's calls show in no statistics of the kernel: FILE has three numbers while the process runs, CPU
nanoseconds in calls that are made on the main thread, in those that sync the log on whatever thread, and the count of the former.

The clock is the thread's CPU time, less what an empty call of it shows. A call costs half a microsecond more by it, so no other
figure is taken of such a process.
"""

from __future__ import annotations

import mmap
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rocksdict

NUMBERS = 3
ROCKS, SYNC, CALLS = range(NUMBERS)
SYNCS = ("flush_wal",)
CALLS_OF = {
    "Rdict": ("get", "write", "iter", "flush_wal"),
    "WriteBatch": ("put", "delete", "delete_range"),
    "RdictIter": ("seek", "seek_for_prev", "next", "prev", "valid", "key", "value", "status"),
}
"""By class, what the store calls while it serves."""

_now = time.thread_time_ns


class Timed:
    """One of rocksdict's objects: its calls are timed, all else is its own."""

    def __init__(self, real: Any, numbers: memoryview, empty_ns: int) -> None:
        self._real = real
        for name in CALLS_OF[type(real).__name__]:
            call = timed(getattr(real, name), numbers, empty_ns, name in SYNCS)
            if name == "iter":
                call = made(call, numbers, empty_ns)
            setattr(self, name, call)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


def timed(
    call: Callable[..., Any], numbers: memoryview, empty_ns: int, syncs: bool
) -> Callable[..., Any]:
    def time_it(*args: object) -> Any:
        args = tuple(arg._real if isinstance(arg, Timed) else arg for arg in args)
        began = _now()
        try:
            return call(*args)
        finally:
            took = _now() - began - empty_ns
            if syncs:
                numbers[SYNC] += took
            elif threading.current_thread() is threading.main_thread():
                numbers[ROCKS] += took
                numbers[CALLS] += 1

    return time_it


def made(make: Callable[..., Any], numbers: memoryview, empty_ns: int) -> Callable[..., Timed]:
    """What `make` makes is timed, too."""
    return lambda *args, **options: Timed(make(*args, **options), numbers, empty_ns)


def empty() -> int:
    """Nanoseconds that the clock shows for nothing."""
    numbers = memoryview(bytearray(8 * NUMBERS)).cast("q")
    call = timed(lambda: None, numbers, 0, syncs=True)
    for _ in range(20_000):
        call()
    return numbers[SYNC] // 20_000


def main() -> None:
    file, *words = sys.argv[1:]
    Path(file).write_bytes(bytes(8 * NUMBERS))
    with Path(file).open("r+b") as opened:
        numbers = memoryview(mmap.mmap(opened.fileno(), 0)).cast("q")
    empty_ns = empty()
    for name in ("Rdict", "WriteBatch"):
        setattr(rocksdict, name, made(getattr(rocksdict, name), numbers, empty_ns))
    # Now, so that its modules find the timed ones.
    from matyan.cli.main import main as matyan

    sys.argv = ["matyan", *words]
    matyan()


if __name__ == "__main__":
    main()
