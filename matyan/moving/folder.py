"""A target that is a data folder: whoever holds it takes the frames, at its socket; nobody does: this process holds it meanwhile.

So no port is looked for, and no token: the socket's permissions decide, as for every command that changes something.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path

import trio

from matyan.errors import ConfigurationError, NotFound
from matyan.folder.folder import MOVES
from matyan.folder.hold import hold
from matyan.moving.moved import MovedBlob
from matyan.moving.target import Connection, Refused, Standing, standing_of
from matyan.reader import opening
from matyan.reader.reading import Reader
from matyan.service import private
from matyan.settings import Settings
from matyan.store.open import is_data_folder

_STAGED = "upload-"


class FolderTarget:
    """Made by `folder_target`."""

    can_tell = True

    def __init__(self, folder: Path, reader: Reader) -> None:
        self._folder = folder
        self._reader = reader

    def __str__(self) -> str:
        return str(self._folder)

    async def open(self) -> None:
        """As `Target.open`."""
        private.make(self._folder / MOVES)
        await trio.to_thread.run_sync(self._clear)
        # Nothing, which only a folder takes that is not fed by others.
        await trio.to_thread.run_sync(_Asking(self._reader, "-").ask, b"[]")

    @asynccontextmanager
    async def connect(self, run: str) -> AsyncIterator[Connection]:
        """As `Target.connect`."""
        yield _Asking(self._reader, run)

    async def standing(self, run: str) -> Standing | None:
        """As `Target.standing`."""
        return await trio.to_thread.run_sync(standing_of, self._reader, run)

    async def put(self, run: str, blob: MovedBlob) -> None:
        """As `Target.put`."""
        await trio.to_thread.run_sync(self._put, run, blob)

    def _clear(self) -> None:
        """Removes uploads that were on their way when their process was killed."""
        for path in (self._folder / MOVES).glob(f"{_STAGED}*"):
            with suppress(OSError), open(path, "rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()

    def _put(self, run: str, blob: MovedBlob) -> None:
        handle, name = tempfile.mkstemp(prefix=_STAGED, dir=self._folder / MOVES)
        try:
            with open(handle, "wb") as file:
                with suppress(OSError):
                    fcntl.flock(file, fcntl.LOCK_EX)
                for piece in blob.open():
                    file.write(piece)
                if blob.size not in (None, file.tell()):
                    raise Refused("It changed while it was sent, or its bytes are not all there.")
            asked = {"run": run, "path": blob.path, "content_type": blob.content_type, "file": name}
            try:
                for _ in self._reader.ask("put_artifact", **asked):
                    pass
            except NotFound as error:
                raise Refused(str(error)) from None
        except OSError as error:
            raise ConfigurationError(
                f"{self._folder} takes no artifact ({error.strerror}): make room there, or mend its permissions."
            ) from None
        finally:
            Path(name).unlink(missing_ok=True)


class _Asking:
    """A frame a question: whoever holds the folder answers when it is stored."""

    def __init__(self, reader: Reader, run: str) -> None:
        self._reader = reader
        self._run = run
        self._replies: list[bytes] = []

    async def send(self, frame: bytes) -> None:
        self._replies.append(
            await trio.to_thread.run_sync(partial(self.ask, frame), abandon_on_cancel=True)
        )

    async def reply(self) -> bytes:
        await trio.lowlevel.checkpoint()
        return self._replies.pop(0)

    def ask(self, frame: bytes) -> bytes:
        (reply,) = self._reader.ask("take", run=self._run, frame=frame)
        assert isinstance(reply, bytes)
        return reply


@contextmanager
def folder_target(folder: Path) -> Iterator[FolderTarget]:
    """The data folder as a target, made when it is not there.

    Raises:
        ConfigurationError: it cannot be opened.
    """
    folder = folder.absolute()
    if not is_data_folder(folder):
        # Made by opening it once.
        with hold(folder, Settings()):
            pass
    with opening.open(folder) as reader:
        yield FolderTarget(folder, reader)
