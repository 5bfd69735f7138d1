"""`matyan ingest-worker` on the tests' cluster, as many processes as a test likes; who is killed comes again under its name."""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, asynccontextmanager
from pathlib import Path

import trio

from matyan.broker.kafka.admin import describe_topic, open_admin
from matyan.broker.kafka.client import client_config
from matyan.rules.sequences import Layout
from matyan.store.base import Store
from tests.cluster.places import the_store
from tests.cluster.server import Server
from tests.faults.test_worker_process import PARTITIONS, Deployment
from tests.fdb import CLUSTER
from tests.kafka.crew import stored_offsets
from tests.kafka.load import Load, Numbers, faults, stored_numbers
from tests.tracker import Process
from tests.until import until

SESSION = {
    "session.timeout.ms": 3_000,
    "heartbeat.interval.ms": 300,
    "max.poll.interval.ms": 3_000,
}
"""Shorter than the default: a worker that is killed or frozen holds up its partitions for so long."""
CATCH_UP_S = 300


class ClusterDeployment(Deployment):
    """A topic, the cluster's store, and worker processes between them."""

    layout: Layout = "compatible"

    def name_of(self, store: Path | None) -> str:
        return f"fdb:{CLUSTER}"

    async def faults(self, load: Load) -> list[str]:
        async with the_store() as store:
            return faults(load.produced, await stored_numbers(store, load.produced, self.layout))

    async def is_caught_up(self) -> bool:
        return await trio.to_thread.run_sync(self.is_through)

    def topic_id(self) -> str:
        return str(describe_topic(open_admin(client_config(self.settings)), self.topic).topic_id)


class Workers:
    """Worker processes by name, of one consumer group."""

    def __init__(self, deployment: ClusterDeployment, store: Store) -> None:
        self.deployment = deployment
        self.store = store
        self.running: dict[str, Process] = {}
        self._contexts: dict[str, AbstractContextManager[Process]] = {}

    async def numbers(self, load: Load) -> Numbers:
        return await stored_numbers(self.store, load.produced, self.deployment.layout)

    async def grows(self) -> None:
        """Returns when more of every partition that has records is stored than now."""
        topic_id = await trio.to_thread.run_sync(self.deployment.topic_id)
        places = await trio.to_thread.run_sync(self.deployment.places)
        before = await stored_offsets(self.store, topic_id)

        async def has_grown() -> bool:
            self.check()
            now = await stored_offsets(self.store, topic_id)
            return bool(now) and all(
                now.get(number, 0) > before.get(number, 0)
                for number, (_, end) in places.items()
                if end
            )

        await until(has_grown, CATCH_UP_S)

    async def start(self, name: str, **env: str) -> None:
        layout = {"MATYAN_SEQUENCE_LAYOUT": self.deployment.layout}
        context = self.deployment.worker(members=1, consumer=SESSION, **layout, **env)
        self._contexts[name] = context
        self.running[name] = await trio.to_thread.run_sync(context.__enter__)

    def _end(self, name: str) -> None:
        self.running.pop(name)
        self._contexts.pop(name).__exit__(None, None, None)  # kills what still runs

    async def kill(self, name: str) -> None:
        self.running[name].process.kill()
        await trio.to_thread.run_sync(self._end, name)

    async def stop(self, name: str) -> None:
        """As SIGTERM does: it drains and leaves. One that has not begun yet, and so has said nothing, dies of it."""
        process = self.running[name]
        code = await trio.to_thread.run_sync(process.stop)
        output = "".join(process.output)
        assert code == 0 or (code == -signal.SIGTERM and not output), f"{code}: {output}"
        await trio.to_thread.run_sync(self._end, name)

    def freeze(self, name: str) -> None:
        self.running[name].process.send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self.running[name].process.send_signal(signal.SIGCONT)

    def check(self) -> None:
        """None has ended by itself."""
        for name, process in self.running.items():
            code = process.process.poll()
            assert code is None, f"{name} ended with {code}:\n{''.join(process.output)}"

    async def settled(self) -> None:
        """Returns when each has partitions, and each partition one of them."""

        async def are_shared() -> bool:
            self.check()
            shares = (await trio.to_thread.run_sync(self.deployment.members)).values()
            return (
                len(shares) == len(self.running)
                and all(shares)
                and sum(map(len, shares)) == PARTITIONS
            )

        await until(are_shared, CATCH_UP_S)

    async def caught_up(self) -> None:
        """Returns when all that was delivered is stored and committed."""

        async def are_through() -> bool:
            self.check()
            return await self.deployment.is_caught_up()

        await until(are_through, CATCH_UP_S)


@asynccontextmanager
async def open_workers(deployment: ClusterDeployment) -> AsyncIterator[Workers]:
    """None yet; those that run at the end are killed."""
    async with the_store() as store:
        workers = Workers(deployment, store)
        try:
            yield workers
        finally:
            with trio.CancelScope(shield=True):
                for name in list(workers.running):
                    await workers.kill(name)


async def storm(workers: Workers, server: Server | None, seconds: float, seed: int) -> Counter[str]:
    """What can happen to three workers and a server, at random, for so long; what happened. All run afterwards."""
    dice, happened = random.Random(seed), Counter[str]()
    kinds = ["kill", "kill", "freeze", "stop"]
    if server is not None:
        kinds += ["freeze the server", "kill the server"]
    end = trio.current_time() + seconds
    while trio.current_time() < end:
        workers.check()
        kind, name = dice.choice(kinds), dice.choice([*workers.running])
        happened[kind] += 1
        if kind == "kill":
            await workers.kill(name)
            await trio.sleep(dice.uniform(0, 3))
            await workers.start(name)
        elif kind == "stop":
            await workers.stop(name)
            await workers.start(name)
        elif kind == "freeze":
            workers.freeze(name)
            await trio.sleep(dice.uniform(0.5, 8))
            workers.thaw(name)
        elif server is not None:
            if kind == "freeze the server":
                server.freeze()
                await trio.sleep(dice.uniform(0.5, 8))
                server.thaw()
            else:
                await trio.to_thread.run_sync(server.kill)
                await trio.sleep(dice.uniform(0, 3))
                await trio.to_thread.run_sync(server.start)
        # Most of the time is work: a group that never settles stores little.
        await trio.sleep(dice.uniform(1, 6))
    return happened
