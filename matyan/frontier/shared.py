"""What the parts of one listener share: the collaborators that they were handed, and whether it drains.

No sockets and no requests here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio

from matyan.blobs.base import Blobs, has_signature
from matyan.broker.base import Producer
from matyan.errors import Unavailable
from matyan.frontier.intake import Intake
from matyan.frontier.pacing import PacedSession, Pacer
from matyan.frontier.session import Session, Sessions
from matyan.service import telemetry
from matyan.service.accounts import Account, Accounts, BlobDay
from matyan.service.asgi import ASGIApp
from matyan.service.entrance import entrance_of
from matyan.service.health import Health
from matyan.service.probes import About, wants_page
from matyan.service.tokens import Token, Tokens
from matyan.settings import Settings

RATE_S = 30.0
RATE_BYTES = 120 << 10
"""In each so many seconds a message or an upload must end or so many bytes of it come: 4 KiB/s, a fifteenth of 0.5 Mbit/s, so
that as many runs can share such a network. One that trickles holds its bytes no longer than that."""


class Shared:
    """
    Args:
        blobs: where artifacts are presigned; an engine that also takes and gives the bytes is served here.
        tokens: who may come in; None: whoever the settings say.
        beside: makes an app that answers all paths which are not the frontier's own; called in a thread, since it imports much.
    """

    def __init__(
        self,
        producer: Producer,
        blobs: Blobs,
        health: Health,
        settings: Settings,
        tokens: Tokens | None = None,
        beside: Callable[[], ASGIApp] | None = None,
    ) -> None:
        # trio.current_time looks for this clock each time, which costs more than to ask it.
        clock = trio.lowlevel.current_clock().current_time
        self.sessions = Sessions(producer, clock)
        self.intake = Intake(producer.budget, clock)
        self.pacer = Pacer(clock)
        self.accounts = Accounts(clock, BlobDay())
        self.blobs = blobs
        self.health = health
        self.settings = settings
        self.beside = beside
        self.entrance = entrance_of(settings, tokens, partial(has_signature, blobs))
        self.about = About("frontier", health, settings.metrics_enabled)
        self.draining = trio.Event()
        health.add("queue", self._check_queue)
        health.add_live("producer", producer.fatal)
        telemetry.QUEUE_CAPACITY.set(producer.budget.capacity)

    def account_of(self, token: Token | None) -> Account | None:
        """What this token may use; None: as much as there is."""
        return None if token is None else self.accounts.of(token.name, token.quota)

    def account_named(self, name: str) -> Account | None:
        """The account of the token of this name as it is now, whoever shows it; None: it has no quota, or was revoked."""
        return self.account_of(self.entrance.tokens.current(name))

    def session(self, run: str, send: Callable[[bytes], None], account: Account | None) -> Session:
        """A session of a connection that came in with this account's token."""
        if account is None:
            return Session(self.sessions, run, send)
        return PacedSession(self.sessions, run, send, account, self.pacer)

    def wants_page(self, path: str, accept: str) -> bool:
        """As `probes.wants_page`, of the app beside this one."""
        return self.beside is not None and wants_page(path, accept)

    async def _check_queue(self) -> None:
        budget = self.sessions.budget
        if budget.held > 0.8 * budget.capacity:
            raise Unavailable(
                f"{budget.held:,} of {budget.capacity:,} bytes (MATYAN_QUEUE_BYTES) are held: what takes them away is slow or away."
            )
