"""Blobs in S3 or a server that speaks it: URLs are signed in this process, bytes never pass through it.

No retry: the callers have their own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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

    async def _call(self, call: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(call)
        except (BotoCoreError, ClientError) as error:
            raise Unavailable(f"S3: {error}") from error


def _client(settings: Settings, endpoint: str) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=endpoint,
        aws_access_key_id=settings.s3_access_key,
        aws_secret_access_key=settings.s3_secret_key,
        region_name=settings.s3_region,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}),
    )
