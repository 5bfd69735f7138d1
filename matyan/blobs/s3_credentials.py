"""What requests and URLs to S3 are signed with: the key of the settings, or what boto3's own chain finds.

The chain asks files, programs and the network (an instance's metadata, a container's endpoint, STS), so it is asked in a thread,
before what is held ends; a signature takes what is held and waits for nobody. What S3 is asked is `s3.py`'s affair.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Final

import botocore.session
import trio
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError

from matyan.errors import ConfigurationError, Unavailable
from matyan.service.logs import get_logger
from matyan.settings import Settings

_EARLY_S: Final = 900.0
"""Credentials that end are asked for anew when they have no more than this left, as botocore does by itself."""
_LOOK_S: Final = 60.0
"""How often at most. And how often those without an end are looked for: a file of profiles can be written anew."""
_AGAIN_S: Final = 5.0
"""After a failure, how long the next one is put off."""
_ANSWER_S = 10.0
"""The longest that a caller waits for the chain; the SDK waits 30 s for a presigned URL."""
_CONFIG: Final = Config(connect_timeout=3, read_timeout=5, retries={"total_max_attempts": 2})
"""Of the chain's own requests to STS; botocore's defaults are minutes."""

_FOREIGN_ERRORS: Final = (
    *(BotoCoreError, ClientError),
    # What botocore lets through of files that are gone and of answers that are not as their protocols say.
    *(OSError, RuntimeError, ValueError, TypeError, LookupError, ArithmeticError),
)

_INSTANCE: Final = "iam-role"
"""botocore's name of the link that asks the instance's metadata."""
CHAIN: Final = (
    "AWS's own chain (environment, profiles, web identity, container endpoint, instance role)"
)

log = get_logger()


class _Held(Credentials):  # type: ignore[misc]  # botocore has no types
    """What botocore's signers are given. Its own kinds that can be renewed would ask the network in the midst of a signature."""

    def __init__(self, key: str, secret: str) -> None:
        super().__init__(key, secret)
        self.now = ReadOnlyCredentials(key, secret, None)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        return self.now

    def load_credentials(self) -> _Held:
        """As botocore's sessions ask for credentials."""
        return self


