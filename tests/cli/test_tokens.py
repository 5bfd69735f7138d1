"""`matyan tokens` as a person and a script see it, and services that were given its file; the unmodified SDK with a token."""

from __future__ import annotations

import base64
import json
import re
import stat
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from matyan_client import Run

from tests.services import serving
from tests.tracker import MATYAN, Tracker, asked, environment, matyan, running, started
from tests.until import wait_for


def add(*words: str | Path) -> str:
    """The token that was printed."""
    done = matyan("tokens", "add", *words)
    (token,) = done.stdout.splitlines()
    assert token not in done.stderr
    return str(token)


def test_a_token_is_printed_once(tmp_path: Path) -> None:
    """Alone on standard output, for a script; what is kept is its digest, which its owner alone may read."""
    data = tmp_path / "data"
    token = add(
        "ci", "--scope", "write", "--expires", "90d", "--quota", "connections=5", "--data", data
    )
    file = data / "tokens"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in file.read_text()
    (row,) = asked("tokens", "list", "--data", data)
    assert {name: row[name] for name in ("name", "scopes", "state", "quota")} == {
        "name": "ci",
        "scopes": ["write"],
        "state": "good",
        "quota": "connections=5",
    }
    assert row["expires"] - row["created"] == 90 * 86_400
    printed = matyan("tokens", "list", "--data", data).stdout
    assert printed.split("\t")[:3] == ["ci", "write", "good"]
    assert token not in printed + json.dumps(row)

    made = asked("tokens", "add", "both", "--scope", "read", "--scope", "write", "--data", data)
    assert made["scopes"] == ["read", "write"]
    assert made["token"] not in file.read_text()
    assert matyan("tokens", "revoke", "ci", "both", "--data", data).stdout == (
        "ci\trevoked\nboth\trevoked\n"
    )
    assert asked("tokens", "list", "--data", data) == []
    assert file.exists()


