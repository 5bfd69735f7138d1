"""Blobs in S3 or a server that speaks it: URLs are signed in this process, bytes never pass through it.

No retry of a call: the callers have their own. Only keys that an answer names as not deleted are asked for again.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeVar

import trio
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from matyan.blobs.base import ListedBlob, Upload
from matyan.blobs.s3_client import encryption, open_client
from matyan.blobs.s3_credentials import S3Credentials
from matyan.blobs.s3_sentences import STALE, code_of, mend, mend_of, said, stays
from matyan.errors import ConfigurationError, NotFound, Unavailable
from matyan.parsing import LONGEST_EXPIRY_S
from matyan.service.authorities import require_authorities
from matyan.settings import Settings

T = TypeVar("T")

_PIECE_BYTES = 1 << 20
"""So much of a blob is read at once."""
_CONNECT_S = 3.0
_READ_S = 8.0
"""The server must say something within this time. A deletion that takes longer goes on in it, and the next attempt finds less."""
_CALL_S = 20.0
"""And be through within this: one that says a byte now and then is as good as frozen."""
_AGAIN_S: Final = (0.1, 0.5)
"""Waits before keys that were not deleted are asked for again, in the same call."""
_NOT_XML = re.compile("[^\t\n\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What the body of DeleteObjects cannot carry (XML 1.0, Char; a carriage return would come out as a line feed)."""

_NOT_SO: Final = {"InvalidArgument", "InvalidEncryptionAlgorithmError", "NotImplemented"}
"""Codes with which servers refuse an encryption."""

Refused = dict[str, dict[str, str]]
"""What a server says of each key that it did not delete."""