class S3Credentials:
    """
    Raises:
        ConfigurationError: one of S3_ACCESS_KEY and S3_SECRET_KEY is empty, the other is not.
    """

    def __init__(self, settings: Settings) -> None:
        key, secret = settings.s3_access_key, settings.s3_secret_key.reveal()
        if bool(key) != bool(secret):
            empty, other = ("S3_SECRET_KEY", "S3_ACCESS_KEY")[:: 1 if key else -1]
            raise ConfigurationError(
                f"{empty} is empty and {other} is not: set both, or make both empty to use {CHAIN}."
            )
        self._region = settings.s3_region
        self._held = _Held(key or "none yet", secret or "none yet")
        self._uses_chain = not key
        self._is_found = bool(key)
        self._ends: float | None = None
        """In epoch seconds; None: never, as far as is known."""
        self._due = float("inf")
        """When the chain is asked although what is held is good, by the monotonic clock."""
        self._again = float("-inf")
        """And when, at the earliest, if it is not: a machine that slept has credentials that ended before they were due."""
        self._trouble = "It was not asked yet."
        self._asking = trio.Lock()
        self._source = "S3_ACCESS_KEY"

    def session(self) -> botocore.session.Session:
        """A session whose clients sign with what is held at that moment.

        Raises:
            BotoCoreError: AWS's own files or variables cannot be used.
        """
        session = botocore.session.Session()
        session.register_component("credential_provider", self._held)
        return session

    async def fresh(self) -> None:
        """Returns when it can be signed; asks the chain when that is due.

        Raises:
            Unavailable: the chain has no credentials, or none that have not ended.
        """
        # Whoever finds that another one asks goes on with what is held, while it is good.
        if self._is_due() and not (self._asking.locked() and self.is_good()):
            async with self._asking:
                await self._ask()
        self._require_good()

    async def _ask(self) -> None:
        if not self._is_due():
            return
        with trio.move_on_after(_ANSWER_S) as scope:
            await trio.to_thread.run_sync(self._renew, abandon_on_cancel=True)
        if scope.cancelled_caught:
            self._failed(f"There was no answer within {_ANSWER_S:g} s.")

    def fresh_in_thread(self) -> None:
        """As `fresh`; blocks."""
        if self._is_due():
            self._renew()
        self._require_good()

    def doubt(self) -> None:
        """S3 says that what is held is not, or no longer, good: the chain is asked before the next signature."""
        if self._uses_chain:
            self._due = min(self._due, time.monotonic())

    def is_good(self) -> bool:
        left = self.seconds_left()
        # A URL must be good for a second at least.
        return self._is_found and (left is None or left > 1)

    def seconds_left(self) -> float | None:
        """How long what is held is good; None when nobody says."""
        return None if self._ends is None else self._ends - time.time()

    def about(self) -> str:
        """What is signed with, for a person."""
        left = self.seconds_left()
        ends = "" if left is None else f", which end in {left / 60:.0f} min and are renewed before"
        return f"signed with {self._source}{ends}"

    def _is_due(self) -> bool:
        return time.monotonic() >= (self._due if self.is_good() else self._again)

    def _require_good(self) -> None:
        if not self.is_good():
            raise Unavailable(
                f"There are no credentials for S3: S3_ACCESS_KEY and S3_SECRET_KEY are empty, and {CHAIN} has none. "
                f"{self._trouble} Mend that, or set both."
            )

    def _renew(self) -> None:
        try:
            source, now, ends = _look(self._region)
        except _FOREIGN_ERRORS as error:
            self._failed(f"{_said(error).removesuffix('.')}.")
            return
        self._held.now, self._ends, self._is_found = now, ends, True
        self._source = f"the credentials of {source} in AWS's own chain"
        self._due = time.monotonic() + _LOOK_S
        left = self.seconds_left()
        if left is not None:
            # Of short lives half, so that these are renewed in time, too.
            self._due = time.monotonic() + max(left - _EARLY_S, min(_LOOK_S, left / 2))

    def _failed(self, trouble: str) -> None:
        self._due = self._again = time.monotonic() + _AGAIN_S
        if trouble != self._trouble and self._is_found:
            log.warning("credentials for S3 were not renewed", reason=trouble)
        self._trouble = trouble


def _said(error: Exception) -> str:
    if isinstance(error, (BotoCoreError, ClientError, OSError)):
        # botocore puts the answer of a container's endpoint into it, which has secrets in it when all is well.
        return re.sub(r"(container metadata: ).*", r"\1(not shown)", str(error), flags=re.DOTALL)
    return f"{type(error).__name__}: {error}"  # some are as bare as KeyError('Token')


def _look(region: str) -> tuple[str, ReadOnlyCredentials, float | None]:
    """Which link of the chain has credentials, the credentials, and when they end in epoch seconds.

    Anew each time, since botocore keeps what it has read of a file, and of credentials that end only itself knows when.
    """
    session = botocore.session.Session()
    if session.get_config_variable("region") is None:
        session.set_config_variable("region", region)  # STS is asked there
    session.set_default_client_config(_CONFIG)
    told = _ends_of_an_instance_role(session)
    found = session.get_credentials()
    if found is None:
        raise LookupError("none of its links has any")
    # What has come in this moment is not asked for once more because it ends soon.
    found._advisory_refresh_timeout = found._mandatory_refresh_timeout = 0
    now = found.get_frozen_credentials()
    # There is no public name for it; kinds without an end have none.
    ends = getattr(found, "_expiry_time", None)
    if found.method == _INSTANCE and told and told[-1] > datetime.now(UTC):
        ends = told[-1]
    return found.method, now, None if ends is None else ends.timestamp()


def _ends_of_an_instance_role(session: botocore.session.Session) -> list[datetime]:
    """Grows by what the instance's metadata say: botocore takes credentials of its last 20 minutes for good for longer,
    so that they outlive an outage of the metadata, and a URL must not.
    """
    told: list[datetime] = []
    fetcher = session.get_component("credential_provider").get_provider(_INSTANCE)._role_fetcher
    extend = fetcher._evaluate_expiration

    def note(credentials: dict[str, str]) -> None:
        told.append(datetime.fromisoformat(credentials["expiry_time"]))
        extend(credentials)

    fetcher._evaluate_expiration = note
    return told
