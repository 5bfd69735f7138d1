"""Whose unfinished messages may go on arriving, within the budget of the process (contract, section 6).

What arrived of a message is held until it can be judged or answered, so it counts like what is queued. A large one
begins when there is room for all of it, in turn; what fits in one read always begins while the budget is not full.

A message that finds no room waits on the wire, where it costs nothing. But its client's pings stand behind it, and the SDK
gives up a server that is silent for 20 s, and the frame with it. So after UNREAD_S the message is read and not held: only its
digest is kept, until its reply is due after 40 s. The SDK sends such a frame again every 15 s. Each copy is another chance,
and waits on the wire as the first did, so that nearly always one is at hand when there is room. Only at the end is the frame
refused, since the SDK takes a refusal for an answer and the frame is lost. Rejected: to hold small messages whatever there is
(thousands of connections do not fit); to leave the frame unread for all of the 40 s (the client goes); to refuse at once.

A connection whose unfinished message brings nothing, while others wait for the room that it holds, is closed. No sockets
here: whoever wants room is a `Waiter`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple, Protocol

import trio

from matyan.broker.budget import Budget
from matyan.service.accounts import Account

UNFINISHED_SHARE: Final = 0.75
"""Of the budget, for what is unfinished: so that messages which come whole find room beside it."""
PROMISE_S: Final = 5.0
"""How long room is kept for what the head of a frame announced. After that only what has come counts."""
WAITING_SHARE: Final = 0.5
"""So much on top of the budget, as a part of it, is for the small messages of connections of which nothing else is held."""
UNREAD_S: Final = 15.0
"""How long a message waits on the wire: a ping has 20 s, and the SDK sends its frame again after 15."""
TOKEN_SHARE: Final = 0.25
"""Of the budget: so much may be queued for one token with a quota, so that the others find room whatever it sends."""
EVICTED_SHARE: Final = 1 / 16
"""Of the budget: so much is freed at a time, by closing the connections that hold the most."""
STILL_S: Final = 2.0
STILL_BYTES: Final = 128 << 10
"""While some wait for room, nothing moves if all unfinished messages together bring fewer bytes than this in so many seconds."""


class Waiter(Protocol):
    """A connection that may have to wait for room."""

    @property
    def account(self) -> Account | None:
        """Of the token that it came in with, if that has a quota."""
        ...

    def try_again(self) -> bool:
        """There may be room: tries again. False: there is none for it, and it waits on."""
        ...

    def stop_waiting(self) -> None:
        """It waits no more: takes its message without holding it, where there is still no room for it."""
        ...

    def evict(self) -> None:
        """Gives back what its unfinished message holds."""
        ...


class Claim:
    """What one connection holds of unfinished messages."""

    __slots__ = ("announced", "begun", "held", "promised", "until")

    def __init__(self) -> None:
        self.held = 0
        """Bytes."""
        self.begun = False
        """Whether it is a large one that was let in."""
        self.announced = 0
        """Bytes that the large message would have."""
        self.promised = 0
        """Bytes that were announced and have not come, until the time `until`."""
        self.until = 0.0


class _Wait(NamedTuple):
    begins: bool
    """Whether a large message is to begin."""
    until: float


class Intake:
    """The unfinished messages of a process."""

    def __init__(self, budget: Budget, clock: Callable[[], float]) -> None:
        self._budget = budget
        self._clock = clock
        self._limit = int(UNFINISHED_SHARE * budget.capacity)
        self._claims: dict[Waiter, Claim] = {}
        self._held = self._promised = self._begun = 0
        # Of the large messages that have begun, by the accounts of their tokens.
        self._announced: dict[Account, int] = {}
        # Of what is held: by those that are small.
        self._small = 0
        self._waiting: dict[Waiter, _Wait] = {}  # in order
        self._room = trio.Event()
        self._came = 0
        self._moved = 0.0
        budget.on_room(self._on_room)

    def has_share(self, account: Account | None) -> bool:
        """Whether messages of this account may be taken, if there is room."""
        return account is None or account.held < TOKEN_SHARE * self._budget.capacity

    def may_take(self, *, is_first: bool) -> bool:
        """Whether a small message that is complete may be taken. It may whenever nothing is queued, whatever unfinished
        messages hold.

        Args:
            is_first: no frame of its connection that waits for a reply is held.
        """
        return self._budget.held <= self._held or self.may_gather(is_first=is_first)

    def may_gather(self, *, is_first: bool) -> bool:
        """Whether a small message may go on arriving."""
        budget = self._budget
        if not budget.full:
            return True
        return is_first and budget.parked + self._small < WAITING_SHARE * budget.capacity

    def count(self, who: Waiter, held: int) -> None:
        """`who` holds so many bytes now."""
        claim = self._claims.get(who)
        if claim is None:
            if not held:
                return
            claim = self._claims[who] = Claim()
        more = held - claim.held
        claim.held = held
        self._held += more
        if not claim.begun:
            self._small += more
        self._budget.held += more
        if not held and not claim.begun:
            del self._claims[who]
        if more < 0:
            self._budget.tell_room()

    def may_begin(self, who: Waiter, size: int, *, in_turn: bool = True) -> bool:
        """Lets a large message begin, of which `size` bytes are announced, if there is room for them."""
        if not self._fits_share(who.account, size):
            return False
        turns = (one for one, wait in self._waiting.items() if wait.begins)
        # Whoever waits for its own token's share waits behind nobody's back.
        first = next((one for one in turns if self._fits_share(one.account, self._limit)), who)
        if in_turn and first is not who:
            return False
        want, budget = self._promised + size, self._budget
        alone = not self._begun and budget.held <= self._held
        if not alone and (self._held + want > self._limit or budget.held + want > budget.capacity):
            return False
        claim = self._claims.setdefault(who, Claim())
        claim.begun = True
        self._small -= claim.held
        claim.promised, claim.until = size, self._clock() + PROMISE_S
        claim.announced = size
        self._announce(who.account, size)
        self._begun += 1
        self._promised += size
        return True

    def _fits_share(self, account: Account | None, size: int) -> bool:
        """Whether a large message of this account may begin beside those of it that have; one of them always may."""
        if account is None:
            return True
        begun = self._announced.get(account, 0)
        most = TOKEN_SHARE * self._budget.capacity
        return account.held < most and (not begun or account.held + begun + size <= most)

    def _announce(self, account: Account | None, size: int) -> None:
        if account is not None:
            announced = self._announced.pop(account, 0) + size
            if announced:
                self._announced[account] = announced

    def has_begun(self, who: Waiter) -> bool:
        """Whether a large message of `who` was let in and is not over."""
        claim = self._claims.get(who)
        return claim is not None and claim.begun

    def may_go_on(self, who: Waiter, came: int) -> bool:
        """Whether one that was let in may take `came` bytes more. When it is the only one it always may: it could
        never end otherwise."""
        claim = self._claims.get(who)
        if claim is None or not claim.begun:
            return False
        alone = self._begun == 1 and self._budget.held <= self._held
        if not alone and (self._budget.full or self._is_jammed()):
            return False
        self._came += came
        kept = min(came, claim.promised)
        claim.promised -= kept
        self._promised -= kept
        return True

    def _is_jammed(self) -> bool:
        """Whether those that have begun leave each other no room."""
        return self._begun > 1 and self._held > self._limit

    def end(self, who: Waiter) -> None:
        """The large message of `who` is over, whatever came of it."""
        claim = self._claims.get(who)
        if claim is not None and claim.begun:
            claim.begun = False
            self._small += claim.held
            self._begun -= 1
            self._promised -= claim.promised
            claim.promised = 0
            self._announce(who.account, -claim.announced)
            self._came += STILL_BYTES
            if not claim.held:
                del self._claims[who]
            self._on_room()

    def wait(self, who: Waiter, *, begins: bool) -> None:
        """`who` wants room, behind those that do already; begins: for a large message that was not let in."""
        if not self._waiting:
            self._came, self._moved = 0, self._clock()
        before = self._waiting.get(who)
        until = self._clock() + UNREAD_S if before is None else before.until
        self._waiting[who] = _Wait(begins, until)
        self._budget.want_room()

    def forget(self, who: Waiter) -> None:
        """`who` wants room no more."""
        self._waiting.pop(who, None)

    def leave(self, who: Waiter) -> None:
        """The connection is over."""
        self.forget(who)
        self.end(who)
        self.count(who, 0)

    def sweep(self, now: float) -> None:
        """To be called about twice a second."""
        for claim in self._claims.values():
            if claim.promised and now >= claim.until:
                self._promised -= claim.promised
                claim.promised = 0
        for who, wait in list(self._waiting.items()):
            if now >= wait.until and who in self._waiting:
                self.forget(who)
                who.stop_waiting()
        if not self._waiting:
            return
        self._on_room()
        if self._came >= STILL_BYTES or (self._budget.held > self._held and not self._is_jammed()):
            # Bytes come, or room does: what is queued will be answered, one way or another.
            self._came, self._moved = 0, now
        elif now >= self._moved + STILL_S:
            self._moved = now
            self._evict()

    def _evict(self) -> None:
        enough = self._budget.held - EVICTED_SHARE * self._budget.capacity
        for who, _ in sorted(self._claims.items(), key=lambda one: one[1].held, reverse=True):
            if who in self._claims:
                who.evict()
            if self._budget.held <= enough:
                return

    async def run(self) -> None:
        """Lets those that wait go on, first come, first served, and the loop turn after each."""
        while True:
            await self._room.wait()
            self._room = trio.Event()
            for who in list(self._waiting):
                if who in self._waiting and who.try_again():
                    self._waiting.pop(who, None)
                await trio.lowlevel.checkpoint()

    def _on_room(self) -> None:
        if self._waiting:
            self._room.set()
