"""What a command brings to the tracker of a data folder through its socket: frames, as a client's socket would, and blobs.

What becomes of a frame is `frontier/session.py`'s to say; here is no port and no token: who may reach the socket may do all.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import BinaryIO, Final

import trio

from matyan._codec import check_artifact_path, check_run_id
from matyan.blobs.folder import FolderBlobs
from matyan.broker.base import Producer
from matyan.errors import MatyanError, NotFound, Unavailable
from matyan.folder.server import Write
from matyan.frontier.session import ANSWER_WITHIN_S, Session, Sessions

_PIECE_BYTES: Final = 1 << 20


class Taking:
    """
    Args:
        require: raises Unavailable where nothing can be stored now.
    """

    def __init__(self, producer: Producer, blobs: FolderBlobs, require: Callable[[], None]) -> None:
        self._sessions = Sessions(producer, trio.current_time)
        self._blobs = blobs
        self._require = require

    def writes(self) -> Mapping[str, Write]:
        return {"take": self._take, "put_artifact": self._put}

    async def _take(self, *, run: str, frame: bytes) -> AsyncIterator[object]:
        """The reply to a frame (contract, section 1)."""
        _check(check_run_id(run))
        self._require()
        replies: list[bytes] = []
        replied = trio.Event()

        def reply(data: bytes) -> None:
            replies.append(data)
            replied.set()

        session = Session(self._sessions, run, reply)
        try:
            session.receive(frame, trio.current_time())
            with trio.move_on_after(ANSWER_WITHIN_S):
                await replied.wait()
            if not replies:
                session.sweep(trio.current_time())
        except UnicodeDecodeError:
            raise MatyanError("That is no frame: it is not UTF-8.") from None
        finally:
            session.leave()
        if not replies:
            raise Unavailable("The store has not taken it yet: try again.")
        yield replies[0]

    async def _put(
        self, *, run: str, path: str, content_type: str, file: str
    ) -> AsyncIterator[object]:
        """Stores the bytes of a local file as an artifact; its record is the caller's. How many they were."""
        _check(check_run_id(run) or check_artifact_path(run, path))
        self._require()
        try:
            source = await trio.to_thread.run_sync(open, Path(file), "rb")
        except OSError as error:
            raise NotFound(f"{file} cannot be read ({error.strerror}).") from None
        with source:
            size = await trio.to_thread.run_sync(source.seek, 0, 2)
            await trio.to_thread.run_sync(source.seek, 0)
            async with aclosing(_pieces(source)) as pieces:
                await self._blobs.receive(run, path, content_type, pieces, size)
        yield size


def _check(reason: str | None) -> None:
    if reason is not None:
        raise MatyanError(f"That cannot be stored: {reason}.")


async def _pieces(source: BinaryIO) -> AsyncGenerator[bytes, None]:
    while piece := await trio.to_thread.run_sync(partial(source.read, _PIECE_BYTES)):
        yield piece
