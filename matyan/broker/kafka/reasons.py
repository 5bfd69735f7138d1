"""Why a broker cannot be reached: librdkafka's lines, in words that name the setting to look at.

Fragments, for a larger sentence. What is wrong with a broker's certificate `certificates.py` finds out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from confluent_kafka import KafkaError

from matyan.broker.kafka.certificates import why_not_trusted

MOST_TELLING = (
    KafkaError._AUTHENTICATION,
    KafkaError._SSL,
    KafkaError._RESOLVE,
    KafkaError._TRANSPORT,
)
"""Of several errors of a client the first of these."""

DISCONNECTED = "Disconnected"
"""What stands in librdkafka's log line about a broker that closes the connection, as one does that speaks otherwise."""


_OWN_CERTIFICATE = frozenset(
    {"ssl.certificate.location", "ssl.certificate.pem", "ssl.keystore.location"}
)


def connection_reason(code: int, said: str, config: Mapping[str, Any] | None = None) -> str:
    """librdkafka's line about a connection, such as "ssl://kafka:9093/bootstrap: SSL handshake failed: …".

    config: the client's. It may connect once more, to see the broker's certificate.
    """
    config = config or {}
    found = re.match(r"(?:\w+://)?([^/]+)/\S+: (.*?)(?: \(after .*)?$", said, re.DOTALL)
    address, text = found.groups() if found else ("its address", said)
    if "oauthbearer" in text.lower() and "token" in text.lower():
        return (
            f"no token came from the identity provider ({text}): look at sasl.oauthbearer.… in "
            "MATYAN_KAFKA_CONFIG, and whether the provider answers"
        )
    if code == KafkaError._AUTHENTICATION:
        return _about_user(address, text, config)
    if "certificate verify failed" in text:
        return why_not_trusted(address, config) or (
            f"the certificate of Kafka at {address} is signed by nobody whom this machine trusts ({text}): add its "
            "authority to the machine's, or name it with KAFKA_SSL_CAFILE"
        )
    if "alert" in text:
        return _about_alert(address, text, config)
    if text.startswith(DISCONNECTED):
        return (
            f"Kafka at {address} closes the connection without an answer ({text}): look at KAFKA_SECURITY_PROTOCOL, and "
            "whether the broker runs"
        )
    if code == KafkaError._SSL or "SSL" in text or "listener" in text:
        return f"Kafka at {address} speaks otherwise ({text}): look at KAFKA_SECURITY_PROTOCOL"
    return f"nothing answers at {address} ({text}): look at KAFKA_BOOTSTRAP_SERVERS, and whether the broker runs"


def _about_user(address: str, text: str, config: Mapping[str, Any]) -> str:
    if "current SASL state" in text:
        return f"Kafka at {address} asks for no user ({text}): look at KAFKA_SECURITY_PROTOCOL"
    if "mechanism handshake" in text:
        return f"Kafka at {address} does not take this mechanism ({text}): look at KAFKA_SASL_MECHANISM"
    if config.get("sasl.mechanism") == "OAUTHBEARER":
        return (
            f"Kafka at {address} refuses the token ({text}): look at sasl.oauthbearer.… in MATYAN_KAFKA_CONFIG, and at the "
            "issuer and audience that the broker expects"
        )
    return (
        f"Kafka at {address} refuses the user or its password ({text}): look at KAFKA_SASL_USERNAME, "
        "KAFKA_SASL_PASSWORD and KAFKA_SASL_MECHANISM"
    )


def _about_alert(address: str, text: str, config: Mapping[str, Any]) -> str:
    """What a broker says while TLS is being set up (RFC 8446, section 6.2); of a client's certificate mostly."""
    if re.search("version|illegal parameter|insufficient|unrecognized name", text):
        return f"Kafka at {address} and this client agree on no form of TLS ({text}): look at the ssl.… properties on both sides"
    if not _OWN_CERTIFICATE.isdisjoint(config):
        return (
            f"Kafka at {address} refuses this client's certificate ({text}): look at KAFKA_SSL_CERTFILE, and whether the broker "
            "trusts who signed it"
        )
    return f"Kafka at {address} wants a client's certificate ({text}): set KAFKA_SSL_CERTFILE and KAFKA_SSL_KEYFILE"
