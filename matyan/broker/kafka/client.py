"""What every Kafka client of this project shares: librdkafka's properties, and the thread that polls it.

What one client alone needs stands with that client.
"""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final

import trio
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from matyan.broker.kafka.certificates import check_certificates
from matyan.errors import ConfigurationError
from matyan.kafka_properties import CONSUMERS, PRODUCERS
from matyan.settings import Settings

METADATA_MS = 5_000
"""How soon every client sees that partitions were added: until then two frontiers would send one run to two of them."""

MOST_MESSAGE_BYTES = 1_000_000_000
"""librdkafka's own most: how large a message may be is the topic's to say."""

DELIVERY_S = 30.0
"""How long a dead letter or an event is tried to be delivered, by whoever can try again later."""

TOO_LARGE = frozenset({KafkaError.MSG_SIZE_TOO_LARGE, KafkaError.RECORD_LIST_TOO_LARGE})
"""What every record of a batch is told when the batch is larger than the topic's max.message.bytes."""

LIBRDKAFKA_LOGGER = "matyan.librdkafka"
"""The name of the logger that gets librdkafka's own lines."""


READ_BY_ALL: Final = ("none", "gzip")
"""The compressions that a plain installation of the reference's programs reads."""


def client_config(settings: Settings, **extra: Any) -> dict[str, Any]:
    """librdkafka's properties that every client of this project shares, with the `extra` ones of this client; what an operator
    has in MATYAN_KAFKA_CONFIG wins, since what may not be changed is refused there.

    Raises:
        ConfigurationError: certificates or properties cannot be used.
    """
    check_certificates(settings)
    return _checked({**_shared(settings), **settings.kafka_config.of_all()}, settings) | extra


def _shared(settings: Settings) -> dict[str, Any]:
    key = settings.kafka_ssl_keyfile or settings.kafka_ssl_certfile  # which can hold both
    given = {
        "security.protocol": settings.kafka_security_protocol,
        "sasl.mechanism": settings.kafka_sasl_mechanism,
        "sasl.username": settings.kafka_sasl_username,
        "sasl.password": settings.kafka_sasl_password.reveal(),
        "ssl.ca.location": settings.kafka_ssl_cafile,
        "ssl.certificate.location": settings.kafka_ssl_certfile,
        "ssl.key.location": key,
        "ssl.key.password": settings.kafka_ssl_key_password.reveal(),
    }
    return {
        "bootstrap.servers": settings.kafka_bootstrap_servers,
        "client.id": "matyan",
        # The default waits up to 10 s before it looks for a broker that came back; a held-back reply waits as long.
        "reconnect.backoff.max.ms": 1_000,
        "socket.keepalive.enable": True,
        "logger": logging.getLogger(LIBRDKAFKA_LOGGER),
        **{name: value for name, value in given.items() if value},
    }


def _checked(config: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """`config`, which librdkafka takes together with all that the file says of producers and of consumers.

    Raises:
        ConfigurationError: it does not; in its own words.
    """
    file = settings.kafka_config
    if settings.environment == "production" and (unsafe := file.unsafe()):
        raise ConfigurationError(
            f"MATYAN_ENVIRONMENT=production, but MATYAN_KAFKA_CONFIG={file.path} has {', '.join(unsafe)}, with which anybody can "
            "be the broker or one of its users: take it out and start again."
        )
    if not file and "SSL" not in settings.kafka_security_protocol:
        return config  # nothing that was not parsed
    # Without brokers, and with an identity provider that refuses at once: to make a client would connect it, and to end one
    # waits for that.
    own = {name: value for name, value in config.items() if name != "bootstrap.servers"} | _UNHEARD
    if _TOKENS in own:
        own[_TOKENS] = "http://127.0.0.1:0"
    try:
        Producer({**file.of_producers(), **own, **_IDEMPOTENT})
        Consumer({**file.of_consumers(), **own, "group.id": "none"}).close()
    except KafkaException as error:
        raise ConfigurationError(
            f"{f'MATYAN_KAFKA_CONFIG={file.path}' if file else 'The settings of Kafka'}: librdkafka does not take that: "
            f"{_reason(error)}."
        ) from None
    return config


def _reason(error: KafkaException) -> str:
    """Without what comes before: which client it was that could not be made."""
    said = " ".join(error.args[0].str().split())
    return re.sub("^Failed to create (producer|consumer): ", "", said).rstrip(".")


_UNHEARD: Final = {"log_level": 0}
_TOKENS: Final = "sasl.oauthbearer.token.endpoint.url"
_IDEMPOTENT: Final = {"enable.idempotence": True}


def producer_config(settings: Settings) -> dict[str, Any]:
    """The properties of every client that produces.

    One configuration for every load: librdkafka never lingers, since linger.ms=0.5 costs a frame that comes alone
    1.1 ms; `KafkaProducer` gathers frames itself. Of the two compressions that the reference's programs read, none is the
    faster one: gzip at level 1 costs a frontier nearly twice the CPU. lz4 takes up to a third off the broker's share of a
    core, and off its disk and network much more.
    """
    return client_config(
        settings,
        **{
            "acks": "all",
            **_IDEMPOTENT,
            # Java's partitioner: a run must land where the reference's producers put it.
            "partitioner": "murmur2_random",
            "compression.type": settings.kafka_compression,
            # Of gzip: more of it costs the frontier more than it saves the broker.
            **({"compression.level": 1} if settings.kafka_compression == "gzip" else {}),
            "linger.ms": 0,
            "topic.metadata.refresh.interval.ms": METADATA_MS,
            "delivery.timeout.ms": max(1, int(settings.delivery_timeout_s * 1000)),
            # The budget of bytes is ours (MATYAN_QUEUE_BYTES), so that a frame is taken whole or not at all.
            "queue.buffering.max.messages": 0,
            "queue.buffering.max.kbytes": 2_147_483_647,
            **settings.kafka_config.of_producers(),
        },
    )


def connection(config: Mapping[str, Any]) -> dict[str, Any]:
    """Of a client's properties those that any client takes: how to reach the brokers among them."""
    return {
        name: value
        for name, value in config.items()
        if name not in CONSUMERS and name not in PRODUCERS and not name.endswith("_cb")
    }


class PollingThread:
    """A thread of its own for a polling loop (trio's limiter is for work that ends)."""

    def __init__(self, loop: Callable[[], None], name: str) -> None:
        self._loop = loop
        self._token = trio.lowlevel.current_trio_token()
        self._ended = trio.Event()
        self._error: BaseException | None = None
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:
            self._error = error
            raise
        finally:
            # Suppressed: the loop that would be told has ended.
            with suppress(trio.RunFinishedError):
                self._token.run_sync_soon(self._ended.set)

    def crashed(self) -> str | None:
        """What ended the loop that should go on, or None."""
        return None if self._error is None else f"The polling thread ended: {self._error!r}."

    async def join(self) -> None:
        with trio.CancelScope(shield=True):
            await self._ended.wait()
