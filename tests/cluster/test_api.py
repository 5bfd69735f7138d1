"""`matyan api` on a cluster's store, two replicas of it: what one changes the other shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.api.test_api import API
from tests.blobs.bucket import Bucket, bucket, s3_environment
from tests.cluster.commands import OnCluster
from tests.kafka.shown import walk
from tests.until import wait_for

__all__ = ["bucket"]


@pytest.mark.parametrize("layout", ["compatible", "packed"])
def test_a_deployment_is_shown_and_changed(
    cluster: OnCluster, bucket: Bucket, tmp_path: Path, layout: str
) -> None:
    """Beside any number of workers; afterwards the store has no fault."""
    env = s3_environment(bucket.server, S3_BUCKET=bucket.name, MATYAN_SEQUENCE_LAYOUT=layout)
    cluster.env = {**cluster.env, **env}
    walk(cluster, bucket, cluster.store, tmp_path / "model.bin")
    assert cluster.run("check").stdout == ""


def test_replicas_wait_for_the_store_and_show_one(cluster: OnCluster) -> None:
    """Alive and not ready until a worker has made it; each change is there for all of them."""
    with (
        cluster.running("api", "--store", cluster.store) as one,
        cluster.running("api", "--store", cluster.store) as other,
    ):
        wait_for(lambda: "store" in one.unready() and "store" in other.unready())
        assert one.get("/health/live/")
        said = API(one).json("GET", "projects", status=503)
        assert said["message"] == said["detail"]
        with cluster.worker() as worker:
            wait_for(lambda: not one.unready() and not other.unready())
            made = API(one).json("POST", "experiments", {"name": "made"})["id"]
            assert API(other).json("GET", f"experiments/{made}")["name"] == "made"
            API(one).json("POST", "tags", {"name": "made"})
            API(other).json("POST", "tags", {"name": "made"}, status=409)
            assert worker.stop() == 0
        assert (one.stop(), other.stop()) == (0, 0)
