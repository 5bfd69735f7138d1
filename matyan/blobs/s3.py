"""Blobs in S3 or a server that speaks it: URLs are signed in this process, bytes never pass through it.

No retry: the callers have their own.
"""

from __future__ import annotations

import urllib.request
import uuid
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from typing import Any, TypeVar

import boto3
import trio
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from matyan.blobs.base import Upload
from matyan.errors import ConfigurationError, Unavailable
from matyan.settings import Settings

T = TypeVar("T")

_PAGE = 1_000
"""The most keys that one DeleteObjects takes (Amazon S3 API reference)."""


class S3Blobs:
    """`Blobs` (base.py) in one bucket."""

    def __init__(self, settings: Settings) -> None:
        if settings.blob_backend_type != "s3":
            raise ConfigurationError(
                f"BLOB_BACKEND_TYPE={settings.blob_backend_type} is not supported: use s3, or an S3 gateway"
            )
        self._bucket = settings.s3_bucket
        self._expiry = settings.s3_presign_expiry
        self._client = _client(settings, settings.s3_endpoint)
        # What a client reaches can have another name than what this process reaches; a signature covers the name.
        public = settings.s3_public_endpoint or settings.s3_endpoint
        self._signer = self._client if public == settings.s3_endpoint else _client(settings, public)

    async def presign_put(self, run: str, path: str, content_type: str, base_url: str) -> Upload:
        key = f"{run}/{path}"
        url = await self._call(
            lambda: self._signer.generate_presigned_url(
                "put_object",
                Params={"Bucket": self._bucket, "Key": key, "ContentType": content_type},
                ExpiresIn=self._expiry,
            )
        )
        return Upload(url, key, None)

    async def delete(self, keys: Sequence[str]) -> int:
        for begin in range(0, len(keys), _PAGE):
            objects = [{"Key": key} for key in keys[begin : begin + _PAGE]]
            answer = await self._call(
                partial(
                    self._client.delete_objects,
                    Bucket=self._bucket,
                    Delete={"Objects": objects, "Quiet": True},
                )
            )
            if answer.get("Errors"):
                first = answer["Errors"][0]
                raise Unavailable(f"S3 did not delete {first.get('Key')}: {first.get('Message')}")
        return len(keys)

    async def delete_run(self, run: str) -> int:
        count = 0
        while True:
            page = await self._call(
                lambda: self._client.list_objects_v2(
                    Bucket=self._bucket, Prefix=f"{run}/", MaxKeys=_PAGE
                )
            )
            keys = [row["Key"] for row in page.get("Contents", [])]
            if not keys:
                return count
            count += await self.delete(keys)

    # --- for `matyan doctor` -----------------------------------------------------------------------

    async def check(self) -> None:
        """Lists, puts a probe object by a presigned URL as a client would, and deletes it.

        Raises:
            Unavailable: which of these did not work, and the settings that decide about it.
        """
        key = f"matyan-doctor/{uuid.uuid4()}"
        place = {"Bucket": self._bucket, "Key": key}
        try:
            await self._call(lambda: self._client.list_objects_v2(Bucket=self._bucket, MaxKeys=1))
            # By the address that this process reaches: the public one may be for clients alone.
            url = await self._call(
                lambda: self._client.generate_presigned_url("put_object", place, ExpiresIn=60)
            )
            await trio.to_thread.run_sync(_put, url, b"probe")
            await self.delete([key])
        except Unavailable as error:
            code = getattr(error.__cause__, "response", {}).get("Error", {}).get("Code")
            raise Unavailable(f"{error}: {_MENDS.get(code, _MEND)}") from error

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
            raise Unavailable(f"S3: {error}") from error
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            raise Unavailable("S3: the server's answer has no Date header")
        return parsedate_to_datetime(date).timestamp()

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(call)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"S3: {error}") from error


_MEND = "look at S3_ENDPOINT and S3_REGION, and whether the server runs"
_MENDS = {
    "NoSuchBucket": "make that bucket, or name another one with S3_BUCKET",
    **dict.fromkeys(
        ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"),
        "S3_ACCESS_KEY and S3_SECRET_KEY must be a key that may list, put and delete in S3_BUCKET",
    ),
    "RequestTimeTooSkewed": "set this machine's clock",
}
"""What mends an error, by the S3 API's code."""


def _put(url: str, body: bytes) -> None:
    request = urllib.request.Request(url, body, method="PUT")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except OSError as error:  # every error of urllib is one
        raise Unavailable(f"S3: a PUT to a presigned URL failed: {error}") from error


def _client(settings: Settings, endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        region_name=settings.s3_region,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
