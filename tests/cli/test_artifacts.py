"""`matyan artifacts`: what was uploaded comes back, what was not is said, and no path leads out of the folder."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan.cli.artifacts import places_for
from tests.cli.test_main import fill, in_a_terminal, presign, send
from tests.tracker import Tracker, asked, matyan, running

BLOBS = {
    "a.txt": b"one",
    "seq/loss/5.png": bytes(range(256)) * 20_000,
    "a//b/": b"odd",
    "x": b"file",
    "x/y": b"below a file",
    "/etc/passwd": b"not there",
    "ü %41?#.bin": b"",
    "n" * 400: b"long",
}


def upload(tracker: Tracker, run: str, path: str, content: bytes) -> None:
    url = presign(tracker, run, path, content_type="image/x")
    request = Request(url, content, {"Content-Type": "image/x"}, method="PUT")
    urlopen(request, timeout=30).close()


@pytest.fixture(scope="module", params=["running", "stopped"])
def data(request, tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("artifacts") / "data"
    with running(folder) as tracker:
        fill(tracker, "alpha-1")
        for path, content in BLOBS.items():
            upload(tracker, "alpha-1", path, content)
        presign(tracker, "alpha-1", "never.pt")
        fill(tracker, "plain-1")
        if request.param == "stopped":
            assert tracker.stop() == 0
        yield folder


def test_they_are_listed_with_their_bytes(data) -> None:
    """In JSON, in a pipe and in `show`; one that was never uploaded is said to have none."""
    rows = asked("artifacts", "alpha", "--data", data)
    assert {row["path"]: row["bytes"] for row in rows} == {
        **{path: len(content) for path, content in BLOBS.items()},
        "never.pt": None,
    }
    assert {row["content_type"] for row in rows} == {"image/x", "application/octet-stream"}
    lines = matyan("artifacts", "alpha", "--data", data).stdout.splitlines()
    assert "never.pt\tno bytes\tapplication/octet-stream" in lines
    assert "a.txt\t3\timage/x" in lines
    shown = asked("show", "alpha", "--data", data)
    assert shown["artifacts"] == rows
    assert set(shown["attrs"]["__blobs__"]) == {*BLOBS, "never.pt"}
    assert "never.pt\tno bytes\t" in matyan("show", "alpha", "--data", data).stdout
    assert asked("artifacts", "plain-1", "--data", data) == []
    assert "no artifacts" in in_a_terminal("artifacts", "plain-1", "--data", data)[1]


def test_one_comes_back(data, tmp_path) -> None:
    """Into a file, whole or not at all, or to standard output."""
    out = tmp_path / "out.png"
    matyan("artifacts", "alpha", "--get", "seq/loss/5.png", "-o", out, "--data", data)
    assert out.read_bytes() == BLOBS["seq/loss/5.png"]
    piped = matyan("artifacts", "alpha", "--get", "a.txt", "--data", data, text=False)
    assert piped.stdout == b"one"
    for more in (), ("-o", "-"):
        words = ("artifacts", "alpha", "--get", "a.txt", *more, "--data", data)
        assert "--output" in in_a_terminal(*words)[1]
    dash = matyan(*words, text=False, cwd=tmp_path)
    assert dash.stdout == piped.stdout
    assert not (tmp_path / "-").exists()
    matyan(*words[:4], "-o", "./-", "--data", data, cwd=tmp_path)
    assert (tmp_path / "-").read_bytes() == piped.stdout
    assert "folder" in matyan("artifacts", "alpha", "--all", "-", "--data", data, check=2).stderr
    for path, says in (("never.pt", "never uploaded"), ("b.txt", "no artifact")):
        target = tmp_path / "none"
        done = matyan("artifacts", "alpha", "--get", path, "-o", target, "--data", data, check=1)
        assert says in done.stderr
        assert not target.exists()


def test_all_come_back(data, tmp_path) -> None:
    """Each below the folder, with its own bytes, whatever its path; a second time too."""
    out = tmp_path / "out"
    for _ in range(2):
        done = matyan("artifacts", "alpha", "--all", out, "--data", data)
        said = dict(line.split("\t") for line in done.stdout.splitlines())
        assert said.keys() == BLOBS.keys()
        for path, place in said.items():
            assert Path(place).is_relative_to(out)
            assert Path(place).read_bytes() == BLOBS[path]
        assert "1 of 9 artifacts have no bytes" in done.stderr
        assert sum(path.is_file() for path in out.rglob("*")) == len(BLOBS)
    assert (out / "a.txt").read_bytes() == b"one"
    assert (out / "seq/loss/5.png").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_link_in_the_folder_leads_nowhere(data, tmp_path) -> None:
    """What stood in the folder before may be anybody's."""
    out, outside = tmp_path / "out", tmp_path / "outside"
    out.mkdir()
    outside.mkdir()
    (out / "seq").symlink_to(outside)
    done = matyan("artifacts", "alpha", "--all", out, "--data", data, check=2)
    assert "leads out of" in done.stderr
    assert list(outside.iterdir()) == []
    (out / "seq").unlink()
    (outside / "kept").write_text("kept")
    (out / "a.txt").unlink()
    (out / "a.txt").symlink_to(outside / "kept")
    matyan("artifacts", "alpha", "--all", out, "--data", data)
    assert (outside / "kept").read_text() == "kept"
    assert (out / "a.txt").read_bytes() == b"one"


