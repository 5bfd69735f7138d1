"""The store on FoundationDB 7.3: bodies run in threads, are retried as the client wants, and wake trio when they are durable.

An error decides by its kind what follows: what can never be stored is the record's fault, a conflict runs the body again, a
transaction that took too long becomes smaller, and a commit of unknown outcome is run again, too: its body reads the stored
offset and finds out. A body sees the errors of its reads as Unavailable; whatever it makes of them, the code decides.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import Any, Final, Generic, TypeVar

import outcome
import trio

from matyan.errors import InvalidRecord, NoStore, Unavailable
from matyan.service import telemetry
from matyan.store.base import Layout, Snapshot, Transaction, View, exhausted
from matyan.store.fdb.client import (
    LOCKED,
    STATUS,
    TIMED_OUT,
    TOO_LARGE,
    TOO_OLD,
    Cluster,
    open_cluster,
)
from matyan.store.fdb.transaction import Failure, FdbSnapshot, FdbTransaction
from matyan.store.view import RenewedView

T = TypeVar("T")

DIRECTORIES: Final[tuple[tuple[str, ...], ...]] = (
    ("data", "runs"),
    ("data", "indexes"),
    ("system",),
)


class FdbStore:
    """Made by `open_fdb`. Any number of processes may have one of the same cluster, and any tasks call it."""

    default_layout: Final[Layout] = "compatible"
    is_shared: Final = True

    def __init__(self, cluster: Cluster, directories: dict[tuple[str, ...], bytes]) -> None:
        self._cluster = cluster
        self._directories = directories

    def directory(self, path: tuple[str, ...]) -> bytes:
        """The prefix that the directory layer gave it."""
        return self._directories[path]

    async def transact(self, body: Callable[[Transaction], T]) -> T:
        work = _Transacting(self._cluster, body)
        result = await _in_a_thread(work)
        work.count()
        return result

    async def transact_in_turns(self, body: Callable[[Transaction], Generator[None, None, T]]) -> T:
        # The loop turns by itself while a thread works.
        return await self.transact(lambda tr: exhausted(body(tr)))

    async def read(self, body: Callable[[Snapshot], T]) -> T:
        return await _in_a_thread(_Reading(self._cluster, body))

    @contextlib.asynccontextmanager
    async def snapshot(self) -> AsyncIterator[View]:
        yield RenewedView(_Moments(self._cluster).next)
        await trio.lowlevel.checkpoint()

    async def versions(self) -> str:
        """Those of the cluster's servers and of the client library, for a person."""
        return self._cluster.versions(await self.read(lambda snap: snap.get(STATUS)))

    async def aclose(self) -> None:
        """The client's connections are the process's and end with it."""


