"""What is said about a broker that cannot be reached: librdkafka's lines, in words that say what to look at."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from matyan.broker.kafka.admin import connection_reason


@pytest.mark.parametrize(
    ("code", "line", "said"),
    [
        (
            KafkaError._TRANSPORT,
            "127.0.0.1:1/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused (after 0ms in state CONNECT)",
            "nothing answers at 127.0.0.1:1 (Connect to ipv4#127.0.0.1:1 failed: Connection refused): look at "
            "KAFKA_BOOTSTRAP_SERVERS",
        ),
        (
            KafkaError._RESOLVE,
            "kafka:9092/bootstrap: Failed to resolve 'kafka:9092': Name or service not known (after 3ms in state CONNECT)",
            "nothing answers at kafka:9092 (Failed to resolve",
        ),
        (
            KafkaError._TRANSPORT,
            "sasl_plaintext://[::1]:9092/1: Connection setup timed out in state CONNECT (after 30002ms in state CONNECT)",
            "nothing answers at [::1]:9092 (Connection setup timed out in state CONNECT):",
        ),
        (
            KafkaError._SSL,
            "ssl://kafka:9093/bootstrap: SSL handshake failed: wrong version number (after 5ms in state SSL_HANDSHAKE)",
            "Kafka at kafka:9093 speaks otherwise (SSL handshake failed: wrong version number): look at "
            "KAFKA_SECURITY_PROTOCOL",
        ),
        (
            KafkaError._AUTHENTICATION,
            "sasl_ssl://kafka:9093/bootstrap: SASL authentication error: Authentication failed (after 8ms in state AUTH_REQ)",
            "Kafka at kafka:9093 refuses the user or its password (SASL authentication error: Authentication failed): look at "
            "KAFKA_SASL_USERNAME",
        ),
        (KafkaError._TRANSPORT, "odd", "nothing answers at its address (odd): look at"),
    ],
)
def test_the_address_and_the_reason_are_told_with_any_protocol(
    code: int, line: str, said: str
) -> None:
    """Without a scheme, as PLAINTEXT has it, too; how long it took is left out."""
    assert connection_reason(code, line).startswith(said)
