"""The read API with what nobody should send or store: an answer for the caller, never an error of ours, and never half an answer."""

from __future__ import annotations

import json
import socket
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from typing import Any, cast

import pytest
import trio
from matyan_client import Run
from matyan_client.objects import Text
from websockets.sync.client import connect

from matyan._codec import tree_records
from matyan.api import objects as api_objects
from matyan.service.http1 import Head
from matyan.service.web import Exchange
from tests.api.stream import objects, shown
from tests.api.test_api import API, log
from tests.tracker import running

ENDS = [-(2**63), -1, 0, 2**31, 2**53 + 1, 2**63 - 2, 2**63 - 1]
HALF = "\ud800"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    with running(tmp_path_factory.mktemp("hostile") / "data") as tracker:
        log(tracker, "plain", 0.1)
        run = Run("hostile", repo=tracker.url, capture_terminal_logs=False)
        run["hparams"] = {"": 1, "(empty)": 2}
        for value in (True, 1, 1.0):
            run.track(1.0, name=type(value).__name__, step=0, context={"s": value})
        for step in ENDS:
            run.track(1.5, name="ends", step=step)
            run.track(Text(str(step)), name="words", step=step)
        run.close()
        yield API(tracker)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "runs/delete-batch", [HALF]),
        ("POST", "runs/archive-batch", [HALF]),
        ("POST", "runs/hostile/metric/get-batch", [{"name": HALF, "context": {}}]),
        ("POST", "runs/search/metric/align", {"align_by": HALF, "runs": []}),
        (
            "POST",
            "runs/search/metric/align",
            {"align_by": "ends", "runs": [{"run_id": HALF, "traces": []}]},
        ),
        ("POST", "tags", {"name": HALF}),
        ("PUT", "runs/hostile", {"name": HALF}),
    ],
)
def test_half_a_character_is_the_callers_fault(api: API, method: str, path: str, body: Any) -> None:
    api.json(method, path, body, status=400)


@pytest.mark.parametrize(
    "query", ["run.hash == '{}'", "'{}' in run.tags", "run.experiment in ['{}']"]
)
def test_half_a_character_in_a_query_is_the_callers_fault(api: API, query: str) -> None:
    api.json("GET", "runs/search/run", status=400, q=query.format("\\ud800"))


def test_a_query_may_name_a_thousand_runs(api: API) -> None:
    names = ",".join(f'"{number:032x}"' for number in range(1_000))
    found = api.stream("runs/search/run", q=f'run.hash in ["hostile",{names}]')
    assert [*found] == ["hostile"]


def test_all_steps_are_sent_and_aligned(api: API) -> None:
    found = api.stream("runs/search/metric", q="metric.name == 'ends'", x_axis="ends")
    (trace,) = found["hostile"]["traces"]
    assert trace["iters"] == trace["x_axis_iters"] == [float(step) for step in ENDS]
    sent = {"name": "ends", "context": {}, "slice": trace["slice"]}
    asked = {"align_by": "ends", "runs": [{"run_id": "hostile", "traces": [sent]}]}
    status, _, data = api.raw("POST", "runs/search/metric/align", asked)
    assert status == 200, data
    assert shown(data)["hostile"][0]["x_axis_iters"] == trace["iters"]


def test_an_offset_that_matches_no_more_is_passed(api: API) -> None:
    sort = json.dumps([{"field": "hash", "order": "asc"}])
    found = api.stream(
        "runs/search/run", q="run.hash == 'plain'", offset="hostile", sort=sort, limit=9
    )
    assert [*found] == ["plain"]
    assert api.stream("runs/search/run", q="run.hash == 'plain'", offset="plain", sort=sort) == {}


def test_a_page_of_an_experiment_goes_on_behind_a_run_that_left_it(api: API) -> None:
    (experiment,) = api.json("GET", "experiments")
    runs = f"experiments/{experiment['id']}/runs"
    found = api.json("GET", runs, offset="hostile", limit=5)["runs"]
    assert [one["run_id"] for one in found] == ["plain"]
    api.json("GET", runs, offset="gone", status=404)


