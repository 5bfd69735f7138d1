"""Worker processes on a FoundationDB cluster and a real broker, killed, frozen and replaced, as is the cluster's server:
what was produced is stored once and in order."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from dev.broker import Broker
from dev.process import free_ports
from matyan.rules.sequences import Layout
from matyan.settings import Settings
from tests.cluster.places import empty
from tests.cluster.server import Server
from tests.cluster.workers import ClusterDeployment, open_workers
from tests.faults.test_worker_process import AT_LENGTH, kill_many_times
from tests.fdb import CLUSTER
from tests.kafka.load import open_load
from tests.tracker import Service
from tests.until import until

ROUNDS = 12 if AT_LENGTH else 3
PAUSE_S = 0.2
"""Between frames: the compatible layout on a small machine with its server must be able to follow."""


@pytest.fixture
def deployment(broker: Broker, settings: Settings, tmp_path: Path) -> ClusterDeployment:
    return ClusterDeployment(broker, settings, tmp_path / "unused")


@pytest.mark.parametrize("layout", ["compatible", "packed"])
async def test_killed_workers_store_everything_once(
    deployment: ClusterDeployment, layout: Layout
) -> None:
    """Two processes, one of them killed at a random moment under load, again and again."""
    deployment.layout = layout
    dice = random.Random(5)
    async with (
        open_workers(deployment) as workers,
        open_load(deployment.settings, deployment.topic) as load,
    ):
        await workers.start("one")
        await workers.start("two")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, PAUSE_S)
            for _ in range(ROUNDS):
                await workers.grows()
                await trio.sleep(dice.uniform(0, 0.6))
                name = dice.choice(["one", "two"])
                await workers.kill(name)
                await workers.start(name)
            nursery.cancel_scope.cancel()
        await load.settle()
        await workers.caught_up()
        assert await deployment.faults(load) == []


async def test_without_the_stored_offset_a_kill_is_caught(
    broker: Broker, settings: Settings, tmp_path: Path
) -> None:
    """The negative control: a worker that goes by Kafka's offsets stores records twice, and the oracle says so."""
    for seed in range(5):
        deployment = ClusterDeployment(broker, settings, tmp_path / str(seed))
        empty(CLUSTER)  # the round before has stored the same runs
        found = await kill_many_times(
            deployment, 2, seed, "redelivered-without-stored-offset", MATYAN_INSTANCE_ID="one"
        )
        if any("stored twice" in fault for fault in found):
            return
    pytest.fail("records that were applied twice went unnoticed")


async def test_a_second_process_joins_and_leaves_under_load(deployment: ClusterDeployment) -> None:
    """It gets partitions and gives them back; each end is a clean one."""
    dice = random.Random(3)
    async with (
        open_workers(deployment) as workers,
        open_load(deployment.settings, deployment.topic) as load,
    ):
        await workers.start("stays")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, PAUSE_S)
            for _ in range(ROUNDS):
                await workers.start("comes and goes")
                await workers.settled()
                await workers.grows()
                await trio.sleep(dice.uniform(0, 1))
                await workers.stop("comes and goes")
                await workers.grows()
            nursery.cancel_scope.cancel()
        await load.settle()
        await workers.caught_up()
        assert await deployment.faults(load) == []


async def test_a_zombie_process_writes_nothing_twice(deployment: ClusterDeployment) -> None:
    """Frozen under load until the other one has its partitions and has got on with them, and woken up."""
    dice = random.Random(7)
    async with (
        open_workers(deployment) as workers,
        open_load(deployment.settings, deployment.topic) as load,
    ):
        await workers.start("other")
        await workers.start("zombie")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, PAUSE_S)
            for _ in range(ROUNDS):
                await workers.settled()
                await workers.grows()
                await trio.sleep(dice.uniform(0, 0.5))
                workers.freeze("zombie")
                await workers.grows()  # the frozen one's runs too: the other one has them
                workers.thaw("zombie")
                await workers.grows()
            nursery.cancel_scope.cancel()
        await load.settle()
        await workers.caught_up()
        assert await deployment.faults(load) == []


BUGGIFY = {
    "FDB_NETWORK_OPTION_CLIENT_BUGGIFY_ENABLE": "",
    "FDB_NETWORK_OPTION_CLIENT_BUGGIFY_SECTION_ACTIVATED_PROBABILITY": "100",
    "FDB_NETWORK_OPTION_CLIENT_BUGGIFY_SECTION_FIRED_PROBABILITY": "10",
}
"""FoundationDB's own faults, by its client: in each place where it can fail it does so at every tenth time."""
CODES = (1007, 1020, 1021)
"""transaction_too_old, not_committed (a conflict), commit_unknown_result."""


@pytest.mark.parametrize("layout", ["compatible", "packed"])
async def test_a_client_that_fails_in_every_way_costs_nothing(
    deployment: ClusterDeployment, layout: Layout
) -> None:
    """Transactions that are too old, conflict, time out, and commits that happened or not as nobody knows."""
    deployment.layout = layout
    (port,) = free_ports(1)
    probes = {"HOST": "127.0.0.1", "METRICS_PORT": str(port)}
    async with (
        open_workers(deployment) as workers,
        open_load(deployment.settings, deployment.topic) as load,
    ):
        await workers.start("one", **BUGGIFY, **probes)
        process = workers.running["one"]
        service = Service(process.process, process.output, f"http://127.0.0.1:{port}")

        def failed(code: int) -> float:
            return sum(service.metric(f'matyan_fdb_errors_total{{code="{code}"}}'))

        async def all_have_happened() -> bool:
            workers.check()
            return all([await trio.to_thread.run_sync(failed, code) for code in CODES])

        await workers.start("two", **BUGGIFY)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, PAUSE_S)
            for _ in range(2 * ROUNDS):
                await workers.grows()
            await until(all_have_happened, 240)
            nursery.cancel_scope.cancel()
        await load.settle()
        await workers.caught_up()
        assert await deployment.faults(load) == []


async def test_a_server_that_freezes_and_dies_costs_nothing(
    deployment: ClusterDeployment, server: Server
) -> None:
    """Frozen for less and for longer than a transaction takes, and killed: the workers wait, and go on by themselves."""
    async with (
        open_workers(deployment) as workers,
        open_load(deployment.settings, deployment.topic) as load,
    ):
        await workers.start("one")
        await workers.start("two")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(load.forever, PAUSE_S)
            for seconds in [1.0, 7.0, *([2.0, 12.0, 30.0] if AT_LENGTH else [])]:
                await workers.grows()
                server.freeze()
                await trio.sleep(seconds)
                server.thaw()
                await workers.grows()
                await trio.to_thread.run_sync(server.kill)
                await trio.sleep(seconds / 2)
                await trio.to_thread.run_sync(server.start)
                workers.check()
            nursery.cancel_scope.cancel()
        await load.settle()
        await workers.caught_up()
        assert await deployment.faults(load) == []
