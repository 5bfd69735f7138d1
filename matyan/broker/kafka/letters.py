"""The dead-letter topics: what a letter looks like in them, what stands there, and sending it to where it came from again.

What was sent again is remembered by the consumer group `matyan-dlq`: a partition's committed offset says that all
below it was sent, the commit's metadata names what was sent beyond. A commit follows the delivery, so a crash between
them sends up to `_BATCH_LETTERS` letters a second time. Rejected: one transaction over both, since a replay that dies in it
holds back the consumers of the ingestion's partitions until its timeout; deleting what was sent, which can only take
away a topic's beginning. Blocking calls, of one thread.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, cast

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from matyan import __version__
from matyan.broker.base import DeadLetter, StandingLetter
from matyan.broker.kafka.admin import NETWORK_S, answered, no_topics, patiently
from matyan.broker.kafka.client import (
    DELIVERY_S,
    MOST_MESSAGE_BYTES,
    client_config,
    producer_config,
)
from matyan.errors import MatyanError, NotFound, Unavailable
from matyan.settings import Settings, dead_letter_topic

GROUP = "matyan-dlq"

CUT = "cut"
"""The header of a dead letter that holds only the beginning of its record: the whole record's length."""

_BATCH_LETTERS = 100
_METADATA_BYTES = 2_000
"""A broker takes 4,096 (its offset.metadata.max.bytes); the rest is for a batch of which every other letter is refused."""
# Kafka counts partitions in 32 bits and offsets in 64; str.isdigit takes more than int does.
_ID = re.compile(r"(.+)/([0-9]{1,9})/([0-9]{1,19})")

_QUIET = {"log_level": 2}
"""What is wrong comes out as one sentence of ours."""

Row = dict[str, Any]


@contextmanager
def open_letters(settings: Settings) -> Iterator[KafkaLetters]:
    """The dead letters of a deployment."""
    config = client_config(
        settings,
        **{
            "group.id": GROUP,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            **_QUIET,
        },
    )
    consumer = Consumer(config)
    try:
        yield KafkaLetters(settings, consumer)
    except KafkaException as error:
        raise Unavailable(f"Kafka does not answer: {error.args[0].str()}.") from error
    finally:
        consumer.close()