def test_notes_are_of_what_is_there(api: API) -> None:
    for owner in ("runs/gone", "experiments/gone"):
        api.json("POST", f"{owner}/note", {"content": "for nobody"}, status=404)


def test_an_empty_kind_means_all(api: API) -> None:
    assert len(api.json("GET", "runs/hostile/info", sequence="")["traces"]) == 6
    assert len(api.json("GET", "projects/params", sequence="", exclude_params="true")) == 6


def test_a_context_deeper_than_any_is_unknown(api: API) -> None:
    context: dict[str, Any] = {}
    for _ in range(400):
        context = {"a": context}
    wanted = [{"name": "ends", "context": context, "slice": [0, 1, 1]}]
    assert api.json("POST", "runs/hostile/metric/get-batch", wanted) == []
    asked = {"align_by": "ends", "runs": [{"run_id": "hostile", "traces": wanted}]}
    status, _, data = api.raw("POST", "runs/search/metric/align", asked)
    assert status == 200, data
    assert shown(data)["hostile"][0]["x_axis_values"] is None


@pytest.mark.parametrize("content_type", ["a/b\r\nX-Made-Up: 1", "\u00fcn\u00ef/\u65e5", "\x7f"])
def test_a_file_of_any_content_type_can_be_downloaded(api: API, content_type: str) -> None:
    path = f"files/{len(content_type)}.bin"
    asked = {"run_id": "hostile", "artifact_path": path}
    octets = {"Content-Type": "application/octet-stream"}
    url = api.json("POST", "artifacts/presign", asked)["upload_url"]
    upload = urllib.request.Request(url, b"hello", octets, method="PUT")
    with urllib.request.urlopen(upload, timeout=30):
        pass
    with connect(f"{api.url.replace('http', 'ws')}/api/v1/ws/runs/hostile") as ingest:
        for type_, name in ((content_type, path), ("a/b", f"{path}.after")):
            message = {"type": "blob_ref", "artifact_path": name, "s3_key": f"hostile/{name}"}
            ingest.send(json.dumps({**message, "content_type": type_}))
            assert json.loads(ingest.recv())["status"] == "ok"
    while f"{path}.after" not in {one["path"] for one in info(api)["artifacts"]}:
        time.sleep(0.05)
    found = urllib.parse.urlencode({"path": path})
    status, headers, data = api.raw("GET", f"runs/hostile/artifacts/download?{found}")
    assert (status, data) == (200, b"hello")
    assert headers["content-type"] == "application/octet-stream"


def info(api: API) -> dict[str, Any]:
    found: dict[str, Any] = api.json("GET", "runs/hostile/info")
    return found


def test_no_path_stands_twice() -> None:
    found = objects(tree_records("run", {"": 1, "(empty)": 2, "(empty)_": {"": 3}}))
    assert found == {"run": {"(empty)__": 1, "(empty)": 2, "(empty)_": {"(empty)": 3}}}


def test_what_is_nested_too_deep_ends_nothing() -> None:
    tree: Any = 1
    for _ in range(1_000):
        tree = [tree]
    found = objects(tree_records("run", {"deep": tree, "rest": 2}))
    assert found["run"]["rest"] == 2


@pytest.mark.parametrize(
    "data", ['{"data": ["\\ud800"]}', '{"a":' * 900 + "1" + "}" * 900, '{"a": 1e999}', "[1"]
)
def test_any_figure_can_be_sent(data: str) -> None:
    shown = api_objects._VALUES["figures"]({"data": data}, cast(Any, None), 0)
    found = objects(tree_records("figure", shown))["figure"]["data"]
    assert "layout" in json.loads(found, parse_constant=lambda name: pytest.fail(name))


async def test_a_closed_connection_has_gone() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        exchange = Exchange(stream, cast(Head, _Head()))
        assert not exchange.is_gone()
        ours.close()
        assert exchange.is_gone()


class _Head:
    rest, length = b"", 0

    def forwarded(self) -> bytes:
        return b""
