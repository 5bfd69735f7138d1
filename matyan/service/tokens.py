"""Tokens: who has one, what it allows, and the file that says so (contract, section 8).

The file is one JSON object, so that one that is half written is none:

    {"tokens": [{"name": "ci", "digest": SHA-256 in hexadecimal, "scopes": ["write"],
                 "created": "2026-01-02T03:04:05Z", "expires": null or such a time, "quota": null or what --quota takes}]}

It holds digests alone. A plain SHA-256 is enough, without salt or rounds: these make it slow to try the few passwords that people
choose, and a token has 256 random bits, which nobody tries through. Who may do what with a request is `entrance.py`'s.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
import re
import secrets
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from matyan.errors import ConfigurationError
from matyan.secret import Secret
from matyan.service import durable, private, telemetry
from matyan.service.logs import get_logger
from matyan.service.quotas import Quota, read_quota
from matyan.settings import Settings

log = get_logger()

FILE_BYTES: Final = 4 << 20
"""What the file may hold: more than 10,000 tokens."""
AGAIN_S: Final = 0.4
"""A file that cannot be used is read again so often, however many requests come."""
_RANDOM_BYTES: Final = 32
_PREFIX: Final = "mtn_"
"""Begins each token, so that programs which look for secrets in texts can find one."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
"""What a URL holds before its colon as it is."""
_LATEST_S: Final = 253_370_764_800.0
"""The year 9999 in UTC, which every time zone can write."""
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Scope(StrEnum):
    """What a token allows."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"
    """Both, and what is kept for whoever runs the service."""


@dataclass(frozen=True, slots=True)
class Token:
    """One token, as the file has it; of the token itself only the digest."""

    name: str
    digest: bytes = field(repr=False)
    scopes: frozenset[Scope]
    created: float
    """Epoch seconds."""
    expires: float | None = None
    """Epoch seconds; None: never."""
    quota: Quota | None = None
    """None: no limit."""

    def allows(self, scope: Scope) -> bool:
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def is_expired(self, now: float) -> bool:
        """now: epoch seconds."""
        return self.expires is not None and now >= self.expires


def is_name(text: str) -> bool:
    """Whether a token may be called so."""
    return _NAME.fullmatch(text) is not None


def new_secret() -> Secret:
    """A token that nobody has yet; what it is made of stands in a URL as it is."""
    return Secret(_PREFIX + secrets.token_urlsafe(_RANDOM_BYTES))


def digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


# --- the file ------------------------------------------------------------------------------------


def parse(text: bytes) -> dict[str, Token]:
    """The tokens by name.

    Raises:
        ValueError: with what is wrong, a fragment; it never shows a value.
    """
    try:
        rows = json.loads(text)["tokens"]
        if not isinstance(rows, list):
            raise TypeError  # empty, it would be no tokens, and shut everybody out
        tokens = [_token(row) for row in rows]
    except (ValueError, RecursionError) as error:
        if isinstance(error, _Wrong):
            raise
        raise ValueError("it is no JSON, or not all of it is there") from None
    except (KeyError, TypeError, AttributeError):
        raise ValueError('it is no JSON object with a list of "tokens"') from None
    by_name = {token.name: token for token in tokens}
    if len(by_name) < len(tokens):
        raise ValueError("two tokens have one name")
    return by_name


class _Wrong(ValueError):
    """A row that is none."""


def _token(row: Mapping[str, Any]) -> Token:
    name = row.get("name")
    if not isinstance(name, str) or not is_name(name):
        raise _Wrong("a token has no name, or one that is none")
    found, scopes, quota = row.get("digest"), row.get("scopes"), row.get("quota")
    if not isinstance(found, str) or not _DIGEST.fullmatch(found):
        raise _Wrong(f"the digest of {name} is none")
    if not isinstance(scopes, list) or not scopes or not all(word in [*Scope] for word in scopes):
        raise _Wrong(f"the scopes of {name} are not some of {', '.join(Scope)}")
    created = _moment(row.get("created"), f"the time at which {name} was created")
    expires = row.get("expires")
    return Token(
        name,
        bytes.fromhex(found),
        frozenset(map(Scope, scopes)),
        created,
        None if expires is None else _moment(expires, f"the time at which {name} expires"),
        None if quota is None else _quota(quota, name),
    )


def _quota(text: object, name: str) -> Quota:
    try:
        return read_quota(text if isinstance(text, str) else "")
    except ValueError as error:
        raise _Wrong(f"the quota of {name}: {error}") from None


def _moment(text: object, what: str) -> float:
    try:
        moment = datetime.fromisoformat(text if isinstance(text, str) else "")
    except ValueError:
        raise _Wrong(f"{what} is none") from None
    seconds = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if not 0 <= seconds < _LATEST_S:
        raise _Wrong(f"{what} is none")
    return seconds


def written(moment: float) -> str:
    """A time as the file has it."""
    return datetime.fromtimestamp(int(moment), UTC).isoformat().replace("+00:00", "Z")


def dump(tokens: Mapping[str, Token]) -> bytes:
    """What `parse` takes."""
    rows = [
        {
            "name": token.name,
            "digest": token.digest.hex(),
            "scopes": sorted(token.scopes),
            "created": written(token.created),
            "expires": None if token.expires is None else written(token.expires),
            "quota": None if token.quota is None else str(token.quota),
        }
        for token in tokens.values()
    ]
    return json.dumps({"tokens": rows}, indent=1).encode() + b"\n"


def read(path: Path) -> dict[str, Token]:
    """
    Raises:
        OSError: the file cannot be read, or is none.
        ValueError: it holds something else, as `parse` says.
    """
    # What is no file, such as a pipe, must not stop whoever opens it.
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is no file")
        text = file.read(FILE_BYTES + 1)
    if len(text) > FILE_BYTES:
        raise ValueError(f"it is larger than {FILE_BYTES:,} bytes")
    tokens = parse(text)
    if mode & 0o022:
        log.warning(
            "others may write the tokens file, and so let themselves in: take that right away with chmod go-w",
            file=str(path),
        )
    return tokens


@contextmanager
def changing(path: Path) -> Iterator[dict[str, Token]]:
    """The file's tokens, to be changed in the block, at whose end they take the file's place at once; one such block at a time.

    Raises:
        ConfigurationError: the file cannot be read or written, or is no tokens file.
    """
    path = Path(os.path.realpath(path))  # the file, not a link to it, is what is replaced
    private.make(path.parent)
    try:
        # The folder is locked, since the file is another one after each change.
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            tokens = read_or_none(path) or {}
            yield tokens
            _replace(path, dump(tokens))
            durable.sync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be changed ({error.strerror}): mend its permissions, or name another file with --tokens-file."
        ) from None


def read_or_none(path: Path) -> dict[str, Token] | None:
    """The file's tokens; None: there is no such file.

    Raises:
        ConfigurationError: it cannot be read, or is no tokens file.
    """
    try:
        return read(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ConfigurationError(
            f"The tokens file {path} cannot be read ({error.strerror}): mend its permissions."
        ) from None
    except ValueError as error:
        raise ConfigurationError(
            f"{path} is no tokens file: {error}. Mend it, or move it away and make new tokens with `matyan tokens add`."
        ) from None


def _replace(path: Path, text: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.")  # 0600
    try:
        with open(handle, "wb") as file:
            with suppress(FileNotFoundError):
                # Whoever could read it, such as a service that is another user, still can; nobody else may write it.
                before = path.stat()
                with suppress(PermissionError):
                    os.fchown(handle, before.st_uid, before.st_gid)
                os.fchmod(handle, stat.S_IMODE(before.st_mode) & 0o644)
            file.write(text)
            file.flush()
            durable.sync(handle)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise


# --- what a service knows of it ------------------------------------------------------------------


class Tokens:
    """The tokens that a service asks for. It looks at the file again with each `look`, which costs 2 µs where nothing has changed.

    Once there was a file, the door is shut for good: while the file is missing, half written or unreadable, its last good state counts.

    Args:
        path: the file; None: this service asks for no tokens.
        required: whether the file must be there; else its absence asks for none.

    Raises:
        ConfigurationError: it must be there and is not, or it is there and cannot be read.
    """

    def __init__(self, path: Path | None, *, required: bool = False) -> None:
        self.path = path
        self._tokens: dict[str, Token] | None = None
        """None: no token was ever asked for."""
        self._seen: tuple[int, ...] | None = None
        self._trouble = ""
        self._again = 0.0
        if path is None:
            return
        self._seen = _identity(path)
        self._tokens = read_or_none(path)
        if self._tokens is None and required:
            raise ConfigurationError(
                f"The tokens file {path} (MATYAN_TOKENS_FILE) does not exist, and without it everybody could come in: make the first "
                f"token with `matyan tokens add NAME --scope write --tokens-file {path}`, or set MATYAN_TOKENS_FILE to nothing."
            )
        self._told()

    @property
    def on(self) -> bool:
        """Whether who comes in must show a token."""
        return self._tokens is not None

    def __len__(self) -> int:
        return len(self._tokens or ())

    def about(self) -> str:
        """For the person who starts the service."""
        if self._tokens is None:
            return "off: whoever reaches this port may do all (matyan tokens add)"
        return f"on: {len(self._tokens)} in {self.path}"

    def look(self) -> None:
        """Reads the file again if it has changed."""
        path = self.path
        if path is None:
            return
        identity, now = _identity(path), time.monotonic()
        # What is wrong with a file may end without a trace in its stat.
        if identity == self._seen and not (self._trouble and now >= self._again):
            return
        self._seen, self._again = identity, now + AGAIN_S
        try:
            tokens = read(path)
        except (FileNotFoundError, NotADirectoryError):
            if self.on:
                self._keep("it does not exist any more")
            return
        except OSError as error:
            self._keep(f"it cannot be read ({error.strerror})")
        except ValueError as error:
            self._keep(str(error))
        else:
            self._tokens, self._trouble = tokens, ""
            log.info("the tokens were read again", file=str(path), tokens=len(tokens))
        self._told()

    def _keep(self, trouble: str) -> None:
        # One that is broken when it is first seen lets nobody in: it was meant to shut the door.
        self._tokens = self._tokens or {}
        if trouble != self._trouble:
            self._trouble = trouble
            log.error(
                "the tokens file cannot be used: what it said last still holds",
                file=str(self.path),
                reason=trouble,
                tokens=len(self._tokens),
            )

    def _told(self) -> None:
        telemetry.TOKENS.set(len(self))
        telemetry.TOKENS_FILE_TROUBLE.set(bool(self._trouble))

    def find(self, name: str | None, token: str) -> Token | None:
        """The token that was sent, also an expired one; None: there is no such. name: None where none was sent with it."""
        found, sent = None, digest(token)
        for known in (self._tokens or {}).values():
            # Each is compared, and each in the same time, whatever was sent.
            if hmac.compare_digest(known.digest, sent):
                found = known
        return found if found is not None and name in (None, found.name) else None

    def current(self, name: str) -> Token | None:
        """The token of this name as the file has it now; None: it was revoked."""
        return (self._tokens or {}).get(name)

    def objection(self, token: Token | None, scope: Scope) -> str | None:
        """Why whoever came in with `token`, None: without one, may not go on with what `scope` allows, a fragment; None: they may."""
        if self._tokens is None:
            return None
        if token is None:
            return "a token is asked for now: connect again with one"
        known = self._tokens.get(token.name)
        if known is None or known.digest != token.digest:
            return f"the token {token.name} was revoked"
        if known.is_expired(time.time()):
            return f"the token {token.name} has expired"
        if known is not token and (known.quota != token.quota or not known.allows(scope)):
            return f"what the token {token.name} allows has changed: connect again"
        return None


def _identity(path: Path) -> tuple[int, ...] | None:
    """What differs between two states of a file; None where there is none."""
    try:
        found = os.stat(path)
    except OSError as error:
        return (error.errno or 0,)
    return (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)


def default_file(data: Path) -> Path:
    """The file of a data folder."""
    return data.absolute() / "tokens"


def tokens_of(settings: Settings, default: Path | None = None) -> Tokens:
    """The tokens that these settings ask for. default: the file where they name none; there it need not exist.

    Raises:
        ConfigurationError: as `Tokens` does.
    """
    if settings.tokens_file:
        return Tokens(Path(settings.tokens_file).absolute(), required=True)
    return Tokens(default)
