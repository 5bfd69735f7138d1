"""How many files and sockets this process may open, and who gets how many of them.

Sockets are the clients' wish, so they get a part: what they leave is for the store, its log, uploads and the rest. A
process without one descriptor left cannot write its own store.
"""

from __future__ import annotations

import resource
from contextlib import suppress

_MOST_DESCRIPTORS = 1 << 20
"""Beyond a million nobody needs any, and some systems' hard limit has no end."""

_MAC_DESCRIPTORS = 10_240
"""OPEN_MAX, which a Mac grants at least (Apple, setrlimit(2))."""


def raise_limit() -> None:
    """Raises the soft limit to the hard one, as far as the system lets it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _MOST_DESCRIPTORS)
    for wanted in (most, _MAC_DESCRIPTORS):
        if wanted <= limit():
            return
        # A Mac's hard limit has no end, and more than its kernel gives is refused all the same.
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def limit() -> int:
    """Descriptors that this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST_DESCRIPTORS if soft == resource.RLIM_INFINITY else min(soft, _MOST_DESCRIPTORS)


def for_connections() -> int:
    """Of these, for clients."""
    return limit() * 5 // 8


def for_uploads() -> int:
    """For the files of uploads under way, each beside its connection."""
    return max(1, min(64, limit() // 16))


def for_store() -> int:
    """For the files that a store keeps open."""
    return max(16, limit() // 8)
