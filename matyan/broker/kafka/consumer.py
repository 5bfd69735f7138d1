"""Kafka's consuming side: a member of a consumer group whose partitions are read by trio tasks.

One thread polls librdkafka without a pause, whatever the tasks do: it answers rebalances, and pauses a partition whose
task is too many bytes behind. The stored offset decides where a partition starts (`start.py`); the offsets that are
committed to Kafka follow it. No retry of an engine, no rules, no store.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from itertools import groupby
from typing import Any, NamedTuple

import trio
from confluent_kafka import Consumer as RdConsumer
from confluent_kafka import KafkaError, KafkaException, Message, TopicPartition

from matyan.broker.base import Batch, Partition
from matyan.broker.kafka.admin import Group, describe_topic, metadata
from matyan.broker.kafka.client import METADATA_MS, PollingThread, client_config
from matyan.broker.kafka.start import FedStore, takes_over, where_committed, where_to_start
from matyan.broker.kafka.turns import MOST_WAITING_BYTES, Turns
from matyan.broker.kafka.watch import EndsWatch, GroupWatch, TopicWatch
from matyan.errors import Unavailable
from matyan.service import telemetry
from matyan.service.logs import get_logger
from matyan.settings import Settings

log = get_logger()

BATCH_BYTES = MOST_WAITING_BYTES
"""What waits for a task is one batch up to here."""
FETCH_GAP_MS = 2
"""The broker answers a fetch as soon as it has one record, so that one that comes alone is here at once. After an answer
with records the client does not ask again for so long: a fetch for each frame would cost both sides a third of a core."""
FETCH_BYTES = 2 << 20
"""What a fetch brings at most, some 6,000 records of log_metric."""
FETCH_PARTITION_BYTES = 1 << 20
"""And of each partition: a transaction's worth. With less, one that is far behind alone would wait for the gaps; those that
are behind together take turns, since the client begins each fetch with the next one."""
CONSUME_RECORDS = 10_000
"""At most so many are taken from the client at once: all that a fetch brings, since what it holds stops the next one."""

AHEAD_BYTES = 8 << 20
"""When so much waits for the tasks of all partitions together, no more is taken from the client until they have taken
some. What the client has fetched stays with it."""
PAUSE_BYTES = 16 << 20
RESUME_BYTES = 2 << 20
"""A partition is paused when PAUSE_BYTES of it wait for its task, and resumed when only RESUME_BYTES do. That is for a
task that stands still. For one that moves AHEAD_BYTES comes first, since a pause is dear: the client drops what it has
fetched of the partition, and when all are paused it notices only up to 1 s later that one is resumed."""

_POLL_S = 0.02
"""How long the thread waits for a record before it looks at what the tasks want."""
_EARLY_S = 0.0005
"""A turn comes so much too soon, since the client waits for whole milliseconds: late by half of one at each of six partitions' turns,
the sixth was late by three. Rejected: to sleep through the rest, in which nothing is taken from the client, which then does not fetch."""
_COMMIT_S = 0.2
"""How often a partition's offset is committed to Kafka, when it has moved."""
_COMMIT_AGAIN_S = 3.0
"""How often the last commit is repeated. A rebalance or a coordinator can refuse one, nobody waits for its outcome, and on
an idle partition no other follows."""
_LAG_S = 1.0
"""How often a partition's lag is shown."""
_FETCH_FAILED_MS = 500
"""How long the client waits after a fetch that failed."""
_SILENCE_S = 0.5e-3 * _FETCH_FAILED_MS
"""After such a silence the records can be those of another topic of the same name: when a topic is deleted and created
again, librdkafka reads on at its old offset and tells nobody. This takes longer than the silence, since a fetch fails in
between. So the topic's id is asked for before these records are handed out. To ask for each batch would cost a busy
partition a tenth of its speed, and a quiet one milliseconds each time."""
_CLOSE_S = 10.0
"""How long a broker that does not answer is waited for when the group is left."""


