"""The blobs of one machine: a folder, and URLs that this process signs for itself.

Where a blob lies and what a signature is worth stand here; HTTP does not.

A blob is one file, `{root}/{run}/{SHA-256 of its path, in hex}`: so any path that is legal on S3 has its place, whatever its
segments, their lengths and their case, `a` and `a/b` side by side, and no path leads out of the run's folder. The file begins
with a header that holds the path and the declared type, so that one rename makes a blob with its type appear whole or not at all:

    8 bytes  b"matyanb1"
    4 bytes  n, big endian
    n bytes  msgpack {"path": …, "content_type": …}
    …        the bytes of the blob
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import hmac
import os
import shutil
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import parse_qs, quote, urlencode

import msgpack
import trio

from matyan._codec import check_run_id
from matyan.blobs.base import URL_PATH, ListedBlob, Upload
from matyan.blobs.run_folders import folder_of, folds_case, rename_all, run_of
from matyan.errors import ConfigurationError, MatyanError, NotFound, Unavailable
from matyan.service import durable, private

_MAGIC = b"matyanb1"
_TEMPORARY = "~tmp"  # no run has this name: "~" is not in the alphabet of run ids
_PAGE_BLOBS = 1_000
_PIECE_BYTES = 1 << 20
"""Bytes that one hop to a thread writes or reads."""


class TooLarge(MatyanError):
    """The blob is over the limit that the text names: refuse it."""


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob's description."""

    path: str
    content_type: str
    size: int
    """Bytes, without the header."""


