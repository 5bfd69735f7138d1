"""The store of a cluster is read by the commands themselves: while workers run, and when none does."""

from __future__ import annotations

from matyan import reader
from tests.cluster.commands import OnCluster
from tests.kafka.deployment import MOMENT, record
from tests.until import wait_for

RUNS = ("aa-first", "bb-second", "cc-third")
POINTS = 20


def fill(cluster: OnCluster) -> None:
    for run in RUNS:
        cluster.produce(
            cluster.ingestion,
            [
                record("create_run", run, client_datetime=MOMENT, force_resume=False),
                *(
                    record(
                        "log_metric",
                        run,
                        name="loss",
                        value=1 / (step + 1),
                        step=step,
                        epoch=None,
                        context={},
                        dtype="float",
                        client_datetime=MOMENT,
                    )
                    for step in range(POINTS)
                ),
                record("log_terminal_line", run, line=f"{run} speaks", step=0),
            ],
            run.encode(),
        )


def is_filled(cluster: OnCluster) -> bool:
    return cluster.points() == dict.fromkeys(RUNS, POINTS + 1)


def read_everything(cluster: OnCluster) -> list[object]:
    return [
        cluster.asked("runs"),
        cluster.asked("show", "aa"),
        cluster.asked_lines("logs", "bb", "--json"),
        cluster.asked_lines("export", "cc", "--format", "jsonl"),
        cluster.asked("artifacts", "aa"),
    ]


def test_commands_read_a_cluster(cluster: OnCluster) -> None:
    """The same with two workers, each a process, and with none; and the same from Python."""
    fill(cluster)
    with cluster.worker() as one, cluster.worker() as other:
        wait_for(lambda: is_filled(cluster))
        answers = read_everything(cluster)
        assert (one.stop(), other.stop()) == (0, 0)
    runs, shown, logs, points, artifacts = answers
    assert {row["run"] for row in runs} == set(RUNS)
    assert shown["run"] == "aa-first"
    assert [row["message"] for row in logs] == ["bb-second speaks"]
    assert len(points) == POINTS + 1
    assert artifacts == []
    assert read_everything(cluster) == answers
    with reader.open(cluster.store) as opened:
        assert [row["run"] for row in opened.runs()] == [row["run"] for row in runs]
        assert [*opened.metric("aa-first", "loss").steps] == [*range(POINTS)]
        assert opened.moments == 1


def test_the_cluster_of_the_setting_is_read(cluster: OnCluster) -> None:
    """FDB_CLUSTER_FILE, where --store names none."""
    file = cluster.store.removeprefix("fdb:")
    fill(cluster)
    with cluster.worker() as worker:
        wait_for(lambda: is_filled(cluster))
        assert worker.stop() == 0
    named = cluster.asked("runs")
    cluster.store = "fdb:"
    done = cluster.run("runs", FDB_CLUSTER_FILE=file)
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [
        row["run"] for row in named
    ]


def test_no_store_there_is_a_sentence(cluster: OnCluster) -> None:
    """Which says what makes one; reading makes none."""
    for words in (("runs",), ("export", "r"), ("delete", "r", "--yes")):
        done = cluster.run(*words, check=2)
        assert "holds no store of runs" in done.stderr
        assert "matyan ingest-worker --store" in done.stderr
    assert "holds no store of runs" in cluster.run("runs", check=2).stderr
