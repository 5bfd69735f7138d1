"""What a member of a consumer group looks at every few seconds: its topic, the ends of its partitions, the group.

Each watch is asked by the polling thread in every round and mostly answers at once that there is nothing new. What
follows from an answer is decided in `consumer.py`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any

from confluent_kafka import TopicPartition
from confluent_kafka.admin import AclOperation, AdminClient, OffsetSpec

from matyan.broker.kafka.admin import Group, describe_topic_soon
from matyan.errors import Unavailable
from matyan.service.logs import get_logger

log = get_logger()

_WATCH_S = 5.0
"""How often the topic's id is asked for, and the members of a group that is not whole."""
_ENDS_S = 3.0
"""How often the ends of the partitions are asked for."""
_ANSWER_S = 1.0
"""How long the thread waits for the members of the group: records have to wait meanwhile, and rebalances can."""


class TopicWatch:
    """A topic that was deleted and created again has another id, and its offsets mean something else."""

    def __init__(self, admin: AdminClient, topic: str) -> None:
        self.partition_count = 0
        """As it was answered last; 0: not yet."""
        self.may_read = True
        """Whether this user may, as it was answered last. A broker that does not say lets everybody."""
        self._admin = admin
        self._topic = topic
        self._asked: Future[Any] | None = None
        self._next = time.monotonic() + _WATCH_S

    def look_soon(self) -> None:
        """The topic may have changed: the next round asks. From any thread."""
        self._next = 0.0

    def look(self) -> str | None:
        """The topic's id, when an answer has just come."""
        if self._asked is None:
            if time.monotonic() >= self._next:
                self._next = time.monotonic() + _WATCH_S
                self._asked = describe_topic_soon(self._admin, self._topic)
            return None
        if not self._asked.done():
            return None
        asked, self._asked = self._asked, None
        if asked.exception() is not None:
            return None
        self.partition_count = len(asked.result().partitions)
        allowed = asked.result().authorized_operations
        self.may_read = not allowed or AclOperation.READ in allowed
        return str(asked.result().topic_id)


class EndsWatch:
    """Where each partition ends: a fetch tells it too, but a partition that stands still is not fetched."""

    def __init__(self, admin: AdminClient) -> None:
        self._admin = admin
        self._asked: dict[TopicPartition, Future[Any]] = {}
        self._next = 0.0

    def look(self, partitions: Iterable[TopicPartition]) -> dict[int, int]:
        """The end offsets that have just been answered, by partition. The next question is about `partitions`."""
        if any(not soon.done() for soon in self._asked.values()):
            return {}
        ends = {
            tp.partition: soon.result().offset
            for tp, soon in self._asked.items()
            if soon.exception() is None
        }
        self._asked = {}
        if time.monotonic() >= self._next and (wanted := [*partitions]):
            self._next = time.monotonic() + _ENDS_S
            self._asked = self._admin.list_offsets(
                dict.fromkeys(wanted, OffsetSpec.latest()), request_timeout=_ANSWER_S
            )
        return ends


class GroupWatch:
    """Whether each partition has an owner.

    Static members that are killed between the two rounds of a cooperative rebalance come back without a round: what was
    to change hands belongs to nobody, and the group is stable. Then one of its members has to leave and join anew.
    """

    def __init__(self, group: Group, topic: str) -> None:
        self._group = group
        self._topic = topic
        self._next = math.inf
        """From each assignment on, until all partitions have an owner."""
        self._unowned: set[int] = set()

    def assigned(self) -> None:
        """This member was given partitions, or none."""
        self._next = time.monotonic() + _WATCH_S

    def look(self, partition_count: int, member_id: Callable[[], str]) -> set[int]:
        """The partitions without an owner, when this member is the one that has to join anew for them: it has the least to lose."""
        if time.monotonic() < self._next or not partition_count:
            return set()
        self._next = time.monotonic() + _WATCH_S
        try:
            owners = self._group.owners(self._topic, _ANSWER_S)
        except Unavailable as error:
            log.info("waits to see the members of the group", topic=self._topic, reason=str(error))
            return set()
        if owners is None:
            return set()
        unowned = set(range(partition_count)).difference(*owners.values())
        # For a moment it is so in each rebalance, too: therefore it is looked at twice.
        is_so_still, self._unowned = bool(unowned & self._unowned), unowned
        if not unowned:
            self._next = math.inf
        if not is_so_still:
            return set()
        first = min(owners, key=lambda member: (len(owners[member]), member), default=None)
        return unowned if member_id() == first else set()
