"""The read API of a real tracker: what the SDK has logged, as the web app and the SDK's readers ask for it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from matyan_client import Repo, Run
from matyan_client.objects import Figure, Text
from websockets.sync.client import connect

from matyan.api.app import create_api
from matyan.api.served import Served
from tests.api.stream import objects, shown
from tests.tracker import Service, Tracker, matyan, running
from tests.until import wait_for

BASE = "/api/v1/rest/"


class API:
    def __init__(self, tracker: Service) -> None:
        self.url = tracker.url

    def raw(
        self, method: str, path: str, body: Any = None, **params: object
    ) -> tuple[int, dict[str, str], bytes]:
        url = self.url + BASE + path
        if params:
            url += "?" + urllib.parse.urlencode(params, doseq=True)
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(
            url, data, {"Content-Type": "application/json"}, method=method
        )
        try:
            with urllib.request.urlopen(asked, timeout=30) as response:
                return response.status, dict(response.headers), response.read()
        except urllib.error.HTTPError as error:
            return error.code, dict(error.headers), error.read()

    def json(
        self, method: str, path: str, body: Any = None, *, status: int = 200, **params: object
    ) -> Any:
        got, _, data = self.raw(method, path, body, **params)
        assert got == status, data
        return json.loads(data) if data else None

    def stream(self, path: str, **params: object) -> dict[str | int, Any]:
        status, _, data = self.raw("GET", path, **params)
        assert status == 200, data
        return shown(data)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[API]:
    with running(tmp_path_factory.mktemp("api") / "data") as tracker:
        for name, lr in (("first", 0.1), ("second", 2)):
            log(tracker, name, lr)
        yield API(tracker)


def log(tracker: Tracker, name: str, lr: float) -> None:
    run = Run(name, repo=tracker.url, experiment="baseline", capture_terminal_logs=False)
    run["hparams"] = {"lr": lr, "": "nameless", "big": 2**60}
    run.add_tag("kept")
    for step in range(300):
        run.track(step * lr, name="loss", step=step, epoch=step // 100, context={"b": 1, "a": 2})
    if name == "second":
        run.track(-5.0, name="loss", step=3, context={"b": 1, "a": 2})
    run.track(float("nan"), name="broken", step=0)
    for step in range(3):
        run.track(Text(f"text {step}"), name="words", step=step)
        run.track(Figure({"data": [{"y": [step]}]}), name="plot", step=step)
    run.log_info("begun", size=3)
    run.close()


def test_every_path_is_the_same_with_and_without_a_final_slash(api: API) -> None:
    for path in ("projects", "experiments", "runs/first/info", "projects/activity"):
        assert api.json("GET", path) == api.json("GET", f"{path}/")


def test_info_has_all_of_a_run(api: API) -> None:
    info = api.json("GET", "runs/first/info")
    assert info["params"]["hparams"]["lr"] == 0.1
    assert info["traces"]["metric"] == [
        {"name": "broken", "context": {}, "last_value": 0.0},
        {"name": "loss", "context": {"a": 2, "b": 1}, "last_value": pytest.approx(29.9)},
    ]
    assert [one["name"] for one in info["traces"]["texts"]] == ["words"]
    assert info["traces"]["images"] == []
    assert info["props"]["experiment"]["name"] == "baseline"
    assert [tag["name"] for tag in info["props"]["tags"]] == ["kept"]
    assert info["props"]["active"] is False
    assert info["props"]["end_time"] > info["props"]["creation_time"]


def test_a_search_sends_runs_with_progress_between_them(api: API) -> None:
    status, _, data = api.raw("GET", "runs/search/run", q="run.hparams.lr > 0")
    assert status == 200
    everything = objects(data)
    assert [name for name in everything if not str(name).startswith("progress")] == [
        "second",
        "first",
    ]
    progress = [tree for name, tree in everything.items() if str(name).startswith("progress")]
    assert (progress[0], progress[-1]) == ([0, 2], [0, 0])
    found = everything["first"]
    # A name that the web app's decoder dies of has another one; an integer that it reads wrongly is a text.
    assert found["params"]["hparams"]["(empty)"] == "nameless"
    assert found["params"]["hparams"]["big"] == str(2**60)


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("run.hash == 'first'", ["first"]),
        ("run.hparams.lr == 2.0", ["second"]),
        ("run.experiment == 'baseline' and 'kept' in run.tags", ["second", "first"]),
        ("any([tag in ['kept'] for tag in run.tags])", ["second", "first"]),
        ("run.metrics['loss'].last > 100", ["second"]),
        ("run.metrics['loss', {'a': 2, 'b': 1}].last_step == 299", ["second", "first"]),
        ("run.active", []),
        ("run.archived", []),
        ("()", []),
        ("run.name.startswith('Run')", ["second", "first"]),
    ],
)
def test_a_query_narrows(api: API, query: str, found: list[str]) -> None:
    params = {"exclude_params": "true", "exclude_traces": "true"}
    assert [*api.stream("runs/search/run", q=query, **params)] == found


def test_a_search_sends_the_first_lowest_and_highest_value(api: API) -> None:
    """Of steps that rise from a row, of one that was written again from the points; of a metric without a finite value none."""
    for run, lr, low in ("first", 0.1, 0.0), ("second", 2, -5.0):
        traces = api.stream("runs/search/run", q=f"run.hash == '{run}'")[run]["traces"]["metric"]
        broken, loss = (one["values"] for one in traces)
        high = pytest.approx(299 * lr)
        assert loss == {"last": high, "last_step": 299, "first": 0.0, "min": low, "max": high}
        assert broken == {"last": 0.0, "last_step": 0}


def test_pages_and_orders(api: API) -> None:
    params = {"exclude_params": "True", "exclude_traces": 1, "report_progress": 0}
    assert [*api.stream("runs/search/run", limit=1, **params)] == ["second"]
    assert [*api.stream("runs/search/run", limit=1, offset="second", **params)] == ["first"]
    sort = json.dumps([{"field": "hash", "order": "asc"}])
    assert [*api.stream("runs/search/run", sort=sort, **params)] == ["first", "second"]
    assert api.raw("GET", "runs/search/run", sort='[{"field":"x"}]')[0] == 400
    assert api.raw("GET", "runs/search/run", offset="gone")[0] == 404


def test_a_query_that_fails_on_every_run_is_an_error(api: API) -> None:
    error = api.json("GET", "runs/search/run", status=400, q="run.nothing > 1")
    assert "NoneType" in error["message"]
    assert error["detail"] == error["message"] == error["error"]["message"]
    # Where one run could be judged, an answer without a run is the answer.
    assert api.stream("runs/search/run", q="run.hash == 'x' and run.nothing > 1") == {}


def test_a_query_that_does_not_parse_marks_the_place(api: API) -> None:
    error = api.json("GET", "runs/search/metric", status=400, q="metric.name == oops")
    assert error["message"] == "SyntaxError"
    assert (error["detail"]["line"], error["detail"]["offset"]) == (1, 17)
    assert api.json("GET", "runs/search/texts", status=400, q="oops")["message"].startswith(
        "The query"
    )


def test_metrics_are_sampled_by_rank(api: API) -> None:
    found = api.stream("runs/search/metric", q="metric.name == 'loss'", p=4)
    assert [*found] == ["second", "first"]
    (trace,) = found["first"]["traces"]
    assert trace["iters"] == [0, 100, 199, 299]
    assert trace["values"] == pytest.approx([step * 0.1 for step in (0, 100, 199, 299)])
    assert trace["epochs"] == [0, 1, 1, 2]
    assert len(trace["timestamps"]) == 4
    assert [*trace["context"]] == ["a", "b"], "sorted: the web app compares texts"


def test_an_x_axis_stands_at_the_steps_that_were_sent(api: API) -> None:
    clause = "run.hash == 'first' and metric.name == 'loss'"
    (trace,) = api.stream("runs/search/metric", q=clause, p=3, x_axis="loss")["first"]["traces"]
    assert (trace["x_axis_iters"], trace["x_axis_values"]) == (trace["iters"], trace["values"])
    wanted = [
        {"name": "loss", "context": {"a": 2, "b": 1}, "slice": trace["slice"]},
        {"name": "gone", "context": {}, "slice": [0, 1, 1]},
    ]
    runs = [{"run_id": "first", "traces": wanted}, {"run_id": "gone", "traces": wanted}]
    status, _, data = api.raw(
        "POST", "runs/search/metric/align", {"align_by": "loss", "runs": runs}
    )
    assert status == 200
    aligned = shown(data)
    assert [*aligned] == ["first", "gone"], "every run in its order"
    assert aligned["first"][0]["x_axis_iters"] == trace["iters"]
    assert [one["x_axis_values"] for one in (aligned["first"][1], *aligned["gone"])] == [None] * 3


def test_points_of_one_run(api: API) -> None:
    wanted = [{"name": "loss", "context": {"b": 1, "a": 2}}, {"name": "gone", "context": {}}]
    (got,) = api.json("POST", "runs/first/metric/get-batch", wanted, record_range="10:13")
    assert got["iters"] == [10, 11, 12]
    assert got["context"] == {"b": 1, "a": 2}, "the request's own"
    (broken,) = api.json("POST", "runs/first/metric/get-batch", [{"name": "broken", "context": {}}])
    assert broken["values"] == [None], "JSON has no word for it"
    api.json("POST", "runs/gone/metric/get-batch", wanted, status=404)


def test_objects_of_one_run(api: API) -> None:
    status, _, data = api.raw(
        "POST", "runs/first/texts/get-batch", [{"name": "words", "context": {}}], record_density=2
    )
    assert status == 200
    got = objects(data)
    assert got["values"] == [[{"data": "text 0", "index": 0}], [{"data": "text 2", "index": 0}]]
    assert (got["record_range_total"], got["index_range_total"]) == ([0, 3], [0, 1])
    _, _, data = api.raw("POST", "runs/first/figures/get-step", [{"name": "plot", "context": {}}])
    (figure,) = objects(data)["values"]
    assert json.loads(figure["data"]) == {"data": [{"y": [2]}], "layout": {}}


def test_logs_and_records(api: API) -> None:
    records = api.stream("runs/first/log-records")
    assert records["log_records_count"] == 1
    assert records[0]["message"] == "begun"
    assert (records[0]["log_level"], records[0]["args"]) == ("INFO", {"size": 3})
    assert api.stream("runs/gone/logs") == {}


def test_what_there_is_as_a_whole(api: API) -> None:
    counted = api.json("GET", "projects/activity")
    assert (counted["num_runs"], counted["num_active_runs"]) == (2, 0)
    assert sum(counted["activity_map"].values()) == 2
    params = api.json("GET", "projects/params", sequence=["metric", "texts"], exclude_params="true")
    assert params == {
        "metric": {"broken": [{}], "loss": [{"a": 2, "b": 1}]},
        "texts": {"words": [{}]},
    }
    (experiment,) = api.json("GET", "experiments")
    assert (experiment["name"], experiment["run_count"]) == ("baseline", 2)
    runs = api.json("GET", f"experiments/{experiment['id']}/runs", limit=1)["runs"]
    assert [one["run_id"] for one in runs] == ["second"]
    (tag,) = api.json("GET", "tags/search", q="KEP")
    assert len(api.json("GET", f"tags/{tag['id']}/runs")["runs"]) == 2


def test_what_is_written_of_a_run_is_read(api: API) -> None:
    run = "runs/second"
    api.json("PUT", run, {"name": "renamed", "archived": True, "experiment": "other"})
    props = api.json("GET", f"{run}/info")["props"]
    assert (props["name"], props["archived"], props["experiment"]["name"]) == (
        "renamed",
        True,
        "other",
    )
    assert [*api.stream("runs/search/run")] == ["first"], "archived runs are left out"
    assert [*api.stream("runs/search/run", q="run.archived")] == ["second"]
    api.json("POST", "runs/archive-batch", ["second", "gone"], archive="false")
    tag = api.json("POST", f"{run}/tags/new", {"tag_name": "more"})["tag_id"]
    assert "second" in api.stream("runs/search/run", q="'more' in run.tags")
    api.json("DELETE", f"{run}/tags/{tag}")
    assert "second" not in api.stream("runs/search/run", q="'more' in run.tags")
    api.json("PUT", run, {"active": True})
    assert [*api.stream("runs/active")] == ["second"]
    api.json("POST", "runs/finish-batch", ["second"])
    assert api.json("GET", f"{run}/info")["props"]["end_time"] is not None
    for path in ("runs/gone", "runs/gone/tags/new"):
        api.json("PUT" if path == "runs/gone" else "POST", path, {"tag_name": "x"}, status=404)


def test_the_duration_of_a_run_that_goes_on_again_is_not_its_old_one(tmp_path: Path) -> None:
    """Nor when it is then finished anew."""
    with running(tmp_path / "data") as tracker:
        api = API(tracker)
        with connect(f"{tracker.url.replace('http', 'ws')}/api/v1/ws/runs/again") as sent:
            for kind, second in (("create_run", 5), ("finish_run", 15)):
                told = {"type": kind, "client_datetime": f"2026-01-02T03:04:{second:02}Z"}
                sent.send(json.dumps(told))
                assert '"ok"' in str(sent.recv())
        wait_for(lambda: "again" in api.stream("runs/search/run", q="run.duration == 10"))
        for path, body in (("runs/again", {"active": True}), ("runs/finish-batch", ["again"])):
            api.json("PUT" if path == "runs/again" else "POST", path, body)
            assert "again" in api.stream("runs/search/run", q="run.duration > 10"), path


def test_experiments_tags_and_documents(api: API) -> None:
    made = api.json("POST", "experiments", {"name": "made"})["id"]
    api.json("POST", "experiments", {"name": "made"}, status=409)
    api.json("PUT", f"experiments/{made}", {"name": "remade", "description": "d", "archived": True})
    got = api.json("GET", f"experiments/{made}")
    assert (got["name"], got["description"], got["archived"]) == ("remade", "d", True)
    app = api.json("POST", "apps", {"type": "metrics", "state": {"a": [1]}}, status=201)
    board = api.json("POST", "dashboards", {"name": "b", "app_id": app["id"]}, status=201)
    assert api.json("GET", "dashboards") == [board]
    assert board["app_type"] == "metrics"
    api.json("DELETE", f"dashboards/{board['id']}", status=204)
    assert api.json("GET", "dashboards") == []
    note = api.json("POST", "runs/first/note", {"content": "c"}, status=201)["id"]
    api.json("PUT", f"runs/first/note/{note}", {"content": "d"})
    assert [one["content"] for one in api.json("GET", "runs/first/note")] == ["d"]
    assert api.json("GET", "runs/second/note") == []
    pins = {"sequences": [{"name": "loss", "context": {}}]}
    assert api.json("POST", "projects/pinned-sequences", pins) == pins
    assert api.json("GET", "projects/pinned-sequences") == pins


@pytest.mark.parametrize(
    ("method", "path", "body", "params", "status"),
    [
        ("GET", "runs/first/logs", None, {"record_range": "x"}, 422),
        ("GET", "runs/first/logs", None, {"record_range": "1:" + "9" * 30}, 422),
        ("GET", "runs/search/run", None, {"limit": "-1"}, 422),
        ("GET", "runs/search/run", None, {"report_progress": "maybe"}, 422),
        ("GET", "runs/search/metric", None, {"p": "0"}, 422),
        ("POST", "runs/first/metric/get-batch", {"a": 1}, {}, 422),
        ("POST", "runs/search/metric/align", {"align_by": 1, "runs": []}, {}, 422),
        ("POST", "experiments", {"name": ""}, {}, 422),
        ("POST", "experiments", {"name": "x" * 513}, {}, 422),
        ("PUT", "runs/first", {"archived": "yes"}, {}, 422),
        ("GET", "nowhere", None, {}, 404),
        ("DELETE", "runs/gone", None, {}, 404),
        ("GET", "experiments/gone", None, {}, 404),
        ("POST", "runs/images/get-batch", ["", "nonsense", "gqFhAA"], {}, 200),
    ],
)
def test_what_cannot_be_answered_is_a_sentence(
    api: API, method: str, path: str, body: Any, params: dict[str, str], status: int
) -> None:
    got, headers, data = api.raw(method, path, body, **params)
    assert got == status, data
    if status >= 400:
        assert headers["content-type"] == "application/json"
        error = json.loads(data)
        assert error["message"] == error["detail"] == error["error"]["message"]
        assert error["message"]
    else:
        assert data == b""


def test_a_body_that_is_no_json_is_refused(api: API) -> None:
    """A page of another origin can send it without asking first."""
    url = f"{api.url}{BASE}runs/archive-batch"
    for kind, status in (("text/plain", 415), ("application/json; charset=utf-8", 200)):
        asked = urllib.request.Request(url, b"[]", {"Content-Type": kind})
        try:
            with urllib.request.urlopen(asked) as response:
                got = response.status
        except urllib.error.HTTPError as error:
            got = error.code
        assert got == status


def test_the_sdk_reads_it(api: API) -> None:
    repo = Repo(api.url)
    assert {run.hash for run in repo.iter_runs()} == {"first", "second"}
    assert {one["hash"] for one in repo.query_runs("run.hparams.lr < 1")} == {"first"}
    (one,) = repo.query_metrics("metric.name == 'loss' and run.hash == 'first'")
    assert one["hash"] == "first"
    run = repo.get_run("first")
    assert {metric["name"] for metric in run.metrics()} == {"loss", "broken"}
    run.close()
    assert repo.get_run("gone") is None


def test_a_deleted_run_is_gone(api: API) -> None:
    api.json("DELETE", "runs/second")
    api.json("GET", "runs/second/info", status=404)
    assert "second" not in api.stream("runs/search/run", q="run.archived in [True, False]")


def test_without_the_web_app_a_page_says_how_to_get_it(api: API) -> None:
    """At every path but the API's; and the tracker says so when it begins."""
    for path in ("/", "/runs/first/metrics"):
        with urllib.request.urlopen(api.url + path) as response:
            assert response.headers["content-type"].startswith("text/html")
            assert b"pip install 'matyan-trio[ui]'" in response.read()
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{api.url}/static-files/main.js")


