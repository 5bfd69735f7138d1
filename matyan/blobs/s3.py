"""Blobs in S3 or a server that speaks it: URLs are signed in this process, bytes never pass through it.

No retry of a call: the callers have their own. Only keys that an answer names as not deleted are asked for again.
"""

from __future__ import annotations

import re
import urllib.request
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, Final, TypeVar

import boto3
import trio
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from matyan.blobs.base import ListedBlob, Upload
from matyan.errors import ConfigurationError, NotFound, Unavailable
from matyan.parsing import LONGEST_EXPIRY_S
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

_MEND = "Look at S3_ENDPOINT and S3_REGION, and whether the server runs."
_MENDS: Final = {
    "NoSuchBucket": "Make that bucket, or name another one with S3_BUCKET.",
    **dict.fromkeys(
        ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "S3_ACCESS_KEY and S3_SECRET_KEY must be a key that may list, put and delete in S3_BUCKET.",
    ),
    "RequestTimeTooSkewed": "Set this machine's clock.",
}
"""What mends an error, by the S3 API's code."""

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
        if not settings.s3_access_key or not settings.s3_secret_key:
            # Without them botocore would look for some in files and on the network.
            raise ConfigurationError("S3_ACCESS_KEY or S3_SECRET_KEY is empty: set both.")
        if settings.s3_presign_expiry > LONGEST_EXPIRY_S:
            raise ConfigurationError(
                f"S3_PRESIGN_EXPIRY={settings.s3_presign_expiry}: S3 allows {LONGEST_EXPIRY_S} seconds at most."
            )
        self._bucket = settings.s3_bucket
        self._expiry = settings.s3_presign_expiry
        self._page = page
        self._where = f"S3 at {settings.s3_endpoint}, bucket {settings.s3_bucket}"
        self._client = _client(settings, settings.s3_endpoint, "S3_ENDPOINT")
        # What a client reaches can have another name than what this process reaches; a signature covers the name.
        public = settings.s3_public_endpoint or settings.s3_endpoint
        self._signer = (
            self._client
            if public == settings.s3_endpoint
            else _client(settings, public, "S3_PUBLIC_ENDPOINT")
        )
        try:
            # The first signature reads rules from the disk, 9 ms: not in the loop. And it checks the bucket's name.
            self._sign("run/path", "text/plain")
        except BotoCoreError as error:
            raise ConfigurationError(
                f"S3_BUCKET={settings.s3_bucket}: {_said(error)}. Name another bucket."
            ) from None

    async def presign_put(self, run: str, path: str, content_type: str, base_url: str) -> Upload:
        """Signs for S3_PUBLIC_ENDPOINT. In the loop's thread: it opens no network and takes less than a millisecond."""
        await trio.lowlevel.checkpoint()
        key = f"{run}/{path}"
        return Upload(self._sign(key, content_type), key, None)

    def _sign(self, key: str, content_type: str) -> str:
        url: str = self._signer.generate_presigned_url(
            "put_object",
            Params={"Bucket": self._bucket, "Key": key, "ContentType": content_type},
            ExpiresIn=self._expiry,
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
            keys = [key for key in refused if refused[key].get("Code") not in _MENDS]
            if not keys or wait_s is None:
                break
            await trio.sleep(wait_s)
        return refused

    def _not_deleted(self, refused: Refused) -> Unavailable:
        key, row = next(iter(refused.items()))
        others = f" and {len(refused) - 1} other keys were" if len(refused) > 1 else " was"
        return Unavailable(
            f"{self._where}: {key}{others} not deleted: {row.get('Code')}, {row.get('Message')}. "
            f"{_MENDS.get(row.get('Code', ''), _MEND)}"
        )

    # --- for `matyan artifacts`, in its own thread -------------------------------------------------

    def sizes(self, run: str) -> dict[str, int]:
        """The bytes of each blob of a run, by its path. Blocks."""
        found: dict[str, int] = {}
        last = ""
        while True:
            with self._translated():
                page = self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=f"{run}/", StartAfter=last
                )
            for row in page.get("Contents", []):
                last = row["Key"]
                found[last.removeprefix(f"{run}/")] = row["Size"]
            if not page.get("IsTruncated"):
                return found

    def pieces(self, run: str, path: str) -> Iterator[bytes]:
        """The bytes of a blob, in pieces. Blocks.

        Raises:
            NotFound: there is no such blob.
        """
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
        place = {"Bucket": self._bucket, "Key": key}
        url = self._client.generate_presigned_url("put_object", place, ExpiresIn=60)
        await trio.to_thread.run_sync(_put, url, b"probe", abandon_on_cancel=True)
        await self.delete([key])

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
        try:
            answer = await trio.to_thread.run_sync(
                lambda: self._client.head_bucket(Bucket=self._bucket), abandon_on_cancel=True
            )
        except ClientError as error:
            answer = error.response
        except BotoCoreError as error:
            raise Unavailable(f"{self._where} does not answer: {_said(error)}. {_MEND}") from error
        date = _date(answer)
        if date is None:
            raise Unavailable(
                f"{self._where} tells no time: its answer has no Date header. {_MEND}"
            )
        return date.timestamp()

    async def _call(self, call: Callable[..., T], **arguments: Any) -> T:
        with self._translated(), trio.move_on_after(_CALL_S):
            # Given up with its thread when the caller is cancelled: a drain must not wait for a server that hangs,
            # and to delete again what this call still deletes is harmless.
            return await trio.to_thread.run_sync(
                partial(call, Bucket=self._bucket, **arguments), abandon_on_cancel=True
            )
        raise Unavailable(
            f"{self._where} does not answer: nothing whole within {_CALL_S:g} s. {_MEND}"
        )

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            raise Unavailable(
                f"{self._where}: {_said(error)}. {_MENDS.get(code, _MEND)}"
            ) from error
        except BotoCoreError as error:
            raise Unavailable(f"{self._where} does not answer: {_said(error)}. {_MEND}") from error


def _date(answer: Mapping[str, Any]) -> datetime | None:
    """The server's time, as an answer of it tells."""
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    return None if date is None else parsedate_to_datetime(date)


def _said(error: Exception) -> str:
    """botocore's sentence, without a full stop."""
    return str(error).removesuffix(".")


def _put(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, method="PUT")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as error:  # every error of urllib is one
        raise Unavailable(f"S3: a PUT to a presigned URL failed: {error}. {_MEND}") from error


def _client(settings: Settings, endpoint: str, name: str) -> Any:
    try:
        return boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=settings.s3_access_key,
            aws_secret_access_key=settings.s3_secret_key.reveal(),
            region_name=settings.s3_region,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                connect_timeout=_CONNECT_S,
                read_timeout=_READ_S,
                retries={"total_max_attempts": 1},
                # The default adds checksums that not every server that speaks S3 knows.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError(
            f"{name}={endpoint}: {_said(error)}; expected http://host:port or https://host."
        ) from None
