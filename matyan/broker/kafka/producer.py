"""Kafka's producing side: frames of records to a topic.

librdkafka (by confluent-kafka) batches, retries and keeps the order; this file translates its thread, its
delivery reports and its fatal errors into the words of `broker/base.py`. What a worker sends beside its transaction is
`outbox.py`'s. No store and no rules.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from confluent_kafka import KafkaError, KafkaException, Message
from confluent_kafka import Producer as RdProducer

from matyan._codec import murmur2, total_bytes
from matyan.broker.base import DeliveryCallback
from matyan.broker.budget import Budget
from matyan.broker.kafka.answers import Answers
from matyan.broker.kafka.client import LIBRDKAFKA_LOGGER, TOO_LARGE, PollingThread
from matyan.errors import RecordsRefused, Unavailable
from matyan.service.logs import get_logger

log = get_logger()

_RECORD_OVERHEAD_BYTES = 128
"""What a record takes besides the two copies of its value: librdkafka's struct of about 100 bytes and the key."""

_POLL_S = 0.2
_FEW = 4
"""Frames in flight: with fewer it costs more to wake up for a frame that waits than to send it alone."""
GATHER_S = 0.001
"""Frames that wait while others are in flight are handed over after one to two times this, whatever is in flight:
a partition without a leader must not delay the other partitions' frames."""
_GATHER_MOST_S = 0.004
"""The first of them after up to twice this: while none is found to wait so long they are looked for less often, since each look
costs a crowd as much as a frame."""
GATHER_BYTES = 128 << 10
"""Frames that together have this size, as `_size_of` counts (each value twice), fill a request and wait no longer."""
_WINDOW = 5
"""librdkafka sends no more of a partition while so many of its records are unanswered (RD_KAFKA_IDEMP_MAX_INFLIGHT, which counts
records, not requests), and if it has some all the same it spins until the answer: 200 polls a frame at 500 frames/s. So they
stay here."""
_STAYS_S = 0.5
"""But not for longer: from when librdkafka has a record it has its time limit, and a partition that has lost its leader answers
nothing."""
_OPEN_S = 600.0
"""A broker forgets a producer that sends nothing to a partition for producer.id.expiration.ms, a day by default."""
_TURN_BYTES = 4 << 20
_TURN_RECORDS = 2_000
"""At most so much is handed over in one turn of the loop, which takes some 2 ms; bytes as the budget counts them. A frame
can have 96 MiB, and the frames that wait while a client is replaced can be the whole budget."""
_MANY = 2_000
"""Records: where so many may be reported at once a thread hears the reports, so that the loop does not stand still for them. Of
fewer the loop hears sooner and for less by itself."""
_FATAL_DRAIN_S = 35.0
"""After a fatal error the requests in flight still get their answers; a request's own limit is 30 s."""
_REFUSED_AGAIN_S = 0.2
_REFUSED_AGAIN_MOST_S = 2.0
"""How soon what was refused is tried again: the first wait, which doubles up to the last one."""
_UNBATCHED_S = 60.0
"""How long records go one by one, when a batch was too large for the topic."""
_FATAL_AFTER_CLIENTS = 3
"""So many clients failed one after another and delivered nothing: then another client does not help, and liveness is red."""


def _is_news(record: logging.LogRecord) -> bool:
    return "enable.gapless.guarantee is experimental" not in record.getMessage()


_REFUSALS = frozenset(
    {
        KafkaError.CLUSTER_AUTHORIZATION_FAILED,
        KafkaError.POLICY_VIOLATION,
        KafkaError.SASL_AUTHENTICATION_FAILED,
        KafkaError.TOPIC_AUTHORIZATION_FAILED,
        KafkaError.TOPIC_EXCEPTION,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._AUTHENTICATION,
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
    }
)
"""Neither the records nor the client are at fault, and librdkafka gives up at once (on a topic: after 30 s). A person can
mend these: so they are an outage."""


_CLIENT_ENDS = frozenset({KafkaError._FATAL, KafkaError._PURGE_QUEUE})
"""What records are told that only another client can deliver."""


