"""What a token may use: a quota as it is written, and the bucket that paces what is over a rate.

Pure values: time comes in as an argument. Who has used what, and what is done about it, is `accounts.py`'s affair.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Final

_MOST: Final = 10**15
_UNITS: Final = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
    "TiB": 2**40,
}
_BY_LOWER_CASE: Final = {unit.lower(): size for unit, size in _UNITS.items()}
_COUNT = re.compile(r"([0-9]{1,16})")
_COUNT_A_SECOND = re.compile(r"([0-9]{1,16}) ?/ ?s")
_SIZE: Final = r"([0-9]{1,16}(?:\.[0-9]{1,12})?) ?([kmgt]?i?b)"
_SIZE_A_SECOND = re.compile(_SIZE + r" ?/ ?s", re.IGNORECASE)
_SIZE_A_DAY = re.compile(_SIZE + r" ?/ ?(?:d|day)", re.IGNORECASE)

Amount = Callable[[str], int | None]


def _count(text: str) -> int | None:
    found = _COUNT.fullmatch(text)
    return None if found is None else int(found[1])


def _count_a_second(text: str) -> int | None:
    found = _COUNT_A_SECOND.fullmatch(text)
    return None if found is None else int(found[1])


def _size(pattern: re.Pattern[str]) -> Amount:
    def read(text: str) -> int | None:
        found = pattern.fullmatch(text)
        if found is None or found[2].lower() not in _BY_LOWER_CASE:
            return None
        size = Decimal(found[1]) * _BY_LOWER_CASE[found[2].lower()]
        return int(size) if size == int(size) else None

    return read


def print_size(size: int) -> str:
    """Bytes in the unit that makes the shortest exact text, such as 10GB or 1500B."""
    texts = [f"{size // unit}{name}" for name, unit in _UNITS.items() if size % unit == 0]
    return min(texts, key=len) if size else "0B"


_FORMS: Final[dict[str, tuple[Amount, int, str, Callable[[int], str]]]] = {
    # how it is read, the least there may be, an example, how it is printed
    "connections": (_count, 1, "connections=10", str),
    "bytes": (_size(_SIZE_A_SECOND), 1, "bytes=1MB/s", lambda n: f"{print_size(n)}/s"),
    "messages": (_count_a_second, 1, "messages=1000/s", lambda n: f"{n}/s"),
    "blobs": (_size(_SIZE_A_DAY), 0, "blobs=10GB/day", lambda n: f"{print_size(n)}/day"),
}
EXAMPLE: Final = ",".join(example for _, _, example, _ in _FORMS.values())


@dataclass(frozen=True, slots=True)
class Quota:
    """What one token may use in one process; None: as much as there is. `str` gives the text that `read_quota` takes."""

    connections: int | None = None
    """WebSocket connections at a time."""
    bytes: int | None = None
    """A second, of the frames on them, as they are sent but without compression."""
    messages: int | None = None
    """A second: the items of those frames, and presigned uploads."""
    blobs: int | None = None
    """Bytes of uploads in a day of UTC."""

    def __str__(self) -> str:
        return ",".join(filter(None, (self.limit(field.name) for field in fields(self))))

    def limit(self, name: str) -> str:
        """One limit as it is written, such as "messages=1000/s"; "" where there is none."""
        value: int | None = getattr(self, name)
        return "" if value is None else f"{name}={_FORMS[name][3](value)}"


def read_quota(text: str) -> Quota:
    """The quota that a text such as "connections=10,bytes=1MB/s,messages=1000/s,blobs=10GB/day" asks for.

    Raises:
        ValueError: it asks for none; the reason is a fragment that says what is allowed.
    """
    found: dict[str, int] = {}
    for word in text.split(","):
        name, equals, amount = (part.strip() for part in word.partition("="))
        if name not in _FORMS or not equals:
            raise ValueError(f"{word.strip()[:80]!r} is no limit; expected some of {EXAMPLE}")
        if name in found:
            raise ValueError(f"{name} is there twice")
        read, least, example, _ = _FORMS[name]
        value = read(amount)
        if value is None or not least <= value <= _MOST:
            raise ValueError(
                f"{name}: {amount[:80]!r} cannot be used; expected {example}"
                + (", at least 1" if value == 0 else "")
            )
        found[name] = value
    return Quota(**found)


class Bucket:
    """A token bucket, as the time at which all that was taken is paid for (the GCRA of ITU-T I.371, virtual scheduling).

    Nothing is refused: what is over the rate is taken at once and paid for later, in the order in which it came.

    Args:
        rate: units a second.
        burst_s: so many seconds' worth may be saved up.
        most_s: so many seconds' worth may be owed; what is over them is forgotten.
    """

    __slots__ = ("_burst_s", "_most_s", "_paid", "rate")

    def __init__(self, rate: float, burst_s: float, most_s: float) -> None:
        self.rate = rate
        self._burst_s = burst_s
        self._most_s = most_s
        self._paid = float("-inf")

    def take(self, amount: float, now: float) -> float:
        """Takes so much, and returns when it is paid for: `now` or later.

        By any time, what was paid for since a moment is at most `rate` times the seconds since, and `burst_s` seconds' worth more,
        as long as less than `most_s` was owed.
        """
        paid = max(self._paid, now - self._burst_s) + amount / self.rate
        self._paid = min(paid, now + self._most_s)
        return max(now, self._paid)
