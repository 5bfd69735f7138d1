"""Jobs of a deployment: beside its workers, with objects in S3, and with what is left in the log."""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient

from dev import s3 as s3_
from dev.broker import Broker
from dev.process import stopped_at_end
from dev.s3 import BUCKET, S3, Versity
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.kafka.deployment import Deployment, deploy
from tests.needs import needed
from tests.tracker import environment, matyan
from tests.until import wait_for

__all__ = ["bucket"]

AT_LENGTH = os.environ.get("MATYAN_TEST_AT_LENGTH") == "1"
OBJECTS = 100_000 if AT_LENGTH else 5_000
KILLS = 12 if AT_LENGTH else 3


def send(deployment: Deployment, kind: str, run: str, **payload: object) -> None:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    value = {"type": kind, "run_id": run, "timestamp": now, "payload": payload}
    deployment.produce(deployment.ingestion, [json.dumps(value).encode()], run.encode())


def test_objects_and_tombstones_go_when_nothing_needs_them(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    """What a record names stays, and so does a tombstone as long as the log has records from before it."""
    deployment = deploy(broker, **s3_environment(bucket.server, S3_BUCKET=bucket.name))
    clean_up(deployment, bucket, "--store", f"rocks:{tmp_path / 'data'}")


def runs_in(*store: str) -> set[str]:
    """None before a worker has made the store."""
    told = matyan("runs", *store, "--json", check=None)
    return {row["run"] for row in json.loads(told.stdout)} if told.returncode == 0 else set()


def clean_up(deployment: Deployment, bucket: Bucket, *store: str) -> None:
    env = environment(**deployment.env)
    with deployment.running("ingest-worker", *store) as worker:
        for run in "kept", "gone":
            blob = {"s3_key": f"{run}/a", "artifact_path": "a", "content_type": "x/y"}
            send(deployment, "blob_ref", run, **blob)
        wait_for(lambda: runs_in(*store) == {"kept", "gone"})
        send(deployment, "delete_run", "gone")
        wait_for(lambda: runs_in(*store) == {"kept"})
        for key in "kept/a", "kept/unnamed", "gone/a", "gone/late":
            bucket.put(key)
        # A day old is none of them.
        told = matyan("cleanup-orphan-blobs", *store, env=env)
        assert told.stdout == "deletes gone/a\ndeletes gone/late\n"
        told = matyan("cleanup-orphan-blobs", *store, "--older-than", "0s", env=env)
        assert told.stdout == "deletes kept/unnamed\n"
        assert bucket.keys() == {"kept/a"}

        words = ("cleanup-tombstones", *store, "--tombstone-cleanup-older-than-hours", "0")
        told = matyan(*words, env=env)
        assert "the log still has records" in told.stdout
        assert "tombstones gone" not in told.stderr
        forget_the_log(deployment)
        told = matyan(*words, env=env)
        assert "1 tombstones gone" in told.stderr
        told = matyan("finish-stale", *store, "--older-than", "0s", env=env)
        assert told.stdout == "finished kept\n"
        assert matyan("reindex", *store, env=env).stdout == ""
        assert matyan("check", *store, env=env).stdout == ""
        assert worker.stop() == 0


def forget_the_log(deployment: Deployment) -> None:
    """As a topic's retention does."""
    admin = AdminClient({"bootstrap.servers": deployment.broker.bootstrap})
    parts = admin.list_topics(deployment.ingestion).topics[deployment.ingestion].partitions
    everything = [TopicPartition(deployment.ingestion, number, -1) for number in parts]
    for done in admin.delete_records(everything).values():
        done.result(30)


def test_objects_of_a_store_that_is_behind_stay(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    """Their records may stand in the log: no worker runs, and the one who names an object is not applied."""
    deployment = deploy(broker, **s3_environment(bucket.server, S3_BUCKET=bucket.name))
    store = ("--store", f"rocks:{tmp_path / 'data'}")
    send(deployment, "create_run", "run", client_datetime=None, force_resume=False)
    with deployment.running("ingest-worker", *store) as worker:
        wait_for(lambda: runs_in(*store))
        assert worker.stop() == 0
    blob = {"s3_key": "run/a", "artifact_path": "a", "content_type": "x/y"}
    send(deployment, "blob_ref", "run", **blob)
    bucket.put("run/a")
    time.sleep(1)  # the object is older than --older-than then
    words = ("cleanup-orphan-blobs", *store, "--older-than", "0s")
    told = matyan(*words, env=environment(**deployment.env))
    assert "the ingestion is behind" in told.stdout
    assert bucket.keys() == {"run/a"}


@pytest.fixture
def own_versity(tmp_path: Path) -> Iterator[S3]:
    """A server that shows the files of a folder as objects."""
    needed(s3_.versity, "MATYAN_TEST_REQUIRE_S3")
    server = Versity(tmp_path / "versity")
    with stopped_at_end(server, server.start):
        yield server


def test_a_large_deletion_survives_kills_at_any_moment(broker: Broker, own_versity: S3) -> None:
    """kill -9 again and again in the midst of it: in the end every object of the run is gone, and none of another one's."""
    dice = random.Random(7)
    folder = own_versity.folder / "data" / BUCKET
    for run, count in (("doomed", OBJECTS), ("doomed1", 3)):
        for number in range(count):
            path = folder / run / f"{number % 50}" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"x")
    deployment = deploy(broker, **s3_environment(own_versity), MATYAN_INSTANCE_ID="control-1")
    deployment.run_deleted("doomed")

    def left() -> int:
        return sum(len(files) for _, _, files in os.walk(folder / "doomed"))

    for _ in range(KILLS):
        with deployment.running("control-worker") as worker:
            before = left()
            wait_for(lambda before=before: left() < before or not before)
            time.sleep(dice.uniform(0, 0.2))
            worker.process.kill()
            worker.process.wait()
    with deployment.running("control-worker") as worker:
        wait_for(lambda: not left())
        assert worker.stop() == 0
    assert own_versity.keys() == {f"doomed1/{number}/{number}.png" for number in range(3)}
