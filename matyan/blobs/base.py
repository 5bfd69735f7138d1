"""Blobs as the frontier and the control worker see them. Engines: `folder.py`, `s3.py`.

Bytes never pass through here: a client PUTs them to a signed URL.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable
from urllib.parse import parse_qs

URL_PATH = "/api/v1/rest/artifacts/blob/"
"""Of the signed URLs that a process serves itself; the run and the blob's path follow."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Where a client PUTs a blob. `headers` are extra ones that it must send, or None."""

    upload_url: str
    s3_key: str
    headers: dict[str, str] | None


class Blobs(Protocol):
    async def presign_put(
        self, run: str, path: str, content_type: str, base_url: str, token: str = ""
    ) -> Upload:
        """Signs a PUT of `run`/`path`; `base_url` (scheme://host) is what the client called this process; `token`: the name of the
        token that the upload counts for, where the engine sees the bytes.

        Raises:
            NotFound: the run was deleted, where the engine knows.
            Unavailable: credentials or the engine cannot be reached.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> int:
        """Deletes these keys; a missing one is fine. Returns how many were asked for.

        Raises:
            Unavailable: try again.
        """
        ...

    async def delete_run(self, run: str) -> int:
        """Deletes every blob under `run`/; returns how many there were."""
        ...


class Pieces(Protocol):
    """A blob's bytes, and their end."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@runtime_checkable
class ServedBlobs(Protocol):
    """An engine whose bytes the process itself takes and gives, at URLs that it signs: `folder.py`."""

    def verify(self, method: str, run: str, path: str, query: str) -> bool: ...

    def signed_type(self, query: str) -> str: ...

    def signed_for(self, query: str) -> str: ...

    async def receive(
        self,
        run: str,
        path: str,
        content_type: str,
        chunks: AsyncIterator[bytes],
        max_bytes: int,
    ) -> None: ...

    async def open(self, run: str, path: str) -> tuple[str, int, Pieces]: ...


def has_signature(blobs: object, method: str, path: str, query: str) -> bool:
    """Whether a request, by its decoded path and its query as it came, is for a signed URL of `blobs`, right or wrong: its engine says that."""
    return (
        path.startswith(URL_PATH)
        and method in {"PUT", "GET", "HEAD"}
        and isinstance(blobs, ServedBlobs)
        and "signature" in parse_qs(query)
    )


class ListedBlob(NamedTuple):
    """A blob as its engine lists it."""

    key: str
    """run/path."""
    age_s: float
    """Since it was last put, by the clock of whoever keeps it."""
    size: int
    """Bytes."""


class ListedBlobs(Protocol):
    """Blobs as what cleans up sees them: everything that is there, whether a record names it or not."""

    def pages(self, prefix: str = "", after: str = "") -> AsyncIterator[Sequence[ListedBlob]]:
        """The blobs whose keys begin so, behind the key `after`, in the keys' order, in pages of 1,000 at most.

        Raises:
            Unavailable: try again.
        """
        ...

    async def delete(self, keys: Sequence[str]) -> int:
        """See `Blobs`."""
        ...
