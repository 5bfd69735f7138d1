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
        (
            KafkaError._TRANSPORT,
            "kafka:9092/bootstrap: Disconnected: connection closed by peer: receive 0 after POLLIN (after 4ms in state APIVERSION_QUERY)",
            "Kafka at kafka:9092 closes the connection without an answer (Disconnected: connection closed by peer: receive 0 "
            "after POLLIN): look at KAFKA_SECURITY_PROTOCOL",
        ),
        (
            KafkaError._TRANSPORT,
            "ssl://kafka:9093/bootstrap: Receive failed: error:0A000412:SSL routines::ssl/tls alert bad certificate: SSL alert number 42 (after 3ms in state APIVERSION_QUERY)",
            "Kafka at kafka:9093 wants a client's certificate (",
        ),
        (
            KafkaError._SSL,
            "ssl://kafka:9093/bootstrap: SSL handshake failed: error:0A00042E:SSL routines::tlsv1 alert protocol version: SSL alert number 70 (after 3ms in state SSL_HANDSHAKE)",
            "Kafka at kafka:9093 and this client agree on no form of TLS (",
        ),
        (
            KafkaError._AUTHENTICATION,
            "Failed to acquire SASL OAUTHBEARER token: refused",
            "no token came from the identity provider (",
        ),
    ],
)
def test_the_address_and_the_reason_are_told_with_any_protocol(
    code: int, line: str, said: str
) -> None:
    """Without a scheme, as PLAINTEXT has it, too; how long it took is left out."""
    assert connection_reason(code, line).startswith(said)


def test_a_token_that_is_refused_is_no_wrong_password() -> None:
    said = connection_reason(
        KafkaError._AUTHENTICATION,
        'sasl_ssl://kafka:9093/1: SASL authentication error: {"status":"invalid_token"} (after 8ms in state AUTH_REQ)',
        {"sasl.mechanism": "OAUTHBEARER"},
    )
    assert said.startswith("Kafka at kafka:9093 refuses the token (")
    assert "MATYAN_KAFKA_CONFIG" in said
    assert "PASSWORD" not in said