def consumer_config(settings: Settings, group: str) -> dict[str, Any]:
    """librdkafka's properties for a member of `group`."""
    config = client_config(
        settings,
        **{
            "group.id": group,
            # Partitions that are added are to be shared out within seconds; by default within five minutes.
            "topic.metadata.refresh.interval.ms": METADATA_MS,
            "partition.assignment.strategy": "cooperative-sticky",
            # Where to start, and how far the store is, is decided here and not by librdkafka.
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            # A member hears of a rebalance with its heartbeat, and a cooperative rebalance takes two of them. With the
            # default of 3 s, partitions that change hands would stand still so long each time.
            "heartbeat.interval.ms": 1_000,
            # A client that holds a record does not fetch, but looks again after the gap. So little is fetched ahead, which
            # a paused partition would drop.
            "queued.min.messages": 1,
            "fetch.queue.backoff.ms": FETCH_GAP_MS,
            "fetch.min.bytes": 1,
            # A partition that is resumed or sought waits for the request under way, too, which asks for the others.
            "fetch.wait.max.ms": 100,
            "fetch.max.bytes": FETCH_BYTES,
            "fetch.message.max.bytes": FETCH_PARTITION_BYTES,
            "fetch.error.backoff.ms": _FETCH_FAILED_MS,
            **settings.kafka_config.of_consumers(),
        },
    )
    if settings.instance_id:
        config["group.instance.id"] = settings.instance_id
    return config


class KafkaConsumer:
    """A `Consumer` (broker/base.py) of one topic.

    Args:
        config: `consumer_config`.
        offsets_are_stored: whether the owner of a partition keeps its offset in the store. If not (the control
            worker), the offset committed to Kafka decides where to start.
        fed_store: the store that the owners keep their offsets in.
        drain_s: seconds that the owner of a revoked partition has to leave it.
    """

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        *,
        offsets_are_stored: bool = True,
        fed_store: FedStore | None = None,
        drain_s: float = 10.0,
    ) -> None:
        self.topic = topic
        self.offsets_are_stored = offsets_are_stored
        self._fed_store = fed_store or FedStore(config["group.id"])
        self._config = config
        self._drain_s = drain_s
        self._member: _Member | None = None

    def trouble(self) -> str | None:
        """Why Kafka does not let it read, or None."""
        return None if self._member is None else self._member.forbidden

    @asynccontextmanager
    async def partitions(
        self,
    ) -> AsyncIterator[AsyncIterator[AbstractAsyncContextManager[Partition]]]:
        member = _Member(
            self._config, self.topic, self.offsets_are_stored, self._fed_store, self._drain_s
        )
        self._member = member
        try:
            yield member.assigned()
        finally:
            await member.aclose()


