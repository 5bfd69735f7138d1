"""What a target does not take: whole moves, runs, messages and artifacts; each is said, and the rest arrives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from matyan import reader
from matyan.moving.folder import folder_target
from matyan.moving.ledger import Ledger
from matyan.moving.moved import MovedBlob, MovedRun
from matyan.moving.sender import Progress, Summary, send_runs
from matyan.moving.target import Outcome, answer
from matyan.service.tokens import default_file
from tests import tls, tokens
from tests.moving.runs import every_kind, everything, log, upload
from tests.tracker import Tracker, asked, environment, matyan, running

AT = {"client_datetime": "2025-01-01T00:00:00Z"}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    with running(tmp_path_factory.mktemp("move") / "source") as tracker:
        for run in "first", "second":
            log(tracker.url, run, every_kind(5))
            upload(tracker.url, run, "a.txt", b"some text" * 100)
        yield tracker


def point(step: int, value: float = 1.0) -> dict[str, Any]:
    rest = {"epoch": None, "context": None, "dtype": "float", **AT}
    return {"type": "log_metric", "name": "m", "value": value, "step": step, **rest}


def line(text: str, step: int) -> dict[str, Any]:
    return {"type": "log_terminal_line", "line": text, "step": step}


def record(text: str) -> dict[str, Any]:
    return {"type": "log_record", "message": text, "level": 20, "timestamp": 1.0}


def test_a_run_that_is_there_is_refused_and_one_that_was_deleted_says_so(
    source: Tracker, tmp_path: Path
) -> None:
    """The others are sent; --as and --force are the ways on."""
    with running(tmp_path / "target") as target:
        words = ["push", "--all", "--data", str(source.data), "--to", target.url]
        log(target.url, "first", iter([point(-7, 3.5), record("its own")]))
        said = json.loads(matyan(*words, "--json", check=1).stdout)
        assert said["sent"] == ["second"]
        assert "has a run first already" in said["failed"]["first"]
        log(target.url, "doomed", iter([{"type": "create_run", **AT}]))
        matyan("delete", "doomed", "--yes", "--data", target.data)
        push = ["push", "first", "--data", str(source.data), "--to", target.url]
        doomed = matyan(*push, "--as", "doomed", check=1)
        assert "run doomed was deleted; take a new run id" in doomed.stderr
        matyan(*push, "--as", "other")
        matyan(*push, "--force")
        with reader.open(source.data) as here, reader.open(target.data) as there:
            wanted, merged = everything(here, "first"), everything(there, "first")
            assert everything(there, "other") == wanted
            missing = set(wanted["points"]) - set(merged["points"])
            # Its records stand behind the one that was there.
            assert [row for row in missing if not row.startswith("'__log_records'")] == []
            assert len(merged["logs"]) == len(wanted["logs"]) + 1


def test_a_run_that_goes_on_is_sent_again_with_what_has_come(
    source: Tracker, tmp_path: Path
) -> None:
    """Its last line has grown, its records were counted, points stand between older ones; in the end it is finished, and begun anew."""
    with running(tmp_path / "target") as target, running(tmp_path / "live") as live:
        push = partial(asked, "push", "r", "--data", live.data, "--to", target.url)

        def same() -> None:
            with reader.open(live.data) as here, reader.open(target.data) as there:
                assert everything(there, "r") == everything(here, "r")

        steps = [
            [{"type": "create_run", **AT}, *map(point, range(9)), line("a", 0), line("grow", 1)],
            [line("growing", 1), point(4, 8.0), record("one"), record("one")],
            [line("growing more", 1), line("c", 2), record("one"), point(9)],
            [],
            [{"type": "finish_run", "client_datetime": "2025-01-01T00:01:00Z"}],
            [{"type": "create_run", "client_datetime": "2025-01-02T00:00:00Z"}, line("d", 0)],
            [line("d2", 0), record("two"), {"type": "add_tag", "tag_name": "t"}],
            [{"type": "log_hparams", "value": {"hparams": {"a": 1, "b": {"c": 2}}}}],
            [
                {"type": "log_hparams", "value": {"hparams": {}}},
                {"type": "log_hparams", "value": {"hparams": {"a": {"x": 1}}}},
                {"type": "set_run_property", "archived": True, "description": "d"},
            ],
            [{"type": "set_run_property", "archived": False, "description": ""}],
        ]
        for messages in steps:
            if messages:
                log(live.url, "r", iter(messages))
            said = push()
            assert said["sent" if messages else "skipped"] == ["r"]
            same()


def test_what_cannot_be_taken_is_counted_and_named_and_the_rest_arrives(tmp_path: Path) -> None:
    def messages() -> Iterator[dict[str, Any]]:
        yield {"type": "create_run", **AT}
        for step in range(2000):
            yield point(step)
            if step % 40 == 0:
                yield {**point(step), "name": "logs"}
        yield {"type": "log_hparams", "value": {"a": b"bytes"}}
        yield {"type": "log_custom_object", "name": "o", "step": 0, "value": {"d": "x" * 950_000}}
        for step in range(5):
            yield line("ok" if step % 2 else "\ud800", step)
        yield record("after")

    def gone() -> Iterator[bytes]:
        yield b"half"

    blobs = [
        MovedBlob("ok.bin", "a/b", 4, lambda: [b"fo", b"ur"]),
        MovedBlob("changed.bin", "a/b", 5, gone),
        MovedBlob("not known.bin", "a/b", None, lambda: [b"x" * 100]),
    ]
    runs = [
        MovedRun("r", messages, lambda: blobs),
        MovedRun("no/id", messages),
        MovedRun("s", lambda: [point(1)]),
    ]
    progress, summary = Progress(), Summary()
    with folder_target(tmp_path / "data") as target, Ledger(tmp_path / "ledger") as ledger:
        trio.run(partial(send_runs, target, runs, ledger, progress, summary))
        assert summary.sent == ["r", "s"] or summary.sent == ["s", "r"]
        assert "no run id" in summary.failed["no/id"]
        # 50 points, a parameter, an object, 3 lines, an artifact.
        assert summary.rejected == 50 + 1 + 1 + 3 + 1
        assert not summary.is_clean
        reasons = {(one.kind, one.path) for one in summary.rejections}
        assert {("log_hparams", ""), ("log_metric", ""), ("", "changed.bin")} <= reasons
        with reader.open(tmp_path / "data") as there:
            assert len(there.metric("r", "m")) == 2000
            assert [row["message"] for row in there.logs("r")] == ["after", "ok", "ok"]
            sizes = {row["path"]: row["bytes"] for row in there.artifacts("r")}
            assert sizes == {"ok.bin": 4, "not known.bin": 100}


def test_a_target_that_lets_nobody_in_ends_the_move_with_its_reason(
    source: Tracker, tmp_path: Path
) -> None:
    data = tmp_path / "target"
    data.mkdir()
    reading = tokens.add(default_file(data), "reading", "read")
    writing = tokens.add(default_file(data), "writing", "write")
    push = ["push", "--all", "--data", str(source.data), "--to"]
    with running(data) as target:
        for name, status, why in (
            ("", 2, "lets nobody in"),
            ("reading:wrong@", 2, "lets nobody in"),
            (f"reading:{reading}@", 2, "refuses"),
            (f"writing:{writing}@", 0, "does not say what it has"),
        ):
            done = matyan(*push, target.url.replace("//", f"//{name}"), check=status)
            assert why in done.stderr
            assert reading not in done.stderr
            assert writing not in done.stderr
    for url, why in (
        (target.url, "Nobody answers"),
        ("http://no.such.host.invalid:1", "no host"),
        ("ftp://x", "expected http://"),
    ):
        assert why in matyan(*push, url, check=None).stderr


def test_a_target_under_tls_wants_its_authority(source: Tracker, tmp_path: Path) -> None:
    certificate, key = tls.write_pair(tmp_path)
    words = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    with running(tmp_path / "target", *words) as target:
        push = ["push", "--all", "--data", str(source.data), "--to", target.url]
        assert "SSL_CERT_FILE" in matyan(*push, check=2).stderr
        matyan(*push, env=environment(SSL_CERT_FILE=str(tls.authority_file())))
    with reader.open(source.data) as here, reader.open(tmp_path / "target") as there:
        for run in "first", "second":
            assert everything(there, run) == everything(here, run)


@pytest.mark.parametrize(
    ("reply", "count", "outcome", "rejected"),
    [
        ('{"status":"ok","error":null}', 5, Outcome.TAKEN, 0),
        (
            '{"status":"error","error":"1 of 2 messages rejected: [1] log_metric: step: …","accepted":1,'
            '"rejected":[{"index":1,"type":"log_metric","reason":"step: …"}]}',
            2,
            Outcome.TAKEN,
            1,
        ),
        (
            '{"status":"error","error":"30 of 40 …","accepted":10,"rejected":[]}',
            40,
            Outcome.TAKEN,
            30,
        ),
        ('{"status":"error","error":"not stored yet: …; kept and …"}', 2, Outcome.KEPT, 0),
        ('{"status":"error","error":"refused, not stored: the queue …"}', 2, Outcome.NOT_TAKEN, 0),
        ('{"status":"error","error":"not stored: run r was deleted; …"}', 2, Outcome.NEVER, 0),
        ('{"status":"error","error":"not stored: the broker …"}', 2, Outcome.PERHAPS, 0),
        # The reference's, which stops at the first bad one and does not say which.
        ('{"status":"error","error":"validation error"}', 2, Outcome.ONE_BAD, 0),
        ('{"status":"error","error":"validation error"}', 1, Outcome.TAKEN, 1),
        ('{"status":"error","error":"internal publish error"}', 1, Outcome.PERHAPS, 0),
        ("<html>", 1, Outcome.PERHAPS, 0),
        ("[]", 1, Outcome.PERHAPS, 0),
    ],
)
def test_each_reply_has_its_meaning(
    reply: str, count: int, outcome: Outcome, rejected: int
) -> None:
    said = answer(reply.encode(), count)
    assert (said.outcome, said.rejected) == (outcome, rejected)