class _Work(Generic[T]):
    """What runs in a thread until it is done, attempt by attempt.

    A transaction that has reads under way, or a commit, and is cancelled ends with an error at once: so who gives up waiting
    cancels it and waits for the thread, whose body must not go on behind its back.
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tr: Any = cluster.transaction()
        self._late = 0
        self._cancelled = False

    def run(self) -> T:
        """In the thread."""
        raise NotImplementedError

    def cancel(self) -> None:
        """From any thread."""
        self._cancelled = True
        self._tr.cancel()

    def _again(self, code: int, *, answered: bool) -> None:
        """Returns when there is to be another attempt, after an error.

        Raises:
            InvalidRecord, Expired, Unavailable
        """
        cluster = self._cluster
        if code in TOO_LARGE:
            raise InvalidRecord(TOO_LARGE[code])
        telemetry.INGEST_FDB_RETRIES.inc()
        telemetry.FDB_ERRORS.labels(str(code)).inc()
        if code == LOCKED or (code == TIMED_OUT and not answered):
            raise cluster.away(code)
        if code in (TOO_OLD, TIMED_OUT):
            self._late += 1
            if self._late == 2:
                raise cluster.expired()
        if code == TIMED_OUT:
            self._tr = cluster.transaction()  # the old one takes nothing more
        elif not self._cancelled:
            # It waits for as long as the client thinks right, and resets the transaction.
            final = cluster.calls.on_error(self._tr.tpointer, code)
            if final and not self._cancelled:
                raise cluster.away(final)
        if self._cancelled:
            raise Unavailable("The transaction was cancelled.")


class _Transacting(_Work[T]):
    def __init__(self, cluster: Cluster, body: Callable[[Transaction], T]) -> None:
        super().__init__(cluster)
        self._body = body
        self._commit_s = self._waited_s = 0.0
        self._size = 0

    def count(self) -> None:
        """Counts what is committed. Not in the thread: others may do the same."""
        telemetry.FDB_COMMIT_SECONDS.observe(self._commit_s)
        telemetry.FDB_READ_SECONDS.observe(self._waited_s)
        telemetry.FDB_TXN_BYTES.observe(self._size)

    def run(self) -> T:
        calls = self._cluster.calls
        while True:
            failure = Failure()
            transaction = FdbTransaction(self._cluster, self._tr, failure)
            try:
                result = self._body(transaction)
            except Exception:
                if failure.code is None:
                    raise
            code = failure.code
            if code is None:
                began = time.perf_counter()
                self._size = transaction.write()
                code = calls.commit(self._tr.tpointer)
                if code == 0:
                    self._commit_s = time.perf_counter() - began
                    self._waited_s = transaction.waited_s
                    return result
            self._again(code, answered=transaction.has_read)


class _Reading(_Work[T]):
    def __init__(self, cluster: Cluster, body: Callable[[Snapshot], T]) -> None:
        super().__init__(cluster)
        self._body = body

    def run(self) -> T:
        while True:
            failure = Failure()
            snapshot = FdbSnapshot(self._cluster, self._tr, snapshot=True, failed=failure.note)
            try:
                result = self._body(snapshot)
                if failure.code is None:
                    return result
            except Exception:
                if failure.code is None:
                    raise
            self._again(failure.code, answered=snapshot.answers > 0)


class _Moments:
    """Makes snapshots of the newest moment, one after the other: their reads raise Expired where another moment may answer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._tr: Any = None
        self._snapshot: FdbSnapshot | None = None
        self._failure: int | None = None

    def next(self) -> FdbSnapshot:
        if self._failure not in (None, TIMED_OUT):
            # It waits for as long as the client thinks right.
            self._cluster.calls.on_error(self._tr.tpointer, self._failure)
        self._failure = None
        self._tr = self._cluster.transaction()
        self._snapshot = FdbSnapshot(self._cluster, self._tr, snapshot=True, failed=self._failed)
        return self._snapshot

    def _failed(self, code: int) -> Unavailable:
        assert self._snapshot is not None
        self._failure = code
        answered = self._snapshot.answers > 0
        if (code == TIMED_OUT and answered) or self._cluster.is_retryable(code):
            return self._cluster.expired()
        return self._cluster.away(code)


async def _in_a_thread(work: _Work[T]) -> T:
    """Its result. A cancellation ends it, and waits for that."""
    task = trio.lowlevel.current_task()
    token = trio.lowlevel.current_trio_token()

    def deliver(result: outcome.Outcome[T]) -> None:
        token.run_sync_soon(trio.lowlevel.reschedule, task, result)

    def give_up(_: object) -> trio.lowlevel.Abort:
        work.cancel()
        return trio.lowlevel.Abort.FAILED

    await trio.lowlevel.checkpoint_if_cancelled()
    trio.lowlevel.start_thread_soon(work.run, deliver)
    try:
        result: T = await trio.lowlevel.wait_task_rescheduled(give_up)
    except Unavailable:
        await trio.lowlevel.checkpoint_if_cancelled()
        raise
    return result


def _directories(
    cluster: Cluster, create: bool, root: tuple[str, ...]
) -> dict[tuple[str, ...], bytes]:
    """The prefixes of DIRECTORIES.

    Raises:
        NoStore: there are none, and none are to be made.
        Unavailable: the cluster does not answer.
    """
    fdb, layer = cluster.fdb, cluster.fdb.directory
    tr = cluster.transaction()
    while True:
        try:
            if not create and not all(layer.exists(tr, root + path) for path in DIRECTORIES):
                raise NoStore(
                    f"The FoundationDB cluster of {cluster.file} holds no store of runs: `matyan ingest-worker --store "
                    f"fdb:{cluster.file}` makes one."
                )
            found = {
                path: bytes(layer.create_or_open(tr, root + path).key()) for path in DIRECTORIES
            }
            tr.commit().wait()
        except fdb.FDBError as error:
            code: int = error.code
        else:
            return found
        final = code if code in (LOCKED, TIMED_OUT) else cluster.calls.on_error(tr.tpointer, code)
        if final:
            raise cluster.away(final)


async def open_fdb(
    file: str, api_version: int = 730, *, create: bool = True, root: tuple[str, ...] = ()
) -> FdbStore:
    """Opens the store of a cluster.

    Args:
        file: the cluster file.
        create: whether to make its directories when there are none.
        root: the directory in which these stand; the reference knows the layer's own root alone.

    Raises:
        ConfigurationError: no client library, or no cluster file.
        NoStore: there is none, and `create` is False.
        Unavailable: the cluster does not answer: try again.
    """
    cluster = await trio.to_thread.run_sync(open_cluster, file, api_version)
    directories = await trio.to_thread.run_sync(
        partial(_directories, cluster, create, root), abandon_on_cancel=True
    )
    return FdbStore(cluster, directories)