def test_a_browser_gets_a_page_where_a_scraper_gets_metrics(api: API) -> None:
    for accept, kind in (
        ("text/html,*/*", "text/html"),
        ("text/plain", "text/plain"),
        ("", "text/plain"),
    ):
        asked = urllib.request.Request(
            f"{api.url}/metrics", headers={"Accept": accept} if accept else {}
        )
        with urllib.request.urlopen(asked) as response:
            assert response.headers["content-type"].startswith(kind)


def installed(site: Path) -> str:
    """A web app that is installed in `site`; the PYTHONPATH with which it is found."""
    static = site / "matyan_ui" / "static"
    (static / "js").mkdir(parents=True)
    (static / "index-template.html").write_text(
        '<base href="{{ base_path }}/"><script>h="{{ api_host_base }}";p="{{ api_base_path }}"</script>'
    )
    (static / "js" / "main.js").write_text("plain")
    (static / "js" / "main.js.gz").write_bytes(gzip.compress(b"plain"))
    (site / "secret").write_text("secret")
    information = site / "matyan_ui-0.3.2.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: matyan-ui\nVersion: 0.3.2\n"
    )
    return str(site)


def test_the_files_of_an_installed_web_app_are_served(tmp_path: Path) -> None:
    """From its compressed twin where the browser takes that; known ones are not sent again; nothing outside of the folder is."""
    site = installed(tmp_path / "site")
    with running(tmp_path / "data", PYTHONPATH=site) as tracker:
        assert f"web app:              {tracker.url}/\n" in "".join(tracker.output)
        page = urllib.request.urlopen(f"{tracker.url}/runs/x/metrics").read().decode()
        assert page == '<base href="/"><script>h=window.location.origin;p="/api/v1"</script>'
        file = f"{tracker.url}/static-files/js/main.js?version=1"
        with urllib.request.urlopen(file) as response:
            assert (response.read(), response.headers["content-type"]) == (
                b"plain",
                "text/javascript",
            )
        asked = urllib.request.Request(file, headers={"Accept-Encoding": "gzip"})
        with urllib.request.urlopen(asked) as response:
            assert gzip.decompress(response.read()) == b"plain"
            tag = response.headers["etag"]
        asked.add_header("If-None-Match", tag)
        with pytest.raises(urllib.error.HTTPError, match="304"):
            urllib.request.urlopen(asked)
        for path in (
            "js/../../../secret",
            "%2e%2e/%2e%2e/secret",
            "/etc/passwd",
            "js",
            "js/none.js",
            "%00",
            "x" * 300,
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                urllib.request.urlopen(f"{tracker.url}/static-files/{path}")
    assert '"level": "error"' not in "".join(tracker.output)


def test_a_proxy_in_front_may_put_something_before_every_path(tmp_path: Path) -> None:
    """Whether it takes that off again or not: page, files, API, probes and the SDK's socket are found either way."""
    site = installed(tmp_path / "site")
    words = ("--ui-base-path", "/deep/tracker/")
    with running(tmp_path / "data", *words, PYTHONPATH=site) as tracker:
        assert f"web app:              {tracker.url}/deep/tracker/\n" in "".join(tracker.output)
        run = Run("r", repo=tracker.url, capture_terminal_logs=False)
        run.close()
        for base in ("", "/deep/tracker"):
            at = tracker.url + base
            for page in ("/", "", "/runs/r/metrics", "?select=x"):
                got = urllib.request.urlopen(at + page).read().decode()
                assert got == (
                    '<base href="/deep/tracker/"><script>h=window.location.origin;'
                    'p="/deep/tracker/api/v1"</script>'
                ), page
            assert urllib.request.urlopen(f"{at}/static-files/js/main.js").read() == b"plain"
            for path in ("/api/v1/rest/runs/r/info/", "/health/ready", "/api/v1/rest/version"):
                assert json.loads(urllib.request.urlopen(at + path).read())
        # What only begins alike is another path: a page of the web app, which has no such run.
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{tracker.url}/api/v1/rest/runs/deep/info")
        got = urllib.request.urlopen(f"{tracker.url}/deep/trackers/api/v1/rest/projects").read()
        assert got.startswith(b"<base")


def test_the_web_app_may_ask_another_host(tmp_path: Path) -> None:
    site = installed(tmp_path / "site")
    env = {"MATYAN_UI_API_HOST_BASE": "https://api.example:8443", "MATYAN_UI_BASE_PATH": "/ui"}
    with running(tmp_path / "data", PYTHONPATH=site, **env) as tracker:
        page = urllib.request.urlopen(f"{tracker.url}/ui/").read().decode()
    assert page == '<base href="/ui/"><script>h="https://api.example:8443";p="/api/v1"</script>'


def test_with_tokens_a_browser_is_asked_for_one(tmp_path: Path) -> None:
    """By the page itself: what it loads from the same origin then carries the credential by itself."""
    site, data = installed(tmp_path / "site"), tmp_path / "data"
    done = matyan("tokens", "add", "ann", "--scope", "read", "--data", data)
    token = re.search(r"myn_\S+|[A-Za-z0-9_-]{30,}", done.stdout)
    assert token is not None
    basic = base64.b64encode(f"ann:{token.group()}".encode()).decode()
    with running(data, "--ui-base-path", "/x", PYTHONPATH=site) as tracker:
        for path in ("/", "/x/runs", "/static-files/js/main.js", f"{BASE}projects", "/x/metrics"):
            url = tracker.url + path
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": "text/html"}))
            assert refused.value.code == 401
            challenges = refused.value.headers.get_all("www-authenticate")
            assert challenges[0].startswith('Basic realm="matyan"'), path
            asked = urllib.request.Request(url, headers={"Authorization": f"Basic {basic}"})
            with urllib.request.urlopen(asked) as response:
                assert response.status == 200, path
        with urllib.request.urlopen(f"{tracker.url}/x/health/live/") as response:
            assert response.status == 200


def test_with_tokens_each_route_wants_one(tmp_path: Path) -> None:
    """Whatever the API's routes are; a question that is too long for a URL is a read."""
    served = Served(None, None, None, "bucket")  # no route is called
    rules = list(create_api(served, lambda *_: None).url_map.iter_rules())
    assert len(rules) > 80
    data = tmp_path / "data"
    done = matyan("tokens", "add", "reader", "--scope", "read", "--data", data)
    token = re.search(r"myn_\S+|[A-Za-z0-9_-]{30,}", done.stdout)
    assert token is not None, done.stdout
    with running(data) as tracker:
        for rule in rules:
            path = re.sub("<[^>]*>", "x", rule.rule)
            for method in (rule.methods or set()) - {"OPTIONS"}:
                status = _status(tracker, method, path)
                assert status == 401, (method, path)
                wants_write = method not in {"GET", "HEAD"} and not path.endswith(
                    ("-batch", "get-step", "align")
                )
                status = _status(tracker, method, path, f"Bearer {token.group()}")
                assert (status == 403) == (
                    wants_write or path.endswith(("delete-batch", "archive-batch", "finish-batch"))
                ), (method, path)


def _status(tracker: Tracker, method: str, path: str, authorization: str = "") -> int:
    headers = {"Content-Type": "application/json"} | (
        {"Authorization": authorization} if authorization else {}
    )
    data = b"[]" if method in {"POST", "PUT"} else None
    asked = urllib.request.Request(tracker.url + path, data, headers, method=method)
    try:
        with urllib.request.urlopen(asked, timeout=30) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
