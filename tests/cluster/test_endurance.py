"""Six partitions, three workers, and what may happen to them and to the server, for MATYAN_FDB_MINUTES (1).

Prints what was sent and stored. By itself, at length:
MATYAN_FDB_MINUTES=30 pytest -q tests/cluster/test_endurance.py
"""

from __future__ import annotations

import os
import time
from collections import Counter
from pathlib import Path

import pytest
import trio

from dev.broker import Broker
from matyan.settings import Settings
from tests import fdb
from tests.cluster.server import server_of
from tests.cluster.workers import ClusterDeployment, open_workers, storm
from tests.kafka.load import Numbers, faults, open_load
from tests.tracker import matyan

MINUTES = float(os.environ.get("MATYAN_FDB_MINUTES", "1"))


def account(produced: Numbers, stored: Numbers) -> Counter[str]:
    """How many records were sent, are stored, are lost, stand twice, were never sent."""
    found: Counter[str] = Counter(sent=0, stored=0, lost=0, twice=0, unsent=0)
    for run, both in produced.items():
        for sent, there in zip(both, stored[run], strict=True):
            times = Counter(there)
            found["sent"] += len(sent)
            found["stored"] += len(there)
            found["lost"] += len(set(sent) - times.keys())
            found["twice"] += sum(often - 1 for often in times.values())
            found["unsent"] += len(times.keys() - set(sent))
    return found


async def test_nothing_is_lost_and_nothing_twice(
    broker: Broker, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever is killed and frozen, by MATYAN_FDB_SEED or one that is printed."""
    seed = int(os.environ.get("MATYAN_FDB_SEED") or time.time())
    deployment = ClusterDeployment(broker, settings, tmp_path / "unused")
    try:
        server = server_of(fdb.CLUSTER)
    except pytest.skip.Exception:  # the workers are this machine's all the same
        server = None
    began = time.monotonic()
    async with open_workers(deployment) as workers:
        async with open_load(settings, deployment.topic, runs=24) as load:
            for name in "abc":
                await workers.start(name)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(load.forever, 0.5)
                try:
                    happened = await storm(workers, server, 60 * MINUTES, seed)
                finally:
                    if server is not None:
                        await trio.to_thread.run_sync(server.restore)
                nursery.cancel_scope.cancel()
            await load.settle()
        stormed = time.monotonic() - began
        await workers.caught_up()
        numbers = await workers.numbers(load)
        for name in list(workers.running):
            await workers.stop(name)
    counts = account(load.produced, numbers)
    with capsys.disabled():
        print(
            f"\nseed {seed}, {stormed:.0f} s, caught up {time.monotonic() - began - stormed:.0f} s later; "
            f"records: {dict(counts)}; happened: {dict(happened)}"
        )
    assert faults(load.produced, numbers) == []
    checked = await trio.to_thread.run_sync(matyan, "check", "--store", f"fdb:{fdb.CLUSTER}")
    assert checked.stdout == "", "rows do not fit together"
    assert counts["stored"] == counts["sent"] > 0
