"""What a reader gives of a real tracker, by its URL and by its folder, in either layout, with and without a process on it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from matyan_client import Run
from matyan_client.objects import Figure, Image, Text

import matyan.reader
from matyan.errors import ConfigurationError, InvalidQuery, MatyanError, NotFound, Unavailable
from matyan.reader import Reader
from tests.cli.test_main import metric, send
from tests.tokens import add
from tests.tracker import Tracker, running

PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000000"
    "0200015e5bd5ce0000000049454e44ae426082"
)


def log(tracker: Tracker, name: str, lr: float, points: int) -> None:
    run = Run(name, repo=tracker.url, experiment="baseline", capture_terminal_logs=False)
    run["hparams"] = {"lr": lr, "big": 2**60, "mixed": "auto" if lr == 2 else 3}
    run.add_tag("kept")
    for step in range(points):
        run.track(step * lr, name="loss", step=step, epoch=step // 100, context={"b": 1, "a": 2})
    run.track(float("nan"), name="broken", step=2**60)
    for step in range(3):
        run.track(Image(PNG, caption=f"image {step}"), name="images/one", step=step)
        run.track(Text(f"text {step}"), name="words", step=step)
    run.track(Figure({"data": [{"y": [1]}], "layout": {}}), name="plot", step=0)
    run.log_info("begun", size=3)
    run.close()


@pytest.fixture(scope="module", params=["packed", "compatible"])
def tracker(request, tmp_path_factory) -> Iterator[Tracker]:
    data = tmp_path_factory.mktemp("reader") / "data"
    with running(data, MATYAN_SEQUENCE_LAYOUT=request.param) as tracker:
        log(tracker, "first", 0.1, 300)
        log(tracker, "second", 2, 3000)
        yield tracker


@pytest.fixture(params=["url", "folder"])
def reader(request, tracker: Tracker) -> Iterator[Reader]:
    place = tracker.url if request.param == "url" else tracker.data
    with matyan.reader.open(place) as reader:
        yield reader


def test_runs_are_a_table(reader: Reader) -> None:
    table = reader.runs("run.hparams.lr < 5", metrics=True)
    assert table["run"].to_pylist() == ["second", "first"]
    assert table["experiment"].to_pylist() == ["baseline"] * 2
    assert table["tags"].to_pylist() == [["kept"]] * 2
    assert table["hparams.lr"].to_pylist() == [2.0, 0.1]
    assert table["hparams.big"].to_pylist() == [2**60] * 2
    assert table["hparams.mixed"].to_pylist() == ["auto", "3"]
    assert table['metrics.loss {"a": 2, "b": 1}'].to_pylist() == [5998.0, 29.900000000000002]
    assert reader.runs('run.hash == "first"')["hparams.mixed"].to_pylist() == [3]
    assert reader.runs("", limit=1)["run"].to_pylist() == ["second"]
    assert reader.runs("", limit=0)["run"].to_pylist() == []
    assert reader.runs("()").num_rows == 0


def test_metrics_are_all_points_in_long_form(reader: Reader) -> None:
    table = reader.metrics('metric.name == "loss"')
    second, first = table.slice(0, 3000), table.slice(3000)
    assert first["value"].to_pylist() == [step * 0.1 for step in range(300)]
    assert first["step"].to_pylist() == [*range(300)]
    assert first["epoch"].to_pylist() == [step // 100 for step in range(300)]
    assert {*first["run"].to_pylist()} == {"first"}
    assert {*second["run"].to_pylist()} == {"second"}
    assert {*table["context"].to_pylist()} == {'{"a": 2, "b": 1}'}
    assert second["value"].to_pylist() == [step * 2.0 for step in range(3000)]
    odd = reader.metrics("run.hparams.lr < 1", names=["broken"]).to_pylist()
    assert reader.metrics("run.hparams.lr < 1", names="broken").num_rows == 1
    assert [(row["step"], row["epoch"]) for row in odd] == [(2**60, None)]
    assert odd[0]["value"] != odd[0]["value"]
    assert reader.metrics("run.hparams.lr > 100").num_rows == 0


def test_values_of_metrics(reader: Reader) -> None:
    rows = {(row["run"], row["name"]): row for row in reader.metric_values() if row}
    first = rows["first", "loss"]
    assert (first["last"], first["first"], first["min"], first["max"], first["points"]) == (
        *(29.900000000000002, 0.0, 0.0, 29.900000000000002),
        300,
    )
    broken = rows["first", "broken"]
    assert (broken["min"], broken["max"], broken["points"]) == (None, None, 1)


def test_images_and_their_bytes(reader: Reader, tmp_path: Path) -> None:
    table = reader.images('run.hash == "first" and images.name == "images/one"')
    assert table["caption"].to_pylist() == ["image 0", "image 1", "image 2"]
    assert table["step"].to_pylist() == [0, 1, 2]
    row = table.to_pylist()[1]
    assert reader.artifact("first", row["path"]).read() == PNG
    file = reader.artifact("first", row["path"]).save(tmp_path / "one.png")
    assert file.read_bytes() == PNG
    assert [*tmp_path.iterdir()] == [file]
    with pytest.raises(NotFound):
        reader.artifact("first", "nothing.bin").save(tmp_path / "nothing.bin")
    assert [*tmp_path.iterdir()] == [file]
    for path in ("../second/seq", "/etc/passwd", ".."):
        with pytest.raises(MatyanError):
            reader.artifact("first", path).read()


def test_other_objects(reader: Reader) -> None:
    assert reader.objects("texts", 'run.name == "Run: first"')["text"].to_pylist() == [
        "text 0",
        "text 1",
        "text 2",
    ]
    (figure,) = reader.objects("figures", "run.hparams.lr < 1")["figure"].to_pylist()
    assert json.loads(figure)["data"] == [{"y": [1]}]
    assert reader.objects("audios").num_rows == 0
    with pytest.raises(MatyanError, match="images, audios"):
        reader.objects("colours", "()")


def test_everything_else_is_the_same_over_both(tracker: Tracker) -> None:
    with matyan.reader.open(tracker.url) as remote, matyan.reader.open(tracker.data) as local:
        for ask in (
            lambda reader: list(reader.runs(counts=True, experiment="baseline")),
            lambda reader: _finite(reader.show("firs")),
            lambda reader: list(reader.logs("first")),
            lambda reader: list(reader.blocks("first", name="loss", context={"a": 2, "b": 1})),
            lambda reader: reader.metric("first", "loss", {"a": 2, "b": 1}),
            lambda reader: [row["path"] for row in reader.artifacts("first")],
        ):
            assert ask(remote) == ask(local)
        for reader in remote, local:
            with pytest.raises(NotFound, match="nothing"):
                reader.show("nothing")


def _finite(shown: dict[str, Any]) -> str:
    """Without the sizes and times of artifacts, which a folder knows; a NaN equals nothing."""
    for artifact in shown["artifacts"]:
        for known in ("bytes", "modified"):
            artifact.pop(known, None)
    return json.dumps(shown)


@pytest.mark.parametrize(
    ("query", "place"),
    [
        ("run.hparams.lr <", "  run.hparams.lr <\n                  ^"),
        ("1 +\nfoo", "  foo\n  ^"),
        ("run.active and (lambda: 1)", "  run.active and (lambda: 1)\n                  ^"),
        ("run.a == '" + "x" * 200 + "' and foo", None),
    ],
)
def test_an_error_in_a_query_marks_its_place(reader: Reader, query, place) -> None:
    with pytest.raises(InvalidQuery) as refused:
        reader.runs(query)
    if place is None:
        shown, mark = refused.value.place.split("\n")
        assert shown[mark.index("^") :].startswith("foo")
    else:
        assert refused.value.place == place


def test_a_query_that_fails_on_every_run_says_why(reader: Reader) -> None:
    with pytest.raises(MatyanError, match=r"has no 'y'.*in run second"):
        reader.runs("run.x.y.z > 2")


def test_changes_are_not_asked_over_a_url(tracker: Tracker) -> None:
    with (
        matyan.reader.open(tracker.url) as reader,
        pytest.raises(ConfigurationError, match="--data"),
    ):
        reader.delete("first")


def test_a_stopped_folder_is_read_too(tmp_path: Path) -> None:
    """And given free by close(), also without a `with`."""
    with running(tmp_path / "data") as tracker:
        log(tracker, "first", 0.1, 10)
        assert tracker.stop() == 0
    reader = matyan.reader.open(tmp_path / "data")
    assert reader.runs("").num_rows == 1
    assert reader.metrics("", names=["loss"]).num_rows == 10
    reader.close()
    with running(tmp_path / "data"):
        pass


# --- live ------------------------------------------------------------------------------------------


def test_a_run_is_followed_to_its_end(tmp_path: Path) -> None:
    """What stands there, what comes, in its order and once; then it ends, by itself."""
    with running(tmp_path / "data") as tracker:
        start = {"type": "create_run", "client_datetime": "2026-01-02T03:04:05"}
        send(tracker, "live", start, *(metric("loss", step, step) for step in range(5)))

        def train() -> None:
            for step in range(5, 20):
                send(tracker, "live", metric("loss", step, step))
                send(
                    tracker, "live", {"type": "log_terminal_line", "line": f"l{step}", "step": step}
                )
                # The line of a progress bar: sent again at its step while it grows.
                send(
                    tracker,
                    "live",
                    {"type": "log_terminal_line", "line": f"l{step}!", "step": step},
                )
            send(tracker, "live", {"type": "finish_run"})

        followed: dict[str, list[Any]] = {}

        def follow(place: Any, **options: bool) -> None:
            with matyan.reader.open(place) as reader:
                came: list[Any] = []
                for block in reader.follow("live", **options):
                    if block.points is not None:
                        came += [("loss", step) for step in block.points.steps]
                    else:
                        came += [("line", row[3]) for row in block.objects or ()]
                followed[f"{place}{options}"] = came

        threads = [
            threading.Thread(target=follow, args=(tracker.url,)),
            threading.Thread(target=follow, args=(tracker.data,)),
            threading.Thread(target=follow, args=(tracker.url,), kwargs={"from_now": True}),
        ]
        for thread in threads:
            thread.start()
        time.sleep(1)  # they have seen what stands there
        train()
        for thread in threads:
            thread.join(30)
        assert len(followed) == 3
        for place, came in followed.items():
            steps = [step for kind, step in came if kind == "loss"]
            assert steps == [*range(5 if "from_now" in place else 0, 20)]
            lines = [line for kind, line in came if kind == "line"]
            assert [line for line in lines if line.endswith("!")] == [
                f"l{n}!" for n in range(5, 20)
            ]
        with matyan.reader.open(tracker.url) as reader, pytest.raises(NotFound):
            next(reader.follow("dead"))


# --- what a URL may lead to ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "error", "sentence"),
    [
        ("http://127.0.0.1:1", Unavailable, "Nobody answers at http://127.0.0.1:1 .*matyan up"),
        ("http://", ConfigurationError, "no URL"),
        ("http://host:port", ConfigurationError, "no URL"),
        ("http://name:secret@127.0.0.1:1", Unavailable, "Nobody answers at http://127.0.0.1:1 "),
        ("http://a b:1", ConfigurationError, "no host"),
    ],
)
def test_a_url_that_leads_nowhere(url, error, sentence) -> None:
    with pytest.raises(error, match=sentence) as raised, matyan.reader.open(url) as reader:
        list(reader.runs())
    assert "secret" not in str(raised.value)


@contextmanager
def answering(kind: str, body: bytes) -> Iterator[str]:
    """The URL of a server that answers one question with this, whatever it is, and hangs up."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *words: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        thread.join()


