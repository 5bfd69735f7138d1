"""The benches' load: what the generator sends is new in every frame, whatever the load."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from websockets.sync.server import ServerConnection, serve

from bench import frontier, ingest, loadgen
from bench.loadgen import Load

LOADS = sorted(
    {*frontier.LOADS, *(load for loads in ingest.LOADS.values() for load in loads)}, key=str
)
FRAMES = 3


@contextmanager
def answering() -> Iterator[tuple[int, list[str]]]:
    """A server that says ok to everything: its port, and the frames that came."""
    frames: list[str] = []

    def answer(connection: ServerConnection) -> None:
        for frame in connection:
            assert isinstance(frame, str)
            frames.append(frame)
            connection.send('{"status":"ok","error":null}')

    with serve(answer, "127.0.0.1", 0, compression=None) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.socket.getsockname()[1], frames
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("load", LOADS, ids=str)
def test_no_frame_repeats_a_step(load: Load) -> None:
    """Of one run and sequence; a frame's bytes are never those of another."""
    load = dataclasses.replace(load, connections=min(load.connections, 4))
    with answering() as (port, frames):
        result = loadgen.run(port, load, frames=FRAMES, seconds=30)
    points = []
    for frame in frames:
        items = json.loads(frame)
        points += [
            (item["run_id"], item["name"], item["step"])
            for item in (items if isinstance(items, list) else [items])
            if item["type"] == "log_metric"
        ]
    assert result["acknowledged"] == len(points) == load.connections * FRAMES * load.messages
    assert len(set(points)) == len(points)
    assert len(set(frames)) == len(frames)
