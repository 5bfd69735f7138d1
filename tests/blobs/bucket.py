"""A bucket of its own on the session's S3 server, looked into by the plain client."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any

import pytest

from dev.s3 import ACCESS_KEY, S3, SECRET_KEY
from matyan.settings import Settings, load


def s3_environment(server: S3, **extra: str) -> dict[str, str]:
    return {
        "S3_ENDPOINT": server.endpoint,
        "S3_ACCESS_KEY": ACCESS_KEY,
        "S3_SECRET_KEY": SECRET_KEY,
        **extra,
    }


@dataclass
class Bucket:
    server: S3
    name: str
    client: Any

    def settings(self, **extra: str) -> Settings:
        return load(s3_environment(self.server, S3_BUCKET=self.name, **extra))

    def keys(self, prefix: str = "") -> set[str]:
        return self.server.keys(prefix, self.name)

    def put(self, key: str) -> None:
        self.client.put_object(Bucket=self.name, Key=key, Body=b"x")

    def get(self, key: str) -> tuple[str, bytes] | None:
        try:
            answer = self.client.get_object(Bucket=self.name, Key=key)
        except self.client.exceptions.NoSuchKey:
            return None
        return answer["ContentType"], answer["Body"].read()


def bucket_on(server: S3) -> Bucket:
    """A new one."""
    made = Bucket(server, f"b-{uuid.uuid4().hex[:12]}", server.client())
    server.make_bucket(made.name, made.client)
    return made


@pytest.fixture
def bucket(s3: S3) -> Bucket:
    return bucket_on(s3)
