"""The reads that FoundationDB's client library has begun, with functions of ours in the place of its own."""

from __future__ import annotations

import subprocess
import sys

CYCLE = """
import ctypes, gc
from matyan.store.fdb._calls import FUNCTIONS, Calls

destroyed = []
begin = ctypes.CFUNCTYPE(ctypes.c_void_p)(lambda: 4711)
destroy = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(destroyed.append)
addresses = [
    ctypes.cast(destroy if name == "fdb_future_destroy" else begin, ctypes.c_void_p).value
    for name in FUNCTIONS
]

gc.disable()
calls = Calls(addresses, lambda code: RuntimeError(code))
# Older than what holds it: so it is the first that the collector takes apart.
cycle = [calls.get(1, b"key", False) for _ in range(100)]
cycle = [*cycle]
cycle.append(cycle)
del cycle
assert destroyed == []
gc.collect()
assert destroyed == [4711] * 100, destroyed
"""


def test_a_read_that_nobody_waited_for_is_destroyed_with_its_cycle() -> None:
    """Whatever the collector takes apart first. A process of its own: what is wrong here ends it."""
    subprocess.run([sys.executable, "-c", CYCLE], check=True, timeout=60)