def _size_of(values: Sequence[bytes]) -> int:
    """What they take: each is there twice, in `_Frame.values` and in librdkafka."""
    return 2 * total_bytes(values) + _RECORD_OVERHEAD_BYTES * len(values)


class _Frame:
    """One call of produce(). `failed` gathers the records that were not delivered, as they are reported.

    `values` stay until they are delivered (so the process holds them twice, librdkafka's copy is the other): after
    a fatal error records are reported out of their order, and another client must get them in it.
    """

    __slots__ = (
        "failed",
        "key",
        "lane",
        "number",
        "on_done",
        "refused",
        "report",
        "sent",
        "since",
        "size",
        "values",
    )

    def __init__(
        self,
        number: int,
        key: bytes,
        values: Sequence[bytes],
        size: int,
        on_done: DeliveryCallback,
    ) -> None:
        self.number = number
        self.key = key
        self.lane: _Lane
        """Where it waits and is counted; from its `KafkaProducer._gather` on."""
        self.values = values
        self.size = size
        self.on_done = on_done
        self.since = time.monotonic()
        self.failed: list[tuple[KafkaError, bytes]] = []
        self.refused: frozenset[bytes] = frozenset()
        """Those that were too large though they went alone."""
        self.sent = 0
        """How many of the values the present client was given."""
        self.report: _Report | None = None
        """While it was given some of them only."""

    def messages(self, done: deque[_Frame], end: int) -> list[dict[str, Any]]:
        """What produce_batch takes of the values from `sent` on, up to `end`; their reports end in `done`."""
        key, report, values = self.key, self.report or _Report((self, done)), self.values
        if len(values) == 1:  # a loop of its own would cost a call
            self.sent = 1
            return [{"value": values[0], "key": key, "callback": report}]
        if self.sent or end < len(values):
            self.report = report if end < len(values) else None
            values = values[self.sent : end]
        self.sent = end
        return [{"value": value, "key": key, "callback": report} for value in values]

    def first_message(self, done: deque[_Frame], tried: deque[_Frame]) -> dict[str, Any]:
        """What produce_batch takes of the first value, whose own report ends in `tried`; all others are to follow."""
        self.report = _Report((self, done))
        self.sent = 1
        return {"value": self.values[0], "key": self.key, "callback": _Report((self, tried))}

    def next_end(self, most_bytes: int, most_records: int) -> int:
        """The end of what goes next of a frame beyond one of these; one record at least."""
        values, end = self.values, self.sent
        last = min(len(values), end + most_records)
        while end < last and most_bytes > 0:
            most_bytes -= _size_of(values[end : end + 1])
            end += 1
        return end

    def break_off(self, error: KafkaError) -> None:
        """Its client is never given the rest: that counts as failed."""
        self.failed += [(error, value) for value in self.values[self.sent :]]
        self.report = None

    def set_aside_too_large(self) -> bool:
        """Moves the records that were too large though they went alone from `failed` to `refused`; returns whether there were any."""
        large = {value for error, value in self.failed if error.code() in TOO_LARGE}
        self.refused |= large
        self.failed = [one for one in self.failed if one[0].code() not in TOO_LARGE]
        return bool(large)

    def undelivered(self) -> list[bytes]:
        """The values of `failed` in the frame's order; of equal ones the later, since delivery is in order."""
        counts = Counter(value for _, value in self.failed)
        values = []
        for value in reversed(self.values):
            if counts[value]:
                counts[value] -= 1
                values.append(value)
        values.reverse()
        return values


class _Lane:
    """What goes to one partition, in its order: the frames that wait, and what the present client has of it.

    It opens with one record that goes alone. A broker accepts whatever comes first from a producer that it doesn't know:
    were that a second request, sent before the first one was refused, it would stand in the log before what was refused.
    From the first acknowledged record on a gap is seen, and what comes behind it is refused, too.
    """

    __slots__ = ("open_until", "unanswered", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Frame] = deque()
        """The first of them may have been handed over in part."""
        self.unanswered = 0
        """Records."""
        self.open_until = -math.inf


