"""The jobs on a FoundationDB cluster, beside its workers."""

from __future__ import annotations

from dev.broker import Broker
from tests import fdb
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.kafka.deployment import deploy
from tests.kafka.test_jobs import clean_up

__all__ = ["bucket"]


def test_objects_and_tombstones_go_when_nothing_needs_them(broker: Broker, bucket: Bucket) -> None:
    """As on a data folder."""
    deployment = deploy(broker, **s3_environment(bucket.server, S3_BUCKET=bucket.name))
    clean_up(deployment, bucket, "--store", f"fdb:{fdb.CLUSTER}")