class _Member:
    """One life in the group: the client, its thread, and the partitions that it owns now."""

    def __init__(
        self,
        config: dict[str, Any],
        topic: str,
        offsets_are_stored: bool,
        fed_store: FedStore,
        drain_s: float,
    ) -> None:
        self.topic = topic
        self.offsets_are_stored = offsets_are_stored
        self.fed_store = fed_store
        self._drain_s = drain_s
        self.token = trio.lowlevel.current_trio_token()
        self._send, self._receive = trio.open_memory_channel[_Partition](10_000)
        self._stopping = threading.Event()
        self.rd = RdConsumer(config)
        # A client of its own: confluent-kafka's Consumer does not answer a second thread while one is in consume().
        self.group = Group(config, config["group.id"])
        self.admin = self.group.admin
        # Whose turn it is to ask for the topic's id, when that was asked last, and the answer.
        self._asking = trio.Lock()
        self._asked_at = 0.0
        self._answer = ""
        # Read and written by the thread.
        self._parts: dict[int, _Partition] = {}
        self._turns = Turns()
        self.took = threading.Event()
        self._renewed: dict[int, _Partition] = {}
        """Former ownerships of partitions that are assigned, and announced anew once these are left."""
        self._topic_watch = TopicWatch(self.admin, topic)
        self._ends_watch = EndsWatch(self.admin)
        self._group_watch = GroupWatch(self.group, topic)
        self.forbidden: str | None = None
        """Read by whoever wants to know why nothing comes."""
        self._unread: str | None = None
        """What `forbidden` says while this user may not read the topic; None: nothing was refused since a record came."""
        self._thread = PollingThread(self._poll_forever, f"kafka-{topic}")

    # --- in trio ---------------------------------------------------------------------------------

    async def assigned(self) -> AsyncIterator[AbstractAsyncContextManager[Partition]]:
        async for part in self._receive:
            yield self._ownership(part)
        # Only the thread's end closes the channel, and only an error ends it before `aclose`.
        raise Unavailable(self._thread.crashed() or "The consumer is closed.")

    @asynccontextmanager
    async def _ownership(self, part: _Partition) -> AsyncIterator[Partition]:
        part.is_left.clear()
        try:
            part.topic_id = await self.topic_id(part, time.monotonic())
            yield part
        finally:
            part.is_left.set()

    async def topic_id(self, part: _Partition, since: float) -> str:
        """The topic's id as it was at `since` (monotonic seconds) or later; one question serves all who came before it.

        Waits for the broker to say it; a partition that is revoked meanwhile gets none and is left at once.
        """
        while not part.revoked.is_set():
            try:
                async with self._asking:
                    if self._asked_at < since:
                        began = time.monotonic()
                        found = await trio.to_thread.run_sync(
                            describe_topic, self.admin, self.topic, abandon_on_cancel=True
                        )
                        self._asked_at, self._answer = began, str(found.topic_id)
                    return self._answer
            except Unavailable as error:
                log.warning("waits for the topic's id", topic=self.topic, reason=str(error))
                with trio.move_on_after(1):
                    await part.revoked.wait()
        return ""

    def check_topic(self) -> None:
        """Its id has changed: the thread looks at all of its partitions."""
        self._topic_watch.look_soon()

    async def aclose(self) -> None:
        """Leaves the group, within _CLOSE_S."""
        self._stopping.set()
        with trio.move_on_after(_CLOSE_S, shield=True):
            await self._thread.join()

    # --- in the thread ---------------------------------------------------------------------------

    def _poll_forever(self) -> None:
        self._join()
        try:
            while not self._stopping.is_set():
                self._wait_for_tasks()
                if messages := self._by_the_next_turn():
                    self._distribute(messages)
                for part in self._turns.due(self._parts.values(), time.monotonic() + _EARLY_S):
                    part.hand_on()
                for part in list(self._parts.values()):
                    part.reconcile(self.rd)
                self._watch()
                self._announce_renewed()
        finally:
            self.rd.close()
            self.token.run_sync_soon(self._send.close)

    def _join(self) -> None:
        self.rd.subscribe(
            [self.topic],
            on_assign=self._on_assign,
            on_revoke=self._on_revoke,
            on_lost=self._on_lost,
        )

    def _wait_for_tasks(self) -> None:
        """Not for long: polling goes on."""
        self.took.clear()
        if sum(part.ahead for part in self._parts.values() if not part.is_paused) > AHEAD_BYTES:
            self.took.wait(_POLL_S)

    def _distribute(self, messages: list[Message[bytes, bytes]]) -> None:
        errors = [message for message in messages if message.error() is not None]
        if len(errors) < len(messages):
            self.forbidden = self._unread = None
        if errors:
            messages = [message for message in messages if message.error() is None]
            for message in errors:
                self._on_error(message)
        for number, run in groupby(messages, Message.partition):
            part = self._parts.get(number) if number is not None else None
            if part is not None:
                part.put(list(run))

    def _by_the_next_turn(self) -> list[Message[bytes, bytes]]:
        """What the client has when the next turn is due, or as soon as it has something."""
        due = self._turns.next_due(self._parts.values(), time.monotonic() + _EARLY_S)
        patience = _POLL_S if due is None else min(_POLL_S, math.ceil(1e3 * due) / 1e3)
        messages = self.rd.consume(1, patience)
        if messages:
            messages += self.rd.consume(CONSUME_RECORDS - 1, 0)
        return messages

    def _on_error(self, message: Message[bytes, bytes]) -> None:
        error = message.error()
        assert error is not None
        if error.fatal():
            raise KafkaException(error)
        log.warning(
            "kafka consumer", topic=self.topic, partition=message.partition(), error=error.str()
        )
        if error.code() in _FORBIDDEN:
            self.forbidden = f"Kafka does not let this user read as one of the group {self.group.name}: {error.str()}. Allow it in Kafka's ACLs."
            if error.code() == KafkaError.TOPIC_AUTHORIZATION_FAILED:
                self._unread = self.forbidden
        part = self._parts.get(message.partition() or 0)
        if error.code() in _POSITION_IS_WRONG and part is not None:
            # Its owner reads the stored offset again, and `start` says what is wrong.
            self._renew([part])
        else:
            self.check_topic()

    def _on_assign(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        telemetry.REBALANCES.labels("assigned").inc()
        self.forbidden = None
        self._group_watch.assigned()
        self._log_partitions("partitions are assigned", partitions)
        self._assign(rd, partitions)
        self._announce(tp.partition for tp in partitions)

    def _log_partitions(self, what: str, partitions: list[TopicPartition]) -> None:
        if partitions:
            numbers = sorted(tp.partition for tp in partitions)
            log.info(what, group=self.group.name, topic=self.topic, partitions=numbers)

    def _assign(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        # Paused at a place that needs no look-up, until `start` has said where.
        rd.incremental_assign([TopicPartition(self.topic, tp.partition, 0) for tp in partitions])
        rd.pause(partitions)

    def _announce(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            part = _Partition(self, number)
            self._parts[number] = part
            self.token.run_sync_soon(self._send.send_nowait, part)

    def _on_revoke(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        """Answers when each owner has left its partition, or at the deadline. An owner that is late does no harm, since
        the stored offset fences it."""
        telemetry.REBALANCES.labels("revoked").inc()
        self._log_partitions("partitions are given back", partitions)
        parts = self._leave(partitions)
        deadline = time.monotonic() + self._drain_s
        for part in parts:
            if not part.is_left.wait(max(0.0, deadline - time.monotonic())):
                log.warning(
                    "a revoked partition is not left in time",
                    topic=self.topic,
                    partition=part.partition,
                )
            part.commit(rd)
        rd.incremental_unassign(partitions)

    def _on_lost(self, rd: RdConsumer, partitions: list[TopicPartition]) -> None:
        """Others own them already: nothing is gained by waiting."""
        telemetry.REBALANCES.labels("lost").inc()
        self._log_partitions("partitions were lost", partitions)
        self._leave(partitions)
        rd.incremental_unassign(partitions)

    def _leave(self, partitions: Iterable[TopicPartition]) -> list[_Partition]:
        for tp in partitions:
            self._renewed.pop(tp.partition, None)
        parts = [
            part for tp in partitions if (part := self._parts.pop(tp.partition, None)) is not None
        ]
        for part in parts:
            with suppress(KeyError):  # none was shown yet
                telemetry.LAG.remove(self.topic, str(part.partition))
            self.token.run_sync_soon(part.leave)
        return parts

    def _renew(self, parts: list[_Partition]) -> None:
        """Ends the ownership of `parts` and begins a new one of the same partitions.

        Not before the old owner is through: under another topic id the stored offset does not fence it.
        """
        tps = [part.tp for part in parts]
        self._leave(tps)
        # Assigned anew: a partition whose position was wrong does not read on after a seek.
        self.rd.incremental_unassign(tps)
        self._assign(self.rd, tps)
        self._renewed.update((part.partition, part) for part in parts)

    def _announce_renewed(self) -> None:
        left = [number for number, former in self._renewed.items() if former.is_left.is_set()]
        for number in left:
            del self._renewed[number]
        self._announce(left)

    def _watch(self) -> None:
        if (topic_id := self._topic_watch.look()) is not None:
            if self._unread is not None and self.forbidden in (None, self._unread):
                # librdkafka says once that it was refused, and nothing when it is let in again and finds no record.
                self.forbidden = None if self._topic_watch.may_read else self._unread
            # Each one's id: some may have been looked up after the change, and some not yet.
            former = [part for part in self._parts.values() if part.topic_id not in ("", topic_id)]
            if former:
                log.error("the topic was created again", topic=self.topic, topic_id=topic_id)
                self._renew(former)
        ends = self._ends_watch.look(part.tp for part in self._parts.values())
        for number, end in ends.items():
            if (part := self._parts.get(number)) is not None:
                part.end = max(part.end, end)
        unowned = self._group_watch.look(self._topic_watch.partition_count, self.rd.memberid)
        if unowned:
            log.warning(
                "joins the group anew: partitions have no owner",
                topic=self.topic,
                partitions=sorted(unowned),
            )
            self.rd.unsubscribe()
            self._join()


_FORBIDDEN = frozenset(
    {KafkaError.GROUP_AUTHORIZATION_FAILED, KafkaError.TOPIC_AUTHORIZATION_FAILED}
)
_POSITION_IS_WRONG = frozenset({KafkaError._AUTO_OFFSET_RESET, KafkaError.OFFSET_OUT_OF_RANGE})


class _Chunk(NamedTuple):
    """Records of one partition that the client gave at once."""

    offsets: Sequence[int]
    keys: list[bytes | None]
    values: list[bytes]
    size: int
    """Bytes of the messages."""
    in_doubt_since: float
    """They may belong to another topic of the same name: then the topic's id decides, as it was at this time (monotonic
    seconds) or later. 0: they are not in doubt."""


class _Partition:
    """A partition while this member owns it. Tasks and the thread share it; each field says whose it is."""

    def __init__(self, member: _Member, number: int) -> None:
        self.topic = member.topic
        self.topic_id = ""
        self.partition = number
        self.tp = TopicPartition(member.topic, number)
        self.revoked = trio.Event()
        self.arrival = trio.lowlevel.ParkingLot()
        """Of the task: woken when records came, when the partition was placed, and when it is to be left."""
        self.is_left = threading.Event()
        self.is_left.set()
        self._member = member
        self._queue: deque[_Chunk] = deque()
        # Bytes that came and that went: each has one writer, the thread and the task.
        self._came = 0
        self._went = 0
        # Written by the task, read by the thread.
        self._seek_to: int | None = None
        self._held_back = False
        self._done: int | None = None
        self._place_error: KafkaException | None = None
        # The thread's.
        self._waiting: list[_Chunk] = []
        """For their turn."""
        self.waiting_since: float | None = None
        self.waiting_bytes = 0
        self._started = False
        self._arrived = 0.0
        self._paused_at: float | None = time.monotonic()
        self._committed: int | None = None
        self._next_commit = 0.0
        self._commit_again = 0.0
        self._next_lag = 0.0
        self.end = -1
        """The partition's end offset, as far as it is known."""

    # --- in trio: the interface ------------------------------------------------------------------

    async def start(self, stored: int | None) -> int:
        offset, may_tell = await trio.to_thread.run_sync(
            self._locate, stored, abandon_on_cancel=True
        )
        self._place_error = None
        self._seek_to = offset
        # Nobody answers for a partition that is revoked, and it may have been while it was located.
        while self._seek_to is not None and not self.revoked.is_set():
            await self.arrival.park()
        if self.revoked.is_set():
            raise Unavailable(f"{self.topic} [{self.partition}] was revoked.")
        if self._place_error is not None:
            raise Unavailable(
                f"{self.topic} [{self.partition}] cannot be read: {self._place_error.args[0].str()}."
            ) from self._place_error
        if may_tell:
            # It is committed at once: the last owner may have died before it did so, and where no record comes any more
            # nobody else would. And the worker of another store is to find the id of this store there.
            self._done = offset
        return offset

    async def batches(self) -> AsyncIterator[Batch]:
        queue = self._queue
        while True:
            # Under load a chunk always waits: so this is where the wish to leave is heard.
            await trio.lowlevel.checkpoint_if_cancelled()
            while not queue and not self.revoked.is_set():
                await self.arrival.park()
            if self.revoked.is_set():
                return
            offsets, keys, values, size, in_doubt_since = queue.popleft()
            while queue and size + queue[0].size <= BATCH_BYTES:
                more = queue.popleft()
                offsets = _joined(offsets, more.offsets)
                keys += more.keys
                values += more.values
                size += more.size
                in_doubt_since = max(in_doubt_since, more.in_doubt_since)
            self._went += size
            self._member.took.set()
            if (
                in_doubt_since
                and await self._member.topic_id(self, in_doubt_since) != self.topic_id
            ):
                self._member.check_topic()
                await self.revoked.wait()
                return
            yield Batch(offsets, keys, values, offsets[-1] + 1)

    def committed(self, next_offset: int) -> None:
        self._done = next_offset

    def pause(self) -> None:
        self._held_back = True

    def resume(self) -> None:
        self._held_back = False

    def leave(self) -> None:
        self.revoked.set()
        self.arrival.unpark_all()

    # --- in a worker thread: where to start --------------------------------------------------------

    def _locate(self, stored: int | None) -> tuple[int, bool]:
        """The contract's rules for the place of a partition (section 5), and whether Kafka may be told it as ours.

        Raises:
            OffsetConflict: only a person can say what is right.
            Unavailable: the broker does not answer, or the topic is another one by now.
        """
        place = self._member.group.places(self.topic, [self.partition])
        # Asked after the place, so that both are of one topic; the thread begins anew with the new one.
        if str(describe_topic(self._member.admin, self.topic).topic_id) != self.topic_id:
            self._member.check_topic()
            raise Unavailable(f"The topic {self.topic} was created again.")
        found = place[self.partition]
        if not self._member.offsets_are_stored:
            return where_committed(found), True
        offset = where_to_start(self.topic, self.partition, stored, found, self._member.fed_store)
        is_taken_over = takes_over(stored, found)
        if is_taken_over:
            log.info(
                "takes over from a committed offset",
                topic=self.topic,
                partition=self.partition,
                offset=offset,
            )
        return offset, not is_taken_over

    # --- in the polling thread -----------------------------------------------------------------------

    @property
    def ahead(self) -> int:
        """Bytes that wait for the task."""
        return self._came - self._went

    @property
    def is_paused(self) -> bool:
        return self._paused_at is not None

    def put(self, messages: list[Message[bytes, bytes]]) -> None:
        if not self._started or self._seek_to is not None:
            return  # from before a seek
        size = sum(map(len, messages))
        self._came += size
        now = time.monotonic()
        in_doubt_since = now if now - self._arrived > _SILENCE_S else 0.0
        self._arrived = now
        if self.waiting_since is None:
            self.waiting_since = now
        self.waiting_bytes += size
        # Messages do not wait here: the garbage collector would look at each of them again and again.
        self._waiting.append(
            _Chunk(
                _offsets(messages),
                list(map(Message.key, messages)),
                [message.value() or b"" for message in messages],
                size,
                in_doubt_since,
            )
        )

    def hand_on(self) -> None:
        """Its turn has come."""
        self._queue.extend(self._waiting)
        self._forget_waiting()
        self._member.token.run_sync_soon(self.arrival.unpark_all, idempotent=True)

    def _forget_waiting(self) -> None:
        self._waiting.clear()
        self.waiting_since, self.waiting_bytes = None, 0

    def reconcile(self, rd: RdConsumer) -> None:
        """Makes the client do what the tasks want by now."""
        if self._seek_to is not None:
            self._seek(rd)
        is_paused = self.is_paused
        wants_pause = (
            not self._started
            or self._held_back
            or self.ahead > (RESUME_BYTES if is_paused else PAUSE_BYTES)
        )
        now = time.monotonic()
        if wants_pause and not is_paused:
            rd.pause([self.tp])
            self._paused_at = now
        elif is_paused and not wants_pause:
            rd.resume([self.tp])
            telemetry.PAUSED_SECONDS.labels(self.topic).inc(now - (self._paused_at or now))
            self._paused_at = None
        if now >= (self._next_commit if self._done != self._committed else self._commit_again):
            self._next_commit, self._commit_again = now + _COMMIT_S, now + _COMMIT_AGAIN_S
            self.commit(rd)
        if now >= self._next_lag and self._done is not None and self.end >= 0:
            self._next_lag = now + _LAG_S
            watermarks = rd.get_watermark_offsets(self.tp, cached=True)
            if watermarks is not None:
                self.end = max(self.end, watermarks[1])
            lag = max(0, self.end - self._done)
            telemetry.LAG.labels(self.topic, str(self.partition)).set(lag)

    def _seek(self, rd: RdConsumer) -> None:
        assert self._seek_to is not None
        try:
            rd.seek(TopicPartition(self.topic, self.partition, self._seek_to))
        except KafkaException as error:
            if error.args[0].code() == KafkaError._STATE:
                return  # the client has not begun with a new partition yet: in the next round
            self._place_error = error
        else:
            self._forget_waiting()
            self._queue.clear()
            self._went = self._came
            self._started = True
        self._seek_to = None
        self._member.token.run_sync_soon(self.arrival.unpark_all)

    def commit(self, rd: RdConsumer) -> None:
        """Tells Kafka how far the store is, also once more: what was sent before may have been refused.

        Not waited for: the stored offset is the truth.
        """
        done = self._committed = self._done
        if done is None:
            return
        name = metadata(self.topic_id, self._member.fed_store.store_id)
        rd.commit(
            offsets=[TopicPartition(self.topic, self.partition, done, name)],
            asynchronous=True,
        )


def _offsets(messages: list[Message[bytes, bytes]]) -> Sequence[int]:
    first, last = messages[0].offset(), messages[-1].offset()
    assert first is not None
    assert last is not None
    if last - first + 1 == len(messages):
        return range(first, last + 1)
    # Compaction and transactions leave gaps.
    return [message.offset() or 0 for message in messages]


def _joined(offsets: Sequence[int], more: Sequence[int]) -> Sequence[int]:
    if isinstance(offsets, range) and isinstance(more, range) and offsets.stop == more.start:
        return range(offsets.start, more.stop)
    return [*offsets, *more]