class _Report(tuple["_Frame", deque["_Frame"]]):
    """The delivery callback that all records of a frame share: it dies when the last one has its report.

    confluent-kafka holds a reference to it for each record until that record's report was served. With
    delivery.report.only.error it calls it for a failed record (on the record: its error and value) and merely drops
    the reference for a delivered one, which costs no Python call and no Message object a record: 1.7 µs a record
    instead of 2.5 with a counting callback, librdkafka's own threads included. So "the last reference is gone" means:
    every record is delivered or stands in `frame.failed`. A client that is destroyed with records in its queue leaks
    its references: a frame can be left unanswered by that, never acknowledged. (A callback on the last record alone
    would be as cheap, but a record in the middle can time out alone: enable.gapless.guarantee does not cover that.)
    """

    __slots__ = ()  # a pair of a frame and where it ends, since that is made without a call of Python's

    def __call__(self, error: KafkaError | None, message: Message[bytes, bytes]) -> None:
        assert error is not None
        self[0].failed.append((error, message.value() or b""))

    def __del__(self) -> None:
        self[1].append(self[0])


class KafkaProducer:
    """A `Producer` (broker/base.py) of one topic. Made by `open_producer`.

    It gathers frames as Nagle's algorithm (RFC 896) gathers bytes: a frame that finds few in flight goes at once, and
    those that come while more are in flight go together, as soon as the next of these is delivered. So a frame that
    comes alone never waits, and a busy producer sends few requests. librdkafka's own linger.ms would make every frame
    wait; without it, and without this, each of many small frames would be a request of its own.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        capacity_bytes: int,
        partition_count: Callable[[], int],
    ) -> None:
        # With this guarantee a batch that the broker refuses ends the client, so that no later one overtakes it; all go
        # to the next client, in order. librdkafka says at each start that the guarantee is experimental: not logged.
        logging.getLogger(LIBRDKAFKA_LOGGER).addFilter(_is_news)
        self._config = {
            **config,
            "enable.gapless.guarantee": True,
            "delivery.report.only.error": True,  # what `_Report` is made for
            "error_cb": self._on_error,
        }
        self._topic = topic
        self._partition_count = partition_count
        self.budget = Budget(capacity_bytes)
        self._token = trio.lowlevel.current_trio_token()
        self._answers = Answers()
        self._rd = self._answers.client(self._config)
        self._done: deque[_Frame] = deque()
        self._frames = 0
        self._records = 0
        self._number = 0
        self._progress = trio.lowlevel.ParkingLot()
        self._in_flight = 0
        # Whether frames come so fast that `_FEW` were handed over together last time.
        self._is_crowd = False
        # As many as the topic has partitions; where that is not known, one for each key.
        self._lanes: dict[int, _Lane] = {}
        self._lane_count = partition_count()
        # Those of the count before in which frames wait: younger ones of their runs wait in lanes of the present count.
        self._old_lanes: set[_Lane] = set()
        # Those in which frames wait to be handed over, in a fixed order.
        self._gathered: dict[_Lane, None] = {}
        self._gathered_bytes = 0
        # Those in which all wait for the answer to the one record that went alone.
        self._parked: set[_Lane] = set()
        # Frames of which the first record went alone and was answered.
        self._tried: deque[_Frame] = deque()
        # Whether the next turn of the loop hands over more of them.
        self._continues = False
        # Where `keep_time` waits while no frame is gathered.
        self._holding = trio.lowlevel.ParkingLot()
        # Set while a failed client drains; frames that come meanwhile are gathered.
        self._replacing = False
        self._failed: list[_Frame] = []
        self._fatal_error: str | None = None
        # Clients in a row that failed and had delivered nothing.
        self._fruitless = 0
        self._patience_s = config["delivery.timeout.ms"] / 1000
        self._refusal: str | None = None
        self._refused_at = -math.inf
        self._wait_s = _REFUSED_AGAIN_S
        # Whether the present client, and the next one, sends each record alone.
        self._is_unbatched = self._will_be_unbatched = False
        self._replace_at = math.inf
        """When this client is replaced though it has not failed; monotonic seconds."""
        self._stopping = threading.Event()
        # Of the replacing thread.
        self._call = threading.Event()
        self._thread = PollingThread(self._replace_when_called, "kafka-producer")

    # --- the interface, in the trio thread -------------------------------------------------------

    def produce(self, key: bytes, values: Sequence[bytes], on_done: DeliveryCallback) -> None:
        size = _size_of(values)
        self.budget.queue(size)
        self._number += 1
        frame = _Frame(self._number, key, values, size, on_done)
        self._frames += 1
        self._records += len(values)
        self._gather(frame)
        if (
            not self._in_flight
            or self._gathered_bytes >= GATHER_BYTES
            or (self._in_flight < _FEW and not self._is_crowd)
        ):
            self._hand_over()
        if self._gathered and self._holding:
            self._holding.unpark_all()

    async def coalesce(self) -> None:
        """Returns at once: what waits here waits for the network only, so nothing is gained by reading later."""

    @property
    def queued_bytes(self) -> int:
        return self.budget.queued

    def fatal(self) -> str | None:
        if self._fruitless >= _FATAL_AFTER_CLIENTS:
            return f"{self._fruitless} producers in turn failed and delivered nothing: {self._fatal_error}."
        return self._thread.crashed()

    def refusal(self) -> str | None:
        """Why the broker, which answers, does not take what waits; or None."""
        if not self._frames and time.monotonic() > self._refused_at + 2 * _REFUSED_AGAIN_MOST_S:
            return None  # nothing waits that would show that it is over
        return self._refusal

    async def aclose(self) -> None:
        """Ends the thread. What is not delivered by now is dropped: flush first."""
        self._stopping.set()
        self._call.set()
        await self._thread.join()
        self._answers.close()

    async def flush(self, deadline: float) -> int:
        with trio.move_on_at(deadline):
            while self._frames:
                await self._progress.park()
        return self._records

    # --- frames out and reports in ---------------------------------------------------------------

    def _gather(self, frame: _Frame) -> None:
        number = murmur2(frame.key) & 0x7FFFFFFF
        if self._lane_count:
            number %= self._lane_count
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane()
        frame.lane = lane
        lane.waiting.append(frame)
        if lane not in self._parked:
            self._gathered[lane] = None
            self._gathered_bytes += frame.size

    def _hand_over(self) -> None:
        """Gives librdkafka what is gathered and can be sent, a turn's worth at a time, unless a failed client is being replaced."""
        if self._replacing or self._continues or not self._gathered:
            return
        now = time.monotonic()
        # When so much waits, librdkafka is to have the next request at hand.
        is_much = self._gathered_bytes >= GATHER_BYTES
        messages: list[dict[str, Any]] = []
        before = self._in_flight
        most_bytes, most_records = _TURN_BYTES, _TURN_RECORDS
        # A partition after the other: of its records, what comes after librdkafka has begun to send waits for the answer.
        for lane in [*self._gathered]:
            if self._old_lanes and lane not in self._old_lanes:
                continue
            waiting = lane.waiting
            while waiting:
                frame = waiting[0]
                values = frame.values
                # The rest of a frame goes on: its answer comes only behind it.
                if now > lane.open_until and not frame.sent:
                    if lane.unanswered:
                        self._park(lane)
                        break
                    if len(values) > 1:
                        messages.append(frame.first_message(self._done, self._tried))
                        self._in_flight += 1
                        lane.unanswered = 1
                        self._park(lane)
                        break
                elif lane.unanswered >= _WINDOW and not (
                    is_much or frame.sent or frame.since < now - _STAYS_S
                ):
                    break
                if not frame.sent:
                    self._in_flight += 1
                end = len(values)
                if frame.size > most_bytes or end > most_records:
                    end = frame.next_end(most_bytes, most_records)
                sent = frame.messages(self._done, end)
                messages += sent
                lane.unanswered += len(sent)
                most_records -= len(sent)
                if frame.report is not None:
                    most_records = 0
                    break
                most_bytes -= frame.size
                self._gathered_bytes -= frame.size
                waiting.popleft()
                if most_bytes <= 0 or most_records <= 0:
                    break
            if not waiting:
                self._emptied(lane)
            if most_bytes <= 0 or most_records <= 0:
                self._continues = bool(self._gathered)
                break
        if self._continues:
            self._token.run_sync_soon(self._continue)
        if messages:
            self._is_crowd = self._in_flight - before >= _FEW
            self._produce(messages)

    def _emptied(self, lane: _Lane) -> None:
        self._gathered.pop(lane, None)
        self._old_lanes.discard(lane)

    def _take_out(self, lane: _Lane) -> _Frame:
        """The first frame of a lane, which is not for the present client."""
        frame = lane.waiting.popleft()
        if lane not in self._parked:
            self._gathered_bytes -= frame.size
        if not lane.waiting:
            self._emptied(lane)
        return frame

    def _park(self, lane: _Lane) -> None:
        self._parked.add(lane)
        del self._gathered[lane]
        self._gathered_bytes -= sum(frame.size for frame in lane.waiting)

    def _unpark(self, lane: _Lane) -> None:
        self._parked.remove(lane)
        if lane.waiting:
            self._gathered[lane] = None
            self._gathered_bytes += sum(frame.size for frame in lane.waiting)

    def _continue(self) -> None:
        self._continues = False
        self._hand_over()

    def _produce(self, messages: list[dict[str, Any]]) -> None:
        taken = self._rd.produce_batch(self._topic, messages)
        if taken != len(messages):
            # Refused at once (a fatal error that this thread has not seen yet, a record over librdkafka's limit).
            for message in messages:
                if "_error" in message:
                    message["callback"][0].failed.append((message["_error"], message["value"]))
        if taken != len(messages) or self._done or self._tried:
            self._token.run_sync_soon(self._finish, idempotent=True)

    async def keep_time(self) -> None:
        """Hands over what was held through a whole GATHER_S; turns only while something is held. For a task of its own."""
        wait_s = GATHER_S
        while True:
            while not self._gathered:
                await self._holding.park()
            oldest = next(iter(self._gathered)).waiting[0]
            await trio.sleep(_POLL_S if self._replacing else wait_s)
            wait_s = min(2 * wait_s, _GATHER_MOST_S)
            if self._gathered and next(iter(self._gathered)).waiting[0] is oldest:
                wait_s = GATHER_S
                self._hand_over()

    def _finish(self) -> None:
        """After a poll: every frame whose reports are in."""
        open_until = time.monotonic() + _OPEN_S
        done, tried = self._done, self._tried
        while done or tried:
            if tried:
                frame = tried.popleft()
                if frame.failed:
                    self._break_off(frame.lane)
                else:
                    frame.lane.open_until = open_until
                self._unpark(frame.lane)
                continue
            frame = done.popleft()
            lane = frame.lane
            self._in_flight -= 1
            lane.unanswered -= frame.sent
            # Before anybody is told: who is may send another frame, which parks it anew.
            if frame.sent and lane in self._parked:
                self._unpark(lane)
            if self._is_unbatched and frame.set_aside_too_large():
                # The gap that a refused record leaves ends this client.
                self._will_be_unbatched = True
            if not frame.failed:
                self._fruitless = 0
                self._refusal = None
                self._wait_s = _REFUSED_AGAIN_S
                if not frame.refused and frame.sent:
                    lane.open_until = open_until
                self._settle(frame, self._too_large(frame) if frame.refused else None)
            elif self._has_another_try(frame):
                self._failed.append(frame)
            else:
                error, _ = frame.failed[0]
                self._give_up(frame, error.str())
                self._give_up_late(lane, error.str())
        if self._lane_count != (count := self._partition_count()) and not self._old_lanes:
            self._old_lanes = {lane for lane in self._lanes.values() if lane.waiting}
            self._lanes, self._lane_count = {}, count
        self._progress.unpark_all()
        self._hand_over()
        self.budget.tell_room()

    def _settle(self, frame: _Frame, error: Exception | None) -> None:
        self.budget.settle(frame.size)
        self._frames -= 1
        self._records -= len(frame.values)
        frame.on_done(error)

    def _give_up(self, frame: _Frame, reason: str) -> None:
        count = len(frame.failed) or len(frame.values)
        why = f"Kafka did not take {count} of {len(frame.values)} records: {reason.removesuffix('.')}."
        self._settle(frame, Unavailable(why))

    def _give_up_late(self, lane: _Lane, reason: str) -> None:
        """Those that waited for one that was given up, as far as they are as late."""
        oldest = time.monotonic() - self._patience_s
        while lane.waiting and not lane.waiting[0].sent and lane.waiting[0].since < oldest:
            self._give_up(self._take_out(lane), reason)

    def _too_large(self, frame: _Frame) -> RecordsRefused:
        return RecordsRefused(
            f"too large for the max.message.bytes of the topic {self._topic}", frame.refused
        )

    # --- a client that failed, or was refused: another one takes over -------------------------------

    def _has_another_try(self, frame: _Frame) -> bool:
        """Whether another client can still deliver what failed of `frame`; then none gets more until that is here."""
        errors = {error.code(): error for error, _ in frame.failed}
        if KafkaError._MSG_TIMED_OUT in errors:
            return False  # it is too old
        if not TOO_LARGE.isdisjoint(errors):
            self._will_be_unbatched = True
        elif refusals := _REFUSALS.intersection(errors):
            self._refuse(errors[min(refusals)])
        elif not self._replacing and self._fatal_error is None and _CLIENT_ENDS.isdisjoint(errors):
            return False
        self._replacing = True
        if KafkaError._FATAL not in errors:  # of a fatal error the thread hears besides
            self._replace_soon()
        return True

    def _replace_soon(self) -> None:
        self._replace_at = 0.0
        self._call.set()

    def _refuse(self, error: KafkaError) -> None:
        if self.refusal() is None:
            log.warning("kafka refuses what waits for it", topic=self._topic, reason=error.str())
        self._refused_at = time.monotonic()
        self._refusal = f"Kafka refuses records for the topic {self._topic}: {error.str()}."

    def _hold(self) -> None:
        self._replacing = True

    def _take_stock(self) -> float:
        """When the old client has reported all: sees why it failed. Returns the seconds to wait before the next."""
        self._finish()
        for lane in [*self._gathered]:
            if lane.waiting[0].report is not None:
                self._break_off(lane)
        self._finish()
        if self._refusal is not None:
            wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, _REFUSED_AGAIN_MOST_S)
            return wait_s
        if self._is_unbatched != self._will_be_unbatched:
            log.warning(
                "batches are larger than the topic takes: records go one by one"
                if self._will_be_unbatched
                else "batches are tried again",
                topic=self._topic,
            )
            return 0.0
        if self._fatal_error is None or self._is_unbatched:
            return 0.0
        self._fruitless += 1
        log.error("the kafka producer failed and is replaced", error=self._fatal_error)
        return 0.0 if self._fruitless == 1 else min(2.0**self._fruitless, 30.0)

    def _break_off(self, lane: _Lane) -> None:
        """Its first frame was handed over in part, and the rest is not for the present client."""
        self._take_out(lane).break_off(KafkaError(KafkaError._PURGE_QUEUE))

    def _make_client(self) -> RdProducer:
        if not self._will_be_unbatched:
            return self._answers.client(self._config)
        # A record that is too large alone is refused for good, and ends this client too. The guarantee stays on all the
        # same: without it a record that was refused for another reason could be overtaken by later ones.
        return self._answers.client({**self._config, "batch.num.messages": 1})

    def _take_over(self, rd: RdProducer) -> None:
        """The frames that the old client did not deliver go to the new one, in the order in which they came.

        Of each frame only the records that failed: the others stand in the log already. A record whose request got no
        answer before the purge may stand there too, and then comes a second time, which is better than to lose it.
        """
        self._rd = rd
        self._answers.look()  # it may have told before it was this one
        self._fatal_error = None
        self._is_unbatched, self._will_be_unbatched = self._will_be_unbatched, False
        self._replace_at = time.monotonic() + _UNBATCHED_S if self._is_unbatched else math.inf
        oldest = time.monotonic() - self._patience_s
        waiting = [frame for lane in (*self._gathered, *self._parked) for frame in lane.waiting]
        waiting = sorted([*self._failed, *waiting], key=lambda frame: frame.number)
        self._failed, self._lanes, self._lane_count = [], {}, self._partition_count()
        self._gathered, self._gathered_bytes = {}, 0
        self._parked.clear()
        self._old_lanes.clear()
        late = [frame for frame in waiting if frame.since < oldest]
        for frame in waiting:
            if frame.since < oldest:
                continue
            if frame.failed:
                values = frame.undelivered()
                self._records -= len(frame.values) - len(values)
                frame.values, frame.failed, frame.sent = values, [], 0
            self._gather(frame)
        # Last: whoever is told may hand over another one.
        for frame in late:
            self._give_up(frame, self._refusal or "no client could deliver them in time")
        self._progress.unpark_all()
        self._replacing = False
        self._hand_over()
        self.budget.tell_room()

    # --- reports -----------------------------------------------------------------------------------

    async def serve(self) -> None:
        """Serves delivery reports as they come, until it is cancelled. For a task of its own."""
        while True:
            if self._records < _MANY:
                self._poll(0)
            else:
                await trio.to_thread.run_sync(self._poll, 0)
            if self._done or self._tried:
                self._finish()
            await self._answers.wait()

    def _poll(self, timeout: float) -> None:
        try:
            self._rd.poll(timeout)
        except KafkaException as error:
            # How confluent-kafka tells a fatal error, besides (or instead of) the callback.
            self._on_error(error.args[0])
            self._answers.look()  # it has not served what came behind

    # --- the thread that replaces a client ---------------------------------------------------------

    def _replace_when_called(self) -> None:
        while not self._stopping.is_set():
            wait_s = self._replace_at - time.monotonic()
            if self._fatal_error is not None or wait_s <= 0:
                self._replace()
            elif self._call.wait(wait_s if wait_s < math.inf else None):
                self._call.clear()

    def _serve(self, timeout: float) -> None:
        self._poll(timeout)
        if self._done or self._tried:
            self._token.run_sync_soon(self._finish, idempotent=True)

    def _replace(self) -> None:
        trio.from_thread.run_sync(self._hold, trio_token=self._token)
        deadline = time.monotonic() + _FATAL_DRAIN_S
        while len(self._rd) and time.monotonic() < deadline and not self._stopping.is_set():
            # In every round: an answer can put records of a request back into the queue, and nobody sends that any more.
            self._rd.purge(in_flight=False)
            self._serve(_POLL_S)
        self._rd.purge()
        while len(self._rd):
            self._serve(_POLL_S)
        wait_s = trio.from_thread.run_sync(self._take_stock, trio_token=self._token)
        if self._stopping.wait(wait_s):
            return
        rd = self._make_client()
        trio.from_thread.run_sync(self._take_over, rd, trio_token=self._token)

    def _on_error(self, error: KafkaError) -> None:
        if error.fatal():
            if error.code() in _REFUSALS:
                self._refuse(error)
            self._fatal_error = f"{error.name()}: {error.str()}"
            self._call.set()
        else:
            # librdkafka's own log has said it.
            log.debug("kafka producer", error=error.str())


@asynccontextmanager
async def open_producer(
    config: dict[str, Any],
    topic: str,
    capacity_bytes: int,
    partition_count: Callable[[], int] = lambda: 0,
) -> AsyncIterator[KafkaProducer]:
    """A producer of `topic`; closed on leaving, without a flush.

    What the block raises comes out as it is, not in a group.

    config: `producer_config`. capacity_bytes: MATYAN_QUEUE_BYTES. partition_count: how many the topic has, 0: not known;
    then the frames of each key alone are in order. It decides when frames are handed over, not where they go.
    """
    producer = KafkaProducer(config, topic, capacity_bytes, partition_count)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(producer.keep_time)
            nursery.start_soon(producer.serve)
            yield producer
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:
        if len(group.exceptions) > 1:
            raise
        (error,) = group.exceptions
    else:
        return
    finally:
        await producer.aclose()
    raise error