def test_commands_side_by_side_lose_nothing(tmp_path: Path) -> None:
    adding = [
        subprocess.Popen(
            [*MATYAN, "tokens", "add", f"n{number}", "--scope", "read", "--data", str(tmp_path)],
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for number in range(6)
    ]
    assert [process.wait(60) for process in adding] == [0] * 6
    assert {row["name"] for row in asked("tokens", "list", "--data", tmp_path)} == {
        f"n{number}" for number in range(6)
    }


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("add", "ci"), 2, "--scope"),
        (("add", "ci", "--scope", "all"), 2, "'read', 'write', 'admin'"),
        (("add", "a b", "--scope", "read"), 2, "expected a name"),
        (("add", "a:b", "--scope", "read"), 2, "expected a name"),
        (("add", "ci", "--scope", "read", "--expires", "soon"), 2, "such as"),
        (("add", "ci", "--scope", "read", "--expires", "0d"), 2, "up to 100 years"),
        (("add", "ci", "--scope", "read", "--expires", "9999999999d"), 2, "up to 100 years"),
        (("add", "ci", "--scope", "read", "--quota", "much"), 2, "expected some of"),
        (("add", "there", "--scope", "read"), 1, "matyan tokens revoke there"),
        (("revoke",), 2, "NAME"),
        (("revoke", "there", "nobody"), 1, "nothing was revoked"),
        (("list", "--tokens-file", "/dev/null"), 2, "is no tokens file"),
        (("add", "ci", "--scope", "read", "--tokens-file", "/proc/tokens"), 2, "cannot be changed"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(
    tmp_path: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    data = tmp_path / "data"
    add("there", "--scope", "read", "--data", data)
    before = (data / "tokens").read_bytes()
    done = matyan("tokens", *words, "--data", data, check=code)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert (data / "tokens").read_bytes() == before


def test_the_file_that_is_set_is_the_one(tmp_path: Path) -> None:
    """MATYAN_TOKENS_FILE, as the services read it, wins over the data folder's; the flag over both."""
    for words, env, file in (
        ((), {}, tmp_path / "data" / "tokens"),
        ((), {"MATYAN_TOKENS_FILE": str(tmp_path / "set")}, tmp_path / "set"),
        (
            ("--tokens-file", str(tmp_path / "flag")),
            {"MATYAN_TOKENS_FILE": str(tmp_path / "set")},
            tmp_path / "flag",
        ),
    ):
        assert not file.exists()
        matyan(
            *("tokens", "add", "ci", "--scope", "read", "--data", tmp_path / "data", *words),
            env=environment(**env),
        )
        assert file.exists()


# --- services ------------------------------------------------------------------------------------


def with_token(tracker: Tracker, name: str, token: str) -> str:
    return tracker.url.replace("//", f"//{name}:{token}@")


def got(url: str, authorization: str = "") -> int:
    request = urllib.request.Request(
        url, headers={"Authorization": authorization} if authorization else {}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_sdk_with_a_token(tmp_path: Path) -> None:
    """The unmodified SDK sends it from its URL: points, an artifact through presign, the end. Nothing that the tracker prints or shows has
    the token in it, also while others are refused, at the level DEBUG."""
    data, artifact = tmp_path / "data", tmp_path / "model.bin"
    artifact.write_bytes(bytes(range(256)) * 100)
    token = add("training", "--scope", "write", "--data", data)
    reader = add("laptop", "--scope", "read", "--data", data)
    with running(data, LOG_LEVEL="DEBUG") as tracker:
        assert "tokens:               on: 2" in "".join(tracker.output)
        assert "NAME:TOKEN@" in "".join(tracker.output)
        run = Run(repo=with_token(tracker, "training", token), capture_terminal_logs=False)
        for step in range(10):
            run.track(step / 10, name="loss")
        run.log_artifact(str(artifact), name="model.bin")
        run.close()
        shown = asked("show", run.hash, "--data", data)
        assert [one["points"] for one in shown["sequences"]] == [10]
        assert [one["bytes"] for one in shown["artifacts"]] == [25_600]
        assert not shown["meta"]["active"]

        sent = {
            word: "Basic " + base64.b64encode(word.encode()).decode()
            for word in (f"training:{token}x", f"laptop:{token}", f"training:{token}")
        }
        assert got(f"{tracker.url}/metrics/") == 401
        assert [got(f"{tracker.url}/metrics/", one) for one in sent.values()] == [401, 401, 403]
        assert got(f"{tracker.url}/api/nowhere", f"Bearer {reader}") == 404
        request = urllib.request.Request(
            f"{tracker.url}/metrics/", headers={"Authorization": f"Bearer {reader}"}
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            page = response.read().decode()
        for reason in ("missing", "unknown", "scope"):
            assert re.search(rf'matyan_refused_total{{reason="{reason}"}} [1-9]', page)
        assert tracker.stop() == 0
    output = "".join(tracker.output)
    for secret in (token, reader, *(one.removeprefix("Basic ") for one in sent.values())):
        assert secret not in output + page
    assert "no tokens are asked for" not in output


def test_a_token_is_revoked_while_the_tracker_runs(tmp_path: Path) -> None:
    """And the first one is made while it runs: neither needs a restart, and what was sent before is stored."""
    data = tmp_path / "data"
    with running(data) as tracker:
        assert "tokens:               off" in "".join(tracker.output)
        early = Run(repo=tracker.url, capture_terminal_logs=False)
        early.track(1.0, name="loss")
        wait_for(lambda: asked("runs", "--counts", "--data", data)[0]["points"] == 1)
        token = add("ci", "--scope", "write", "--data", data)
        run = Run(repo=with_token(tracker, "ci", token), capture_terminal_logs=False)
        run.track(1.0, name="loss")
        run.close()
        assert asked("show", run.hash, "--data", data)["sequences"][0]["points"] == 1
        matyan("tokens", "revoke", "ci", "--data", data)
        assert got(f"{tracker.url}/docs", f"Bearer {token}") == 401
        assert got(f"{tracker.url}/health/live/") == 200
        early.close()


def test_who_may_not_be_open_does_not_start(tmp_path: Path) -> None:
    """Exit code 2 and a sentence: a file that was named and is not there, one that is broken, and production without one."""
    broken = tmp_path / "broken"
    broken.write_text('{"tokens": [')
    up = ("up", "--data", tmp_path / "data", "--port", "0")
    for words, env, said in (
        (up, {"MATYAN_TOKENS_FILE": str(tmp_path / "none")}, "does not exist"),
        (up, {"MATYAN_TOKENS_FILE": str(broken)}, "is no tokens file"),
        ((*up, "--host", "0.0.0.0"), {"MATYAN_ENVIRONMENT": "production"}, "matyan tokens add"),
        (("frontier", "--port", "0"), {"MATYAN_TOKENS_FILE": str(broken)}, "is no tokens file"),
    ):
        done = matyan(*words, check=2, env=environment(**env))
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_who_listens_to_all_without_tokens_says_so(tmp_path: Path) -> None:
    with running(tmp_path / "data", "--host", "0.0.0.0") as tracker:
        wait_for(lambda: "no tokens are asked for" in "".join(tracker.output))
    with running(tmp_path / "data") as tracker:
        assert tracker.stop() == 0
    assert "no tokens are asked for" not in "".join(tracker.output)


def test_a_worker_asks_for_the_same_tokens(tmp_path: Path) -> None:
    """At METRICS_PORT, but for health; also while Kafka is away."""
    file = tmp_path / "tokens"
    token = add("prometheus", "--scope", "read", "--tokens-file", file)
    with serving(
        *("ingest-worker", "--store", f"rocks:{tmp_path / 'data'}"),
        KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
        MATYAN_TOKENS_FILE=str(file),
    ) as worker:
        wait_for(lambda: worker.unready() not in ("", "does not listen"))
        assert got(f"{worker.url}/metrics/") == 401
        assert got(f"{worker.url}/metrics/", f"Bearer {token}") == 200


def test_the_frontier_says_whether_it_asks(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    add("ci", "--scope", "write", "--tokens-file", file)
    for env, said in (({}, "tokens are off"), ({"MATYAN_TOKENS_FILE": str(file)}, "tokens are on")):
        with started(
            (*MATYAN, "frontier", "--host", "127.0.0.1", "--port", "0"),
            "frontier on port",
            KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1",
            **env,
        ) as process:
            assert said in "".join(process.output)