@pytest.mark.parametrize(
    ("kind", "body", "sentence"),
    [
        ("text/html", b"<html>Log in</html>", "with 200 is no tracker"),
        *(
            ("application/octet-stream", body, "no answer that this version can read")
            for body in (
                b"hello, hello",
                b"\0\0\0\3abc",
                b"\0\0\0\1\x93",
                b"\0\0\0\1\x05",
                b"\0\0\0\2\x91\x00",
                b"\0\0\0\3\x92\x00\x05",
                b"\0\0\0\4\x93\x02\x05\x05",
                b"\0\0\0\2\x91\x07",
            )
        ),
    ],
)
def test_a_url_of_something_else(kind: str, body: bytes, sentence: str) -> None:
    """Which takes whatever is asked for a success."""
    with (
        answering(kind, body) as url,
        matyan.reader.open(url) as reader,
        pytest.raises(ConfigurationError, match=sentence),
    ):
        list(reader.runs())


def test_a_name_that_is_no_unicode(reader: Reader) -> None:
    with pytest.raises(MatyanError, match="no valid Unicode"):
        list(reader.metric_values(names=["\udcff"]))


def test_a_token_is_shown_and_asked_for(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    secret, writing = add(tokens, "me", "read"), add(tokens, "w", "write")
    with running(tmp_path / "data", MATYAN_TOKENS_FILE=str(tokens)) as tracker:
        address = tracker.url.removeprefix("http://")
        with matyan.reader.open(f"http://me:{secret}@{address}") as reader:
            assert reader.runs("").num_rows == 0
            with pytest.raises(NotFound):
                reader.artifact("a", "b").read()
        for url, sentence in (
            (tracker.url, "it wants a token"),
            (f"http://me:wrong@{address}", "not known there"),
            (f"http://w:{writing}@{address}", "refuses: .*read"),
        ):
            with (
                matyan.reader.open(url) as reader,
                pytest.raises(ConfigurationError, match=sentence) as refused,
            ):
                reader.runs("")
            assert "wrong" not in str(refused.value)
            assert writing not in str(refused.value)


@pytest.mark.parametrize(
    ("op", "body", "status"),
    [
        ("colours", {}, 404),
        ("runs", [], 422),
        ("runs", {"colour": "red"}, 422),
        ("runs", {"limit": -1}, 422),
        ("runs", {"limit": 2**70}, 422),
        ("query_runs", {"query": 5}, 422),
        ("query_runs", {}, 422),
        ("query_runs", {"query": "", "names": [5]}, 422),
        ("news", {"run": "a", "seen": [[1, 2]]}, 422),
        ("show", {"run": None}, 422),
    ],
)
def test_what_nobody_asks_is_refused(tracker: Tracker, op, body, status) -> None:
    import urllib.error
    import urllib.request

    asked = urllib.request.Request(
        f"{tracker.url}/api/v1/rest/reader/{op}/get-batch",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            got = answer.status
    except urllib.error.HTTPError as error:
        got = error.code
    assert got == status


def test_an_answer_that_breaks_off_is_none() -> None:
    """A process that goes away within an answer: half of it is not taken for all."""
    with (
        answering("application/octet-stream", b"\0\0\0\x05\x92\0\x91\1") as url,
        matyan.reader.open(url) as reader,
        pytest.raises(Unavailable, match="went away"),
    ):
        list(reader.runs())
