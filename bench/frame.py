"""Where the time of a frame goes: microseconds of CPU a frame, by thread and by what they do, and its system calls.

    python -m bench.frame [--seconds 4] [--rounds 1] [--loads "32 × 1,1 × 1"] [--embedded-only]

The tracker of one machine (`matyan up`), then the frontier on Kafka (`dev/broker.py`'s), each under a crowd (32 × 1: connections ×
messages a frame, each with one frame in flight), a moderate load (100 × 10 × 5/s, where nearly every frame has a commit of its own and runs on
cold caches) and a frame alone (1 × 1). Each load runs up to three times, on processes of their own:

- plain, for the CPU: what the scheduler counts of every thread (/proc/PID/task/*/schedstat, nanoseconds), divided by the frames
  that were acknowledged. A thread is told by its name: rocksdb:… and rdk:… are the libraries' own; the first thread runs
  Python; what is called as the process is sync thread or poll thread; all else (trio's helpers) is in "other".
- embedded, a second time with a clock around each call of RocksDB (`bench.timed_store`), for what Python's thread spends in
  the store, and for the sync (fdatasync and the call around it). RocksDB's background threads are in its column, too.
- a third time under `perf trace`, or under `strace` where perf is not, for the system calls; where neither is there or may look, that
  column says –.

Bias:
- kernel: the main thread's share of system time, which the kernel samples by its clock tick and counts a third lower than perf's
  samples do; what is missing there stands in Python's column.
- RocksDB and fdatasync are of another run of the same load, slower by the clocks: beside perf's samples a tenth too much in a crowd, a third at
  the moderate load, where the clocks' own code is cold, too. The write to RocksDB's log is in its column and in the kernel's.
- perf trace slows a crowd by some per cent, strace by a factor, and a slower server meets more frames at a time: a crowd's system calls are
  then too few. A frame alone is right with both.
- A thread that ends while it is looked at is not counted. The generator shares the machine's cores; on a busy machine
  caches are colder and everything is dearer: the line at the top says how busy it was.
"""

from __future__ import annotations

import argparse
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench import loadgen
from bench.ingest import sync_ms
from bench.loadgen import Load
from bench.machine import (
    Server,
    environment,
    free_port,
    heading,
    medians,
    number,
    say,
    table,
    workplace,
)
from bench.timed_store import ROCKS, SYNC
from dev.broker import Broker, running

ROOT = Path(__file__).resolve().parent.parent
LOADS = (Load(32, 1), Load(100, 10, rate=5), Load(1, 1))
COLUMNS = {
    "total": "total",
    "Python, main thread": "python",
    "kernel, main thread": "kernel",
    "RocksDB": "rocksdb",
    "sync or poll thread": "helper",
    "fdatasync": "sync",
    "librdkafka": "librdkafka",
    "other": "other",
    "frames/s": "frames_per_s",
    "system calls": "calls",
}

Result = dict[str, float]


# --- servers ---------------------------------------------------------------------------------------


@contextmanager
def server(
    scratch: Path, broker: Broker | None, clocks: Path | None = None
) -> Iterator[tuple[Server, int]]:
    """The tracker, or the frontier of a broker, at rest, and its port; `clocks`: where the timed store's numbers go."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    port = free_port()
    command = [str(Path(sys.executable).with_name("matyan"))]
    if clocks is not None:
        command = [sys.executable, "-m", "bench.timed_store", str(clocks)]
    env = environment(PYTHONPATH=str(ROOT))
    if broker is None:
        command += ["up", "--data", str(folder), "--port", str(port)]
    else:
        command += ["frontier", "--host", "127.0.0.1", "--port", str(port)]
        env["KAFKA_BOOTSTRAP_SERVERS"] = broker.bootstrap
    ready = f"http://127.0.0.1:{port}/health/ready/"
    with Server(command, ready=ready, env=env, folder=folder) as started:
        # The first frames load what a tracker at rest has not needed yet; Kafka's machine compiles what is hot.
        loadgen.run(port, Load(32, 1), seconds=1, warmup=0)
        started.quiet()
        yield started, port


# --- threads ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What a process has used so far."""

    by_thread: dict[str, tuple[str, int]]
    """By the thread's id: its kind, and nanoseconds of CPU."""
    user_ticks: int
    system_ticks: int
    """Of the main thread."""


