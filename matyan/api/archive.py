"""A run's artifacts as one ZIP archive, made while it is sent: what it holds is stored as it is, since models do not compress."""

from __future__ import annotations

import time
import zipfile
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from typing import IO, cast

from matyan.api.served import ReadBlobs
from matyan.errors import NotFound


class _Sink:
    """What is written until it is taken. It cannot be asked where it stands, so `zipfile` puts sizes behind the files."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        pass

    def taken(self) -> bytes:
        written = b"".join(self._written)
        self._written.clear()
        return written


async def archive(
    blobs: ReadBlobs, run: str, found: Sequence[tuple[str, str, str]]
) -> AsyncIterator[bytes]:
    """found: (path, s3 key, content type) of each. What was never uploaded is left out."""
    sink = _Sink()
    now = time.localtime()[:6]
    with zipfile.ZipFile(cast(IO[bytes], sink), "w", zipfile.ZIP_STORED) as packed:
        for path, key, _ in found:
            owner, _, place = key.partition("/")
            if owner != run:
                continue
            try:
                _, _, pieces = await blobs.open(owner, place)
            except NotFound:
                continue
            async with aclosing(pieces):
                with packed.open(zipfile.ZipInfo(path, now), "w", force_zip64=True) as member:
                    async for piece in pieces:
                        member.write(piece)
                        yield sink.taken()
    yield sink.taken()
