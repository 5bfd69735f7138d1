"""The tracker of one machine: store, broker, blobs and workers of one data folder, in one process.

Puts parts together; decides nothing about records. `up` is `matyan up`; `background` is the same without a
port, for a command on a folder that nobody holds.
"""

from __future__ import annotations

import os
import queue
import secrets
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import outcome
import trio
from prometheus_client import Counter, Gauge

from matyan import __version__
from matyan import settings as settings_
from matyan._codec import range_of
from matyan.blobs.folder import FolderBlobs
from matyan.broker import local
from matyan.broker.base import ControlEvent, DeadLetter
from matyan.broker.local import LocalBroker
from matyan.errors import ConfigurationError, MatyanError, NotFound, Unavailable
from matyan.folder.folder import (
    DataFolder,
    delete_by_record,
    delivered,
    finish_by_record,
    open_folder,
    while_answering,
)
from matyan.folder.kafka_folder import KafkaFolder
from matyan.frontier import edge
from matyan.rules import runs
from matyan.rules.queries import Row
from matyan.rules.sequences import Layout
from matyan.service import logs, private, telemetry
from matyan.service.descriptors import raise_limit
from matyan.service.health import Health
from matyan.service.listeners import open_port
from matyan.service.logs import get_logger
from matyan.service.supervise import Task, calm_collector, run_service
from matyan.service.terminal import StatusLine, announce
from matyan.settings import Settings
from matyan.store.base import Snapshot
from matyan.workers.control import ControlWorker
from matyan.workers.ingest import IngestWorker

# The embedded mode reads no S3 setting; the SDK presigns right before it uploads.
_URL_EXPIRY_S = 3600
_SECRET_BYTES = 32
_CONTROL_S = 30.0
_POLL_S = 0.02
_STATUS_S = 1.0
# In a pipe: how often traffic is logged, while there is some.
_TRAFFIC_S = 60.0

_log = get_logger()


