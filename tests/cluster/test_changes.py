"""What commands change on a cluster goes through Kafka's log, and is applied by whichever worker has the partition."""

from __future__ import annotations

import json

from tests.cluster.commands import OnCluster
from tests.cluster.test_reading import POINTS, RUNS, fill, is_filled
from tests.kafka.deployment import MOMENT, record
from tests.kafka.topics import read_topic
from tests.until import wait_for


def test_a_deletion_goes_through_kafka(cluster: OnCluster) -> None:
    """`delete` ends when the run is gone, and the control event is out."""
    fill(cluster)
    with cluster.worker() as one, cluster.worker() as other:
        wait_for(lambda: is_filled(cluster))
        assert "deleted run aa-first" in cluster.run("delete", "aa-first", "--yes").stdout
        assert cluster.points() == dict.fromkeys(RUNS[1:], POINTS + 1)
        assert "no run" in cluster.run("delete", "aa-first", "--yes", check=1).stderr
        assert (one.stop(), other.stop()) == (0, 0)
    events = read_topic(cluster.broker, cluster.control)
    assert [b'"run_id":"aa-first"' in (event.value() or b"") for event in events] == [True]
    records = [one.value() or b"" for one in read_topic(cluster.broker, cluster.ingestion)]
    assert sum(b'"delete_run"' in value for value in records) == 1


def test_a_run_is_finished_through_kafka(cluster: OnCluster) -> None:
    """When it was last heard of."""
    fill(cluster)
    later = record("add_tag", "aa-first", tag_name="late").replace(b"T03:04:05.", b"T03:14:05.")
    cluster.produce(cluster.ingestion, [later], b"aa-first")
    with cluster.worker() as worker:
        wait_for(lambda: is_filled(cluster))
        wait_for(lambda: cluster.asked("show", "aa")["tags"] == ["late"])
        said = cluster.run("finish", "aa-first").stdout
        assert "finished run aa-first (10 min 00 s)" in said
        meta = cluster.asked("show", "aa")["meta"]
        assert (meta["active"], meta["duration"]) == (False, 600.0)
        assert "had ended before" in cluster.run("finish", "aa-first").stderr
        assert worker.stop() == 0
    records = [one.value() or b"" for one in read_topic(cluster.broker, cluster.ingestion)]
    (finish,) = [value for value in records if b'"finish_run"' in value]
    assert json.loads(finish)["payload"] == {"client_datetime": MOMENT.replace(":04:", ":14:")}
