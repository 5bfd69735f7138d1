"""The unmodified SDK with a token that has a quota, against a real `matyan up`: it slows down, waits for a place, and loses nothing."""

from __future__ import annotations

import threading
import urllib.request
from pathlib import Path

from matyan_client import Run

from tests.cli.test_tokens import add, with_token
from tests.tracker import asked, running
from tests.until import wait_for


def test_over_every_limit_the_sdk_goes_on(tmp_path: Path) -> None:
    """Messages: all points are stored. Connections: the second run comes in when the first has left. Blobs: what does not fit the day is
    refused, the next process knows the day's count, and the runs are whole beside it."""
    data, small, large = tmp_path / "data", tmp_path / "small.bin", tmp_path / "large.bin"
    small.write_bytes(b"x" * 8_000)
    large.write_bytes(b"x" * 15_000)
    token = add(
        *("ci", "--scope", "write", "--data", data),
        *("--quota", "connections=1,messages=100/s,blobs=20kB/day"),
    )
    reading = add("laptop", "--scope", "read", "--data", data)
    (shown,) = (row for row in asked("tokens", "list", "--data", data) if row["name"] == "ci")
    assert shown["quota"] == "connections=1,messages=100/s,blobs=20kB/day"

    with running(data) as tracker:
        url = with_token(tracker, "ci", token)
        first = Run(repo=url, capture_terminal_logs=False)
        for step in range(300):
            first.track(step / 10, name="loss")
        first.log_artifact(str(large), name="large.bin")

        def second_run() -> None:
            second = Run("second", repo=url, capture_terminal_logs=False)
            second.track(1.0, name="loss")
            second.log_artifact(str(small), name="again.bin")
            second.close()

        other = threading.Thread(target=second_run)
        other.start()

        def count(metric: str, limit: str) -> float:
            request = urllib.request.Request(
                f"{tracker.url}/metrics/", headers={"Authorization": f"Bearer {reading}"}
            )
            with urllib.request.urlopen(request, timeout=10) as response:
                page: str = response.read().decode()
            begin = f'matyan_quota_{metric}_total{{limit="{limit}",token="ci"}} '
            return sum(
                float(line.removeprefix(begin))
                for line in page.splitlines()
                if line.startswith(begin)
            )

        wait_for(lambda: count("refused", "connections") > 0)
        first.close()
        other.join()
        assert count("held_frames", "messages") > 0
        assert count("held_seconds", "messages") > 0
        assert count("refused", "blobs") > 0
        rows = {row["run"]: row for row in asked("runs", "--counts", "--data", data)}
        assert rows[first.hash]["points"] == 300
        assert rows["second"]["points"] == 1
        assert not any(row["active"] for row in rows.values())
        bytes_of = {
            one["path"]: one["bytes"]
            for run in rows
            for one in asked("show", run, "--data", data).get("artifacts", [])
        }
        assert bytes_of["large.bin"] == 15_000
        assert bytes_of.get("again.bin") is None
        assert tracker.stop() == 0

    with running(data) as tracker:
        third = Run("third", repo=with_token(tracker, "ci", token), capture_terminal_logs=False)
        third.log_artifact(str(small), name="small.bin")
        third.close()
        (artifact,) = asked("show", "third", "--data", data)["artifacts"]
        assert artifact["bytes"] is None
    output = "".join(tracker.output)
    assert "blobs=20kB/day" in output