def test_what_a_client_only_names_is_listed(tmp_path) -> None:
    """A blob_ref over the socket, and nothing else."""
    with running(tmp_path / "data") as tracker:
        ref = {"type": "blob_ref", "s3_key": "r/ok", "artifact_path": "ok"}
        send(tracker, "r", {"type": "create_run", "client_datetime": "2026-01-02T03:04:05Z"}, ref)
        rows = asked("artifacts", "r", "--data", tracker.data)
        assert rows == [{"path": "ok", "content_type": "application/octet-stream", "bytes": None}]


def test_a_progress_bar_is_for_terminals(data, tmp_path) -> None:
    """And the escape sequences of nobody else."""
    code, seen = in_a_terminal("artifacts", "alpha", "--all", tmp_path / "o", "--data", data)
    assert code == 0
    assert "Traceback" not in seen


NASTY = st.text(
    st.one_of(st.sampled_from("./\\a~%\x00\x1b\u202e ü"), st.characters()), min_size=1, max_size=30
)


@given(st.lists(NASTY, max_size=12))
def test_no_two_artifacts_meet_and_none_leaves_the_folder(paths: list[str]) -> None:
    """Every path has a place of its own that is below the folder, that no other is below, and that a system can have."""
    places = places_for(paths)
    assert places.keys() == set(paths)
    files = set(places.values())
    assert len(files) == len(places)
    for place in files:
        assert os.path.normpath(place) == place
        names = place.split("/")
        assert not {"", ".", ".."} & set(names)
        assert place.isprintable()
        assert all(len(name.encode()) <= 255 for name in names)
        assert not any("/".join(names[:depth]) in files for depth in range(1, len(names)))
    assert places == places_for(reversed(paths))


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("model.pt", "model.pt"),
        ("seq/loss/5.png", "seq/loss/5.png"),
        ("ü ö.bin", "ü ö.bin"),
        ("../../etc/passwd", "%2E%2E/%2E%2E/etc/passwd"),
        ("/etc/passwd", "%/etc/passwd"),
        ("a//b/", "a/%/b/%"),
        ("a/./b", "a/%2E/b"),
        ("a\x00b", "a%00b"),
        ("\x1b[2J", "%1B[2J"),
        ("...", "..."),
    ],
)
def test_what_can_stand_as_it_is_does(path: str, place: str) -> None:
    assert places_for([path]) == {path: place}
    assert json.dumps(place)
