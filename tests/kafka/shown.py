"""A whole deployment with the read API in front of its store: what is logged is shown, and what is changed goes the contract's way."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matyan_client import Repo, Run

from dev.process import free_ports
from tests.api.stream import shown
from tests.api.test_api import API
from tests.blobs.bucket import Bucket
from tests.kafka.deployment import Deployment
from tests.kafka.test_blobs import track
from tests.kafka.topics import read_topic
from tests.services import frontier
from tests.until import wait_for


def walk(deployment: Deployment, bucket: Bucket, store: str, file: Path) -> None:
    """A user's way: logs, looks, changes, deletes and restores; each service drains in the end."""
    file.write_bytes(bytes(range(256)) * 1_000)
    with (
        deployment.running("api", "--store", store) as service,
        deployment.running("ingest-worker", "--store", store) as ingest,
        deployment.running("control-worker", "--store", store) as control,
        frontier(deployment.broker, deployment.ingestion, **deployment.env) as front,
    ):
        api = API(service)
        kept, doomed = track(front.url, file), track(front.url, file)
        run = Run(kept, repo=front.url, experiment="doomed", capture_terminal_logs=False)
        run.add_tag("doomed")
        run.track(0.5, name="loss", step=1)
        run.close()
        wait_for(lambda: not service.unready())
        wait_for(lambda: sees(api, kept, "loss") and sees(api, doomed))
        it_is_shown(api, kept, file)
        it_is_changed(api, deployment, kept)
        it_is_parted(api, kept)
        it_is_deleted(api, deployment, bucket, doomed)
        nothing_stays_half_done(deployment, store, api, kept)
        for process in (service, ingest, control):
            assert process.stop() == 0


def sees(api: API, run: str, metric: str | None = None) -> bool:
    status, _, data = api.raw("GET", f"runs/{run}/info")
    metrics = [one["name"] for one in json.loads(data)["traces"]["metric"]] if status == 200 else []
    return status == 200 and (metric is None or metric in metrics)


def it_is_shown(api: API, run: str, file: Path) -> None:
    assert api.json("GET", "version")["component"] == "backend"
    assert run in api.stream("runs/search/run", q="run.experiment == 'doomed'")
    assert {one.hash for one in Repo(api.url).iter_runs()} >= {run}
    (points,) = api.json("POST", f"runs/{run}/metric/get-batch", [{"name": "loss", "context": {}}])
    assert points["values"] == [0.5]
    info = api.json("GET", f"runs/{run}/info")
    name = "deep/down/a+b %41 é.bin"
    assert {one["path"] for one in info["artifacts"]} == {"model.bin", name}
    status, headers, data = api.raw("GET", f"runs/{run}/artifacts/download?path={quote(name)}")
    assert (status, data) == (200, file.read_bytes())
    assert headers["content-type"] == "application/octet-stream"
    assert headers["content-length"] == str(len(data))
    assert api.raw("GET", f"runs/{run}/artifacts/download-all")[2].startswith(b"PK")
    _, _, batch = api.raw(
        "POST", f"runs/{run}/images/get-batch", [{"name": "picture", "context": {}}]
    )
    uri = shown(batch)["values"][0][0]["blob_uri"]
    _, _, blobs = api.raw("POST", "runs/images/get-batch", [uri])
    assert shown(blobs)[uri].startswith(b"\x89PNG")
    with urllib.request.urlopen(f"{api.url}/metrics/") as answer:
        assert b'path_template="/api/v1/rest/runs/<run>/info"' in answer.read()


def events_of(deployment: Deployment) -> list[tuple[bytes | None, str, Any]]:
    """Key, type and payload of each control event."""
    found = read_topic(deployment.broker, deployment.control)
    bodies = [(one.key(), json.loads(one.value() or b"")) for one in found]
    return [(key, body["type"], body["payload"]) for key, body in bodies]


