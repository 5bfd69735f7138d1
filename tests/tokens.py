"""Tokens in a file, for tests, and what is sent of them."""

from __future__ import annotations

import base64
import time
from pathlib import Path

from matyan.service.quotas import read_quota
from matyan.service.tokens import Scope, Token, changing, digest, new_secret


def add(
    file: Path, name: str, *scopes: str, expires: float | None = None, quota: str | None = None
) -> str:
    """Makes a token, in place of one of this name, and returns it."""
    secret = new_secret().reveal()
    allowed = frozenset(map(Scope, scopes))
    limits = None if quota is None else read_quota(quota)
    with changing(file) as tokens:
        tokens[name] = Token(name, digest(secret), allowed, time.time(), expires, limits)
    return secret


def revoke(file: Path, name: str) -> None:
    with changing(file) as tokens:
        del tokens[name]


def basic(name: str, token: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{token}".encode()).decode()
