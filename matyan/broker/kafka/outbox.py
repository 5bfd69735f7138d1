"""A worker's side effects on Kafka: control events and dead letters, delivered before the transaction that they belong to.

What a dead letter looks like in its topic is `letters.py`'s.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as RdProducer

from matyan.broker.base import ControlEvent, DeadLetter
from matyan.broker.kafka.client import DELIVERY_S, MOST_MESSAGE_BYTES, TOO_LARGE, producer_config
from matyan.broker.kafka.letters import CUT, letter_headers
from matyan.errors import Unavailable
from matyan.service.logs import get_logger
from matyan.settings import Settings, dead_letter_topic
from matyan.store.base import Transaction

log = get_logger()


class KafkaOutbox:
    """An `Outbox` (broker/base.py): events and dead letters are delivered before the transaction that they belong to.

    delivery_s: what was not delivered in so many seconds never is.
    """

    def __init__(self, settings: Settings, delivery_s: float = DELIVERY_S) -> None:
        self._delivery_s = delivery_s
        # Shorter than a frame's: a worker that waits here tries again by itself, and is paused meanwhile.
        self._config = {
            **producer_config(settings),
            "delivery.timeout.ms": int(delivery_s * 1000),
            # The client's own limit is below a topic's default, and every record that stands in a topic must fit a letter.
            "message.max.bytes": MOST_MESSAGE_BYTES,
        }
        self._control_topic = settings.kafka_control_events_topic
        self._rd: RdProducer | None = None
        self._lock = threading.Lock()

    async def before(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        if events or dead:
            # Abandoned when the worker ends: the events and letters are sent again with the transaction's next attempt.
            await trio.to_thread.run_sync(self._deliver, events, dead, abandon_on_cancel=True)

    def within(
        self,
        tr: Transaction,
        events: Sequence[ControlEvent],
        dead: Sequence[DeadLetter],
        offsets: Sequence[int] = (),
    ) -> None:
        """Nothing to do: `before` has delivered them."""

    async def bury(self, dead: Sequence[DeadLetter]) -> None:
        """Delivers dead letters. Raises Unavailable: try again."""
        await self.before([], dead)

    async def record(self, topic: str, key: bytes, value: bytes) -> None:
        """Delivers a record of a run to the log.

        Raises:
            Unavailable: it was not taken.
        """
        message = _Message(topic, value, key, [])
        await trio.to_thread.run_sync(self._deliver_all, [message], abandon_on_cancel=True)

    def _deliver_all(self, messages: Sequence[_Message]) -> None:
        # Whoever waits for an answer does not wait for all that came before, while the broker is away.
        if not self._lock.acquire(timeout=self._delivery_s):
            raise Unavailable("Kafka did not take an event: others wait for it, too.")
        try:
            self._send(messages)
        finally:
            self._lock.release()

    def _deliver(self, events: Sequence[ControlEvent], dead: Sequence[DeadLetter]) -> None:
        moment = time.time()
        with self._lock:
            too_large = self._send(
                [_Message(self._control_topic, event.to_bytes(), None, []) for event in events]
                + [_letter(letter, moment, len(letter.value)) for letter in dead]
            )
            for message in too_large:
                assert message.letter is not None
                self._send_cut(message.letter, moment)

    def _send_cut(self, letter: DeadLetter, moment: float) -> None:
        """Sends the beginning of a record that is larger than the dead-letter topic takes."""
        place = {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}
        size = len(
            letter.value
        )  # whole at first: alone it may fit, when only its batch was too large
        while self._send([_letter(letter, moment, size)]):
            if not size:
                # The partition goes on all the same: the record itself stands in its topic.
                log.error(
                    "the dead-letter topic takes no letter of a record, not even an empty one: raise its max.message.bytes",
                    **place,
                )
                return
            size //= 2
        if size < len(letter.value):
            log.error(
                "a dead letter was cut: the dead-letter topic takes less than the record's topic does; raise its max.message.bytes",
                **place,
                bytes=len(letter.value),
                kept=size,
            )

    def _send(self, messages: Sequence[_Message]) -> list[_Message]:
        """Delivers these; returns dead letters that the topic does not take for their size.

        Raises:
            Unavailable: some others were not taken.
        """
        too_large: list[_Message] = []
        failed: list[str] = []

        def report(
            message: _Message, error: KafkaError | None, delivered: Message[bytes, bytes]
        ) -> None:
            if error is None:
                return
            if message.letter is not None and error.code() in TOO_LARGE:
                too_large.append(message)
            else:
                failed.append(error.str())

        try:
            rd = self._rd = self._rd or RdProducer(self._config)
            for message in messages:
                rd.produce(
                    message.topic,
                    message.value,
                    message.key,
                    headers=message.headers,
                    on_delivery=partial(report, message),
                )
            left = rd.flush(self._delivery_s + 1)
        except KafkaException as error:
            # A fatal error: the next attempt makes another client.
            self._rd = None
            raise Unavailable(f"Kafka did not take an event: {error.args[0].str()}.") from error
        if failed or left:
            raise Unavailable(
                f"Kafka did not take {len(failed) + left} events or dead letters: {', '.join(set(failed)) or 'no answer'}."
            )
        return too_large


@dataclass(frozen=True, slots=True)
class _Message:
    topic: str
    value: bytes
    key: bytes | None
    headers: list[tuple[str, str | bytes | None]]
    letter: DeadLetter | None = None


def _letter(letter: DeadLetter, moment: float, size: int) -> _Message:
    """A dead letter with the first `size` bytes of its record."""
    headers = letter_headers(letter, moment)
    if size < len(letter.value):
        headers.append((CUT, str(len(letter.value)).encode()))
    # Without room for a record its key may be what fills the letter.
    key = letter.key if size or not letter.value else None
    return _Message(dead_letter_topic(letter.topic), letter.value[:size], key, headers, letter)
