"""`matyan api` in front of a folder that a worker fills, on a real broker and a real S3 server."""

from __future__ import annotations

from pathlib import Path

from dev.broker import Broker
from tests.api.test_api import API
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.kafka.deployment import deploy
from tests.kafka.shown import walk
from tests.services import serving
from tests.tracker import asked, matyan, running
from tests.until import wait_for

__all__ = ["bucket"]


def test_a_deployment_is_shown_and_changed(broker: Broker, bucket: Bucket, tmp_path: Path) -> None:
    """Beside the worker that holds the folder; afterwards the store has no fault."""
    env = s3_environment(bucket.server, S3_BUCKET=bucket.name)
    data = tmp_path / "data"
    walk(deploy(broker, **env), bucket, f"rocks:{data}", tmp_path / "model.bin")
    assert matyan("check", "--data", data).stdout == ""
    assert [row["experiment"] for row in asked("runs", "--data", data)] == [None]


def test_without_its_worker_a_folder_is_not_shown(tmp_path: Path) -> None:
    """Alive and not ready, with the command that helps; a tracker's folder is refused, since the tracker shows it."""
    data = tmp_path / "data"
    with serving("api", "--store", f"rocks:{data}") as service:
        wait_for(lambda: "matyan ingest-worker --store" in service.unready())
        assert service.get("/health/live/")
        said = API(service).json("GET", "projects", status=503)["message"]
        assert f"matyan ingest-worker --store rocks:{data}" in said
        assert service.stop() == 0
    with running(data):
        done = matyan(
            "api", "--store", f"rocks:{data}", "--port", "0", "--host", "127.0.0.1", check=2
        )
    assert "shows what is in it at its own port" in done.stderr
