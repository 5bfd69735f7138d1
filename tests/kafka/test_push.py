"""`matyan push` to a frontier over a real broker, and of a store that Kafka feeds, with its artifacts in S3."""

from __future__ import annotations

import json
from pathlib import Path

from dev.broker import Broker
from matyan import reader
from matyan.store.open import is_data_folder
from tests.blobs.aws import aws
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.kafka.deployment import deploy
from tests.kafka.test_reference import reference
from tests.kafka.topics import create_topic
from tests.moving.runs import every_kind, everything, log, upload
from tests.services import frontier, ingest_worker
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
    if not is_data_folder(fed):
        return False
    with reader.open(source) as first, reader.open(fed) as second:
        states = {row["run"]: row["active"] for row in second.rows()}
        artifacts = all(
            len([*second.artifacts(run)]) == len([*first.artifacts(run)]) for run in states
        )
        return artifacts and states == {row["run"]: row["active"] for row in first.rows()}


def test_runs_go_to_the_references_frontier(broker: Broker, tmp_path: Path) -> None:
    """It has no read API, takes no fraction of an epoch and does not say which message of a frame it refused: all others arrive, once."""
    topic = "pushed-to-the-reference"
    create_topic(broker, topic, 2)
    create_topic(broker, f"{topic}-dlq")
    at = {"client_datetime": "2025-01-01T00:00:00Z"}
    rest = {"name": "m", "value": 0.5, "context": {"s": 1}, "dtype": "float", **at}
    messages = [
        {"type": "create_run", **at},
        {"type": "log_hparams", "value": {"hparams": {"lr": 0.1}}},
        *({"type": "log_metric", "step": step, "epoch": None, **rest} for step in range(50)),
        {"type": "log_metric", "step": 50, "epoch": 0.5, **rest},
        *({"type": "log_terminal_line", "line": f"l{step}", "step": step} for step in range(20)),
        *({"type": "log_record", "message": "r", "level": 20, "timestamp": 1} for _ in range(20)),
        {"type": "finish_run", **at},
    ]
    fed = tmp_path / "fed"
    with running(tmp_path / "source") as source:
        log(source.url, "a", iter(messages))
        with reference(broker, topic) as url:
            push = ["push", "a", "--data", str(source.data), "--to", url, "--json"]
            said = json.loads(matyan(*push, check=1).stdout)
        assert (said["sent"], said["rejected"], said["perhaps_twice"]) == (["a"], 1, {})
        assert "epoch" in said["rejections"][0]["reason"]
        with ingest_worker(broker, fed, topic):
            wait_for(lambda: is_there(source.data, fed))
        with reader.open(source.data) as first, reader.open(fed) as second:
            logged, stored = everything(first, "a"), everything(second, "a")
            assert len(stored["points"]) == len(logged["points"]) - 1
            assert set(stored["points"]) < set(logged["points"])
            assert stored["attrs"] == logged["attrs"]
