"""What each process takes, looked at again and again in /proc, and whether it grows: memory, descriptors, threads; bytes on disk.

Each process is judged by itself, from its own start: what comes after a kill is another one. Its first quarter is its
warm-up; the median of its last quarter is held against that of its second.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

TOLERANCE = 0.05
SHORT_TOLERANCE = 0.25
"""Of a process that lived for minutes: what breaks closes connections, and they come again."""
FEW = 2
"""So many descriptors or threads more or less are no growth, where five in a hundred are less than one."""
FEW_BYTES = 1 << 20
FEWEST = 16
"""Samples: a process of fewer is not judged."""
STEADY_S = 240.0
"""A process that lived less is not judged: connections and threads come as they are needed first."""
SETTLED_S = 900.0
"""One that lived less is not judged by its memory: caches and allocators still fill."""


@dataclass(frozen=True, slots=True)
class Sample:
    at: float
    memory: int
    """Bytes, resident (VmRSS)."""
    descriptors: int
    threads: int


@dataclass
class Life:
    """One process from its start to its end, or to the end of the soak."""

    name: str
    pid: int
    ours: bool = True
    """Only what is ours is judged; the others' figures are told."""
    samples: list[Sample] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return self.samples[-1].at - self.samples[0].at if self.samples else 0.0

    def medians(self, what: str) -> tuple[float, float]:
        """Of its second and its last quarter."""
        second, last = (
            statistics.median(getattr(one, what) for one in part) for part in quarters(self.samples)
        )
        return second, last

    def judged(self) -> list[str]:
        """What of it can be judged."""
        if len(self.samples) < FEWEST or self.seconds < STEADY_S:
            return []
        return ["descriptors", "threads", *(["memory"] if self.seconds >= SETTLED_S else [])]

    def faults(self) -> list[str]:
        """What grew, one sentence each."""
        found = []
        for what in self.judged() if self.ours else []:
            before, after = self.medians(what)
            few = FEW_BYTES if what == "memory" else FEW
            tolerance = TOLERANCE if self.seconds >= SETTLED_S else SHORT_TOLERANCE
            if after - before > max(tolerance * before, few):
                found.append(
                    f"{self.name} (process {self.pid}, {self.seconds / 60:.0f} min): {what} grew from {before:,.0f} to {after:,.0f}"
                )
        return found


def quarters(samples: Sequence[Sample]) -> tuple[Sequence[Sample], Sequence[Sample]]:
    """The second and the last, by time."""
    begin, end = samples[0].at, samples[-1].at
    quarter = (end - begin) / 4
    second = [one for one in samples if quarter <= one.at - begin < 2 * quarter]
    last = [one for one in samples if one.at - begin >= 3 * quarter]
    return second or samples[:1], last or samples[-1:]


def sample(pid: int, at: float, beside: Path, connections: int = 0) -> Sample | None:
    """A process now; None: it is gone.

    beside: files below it are data, whose number grows with what is stored, and are not counted.
    connections: of clients, who come and go; not counted either.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        links = [_target(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return None
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    if "VmRSS" not in fields:  # a zombie
        return None
    return Sample(
        at,
        int(fields["VmRSS"].split()[0]) * 1024,
        sum(bool(link) and not link.startswith(str(beside)) for link in links) - connections,
        int(fields["Threads"]),
    )


def _target(link: str) -> str:
    try:
        return os.readlink(link)
    except OSError:  # closed meanwhile
        return ""


def written(lives: Iterable[Life]) -> str:
    """Every sample, a line each, for whoever looks for the moment at which something grew: with tabs between name, process,
    seconds since the start, bytes of memory, descriptors, threads."""
    return "".join(
        f"{one.name}\t{one.pid}\t{row.at:.0f}\t{row.memory}\t{row.descriptors}\t{row.threads}\n"
        for one in lives
        for row in one.samples
    )


def bytes_on_disk(folder: Path) -> int:
    """What the files below it take, sparse ones by what they hold."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(place, name)).st_blocks * 512
            except OSError:  # it went meanwhile
                continue
    return total


@dataclass(frozen=True, slots=True)
class Disk:
    """Bytes on disk at a moment."""

    kafka: int
    """Of one broker that was never without its disk."""
    store: int
    blobs: int


STORE_FACTOR, KAFKA_FACTOR = 4, 2
"""What a record may take on disk, against its bytes in the topic: indexes and their twins, four keys a point; indexes of a log."""
DISK_SLACK = 64 << 20


def disk_faults(rows: Sequence[Disk], bytes_in_topic: int) -> list[str]:
    """Whether disk has grown by more than what is stored."""
    found = []
    for what, factor in (("store", STORE_FACTOR), ("kafka", KAFKA_FACTOR)) if rows else ():
        grown: int = getattr(rows[-1], what) - getattr(rows[0], what)
        if grown > factor * bytes_in_topic + DISK_SLACK:
            found.append(
                f"{what}: {grown / 2**20:,.0f} MiB more on disk for {bytes_in_topic / 2**20:,.0f} MiB of records"
            )
    return found
