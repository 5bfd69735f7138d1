"""A question to a server over HTTP, and what its answer takes; nothing here knows what is asked."""

from __future__ import annotations

import http.client
import json
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any

BASE = "/api/v1/rest"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Question:
    name: str
    path: str
    goal: str = ""
    """Of the end, in ms, for 10,000 runs."""
    params: dict[str, Any] = field(default_factory=dict)
    """A list is sent as its name once for each item."""
    body: Any = None


@dataclass
class Peer:
    name: str
    url: str
    base: str = BASE
    """What stands before the path of every question."""

    def ask(self, question: Question) -> tuple[float, float, int]:
        """Seconds to the first byte and to the last, and how many there were.

        Raises:
            RuntimeError: it says no.
            OSError: it does not answer.
        """
        place = urllib.parse.urlsplit(self.url)
        connection = http.client.HTTPConnection(place.hostname or "", place.port, timeout=600)
        try:
            path = place.path.rstrip("/") + self.base + question.path
            if question.params:
                path += "?" + urllib.parse.urlencode(question.params, doseq=True)
            body = None if question.body is None else json.dumps(question.body)
            headers = {} if body is None else {"Content-Type": "application/json"}
            begun = time.perf_counter()
            connection.request("GET" if body is None else "POST", path, body, headers)
            answer = connection.getresponse()
            size = len(answer.read(1))
            first = time.perf_counter() - begun
            while piece := answer.read1(_PIECE):
                size += len(piece)
            end = time.perf_counter() - begun
            if answer.status != 200:
                raise RuntimeError(f"{question.name}: {self.name} answers {answer.status}")
            return first, end, size
        finally:
            connection.close()
