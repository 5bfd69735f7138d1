"""Who may come in: the judgement of a request by its head, before anybody else sees it (contract, section 8).

A browser lets every page send requests to every address that its user's machine reaches, and says so in `Origin`; and
a name in the page's own hands can point to 127.0.0.1, which only `Host` shows. No I/O, no routes but the few that are
named here, and no tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, ip_address
from typing import Final, NamedTuple

from matyan.errors import ConfigurationError
from matyan.parsing import HIGHEST_PORT
from matyan.settings import Settings

PRESIGN: Final = "/api/v1/rest/artifacts/presign"
_JSON_ROUTES: Final = {PRESIGN, f"{PRESIGN}/"}

_READS: Final = {"GET", "HEAD", "OPTIONS"}
"""Methods that change nothing (RFC 9110, 9.2.1). TRACE is one too, but nobody here answers it."""

_LOOPBACK: Final = IPv4Network("127.0.0.0/8")
_DEFAULT_PORTS: Final = {80, 443}
"""Clients that speak http or https leave these out; since the scheme is not compared, each counts as left out."""

_NAME = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")
_ADDRESS = re.compile(r"(\[[^\]]*\]|[^\[\]:]*)(?::([0-9]{0,5}))?")
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*")


class Refusal(NamedTuple):
    status: int
    sentence: str
    headers: tuple[tuple[str, str], ...] = ()
    """Fields of the answer."""
    is_guess: bool = False
    """Whether a token was sent that is none."""


class Address(NamedTuple):
    """A host, lower-case and without a final dot, and its port; None is the default port of http and of https."""

    host: str
    port: int | None


def read_address(text: str) -> Address | None:
    """HOST[:PORT] of a Host field, an Origin or a setting; None when it is none."""
    found = _ADDRESS.fullmatch(text.lower())
    if found is None:
        return None
    host, digits = _host(found[1]), found[2]
    port = int(digits) if digits else None
    if host is None or (port or 0) > HIGHEST_PORT:
        return None
    return Address(host, None if port in _DEFAULT_PORTS else port)


def _host(text: str) -> str | None:
    if text.startswith("["):
        try:
            return f"[{ip_address(text[1:-1])}]" if ":" in text else None
        except ValueError:
            return None
    # "tracker." and "tracker" are one name (RFC 1034, 3.1).
    name = text.removesuffix(".")
    return name if _NAME.fullmatch(name) else None


def read_origin(text: str) -> tuple[str, Address] | None:
    """The scheme and address of a serialised origin (RFC 6454, 6.2); None for "null" and all that is none."""
    scheme, colon, rest = text.partition("://")
    address = read_address(rest) if colon else None
    if address is None or not _SCHEME.fullmatch(scheme.lower()):
        return None
    return scheme.lower(), address


def is_loopback(host: str) -> bool:
    """Whether this host, as in an Address, can only be the machine of whoever names it."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return False
    return str(address) == "::1" or (address.version == 4 and address in _LOOPBACK)


@dataclass(frozen=True, slots=True)
class Doors:
    """What one process asks of those who come in. Made by `doors_of`."""

    origins: frozenset[object]
    """What CORS_ORIGINS names: origins as `read_origin` reads them, and as they were written."""
    public: Address | None
    hosts: frozenset[str]
    """The hosts besides loopback that a process which listens on loopback alone answers to; "*": any."""
    on_loopback: bool = False
    """Whether the process listens on loopback alone."""

    def listening_on(self, names: Iterable[str]) -> Doors:
        """The same for a process that listens on these addresses, such as "127.0.0.1" and "::1"."""
        return replace(self, on_loopback=all(map(is_loopback, names)))

    def allow(self, origin: str) -> bool:
        """Whether CORS_ORIGINS has this origin."""
        known = self.origins
        return "*" in known or origin in known or read_origin(origin) in known

    def cors(self, headers: Mapping[str, str]) -> list[tuple[str, str]]:
        """The fields with which a page that may call is shown the answer to this request (Fetch standard, "CORS protocol")."""
        origin = headers.get("origin")
        if origin is None or not self.allow(origin):
            return []
        shown = [("Access-Control-Allow-Origin", origin)]
        if "*" not in self.origins:
            shown.append(("Access-Control-Allow-Credentials", "true"))
        return shown

    def is_preflight(self, method: str, headers: Mapping[str, str]) -> bool:
        """Whether a browser asks for one of its pages what that may send here (Fetch standard, "CORS-preflight request"), and the page may."""
        origin = headers.get("origin")
        asks = method == "OPTIONS" and "access-control-request-method" in headers
        return asks and origin is not None and self.allow(origin)

    def judge(self, method: str, path: str, headers: Mapping[str, str]) -> Refusal | None:
        """Why this request is refused; None: it may come in.

        Args:
            path: without its query.
            headers: by lower-case name; of a name that appears twice the values are joined with a comma.
        """
        host = read_address(headers.get("host", ""))
        if self.on_loopback and not path.startswith("/health/") and not self._is_called(host):
            return Refusal(
                403,
                f"This process listens on this machine alone and does not answer to Host: {headers.get('host', '')[:255]}; "
                "a name that a proxy in front of it passes on belongs in MATYAN_ALLOWED_HOSTS or MATYAN_PUBLIC_URL.",
            )
        origin = headers.get("origin")
        changes = method not in _READS or "upgrade" in headers
        if changes and origin is not None and not self._is_own(origin, host):
            return Refusal(
                403,
                f"A page of {origin[:255]} may not change anything here; allow it with CORS_ORIGINS, or name the address "
                "that browsers know this process by with MATYAN_PUBLIC_URL.",
            )
        # The app's router takes further slashes at the beginning for none.
        if method == "POST" and f"/{path.lstrip('/')}" in _JSON_ROUTES:
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                # A page may send other types without asking first (Fetch standard, "CORS-safelisted request-header").
                return Refusal(415, "The body must be sent with Content-Type: application/json.")
        return None

    def _is_called(self, host: Address | None) -> bool:
        if "*" in self.hosts:
            return True
        return host is not None and (is_loopback(host.host) or host.host in self.hosts)

    def _is_own(self, origin: str, host: Address | None) -> bool:
        if self.allow(origin):
            return True
        read = read_origin(origin)
        return read is not None and read[1] in (host, self.public)


def doors_of(settings: Settings) -> Doors:
    """The doors that these settings ask for.

    Raises:
        ConfigurationError: MATYAN_PUBLIC_URL or MATYAN_ALLOWED_HOSTS has no address in it.
    """
    public: Address | None = None
    if settings.public_url:
        read = read_origin("/".join(settings.public_url.split("/")[:3]))
        if read is None:
            raise ConfigurationError(
                f"MATYAN_PUBLIC_URL={settings.public_url!r}: expected http://host[:port] or https://host[:port]."
            )
        public = read[1]
    hosts = {public.host} if public is not None else set()
    for word in settings.allowed_hosts:
        address = read_address(word)
        if address is None and word != "*":
            raise ConfigurationError(
                f"MATYAN_ALLOWED_HOSTS: {word!r} is no host; expected names such as hub.example, or * for any."
            )
        hosts.add("*" if address is None else address.host)
    # As written too: "null", "*", and schemes of programs that have no host.
    written = {re.sub(r"(?<=[^/])/$", "", word) for word in settings.cors_origins}
    origins = {*written, *filter(None, map(read_origin, written))}
    return Doors(frozenset(origins), public, frozenset(hosts))
