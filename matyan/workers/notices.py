"""What webhooks are still to be told: rows of the store, each tried until it is taken or too old, in order for each run.

A notice is put into the store before its control event counts as handled, and taken away when its webhook has answered: so it is
delivered at least once, whatever ends in between. Those of one run (or experiment, or tag) follow each other; a run whose notices
are refused holds up no other. What is too old is a dead letter.

How a message looks and is sent is `webhooks.py`'s.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

import trio

from matyan import readable
from matyan.broker.base import ControlEvent, DeadLetter
from matyan.broker.numbered import next_number, rows
from matyan.errors import Bug, InvalidRecord, Unavailable
from matyan.keys import Keys, pack_value, range_of, unpack_value
from matyan.service import telemetry
from matyan.service.backoff import Backoff
from matyan.service.logs import get_logger
from matyan.store.base import Snapshot, Store, Transaction
from matyan.workers.partition import BlamingTheRecord
from matyan.workers.webhooks import Failure, Webhook, open_client, post

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

_AT_ONCE: Final = 8
"""Messages to one webhook that are on their way at a time."""
_MOST_HELD: Final = 1_000
"""Notices of one webhook that are in memory; the others wait in the store."""
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 600.0
_LEAST_TRIES: Final = 5
"""A notice that has become old while nobody was at work is tried like a new one before it is given up."""
_LOOK_S: Final = 5.0
"""How often notices are looked for that another process has put there."""
ERROR_CLASS: Final = "webhook"
"""Of the dead letters."""

_log = get_logger()

OpenStore = Callable[[], Awaitable[tuple[Store, Keys]]]
"""Raises Unavailable: not now."""
Bury = Callable[[Sequence[DeadLetter]], Awaitable[None]]


class Notices:
    """
    Args:
        topic: whose events these are, for the dead letters.
        bury: makes dead letters durable; may raise Unavailable.
    """

    def __init__(
        self, webhooks: Sequence[Webhook], open_store: OpenStore, topic: str, bury: Bury
    ) -> None:
        self.webhooks = {webhook.name: webhook for webhook in webhooks}
        self.open_store = open_store
        self.topic = topic
        self.bury = bury
        self.put_so_far = 0
        """Counts up with each event that was put there."""
        self.news = trio.lowlevel.ParkingLot()

    async def put(self, event: ControlEvent) -> None:
        """Returns when the notices of an event are durable; whoever is to be told nothing gets none.

        Raises:
            Unavailable: the store is away.
        """
        told = [one.name for one in self.webhooks.values() if event.type in one.events]
        if not told:
            return
        store, keys = await self.open_store()
        row = pack_value([event.to_bytes(), time.time()])

        def body(tr: Transaction) -> None:
            for name in told:
                make = partial(keys.webhook_event, name)
                tr.set(make(next_number(tr, make)), row)

        await store.transact(body)
        self.put_so_far += 1
        self.news.unpark_all()

    async def deliver(self) -> None:
        """Delivers what is there and what comes, until it is cancelled. One process does so at a time: two would deliver twice."""
        store, keys = await _patiently(self.open_store)
        names = await _patiently(lambda: store.read(partial(_names, keys=keys)))
        # Without anybody to tell none: whatever is wrong with the environment's proxies is nobody's concern then.
        opened = open_client() if self.webhooks else nullcontext()
        async with opened as client, trio.open_nursery() as nursery:
            for name in {*self.webhooks, *names}:
                nursery.start_soon(_Delivery(self, name, store, keys, client).run)


def _names(snap: Snapshot, keys: Keys) -> list[str]:
    """The webhooks that notices stand for, also those that the file has no more."""
    prefix = keys.webhook_events_prefix()
    begin, end = range_of(prefix)
    found: list[str] = []
    while key := next((key for key, _ in snap.scan(begin, end, limit=1)), None):
        if (items := readable.elements(key, len(prefix), str, int)) is None:
            begin = key + b"\x00"  # damaged
            continue
        found.append(items[0])
        begin = range_of(keys.webhook_events_prefix(items[0]))[1]
    return found


class _Notice(NamedTuple):
    number: int
    event: bytes
    since: float
    """When it was put there, epoch seconds."""


def _read(number: int, row: bytes) -> tuple[_Notice, str] | None:
    """A notice, and whom it is about; None: it is damaged."""
    with suppress(ValueError, InvalidRecord):
        match unpack_value(row):
            case [bytes() as event, float() as since]:
                payload = ControlEvent.from_bytes(event).payload
                about = (payload.get(id) for id in ("run_id", "experiment_id", "tag_id"))
                return _Notice(number, event, since), str(next(filter(None, about), ""))
    return None


class _Delivery:
    """The notices of one webhook: those of one run in a task, one after the other."""

    def __init__(
        self,
        notices: Notices,
        name: str,
        store: Store,
        keys: Keys,
        client: httpx.AsyncClient | None,
    ) -> None:
        self._notices = notices
        self._name = name
        self._store = store
        self._make = partial(keys.webhook_event, name)
        self._client = client
        self._webhook = notices.webhooks.get(name)
        self._lines: dict[str, deque[_Notice]] = {}
        self._held: set[int] = set()
        """The numbers of those that are in memory: none of them is given anew, but what follows the last one may be."""
        self._turn = trio.Lock()
        """Held while a row goes and its number with it, and while rows are read: the number of a row that is gone can be given to
        another, which would be passed over."""
        self._room = trio.lowlevel.ParkingLot()
        self._senders = trio.CapacityLimiter(_AT_ONCE)
        self._is_refused = False
        self._log = _log.bind(webhook=name)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                seen = self._notices.put_so_far
                async with self._turn:
                    first, room = max(self._held, default=-1) + 1, _MOST_HELD - len(self._held)
                    page = await _patiently(partial(self._store.read, self._page(first, room)))
                for number, row in page:
                    if (found := _read(number, row)) is None:
                        await self._bury(number, row, "the row in the store is damaged")
                        await self._remove(number)
                        continue
                    notice, subject = found
                    line = self._lines.setdefault(subject, deque())
                    line.append(notice)
                    self._held.add(number)
                    if len(line) == 1:
                        nursery.start_soon(self._deliver_all, subject)
                self._tell_held()
                while len(self._held) == _MOST_HELD:
                    await self._room.park()
                if len(page) < room and seen == self._notices.put_so_far:
                    with trio.move_on_after(_LOOK_S):
                        await self._notices.news.park()

    def _page(self, first: int, room: int) -> Callable[[Snapshot], list[tuple[int, bytes]]]:
        return lambda snap: [*rows(snap, self._make, first, room)]

    def _tell_held(self) -> None:
        telemetry.WEBHOOK_WAITING.labels(self._name).set(len(self._held))

    async def _deliver_all(self, subject: str) -> None:
        line = self._lines[subject]
        while line:
            await self._settle(line[0])
            await self._remove(line[0].number)
            line.popleft()  # at last: a line that is empty has no task
            self._tell_held()
            self._room.unpark_all()
        del self._lines[subject]

    async def _settle(self, notice: _Notice) -> None:
        """Until the notice is delivered or given up, and its row can go."""
        backoff = Backoff(_FIRST_WAIT_S, _LONGEST_WAIT_S)
        tries = 0
        while failure := await self._try(notice):
            tries += 1
            if tries >= _LEAST_TRIES and time.time() - notice.since >= self._give_up_s():
                await self._bury(notice.number, notice.event, failure.reason)
                break
            self._count("failed")
            if not self._is_refused:
                self._is_refused = True
                self._log.warning("a webhook does not take what it is told", reason=failure.reason)
            await trio.sleep(max(backoff.next(), failure.wait_s))
        else:
            self._count("delivered")
            if self._is_refused:
                self._is_refused = False
                self._log.info("a webhook takes what it is told again")

    async def _try(self, notice: _Notice) -> Failure | None:
        if self._webhook is None or self._client is None:
            return Failure("there is no webhook of this name in MATYAN_WEBHOOKS_FILE")
        try:
            async with self._senders:
                with BlamingTheRecord():
                    return await post(self._client, self._webhook, notice.event, time.time())
        except Bug as error:
            self._log.error("a bug: a message was not sent", exc_info=error.__cause__)
            return Failure(f"not sent, for a bug: {error}")

    def _give_up_s(self) -> float:
        return Webhook.give_up_s if self._webhook is None else self._webhook.give_up_s

    async def _bury(self, number: int, event: bytes, reason: str) -> None:
        text = f"webhook {self._name}: {reason}"
        letter = DeadLetter(self._notices.topic, 0, number, None, event, ERROR_CLASS, text)
        await _patiently(partial(self._notices.bury, [letter]))
        self._count("dead")
        telemetry.DEAD_LETTERS.labels(self._notices.topic).inc()
        self._log.error("what a webhook was not told goes to the dead letters", reason=text)

    def _count(self, outcome: str) -> None:
        telemetry.WEBHOOK_DELIVERIES.labels(self._name, outcome).inc()

    async def _remove(self, number: int) -> None:
        def body(tr: Transaction) -> None:
            tr.clear(self._make(number))

        async with self._turn:
            await _patiently(partial(self._store.transact, body))
            self._held.discard(number)


async def _patiently(attempt: Callable[[], Awaitable[T]]) -> T:
    """`attempt`, again and again while an engine is away."""
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except Unavailable as error:
            telemetry.RETRIES.labels("webhooks", type(error).__name__).inc()
            await trio.sleep(backoff.next())