def usage(pid: int) -> Usage:
    process = name_of(Path(f"/proc/{pid}"))
    by_thread = {}
    user = system = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            ran = int((task / "schedstat").read_text().split()[0])
            kind = kind_of(name_of(task), process)
            if task.name == str(pid):
                kind = "main"
                fields = (task / "stat").read_text().rsplit(")", 1)[1].split()
                user, system = int(fields[11]), int(fields[12])
        except OSError:
            continue  # it has ended
        by_thread[task.name] = kind, ran
    return Usage(by_thread, user, system)


def name_of(task: Path) -> str:
    return (task / "comm").read_text().strip()


def kind_of(name: str, process: str) -> str:
    if name.startswith("rocksdb:"):
        return "rocksdb"
    if name.startswith("rdk:"):
        return "librdkafka"
    # From Python 3.14 on a thread has the name that it was made with.
    is_ours = name == process or name.startswith(("matyan ", "kafka-"))
    return "helper" if is_ours else "other"


def spent(before: Usage, after: Usage, frames: float) -> Result:
    """Microseconds a frame by kind of thread."""
    result = dict.fromkeys(("main", "helper", "rocksdb", "librdkafka", "other"), 0.0)
    for thread, (kind, ran) in after.by_thread.items():
        _, earlier = before.by_thread.get(thread, (kind, 0))
        result[kind] += (ran - earlier) / 1e3 / frames
    user = after.user_ticks - before.user_ticks
    system = after.system_ticks - before.system_ticks
    result["kernel"] = result["main"] * system / max(1, user + system)
    return result


# --- system calls ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tool:
    """What counts system calls of a process until SIGINT, and writes a table."""

    command: tuple[str, ...]
    line: re.Pattern[str]


PERF = Tool(
    ("perf", "trace", "-s", "-o", "{file}", "-p", "{pid}"),
    re.compile(r"^ +(?P<name>[a-z]\w*) +(?P<calls>\d+) +\d+ +[\d.]+ ", re.MULTILINE),
)
STRACE = Tool(
    ("strace", "-f", "-c", "-o", "{file}", "-p", "{pid}"),
    re.compile(
        r"^ *[\d.]+ +[\d.]+ +\d+ +(?P<calls>\d+) +(?:\d+ +)?(?P<name>(?!total)\w+)$", re.MULTILINE
    ),
)
ATTACHED_S = 1.0


def working_tool() -> Tool | None:
    """The one that is here and may look at a process of ours."""
    for tool in (PERF, STRACE):
        if shutil.which(tool.command[0]) is None:
            say(f"{tool.command[0]} is not here")
            continue
        with subprocess.Popen(["sleep", "60"]) as other:
            try:
                with counting(tool, other.pid):
                    pass
            except RuntimeError as error:
                say(f"{tool.command[0]} may not look: {error}")
            else:
                return tool
            finally:
                other.kill()
    return None


@contextmanager
def counting(tool: Tool, pid: int) -> Iterator[Counter[str]]:
    """The process's system calls by their name, known at the end.

    Raises:
        RuntimeError: the tool has ended by itself; its last line.
    """
    calls: Counter[str] = Counter()
    with tempfile.NamedTemporaryFile("r") as file:
        words = [word.format(file=file.name, pid=pid) for word in tool.command]
        process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        time.sleep(ATTACHED_S)
        try:
            yield calls
        finally:
            ended = process.poll()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=30)
        if ended is not None:
            raise RuntimeError(errors.strip().rpartition("\n")[2])
        for match in tool.line.finditer(file.read()):
            calls[match["name"]] += int(match["calls"])


# --- the three runs of a load ------------------------------------------------------------------------


def measure_cpu(scratch: Path, broker: Broker | None, load: Load, seconds: float) -> Result:
    with server(scratch, broker) as (started, port):
        seen: list[Usage] = []

        def look() -> float:
            seen.append(usage(started.process.pid))
            return 0

        done = loadgen.run(port, load, seconds=seconds, cpu=look)
    before, after = seen
    frames = done["acknowledged"] / load.messages
    result = spent(before, after, frames)
    result["total"] = sum(result.values()) - result["kernel"]
    result["frames_per_s"] = done["frames_per_s"]
    return result


