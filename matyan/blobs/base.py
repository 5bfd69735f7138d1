"""Blobs as the frontier and the control worker see them. Engines: `folder.py`, `s3.py`.

Bytes never pass through here: a client PUTs them to a signed URL.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

URL_PATH = "/api/v1/rest/artifacts/blob/"
"""Of the signed URLs that a process serves itself; the run and the blob's path follow."""


@dataclass(frozen=True, slots=True)
class Upload:
    """Where a client PUTs a blob. `headers` are extra ones that it must send, or None."""

    upload_url: str
    s3_key: str
    headers: dict[str, str] | None


class Blobs(Protocol):
    async def presign_put(self, run: str, path: str, content_type: str, base_url: str) -> Upload:
        """Signs a PUT of `run`/`path`; `base_url` (scheme://host) is what the client called this process.

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
