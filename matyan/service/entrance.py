"""Who may come in, in one judgement for all that listens: the token (`tokens.py`), then the doors (`doors.py`).

Every request wants a token, whatever its path: what needs none is listed here, so that a route that is added later is shut by
itself. No sockets here, and no routes but the exempt ones.
"""

from __future__ import annotations

import base64
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from typing import Final, NamedTuple

import trio

from matyan.errors import ConfigurationError
from matyan.service import telemetry
from matyan.service.doors import Doors, Refusal, doors_of
from matyan.service.logs import get_logger
from matyan.service.tokens import Scope, Token, Tokens, tokens_of
from matyan.settings import Settings

log = get_logger()

_HEALTH = re.compile(r"/health/[a-z]+/?")
_READS: Final = {"GET", "HEAD", "OPTIONS"}
_LONG_QUESTION: Final = re.compile(
    r"/api/v1/rest/(runs/[^/]+/([^/]+/)?(get-batch|get-step|align)|reader/[^/]+/get-batch)/?"
)
_CHALLENGE: Final = (
    ("WWW-Authenticate", 'Basic realm="matyan", charset="UTF-8"'),
    ("WWW-Authenticate", 'Bearer realm="matyan"'),
)
"""RFC 7617, 2 and 2.1; RFC 6750, 3."""

FREE_GUESSES: Final = 20
"""Wrong tokens that one address may send at once without being slowed down."""
GUESSES_PER_S: Final = 5.0
"""And so many a second: what comes faster waits. Nobody guesses 256 bits; this spares the processor and the log."""
LONGEST_WAIT_S: Final = 2.0
MAX_ADDRESSES: Final = 1_024
"""So many addresses are remembered, those of the last guesses."""
MAX_WAITING: Final = 256
"""So many answers wait at a time: more of them would take the connections that others need."""
TELL_AFTER_S: Final = 30.0
"""An address's wrong tokens are logged once in so long."""


class Visitor(NamedTuple):
    """Whoever was let in."""

    token: Token | None
    """None: none was asked for."""


class Entrance:
    """The judgement of one process.

    Args:
        has_signature: whether a request, by its method, decoded path and query, goes to those who check a signature in its URL, which
            then is its credential.
    """

    def __init__(
        self,
        doors: Doors,
        tokens: Tokens,
        has_signature: Callable[[str, str, str], bool] = lambda *_: False,
        *,
        is_production: bool = False,
    ) -> None:
        self.doors = doors
        self.tokens = tokens
        self._has_signature = has_signature
        self._is_production = is_production
        self._guesses = _Guesses()

    def listening_on(self, names: Iterable[str]) -> None:
        """The process listens on these addresses, such as "127.0.0.1" and "::1".

        Raises:
            ConfigurationError: in MATYAN_ENVIRONMENT=production, beyond loopback and without tokens.
        """
        self.doors = self.doors.listening_on(names)
        if self.doors.on_loopback or self.tokens.on:
            return
        if self._is_production:
            raise ConfigurationError(
                "MATYAN_ENVIRONMENT=production, but no tokens are asked for, and other machines reach this port: make a token with "
                "`matyan tokens add` and name its file with MATYAN_TOKENS_FILE, or listen on 127.0.0.1 alone."
            )
        log.warning(
            "no tokens are asked for: whoever reaches this port may do all that it offers; `matyan tokens add` makes the first one, "
            "MATYAN_TOKENS_FILE names the file"
        )

    def judge(
        self, method: str, path: str, query: str, headers: Mapping[str, str]
    ) -> Visitor | Refusal:
        """Whether this request may come in, and whose it is.

        Args:
            path, headers: as `Doors.judge` takes them.
            query: still encoded.
        """
        self.tokens.look()
        token = None
        # First, so that whoever has none learns nothing else.
        if self.tokens.on and not self._is_exempt(method, path, query, headers):
            try:
                token = self._identify(headers.get("authorization"))
            except _NoToken as no:
                telemetry.REFUSED.labels(no.reason).inc()
                return Refusal(401, no.sentence, _CHALLENGE, is_guess=no.reason != "missing")
            scope = wanted_scope(method, path, headers)
            if not token.allows(scope):
                telemetry.REFUSED.labels("scope").inc()
                has = " and ".join(sorted(token.scopes))
                return Refusal(
                    403, f"The token {token.name} has the scope {has}, and this wants {scope}."
                )
        return self.doors.judge(method, path, headers) or Visitor(token)

    def _is_exempt(self, method: str, path: str, query: str, headers: Mapping[str, str]) -> bool:
        if _is_socket(headers):
            return False
        if method in {"GET", "HEAD"} and _HEALTH.fullmatch(path):
            return True
        # Browsers send no credential with a preflight, and it is answered without a look at the route.
        return self.doors.is_preflight(method, headers) or self._has_signature(method, path, query)

    def _identify(self, authorization: str | None) -> Token:
        """
        Raises:
            _NoToken: there is none, or one that is none.
        """
        name, sent = _credential(authorization)
        token = self.tokens.find(name, sent)
        if token is None:
            raise _NoToken(
                "unknown",
                "There is no such token: it was revoked, or its name or the token itself is wrong.",
            )
        if token.is_expired(time.time()):
            raise _NoToken(
                "expired",
                f"The token {token.name} has expired: ask for a new one (`matyan tokens add`).",
            )
        return token

    def objection(self, token: Token | None) -> str | None:
        """Why a WebSocket that was opened with `token` must be closed, a fragment; None: it may stay."""
        return self.tokens.objection(token, Scope.WRITE)

    async def hold(self, refusal: Refusal, address: str, over: trio.Event | None = None) -> None:
        """Keeps the answer back from an address that guesses. One with a right token never comes here, whatever others behind the same
        address (a proxy's) send.

        Args:
            over: ends the waiting, such as a drain.
        """
        if not refusal.is_guess:
            return
        wait_s = self._guesses.add(address, trio.current_time())
        if not wait_s or self._guesses.waiting >= MAX_WAITING:
            return
        self._guesses.waiting += 1
        try:
            with trio.move_on_after(wait_s):
                await (trio.Event() if over is None else over).wait()
        finally:
            self._guesses.waiting -= 1


