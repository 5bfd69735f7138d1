"""A tracker with few descriptors: clients get a part of them, the store and its log the rest."""

from __future__ import annotations

import json
import resource
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from matyan.service import descriptors
from tests.tracker import MATYAN, Tracker, running
from tests.until import wait_for

LIMITED = (
    sys.executable,
    "-c",
    "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_NOFILE, (n, n));"
    "os.execv(sys.argv[2], sys.argv[2:])",
)


def link(tracker: Tracker, run: str) -> ClientConnection:
    url = tracker.url.replace("http", "ws", 1) + f"/api/v1/ws/runs/{run}"
    return connect(url, ping_interval=None, open_timeout=30)


def store(client: ClientConnection, name: str) -> None:
    client.send(json.dumps({"type": "add_tag", "tag_name": name}))
    assert json.loads(client.recv(timeout=30)) == {"status": "ok", "error": None}


@pytest.mark.parametrize("kind", ["idle", "websockets", "half requests"])
def test_238_sockets_do_not_take_the_stores_descriptors(tmp_path: Path, kind: str) -> None:
    """Under 256: who is there goes on being answered, new ones are told 503, and when they have gone all is well."""
    with running(tmp_path, command=(*LIMITED, "256", *MATYAN, "up")) as tracker:
        victim = link(tracker, "victim")
        store(victim, "before")
        address = ("127.0.0.1", int(tracker.url.rpartition(":")[2]))
        sockets: list[socket.socket] = []
        clients: list[ClientConnection] = []
        refusals: list[InvalidStatus] = []
        for number in range(238):
            if kind == "websockets":
                try:
                    clients.append(link(tracker, f"run-{number}"))
                except InvalidStatus as error:
                    refusals.append(error)
            else:
                sockets.append(socket.create_connection(address, 30))
                if kind == "half requests":
                    sockets[-1].sendall(b"GET / HTTP/1.1\r\n")
            if number % 20 == 0:
                store(victim, f"{number}")
        for number in range(50):
            store(victim, f"beside {number}")
        if kind == "websockets":
            assert len(refusals) > 50
            assert {refusal.response.status_code for refusal in refusals} == {503}
            assert all(b"ulimit -n" in refusal.response.body for refusal in refusals)
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(tracker.url + "/health/live/", timeout=30)
            assert caught.value.code == 503
            for client in (clients[0], clients[-1]):
                store(client, "still here")
        for client in clients:
            client.close()
        for one in sockets:
            one.close()
        wait_for(lambda: is_live(tracker))
        store(victim, "after")
        assert tracker.stop() == 0
        output = "".join(tracker.output)
        assert "Too many open files" not in output
        assert "crashed" not in output


def is_live(tracker: Tracker) -> bool:
    try:
        return bool(tracker.get("/health/live/"))
    except OSError:  # no descriptor is free yet, or 503
        return False


def test_the_limit_is_raised(tmp_path: Path) -> None:
    """From the shell's soft one to the hard one."""
    soft = (
        sys.executable,
        "-c",
        "import os, resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (100, 900));"
        "os.execv(sys.argv[1], sys.argv[1:])",
    )
    with running(tmp_path, command=(*soft, *MATYAN, "up")) as tracker:
        limits = resource.prlimit(tracker.process.pid, resource.RLIMIT_NOFILE)
        assert limits == (900, 900)


@pytest.mark.parametrize("most", [256, 1024, 4096, 1 << 20])
def test_the_parts_leave_a_rest(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda what: (most, most))
    parts = descriptors.for_connections() + descriptors.for_uploads() + descriptors.for_store()
    assert parts <= most * 7 // 8