def it_is_changed(api: API, deployment: Deployment, run: str) -> None:
    api.json("PUT", f"runs/{run}", {"name": "renamed", "archived": True})
    props = api.json("GET", f"runs/{run}/info")["props"]
    assert (props["name"], props["archived"]) == ("renamed", True)
    api.json("POST", "runs/archive-batch", [run, "gone"], archive="false")
    archived = {"run_id": run, "archived": True}
    assert events_of(deployment) == [
        (None, "run_archived", archived),
        (None, "run_unarchived", {**archived, "archived": False}),
    ]
    tag = api.json("POST", f"runs/{run}/tags/new", {"tag_name": "by hand"})["tag_id"]
    assert api.json("GET", f"tags/{tag}")["run_count"] == 1, "at once"
    api.json("DELETE", f"runs/{run}/tags/{tag}")
    assert api.json("GET", f"tags/{tag}")["run_count"] == 0
    note = api.json("POST", f"runs/{run}/note", {"content": "c"}, status=201)["id"]
    assert [one["id"] for one in api.json("GET", f"runs/{run}/note")] == [note]


def it_is_parted(api: API, run: str) -> None:
    """A deleted experiment and tag leave the run: it is updated by the control worker."""
    before = api.json("GET", f"runs/{run}/info")["props"]
    assert before["experiment"]["name"] == "doomed"
    for family, one in (("experiments", before["experiment"]), ("tags", before["tags"][0])):
        api.json("DELETE", f"{family}/{one['id']}")
        assert one["id"] not in {left["id"] for left in api.json("GET", family)}
    props = api.json("GET", f"runs/{run}/info")["props"]
    assert (props["experiment"]["name"], props["tags"]) == (None, [])


def it_is_deleted(api: API, deployment: Deployment, bucket: Bucket, run: str) -> None:
    """Hidden at once, by the log's record deleted; and made anew when that is forgotten."""
    api.json("DELETE", f"runs/{run}")
    api.json("GET", f"runs/{run}/info", status=404)
    api.json("DELETE", f"runs/{run}", status=404)
    records = read_topic(deployment.broker, deployment.ingestion)
    (deletion,) = [one for one in records if b'"delete_run"' in (one.value() or b"")]
    assert deletion.key() == run.encode()
    body = json.loads(deletion.value() or b"")
    assert (body["run_id"], body["payload"]) == (run, {})
    # Its partition is the one of the run's other records.
    assert {one.partition() for one in records if one.key() == run.encode()} == {
        deletion.partition()
    }
    wait_for(lambda: not bucket.keys(f"{run}/"))
    api.json("POST", f"runs/{run}/clear-tombstone", status=204)


def nothing_stays_half_done(deployment: Deployment, store: str, api: API, run: str) -> None:
    """Where Kafka does not take it, a change is an error, and nothing of it is done."""
    (nobody,) = free_ports(1)
    away = {"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{nobody}", "MATYAN_DELIVERY_TIMEOUT_S": "1"}
    with deployment.running("api", "--store", store, **away) as service:
        wait_for(lambda: not service.unready())
        cut_off = API(service)
        experiment = api.json("POST", "experiments", {"name": "stays"})["id"]
        wishes: list[tuple[str, str, Any]] = [
            ("DELETE", f"runs/{run}", None),
            ("PUT", f"runs/{run}", {"name": "other", "archived": True}),
            ("DELETE", f"experiments/{experiment}", None),
        ]
        for method, path, body in wishes:
            said = cut_off.json(method, path, body, status=503)
            assert "Kafka" in said["message"], said
        cut_off.json("PUT", f"runs/{run}", {"description": "needs no Kafka"})
        props = cut_off.json("GET", f"runs/{run}/info")["props"]
        assert (props["name"], props["archived"]) == ("renamed", False)
        assert props["description"] == "needs no Kafka"
        cut_off.json("GET", f"experiments/{experiment}")
        assert service.stop() == 0
