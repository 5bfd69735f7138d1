"""The store of a Kafka worker is a data folder: the same commands read it, while the worker runs and when not."""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from dev.broker import Broker
from matyan import reader
from tests.kafka.deployment import MOMENT, Deployment, deploy, record
from tests.kafka.topics import read_topic
from tests.tracker import asked, asked_lines, environment, matyan
from tests.until import wait_for

RUNS = ("aa-first", "bb-second", "cc-third")


def fill(deployment: Deployment) -> None:
    for run in RUNS:
        deployment.produce(
            deployment.ingestion,
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
                    for step in range(20)
                ),
                record("log_terminal_line", run, line=f"{run} speaks", step=0),
            ],
            run.encode(),
        )


def stored(data: Path) -> dict[str, int]:
    """How many points each run has; none before there is a folder."""
    if not (data / "rocksdb").is_dir():
        return {}
    return {row["run"]: row["points"] for row in asked("runs", "--counts", "--data", data)}


def read_everything(data: Path) -> list[object]:
    return [
        asked("runs", "--data", data),
        asked("show", "aa", "--data", data),
        asked_lines("logs", "bb", "--json", "--data", data),
        asked_lines("export", "cc", "--format", "jsonl", "--data", data),
    ]


def worker_words(data: Path) -> tuple[str, ...]:
    return "ingest-worker", "--store", f"rocks:{data}", "--workers", "2"


@pytest.mark.parametrize("layout", ["packed", "compatible"])
def test_commands_read_a_workers_folder(broker: Broker, tmp_path: Path, layout: str) -> None:
    """runs, show, logs and export answer the same with the worker and without, in the layout that the folder has."""
    deployment, data = deploy(broker), tmp_path / "data"
    fill(deployment)
    with deployment.running(*worker_words(data), MATYAN_SEQUENCE_LAYOUT=layout) as worker:
        wait_for(lambda: stored(data) == dict.fromkeys(RUNS, 21))
        answers = read_everything(data)
        assert worker.stop() == 0
    runs, shown, logs, points = answers
    assert {row["run"] for row in runs} == set(RUNS)
    assert shown["run"] == "aa-first"
    assert [row["message"] for row in logs] == ["bb-second speaks"]
    assert len(points) == 21
    assert read_everything(data) == answers

    # A worker that is told no layout goes on in the one that the folder has.
    deployment.produce(
        deployment.ingestion, [record("add_tag", RUNS[0], tag_name="late")], RUNS[0].encode()
    )
    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: asked("show", "aa", "--data", data)["tags"] == ["late"])
        assert worker.stop() == 0


def dropped(deployment: Deployment, data: Path) -> list[int]:
    """What `offsets show` counts for each partition."""
    words = ("offsets", "show", "--store", f"rocks:{data}", "--json")
    rows = json.loads(matyan(*words, env=environment(**deployment.env)).stdout)
    return [row["dropped"] or 0 for row in rows]


def test_a_deletion_goes_through_kafka(broker: Broker, tmp_path: Path) -> None:
    """With the worker, `delete` ends when the run is gone, and the control event is out; without it, it is refused."""
    deployment, data = deploy(broker), tmp_path / "data"
    fill(deployment)
    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: len(stored(data)) == 3)
        done = matyan("delete", "aa-first", "--yes", "--data", data)
        assert "deleted run aa-first" in done.stdout
        assert stored(data).keys() == {"bb-second", "cc-third"}
        again = matyan("delete", "aa-first", "--yes", "--data", data, check=1)
        assert "no run" in again.stderr
        late = [record("add_tag", "aa-first", tag_name="t")] * 7
        deployment.produce(deployment.ingestion, late, b"aa-first")
        wait_for(lambda: sum(dropped(deployment, data)) == 7)
        assert worker.stop() == 0
    assert sum(dropped(deployment, data)) == 7
    events = read_topic(broker, deployment.control)
    assert [b'"run_id":"aa-first"' in (event.value() or b"") for event in events] == [True]
    records = [one.value() or b"" for one in read_topic(broker, deployment.ingestion)]
    assert sum(b'"delete_run"' in value for value in records) == 1

    refused = matyan("delete", "bb-second", "--yes", "--data", data, check=2)
    assert "come from Kafka" in refused.stderr
    assert f"matyan ingest-worker --store rocks:{data}" in refused.stderr
    assert stored(data).keys() == {"bb-second", "cc-third"}
    assert len(read_topic(broker, deployment.control)) == 1


def test_a_run_is_finished_through_kafka(broker: Broker, tmp_path: Path) -> None:
    """When it was last heard of; without the worker, it is refused."""
    deployment, data = deploy(broker), tmp_path / "data"
    fill(deployment)
    later = record("add_tag", "aa-first", tag_name="late").replace(b"T03:04:05.", b"T03:14:05.")
    deployment.produce(deployment.ingestion, [later], b"aa-first")
    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: len(stored(data)) == 3)
        wait_for(lambda: asked("show", "aa", "--data", data)["tags"] == ["late"])
        assert (
            "finished run aa-first (10 min 00 s)"
            in matyan("finish", "aa-first", "--data", data).stdout
        )
        meta = asked("show", "aa", "--data", data)["meta"]
        assert (meta["active"], meta["duration"]) == (False, 600.0)
        assert "had ended before" in matyan("finish", "aa-first", "--data", data).stderr
        assert worker.stop() == 0
    records = [one.value() or b"" for one in read_topic(broker, deployment.ingestion)]
    (finish,) = [value for value in records if b'"finish_run"' in value]
    assert json.loads(finish)["payload"] == {"client_datetime": MOMENT.replace(":04:", ":14:")}
    refused = matyan("finish", "bb-second", "--data", data, check=2)
    assert f"matyan ingest-worker --store rocks:{data}" in refused.stderr


def test_other_commands_say_that_kafka_feeds_the_folder(broker: Broker, tmp_path: Path) -> None:
    """dlq points at Kafka's topics, with the worker and without; `matyan up` does not feed the same folder."""
    deployment, data = deploy(broker), tmp_path / "data"
    fill(deployment)

    def dead_letters() -> None:
        for words in ("list",), ("show", "1"), ("replay", "--all"):
            done = matyan("dlq", *words, "--data", data, check=1)
            assert "Kafka's dead-letter topics" in done.stderr, done

    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: len(stored(data)) == 3)
        dead_letters()
        assert worker.stop() == 0
    dead_letters()
    done = matyan("up", "--port", "0", "--data", data, check=2, env=environment())
    assert "come from Kafka" in done.stderr
    assert not (data / "blobs").exists()


def test_a_worker_waits_for_a_command_to_leave(broker: Broker, tmp_path: Path) -> None:
    """A command that reads the folder just when the worker starts does not end the worker."""
    deployment, data = deploy(broker), tmp_path / "data"
    fill(deployment)
    with deployment.running(*worker_words(data)) as worker:
        wait_for(lambda: len(stored(data)) == 3)
        assert worker.stop() == 0
    deployment.produce(
        deployment.ingestion, [record("add_tag", RUNS[0], tag_name="late")], RUNS[0].encode()
    )
    with ExitStack() as processes:
        with reader.open(data) as held:
            worker = processes.enter_context(deployment.running(*worker_words(data)))
            time.sleep(4)
            assert held.show("aa")["tags"] == []
        wait_for(lambda: asked("show", "aa", "--data", data)["tags"] == ["late"])
        assert worker.stop() == 0
