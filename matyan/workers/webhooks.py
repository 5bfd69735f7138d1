"""Webhooks: who is told of which control events, and what a message to them is. What waits and how often it is tried: `notices.py`.

A message is one of the Standard Webhooks specification (version 1, symmetric signatures), for which there are libraries in most
languages: a POST of JSON with the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`. The id is made of the event,
so that who got one twice can tell.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

from matyan import __version__, parsing
from matyan.broker.base import ControlEvent
from matyan.errors import ConfigurationError
from matyan.secret import Secret, read_file, read_small

if TYPE_CHECKING:
    import httpx

EVENTS: Final = (
    *("run_finished", "run_stale", "run_deleted", "run_archived", "run_unarchived"),
    *("experiment_deleted", "tag_deleted"),
)
"""What there is to be told of. run_stale: `matyan finish-stale` ended it; it is no run_finished."""
TEST_EVENT: Final = "test"
"""What `matyan webhooks test` sends."""

_MEMBERS: Final = ("name", "url", "secret", "secret_file", "events", "timeout_s", "give_up_s")
_PREFIX: Final = "whsec_"
"""Before a secret in base64 (Standard Webhooks); without it a secret is its own UTF-8."""
_LEAST_SECRET_BYTES: Final = 16
SECRET_BYTES: Final = 32
"""Of a new one."""
_GIVE_UP_S: Final = 86_400.0
_TIMEOUT_S: Final = 10.0
_LONGEST_TIMEOUT_S: Final = 300.0
_SENT_BY: Final = frozenset(
    {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"}
)
"""The variables that `open_client` is made by, in small letters too."""
_LONGEST_WAIT_S: Final = 3_600.0
"""The most of what an answer's Retry-After asks for."""


@dataclass(frozen=True)
class Webhook:
    """One of the file."""

    name: str
    url: str
    secret: Secret
    """What signs."""
    events: frozenset[str] = frozenset(EVENTS)
    timeout_s: float = _TIMEOUT_S
    """For an answer."""
    give_up_s: float = _GIVE_UP_S
    """How old an event becomes that it does not take."""

    def key(self) -> bytes:
        return _key_of(self.secret.reveal())


class Failure(NamedTuple):
    """A message was not taken."""

    reason: str
    """A fragment."""
    wait_s: float = 0.0
    """How long the receiver asks not to be tried again."""


def new_secret(random: bytes) -> str:
    """The text of a secret of these bytes."""
    return _PREFIX + base64.b64encode(random).decode()


# --- the file ------------------------------------------------------------------------------------


def read_webhooks(path: str) -> tuple[Webhook, ...]:
    """The webhooks of a file: an array of tables `[[webhook]]` (TOML 1.0). path: "" for none.

    Raises:
        ConfigurationError: it cannot be read, or what in it is not as it must be; or the environment's proxies or authorities are not.
    """
    if not path:
        return ()
    text, trouble = read_small(path)
    if trouble:
        raise ConfigurationError(
            f"MATYAN_WEBHOOKS_FILE={path} names {trouble}: name the TOML file of the webhooks."
        )
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _wrong(path, f"it is no TOML ({error})") from None
    tables = content.pop("webhook", [])
    if content or not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise _wrong(path, "expected nothing but tables that begin with [[webhook]]")
    found = [
        _webhook(table, Path(path), f"webhook {number}") for number, table in enumerate(tables, 1)
    ]
    names = [one.name for one in found]
    for name in names:
        if names.count(name) > 1:
            raise _wrong(path, f"expected one webhook called {name!r}, there are more")
    if found:
        open_client()  # now, and not when the first one is told; what was not entered needs no end
    return tuple(found)


def _wrong(path: object, what: str) -> ConfigurationError:
    return ConfigurationError(
        f"MATYAN_WEBHOOKS_FILE={path}: {what}. `matyan webhooks --help` shows an example."
    )


def _webhook(table: Mapping[str, Any], path: Path, place: str) -> Webhook:
    try:
        _only(table, _MEMBERS)
        name = _text(table, "name")
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name) is None:
            raise ValueError(
                "name: expected at most 64 of A-Z, a-z, 0-9, dot, _ and -, a letter or digit first"
            )
        place = f"webhook {name!r}"
        try:
            url = _sendable(parsing.url_with_query(_text(table, "url")))
        except ValueError as error:
            raise ValueError(f"url: {error}") from None
        events = table.get("events", [*EVENTS])
        if not isinstance(events, list) or not events:
            raise ValueError("events: expected an array of some of " + ", ".join(EVENTS))
        _only(events, EVENTS)
        return Webhook(
            name,
            url,
            _secret(table, path),
            frozenset(events),
            _seconds(table, "timeout_s", _TIMEOUT_S, _LONGEST_TIMEOUT_S),
            _seconds(table, "give_up_s", _GIVE_UP_S, 365 * 86_400.0),
        )
    except ValueError as error:
        raise _wrong(path, f"{place}: {error}") from None


def _sendable(url: str) -> str:
    """`url`, which no message will fail for. Raises ValueError."""
    import httpx

    try:
        # As it is sent, and as it is looked up.
        httpx.URL(url).host.encode("idna")
    except (httpx.InvalidURL, UnicodeError) as error:
        raise ValueError(f"it cannot be sent to ({error})") from None
    return url


