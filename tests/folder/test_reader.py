"""`matyan.reader` is a library: it leaves its user's process as it was."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from matyan.errors import MatyanError
from matyan.folder.hold import hold
from matyan.settings import Settings
from tests.cli.test_main import fill
from tests.folder.readers import reader_of
from tests.tracker import environment, running

USER = """
import logging, os, sys
logging.basicConfig(level=logging.DEBUG, format="mine %(name)s %(message)s", stream=sys.stderr)
import structlog
def state():
    root = logging.getLogger()
    return (
        [(type(handler), handler.formatter._fmt) for handler in root.handlers],
        root.level,
        logging.lastResort,
        structlog.get_config(),
        structlog.is_configured(),
        dict(os.environ),
    )
before = state()
import matyan.reader
with matyan.reader.open(sys.argv[1]) as reader:
    (run,) = reader.runs()
    assert len(reader.metric(run["run"], "loss", {"subset": "train"})) == 100
    assert state() == before
assert state() == before
logging.getLogger("user").debug("still here")
"""


@pytest.mark.parametrize("held", [False, True])
def test_it_touches_neither_logging_nor_the_users_dotenv(tmp_path: Path, held: bool) -> None:
    """On a folder that nobody holds, too: handlers, levels and structlog stay; a .env that is no settings file is not read;
    nothing of ours is printed."""
    (tmp_path / ".env").write_text("LOG_LEVEL=LOUD\nMATYAN_QUEUE_BYTES=many\nUSERS_OWN=1\n")
    with running(tmp_path / "data") as tracker:
        fill(tracker, "alpha-1")
        if not held:
            assert tracker.stop() == 0
        done = subprocess.run(
            [sys.executable, "-c", USER, str(tmp_path / "data")],
            cwd=tmp_path,
            env=environment(LOG_LEVEL="LOUD", MATYAN_QUEUE_BYTES="many"),
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert [line for line in done.stderr.splitlines() if not line.startswith("mine ")] == []
    assert "mine user still here" in done.stderr


def test_what_another_version_would_ask_is_told_so(tmp_path: Path) -> None:
    """A command, an argument or a filter that the process which holds the folder does not have."""
    with hold(tmp_path, Settings()):
        reader = reader_of(tmp_path)
        assert list(reader.ask("runs", active=True, tag="a", heard_before=1.0, limit=1)) == []
        for op, arguments in (
            ("colours", {}),
            ("show", {}),
            ("show", {"run": "a", "colour": "red"}),
            ("runs", {"colour": "red"}),
            ("delete", {}),
        ):
            with pytest.raises(MatyanError, match=f"does not know '{op}'.*same version of matyan"):
                list(reader.ask(op, **arguments))