class S3Blobs:
    """`Blobs` (blobs/base.py) in one bucket.

    Args:
        page: keys that one request lists and deletes; 1,000 is the most that S3 takes (Amazon S3 API reference).

    Raises:
        ConfigurationError: a setting is missing or unusable.
    """

    def __init__(self, settings: Settings, *, page: int = 1_000) -> None:
        if settings.blob_backend_type != "s3":
            raise ConfigurationError(
                f"BLOB_BACKEND_TYPE={settings.blob_backend_type} is not supported: use s3, or an S3 gateway."
            )
        if settings.s3_presign_expiry > LONGEST_EXPIRY_S:
            raise ConfigurationError(
                f"S3_PRESIGN_EXPIRY={settings.s3_presign_expiry}: S3 allows {LONGEST_EXPIRY_S} seconds at most."
            )
        self._bucket = settings.s3_bucket
        self._expiry = settings.s3_presign_expiry
        self._page = page
        self._where = f"S3 at {settings.s3_endpoint}, bucket {settings.s3_bucket}"
        self._encryption = encryption(settings)
        require_authorities("S3_CA_FILE", settings.s3_ca_file)
        self._ca_file = settings.s3_ca_file
        self.credentials = S3Credentials(settings)
        self._client = self._open(settings, settings.s3_endpoint, "S3_ENDPOINT")
        # What a client reaches can have another name than what this process reaches; a signature covers the name.
        public = settings.s3_public_endpoint or settings.s3_endpoint
        self._signer = (
            self._client
            if public == settings.s3_endpoint
            else self._open(settings, public, "S3_PUBLIC_ENDPOINT")
        )
        for client, endpoint in ((self._client, settings.s3_endpoint), (self._signer, public)):
            self._try_out(client, endpoint, settings.s3_addressing)

    def _try_out(self, client: Any, endpoint: str, addressing: str) -> None:
        """The first signature reads rules from the disk, 9 ms: not in the loop. And it checks the bucket's name."""
        try:
            url = self._sign(client, "run/path", 1, ContentType="text/plain")
        except BotoCoreError as error:
            raise ConfigurationError(
                f"S3_BUCKET={self._bucket}: {said(error)}. Name another bucket."
            ) from None
        if addressing == "virtual" and f"//{self._bucket}." not in url:
            raise ConfigurationError(
                f"MATYAN_S3_ADDRESSING=virtual: S3_BUCKET={self._bucket} cannot be a part of the host's name in {endpoint}. Use a "
                "bucket of small letters, digits and -, and an endpoint with a name; or path."
            )

    def _open(self, settings: Settings, endpoint: str, name: str) -> Any:
        limits = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S)
        return open_client(settings, endpoint, name, self.credentials.session(), limits)

    async def presign_put(
        self, run: str, path: str, content_type: str, base_url: str, token: str = ""
    ) -> Upload:
        """Signs for S3_PUBLIC_ENDPOINT, for no longer than the credentials are good: S3 refuses a URL that outlives them.

        In the loop's thread: it opens no network and takes less than a millisecond, once there are credentials.
        """
        await trio.lowlevel.checkpoint()
        await self.credentials.fresh()
        key = f"{run}/{path}"
        url = self._sign(self._signer, key, self._seconds(self._expiry), ContentType=content_type)
        return Upload(url, key, self._encryption.headers or None)

    def _seconds(self, wanted: int) -> int:
        left = self.credentials.seconds_left()
        return wanted if left is None else max(1, min(wanted, int(left)))

    def _sign(self, client: Any, key: str, seconds: int, **extra: str) -> str:
        url: str = client.generate_presigned_url(
            "put_object",
            Params={"Bucket": self._bucket, "Key": key, **self._encryption.params, **extra},
            ExpiresIn=seconds,
        )
        return url

    async def delete(self, keys: Sequence[str]) -> int:
        """See `Blobs`. One key that cannot be deleted holds up no other: what is wrong is told at the end."""
        refused = await self._delete(keys)
        if refused:
            raise self._not_deleted(refused)
        return len(keys)

    async def delete_run(self, run: str) -> int:
        """See `Blobs`. Page by page, so that an end in the midst of it leaves less to the next attempt."""
        count = 0
        refused: Refused = {}
        async for page in self.pages(f"{run}/"):
            refused |= await self._delete([blob.key for blob in page])
            count += len(page)
        if refused:
            raise self._not_deleted(refused)
        return count

    async def pages(self, prefix: str = "", after: str = "") -> AsyncIterator[Sequence[ListedBlob]]:
        """The objects whose keys begin so, behind the key `after`, in pages; see `ListedBlobs`."""
        while True:
            # From the last key on and not from the first again: a server that lists what it does not delete must not
            # turn this into a loop without end (some show folders as keys).
            answer = await self._call(
                self._client.list_objects_v2, Prefix=prefix, MaxKeys=self._page, StartAfter=after
            )
            # By the clock that has set the times: this machine's may be another.
            now = _date(answer) or datetime.now(UTC)
            rows = answer.get("Contents", [])
            if not rows:
                return
            yield [
                ListedBlob(row["Key"], (now - row["LastModified"]).total_seconds(), row["Size"])
                for row in rows
            ]
            after = rows[-1]["Key"]

    async def _delete(self, keys: Sequence[str]) -> Refused:
        """What could not be deleted."""
        refused: Refused = {}
        together = []
        for key in keys:
            if not _NOT_XML.search(key):
                together.append(key)
                continue
            await self._call(self._client.delete_object, Key=key)
        for begin in range(0, len(together), self._page):
            refused |= await self._delete_page(together[begin : begin + self._page])
        return refused

    async def _delete_page(self, keys: Sequence[str]) -> Refused:
        for wait_s in (*_AGAIN_S, None):
            objects = [{"Key": key} for key in keys]
            answer = await self._call(
                self._client.delete_objects, Delete={"Objects": objects, "Quiet": True}
            )
            refused = {
                row.get("Key", ""): row
                for row in answer.get("Errors", [])
                if row.get("Code") != "NoSuchKey"
            }
            keys = [key for key in refused if not stays(refused[key].get("Code", ""))]
            if not keys or wait_s is None:
                break
            await trio.sleep(wait_s)
        return refused

    def _not_deleted(self, refused: Refused) -> Unavailable:
        key, row = next(iter(refused.items()))
        others = f" and {len(refused) - 1} other keys were" if len(refused) > 1 else " was"
        return Unavailable(
            f"{self._where}: {key}{others} not deleted: {row.get('Code')}, {row.get('Message')}. "
            f"{mend_of(row.get('Code', ''), row.get('Message', ''))}"
        )

    async def open(self, run: str, path: str) -> tuple[str, int, S3Body]:
        """A blob's type, its size in bytes, and its bytes; close them with `aclose`.

        Raises:
            NotFound: there is no such blob.
            Unavailable: the server does not answer.
        """

        def get(**place: str) -> Any:
            try:
                return self._client.get_object(**place)
            except self._client.exceptions.NoSuchKey:
                raise NotFound(
                    f"{self._where}: there is no artifact {path} of run {run}."
                ) from None

        found = await self._call(get, Key=f"{run}/{path}")
        kind = found.get("ContentType", "application/octet-stream")
        return kind, found["ContentLength"], S3Body(found["Body"], self._translated)

    # --- for `matyan artifacts`, in its own thread -------------------------------------------------

    def held(self, run: str) -> dict[str, tuple[int, float]]:
        """The bytes of each blob of a run, and when they were written, in epoch seconds, by its path. Blocks."""
        found: dict[str, tuple[int, float]] = {}
        last = ""
        while True:
            self.credentials.fresh_in_thread()
            with self._translated():
                page = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=f"{run}/", StartAfter=last
                )
            for row in page.get("Contents", []):
                last = row["Key"]
                modified = row["LastModified"].timestamp()
                found[last.removeprefix(f"{run}/")] = row["Size"], modified
            if not page.get("IsTruncated"):
                return found

    def pieces(self, run: str, path: str) -> Iterator[bytes]:
        """The bytes of a blob, in pieces. Blocks.

        Raises:
            NotFound: there is no such blob.
        """
        self.credentials.fresh_in_thread()
        with self._translated():
            try:
                found = self._client.get_object(Bucket=self._bucket, Key=f"{run}/{path}")
            except self._client.exceptions.NoSuchKey:
                raise NotFound(
                    f"{self._where}: there is no artifact {path} of run {run}."
                ) from None
            yield from found["Body"].iter_chunks(_PIECE_BYTES)

    # --- for `matyan doctor` -----------------------------------------------------------------------

    async def check(self) -> None:
        """Lists, puts a probe object by a presigned URL as a client would, and deletes it.

        Raises:
            Unavailable: which of these did not work, and the settings that decide about it.
        """
        key = f"matyan-doctor/{uuid.uuid4()}"
        await self.list_one()
        # By the address that this process reaches: the public one may be for clients alone.
        url = self._sign(self._client, key, self._seconds(60))
        await trio.to_thread.run_sync(self._put, url, b"probe", abandon_on_cancel=True)
        await self.delete([key])

    def _put(self, url: str, body: bytes) -> None:
        """As a client does, by the certificates and proxies of this process's other requests."""
        bundle = self._ca_file or self.credentials.session().get_config_variable("ca_bundle")
        http = URLLib3Session(
            verify=bundle or True, proxies=get_environ_proxies(url), timeout=_READ_S
        )
        request = AWSRequest("PUT", url, dict(self._encryption.headers), body)
        with self._translated():
            answer = http.send(request.prepare())
        if answer.status_code != 200:
            found = re.search(
                r"<Code>(.*?)</Code>.*?<Message>(.*?)</Message>", answer.text, re.DOTALL
            )
            code, message = found.groups() if found is not None else ("", "")
            mends = (code in _NOT_SO and self._encryption.mend) or mend_of(code, message)
            raise Unavailable(
                f"{self._where}: a PUT to a presigned URL was answered with {answer.status_code} {code}. {mends}"
            )

    async def list_one(self) -> None:
        """The cheapest question that shows whether the bucket is there and the key may be used.

        Raises:
            Unavailable: it may not, or the server does not answer.
        """
        await self._call(self._client.list_objects_v2, MaxKeys=1)

    async def server_time(self) -> float:
        """The S3 server's clock in epoch seconds, to the second, from the Date header of whatever it answers.

        Raises:
            Unavailable: it does not answer, or tells no time.
        """
        await self.credentials.fresh()
        try:
            answer = await trio.to_thread.run_sync(
                lambda: self._client.head_bucket(Bucket=self._bucket), abandon_on_cancel=True
            )
        except ClientError as error:
            answer = error.response
        except BotoCoreError as error:
            raise self._unavailable(error) from error
        date = _date(answer)
        if date is None:
            raise Unavailable(
                f"{self._where} tells no time: its answer has no Date header. Look at S3_ENDPOINT: is it an S3 server?"
            )
        return date.timestamp()

    async def _call(self, call: Callable[..., T], **arguments: Any) -> T:
        await self.credentials.fresh()
        with self._translated(), trio.move_on_after(_CALL_S):
            # Given up with its thread when the caller is cancelled: a drain must not wait for a server that hangs,
            # and to delete again what this call still deletes is harmless.
            return await trio.to_thread.run_sync(
                partial(call, Bucket=self._bucket, **arguments), abandon_on_cancel=True
            )
        raise Unavailable(
            f"{self._where} does not answer: nothing whole within {_CALL_S:g} s. Look at S3_ENDPOINT, and whether the server is "
            "well."
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except (BotoCoreError, ClientError) as error:
            if code_of(error) in STALE:
                self.credentials.doubt()
            raise self._unavailable(error) from error

    def _unavailable(self, error: Exception) -> Unavailable:
        how = ":" if isinstance(error, ClientError) else " does not answer:"
        return Unavailable(f"{self._where}{how} {said(error)}. {mend(error)}")


class S3Body:
    """A blob's bytes as they come from the server."""

    def __init__(self, body: Any, translated: Callable[[], AbstractContextManager[None]]) -> None:
        self._body = body
        self._translated = translated

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """
        Raises:
            Unavailable: the server broke off.
        """
        while piece := await self._read():
            yield piece

    async def _read(self) -> bytes:
        with self._translated():
            piece: bytes = await trio.to_thread.run_sync(
                self._body.read, _PIECE_BYTES, abandon_on_cancel=True
            )
            return piece

    async def aclose(self) -> None:
        self._body.close()
        await trio.lowlevel.checkpoint()


def _date(answer: Mapping[str, Any]) -> datetime | None:
    """The server's time, as an answer of it tells."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return None if date is None else parsedate_to_datetime(date)