class FolderBlobs:
    """
    Args:
        root: the folder; made when it is not there. Its owner holds the lock of the data folder around it.
        secret: the key of the signatures; a URL is good as long as it stays the same.
        expiry_s: seconds for which a signed URL is good.
        is_deleted: whether a run was deleted, so that nothing may be put for it any more; None: nobody knows.
        folds: whether capital and small letters are the same in names of files there; None: it is found out.

    Raises:
        ConfigurationError: the folder cannot be made or written.
    """

    def __init__(
        self,
        root: Path,
        secret: bytes,
        expiry_s: float,
        is_deleted: Callable[[str], Awaitable[bool]] | None = None,
        *,
        folds: bool | None = None,
    ) -> None:
        self._root = root.absolute()
        self._temporary = self._root / _TEMPORARY
        self._secret = secret
        self._expiry_s = expiry_s
        self._is_deleted = is_deleted
        self._deleting = trio.Lock()
        """Held while blobs are deleted, and while `kept_from` must find those that there are."""
        try:
            # What a crash left unfinished was never acknowledged.
            shutil.rmtree(self._temporary, ignore_errors=True)
            self._root.mkdir(private.FOLDER_MODE, parents=True, exist_ok=True)
            self._temporary.mkdir(private.FOLDER_MODE, exist_ok=True)
            self._folds_case = folds_case(self._temporary) if folds is None else folds
            rename_all(self._root, folds=self._folds_case)
            if not private.is_private(self._root):
                private.tighten_all(self._root)
        except OSError as error:
            raise ConfigurationError(
                f"The folder {self._root} for artifacts cannot be written ({error.strerror}): mend its permissions or "
                "name another data folder."
            ) from None

    # --- signed URLs ---

    async def presign_put(
        self, run: str, path: str, content_type: str, base_url: str, token: str = ""
    ) -> Upload:
        """Signs a PUT of `run`/`path` for `expiry_s` seconds.

        Raises:
            NotFound: the run was deleted.
        """
        await trio.lowlevel.checkpoint()
        await self._require(run)
        url = self._signed("PUT", run, path, content_type, base_url, token)
        return Upload(url, f"{run}/{path}", None)

    def presign_get(self, run: str, path: str, base_url: str) -> str:
        """Signs a GET of `run`/`path` for `expiry_s` seconds."""
        return self._signed("GET", run, path, "", base_url)

    def verify(self, method: str, run: str, path: str, query: str) -> bool:
        """Whether `query` (of a URL, still encoded) holds a signature of ours for this, not expired."""
        try:
            expires, content_type, token, signature = _fields(query)
            if int(expires) < time.time():
                return False
        except (ValueError, KeyError):
            return False
        expected = self._signature(method, run, path, content_type, expires, token)
        return hmac.compare_digest(signature.encode(), expected.encode())

    def signed_type(self, query: str) -> str:
        """The type that was declared when this query, which `verify` has passed, was signed."""
        return _fields(query)[1]

    def signed_for(self, query: str) -> str:
        """The name of the token that this query, which `verify` has passed, was signed for; "" for none."""
        return _fields(query)[2]

    def _signed(
        self, method: str, run: str, path: str, content_type: str, base_url: str, token: str = ""
    ) -> str:
        expires = str(int(time.time() + self._expiry_s))
        query = {
            "expires": expires,
            "type": content_type,
            **({"for": token} if token else {}),
            "signature": self._signature(method, run, path, content_type, expires, token),
        }
        return f"{base_url}{URL_PATH}{quote(run)}/{quote(path)}?{urlencode(query)}"

    def _signature(self, *fields: str) -> str:
        # msgpack, because no field can reach into the next one.
        return hmac.digest(self._secret, msgpack.packb(fields), "sha256").hex()

    # --- the bytes ---

    async def receive(
        self, run: str, path: str, content_type: str, chunks: AsyncIterable[bytes], max_bytes: int
    ) -> None:
        """Stores a blob: when this returns it is durable; when it raises nothing has changed.

        Raises:
            TooLarge: there are more than `max_bytes`.
            NotFound: the run was deleted.
            Unavailable: the disk is full or cannot be written.
        """
        await self._require(run)
        target = self._file(run, path)
        header = msgpack.packb({"path": path, "content_type": content_type})
        piece = bytearray(_MAGIC + len(header).to_bytes(4, "big") + header)
        size = 0
        with self._translated():
            file = await trio.to_thread.run_sync(self._open_temporary)
            try:
                async for chunk in chunks:
                    size += len(chunk)
                    if size > max_bytes:
                        raise TooLarge(
                            f"A blob may have {max_bytes:,} bytes (MATYAN_BLOB_MAX_BYTES)."
                        )
                    piece += chunk
                    if len(piece) >= _PIECE_BYTES:
                        await trio.to_thread.run_sync(file.write, piece)
                        piece = bytearray()
                await trio.to_thread.run_sync(self._finish, file, piece, target)
            except BaseException:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(_discard, file)
                raise
            # Whoever deletes the blobs of a deleted run may just have passed by.
            with trio.CancelScope(shield=True):
                try:
                    await self._require(run)
                except NotFound:
                    async with self._deleting:
                        await trio.to_thread.run_sync(self._delete_run, run)
                    raise

    async def _require(self, run: str) -> None:
        if self._is_deleted is None:
            return
        # When nobody can say it now, nothing is refused: the client would not try again.
        with contextlib.suppress(Unavailable):
            if await self._is_deleted(run):
                raise NotFound(
                    f"Run {run} was deleted: nothing is stored for it; take a new run id."
                )

    async def open(self, run: str, path: str) -> tuple[str, int, BlobReader]:
        """A blob's declared type, its size in bytes, and its bytes; close them with `aclose`.

        Raises:
            NotFound: there is no such blob.
            Unavailable: the folder cannot be read.
        """
        with self._translated():
            file = await trio.to_thread.run_sync(_open_or_none, self._file(run, path))
            if file is None:
                raise NotFound(f"There is no artifact {path} of run {run}.")
            try:
                blob = await trio.to_thread.run_sync(_read_header, file)
            except BaseException:
                file.close()
                raise
        return blob.content_type, blob.size, BlobReader(file)

    def held(self, run: str, path: str) -> tuple[int, float] | None:
        """A blob's bytes, and when they were written, in epoch seconds; None when there is no such blob. Blocks: for a thread."""
        file = _open_or_none(self._file(run, path))
        if file is None:
            return None
        with file:
            try:
                return _read_header(file).size, os.fstat(file.fileno()).st_mtime
            except NotFound:
                return None

    async def list(self, run: str) -> Sequence[StoredBlob]:
        """The run's blobs, by path.

        Raises:
            Unavailable: the folder cannot be read.
        """
        with self._translated():
            return await trio.to_thread.run_sync(_list, self._folder(run))

    async def pages(
        self, prefix: str = "", after: str = ""
    ) -> AsyncGenerator[Sequence[ListedBlob], None]:
        """See `ListedBlobs`. A folder is one page."""
        with self._translated():
            for run in await trio.to_thread.run_sync(self._runs):
                if not f"{run}/".startswith(prefix) and not prefix.startswith(f"{run}/"):
                    continue
                if (
                    after >= f"{run}0"
                ):  # the first that no key of the run can be, since 0 follows the slash
                    continue
                page = [
                    blob
                    for blob in await trio.to_thread.run_sync(self._listed, run)
                    if blob.key > after and blob.key.startswith(prefix)
                ]
                for begin in range(0, len(page), _PAGE_BLOBS):
                    yield page[begin : begin + _PAGE_BLOBS]

    async def delete(self, keys: Sequence[str]) -> int:
        """Deletes these `run/path` keys; see `Blobs`."""
        async with self._deleting:
            with self._translated():
                await trio.to_thread.run_sync(self._delete, keys)
        return len(keys)

    async def delete_run(self, run: str) -> int:
        """Deletes every blob of a run; see `Blobs`."""
        async with self._deleting:
            with self._translated():
                return await trio.to_thread.run_sync(self._delete_run, run)

    async def kept_from(self, moment: Callable[[], Awaitable[None]]) -> Path:
        """Awaits `moment` and then makes a folder with every blob that was here at its end. Whoever asked removes it.

        None is deleted from the one to the other. A blob that comes meanwhile is in it, too, or is not. Its files are links: a
        blob's file is never written again, since a new one of the same path takes its place by a rename.

        Raises:
            Unavailable: the folder cannot be used now; and what `moment` raises.
        """
        async with self._deleting:
            await moment()
            with self._translated():
                return await trio.to_thread.run_sync(self._keep)

    # --- in threads ---

    def _keep(self) -> Path:
        # In this folder, since no other is on the same file system for certain. What a kill leaves goes with the next start.
        kept = Path(tempfile.mkdtemp(prefix="kept-", dir=self._temporary))
        try:
            for folder in self._root.iterdir():
                if run_of(folder.name) is None:
                    continue
                (kept / folder.name).mkdir(private.FOLDER_MODE)
                for blob in folder.iterdir():
                    try:
                        os.link(blob, kept / folder.name / blob.name)
                    except OSError:
                        # A file system without links, or a file that has as many as it can.
                        shutil.copy2(blob, kept / folder.name / blob.name)
        except BaseException:
            shutil.rmtree(kept, ignore_errors=True)
            raise
        return kept

    def _runs(self) -> Sequence[str]:
        """The runs that have a folder, in the order of their keys."""
        runs = (run for name in os.listdir(self._root) if (run := run_of(name)) is not None)
        return sorted(runs, key=lambda run: f"{run}/")

    def _listed(self, run: str) -> Sequence[ListedBlob]:
        """The run's blobs by their keys."""
        now = time.time()
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._folder(run).iterdir():
                # What is no blob is none of ours, and one that is deleted meanwhile is gone.
                with contextlib.suppress(FileNotFoundError, NotFound), path.open("rb") as file:
                    blob = _read_header(file)
                    age_s = now - os.fstat(file.fileno()).st_mtime
                    found.append(ListedBlob(f"{run}/{blob.path}", age_s, blob.size))
        return sorted(found)

    def _folder(self, run: str) -> Path:
        if check_run_id(run) is not None:
            raise ValueError(f"no run id: {run!r}")
        return self._root / folder_of(run, folds=self._folds_case)

    def _file(self, run: str, path: str) -> Path:
        return self._folder(run) / hashlib.sha256(path.encode("utf-8", "surrogatepass")).hexdigest()

    def _open_temporary(self) -> BinaryIO:
        handle, name = tempfile.mkstemp(dir=self._temporary)
        os.close(handle)
        return Path(name).open("wb")

    def _finish(self, file: BinaryIO, piece: bytearray, target: Path) -> None:
        file.write(piece)
        file.flush()
        durable.sync(file.fileno())
        file.close()
        while True:
            try:
                target.parent.mkdir(private.FOLDER_MODE)
            except FileExistsError:
                pass
            else:
                durable.sync_folder(self._root)
            try:
                os.rename(file.name, target)
            except FileNotFoundError:
                continue  # the run was deleted in between
            break
        with contextlib.suppress(FileNotFoundError):  # the run was deleted just after
            durable.sync_folder(target.parent)

    def _delete(self, keys: Sequence[str]) -> None:
        folders = set()
        for key in keys:
            run, _, path = key.partition("/")
            if check_run_id(run) is not None:
                continue  # nothing of that name can be here
            file = self._file(run, path)
            with contextlib.suppress(FileNotFoundError):
                file.unlink()
                folders.add(file.parent)
        for folder in folders:
            durable.sync_folder(folder)

    def _delete_run(self, run: str) -> int:
        folder = self._folder(run)
        doomed = tempfile.mkdtemp(dir=self._temporary)
        try:
            # One rename, so that an upload that comes now gets a folder of its own.
            os.rename(folder, doomed)
        except FileNotFoundError:
            os.rmdir(doomed)
            return 0
        durable.sync_folder(self._root)
        count = len(os.listdir(doomed))
        while True:
            try:
                shutil.rmtree(doomed)
            except OSError as error:
                # An upload that had found the folder by its former name arrives in it still.
                if error.errno != errno.ENOTEMPTY:
                    raise
            else:
                return count

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Unavailable(
                f"The folder {self._root} for artifacts cannot be used now ({error.strerror}): free some space or mend "
                "the disk, and try again."
            ) from error