class KafkaLetters:
    """Reads, sends and remembers; the same calls as `matyan.reader.Reader` has for the embedded store.

    An id is TOPIC/PARTITION/OFFSET of the letter itself.
    """

    def __init__(self, settings: Settings, consumer: Consumer) -> None:
        origins = (settings.kafka_data_ingestion_topic, settings.kafka_control_events_topic)
        self._origins = {dead_letter_topic(name): name for name in origins}
        self._settings = settings
        self._consumer = consumer

    def dead_letters(self, limit: int | None = None) -> Iterator[Row]:
        """A row a letter that was not sent again, oldest first in each partition."""
        for _, letters in self._unsent():
            for letter in islice(letters, limit):
                yield letter.row()
                limit = None if limit is None else limit - 1

    def dead_letter(self, id: str) -> Row:
        """One letter, whether sent again or not, with its key and value.

        Raises:
            NotFound: there is none.
        """
        standing = self._find(id)
        return {**standing.row(), "key": standing.letter.key, "value": standing.letter.value}

    def replay(self, ids: Sequence[str] | None = None) -> Iterator[Row]:
        """Sends these letters (None: all that were not sent yet) to the topics that they came from.

        Yields id and outcome: where it is now, or that it was sent before.

        Raises:
            NotFound: there is no such letter; those before it are sent.
            Unavailable: Kafka did not take one; what it took is remembered.
        """
        producer = _open_producer(self._settings)
        if ids is None:
            for tp, letters in self._unsent():
                sent = self._sent(tp)
                while batch := [*islice(letters, _BATCH_LETTERS)]:
                    yield from self._send(producer, tp, sent, batch)
            return
        for id in ids:
            tp = self._place(id)
            sent = self._sent(tp)
            if tp.offset in sent:
                yield {"id": id, "outcome": "was sent before"}
            else:
                yield from self._send(producer, tp, sent, [self._find(id)])

    # --- reading ---------------------------------------------------------------------------------

    def _unsent(self) -> Iterator[tuple[TopicPartition, Iterator[StandingLetter[str]]]]:
        known = self._consumer.list_topics(timeout=NETWORK_S).topics
        for topic in self._origins:
            if topic not in known:
                raise Unavailable(no_topics([topic]))
            for number in sorted(known[topic].partitions):
                tp = TopicPartition(topic, number)
                sent = self._sent(tp)
                letters = (one for one in self._read(tp) if one.offset not in sent)
                yield tp, (one.letter for one in letters)

    def _read(self, tp: TopicPartition, first: int | None = None) -> Iterator[_Found]:
        """What stands in the partition now, from `first` on."""
        low, high = self._bounds(tp)
        offset = low if first is None else max(first, low)
        self._consumer.assign([TopicPartition(tp.topic, tp.partition, offset)])
        while offset < high:
            message = self._consumer.poll(NETWORK_S)
            if message is None:
                raise Unavailable(
                    f"Kafka gave nothing of {tp.topic} for {NETWORK_S:g} s: try again when its brokers are well."
                )
            error = message.error()
            if error is None:
                offset = (message.offset() or 0) + 1
                yield _Found(offset - 1, _letter_of(message, self._origins[tp.topic]))
            elif error.code() == KafkaError._PARTITION_EOF:
                return  # what is left below `high` are marks of transactions
            else:
                raise KafkaException(error)

    def _bounds(self, tp: TopicPartition) -> tuple[int, int]:
        bounds = self._consumer.get_watermark_offsets(tp, timeout=NETWORK_S, cached=False)
        if bounds is None:
            raise Unavailable(
                f"Kafka does not say where {tp.topic} begins and ends: try again when its brokers are well."
            )
        return bounds

    def _place(self, id: str) -> TopicPartition:
        found = _ID.fullmatch(id)
        if found is None or found[1] not in self._origins or int(found[3]) >= 2**63:
            names = " or ".join(self._origins)
            raise NotFound(
                f"There is no dead letter {id}: an id is TOPIC/PARTITION/OFFSET, with the topic {names}."
            )
        return TopicPartition(found[1], int(found[2]), int(found[3]))

    def _find(self, id: str) -> StandingLetter[str]:
        tp = self._place(id)
        known = self._consumer.list_topics(tp.topic, timeout=NETWORK_S).topics[tp.topic]
        if tp.partition in known.partitions:
            found = next(self._read(tp, tp.offset), None)
            if found is not None and found.offset == tp.offset:
                return found.letter
        raise NotFound(
            f"There is no dead letter {id}: `matyan dlq list --kafka` lists those that were not sent again."
        )

    # --- sending and remembering -----------------------------------------------------------------

    def _send(
        self,
        producer: Producer,
        tp: TopicPartition,
        sent: _Sent,
        batch: Sequence[StandingLetter[str]],
    ) -> Iterator[Row]:
        for standing in batch:
            if standing.cut_from is not None:
                yield {"id": standing.id, "outcome": _why_not_sent(standing)}
        batch = [standing for standing in batch if standing.cut_from is None]
        offsets = {standing.id: self._place(standing.id).offset for standing in batch}
        sent.require_room(offsets.values(), tp.topic)
        places: dict[str, str] = {}
        refused: set[str] = set()

        def report(id: str, error: KafkaError | None, message: Message[Any, Any]) -> None:
            if error is None:
                places[id] = (
                    f"sent to {message.topic()} [{message.partition()}] at {message.offset()}"
                )
            else:
                refused.add(error.str())

        for standing in batch:
            letter, told = standing.letter, partial(report, standing.id)
            try:
                producer.produce(letter.topic, letter.value, letter.key, on_delivery=told)
            except KafkaException as error:  # at once, such as over librdkafka's own limit
                refused.add(error.args[0].str())
        producer.flush(DELIVERY_S + 1)
        for id in places:
            sent.add(offsets[id])
        if places:
            low, _ = self._bounds(tp)
            answered(self._consumer.commit(offsets=[sent.to_commit(tp, low)], asynchronous=False))
        for standing in batch:
            if standing.id in places:
                yield {"id": standing.id, "outcome": places[standing.id]}
        if len(places) < len(batch):
            raise Unavailable(
                f"Kafka did not take {len(batch) - len(places)} dead letters, which stay in the list: "
                f"{', '.join(refused) or 'no answer'}."
            )

    def _sent(self, tp: TopicPartition) -> _Sent:
        place = TopicPartition(tp.topic, tp.partition)
        (committed,) = patiently(
            lambda: answered(self._consumer.committed([place], timeout=NETWORK_S))
        )
        return _Sent.of(committed)