def measure_store(scratch: Path, load: Load, seconds: float) -> Result:
    """Microseconds a frame in RocksDB's calls of the main thread, and in those that sync."""
    clocks = scratch / "clocks"
    with server(scratch, None, clocks) as (_, port):
        seen: list[memoryview] = []

        def look() -> float:
            seen.append(memoryview(clocks.read_bytes()).cast("q"))
            return 0

        done = loadgen.run(port, load, seconds=seconds, cpu=look)
    before, after = seen
    frames = done["acknowledged"] / load.messages
    return {
        "calls": (after[ROCKS] - before[ROCKS]) / 1e3 / frames,
        "sync": (after[SYNC] - before[SYNC]) / 1e3 / frames,
    }


def measure_calls(
    scratch: Path, broker: Broker | None, load: Load, frames: int, tool: Tool
) -> Counter[str]:
    """System calls by their name, of a thousand frames: what so many a connection take more than one does."""
    with server(scratch, broker) as (started, port):

        def count(frames: int) -> Counter[str]:
            with counting(tool, started.process.pid) as calls:
                loadgen.run(port, load, frames=frames, seconds=600)
            return calls

        one, all_of_them = count(1), count(frames)
    more = (frames - 1) * load.connections
    return Counter({name: round(1000 * n / more) for name, n in (all_of_them - one).items()})


def measure(
    scratch: Path, broker: Broker | None, load: Load, seconds: float, tool: Tool | None
) -> tuple[Result, Counter[str]]:
    result = measure_cpu(scratch, broker, load, seconds)
    result["python"] = result["main"] - result["kernel"]
    if broker is None:
        store = measure_store(scratch, load, seconds)
        result["python"] -= store["calls"]
        result["rocksdb"] += store["calls"]
        result["sync"] = store["sync"]
    names: Counter[str] = Counter()
    if tool is not None:
        frames = max(2, round(seconds * result["frames_per_s"] / load.connections))
        names = measure_calls(scratch, broker, load, frames, tool)
        result["calls"] = names.total() / 1000
    return result, names


def report(results: dict[str, list[Result]]) -> str:
    rows = ((name, medians(found)) for name, found in results.items())
    return table(
        ["µs of CPU a frame", *COLUMNS],
        ([name, *(number(row.get(key)) for key in COLUMNS.values())] for name, row in rows),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=1, help="medians over so many (1)")
    parser.add_argument("--seconds", type=float, default=4, help="of each run (4)")
    parser.add_argument(
        "--loads", help='comma list of those to run, as the table names them ("32 × 1,1 × 1")'
    )
    parser.add_argument("--embedded-only", action="store_true", help="no Kafka, which needs Java")
    given = parser.parse_args()
    wanted = given.loads and [name.strip() for name in given.loads.split(",")]
    loads = [load for load in LOADS if not wanted or str(load) in wanted]
    if not loads:
        parser.error(f"the loads are {', '.join(map(str, LOADS))}")
    with_kafka = not given.embedded_only
    if with_kafka and shutil.which("java") is None:
        say("there is no java: Kafka is left out")
        with_kafka = False
    results: dict[str, list[Result]] = {}
    calls: dict[str, Counter[str]] = {}
    with workplace("frame") as scratch:
        packages = ("matyan-trio", "trio", "rocksdict", "confluent-kafka")
        print(f"{heading(*packages)}; fdatasync {sync_ms(scratch):.2f} ms")
        print(f"medians of {given.rounds} × {given.seconds:g} s\n\n{loadgen.BIAS}\n{bias()}\n")
        tool = working_tool()
        print(f"System calls: {tool.command[0] if tool else 'no tool that may count them'}.\n")
        with ExitStack() as stack:
            places: dict[str, Broker | None] = {"embedded": None}
            if with_kafka:
                places["Kafka"] = stack.enter_context(running(scratch / "kafka"))
            for _ in range(given.rounds):
                for place, where in places.items():
                    for load in loads:
                        name = f"{load}, {place}"
                        result, names = measure(scratch, where, load, given.seconds, tool)
                        say(f"{name}: {result}")
                        results.setdefault(name, []).append(result)
                        calls[name] = names
    print(report(results) + "\n")
    for name, names in calls.items():
        listed = (f"{call} {number(count / 1000)}" for call, count in names.most_common(8))
        if names:
            print(f"{name}: {', '.join(listed)}")


def bias() -> str:
    assert __doc__ is not None
    return __doc__[__doc__.index("Bias:") :].strip()


if __name__ == "__main__":
    main()
