"""What each token has used in this process, against its quota: paced over a rate, refused over a number.

No I/O and no connections here: who holds a reply back, and who answers a refusal, is the frontier's affair. Each process counts for
itself, so two frontiers let twice as much pass.

Over a rate a frame is taken and stored at once, and its reply waits until what was taken is paid for: the SDK sends its next frame
when it has the reply. It cannot wait for long: it sends a frame again after 15 s, and a run that is closed leaves its client's queue
8 s. So no reply waits longer than HOLD_S, and where that is not enough (one frame is worth more than that many seconds, or there are
very many connections) the quota gives way and not the data: each connection has a frame in HOLD_S.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import inf
from typing import Final

from matyan.service import telemetry
from matyan.service.doors import Refusal
from matyan.service.logs import get_logger
from matyan.service.quotas import Bucket, Quota, print_size

log = get_logger()

HOLD_S: Final = 5.0
BURST_S: Final = 1.0
"""A token that was quiet may use so many seconds' worth at once."""
OWED_S: Final = 60.0
"""No more than so many seconds' worth is owed, so that after a flood a token is itself again within a minute."""
TELL_EVERY_S: Final = 60.0
"""A limit that is reached is logged once in so long."""
DAY_S: Final = 86_400
RETRY_CONNECTION_S: Final = 5
"""What a connection that is refused is told to wait."""


class BlobDay:
    """Bytes of the uploads of one day of UTC, by the names of tokens.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._used: dict[str, int] = {}
        self._today = 0

    @property
    def today(self) -> int:
        """Days since the epoch; a new one begins with nothing used."""
        today = int(self._wall() // DAY_S)
        if today != self._today:
            self._today, self._used = today, {}
        return today

    def seconds_left(self) -> int:
        return DAY_S - int(self._wall() % DAY_S)

    def used(self, name: str) -> int:
        return self._used.get(name, 0) if self.today else 0

    def count(self, name: str, size: int) -> None:
        self._used[name] = max(0, self.used(name) + size)

    def snapshot(self) -> dict[str, object]:
        """What `restore` takes."""
        return {"day": self.today, "bytes": dict(self._used)}

    def restore(self, found: object) -> None:
        """Goes on where an earlier process stopped, if that was today and is what `snapshot` gives."""
        match found:
            case {"day": int(day), "bytes": dict(used)} if day == self.today:
                self._used = {
                    name: size
                    for name, size in used.items()
                    if isinstance(name, str) and type(size) is int and size >= 0
                }


class Account:
    """One token's use. Made by `Accounts.of`.

    Args:
        clock: seconds, monotonic.
    """

    __slots__ = (
        "_buckets",
        "_clock",
        "_day",
        "_told",
        "connections",
        "held",
        "name",
        "quota",
    )

    def __init__(self, name: str, quota: Quota, clock: Callable[[], float], day: BlobDay) -> None:
        self.name = name
        self.connections = 0
        self.held = 0
        """Bytes of records that are neither stored nor refused. Whoever holds some adds and subtracts them."""
        self._clock = clock
        self._day = day
        self._told: dict[str, float] = {}
        self.change(quota)

    def change(self, quota: Quota) -> None:
        """The quota is another one from now on; what was used stays used."""
        self.quota = quota
        rates = (("bytes", quota.bytes), ("messages", quota.messages))
        self._buckets = {
            name: Bucket(rate, BURST_S, OWED_S) for name, rate in rates if rate is not None
        }

    def take(self, size: int, messages: int, since: float) -> float:
        """Takes a frame of so many bytes and messages, of which the client waits for the reply since `since`; returns when the reply may
        go out: at once (-inf), or later, at most HOLD_S after `since`."""
        now = self._clock()
        due, limit = now, ""
        for name, bucket in self._buckets.items():
            paid = bucket.take(size if name == "bytes" else messages, now)
            if paid > due:
                due, limit = paid, name
        due = min(due, since + HOLD_S)
        if due <= now:
            return -inf
        telemetry.QUOTA_HELD_FRAMES.labels(self.name, limit).inc()
        telemetry.QUOTA_HELD_SECONDS.labels(self.name, limit).inc(due - now)
        self._tell(limit, "replies are held back by a quota")
        return due

    # --- connections ---

    def connect(self) -> Refusal | None:
        """Counts one connection more, until `disconnect`; or says why there may not be one."""
        most = self.quota.connections
        if most is not None and self.connections >= most:
            # 503 and not 429: the SDK goes on trying after the one, and gives up for the rest of its run after the other.
            return self._refuse(
                "connections",
                503,
                f"The token {self.name} has {self.connections} connections already, and may have {most} at a time: close some.",
                RETRY_CONNECTION_S,
            )
        self.connections += 1
        return None

    def disconnect(self) -> None:
        """One connection is over."""
        self.connections -= 1

    # --- blobs ---

    def judge_blob(self, size: int) -> Refusal | None:
        """Why an upload of so many bytes, or so many more, may not come now."""
        most, used = self.quota.blobs, self._day.used(self.name)
        if most is None or (used < most and used + size <= most):
            return None
        limit = f"The token {self.name} may put {print_size(most)} of blobs in a day (UTC)"
        if size > most or not most:
            return self._refuse("blobs", 413, f"{limit}, and this is more.", None)
        return self._refuse(
            "blobs",
            429,
            f"{limit}, and {used:,} bytes of them are used: again tomorrow.",
            self._day.seconds_left(),
        )

    def count_blob(self, size: int) -> None:
        """So many bytes of an upload have come, or are expected; negative: they will not come."""
        self._day.count(self.name, size)

    def cannot_count_blobs(self) -> None:
        """An upload was signed whose bytes this process does not see."""
        self._tell("blobs", "uploads go to S3 and are not counted against a quota")

    def _refuse(self, limit: str, status: int, sentence: str, retry_s: int | None) -> Refusal:
        telemetry.QUOTA_REFUSED.labels(self.name, limit).inc()
        self._tell(limit, "refused by a quota")
        headers = () if retry_s is None else (("Retry-After", str(retry_s)),)
        return Refusal(status, sentence, headers)

    def _tell(self, limit: str, what: str) -> None:
        now = self._clock()
        if now >= self._told.get(limit, -TELL_EVERY_S) + TELL_EVERY_S:
            self._told[limit] = now
            log.warning(
                what,
                token=self.name,
                quota=self.quota.limit(limit),
                connections=self.connections,
            )


class Accounts:
    """The accounts of one process, by the names of their tokens."""

    def __init__(self, clock: Callable[[], float], day: BlobDay) -> None:
        self.day = day
        self._clock = clock
        self._known: dict[str, Account] = {}

    def of(self, name: str, quota: Quota | None) -> Account | None:
        """The account of the token of this name; None: without a quota nothing is counted."""
        if quota is None:
            return None
        account = self._known.get(name)
        if account is None:
            account = self._known[name] = Account(name, quota, self._clock, self.day)
        elif account.quota != quota:
            account.change(quota)
        return account
