"""Blobs of a deployment, end to end: the SDK's uploads, a run's deletion, and S3 or the control worker failing in it."""

from __future__ import annotations

import io
import json
import time
from pathlib import Path

import pytest
from matyan_client import Run
from matyan_client.objects import Image
from PIL import Image as Pillow

from dev.broker import Broker
from dev.s3 import S3
from tests.blobs.aws import Aws, aws, use
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.kafka.deployment import deploy, event
from tests.kafka.topics import read_topic
from tests.services import frontier
from tests.tracker import Service, asked, environment, matyan
from tests.until import wait_for

__all__ = ["aws", "bucket"]


# --- everything works ----------------------------------------------------------------------------


def track(url: str, file: Path) -> str:
    """A run of the unmodified SDK with an image and two artifacts; its id."""
    picture = io.BytesIO()
    Pillow.new("L", (8, 8), 128).save(picture, "PNG")
    run = Run(repo=url, capture_terminal_logs=False)
    run.track(Image(picture.getvalue()), name="picture", step=4)
    run.log_artifact(str(file))
    run.log_artifact(str(file), name="deep/down/a+b %41 é.bin")
    run.close()
    return str(run.hash)


def paths(run: str) -> dict[str, str]:
    return {
        f"{run}/seq/picture/4.png": "image/png",
        f"{run}/model.bin": "application/octet-stream",
        f"{run}/deep/down/a+b %41 é.bin": "application/octet-stream",
    }


