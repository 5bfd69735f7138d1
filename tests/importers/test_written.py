"""What each program has written is here as it was logged, value by value; a second import adds nothing."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from tests.importers.imported import compare, counts, imported, written

LONG = pytest.mark.skipif(
    os.environ.get("MATYAN_TEST_LONG") != "1",
    reason="its program takes half a minute to install: `make test-long`",
)

SOURCES = [
    pytest.param("tensorboard", (), id="tensorboard"),
    pytest.param("wandb", (), id="wandb", marks=LONG),
    pytest.param("mlflow", (), id="mlflow", marks=LONG),
    pytest.param("mlflow", ("files",), id="mlflow-files", marks=LONG),
    pytest.param("trackio", (), id="trackio", marks=LONG),
    pytest.param("aim", (), id="aim", marks=LONG),
]


def state(folder: Path) -> dict[str, Any]:
    """Each file, its bytes and the time of its last change."""
    return {
        str(file.relative_to(folder)): (
            hashlib.sha256(file.read_bytes()).hexdigest(),
            file.stat().st_mtime_ns,
        )
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }


@pytest.mark.parametrize(("program", "words"), SOURCES)
def test_what_was_logged_is_there(program: str, words: tuple[str, ...], tmp_path: Path) -> None:
    source = tmp_path / "source"
    truth = written(program, source, *words)
    before = state(source)
    data = tmp_path / "data"
    tried = imported(program, source, data, "--dry-run")
    assert not (data / "rocksdb").exists()
    said = imported(program, source, data)
    for one in (tried, said):
        assert one["refused"] == []
        assert one["damaged"] == []
        assert one["failed"] == {}
        left_out = counts(one, "left_out")
        assert {kind: left_out.get(kind) for kind in truth["left_out"]} == truth["left_out"]
        changed = counts(one, "changed")
        assert {kind: changed.get(kind) for kind in truth["changed"]} == truth["changed"]
    assert {row["state"] for row in said["runs"]} == {"imported"}
    compare(truth, data)
    again = imported(program, source, data)
    assert {row["state"] for row in again["runs"]} == {"unchanged"}
    assert [row["run"] for row in again["runs"]] == [row["run"] for row in said["runs"]]
    compare(truth, data)
    assert state(source) == before
