"""What is wrong with a topic, and what could be safer; each as the broker would describe it."""

from __future__ import annotations

import pytest

from matyan.broker.kafka.topics import NEEDED_MESSAGE_BYTES, Topic, topic_config, troubles

RECORD_BYTES = 900 * 1024
LIBRDKAFKA_BATCH_BYTES = 1_000_000
KAFKA_DEFAULT_BYTES = 1_048_588


@pytest.mark.parametrize(
    ("topic", "trouble", "advice"),
    [
        (Topic("t", 6, 3, 3, KAFKA_DEFAULT_BYTES, 2), None, None),
        (Topic("t"), "Kafka has no topic t: `matyan topics create`", None),
        (Topic("t", 6, 3, 3, 900_000, 2), "is 900000, and our records need 1000000", None),
        (Topic("t", 6, 3, 3, KAFKA_DEFAULT_BYTES, 3), None, "while one broker is away"),
        (Topic("t", 6, 2, 2, KAFKA_DEFAULT_BYTES, 2), None, "while one broker is away"),
        (
            Topic("t", 6, 3, 3, KAFKA_DEFAULT_BYTES, 1),
            None,
            "`matyan topics create --alter` sets 2",
        ),
        (Topic("t", 6, 1, 1, KAFKA_DEFAULT_BYTES, 1), None, "One replica"),
        (Topic("t", 6, 1, 1, KAFKA_DEFAULT_BYTES, 2), "no producer can write", "One replica"),
        (Topic("t", 6, 3, 1, KAFKA_DEFAULT_BYTES, 2), "start the brokers that are away", None),
        (Topic("t", 6, 3, 0, KAFKA_DEFAULT_BYTES, 1), "start the brokers", "acknowledged record"),
        (Topic("t", 6, 3, 3, None, None), None, "allow DescribeConfigs"),
    ],
)
def test_a_topic_is_judged(topic: Topic, trouble: str | None, advice: str | None) -> None:
    """Trouble stops our records and names what mends it; advice does not."""
    for found, expected in ((topic.trouble(), trouble), (topic.advice(), advice)):
        if expected is None:
            assert found == []
        else:
            (sentence,) = found
            assert expected in sentence


HOUR = 3_600_000


@pytest.mark.parametrize(
    ("policy", "retention_ms", "retention_bytes", "trouble", "advice"),
    [
        ("delete", 7 * 24 * HOUR, -1, None, None),
        ("delete", -1, -1, None, None),
        ("compact", 7 * 24 * HOUR, -1, "is compact", None),
        ("compact,delete", 7 * 24 * HOUR, -1, "is compact,delete", None),
        ("delete", HOUR, -1, None, "after 1 hours is lost"),
        ("delete", 0, -1, None, "retention.ms=0 is unsafe"),
        ("delete", -1, 1 << 20, None, "retention.bytes=1048576 is unsafe"),
    ],
)
def test_what_removes_records_is_judged(
    policy: str, retention_ms: int, retention_bytes: int, trouble: str | None, advice: str | None
) -> None:
    """Compaction is wrong, whatever else; a short retention, by time or by size, is unsafe."""
    topic = Topic("t", 6, 3, 3, KAFKA_DEFAULT_BYTES, 2, policy, retention_ms, retention_bytes)
    for found, expected in ((topic.trouble(), trouble), (topic.advice(), advice)):
        assert (expected is None) == (found == [])
        assert expected is None or expected in found[0]


@pytest.mark.parametrize(
    ("compression", "is_fine"),
    [
        *((name, True) for name in ("producer", "uncompressed", "gzip", None)),
        *((name, False) for name in ("lz4", "zstd", "snappy")),
    ],
)
def test_what_the_broker_makes_of_our_compression_is_judged(
    compression: str | None, is_fine: bool
) -> None:
    """A topic can have one of its own, which the reference's worker may not read."""
    topic = Topic("t", 6, 3, 3, KAFKA_DEFAULT_BYTES, 2, compression_type=compression)
    assert topic.trouble() == []
    found = topic.advice()
    assert (found == []) == is_fine
    assert is_fine or f"compression.type={compression}" in found[0]


def test_missing_topics_are_one_sentence() -> None:
    """Three that are missing are named together, beside what is wrong with the others."""
    found = troubles([Topic("a"), Topic("b", 1, 1, 1, 10, 1), Topic("c")])
    assert found[0] == "Kafka has no topic a, c: `matyan topics create` makes them."
    assert len(found) == 2


def test_what_we_create_is_what_we_ask_for() -> None:
    """Topics of `topics create` are fit; with three replicas two must have a record, with fewer one is enough."""
    assert RECORD_BYTES < LIBRDKAFKA_BATCH_BYTES <= NEEDED_MESSAGE_BYTES
    assert NEEDED_MESSAGE_BYTES <= KAFKA_DEFAULT_BYTES, "Kafka's default is enough"
    for replication, least in ((1, None), (2, None), (3, 2), (5, 2)):
        config = topic_config(replication)
        assert config.get("min.insync.replicas") == least
        topic = Topic("t", 1, replication, replication, config["max.message.bytes"], least or 1)
        assert topic.trouble() == []
