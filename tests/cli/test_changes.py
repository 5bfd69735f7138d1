"""The commands that change runs, and what tells when a run was last heard of: real processes and folders."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import trio

from matyan.errors import NotFound
from matyan.folder.folder import open_folder
from matyan.keys import pack_value
from matyan.reader import open as matyan_reader
from tests.cli.test_main import START, fill, metric, send
from tests.tracker import asked, matyan, running

DAY = 86_400.0


def age(data: Path, *runs: str, by: float) -> float:
    """Makes the last record of these runs, in a folder that nobody holds, so old; returns when it was."""
    then = round(time.time() - by, 3)

    async def write() -> None:
        async with open_folder(data, None) as folder:

            def body(tr) -> None:
                for run in runs:
                    tr.set(folder.keys.activity(run), pack_value(then))

            await folder.store.transact(body)

    trio.run(write)
    return then


def start(tracker, run: str, **more: object) -> None:
    send(tracker, run, {"type": "create_run", "client_datetime": START}, metric("loss", 0, 1.0))
    if more:
        send(tracker, run, {"type": "set_run_property", **more})


@pytest.fixture
def killed(tmp_path) -> Path:
    """A folder with one run that ended, one that goes on, and two whose trainings were killed, a day and an hour ago."""
    with running(tmp_path / "data") as tracker:
        fill(tracker, "ended-1")
        start(tracker, "going-1", experiment="digits")
        start(tracker, "killed-1", experiment="digits", name="\x1b]0;owned\x07")
        start(tracker, "killed-2", experiment="letters")
        assert tracker.stop() == 0
    age(tmp_path / "data", "ended-1", "killed-1", by=DAY)
    age(tmp_path / "data", "killed-2", by=3_600)
    return tmp_path / "data"


def listed(data: Path, *words: str) -> set[str]:
    return {row["run"] for row in asked("runs", "--data", data, *words)}


@pytest.mark.parametrize("is_running", [True, False])
def test_runs_and_show_say_when_a_run_was_last_heard_of(killed, is_running) -> None:
    """In JSON as epoch seconds, in text as a time of day; --stale takes active runs alone."""

    def check() -> None:
        rows = {row["run"]: row for row in asked("runs", "--data", killed)}
        assert rows["going-1"]["last_record"] == pytest.approx(time.time(), abs=120)
        assert rows["killed-1"]["last_record"] == pytest.approx(time.time() - DAY, abs=120)
        shown = asked("show", "killed-1", "--data", killed)
        assert shown["last_record"] == rows["killed-1"]["last_record"]
        day = time.strftime("%Y-%m-%d %H:", time.localtime(rows["killed-1"]["last_record"]))
        assert day in matyan("show", "killed-1", "--data", killed).stdout
        assert day in matyan("runs", "--data", killed).stdout
        assert listed(killed, "--stale", "30m") == {"killed-1", "killed-2"}
        assert listed(killed, "--stale", "2h") == {"killed-1"}
        assert listed(killed, "--stale", "1.5d") == set()
        assert listed(killed, "--stale", "30m", "--experiment", "letters") == {"killed-2"}
        assert listed(killed, "--stale", "30m", "--finished") == set()
        assert listed(killed, "--stale", " 2H") == {"killed-1"}
        assert "expected an age" in matyan("runs", "--stale", "soon", check=2).stderr
        assert "minutes or months" in matyan("runs", "--stale", "30M", check=2).stderr

    if is_running:
        with running(killed):
            check()
    else:
        check()


@pytest.mark.parametrize("is_running", [True, False])
def test_finish_ends_a_run_when_it_was_last_heard_of(killed, is_running) -> None:
    """Its duration is from the client's start to then; one that ended before stays as it is."""

    def check() -> None:
        last = asked("show", "killed-1", "--data", killed)["last_record"]
        ended = asked("show", "ended-1", "--data", killed)["meta"]
        done = matyan("finish", "killed-1", "ended-1", "--data", killed)
        assert "finished run killed-1" in done.stdout
        assert "Run ended-1 had ended before" in done.stderr
        meta = asked("show", "killed-1", "--data", killed)["meta"]
        assert (meta["active"], ended["active"]) == (False, False)
        assert meta["client_start_ts"] + meta["duration"] == pytest.approx(last, abs=0.001)
        assert asked("show", "ended-1", "--data", killed)["meta"] == ended
        assert listed(killed, "--active") == {"going-1", "killed-2"}

    if is_running:
        with running(killed):
            check()
    else:
        check()


def test_finish_by_filter_asks(killed) -> None:
    """How many, and which; no means no."""
    asking = matyan("finish", "--stale", "30m", "--data", killed, input="n\n", check=1)
    assert "Finish 2 runs?" in asking.stderr
    assert "killed-2" in asking.stderr
    assert "Nothing was finished" in asking.stderr
    assert "\x1b" not in asking.stderr
    assert listed(killed, "--active") == {"going-1", "killed-1", "killed-2"}
    assert matyan("finish", "--stale", "30m", "--data", killed, input="y\n").stdout.count("\n") == 2
    assert listed(killed, "--active") == {"going-1"}
    assert "No such runs" in matyan("finish", "--stale", "30m", "--data", killed).stderr