def entrance_of(
    settings: Settings,
    tokens: Tokens | None = None,
    has_signature: Callable[[str, str, str], bool] = lambda *_: False,
) -> Entrance:
    """The entrance that these settings ask for. tokens: None for those that the settings name.

    Raises:
        ConfigurationError: as `doors_of` and `tokens_of` do.
    """
    return Entrance(
        doors_of(settings),
        tokens if tokens is not None else tokens_of(settings),
        has_signature,
        is_production=settings.environment == "production",
    )


def wanted_scope(method: str, path: str, headers: Mapping[str, str]) -> Scope:
    """What a request needs: a method that reads changes nothing (RFC 9110, 9.2.1); a WebSocket may, and so may any other method but
    the questions of the read API that are too long for a URL."""
    reads = method in _READS or (method == "POST" and _LONG_QUESTION.fullmatch(path) is not None)
    return Scope.READ if reads and not _is_socket(headers) else Scope.WRITE


def _is_socket(headers: Mapping[str, str]) -> bool:
    return "websocket" in headers.get("upgrade", "").lower()


# --- the credential ------------------------------------------------------------------------------


class _NoToken(Exception):
    """reason: the metric's label."""

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(sentence)
        self.reason = reason
        self.sentence = sentence


_HOW = (
    "send one as HTTP Basic, as the SDK does with http://NAME:TOKEN@host in place of http://host, or as Bearer; "
    "`matyan tokens add NAME --scope write` makes one."
)


def _credential(authorization: str | None) -> tuple[str | None, str]:
    """Name (None: none was sent) and token of an Authorization field.

    Raises:
        _NoToken: there is no field, or not such a one.
    """
    if not authorization:
        raise _NoToken("missing", f"This wants a token: {_HOW}")
    scheme, _, value = authorization.partition(" ")
    value = value.strip(" ")
    if scheme.lower() == "bearer" and value:
        return None, value
    if scheme.lower() == "basic":
        try:
            name, colon, token = base64.b64decode(value, validate=True).decode().partition(":")
        except ValueError:
            colon = ""
        if colon:
            return name, token
    raise _NoToken("malformed", f"The Authorization of this request holds no token: {_HOW}")


# --- guesses -------------------------------------------------------------------------------------


class _Guesses:
    """How fast each address sends wrong tokens, as buckets that leak GUESSES_PER_S; the ones that were filled last are kept."""

    def __init__(self) -> None:
        self.waiting = 0
        """Answers that are held back now."""
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def add(self, address: str, now: float) -> float:
        """Counts one, and says how many seconds its answer waits."""
        key = _neighbourhood(address)
        bucket = self._buckets.pop(key, None) or _Bucket(now)
        self._buckets[key] = bucket
        if len(self._buckets) > MAX_ADDRESSES:
            self._buckets.popitem(last=False)
        wait_s = bucket.add(now)
        if bucket.is_worth_telling(now):
            log.warning(
                "wrong tokens were sent", address=key, count=bucket.untold, slowed=wait_s > 0
            )
            bucket.untold, bucket.told = 0, now
        return wait_s


class _Bucket:
    def __init__(self, now: float) -> None:
        self._level = 0.0
        self._since = now
        self.untold = 0
        self.told = now - TELL_AFTER_S

    def add(self, now: float) -> float:
        leaked = (now - self._since) * GUESSES_PER_S
        most = FREE_GUESSES + LONGEST_WAIT_S * GUESSES_PER_S
        self._level = min(max(self._level - leaked, 0.0) + 1, most)
        self._since = now
        self.untold += 1
        return max(self._level - FREE_GUESSES, 0.0) / GUESSES_PER_S

    def is_worth_telling(self, now: float) -> bool:
        return now >= self.told + TELL_AFTER_S


def _neighbourhood(address: str) -> str:
    """An address as guesses are counted: of IPv6 the first 64 bits, which whoever has one address has all of."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return ""
    if found.version == 4:
        return str(found)
    mapped = found.ipv4_mapped
    return str(mapped) if mapped is not None else f"{ip_address(int(found) >> 64 << 64)}/64"
