"""`matyan push` to a frontier over a real broker, and of a store that Kafka feeds, with its artifacts in S3."""

from __future__ import annotations

from pathlib import Path

from dev.broker import Broker
from matyan import reader
from tests.blobs.aws import aws
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.kafka.deployment import deploy
from tests.moving.runs import every_kind, everything, log, upload
from tests.services import frontier
from tests.tracker import environment, matyan, running
from tests.until import wait_for

__all__ = ["aws", "bucket"]

RUNS = 4


def test_runs_go_to_a_frontier_and_come_back_out_of_its_store(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    """What a worker made of what the frontier took is what was logged, once; so is what a push of that store makes of it."""
    deployment = deploy(broker, **s3_environment(bucket.server, S3_BUCKET=bucket.name))
    fed, back = tmp_path / "fed", tmp_path / "back"
    with running(tmp_path / "source") as source:
        for seed in range(RUNS):
            log(source.url, f"run-{seed}", every_kind(seed))
            upload(source.url, f"run-{seed}", "deep/down/a+b é.bin", b"bytes" * 10_000 * seed)
        with (
            frontier(broker, deployment.ingestion, **deployment.env) as front,
            deployment.running("ingest-worker", "--store", f"rocks:{fed}"),
            running(back) as last,
        ):
            pushed = matyan("push", "--all", "--data", source.data, "--to", front.url)
            assert "does not say what it has" in pushed.stderr
            again = matyan("push", "--all", "--data", source.data, "--to", front.url)
            assert again.stdout.startswith(f"0 runs sent, {RUNS} were there as they are: 0 points")
            wait_for(lambda: is_there(source.data, fed))
            env = environment(**deployment.env)
            refused = matyan("pull", "--all", "--from", source.url, "--data", fed, env=env, check=2)
            assert "come from Kafka" in refused.stderr
            matyan("push", "--all", "--data", fed, "--to", last.url, env=env)
        with (
            reader.open(source.data) as first,
            reader.open(fed) as second,
            reader.open(back) as third,
        ):
            for seed in range(RUNS):
                run = f"run-{seed}"
                logged = everything(first, run)
                assert everything(third, run) == logged
                del logged["bytes"]  # of the store in the middle they are in S3
                assert everything(second, run, artifacts=False) == logged


def is_there(source: Path, fed: Path) -> bool:
    """Whether the worker has applied the last record of each run."""
    with reader.open(source) as first, reader.open(fed) as second:
        states = {row["run"]: row["active"] for row in second.rows()}
        artifacts = all(
            len([*second.artifacts(run)]) == len([*first.artifacts(run)]) for run in states
        )
        return artifacts and states == {row["run"]: row["active"] for row in first.rows()}
