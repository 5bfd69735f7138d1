"""Moves in odd orders: other runs under an id that was taken, artifacts that were replaced, runs that go away meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from matyan import reader
from tests.moving.runs import log, upload
from tests.moving.test_refusals import AT, line, point, record
from tests.tracker import Tracker, asked, matyan, running


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    with running(tmp_path_factory.mktemp("odd") / "source") as tracker:
        yield tracker


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tracker]:
    with running(tmp_path_factory.mktemp("odd") / "target") as tracker:
        yield tracker


def bytes_of(data: Path, run: str, path: str) -> bytes:
    with reader.open(data) as opened:
        return opened.artifact(run, path).read()


@pytest.mark.parametrize("to", ["url", "folder"])
def test_an_artifact_replaced_by_one_of_the_same_size_is_sent_again(
    to: str, source: Tracker, target: Tracker, tmp_path: Path
) -> None:
    run = f"replaced-{to}"
    log(source.url, run, iter([{"type": "create_run", **AT}]))
    upload(source.url, run, "model.pt", b"epoch 1")
    upload(source.url, run, "data.pt", b"the same")
    if to == "url":
        data, words = target.data, ["push", run, "--data", source.data, "--to", target.url]
    else:
        data = tmp_path / "data"
        words = ["pull", run, "--from", source.url, "--data", data]
    assert asked(*words)["blobs"] == 2
    upload(source.url, run, "model.pt", b"epoch 2")
    log(source.url, run, iter([point(1)]))
    asked(*words)
    assert bytes_of(data, run, "model.pt") == b"epoch 2"


def test_another_run_under_an_id_that_was_sent_is_refused(source: Tracker, target: Tracker) -> None:
    for name in "one", "two":
        log(source.url, name, iter([point(1), line(f"of {name}", 0), record(name)]))
    words = ["--data", str(source.data), "--to", target.url]
    matyan("push", "one", "--as", "shared", *words)
    refused = matyan("push", "two", "--as", "shared", *words, check=1)
    assert "shared" in refused.stderr
    with reader.open(target.data) as opened:
        assert [row["message"] for row in opened.logs("shared")] == ["one", "of one"]
    matyan("push", "one", "--as", "shared", *words)


def test_a_run_whose_id_begins_others_is_sent(source: Tracker, target: Tracker) -> None:
    for run in "exp-1", "exp-10", "exp-11":
        log(source.url, run, iter([point(1)]))
    words = ["--data", str(source.data), "--to", target.url]
    assert asked("push", "exp-10", "exp-11", *words)["sent"] == ["exp-10", "exp-11"]
    assert asked("push", "exp-1", *words)["sent"] == ["exp-1"]


@pytest.mark.parametrize(
    "kind", ["text/plain\r\nX-Evil: 1", "тип", "", "a" * 5000, "\x00", "no slash"]
)
def test_an_artifact_of_an_odd_content_type_does_not_end_the_move(
    kind: str, source: Tracker, target: Tracker, tmp_path: Path
) -> None:
    run = f"typed-{kind.encode()[:4].hex()}"
    log(source.url, run, iter([point(1)]))
    upload(source.url, run, "a.bin", b"abc")
    ref = {"type": "blob_ref", "artifact_path": "a.bin", "s3_key": f"{run}/a.bin"}
    log(source.url, run, iter([{**ref, "content_type": kind}]))
    asked("push", run, "--data", source.data, "--to", target.url)
    asked("pull", run, "--data", tmp_path / "data", "--from", source.url)
    for data in target.data, tmp_path / "data":
        assert bytes_of(data, run, "a.bin") == b"abc"


def test_a_file_that_is_no_ledger_stays_as_it_is(
    source: Tracker, target: Tracker, tmp_path: Path
) -> None:
    log(source.url, "kept", iter([point(1)]))
    file = tmp_path / "notes.txt"
    file.write_text("my notes\n")
    words = ["--data", str(source.data), "--to", target.url, "--ledger", str(file)]
    said = matyan("push", "kept", *words, check=None)
    assert said.returncode
    assert "is no ledger" in said.stderr
    assert file.read_text() == "my notes\n"


def test_the_same_folder_by_another_path_is_the_same_move(
    source: Tracker, target: Tracker, tmp_path: Path
) -> None:
    log(source.url, "by-path", iter([point(1)]))
    link = tmp_path / "link"
    link.symlink_to(source.data)
    assert asked("push", "by-path", "--data", source.data, "--to", target.url)["sent"]
    assert asked("push", "by-path", "--data", link, "--to", target.url + "/")["skipped"]
