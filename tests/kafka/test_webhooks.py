"""Webhooks over Kafka: the control worker tells what stands in the ingestion workers' store, whichever of them lives."""

from __future__ import annotations

import signal
from pathlib import Path

from matyan_client import Run

from dev.broker import Broker
from dev.process import free_ports
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.cli.test_webhooks import file_of
from tests.kafka.deployment import deploy, event
from tests.receiver import receiving
from tests.services import frontier
from tests.tracker import matyan
from tests.until import wait_for

__all__ = ["bucket"]


def test_what_two_control_workers_owe_is_told_whichever_of_them_dies(
    broker: Broker, bucket: Bucket, tmp_path: Path
) -> None:
    """The receiver is away until the one at work was killed."""
    (port,) = free_ports(1)
    file, store = file_of(tmp_path, "chat", port=port), f"rocks:{tmp_path / 'data'}"
    deployment = deploy(
        broker,
        **s3_environment(bucket.server, S3_BUCKET=bucket.name),
        MATYAN_WEBHOOKS_FILE=str(file),
    )
    control = ("control-worker", "--store", store)
    with (
        deployment.running("ingest-worker", "--store", store),
        deployment.running(*control) as first,
        frontier(broker, deployment.ingestion, **deployment.env) as front,
    ):
        run = Run("run", repo=front.url, capture_terminal_logs=False)
        run.track(0.5, name="loss", step=1)
        run.close()
        waiting = 'matyan_webhook_waiting_notices{webhook="chat"}'
        wait_for(lambda: first.metric(waiting) == [1])
        deployment.produce(deployment.control, [event("tag_deleted", tag_id="none")])
        deployment.delete_run("run")
        wait_for(lambda: first.metric(waiting) == [3])
        wait_for(lambda: not first.unready())
        first.stop(signal.SIGKILL)
        with deployment.running(*control), receiving(port) as receiver:
            wait_for(lambda: {*receiver.at("/chat")} >= {("tag_deleted", "none")})
            wait_for(lambda: ("run_deleted", "run") in receiver.at("/chat"))
            ended, deleted = ("run_finished", "run"), ("run_deleted", "run")
            mine = [one for one in receiver.at("/chat") if one[1] == "run"]
            assert mine.index(ended) < mine.index(deleted)


def test_webhooks_want_a_store(broker: Broker, tmp_path: Path) -> None:
    file = file_of(tmp_path, "chat", port=1)
    said = matyan("control-worker", "--webhooks-file", file, check=2).stderr
    assert "--store" in said
    assert "Traceback" not in said