def _fields(query: str) -> tuple[str, str, str, str]:
    """Expiry, type, token and signature. Raises ValueError or KeyError when they are not there, each once; but for the token, "" then."""
    fields = {
        "for": [""],
        **parse_qs(query, keep_blank_values=True, strict_parsing=True, max_num_fields=8),
    }
    (expires,), (content_type,), (token,), (signature,) = (
        fields[name] for name in ("expires", "type", "for", "signature")
    )
    return expires, content_type, token, signature


class BlobReader:
    """A blob's bytes from the file's position on, a piece at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __aiter__(self) -> BlobReader:
        return self

    async def __anext__(self) -> bytes:
        if piece := await trio.to_thread.run_sync(self._file.read, _PIECE_BYTES):
            return piece
        await self.aclose()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._file.close()


def _discard(file: BinaryIO) -> None:
    with contextlib.suppress(OSError):  # closing writes what is buffered, which a full disk refuses
        file.close()
    Path(file.name).unlink(missing_ok=True)


def _open_or_none(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _read_header(file: BinaryIO) -> StoredBlob:
    """Leaves the file at the blob's first byte."""
    try:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ValueError
        fields = msgpack.unpackb(file.read(int.from_bytes(file.read(4), "big")))
        path, content_type = fields["path"], fields["content_type"]
    except (ValueError, KeyError, TypeError):
        raise NotFound(
            f"{file.name} is no artifact: it is damaged or was not written by this program."
        ) from None
    return StoredBlob(path, content_type, os.fstat(file.fileno()).st_size - file.tell())


def _list(folder: Path) -> Sequence[StoredBlob]:
    blobs = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            with path.open("rb") as file:
                blobs.append(_read_header(file))
    return sorted(blobs, key=lambda blob: blob.path)
