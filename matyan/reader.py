"""Reading a tracker's data from Python, and the wire of the unix socket that answers.

    import matyan.reader
    with matyan.reader.open(".matyan") as reader:
        points = reader.metric(run, "loss", context={"subset": "train"})

It asks the process that holds the data folder (`matyan up`, `matyan ingest-worker`); when nobody holds it, this process opens
the store for as long as the reader is open. No store, no trio and no printing here: the answers come
from `local_api.py`, so that what a command shows does not depend on who holds the folder.

The wire: one request a connection. Each message is a length (4 bytes, big endian) and msgpack. The request
is a map with "op" and its arguments; each answer is `[ITEMS, [item, …]]`, the last `[END]` or `[ERROR, class, text]`.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from array import array
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import msgpack

from matyan import errors
from matyan.errors import ConfigurationError, FolderInUse, MatyanError, Unavailable
from matyan.spool import Spool

SOCKET_NAME = "matyan.sock"
DATABASE = "rocksdb"
"""The store's folder in a data folder."""
ITEMS, END, ERROR = 0, 1, 2
MAX_MESSAGE = 1 << 30
_HEADER = struct.Struct(">I")
# sun_path of Linux holds 108 bytes with the final zero.
_MAX_SOCKET_PATH = 107
# Who holds the folder may be starting, on a machine that is busy. Each try costs a thread and a look at the lock.
_LOCK_WAIT_S = 30.0
_LOCK_POLL_S = (0.05, 0.5)


def has_database(folder: Path) -> bool:
    """Whether a store was made in this data folder; CURRENT is RocksDB's name for what it opens."""
    return (folder / DATABASE / "CURRENT").exists()


def pack_message(message: object) -> bytes:
    """One message of the wire, its length first."""
    body: bytes = msgpack.packb(message, use_bin_type=True)
    return _HEADER.pack(len(body)) + body


def unpack_message(body: bytes) -> Any:
    # Free values of users may hold anything that msgpack holds, non-string keys never.
    return msgpack.unpackb(body, raw=False, strict_map_key=False)


def message_length(header: bytes) -> int:
    """Raises ValueError when this is no header of ours."""
    (length,) = _HEADER.unpack(header)
    if length > MAX_MESSAGE:
        raise ValueError(f"a message of {length} bytes")
    return int(length)


@contextmanager
def socket_address(folder: Path) -> Iterator[str]:
    """An address of the socket in `folder` that is short enough for bind() and connect().

    A unix socket's path holds 107 bytes; a longer one is reached through the folder's descriptor.
    """
    direct = str(folder / SOCKET_NAME)
    if len(os.fsencode(direct)) <= _MAX_SOCKET_PATH:
        yield direct
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_NAME}"
    finally:
        os.close(descriptor)


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
    """Asks the process that holds a data folder. Made by `open`; every call is a connection of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def ask(self, op: str, **arguments: Any) -> Iterator[Any]:
        """Sends one request and yields its answers as they come. Whoever takes them may pause: they wait here, and hold nobody up.

        Raises:
            MatyanError: what the other side says, or an argument that no message holds; Unavailable when it went away.
        """
        request = _request(op, arguments)
        with _connect(self.folder) as connection:
            try:
                connection.sendall(request)
            except OSError as error:
                raise Unavailable(_GONE) from error
            with closing(Spool(_messages(connection), partial(_hang_up, connection))) as answer:
                for message in answer:
                    kind, *rest = unpack_message(message)
                    if kind == ITEMS:
                        yield from rest[0]
                    elif kind == END:
                        return
                    else:
                        raise _error(*rest)
            raise Unavailable(_GONE)

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
            raise errors.NotFound(
                f"run {run} has no metric {name!r} in that context; `matyan show {run}` lists them"
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


_GONE = "the process that holds this data folder went away while it answered; run the same command again"


@contextmanager
def open(data: str | os.PathLike[str] = ".matyan") -> Iterator[Reader]:
    """Opens a data folder for reading, whether or not `matyan up` or an ingest worker runs on it.

    Raises:
        ConfigurationError: there is no tracker's data in the folder, or it cannot be opened.
    """
    folder = Path(data).absolute()
    if not (folder / DATABASE).is_dir():
        raise ConfigurationError(
            f"there is no tracker data in {folder}; name another folder with --data, "
            f"or start one with: matyan up --data {folder}"
        )
    deadline = time.monotonic() + _LOCK_WAIT_S
    pause, longest = _LOCK_POLL_S
    with ExitStack() as stack:
        while not _answers(folder):
            from matyan.folder.tracker import background

            try:
                stack.enter_context(background(folder))
            except FolderInUse:
                # Somebody is between taking the lock and answering, or between the last answer and the exit.
                if time.monotonic() > deadline:
                    raise
                time.sleep(pause)
                pause = min(2 * pause, longest)
        yield Reader(folder)


def _answers(folder: Path) -> bool:
    try:
        _connect(folder).close()
    except Unavailable:
        return False
    return True


def _connect(folder: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(folder) as address:
            connection.connect(address)
    except PermissionError:
        connection.close()
        raise ConfigurationError(
            f"{folder / SOCKET_NAME} belongs to another user; run this command as the user who runs matyan up"
        ) from None
    except OSError as error:
        connection.close()
        raise Unavailable(f"nobody answers at {folder / SOCKET_NAME}: {error}") from error
    return connection


def _messages(connection: socket.socket) -> Iterator[bytes]:
    """The whole messages that come, until the other side goes."""
    with connection.makefile("rb", buffering=1 << 18) as stream:
        try:
            while len(header := stream.read(_HEADER.size)) == _HEADER.size:
                length = message_length(header)
                body = stream.read(length)
                if len(body) < length:
                    return
                yield body
        except OSError:
            return


def _hang_up(connection: socket.socket) -> None:
    """Wakes whoever reads from it, in any thread."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def _request(op: str, arguments: dict[str, Any]) -> bytes:
    """
    Raises:
        MatyanError: msgpack cannot hold an argument, and neither does any store: a word of a command line that is no UTF-8,
            an integer beyond 64 bits.
    """
    try:
        return pack_message({"op": op, **arguments})
    except UnicodeEncodeError as error:
        raise MatyanError(f"{error.object!r} is no valid Unicode; no name is written so") from None
    except OverflowError:
        raise MatyanError(
            f"{op!r} was asked with a number beyond 64 bits; choose a smaller one"
        ) from None


def _error(name: str, text: str) -> MatyanError:
    kind = getattr(errors, name, None)
    known = isinstance(kind, type) and issubclass(kind, MatyanError)
    return kind(text) if known and kind is not None else MatyanError(text)


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
