"""Sessions whose token has a quota: their frames are taken as any others, and their replies wait until they are paid for.

What is owed, and for how long at most, is `service/accounts.py`'s; here stands how a reply waits. The socket of such a session goes on
being read, for pings and resends, but not for a client that does not wait for its replies. No sockets here, and nothing that a session
without a quota meets.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import cast

import trio

from matyan._codec import Validated, total_bytes
from matyan.frontier.intake import TOKEN_SHARE
from matyan.frontier.session import PendingFrame, Session, Sessions
from matyan.service.accounts import Account

TICK_S = 0.01
"""Replies that are due go out so often, all at once: a wake-up each would cost the others more than the frames."""
MOST_RESENDS = 8
"""Copies of a frame that waits, after which the socket is not read. The SDK sends two."""


class PacedFrame(PendingFrame):
    """A frame whose reply is kept until `due`."""

    __slots__ = ("_reply", "counted", "due")

    def __init__(
        self, session: Session, data: bytes, frame: Validated | None, since: float, now: float
    ) -> None:
        self.due = -inf
        self.counted = 0
        """Bytes of its records, which its account holds until they are stored or refused."""
        super().__init__(session, data, frame, since, now)

    @property
    def reply(self) -> bytes | None:
        """None as well while it is not due."""
        due = self.due
        return self._reply if due == -inf or due <= self.session.now() else None

    @reply.setter
    def reply(self, reply: bytes | None) -> None:
        self._reply = reply

    @property
    def is_kept_back(self) -> bool:
        """Whether it could be answered now, if it were due."""
        return self._reply is not None

    def delivered(self, error: Exception | None) -> None:
        self.let_go()
        super().delivered(error)

    def let_go(self) -> None:
        """It counts no more."""
        session = self.session
        assert isinstance(session, PacedSession)
        session.account.held -= self.counted
        self.counted = 0


class PacedSession(Session):
    """
    Args:
        account: of the token that its connection came in with.
        pacer: who flushes it when a reply is due.
    """

    pending = PacedFrame
    __slots__ = ("_is_draining", "_pacer", "_resends", "_wakes_at", "account")

    def __init__(
        self,
        sessions: Sessions,
        run: str,
        send: Callable[[bytes], None],
        account: Account,
        pacer: Pacer,
    ) -> None:
        super().__init__(sessions, run, send)
        self.account = account
        self._pacer = pacer
        self._is_draining = False
        self._resends = 0
        self._wakes_at = -inf

    @property
    def _kept(self) -> list[PacedFrame]:
        return cast("list[PacedFrame]", self.waiting)

    @property
    def crowded(self) -> bool:
        if super().crowded:
            return True
        waiting = self._kept
        if not waiting:
            return False
        owes = len(waiting) > 1 and waiting[-1].due > self.now()
        return owes or self._resends >= MOST_RESENDS

    def count_resend(self) -> None:
        super().count_resend()
        self._resends += 1

    def _add(self, pending: PendingFrame) -> None:
        super()._add(pending)
        assert isinstance(pending, PacedFrame)
        frame = pending.frame
        if frame is not None:
            pending.counted = total_bytes(frame.records)
            self.account.held += pending.counted
        # What is no JSON has cost its reading all the same.
        messages = 1 if frame is None else frame.count
        due = self.account.take(pending.size, messages, pending.since)
        if not self._is_draining:
            pending.due = due

    def _answer_refused(self, pending: PendingFrame) -> None:
        assert isinstance(pending, PacedFrame)
        pending.let_go()
        super()._answer_refused(pending)

    def _no_room(self) -> str:
        share = int(TOKEN_SHARE * self._sessions.budget.capacity)
        return (
            f"{super()._no_room()}, or the {share:,} of them that one token with a quota may fill"
        )

    def flush(self) -> None:
        super().flush()
        waiting = self._kept
        if not waiting:
            self._resends = 0
        elif (first := waiting[0]).is_kept_back and first.due != self._wakes_at:
            self._wakes_at = first.due
            self._pacer.wake(self, first.due)

    def drain(self) -> None:
        self._release()
        super().drain()

    def leave(self) -> None:
        self._release()
        super().leave()

    def _release(self) -> None:
        """Nothing is kept back any more. What is owed is owed all the same."""
        self._is_draining = True
        for pending in self._kept:
            pending.due = -inf


class Pacer:
    """Flushes the sessions of a process when their replies are due."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._number = count()
        self._wakes: list[tuple[float, int, Session]] = []
        self._alarm = trio.CancelScope()

    def wake(self, session: Session, due: float) -> None:
        """Flushes `session` at this time or up to TICK_S later."""
        heappush(self._wakes, (due, next(self._number), session))
        self._alarm.deadline = min(self._alarm.deadline, due)

    def flush(self) -> None:
        """Flushes those that are due."""
        wakes, now = self._wakes, self._clock()
        while wakes and wakes[0][0] <= now:
            heappop(wakes)[2].flush()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            self._alarm = trio.CancelScope(deadline=self._wakes[0][0] if self._wakes else inf)
            with self._alarm:
                await trio.sleep_forever()
            self.flush()
            await trio.sleep(TICK_S)
