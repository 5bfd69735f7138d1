"""What `bench.frame` reads: the tables of the tools that count system calls, and the names of threads."""

from __future__ import annotations

import pytest

from bench.frame import PERF, STRACE, Tool, Usage, kind_of, spent

PERF_TABLE = """
 Summary of events:

 matyan (4711), 120 events, 80.0%

   syscall            calls  errors  total       min       avg       max       stddev
                                     (msec)    (msec)    (msec)    (msec)        (%)
   --------------- --------  ------ -------- --------- --------- ---------     ------
   epoll_wait            50      0  1021.516     0.000    20.430   500.123     10.00%
   recvfrom              30     20     0.081     0.002     0.003     0.010      5.00%

 matyan (4712), 4 events, 20.0%

   syscall            calls  errors  total       min       avg       max       stddev
   --------------- --------  ------ -------- --------- --------- ---------     ------
   fdatasync              2      0     0.400     0.100     0.200     0.300     10.00%
"""
STRACE_TABLE = """\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 75.61    0.001031           3        50           epoll_wait
 24.39    0.000010           0        30        20 recvfrom
  0.00    0.000000           0         2           fdatasync
------ ----------- ----------- --------- --------- ----------------
100.00    0.001041          12        82        20 total
"""


@pytest.mark.parametrize(("tool", "text"), [(PERF, PERF_TABLE), (STRACE, STRACE_TABLE)])
def test_a_tools_table_is_read(tool: Tool, text: str) -> None:
    found = {match["name"]: int(match["calls"]) for match in tool.line.finditer(text)}
    assert found == {"epoll_wait": 50, "recvfrom": 30, "fdatasync": 2}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rocksdb:low", "rocksdb"),
        ("rdk:broker1", "librdkafka"),
        ("matyan", "helper"),
        ("matyan sync", "helper"),
        ("kafka-producer", "helper"),
        ("Trio thread 0", "other"),
    ],
)
def test_a_thread_is_told_by_its_name(name: str, kind: str) -> None:
    assert kind_of(name, "matyan") == kind


def test_what_was_spent_is_the_difference_by_kind() -> None:
    """Also of a thread that was not there before."""
    before = Usage({"1": ("main", 1_000_000), "2": ("helper", 5_000_000)}, 10, 10)
    after = Usage(
        {"1": ("main", 9_000_000), "2": ("helper", 7_000_000), "3": ("other", 400_000)}, 13, 11
    )
    assert spent(before, after, 100) == {
        "main": 80,
        "helper": 20,
        "rocksdb": 0,
        "librdkafka": 0,
        "other": 4,
        "kernel": 20,
    }