def test_a_finished_run_goes_on_when_its_training_does(killed) -> None:
    """What it still sends is stored, and a new session makes it active again."""
    with running(killed) as tracker:
        matyan("finish", "going-1", "--data", killed)
        send(tracker, "going-1", metric("loss", 1, 0.5))
        assert asked("show", "going-1", "--data", killed)["sequences"][0]["points"] == 2
        send(tracker, "going-1", {"type": "create_run", "client_datetime": START})
        assert "going-1" in listed(killed, "--active")


@pytest.mark.parametrize("command", ["delete", "finish"])
def test_all_runs_are_never_chosen_by_accident(killed, command) -> None:
    """Neither without a choice nor by two; a name that is none stops before anything is done."""
    assert "Name the runs" in matyan(command, "--data", killed, check=2).stderr
    both = matyan(command, "killed-1", "--active", "--yes", "--data", killed, check=2)
    assert "Name the runs" in both.stderr
    wrong = matyan(command, "killed-1", "nobody", "--yes", "--data", killed, check=1)
    assert "no run 'nobody'" in wrong.stderr
    assert "Several runs" in matyan(command, "killed", "--yes", "--data", killed, check=1).stderr
    assert listed(killed) == {"ended-1", "going-1", "killed-1", "killed-2"}
    assert listed(killed, "--active") == {"going-1", "killed-1", "killed-2"}


@pytest.mark.parametrize("is_running", [True, False])
def test_a_beginning_of_an_id_changes_a_run_only_when_it_was_agreed_to(killed, is_running) -> None:
    """`matyan delete a1` after the run a1 is gone must not take a lone a10: with --yes it is refused, else the run is named."""

    def check() -> None:
        for command in "delete", "finish":
            for words in (["going"], ["going-1", "ended"], ["going", "going-1", "ended"]):
                refused = matyan(command, *words, "--yes", "--data", killed, check=1)
                assert refused.stdout == ""
                assert "begins so" in refused.stderr
            asking = matyan(command, "going", "--data", killed, input="n\n", check=1)
            assert "going is the beginning of going-1" in asking.stderr
            assert f"{command.capitalize()} run going-1" in asking.stderr
            # Nobody is there to answer.
            matyan(command, "going", "--data", killed, input="", check=130)
        assert listed(killed, "--active") == {"going-1", "killed-1", "killed-2"}
        assert len(listed(killed)) == 4
        agreed = matyan("finish", "going", "--data", killed, input="y\n")
        assert "finished run going-1" in agreed.stdout
        agreed = matyan("delete", "going", "--data", killed, input="y\n")
        assert agreed.stdout == "deleted run going-1\n"
        assert matyan("delete", "ended-1", "--yes", "--data", killed).stdout
        matyan("finish", "killed-1", "--data", killed)

    if is_running:
        with running(killed):
            check()
    else:
        check()


@pytest.mark.parametrize("change", ["delete", "finish"])
def test_a_beginning_of_an_id_changes_nothing_from_python(killed, change) -> None:
    """Nor when the run that a command has resolved goes before it is changed: the process that holds the folder takes whole ids."""
    with matyan_reader(killed) as reader:
        with pytest.raises(NotFound, match="no run 'going'"):
            getattr(reader, change)("going")
        assert getattr(reader, change)("going-1")["run"] == "going-1"


@pytest.mark.parametrize("is_running", [True, False])
def test_delete_takes_several_runs_and_filters(killed, is_running) -> None:
    """One question says how many; beginnings of ids work there, and one that is named twice is deleted once."""

    def check() -> None:
        asking = matyan("delete", "going", "ended-1", "--data", killed, input="n\n", check=1)
        assert "Delete 2 runs for good?" in asking.stderr
        assert "Nothing was deleted" in asking.stderr
        assert len(listed(killed)) == 4
        named = ("ended-1", "ended", "going-1")
        done = matyan("delete", *named, "--data", killed, input="y\n")
        assert "Delete 2 runs for good?" in done.stderr
        assert done.stdout.splitlines() == ["deleted run ended-1", "deleted run going-1"]
        asking = matyan("delete", "--stale", "2h", "--data", killed, input="n\n", check=1)
        assert "Delete run killed-1" in asking.stderr
        assert "\x1b" not in asking.stderr
        matyan("delete", "--experiment", "letters", "--yes", "--data", killed)
        assert listed(killed) == {"killed-1"}
        nobody = matyan("delete", "--experiment", "letters", "--yes", "--data", killed)
        assert "No such runs" in nobody.stderr

    if is_running:
        with running(killed):
            check()
    else:
        check()