def _only(given: Collection[Any], known: Collection[str]) -> None:
    for one in given:
        if one not in known:
            near = get_close_matches(str(one), known, 1)
            hint = f": is {near[0]} meant?" if near else f", expected some of {', '.join(known)}"
            raise ValueError(f"there is no {str(one)[:64]!r}{hint}")


def _text(table: Mapping[str, Any], member: str) -> str:
    value = table.get(member)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{member}: expected a text")
    return value


def _seconds(table: Mapping[str, Any], member: str, default: float, most: float) -> float:
    value = table.get(member, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= most:
        raise ValueError(f"{member}: expected seconds, above 0 and at most {most:g}")
    return float(value)


def _secret(table: Mapping[str, Any], path: Path) -> Secret:
    if ("secret" in table) == ("secret_file" in table):
        raise ValueError("expected one of secret and secret_file")
    if "secret" in table:
        text = _text(table, "secret")
    else:
        # Beside the file that names it, unless it says otherwise.
        text = read_file(
            f"secret_file in MATYAN_WEBHOOKS_FILE={path}",
            str(path.parent / _text(table, "secret_file")),
        )
    try:
        key = _key_of(text)
    except ValueError:
        raise ValueError(f"secret: expected base64 after {_PREFIX}") from None
    if len(key) < _LEAST_SECRET_BYTES:
        raise ValueError(
            f"secret: expected at least {_LEAST_SECRET_BYTES} bytes; `matyan webhooks secret` makes one"
        )
    return Secret(text)


def _key_of(secret: str) -> bytes:
    """Raises ValueError: no base64."""
    if not secret.startswith(_PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None


# --- messages ------------------------------------------------------------------------------------


def headers_of(webhook: Webhook, event: bytes, body: bytes, now: float) -> dict[str, str]:
    """Of a message that is sent now; `event`: what it is about, the bytes of a ControlEvent."""
    id = f"msg_{hashlib.sha256(event).hexdigest()[:32]}"
    moment = str(int(now))
    signed = hmac.digest(webhook.key(), f"{id}.{moment}.".encode() + body, "sha256")
    return {
        "content-type": "application/json",
        "user-agent": f"matyan/{__version__}",
        "webhook-id": id,
        "webhook-timestamp": moment,
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }


def body_of(event: bytes) -> bytes:
    """{"type", "timestamp", "data"}: the event, its payload as data."""
    record = json.loads(event)
    told = {name: record[name] for name in ("type", "timestamp")}
    return json.dumps({**told, "data": record["payload"]}, separators=(",", ":")).encode()


async def post(
    client: httpx.AsyncClient, webhook: Webhook, event: bytes, now: float
) -> Failure | None:
    """Sends a message once; None: it was taken. now: epoch seconds.

    What counts is a status from 200 to 299 in time. Nobody is sent elsewhere: a redirection is an answer like any other, since what
    was signed for one address is for nobody else.
    """
    import httpx

    body = body_of(event)
    headers = headers_of(webhook, event, body, now)
    answer: httpx.Response | None = None
    with trio.move_on_after(webhook.timeout_s):
        try:
            # Its head alone: what else a receiver says, however slowly, is nobody's concern.
            async with client.stream("POST", webhook.url, content=body, headers=headers) as answer:
                pass
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            if answer is None:
                return Failure(f"no answer ({type(error).__name__}: {error})")
    if answer is None:
        return Failure(f"no answer in {webhook.timeout_s:g} s")
    if answer.is_success:
        return None
    if answer.is_redirect:
        where = answer.headers.get("location", "elsewhere")
        return Failure(f"answered {answer.status_code}, to {where[:500]}: name that URL instead")
    return Failure(f"answered {answer.status_code}", _asked_for(answer))


def _asked_for(answer: httpx.Response) -> float:
    """Seconds of a Retry-After; a date, which few send, counts as none."""
    asked = answer.headers.get("retry-after", "")
    return min(float(asked), _LONGEST_WAIT_S) if re.fullmatch(r"[0-9]{1,9}", asked) else 0.0


def open_client() -> httpx.AsyncClient:
    """What `post` sends with: by the proxies and the authorities of the environment (HTTPS_PROXY, SSL_CERT_FILE).

    Raises:
        ConfigurationError: it cannot be made of these.
    """
    import httpx

    try:
        # `post` has a deadline of its own, for all of it.
        return httpx.AsyncClient(timeout=None, follow_redirects=False)
    except (httpx.InvalidURL, ImportError, OSError, ValueError) as error:
        # Not what it says: a proxy's URL can have a password in it.
        given = [name for name in os.environ if name.upper() in _SENT_BY and os.environ[name]]
        raise ConfigurationError(
            f"Webhooks cannot be sent with {', '.join(sorted(given))} as they are ({type(error).__name__}): expected proxies "
            "http://host:port, hosts without brackets in NO_PROXY, and a file of certificates in PEM in SSL_CERT_FILE."
        ) from None


def test_event(now: float) -> bytes:
    """What a receiver is tried with."""
    return ControlEvent(TEST_EVENT, now, {}).to_bytes()