def test_blobs_come_by_the_sdk_and_go_with_their_run(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    """Uploaded to S3 under the keys that the store names; a delete_run record deletes that run's and no other's."""
    deployment = deploy(broker, **s3_environment(bucket.server, S3_BUCKET=bucket.name))
    data, file = tmp_path / "data", tmp_path / "model.bin"
    file.write_bytes(bytes(range(256)) * 1_000)
    with (
        frontier(broker, deployment.ingestion, **deployment.env) as front,
        deployment.running("ingest-worker", "--store", f"rocks:{data}") as ingest,
        deployment.running("control-worker") as control,
    ):
        doomed, kept = track(front.url, file), track(front.url, file)
        for run in doomed, kept:
            assert bucket.keys(f"{run}/") == paths(run).keys()
            assert bucket.get(f"{run}/model.bin") == ("application/octet-stream", file.read_bytes())
            wait_for(lambda run=run: blobs_in_store(data, run) == paths(run))
        artifacts_come_back(bucket, data, kept, file.read_bytes(), tmp_path / "back")
        neighbour = f"{doomed}1/model.bin"
        bucket.put(neighbour)

        deployment.delete_run(doomed)
        wait_for(lambda: not bucket.keys(f"{doomed}/"))
        assert [row["run"] for row in asked("runs", "--data", data)] == [kept]
        (told,) = read_topic(broker, deployment.control)
        assert f'"run_id":"{doomed}"'.encode() in (told.value() or b"")
        for process in ingest, control:
            assert process.stop() == 0
    assert bucket.keys() == {*paths(kept), neighbour}


def artifacts_come_back(bucket: Bucket, data: Path, run: str, model: bytes, back: Path) -> None:
    """The command asks S3 itself; a key that the bucket has not has no bytes."""
    env = environment(**s3_environment(bucket.server, S3_BUCKET=bucket.name))
    words = ("artifacts", run, "--data", data)
    rows = json.loads(matyan(*words, "--json", env=env).stdout)
    assert {f"{run}/{row['path']}": row["content_type"] for row in rows} == paths(run)
    assert {row["path"]: row["bytes"] for row in rows}["model.bin"] == len(model)
    matyan(*words, "--all", back, env=env)
    assert (back / "model.bin").read_bytes() == model
    assert len([path for path in back.rglob("*") if path.is_file()]) == len(rows)
    piped = matyan(
        *words, "--get", "model.bin", env={**env, "S3_BUCKET": f"{bucket.name}2"}, check=1
    )
    assert "S3_BUCKET" in piped.stderr


def blobs_in_store(data: Path, run: str) -> dict[str, str]:
    """s3_key → content type, as the store has them."""
    rows = asked("runs", "--data", data) if (data / "rocksdb").is_dir() else []
    if run not in [row["run"] for row in rows]:
        return {}
    blobs = asked("show", run, "--data", data)["attrs"].get("__blobs__", {})
    return {blob["s3_key"]: blob["content_type"] for blob in blobs.values()}


def test_the_sdk_uploads_for_a_role_and_with_kms(
    broker: Broker,
    bucket: Bucket,
    aws: Aws,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """A frontier without a key: its pod's identity is exchanged for credentials, and the unmodified SDK sends the headers that the
    signature covers."""
    use("web identity", aws, monkeypatch, tmp_path)
    given = s3_environment(bucket.server, S3_BUCKET=bucket.name)
    given |= {"S3_ACCESS_KEY": "", "S3_SECRET_KEY": ""}
    sse = {"MATYAN_S3_SSE": "aws:kms", "MATYAN_S3_SSE_KMS_KEY_ID": "alias/artifacts"}
    deployment = deploy(broker, **given, **sse)
    file = tmp_path / "model.bin"
    file.write_bytes(b"model")
    with frontier(broker, deployment.ingestion, **deployment.env) as front:
        run = track(front.url, file)
        found = bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]
        assert {row["Key"] for row in found} == paths(run).keys()
    assert aws.given == 1


# --- S3 is away, or the control worker -----------------------------------------------------------


def consumed(worker: Service) -> float:
    """How many events it has taken so far."""
    return sum(worker.metric("matyan_control_events_consumed_total"))


def put_blobs(s3: S3, *runs: str) -> None:
    client = s3.client()
    for run in runs:
        for number in range(5):
            client.put_object(Bucket="matyan-artifacts", Key=f"{run}/{number}", Body=b"x")


def test_s3_that_was_frozen_and_killed_is_waited_for(broker: Broker, own_s3: S3) -> None:
    """The worker is not ready meanwhile and tries again without end; the blobs go when S3 is back, in the events' order."""
    deployment = deploy(broker, **s3_environment(own_s3))
    put_blobs(own_s3, "first", "second", "other")
    with deployment.running("control-worker") as worker:
        wait_for(lambda: not worker.unready())
        own_s3.freeze()
        deployment.run_deleted("first", "second")
        wait_for(lambda: consumed(worker) >= 1)
        own_s3.kill()
        wait_for(lambda: sum(worker.metric("matyan_retries_total")) >= 3)
        wait_for(worker.unready)
        own_s3.start()
        wait_for(lambda: own_s3.keys() == {f"other/{number}" for number in range(5)})
        wait_for(lambda: not worker.unready())
        assert worker.stop() == 0


def test_sigterm_ends_a_wait_for_s3_and_the_next_worker_goes_on(broker: Broker, own_s3: S3) -> None:
    """Within SHUTDOWN_FLUSH_TIMEOUT and a moment, although the answer of a frozen S3 is waited for much longer."""
    deployment = deploy(broker, **s3_environment(own_s3))
    put_blobs(own_s3, "first", "other")
    with deployment.running("control-worker", SHUTDOWN_FLUSH_TIMEOUT="1") as worker:
        wait_for(lambda: not worker.unready())
        own_s3.freeze()
        deployment.run_deleted("first")
        wait_for(lambda: consumed(worker) >= 1)
        began = time.monotonic()
        assert worker.stop() == 0
        assert time.monotonic() - began < 15
    own_s3.thaw()
    assert own_s3.keys() >= {f"other/{number}" for number in range(5)}
    put_blobs(own_s3, "first")
    with deployment.running("control-worker") as worker:
        wait_for(lambda: own_s3.keys() == {f"other/{number}" for number in range(5)})
        assert worker.stop() == 0


def test_a_killed_worker_repeats_and_poison_goes_alone(own_broker: Broker, own_s3: S3) -> None:
    """kill -9 in the middle of a deletion; the next worker does it again and goes on, past an event that never works."""
    deployment = deploy(own_broker, **s3_environment(own_s3), MATYAN_INSTANCE_ID="control-1")
    put_blobs(own_s3, "first", "second", "other")
    poison = [b"no event", event("run_deleted", run_id="../other"), event("run_exploded")]
    with deployment.running("control-worker") as worker:
        wait_for(lambda: not worker.unready())
        own_s3.freeze()
        deployment.run_deleted("first")
        deployment.produce(deployment.control, poison, key=b"a key")
        deployment.run_deleted("second")
        wait_for(lambda: consumed(worker) >= 1)
        worker.process.kill()
        worker.process.wait()
    own_s3.thaw()
    with deployment.running("control-worker") as worker:
        wait_for(lambda: own_s3.keys() == {f"other/{number}" for number in range(5)})
        assert worker.stop() == 0

    letters = read_topic(own_broker, f"{deployment.control}-dlq")
    assert [(letter.key(), letter.value()) for letter in letters] == [
        (b"a key", value) for value in poison
    ]
    for offset, letter in enumerate(letters, start=1):
        headers = dict(letter.headers() or [])
        assert headers["topic"] == deployment.control.encode()
        assert (headers["partition"], headers["offset"]) == (b"0", b"%d" % offset)
        assert headers["error_class"] == b"InvalidRecord"
        assert headers["error_text"]
        assert headers.keys() >= {"version", "time"}


def test_a_deletion_that_comes_twice_does_no_harm(broker: Broker, bucket: Bucket) -> None:
    """Named keys, all of a run, a run that never had one: each event twice, and what was not named stays."""
    deployment = deploy(broker, **s3_environment(bucket.server, S3_BUCKET=bucket.name))
    for key in "a/1", "a/2", "b/1", "b/2", "c/1":
        bucket.put(key)
    events = [
        event("run_deleted", run_id="a", blob_keys=["a/1"]),
        event("run_deleted", run_id="b"),
        event("run_deleted", run_id="nobody"),
        event("run_archived", run_id="c", archived=True),
    ]
    deployment.produce(deployment.control, [*events, *events])
    with deployment.running("control-worker") as worker:
        wait_for(lambda: consumed(worker) >= 8)
        wait_for(lambda: bucket.keys() == {"a/2", "c/1"})
        assert worker.stop() == 0
    assert read_topic(broker, f"{deployment.control}-dlq") == []
    # The next worker finds the offset behind them all.
    deployment.run_deleted("c")
    with deployment.running("control-worker") as worker:
        wait_for(lambda: bucket.keys() == {"a/2"})
        assert consumed(worker) == 1
        assert worker.stop() == 0