def _why_not_sent(cut: StandingLetter[str]) -> str:
    letter = cut.letter
    return (
        f"not sent: it holds the first {len(letter.value)} of its record's {cut.cut_from} bytes, which stand in "
        f"{letter.topic} [{letter.partition}] at {letter.offset} as long as that topic keeps them"
    )


def _open_producer(settings: Settings) -> Producer:
    config = {
        **producer_config(settings),
        **_QUIET,
        "delivery.timeout.ms": int(DELIVERY_S * 1000),
        "message.max.bytes": MOST_MESSAGE_BYTES,
    }
    return Producer(config)


@dataclass(frozen=True, slots=True)
class _Found:
    offset: int
    letter: StandingLetter[str]


@dataclass(slots=True)
class _Sent:
    """What of a partition was sent again: all below `next`, and `beyond`."""

    next: int = 0
    beyond: set[int] = field(default_factory=set)

    @classmethod
    def of(cls, committed: TopicPartition) -> _Sent:
        beyond: set[int] = set()
        for found in re.finditer(r"(\d+)(?:-(\d+))?", committed.metadata or ""):
            first, last = found.groups()
            beyond.update(range(int(first), int(last or first) + 1))
        return cls(max(committed.offset, 0), beyond)

    def __contains__(self, offset: int) -> bool:
        return offset < self.next or offset in self.beyond

    def add(self, offset: int) -> None:
        self.beyond.add(offset)
        self._advance()

    def _advance(self) -> None:
        while self.next in self.beyond:
            self.beyond.remove(self.next)
            self.next += 1

    def to_commit(self, tp: TopicPartition, low: int) -> TopicPartition:
        """low: the partition's first offset; below it nothing can be sent any more."""
        self.next = max(self.next, low)
        self.beyond = {offset for offset in self.beyond if offset >= self.next}
        self._advance()
        return TopicPartition(tp.topic, tp.partition, self.next, _ranges(self.beyond))

    def require_room(self, offsets: Iterable[int], topic: str) -> None:
        """Before anything is sent: what cannot be remembered must not be.

        Raises:
            MatyanError: too many letters were sent out of their order.
        """
        after = _Sent(self.next, {*self.beyond, *offsets})
        after._advance()
        if len(_ranges(after.beyond)) > _METADATA_BYTES:
            raise MatyanError(
                f"Too many dead letters of {topic} were sent out of their order to remember more: send the oldest ones "
                "first, as `matyan dlq list --kafka` lists them."
            )


def _ranges(offsets: Iterable[int]) -> str:
    """Such as "3,7-9"."""
    rows: list[list[int]] = []
    for offset in sorted(offsets):
        if rows and rows[-1][1] == offset - 1:
            rows[-1][1] = offset
        else:
            rows.append([offset, offset])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in rows)


def letter_headers(letter: DeadLetter, moment: float) -> list[tuple[str, str | bytes | None]]:
    """The headers of a dead letter (contract, section 3). moment: epoch seconds."""
    fields = {
        "topic": letter.topic,
        "partition": letter.partition,
        "offset": letter.offset,
        "error_class": letter.error_class,
        "error_text": letter.error_text,
        "version": __version__,
        "time": moment,
    }
    return [(name, str(field).encode()) for name, field in fields.items()]


def _letter_of(message: Message[bytes, bytes], origin: str) -> StandingLetter[str]:
    """The inverse of `letter_headers`. A header that another program left out is None or empty.

    origin: the topic that this dead-letter topic belongs to.
    """
    # The stub has the form in which they are produced too.
    pairs = cast("list[tuple[str, bytes | None]]", message.headers() or [])
    headers = {name: (value or b"").decode(errors="replace") for name, value in pairs}
    letter = DeadLetter(
        origin,
        int(headers.get("partition", -1)),
        int(headers.get("offset", -1)),
        message.key(),
        message.value() or b"",
        headers.get("error_class", ""),
        headers.get("error_text", ""),
    )
    return StandingLetter(
        f"{message.topic()}/{message.partition()}/{message.offset()}",
        letter,
        headers.get("version", ""),
        float(headers.get("time", message.timestamp()[1] / 1000)),
        int(headers[CUT]) if CUT in headers else None,
    )
