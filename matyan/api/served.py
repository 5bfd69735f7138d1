"""What the routes share: how the store is read and changed, and where artifacts are."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final, Protocol

from quart import Response

from matyan.api.answers import Reads, Rows
from matyan.api.asked import Refused
from matyan.api.changes import Changes
from matyan.api.runs import RunView, View

BASE: Final = "/api/v1/rest"


class Pieces(Protocol):
    """A blob's bytes, and their end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


class ReadBlobs(Protocol):
    async def open(self, run: str, path: str) -> tuple[str, int, Pieces]:
        """Content type, size, bytes.

        Raises:
            NotFound: there is none.
            Unavailable: the engine is away.
        """
        ...


@dataclass(frozen=True, slots=True)
class Served:
    reads: Reads
    changes: Changes
    blobs: ReadBlobs
    bucket: str
    """Its name stands in the URIs of artifacts."""


async def streamed(
    served: Served, rows: Rows, content_type: str = "application/octet-stream"
) -> Response:
    """An answer that is read while it is sent.

    Raises:
        MatyanError: what was raised before anything could be sent.
    """
    return octets(await served.reads.stream(rows), content_type)


def octets(body: AsyncIterator[bytes], content_type: str = "application/octet-stream") -> Response:
    """An answer of any length, for as long as its client goes on reading."""
    response = Response(body, content_type=content_type)
    response.timeout = None  # Quart ends an answer after a minute
    return response


def blob_bytes(
    size: int, pieces: Pieces, content_type: str = "application/octet-stream"
) -> Response:
    """What `ReadBlobs.open` has opened; closed at the end of the answer."""

    async def sent() -> AsyncIterator[bytes]:
        async with aclosing(pieces):
            async for piece in pieces:
                yield piece

    response = octets(sent(), content_type)
    response.headers["Content-Length"] = str(size)
    # A page of somebody's artifact must not run as one of ours.
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def known(view: View, run: str) -> RunView:
    """
    Raises:
        Refused: there is no such run.
    """
    one = view.run(run)
    if not one.is_there:
        raise Refused(404, f"There is no run {run[:128]}.")
    return one