class Tracker:
    """The parts of one data folder. Made by `open_tracker`; works while its tasks run."""

    def __init__(self, folder: DataFolder, queue_bytes: int) -> None:
        self._folder = folder
        self.store = store = folder.store
        self.keys = keys = folder.keys
        self._broker = broker = LocalBroker(keys, queue_bytes)
        self._outbox = broker.outbox()
        self.producer = broker.producer()
        secret = _secret(folder.path / "secret")
        self.blobs = FolderBlobs(folder.path / "blobs", secret, _URL_EXPIRY_S, self._is_deleted)
        self.ingest = IngestWorker(
            broker.ingest_consumer(),
            store,
            keys,
            folder.rules,
            self._outbox,
            on_deletion=folder.compaction.deleted,
        )
        self._replaying = trio.Lock()
        self._control = ControlWorker(broker.control_consumer(store), self.blobs, self._bury)
        self._queries = queries = folder.queries
        self._api = folder.api(
            {
                "delete": self._delete,
                "finish": self._finish,
                "artifact": self._artifact,
                "dlq_replay": self._replay,
            },
            {
                "show": self._show,
                "artifacts": self._artifacts,
                "dlq_list": queries.dead_letters,
                "dlq_show": queries.dead_letter,
            },
        )
        self.health = Health()
        self.health.add("store", self._check_store)

    def tasks(self) -> list[Task]:
        return [
            Task("ingest", self.ingest.run),
            Task("control", self._control.run),
            Task("commands", self._api.serve),
            Task("compaction", self._folder.compaction.run),
        ]

    async def drain(self, deadline: float) -> int:
        """Waits for what was accepted and for commands being answered; returns the records not stored.

        What the control worker has not done stands in the store and is done by the next process.
        """
        left = await self.producer.flush(deadline)
        await while_answering(self._api)
        return left

    async def _check_store(self) -> None:
        trouble = self.ingest.trouble()
        if trouble is not None:
            raise Unavailable(trouble)
        await self.store.read(lambda snap: snap.get(self.keys.layout()))

    async def _is_deleted(self, run: str) -> bool:
        return await self.store.read(lambda snap: runs.is_deleted(snap, self.keys, run))

    async def _bury(self, letters: Sequence[DeadLetter]) -> None:
        await self.store.transact(lambda tr: self._outbox.within(tr, [], letters))

    # --- blobs, which lie in the same folder -----------------------------------------------------

    def _artifacts(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        """What was signed for a run, and how many bytes came; None: it was never uploaded."""
        run = self._queries.resolve(snap, run)
        for row in self._queries.artifacts(snap, run=run):
            yield {**row, "bytes": self.blobs.size(run, row["path"])}

    def _show(self, snap: Snapshot, *, run: str) -> Iterator[Row]:
        for shown in self._queries.show(snap, run=run):
            if "artifacts" in shown:
                shown["artifacts"] = [*self._artifacts(snap, run=shown["run"])]
            yield shown

    async def _artifact(self, *, run: str, path: str) -> AsyncIterator[object]:
        """The bytes of an artifact, in pieces."""
        _, _, pieces = await self.blobs.open(run, path)
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    # --- what the CLI writes -----------------------------------------------------------------------

    async def _delete(self, *, run: str) -> AsyncIterator[object]:
        """Deletes a run and waits for its blobs to go."""
        await self._folder.must_exist(run)
        self._must_take()
        await delete_by_record(self.producer, run)
        pending = True
        with trio.move_on_after(_CONTROL_S):
            while pending:
                pending = await self.store.read(lambda snap: self._has_events(snap, run))
                await trio.sleep(_POLL_S if pending else 0)
        yield {"run": run, "blobs_pending": pending}

    async def _finish(self, *, run: str) -> AsyncIterator[object]:
        """Ends a run when it was last heard of; one that has ended stays as it is."""
        before = await self._folder.last_heard(run)
        if before.active:
            self._must_take()
            await finish_by_record(self.producer, run, before.last_record)
        after = await self._folder.last_heard(run)
        yield {"run": run, "was_active": before.active, "duration": after.duration}

    async def _replay(self, *, ids: Sequence[int] | None) -> AsyncIterator[object]:
        """Hands dead letters over again; the transaction that applies one takes it out of the store."""
        if ids is None:
            ids = await self.store.read(
                lambda snap: [one.id for one in local.dead_letters(snap, self.keys)]
            )
        for number in ids:
            # One at a time: what was read of a letter holds only while nobody else hands it over.
            async with self._replaying:
                if self._broker.is_redelivered(number):
                    raise Unavailable(
                        f"dead letter {number} was sent before and waits for the store"
                    )
                letter = await self.store.read(partial(self._queries.standing_letter, id=number))
                self._must_take()
                try:
                    again = await delivered(partial(self._broker.redeliver, number, letter.letter))
                except NotFound as error:
                    became = f"dropped: {error}"
                else:
                    became = "dead again" if again.died else "applied"
            yield {"id": number, "outcome": became}

    def _must_take(self) -> None:
        """Says at once that the store is away: what a person asked for must not be done after they gave it up.

        Raises:
            Unavailable: it is.
        """
        trouble = self.ingest.trouble()
        if trouble is not None:
            raise Unavailable(f"nothing was done: {trouble}")

    def _has_events(self, snap: Snapshot, run: str) -> bool:
        standing = snap.scan(*range_of(self.keys.control_events_prefix()))
        return any(
            ControlEvent.from_bytes(value).payload.get("run_id") == run for _, value in standing
        )


@asynccontextmanager
async def open_tracker(
    data: Path, settings: Settings, *, layout: Layout | None = None
) -> AsyncIterator[Tracker]:
    """Opens a data folder as a tracker of its own; see `open_folder`.

    Raises:
        ConfigurationError: its records come from Kafka.
    """
    async with open_folder(data, layout) as folder:
        if folder.fed_by_kafka:
            raise ConfigurationError(
                f"the records of {data} come from Kafka; run its worker, with: "
                f"matyan ingest-worker --store rocks:{data}, or name another folder with --data"
            )
        yield Tracker(folder, settings.queue_bytes)


def _secret(path: Path) -> bytes:
    """The key that signs blob URLs: made once, readable by its owner alone."""
    try:
        with suppress(FileNotFoundError):
            secret = path.read_bytes()
            private.tighten(path)
            if len(secret) == _SECRET_BYTES:
                return secret
        secret = secrets.token_bytes(_SECRET_BYTES)
        partial = path.with_name(f"{path.name}.part")
        partial.unlink(missing_ok=True)
        with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(secret)
        partial.replace(path)
    except OSError as error:
        raise ConfigurationError(
            f"cannot use {path} ({error.strerror}); mend its permissions, or name another folder with --data"
        ) from None
    return secret


# --- for a command on a folder that nobody holds ---------------------------------------------------


@contextmanager
def background(data: Path) -> Iterator[None]:
    """Holds a data folder in a thread of this process and answers at its socket.

    Raises:
        ConfigurationError: as `open_folder` does.
    """
    loaded = settings_.Settings()
    began: queue.SimpleQueue[tuple[trio.lowlevel.TrioToken, trio.Event] | BaseException] = (
        queue.SimpleQueue()
    )

    async def hold() -> None:
        async with open_folder(data, None) as folder, trio.open_nursery() as nursery:
            holder: Tracker | KafkaFolder = (
                KafkaFolder(folder, None)
                if folder.fed_by_kafka
                else Tracker(folder, loaded.queue_bytes)
            )
            for task in holder.tasks():
                await nursery.start(task.run)
            stop = trio.Event()
            began.put((trio.lowlevel.current_trio_token(), stop))
            await stop.wait()
            await holder.drain(trio.current_time() + loaded.shutdown_flush_timeout)
            nursery.cancel_scope.cancel()

    def thread() -> None:
        ended = outcome.capture(trio.run, hold)
        if isinstance(ended, outcome.Error):
            began.put(ended.error)

    holder = threading.Thread(target=thread, name="matyan store", daemon=True)
    holder.start()
    first = began.get()
    if isinstance(first, BaseException):
        raise _plain(first)
    token, stop = first
    try:
        yield
    finally:
        with suppress(trio.RunFinishedError):
            token.run_sync_soon(stop.set)
        holder.join()
    if not began.empty():
        late = began.get()
        assert isinstance(late, BaseException)
        raise _plain(late)


def _plain(error: BaseException) -> BaseException:
    """The error inside groups of one; the first of ours inside a larger one."""
    while isinstance(error, BaseExceptionGroup):
        ours = error.subgroup(MatyanError)
        error = (ours or error).exceptions[0]
    return error


# --- matyan up -------------------------------------------------------------------------------------


def run(data: Path, host: str, port: int, settings: Settings) -> int:
    """Runs the tracker until SIGINT or SIGTERM; 0 when everything that was accepted is stored.

    Raises:
        ConfigurationError: the port, the folder or a setting must be changed.
    """
    private.set_umask()
    raise_limit()
    line = logs.configure(settings.log_level)
    names = settings_.unknown_names(settings_.read_environment(), ignore=settings_.EMBEDDED_IGNORES)
    for sentence in names:
        _log.warning(sentence)
    try:
        return trio.run(_up, data.absolute(), host, port, settings, line)
    finally:
        if line is not None:
            line.show("")


async def _up(data: Path, host: str, port: int, settings: Settings, line: StatusLine | None) -> int:
    async with open_tracker(data, settings, layout=settings.rocks_layout or "packed") as tracker:
        frontier = edge.Frontier(tracker.producer, tracker.blobs, tracker.health, settings)
        listeners: list[trio.SocketListener] = []

        async def serve(*, task_status: trio.TaskStatus[object]) -> None:
            listeners[:] = await open_port(host, port)
            await edge.serve(frontier, listeners, task_status=task_status)

        async def report(*, task_status: trio.TaskStatus[None]) -> None:
            _greet(data, host, listeners)
            calm_collector()
            task_status.started()
            await (_watch(tracker, line) if line is not None else _log_traffic(tracker))

        async def drain(deadline: float) -> int:
            left = await edge.drain(frontier, deadline)
            return max(left, await tracker.drain(deadline))

        return await run_service(
            [*tracker.tasks(), Task("frontier", serve), Task("report", report)],
            drain,
            tracker.health,
            drain_s=settings.shutdown_flush_timeout,
        )


def _greet(data: Path, host: str, listeners: Sequence[trio.SocketListener]) -> None:
    port = listeners[0].socket.getsockname()[1]
    everywhere = host in {"0.0.0.0", "::", ""}
    name = "127.0.0.1" if everywhere else f"[{host}]" if ":" in host else host
    url = f"http://{name}:{port}"
    lines = [f"matyan {__version__} takes data at {url}"]
    if everywhere:
        lines.append(f"  from other machines:  http://{socket.gethostname()}:{port}")
    lines += [
        f"  health and metrics:   {url}/health/ready/  {url}/metrics/",
        f"  data folder:          {data}",
        "In the training code:",
        "",
        "    from matyan_client import Run",
        f'    run = Run(repo="{url}")',
        '    run.track(0.5, name="loss")',
        "",
        "Ctrl-C stops it.",
    ]
    announce("\n".join(lines))


@dataclass(frozen=True, slots=True)
class _Traffic:
    connections: int
    messages: int
    points: int
    waiting_bytes: int
    errors: int


def _traffic(tracker: Tracker) -> _Traffic:
    processed = {
        sample.labels["message_type"]: sample.value
        for family in telemetry.INGEST_PROCESSED.collect()
        for sample in family.samples
        if sample.name.endswith("_total")
    }
    return _Traffic(
        int(_sum(telemetry.WS_CONNECTIONS)),
        int(sum(processed.values())),
        int(processed.get("log_metric", 0)),
        tracker.producer.queued_bytes,
        int(_sum(telemetry.REJECTED) + _sum(telemetry.DEAD_LETTERS)),
    )


def _sum(metric: Counter | Gauge) -> float:
    return sum(
        sample.value
        for family in metric.collect()
        for sample in family.samples
        if not sample.name.endswith("_created")
    )


async def _watch(tracker: Tracker, line: StatusLine) -> None:
    """The live line of a terminal."""
    messages, moment = 0, trio.current_time()
    while True:
        now, traffic = trio.current_time(), _traffic(tracker)
        rate = (traffic.messages - messages) / max(now - moment, 1e-9)
        messages, moment = traffic.messages, now
        line.show(
            f"{traffic.connections:,} connections · {rate:,.0f} messages/s · {traffic.points:,} points · "
            f"{traffic.waiting_bytes / 1000:,.0f} kB waiting · {traffic.errors:,} errors"
        )
        await trio.sleep(_STATUS_S)


async def _log_traffic(tracker: Tracker) -> None:
    """The same for a pipe: a log line a minute, while there is something to tell."""
    last = _traffic(tracker)
    while True:
        await trio.sleep(_TRAFFIC_S)
        traffic = _traffic(tracker)
        if traffic != last:
            _log.info(
                "traffic",
                connections=traffic.connections,
                messages_per_second=round((traffic.messages - last.messages) / _TRAFFIC_S, 1),
                points=traffic.points,
                waiting_bytes=traffic.waiting_bytes,
                errors=traffic.errors,
            )
        last = traffic
