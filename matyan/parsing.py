"""How the text of a setting becomes its value: one function a kind, each a ValueError that says what is allowed.

Which settings there are, and how two of them go together, is `settings.py`'s. Nothing here shows a value: the caller knows
whether it is a secret.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Final


def text(raw: str) -> str:
    """Anything that fits one line."""
    if re.search(r"[\x00-\x1f\x7f]", raw):
        raise ValueError("expected text without control characters")
    return raw


def name(raw: str) -> str:
    """Text that says something."""
    if not raw.strip():
        raise ValueError("expected some text; it is empty")
    return text(raw)


def flag(raw: str) -> bool:
    word = raw.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off", ""}:
        return False
    raise ValueError("expected true or false")


class Whole:
    """A whole number from `least` to `most`."""

    def __init__(self, least: int, most: int, expected: str) -> None:
        self._least = least
        self._most = most
        self._expected = expected

    def __call__(self, raw: str) -> int:
        if re.fullmatch(r"\s*[+-]?[0-9]{1,18}\s*", raw) is None:
            raise ValueError(f"expected a whole number, {self._expected}")
        number = int(raw)
        if not self._least <= number <= self._most:
            raise ValueError(f"expected {self._expected}")
        return number


HIGHEST_PORT: Final = 65_535


def base_path(raw: str) -> str:
    """A path that others begin with: "" or such as /a/b."""
    path = raw.strip().rstrip("/")
    # It stands in a page's markup, and in front of every request's path.
    if path and re.fullmatch(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+", path) is None:
        raise ValueError("expected a path such as /tracker, of letters, digits and . _ ~ -")
    return path


positive = Whole(1, 10**18, "a number above 0")
hours = Whole(0, 876_000, "a number of hours, 0 to 876000")
port = Whole(0, HIGHEST_PORT, f"a port, 0 to {HIGHEST_PORT}")
metrics_port = Whole(
    -(10**18), HIGHEST_PORT, f"a port up to {HIGHEST_PORT}; 0 or less turns it off"
)
LONGEST_EXPIRY_S: Final = 7 * 24 * 3600
"""Signature 4 allows no more of a presigned URL (Amazon S3 API reference)."""
expiry = Whole(
    1, LONGEST_EXPIRY_S, f"a number of seconds above 0, at most {LONGEST_EXPIRY_S} (S3's limit)"
)


class Seconds:
    """A number of seconds from `least` to `most`."""

    def __init__(self, least: float, most: float) -> None:
        self._least = least
        self._most = most

    def __call__(self, raw: str) -> float:
        # float() takes 1_000, inf and the digits of every script.
        form = r"\s*\+?(?:[0-9]+\.?|[0-9]*\.[0-9]+)[0-9]*(?:[eE][+-]?[0-9]{1,3})?\s*"
        number = float(raw) if re.fullmatch(form, raw) else math.nan
        if not self._least <= number <= self._most:
            raise ValueError(f"expected a number of seconds, {self._least:g} to {self._most:.0f}")
        return number


class OneOf:
    """One of `words`, in whatever case; as it stands there."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def __call__(self, raw: str) -> str:
        for word in self.words:
            if raw.strip().lower() == word.lower():
                return word
        raise ValueError(f"expected one of {', '.join(filter(None, self.words))}")


class Matching:
    """Text of a form; the digits that its pattern calls `port` are one."""

    def __init__(self, pattern: str, expected: str) -> None:
        self._pattern = re.compile(pattern)
        self._expected = expected

    def __call__(self, raw: str) -> str:
        found = self._pattern.fullmatch(raw)
        if found is None or not 0 < int(found.groupdict().get("port") or 1) <= HIGHEST_PORT:
            raise ValueError(f"expected {self._expected}")
        return raw


DEAD_LETTERS_SUFFIX = "-dlq"
"""What the name of a topic's dead-letter topic ends with (contract, section 3)."""
_TOPIC_CHARACTERS = 249 - len(DEAD_LETTERS_SUFFIX)

topic = Matching(
    # Kafka's own rule (its class Topic), less what the suffix takes.
    rf"(?!\.{{1,2}}$)[A-Za-z0-9._-]{{1,{_TOPIC_CHARACTERS}}}",
    f"a topic's name: 1 to {_TOPIC_CHARACTERS} of A-Z, a-z, 0-9, dot, _ and -",
)
instance = Matching(
    r"|(?!\.{1,2}$)[A-Za-z0-9._-]{1,249}",
    "a name of at most 249 of A-Z, a-z, 0-9, dot, _ and -",
)
group = Matching(
    r"[^\x00-\x20\x7f](?:[^\x00-\x1f\x7f]{0,248}[^\x00-\x20\x7f])?",
    "a group's name: 1 to 250 characters, without spaces around it",
)
bucket = Matching(r"[A-Za-z0-9._-]{1,255}", "a bucket's name: A-Z, a-z, 0-9, dot, _ and -")
region = Matching(r"[A-Za-z0-9-]{1,63}", "a region's name such as us-east-1")
kms_key = Matching(
    r"[A-Za-z0-9:/_-]{0,2048}", "a key's id, its ARN, or alias/NAME"
)  # AWS KMS API reference, KeyId
host = Matching(r"[^\s/@]{1,255}", "an address or a name to listen on, without a scheme or a port")
_HOST = r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
url = Matching(rf"https?://{_HOST}(?:/[^\s?#]*)?", "http://host:port or https://host")
url_with_query = Matching(
    rf"https?://{_HOST}(?:/[^\s#]*)?", "http://host:port/path or https://host/path"
)
url_or_none = Matching(rf"|{url._pattern.pattern}", "http://host[:port] or https://host[:port]")

_BROKER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?")


def brokers(raw: str) -> str:
    """HOST:PORT with commas; without the spaces around them."""
    found = [word.strip() for word in raw.split(",") if word.strip()]
    for word in found:
        match = _BROKER.fullmatch(word)
        if match is None or not 0 < int(match[1] or 9092) <= HIGHEST_PORT:
            raise ValueError("expected HOST:PORT, several with commas, without a scheme or a path")
    if not found:
        raise ValueError("expected HOST:PORT, several with commas; it is empty")
    return ",".join(found)


def words(raw: str) -> tuple[str, ...]:
    """A JSON array of strings, or a list with commas."""
    if raw.strip().startswith(("[", "{", '"')):
        try:
            found = json.loads(raw)
        except (ValueError, RecursionError):
            found = None
        if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
            raise ValueError('expected a JSON array of strings such as ["https://ui.example"]')
        return tuple(found)
    return tuple(word.strip() for word in raw.split(",") if word.strip())


class WordsOf:
    """`words`, each of which `one` takes."""

    def __init__(self, one: Callable[[str], str]) -> None:
        self._one = one

    def __call__(self, raw: str) -> tuple[str, ...]:
        return tuple(map(self._one, words(raw)))


origins = WordsOf(
    Matching(
        # Programs with schemes of their own name what they like; a pattern of hosts would match no browser's Origin.
        rf"\*|null|(?i:https?)://{_HOST}/?|(?!(?i:https?):)[A-Za-z][A-Za-z0-9+.-]*://[^\s/*\"']*/?",
        "origins such as https://ui.example, as a JSON array of strings or with commas, or * for any",
    )
)
hosts = WordsOf(Matching(r"\*|[^\s/@\"']{1,255}", "hosts such as hub.example, or * for any"))
