"""Reading a tracker's data from Python.

    import matyan.reader
    with matyan.reader.open(".matyan") as reader:
        points = reader.metric(run, "loss", context={"subset": "train"})

It asks the process that holds the data folder (`matyan up`, `matyan ingest-worker`); when nobody holds it, and always for
a FoundationDB cluster ("fdb:"), this process opens the store for as long as the reader is open. No store, no trio and no
printing here: the answers come through a socket, so that what a command shows does not depend on who has the store open.
"""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matyan.errors import ConfigurationError, FolderInUse, NotFound
from matyan.folder import client
from matyan.settings import Settings, load_cluster
from matyan.store.open import (
    ClusterName,
    is_data_folder,
    is_named,
    named,
    open_cluster_store,
)

_LOCK_WAIT_S = 30.0
"""Who holds the folder may be starting, on a machine that is busy."""
_FIRST_POLL_S, _LONGEST_POLL_S = 0.05, 0.5
"""Each try costs a thread and a look at the lock."""


@dataclass(frozen=True, slots=True)
class Points:
    """Points of one metric, ordered by step; times are epoch seconds. An epoch is an int where it was given as an integer
    (5.0 too), a float where it has a fraction, None where none was given."""

    steps: array[int]
    values: array[float]
    times: array[float]
    epochs: list[int | float | None]

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of one sequence: `points` of a metric, or `objects` as (step, epoch, time, value)."""

    name: str
    context: dict[str, Any]
    dtype: str
    points: Points | None = None
    objects: list[tuple[int, int | float | None, float, Any]] | None = None

    def __len__(self) -> int:
        return len(self.points) if self.points is not None else len(self.objects or ())


class Reader:
    """Asks whoever has a store open. Made by `open`; every call is a connection of its own."""

    def __init__(self, connect: client.Connect) -> None:
        self._connect = connect
        self.moments = 1
        """How many moments of the store one of the answers so far shows, at most. 1: each of them is of one moment. More: it
        took longer than the store remembers a moment, and what was written meanwhile stands in it or not."""

    def ask(self, op: str, **arguments: Any) -> Iterator[Any]:
        """See `matyan.folder.client.ask`."""
        return client.ask(self._connect, op, arguments, self._saw)

    def _saw(self, moments: int) -> None:
        self.moments = max(self.moments, moments)

    def _one(self, op: str, **arguments: Any) -> Any:
        (answer,) = self.ask(op, **arguments)
        return answer

    def runs(
        self,
        *,
        experiment: str | None = None,
        tag: str | None = None,
        active: bool | None = None,
        archived: bool | None = None,
        heard_before: float | None = None,
        limit: int | None = None,
        counts: bool = False,
    ) -> Iterator[dict[str, Any]]:
        """The runs, newest first: run, name, experiment, tags, active, archived, created_at, last_record, duration; with
        `counts`, which takes its time, sequences and points too.

        last_record: when the run was last heard of, in epoch seconds, at most a minute behind; None: nobody noted it.
        heard_before: only active runs whose last_record is before that time.
        """
        filters = {
            "experiment": experiment,
            "tag": tag,
            "active": active,
            "archived": archived,
            "heard_before": heard_before,
            "limit": limit,
            "counts": counts or None,
        }
        # Only what was asked for: a process of an older version holds the folder until it is restarted.
        given = {name: value for name, value in filters.items() if value is not None}
        return self.ask("runs", **given)

    def find(self, runs: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The row of each of these runs, as `runs` gives it, once; each may be a unique beginning of an id.

        Raises:
            NotFound: there is no such run.
        """
        return self.ask("find", runs=[*runs])

    def show(self, run: str) -> dict[str, Any]:
        """One run: run, last_record, meta, attrs, tags, contexts, sequences. `run` may be a unique beginning of the id.

        Raises:
            NotFound: there is no such run.
        """
        shown: dict[str, Any] = self._one("show", run=run)
        return shown

    def artifacts(self, run: str) -> Iterator[dict[str, Any]]:
        """The artifacts of a run: path, content_type and, in a folder that holds them, bytes; None: never uploaded."""
        return self.ask("artifacts", run=run)

    def artifact(self, run: str, path: str) -> Iterator[bytes]:
        """The bytes of one of them, in pieces; the run's whole id.

        Raises:
            NotFound: there are none.
        """
        return self.ask("artifact", run=run, path=path)

    def logs(self, run: str) -> Iterator[dict[str, Any]]:
        """Log records and terminal lines by time: kind ("record" or "line"), step, message, level, time."""
        return self.ask("logs", run=run)

    def blocks(
        self, run: str, *, name: str | None = None, context: dict[str, Any] | None = None
    ) -> Iterator[Block]:
        """Everything a run tracked, or its sequences called `name` (in `context`, when given), in bounded pieces."""
        for item in self.ask("export", run=run, name=name, context=context):
            yield _block(item)

    def metric(self, run: str, name: str, context: dict[str, Any] | None = None) -> Points:
        """All points of one metric, merged and ordered by step. `context` None: the empty one.

        Raises:
            NotFound: there is no such run, or no such metric in it.
        """
        whole = Points(array("q"), array("d"), array("d"), [])
        found = False
        for block in self.blocks(run, name=name, context=context or {}):
            if block.points is not None:
                found = True
                whole.steps.extend(block.points.steps)
                whole.values.extend(block.points.values)
                whole.times.extend(block.points.times)
                whole.epochs.extend(block.points.epochs)
        if not found:
            raise NotFound(
                f"Run {run} has no metric {name!r} in that context: `matyan show {run}` lists them."
            )
        return whole

    def delete(self, run: str) -> dict[str, Any]:
        """Deletes a run and its blobs: `run`, and `blobs_pending`: whether its blobs are still being deleted.

        Raises:
            NotFound: there is no run of this id; a beginning of one is not enough.
        """
        deleted: dict[str, Any] = self._one("delete", run=run)
        return deleted

    def finish(self, run: str) -> dict[str, Any]:
        """Ends a run when it was last heard of: `run`, `was_active`: whether it had not ended before, and its `duration`.

        Raises:
            NotFound: there is no run of this id; a beginning of one is not enough.
        """
        finished: dict[str, Any] = self._one("finish", run=run)
        return finished

    def compact(self) -> dict[str, Any]:
        """Rewrites the store into its smallest form: its bytes on the disk `before` and `after`."""
        compacted: dict[str, Any] = self._one("compact")
        return compacted

    def dead_letters(self, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Records that could not be applied: id, topic, partition, offset, time, error_class, error_text, size, run, type."""
        return self.ask("dlq_list", limit=limit)

    def dead_letter(self, number: int) -> dict[str, Any]:
        """One dead letter with its `key` and `value` (bytes)."""
        letter: dict[str, Any] = self._one("dlq_show", id=number)
        return letter

    def replay(self, numbers: list[int] | None = None) -> Iterator[dict[str, Any]]:
        """Sends dead letters (None: all) through the ingestion again; yields id and outcome ("applied" or "dead again")."""
        return self.ask("dlq_replay", ids=numbers)


@contextmanager
def open(data: str | os.PathLike[str] = ".matyan") -> Iterator[Reader]:
    """Opens a data folder for reading, whether or not `matyan up` or an ingest worker runs on it; or the store that `data` is
    the name of: "rocks:FOLDER", or "fdb:CLUSTER_FILE", a FoundationDB cluster ("fdb:": of the setting FDB_CLUSTER_FILE).

    Raises:
        ConfigurationError: there is no tracker's data in the folder, no store in the cluster, or it cannot be opened.
        Unavailable: the cluster does not answer.
    """
    place = _place(data)
    with ExitStack() as stack:
        if isinstance(place, Path):
            connect: client.Connect = _answered(place, stack)
        else:
            # The engines cost a start-up that most readers do not need.
            from matyan.folder.hold import open_cluster

            settings = load_cluster()
            open_store = partial(open_cluster_store, place, settings, create=False)
            connect = stack.enter_context(open_cluster(open_store, settings))
        yield Reader(connect)


def _place(data: str | os.PathLike[str]) -> Path | ClusterName:
    if isinstance(data, str) and is_named(data):
        try:
            name = named(data)
        except ValueError as error:
            raise ConfigurationError(f"{data!r}: {error}.") from None
        return name if isinstance(name, ClusterName) else name.folder.absolute()
    return Path(data).absolute()


def _answered(folder: Path, stack: ExitStack) -> client.Connect:
    """Returns when somebody answers for the folder, if need be a thread of this process until `stack` is closed."""
    if not is_data_folder(folder):
        raise ConfigurationError(
            f"There is no tracker data in {folder}: name another folder with --data, "
            f"or start one with: matyan up --data {folder}."
        )
    deadline = time.monotonic() + _LOCK_WAIT_S
    pause = _FIRST_POLL_S
    while not client.is_answered(folder):
        from matyan.folder.hold import hold

        try:
            stack.enter_context(hold(folder, Settings()))
        except FolderInUse:
            # Somebody is between taking the lock and answering, or between the last answer and the exit.
            if time.monotonic() > deadline:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL_S)
    return partial(client.connect, folder)


def _block(item: dict[str, Any]) -> Block:
    if "objects" in item:
        return Block(
            item["name"],
            item["context"],
            item["dtype"],
            objects=[(step, epoch, when, value) for step, epoch, when, value in item["objects"]],
        )
    steps, values, times = array("q"), array("d"), array("d")
    steps.frombytes(item["steps"])
    values.frombytes(item["values"])
    times.frombytes(item["times"])
    epochs: list[int | float | None]
    if item["epochs"] is None:
        epochs = [None] * len(steps)
    else:
        # The mask says what the eight bytes of each are: nothing, an integer, a fraction.
        integers, fractions = array("q", item["epochs"]), array("d", item["epochs"])
        epochs = [
            integer if kind == 1 else fraction if kind else None
            for integer, fraction, kind in zip(integers, fractions, item["epoch_mask"], strict=True)
        ]
    return Block(
        item["name"], item["context"], item["dtype"], points=Points(steps, values, times, epochs)
    )
