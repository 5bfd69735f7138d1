"""Brings runs to a target, several at once, each message once however often it is interrupted.

What is sent twice without harm (a point or an object at its step, parameters, tags, properties, artifacts) is simply sent again where
nobody knows whether it came. Lines and records are appended by a target, so there it is asked how many it has. One that cannot be
asked gets them one by one: a line that is sent again at its step takes its own place; a record may then stand there twice, at most one
for each time that a connection broke, which the summary says.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

import trio

from matyan._codec import check_run_id
from matyan.errors import MatyanError, NotFound, Unavailable
from matyan.moving.ledger import Entry, Ledger
from matyan.moving.moved import (
    BULK,
    CREATE,
    FINISH,
    LINE,
    RECORD,
    START,
    Frame,
    Frames,
    MovedBlob,
    MovedRun,
    one_by_one,
)
from matyan.moving.target import Answer, Connection, Outcome, Refused, Standing, Target, answer
from matyan.service.backoff import Backoff

RUNS_AT_ONCE: Final = 8
WAY_OUT: Final = "send it under another id with --as NEW, or add to that one with --force"
PATIENCE_S: Final = 300.0
"""How long a target that was there may be away."""
_WINDOW_FRAMES: Final = 4
"""Frames of points that are under way at once."""
_BLOBS_AT_ONCE: Final = 4
_REFS: Final = 200
"""Uploads whose records go together."""
_BARRIER_S: Final = 60.0
_POLL_S: Final = 0.1
_NAMED: Final = 100
"""Rejections that the summary names; all are counted."""

Work = Callable[[], Awaitable[None]]
T = TypeVar("T")


@dataclass(slots=True)
class Rejection:
    """What a target did not take. path: of a blob; else kind: of a message, "" where nobody says."""

    run: str
    kind: str
    reason: str
    path: str = ""


@dataclass(slots=True)
class Progress:
    """Counts that grow while runs are sent; whoever shows them looks at them. Of this process, not of one before."""

    runs: int = 0
    """Done, whatever became of them."""
    messages: int = 0
    points: int = 0
    """Points and objects."""
    blobs: int = 0
    bytes: int = 0
    """Of frames and blobs."""
    waiting: str = ""
    """Why nothing goes on; empty while it does."""


@dataclass(slots=True)
class Summary:
    """What became of the runs."""

    sent: list[str] = field(default_factory=list)
    """Runs that are there as a whole now, but for what was rejected."""
    skipped: list[str] = field(default_factory=list)
    """Runs that were there as a whole before, and have not changed."""
    failed: dict[str, str] = field(default_factory=dict)
    """Runs that are not there as a whole: why, in a sentence."""
    rejected: int = 0
    """Messages and blobs that the target did not take."""
    rejections: list[Rejection] = field(default_factory=list)
    """The first of them."""
    unconfirmed: int = 0
    """Messages that were taken, and were not yet stored when the target said so: it goes on delivering them."""
    perhaps_twice: dict[str, int] = field(default_factory=dict)
    """Runs, and how many of their log records may stand there twice."""

    def reject(self, run: str, kind: str, reason: str, path: str = "", count: int = 1) -> None:
        self.rejected += count
        if len(self.rejections) < _NAMED:
            self.rejections.append(Rejection(run, kind, reason, path))

    @property
    def is_clean(self) -> bool:
        """Whether everything was taken."""
        return not (self.failed or self.rejected or self.perhaps_twice)


async def send_runs(
    target: Target,
    runs: Iterable[MovedRun],
    ledger: Ledger,
    progress: Progress,
    summary: Summary,
    *,
    at_once: int = RUNS_AT_ONCE,
    patience_s: float = PATIENCE_S,
    force: bool = False,
    way_out: str = WAY_OUT,
) -> None:
    """Sends the runs, and fills the summary; what was sent before, by the ledger, is not sent again.

    Args:
        runs: in the order in which the target is to have them: each begins when the one before it has begun. Taken one by one, in a
            thread.
        force: also into runs that the target has and this ledger does not know.
        way_out: what the caller's user can do about such a run; a fragment.

    Raises:
        ConfigurationError: the target will never take anything, such as for want of a token.
        Unavailable: it is away, or was for longer than `patience_s`. Calling this again goes on where it was.
    """
    await target.open()
    limit = trio.Semaphore(at_once)
    given = iter(runs)
    sender = _Sender(target, ledger, progress, summary, patience_s, force, way_out)
    before = trio.Event()
    before.set()
    try:
        async with trio.open_nursery() as nursery:
            while True:
                await limit.acquire()
                run = await trio.to_thread.run_sync(next, given, None)
                if run is None:
                    break
                one = _RunSender(sender, run, before)
                before = one.begun
                nursery.start_soon(_one, one, limit)
    except BaseExceptionGroup as group:
        known = group.subgroup(MatyanError)
        if known is None or group.split(MatyanError)[1] is not None:
            raise
        raise _first(known) from None


def _first(group: BaseExceptionGroup[MatyanError]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _one(one: _RunSender, limit: trio.Semaphore) -> None:
    try:
        await one.run()
    finally:
        one.end()
        limit.release()


@dataclass(slots=True)
class _Sender:
    """What the runs of one move share."""

    target: Target
    ledger: Ledger
    progress: Progress
    summary: Summary
    patience_s: float
    force: bool
    way_out: str


class _RunSender:
    """One run on its way."""

    def __init__(self, sender: _Sender, run: MovedRun, before: trio.Event) -> None:
        """before: set when the run before this one has begun."""
        self._sender = sender
        self._target = sender.target
        self._ledger = sender.ledger
        self._summary = sender.summary
        self._progress = sender.progress
        self._run = run
        self._id = run.run_id
        self._before = before
        self.begun = trio.Event()
        """Set when the target has something of it, or will have nothing."""
        self._number = 0
        self._flight: deque[Frame] = deque()
        """Frames that are not answered yet."""
        self._held: Frame | None = None
        """The frame that is not under way yet."""
        self._entry = Entry()
        self._frames: Frames | None = None
        self._unsettled = False
        """Whether lines or records may have come that were not acknowledged."""
        self._rewrites = False
        """Whether the first line that is sent is the target's last one, again."""
        self._lacks_blobs = False

    async def run(self) -> None:
        summary = self._summary
        try:
            if (reason := check_run_id(self._id)) is not None:
                raise Refused(f"That is no run id ({reason}): give it another one with --as NEW.")
            if await self._is_there():
                summary.skipped.append(self._id)
                return
            await self._persistently(self._send)
            await self._persistently(self._send_blobs)
            # What was refused today, for a quota, may be taken tomorrow.
            self._entry.done = None if self._lacks_blobs else self._run.version
            self._ledger.note(self._id)
            summary.sent.append(self._id)
        except Refused as error:
            summary.failed[self._id] = str(error)

    def end(self) -> None:
        """Nothing more comes of it."""
        self.begun.set()
        self._progress.runs += 1

    # --- where it stands --------------------------------------------------------------------------

    async def _is_there(self) -> bool:
        """Finds out what of it has come; whether that is all."""
        entry = self._ledger.entry(self._id)
        if entry is not None and entry.origin != self._run.origin:
            if not self._sender.force:
                raise Refused(
                    f"The run {entry.origin} was sent to {self._target} as {self._id}, and this one is {self._run.origin}: "
                    f"{self._sender.way_out}."
                )
            entry = None
        standing: Standing | None = None
        if self._target.can_tell:
            standing = await self._asked()
        if entry is not None and self._target.can_tell and standing is None and entry.at != START:
            # Another store answers at this place by now, or the run was deleted: then the target says so.
            entry = None
        if entry is None:
            if standing is not None and not self._sender.force:
                raise Refused(
                    f"{self._target} has a run {self._id} already, which this ledger has not sent: {self._sender.way_out}."
                )
            base = (standing.lines, standing.records) if standing is not None else (0, 0)
            entry = self._ledger.begin(self._id, self._run.origin, base)
        else:
            self._unsettled = True
        self._entry = entry
        return entry.done is not None and entry.done == self._run.version

    async def _asked(self) -> Standing | None:
        """What the target has of this run, as soon as it can say."""
        found: list[Standing | None] = []

        async def ask() -> None:
            found.append(await self._target.standing(self._id))

        await self._persistently(ask)
        return found[0]

    def _open(self) -> Frames:
        return Frames(
            self._run.messages(),
            single=not self._target.can_tell,
            unwritable=partial(self._summary.reject, self._id),
        )

    async def _prepare(self) -> Frames:
        """The frames that are left to be sent."""
        entry = self._entry
        frames = await _read(self._open)
        self._rewrites = False
        if entry.at != START and not await _read(partial(frames.skip, entry.at)):
            # The source has changed: all is sent again that may be, and of what is counted only what came since.
            entry.at = START
            frames = await _read(self._open)
            if not entry.is_finished:
                # It would make the next line a new one, which may be the last one at greater length.
                frames.leave_out = frozenset({CREATE})
                self._rewrites = entry.lines > 0
        entry.lines -= self._rewrites
        frames.drop = {
            LINE: entry.lines - entry.at.lines,
            RECORD: entry.records - entry.at.records,
        }
        entry.done = None
        return frames

    # --- frames -----------------------------------------------------------------------------------

    async def _send(self) -> None:
        """Sends what is left, over one connection.

        Raises:
            Unavailable: it broke, or the source did: to be called again.
        """
        self._frames = frames = self._frames or await self._prepare()
        async with self._target.connect(self._id) as connection:
            try:
                while (frame := await self._next(connection, frames)) is not None:
                    self._held = frame
                    if not frame.is_bulk or not frame.messages:
                        await self._await_replies(connection, 0)
                    if not frame.messages:
                        self._acknowledge(frame)
                    elif frame.is_counted and self._unsettled:
                        await self._settle(connection, frames.drop)
                        # Once more, without what has come.
                        frames.again([frame])
                    else:
                        await self._send_frame(connection, frame)
                    self._held = None
                await self._await_replies(connection, 0)
            except Unavailable:
                left = [*self._flight, *([self._held] if self._held is not None else [])]
                self._unsettled |= any(one.is_counted for one in self._flight)
                self._held = None
                self._flight.clear()
                frames.again(left)
                raise

    async def _next(self, connection: Connection, frames: Frames) -> Frame | None:
        try:
            return await _read(frames.next)
        except Unavailable:
            # A source that broke off is read anew, from what was acknowledged.
            self._frames = None
            await self._await_replies(connection, 0)
            raise

    async def _send_frame(self, connection: Connection, frame: Frame) -> None:
        if frame.is_counted and not self._target.can_tell:
            self._note_doubt(frame)
        await self._put(connection, frame)
        await self._await_replies(connection, _WINDOW_FRAMES if frame.is_bulk else 0)

    async def _put(self, connection: Connection, frame: Frame) -> None:
        await self._before.wait()
        self._flight.append(frame)
        self._held = None
        self._number += 1
        data = frame.data(self._number)
        await connection.send(data)
        self._progress.bytes += len(data)

    async def _await_replies(self, connection: Connection, left: int) -> None:
        """Takes replies until no more than `left` frames are under way."""
        while len(self._flight) > left:
            reply = await connection.reply()
            frame = self._flight[0]
            self._judge(frame, answer(reply, len(frame.messages)))

    def _judge(self, frame: Frame, said: Answer) -> None:
        """
        Raises:
            Unavailable: what was not taken is to be sent again.
            Refused: the run cannot be written there.
        """
        match said.outcome:
            case Outcome.TAKEN | Outcome.KEPT:
                self._flight.popleft()
                if said.outcome is Outcome.KEPT:
                    self._summary.unconfirmed += len(frame.messages)
                self._reject(said)
                self._discount(frame, said)
                self._count(frame)
                self._acknowledge(frame)
            case Outcome.NEVER:
                raise Refused(f"{self._target}: {said.reason}.")
            case Outcome.ONE_BAD:
                # What stands before it came, what stands behind it did not: with a frame each the bad one is known.
                self._flight.popleft()
                self._flight.extendleft(reversed(one_by_one(frame)))
                raise Unavailable(f"{self._target}: {said.reason}.")
            case Outcome.NOT_TAKEN:
                self._entry.in_doubt = False
                raise Unavailable(f"{self._target}: {said.reason}.")
            case Outcome.PERHAPS:
                raise Unavailable(f"{self._target}: {said.reason}.")

    def _reject(self, said: Answer) -> None:
        if not said.rejected:
            return
        for kind, reason in said.named:
            self._summary.reject(self._id, kind, reason)
        more = said.rejected - len(said.named)
        if more > 0:
            self._summary.reject(self._id, "", said.reason, count=more)
        self._entry.rejected += said.rejected

    def _discount(self, frame: Frame, said: Answer) -> None:
        """Of what was sent, the target does not have these."""
        lines, records = self._entry.base
        if frame.is_counted and said.rejected:
            is_line = frame.messages[0][0] == LINE
            self._entry.base = (
                lines - said.rejected * is_line,
                records - said.rejected * (not is_line),
            )

    def _count(self, frame: Frame) -> None:
        self._progress.waiting = ""
        self._progress.messages += len(frame.messages)
        for kind, _ in frame.messages:
            self._progress.points += kind in BULK

    def _acknowledge(self, frame: Frame) -> None:
        entry = self._entry
        for kind, _ in frame.messages:
            entry.lines += kind == LINE
            entry.records += kind == RECORD
            if kind == CREATE:
                entry.is_finished = False
            elif kind == FINISH:
                entry.is_finished = True
        entry.in_doubt = False
        if frame.end is not None:
            entry.at = frame.end
        careful = frame.is_counted and not self._target.can_tell
        self._ledger.note(self._id, durable=careful)
        self.begun.set()

    # --- what was under way -----------------------------------------------------------------------

    def _note_doubt(self, frame: Frame) -> None:
        entry = self._entry
        if any(kind == RECORD for kind, _ in frame.messages):
            if entry.in_doubt:
                twice = self._summary.perhaps_twice
                twice[self._id] = twice.get(self._id, 0) + 1
            entry.in_doubt = True
            self._ledger.note(self._id, durable=True)

    async def _settle(self, connection: Connection, drop: dict[str, int]) -> None:
        """Finds out how many lines and records have come that were not acknowledged, and has them left out."""
        if self._target.can_tell:
            # What came over an earlier connection stands before this in the target's log.
            before = await self._target.standing(self._id)
            await connection.send(b'{"type":"set_run_property"}')
            said = answer(await connection.reply(), 1)
            if said.outcome is Outcome.NEVER:
                raise Refused(f"{self._target}: {said.reason}.")
            if said.outcome is not Outcome.TAKEN:
                raise Unavailable(f"{self._target}: {said.reason}.")
            now = await self._applied(before)
            entry = self._entry
            lines = max(0, now.lines - entry.base[0] - entry.lines)
            records = max(0, now.records - entry.base[1] - entry.records)
            if not (self._rewrites and lines == 1):
                entry.lines += lines
                drop[LINE] += lines
            entry.records += records
            drop[RECORD] += records
            self._ledger.note(self._id)
        self._unsettled = False

    async def _applied(self, before: Standing | None) -> Standing:
        """The target's standing once what was sent last is in its store."""
        with trio.move_on_after(_BARRIER_S):
            while True:
                now = await self._target.standing(self._id)
                if now is not None and (before is None or now.updated_at != before.updated_at):
                    return now
                await trio.sleep(_POLL_S)
        raise Unavailable(f"{self._target} does not show what it has taken.")

    # --- blobs ------------------------------------------------------------------------------------

    async def _send_blobs(self) -> None:
        done = self._entry.blobs
        left: Iterator[MovedBlob] = (
            blob for blob in self._run.blobs() if done.get(blob.path) != _state(blob)
        )
        while batch := await _read(partial(_take, left)):
            there: list[MovedBlob] = []
            limit = trio.CapacityLimiter(_BLOBS_AT_ONCE)
            async with trio.open_nursery() as nursery:
                for blob in batch:
                    nursery.start_soon(self._upload, blob, limit, there)
            if there:
                await self._refer(there)

    async def _upload(
        self, blob: MovedBlob, limit: trio.CapacityLimiter, there: list[MovedBlob]
    ) -> None:
        async with limit:
            try:
                await self._persistently(partial(self._target.put, self._id, blob))
            except Refused as error:
                self._summary.reject(self._id, "", str(error), blob.path)
                self._lacks_blobs = True
            except NotFound:
                there.append(blob)  # announced as it was, and no more
            else:
                there.append(blob)
                self._progress.blobs += 1
                self._progress.bytes += blob.size or 0

    async def _refer(self, blobs: Sequence[MovedBlob]) -> None:
        messages = [
            {
                "type": "blob_ref",
                "s3_key": f"{self._id}/{blob.path}",
                "artifact_path": blob.path,
                "content_type": blob.content_type,
            }
            for blob in blobs
        ]
        frames = Frames(messages, single=False, unwritable=partial(self._summary.reject, self._id))
        while frame := frames.next():
            async with self._target.connect(self._id) as connection:
                await connection.send(frame.data(0))
                said = answer(await connection.reply(), len(frame.messages))
            if said.outcome is Outcome.NEVER:
                raise Refused(f"{self._target}: {said.reason}.")
            if said.outcome not in (Outcome.TAKEN, Outcome.KEPT):
                raise Unavailable(f"{self._target}: {said.reason}.")
            self._reject(said)
        self._ledger.uploaded(self._id, {blob.path: _state(blob) for blob in blobs})

    # --- patience ---------------------------------------------------------------------------------

    async def _persistently(self, work: Work) -> None:
        """Calls it again while the target is away, for as long as it may be; whatever goes on begins that time anew."""
        backoff = Backoff(0.1, 1.0)
        since: float | None = None
        reached = self._progress.messages + self._progress.blobs
        while True:
            try:
                await work()
            except Unavailable as error:
                now = trio.current_time()
                came = self._progress.messages + self._progress.blobs
                if since is None or came != reached:
                    since, reached = now, came
                    backoff.reset()
                if now - since > self._sender.patience_s:
                    raise
                self._progress.waiting = str(error)
                await trio.sleep(backoff.next())
            else:
                self._progress.waiting = ""
                return


def _state(blob: MovedBlob) -> str:
    """As the ledger has it."""
    return f"{blob.size} {blob.version}"


def _take(blobs: Iterator[MovedBlob]) -> list[MovedBlob]:
    return [*itertools.islice(blobs, _REFS)]


async def _read(call: Callable[[], T]) -> T:
    """Asks a run's source, in a thread.

    Raises:
        Refused: it cannot be read; why, in a sentence.
        Unavailable: not now.
    """
    try:
        return await trio.to_thread.run_sync(call)
    except Unavailable:
        raise
    except MatyanError as error:
        raise Refused(str(error)) from None
