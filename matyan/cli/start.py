"""How the services of a deployment begin: what each of them sets up first, and the wait for Kafka.

Alive at once, ready when the broker is there and the topics are fit for our records. The wait for a store is
`store_start.py`'s, since a frontier has none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import trio
from confluent_kafka.admin import AclOperation

from matyan import __version__
from matyan.broker.kafka.admin import open_admin
from matyan.broker.kafka.topics import require_access, require_fit_topics, require_topics
from matyan.errors import Unavailable
from matyan.service import logs, telemetry
from matyan.service.backoff import Backoff
from matyan.service.descriptors import raise_limit
from matyan.service.health import Health
from matyan.service.logs import get_logger
from matyan.service.supervise import calm_collector
from matyan.settings import Settings, read_environment, unknown_names

_SILENCE_S = 2.0
"""Without an answer for so long, the log says that a start waits: the first one of brokers that are away takes 10 s."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.2, 5.0
NOT_ASKED = "Not asked yet."

log = get_logger()


def begin(service: str, settings: Settings, used: Sequence[str]) -> None:
    """used: the settings that decide what this service connects to."""
    settings.refuse_development_values(used)
    raise_limit()
    logs.configure(settings.log_level)
    for sentence in unknown_names(read_environment()):
        log.warning(sentence)
    telemetry.export_only_of(service)
    log.info(
        "starts",
        service=service,
        version=__version__,
        environment=settings.environment,
        brokers=settings.kafka_bootstrap_servers,
        topic=settings.kafka_data_ingestion_topic,
    )


class KafkaStart:
    """Start-up: alive but not ready until the broker is there and `topics` are fit for our records."""

    def __init__(self, settings: Settings, needs: Mapping[str, AclOperation]) -> None:
        """needs: what this service does with each of its topics."""
        from matyan.broker.kafka.client import client_config

        self._admin = open_admin(client_config(settings))
        self._log = log.bind(missing="kafka", brokers=settings.kafka_bootstrap_servers)
        self._needs = needs
        self._partitions: dict[str, int] = {}
        self._missing: str | None = NOT_ASKED

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """As a task of a service: started when Kafka is there."""
        await wait_for(self.wait, task_status=task_status)

    async def wait(self) -> None:
        """Returns when Kafka is there."""
        async with trio.open_nursery() as asking:
            asking.start_soon(self._log_silence)
            await self._ask_until_fit()
            asking.cancel_scope.cancel()

    async def _log_silence(self) -> None:
        await trio.sleep(_SILENCE_S)
        if self._missing == NOT_ASKED:
            why = await trio.to_thread.run_sync(self._admin.why_away, abandon_on_cancel=True)
            reason = "no answer yet" if why is None else f"no answer yet: {why}"
            self._log.info("waits at its start", reason=reason)

    async def _ask_until_fit(self) -> None:
        backoff = Backoff(FIRST_WAIT_S, LONGEST_WAIT_S)
        while self._missing is not None:
            try:
                await trio.to_thread.run_sync(
                    require_fit_topics, self._admin, [*self._needs], abandon_on_cancel=True
                )
                await self._require_access()
            except Unavailable as error:
                telemetry.RETRIES.labels("start", "kafka").inc()
                self._missing = str(error)
                self._log.warning("waits at its start", reason=self._missing)
                await trio.sleep(backoff.next())
            else:
                self._missing = None

    def health(self) -> Health:
        health = Health()

        async def ask() -> None:
            if self._missing is not None:
                raise Unavailable(self._missing)
            await trio.to_thread.run_sync(
                require_topics, self._admin, self._needs, abandon_on_cancel=True
            )
            await self._require_access()

        health.add("kafka", ask)
        return health

    def partition_count(self, topic: str) -> int:
        """As it was when Kafka was asked last; 0: it was not yet."""
        return self._partitions.get(topic, 0)

    async def _require_access(self) -> None:
        counts = await trio.to_thread.run_sync(
            require_access, self._admin, self._needs, abandon_on_cancel=True
        )
        for topic, count in counts.items():
            if count > self._partitions.get(topic, count):
                log.warning(
                    "the topic has more partitions than before: runs that go on move to other ones, see "
                    "`matyan topics check`",
                    topic=topic,
                    before=self._partitions[topic],
                    partitions=count,
                )
        self._partitions = counts


async def wait_for(
    *waits: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[None]
) -> None:
    """As a task of a service: started when all that it waits for, side by side, is there."""
    async with trio.open_nursery() as nursery:
        for wait in waits:
            nursery.start_soon(wait)
    calm_collector()
    task_status.started()
