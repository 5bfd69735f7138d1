"""The operator's commands on a cluster: offsets, dead letters, doctor; and how a worker starts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from matyan.store.fdb.client import open_cluster
from tests.cluster.commands import OnCluster
from tests.cluster.test_reading import POINTS, RUNS, fill, is_filled
from tests.fdb import CLUSTER
from tests.kafka.deployment import record
from tests.until import wait_for

DB_LOCKED: Final = b"\xff\xff/management/db_locked"
RECORDS = len(RUNS) * (POINTS + 2)


def test_offsets_are_shown_beside_workers_and_reset_without_one(cluster: OnCluster) -> None:
    """A cluster's store is read while workers run; what is reset is where ingestion goes on."""
    done = cluster.run("offsets", "show")
    assert "There is no store in" in done.stderr
    fill(cluster)
    with cluster.worker() as worker:
        wait_for(lambda: is_filled(cluster))
        rows = cluster.asked("offsets", "show")
        assert sum(row["stored"] or 0 for row in rows) == RECORDS
        assert sum(row["lag"] for row in rows) == 0
        refused = cluster.run(
            "offsets", "reset", "--to", "end", "--all-partitions", "--yes", check=None
        )
        assert refused.returncode != 0
        assert worker.stop() == 0
    cluster.produce(cluster.ingestion, [record("add_tag", RUNS[0], tag_name="t")], b"aa-first")
    said = cluster.run("offsets", "reset", "--to", "end", "--all-partitions", "--yes").stderr
    assert "skipped for good" in said
    rows = cluster.asked("offsets", "show")
    assert sum(row["stored"] or 0 for row in rows) == RECORDS + 1
    with cluster.worker() as worker:
        cluster.produce(cluster.ingestion, [record("add_tag", RUNS[0], tag_name="u")], b"aa-first")
        wait_for(lambda: cluster.asked("show", "aa")["tags"] == ["u"])
        assert worker.stop() == 0


def test_dead_letters_are_kafkas(cluster: OnCluster) -> None:
    """With --store as with --kafka."""
    cluster.produce(f"{cluster.ingestion}", [b"no record"], b"r")
    with cluster.worker() as worker:
        wait_for(lambda: len(cluster.asked("dlq", "list")) == 1)
        (letter,) = cluster.asked("dlq", "list")
        assert cluster.run("dlq", "show", letter["id"]).stdout == "no record"
        assert worker.stop() == 0


def test_doctor_looks_at_the_cluster(cluster: OnCluster) -> None:
    """Reachable, versions, layout; none yet is no fault, the other layout is."""

    def store(**env: str) -> dict[str, object]:
        done = cluster.run("doctor", "--json", check=None, **env)
        (found,) = [one for one in json.loads(done.stdout) if one["check"] == "store"]
        return dict(found)

    found = store()
    assert found["ok"], found
    assert "none yet" in str(found["text"])
    fill(cluster)
    with cluster.worker() as worker:
        wait_for(lambda: is_filled(cluster))
        found = store()
        assert worker.stop() == 0
    assert found["ok"], found
    assert "compatible layout" in str(found["text"])
    assert "FoundationDB 7.3." in str(found["text"])
    assert "client library 7.3." in str(found["text"])
    found = store(MATYAN_SEQUENCE_LAYOUT="packed")
    assert not found["ok"]
    assert "set MATYAN_SEQUENCE_LAYOUT=compatible" in str(found["text"])


def test_a_worker_is_ready_when_its_store_answers(cluster: OnCluster) -> None:
    with cluster.worker() as worker:
        wait_for(lambda: worker.unready() == "")
        assert b"store" in worker.get("/health/ready/")
        assert worker.stop() == 0


def test_a_locked_database_is_named(cluster: OnCluster) -> None:
    """At once, and by a worker that waits for it to be unlocked."""
    with cluster.worker() as worker:
        wait_for(lambda: worker.unready() == "")
        with locked():
            assert "is locked" in cluster.run("runs", check=1).stderr
            done = cluster.run("doctor", "--json", check=1)
            assert [one["ok"] for one in json.loads(done.stdout) if "is locked" in one["text"]] == [
                False
            ]
            wait_for(lambda: "is locked" in worker.unready())
            with cluster.worker() as late:
                wait_for(lambda: "is locked" in late.unready())
                assert late.stop() == 0
        wait_for(lambda: worker.unready() == "")
        assert worker.stop() == 0
    assert cluster.run("runs").stdout == ""


@contextmanager
def locked() -> Iterator[None]:
    """As during a restore."""
    cluster = open_cluster(CLUSTER, 730)

    def lock(uid: bytes | None) -> None:
        tr = cluster.transaction()
        tr.options.set_special_key_space_enable_writes()
        tr.options.set_lock_aware()
        if uid is None:
            del tr[DB_LOCKED]
        else:
            tr[DB_LOCKED] = uid
        tr.commit().wait()

    lock(b"0123456789abcdef" * 2)
    try:
        yield
    finally:
        lock(None)
