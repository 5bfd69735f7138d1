"""What `dlq replay` remembers in a committed offset: any order, and no more than a broker keeps."""

from __future__ import annotations

import pytest
from confluent_kafka import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from matyan.broker.kafka.letters import _Sent
from matyan.errors import MatyanError

PLACE = TopicPartition("t", 0)


@given(st.lists(st.lists(st.integers(0, 40), max_size=8), max_size=8), st.integers(0, 40))
def test_what_was_sent_is_remembered_across_commits(rounds: list[list[int]], low: int) -> None:
    """After any row of replays, each ending in a commit that the next one reads, exactly what was sent counts as sent."""
    committed = TopicPartition("t", 0, -1001)
    sent: set[int] = set()
    for offsets in rounds:
        memory = _Sent.of(committed)
        for offset in offsets:
            memory.add(offset)
        sent.update(offsets)
        committed = memory.to_commit(PLACE, 0)
    memory = _Sent.of(committed)
    assert {offset for offset in range(50) if offset in memory} == sent
    # What the topic's retention took away counts as sent, and frees what was remembered of it.
    memory = _Sent.of(memory.to_commit(PLACE, low))
    assert {offset for offset in range(50) if offset in memory} == sent | set(range(low))


def test_the_commit_is_short() -> None:
    """Everything below the offset is said by it alone, the rest in ranges."""
    memory = _Sent()
    for offset in (0, 1, 2, 5, 7, 8, 9):
        memory.add(offset)
    committed = memory.to_commit(PLACE, 0)
    assert (committed.offset, committed.metadata) == (3, "5,7-9")


def test_what_cannot_be_remembered_is_not_sent() -> None:
    """Before a broker would refuse the metadata, the error says to send the oldest first; those are taken."""
    memory = _Sent()
    for offset in range(1, 600, 2):
        memory.require_room([offset], "t")
        memory.add(offset)
    later = range(1001, 2001, 2)
    with pytest.raises(MatyanError, match="oldest"):
        memory.require_room(later, "t")
    memory.require_room(range(0, 600, 2), "t")
    for offset in range(1000, 1200, 2):  # a batch of which every other letter is refused
        memory.add(offset)
    assert len(memory.to_commit(PLACE, 0).metadata or "") <= 4_096
