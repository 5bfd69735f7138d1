"""The stores on which `bench.worker` compares, each with its bare writer: RocksDB in a folder, FoundationDB on a cluster.

A cluster is taken only when it holds no store, or one that a bench has made: the bench removes what it finds there.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import rocksdict

from bench import loadgen
from bench.machine import cpu_of
from matyan._codec import Columns, compatible_points, pack
from matyan.store.fdb.client import Cluster, open_cluster
from matyan.store.rocks.database import open_database
from matyan.store.rocks.store import DIRECTORIES

PREBUILT = 65_536
"""Points of RocksDB's bare writer, which writes them over and over. FoundationDB's writes each once: its server is the slower
the more keys it has."""
COMMIT_POINTS = 1_000
"""Of the bare writer, per transaction of FoundationDB: some 0.5 MB."""
VALUES = loadgen.table("smooth")
_MARK = ("matyan-bench",)

Write = Callable[[int], None]
"""Stores so many points."""


class Engine(Protocol):
    @property
    def packages(self) -> tuple[str, ...]:
        """Those whose versions count."""
        ...

    @property
    def name(self) -> str:
        """What `--store` takes."""
        ...

    def fresh(self) -> None:
        """Removes what is there."""
        ...

    def write_prebuilt(self, points: int) -> Write:
        """Writes the four keys of points that are made beforehand; there will be so many."""
        ...

    def cpu(self) -> float:
        """CPU seconds of the server so far; 0 where there is none."""
        ...


def prebuilt(prefix: bytes, points: int) -> list[tuple[bytes, bytes]]:
    """The four keys of so many points, 1,024 a run, sorted."""
    pairs: list[tuple[bytes, bytes]] = []
    for run in range(-(-points // 1024)):
        columns = Columns()
        for step in range(1024):
            columns.append(step, VALUES[step], 1.77e9 + step / 50, step // 100)
        sequence = pack((f"run-{run:05d}", "seqs", 7, "metric_000"), prefix)
        packed = compatible_points(sequence, columns)
        pairs += [(key, value) for key, value in packed if value is not None]
    pairs.sort()
    return pairs


class Rocks:
    packages = ("rocksdict",)

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def name(self) -> str:
        return f"rocks:{self._folder}"

    def fresh(self) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.mkdir()

    def write_prebuilt(self, points: int) -> Write:
        """In one batch with one sync, in the keys' order."""
        pairs = prebuilt(DIRECTORIES["data", "runs"], PREBUILT)
        database = open_database(self._folder, torn=False)
        at = 0

        def write(points: int) -> None:
            nonlocal at
            at = 0 if at + 4 * points > len(pairs) else at
            batch = rocksdict.WriteBatch(raw_mode=True)
            put = batch.put
            for key, value in pairs[at : at + 4 * points]:
                put(key, value)
            at += 4 * points
            database.write(batch)
            database.flush_wal(True)

        return write

    def cpu(self) -> float:
        return 0.0


class Fdb:
    packages = ("foundationdb",)

    def __init__(self, file: str) -> None:
        """
        Raises:
            SystemExit: the cluster holds somebody's store.
        """
        self._cluster: Cluster = open_cluster(file, 730)
        self._layer: Any = self._cluster.fdb.directory
        self._database: Any = self._cluster.database
        if not self._layer.exists(self._database, _MARK):
            if self._layer.exists(self._database, ("data",)):
                raise SystemExit(
                    f"The cluster of {file} holds a store, which the bench would remove: give it a cluster of its own."
                )
            self._layer.create_or_open(self._database, _MARK)

    @property
    def name(self) -> str:
        return f"fdb:{self._cluster.file}"

    def fresh(self) -> None:
        for path in ("data",), ("system",):
            self._layer.remove_if_exists(self._database, path)

    def write_prebuilt(self, points: int) -> Write:
        """By the binding, as its documentation has it: `tr[key] = value`, and a commit for COMMIT_POINTS."""
        prefix = self._layer.create_or_open(self._database, ("data", "runs")).key()
        pairs = prebuilt(prefix, points)
        at = 0

        def write(points: int) -> None:
            nonlocal at
            for begin in range(0, points, COMMIT_POINTS):
                some = 4 * min(COMMIT_POINTS, points - begin)
                at = 0 if at + some > len(pairs) else at
                tr = self._database.create_transaction()
                for key, value in pairs[at : at + some]:
                    tr[key] = value
                tr.commit().wait()
                at += some

        return write

    def cpu(self) -> float:
        return sum(map(cpu_of, self._servers()))

    def _servers(self) -> list[int]:
        """The processes of this machine that listen where the coordinators do."""
        text = Path(self._cluster.file).read_text().strip().rpartition("@")[2]
        ports = {int(one.split(":")[1]) for one in text.split(",")}
        inodes = {
            fields[9]
            for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
            if (fields := line.split())[3] == "0A" and int(fields[1].split(":")[1], 16) in ports
        }
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            for file in (process / "fd").glob("*"):
                try:
                    target = file.readlink().name
                except OSError:
                    continue
                if target.startswith("socket:[") and target[8:-1] in inodes:
                    found.append(int(process.name))
                    break
        return found
