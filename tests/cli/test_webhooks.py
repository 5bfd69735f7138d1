"""Webhooks of real processes: receivers that are slow, away, elsewhere or broken, a tracker that is killed, and the commands."""

from __future__ import annotations

import signal
from pathlib import Path

from matyan_client import Run

from dev.process import free_ports
from tests.api.test_api import API
from tests.receiver import dripping, receiving, status
from tests.tracker import Tracker, asked, matyan, running
from tests.until import wait_for

SECRET = "a secret of many bytes"


def file_of(tmp_path: Path, *names: str, port: int, **more: object) -> Path:
    rows = [
        f'[[webhook]]\nname = "{name}"\nurl = "http://127.0.0.1:{port}/{name}"\nsecret = "{SECRET}"\n'
        for name in names
    ]
    extra = "".join(f"{name} = {value}\n" for name, value in more.items())
    path = tmp_path / "webhooks.toml"
    path.write_text("".join(row + extra for row in rows))
    return path


def ended(tracker: Tracker, name: str) -> None:
    run = Run(name, repo=tracker.url, experiment="digits", capture_terminal_logs=False)
    run.add_tag("best")
    run.track(0.5, name="loss", step=1)
    run.close()


def test_each_event_of_a_tracker_is_told_in_order(tmp_path: Path) -> None:
    """By records of the SDK, by commands, by jobs and by the web app's routes; a replayed dead letter too."""
    data = tmp_path / "data"
    with receiving() as receiver:
        file = file_of(tmp_path, "chat", port=receiver.port, give_up_s=0.01)
        with running(data, "--webhooks-file", str(file)) as tracker:
            api = API(tracker)
            ended(tracker, "first")
            open_run = Run("second", repo=tracker.url, capture_terminal_logs=False)
            open_run.track(0.5, name="loss", step=1)
            wait_for(lambda: len(asked("runs", "--data", data)) == 2)
            wait_for(lambda: asked("show", "second", "--data", data)["sequences"])
            matyan("finish-stale", "--older-than", "0s", "--data", data)
            api.json("PUT", "runs/first", {"archived": True})
            api.json("PUT", "runs/first", {"archived": False})
            (tag,) = api.json("GET", "runs/first/info")["props"]["tags"]
            api.json("DELETE", f"tags/{tag['id']}")
            experiment = api.json("GET", "runs/first/info")["props"]["experiment"]["id"]
            api.json("DELETE", f"experiments/{experiment}")
            matyan("delete", "first", "--yes", "--data", data)
            told = [
                ("run_finished", "first"),
                ("run_stale", "second"),
                ("run_archived", "first"),
                ("run_unarchived", "first"),
                ("tag_deleted", tag["id"]),
                ("experiment_deleted", experiment),
                ("run_deleted", "first"),
            ]
            wait_for(lambda: len(receiver.got) >= len(told))
            assert sorted(receiver.at("/chat")) == sorted(told)
            for about in ("first", "second"):
                mine = [one.told for one in receiver.got if one.told[1] == about]
                assert mine == [one for one in told if one[1] == about]

            receiver.answers["/chat"] = status(500)
            matyan("delete", "second", "--yes", "--data", data)
            wait_for(lambda: asked("dlq", "list", "--data", data))
            (letter,) = asked("dlq", "list", "--data", data)
            assert letter["error_text"] == "webhook chat: answered 500"
            receiver.answers.clear()
            before = len(receiver.got)
            again = matyan("dlq", "replay", str(letter["id"]), "--data", data)
            assert "handled again soon" in again.stdout
            wait_for(lambda: len(receiver.got) > before)
            assert receiver.got[-1].told == ("run_deleted", "second")
            assert asked("dlq", "list", "--data", data) == []
            open_run.close()
            assert matyan("check", "--data", data).stdout == ""
            assert tracker.stop() == 0


def test_nothing_is_lost_to_receivers_of_any_kind_nor_to_a_kill(tmp_path: Path) -> None:
    """One drips, one sends elsewhere, one answers 500 for ever, and one is away until the tracker was killed: that one hears of
    all, and nobody keeps the tracker from storing."""
    data, (away,) = tmp_path / "data", free_ports(1)
    with receiving(drips=dripping, moved=status(302, Location="/chat"), broken=status(500)) as all_:
        bad = file_of(tmp_path, "drips", "moved", "broken", port=all_.port, timeout_s=0.5)
        text = bad.read_text() + file_of(tmp_path, "chat", port=away).read_text()
        bad.write_text(text)
        options = ("--webhooks-file", str(bad))
        with running(data, *options) as tracker:
            for number in range(3):
                ended(tracker, f"run{number}")
            wait_for(lambda: {one.path for one in all_.got} == {"/drips", "/moved", "/broken"})
            wait_for(
                lambda: tracker.metric('matyan_webhook_waiting_notices{webhook="chat"}') == [3]
            )
            assert not tracker.unready()
            tracker.stop(signal.SIGKILL)
        with running(data, *options) as tracker, receiving(away) as chat:
            told = [("run_finished", f"run{number}") for number in range(3)]
            wait_for(lambda: sorted({*chat.at("/chat")}) == told)
            assert tracker.stop() == 0
            assert all_.at("/chat") == []


def test_a_wrong_file_ends_the_start_with_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "webhooks.toml"
    file.write_text("[[webhook]]\nnmae = 'x'\n")
    said = matyan("up", "--data", tmp_path / "data", "--webhooks-file", file, check=2).stderr
    assert "is name meant?" in said
    assert "Traceback" not in said


def test_the_commands(tmp_path: Path) -> None:
    """list, test and secret, and what they say when something is not there."""
    with receiving(broken=status(500)) as receiver:
        file = file_of(tmp_path, "chat", "broken", port=receiver.port)
        words = ("--webhooks-file", file)
        piped = matyan("webhooks", "list", *words).stdout.splitlines()
        assert [line.split("\t")[:2] for line in piped] == [
            ["chat", receiver.url("/chat")],
            ["broken", receiver.url("/broken")],
        ]
        rows = asked("webhooks", "list", *words)
        assert [row["name"] for row in rows] == ["chat", "broken"]
        assert SECRET not in str(rows)
        assert matyan("webhooks", "test", "chat", *words).stdout == "chat\ttaken\n"
        done = matyan("webhooks", "test", *words, check=1)
        assert done.stdout == "chat\ttaken\nbroken\tanswered 500\n"
        assert "1 of them did not take it" in done.stderr
        assert receiver.at("/chat") == [("test", "")] * 2
        assert "no webhook other" in matyan("webhooks", "test", "other", *words, check=1).stderr
    assert "MATYAN_WEBHOOKS_FILE" in matyan("webhooks", "list", check=2).stderr
    made = [matyan("webhooks", "secret").stdout for _ in range(2)]
    assert made[0] != made[1]
    assert all(one.startswith("whsec_") for one in made)
