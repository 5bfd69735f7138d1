"""The certificates and keys of a connection to Kafka: whether the files can be used, asked before the first connection; and
what is wrong with a broker's certificate, of which librdkafka says only that it could not be verified.

Blocking calls. Which settings there are is `settings.py`'s, the sentences about a broker that is away are `reasons.py`'s.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from matyan.errors import ConfigurationError
from matyan.service.authorities import require_authorities
from matyan.settings import Settings

_PROBE_S = 3.0

# OpenSSL's numbers of what can be wrong with a certificate (its x509_vfy.h).
_NOT_YET_VALID: Final = 9
_EXPIRED: Final = 10
_OTHER_NAME: Final = frozenset({62, 64})
_UNKNOWN_AUTHORITY: Final = frozenset({2, 18, 19, 20, 21})
_WRONG_PURPOSE: Final = 26


def check_certificates(settings: Settings) -> None:
    """
    Raises:
        ConfigurationError: a file cannot be used; names the setting.
    """
    require_authorities("KAFKA_SSL_CAFILE", settings.kafka_ssl_cafile)
    given = {
        "KAFKA_SSL_CERTFILE": settings.kafka_ssl_certfile,
        "KAFKA_SSL_KEYFILE": settings.kafka_ssl_keyfile,
        "KAFKA_SSL_KEY_PASSWORD": settings.kafka_ssl_key_password,
    }
    names = [name for name, value in given.items() if value]
    if not names:
        return
    if "SSL" not in settings.kafka_security_protocol:
        raise ConfigurationError(
            f"{' and '.join(names)} is set, and nothing would use it: expected KAFKA_SECURITY_PROTOCOL=SSL or SASL_SSL, too."
        )
    if not settings.kafka_ssl_certfile:
        raise ConfigurationError(
            f"{' and '.join(names)} is set: expected KAFKA_SSL_CERTFILE, the certificate of that key, to be set, too."
        )
    _check_own(
        settings.kafka_ssl_certfile,
        settings.kafka_ssl_keyfile,
        settings.kafka_ssl_key_password.reveal(),
    )


def _check_own(certificate: str, key: str, password: str) -> None:
    of_certificate = f"KAFKA_SSL_CERTFILE={certificate!r}"
    of_key = f"KAFKA_SSL_KEYFILE={key!r}" if key else of_certificate
    if b"-----BEGIN CERTIFICATE-----" not in _content(of_certificate, certificate):
        raise ConfigurationError(
            f"{of_certificate} holds no certificate: expected this client's in PEM (not DER, PKCS #12 or a Java keystore)."
        )
    if b"PRIVATE KEY-----" not in _content(of_key, key or certificate):
        raise ConfigurationError(
            f"{of_key} holds no private key: expected the certificate's in PEM"
            + ("." if key else ", here or in KAFKA_SSL_KEYFILE.")
        )
    was_asked = False

    def tell() -> str:
        nonlocal was_asked
        was_asked = True
        return password

    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key or None, tell)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or "it is damaged"
        if reason == "KEY_VALUES_MISMATCH":
            why = "is not the key of the certificate in KAFKA_SSL_CERTFILE: expected the two that belong together"
        elif was_asked and not password:
            why = "is encrypted: expected KAFKA_SSL_KEY_PASSWORD to be set"
        elif was_asked:
            why = "is not opened by KAFKA_SSL_KEY_PASSWORD: expected the password that it was encrypted with"
        else:
            why = f"or its certificate cannot be used ({reason}): expected both in PEM"
        raise ConfigurationError(f"{of_key} {why}.") from None
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.load_cert_chain(certificate, key or None, tell)
    trouble = _why_no_client(server, client, certificate)
    if trouble is not None:
        raise ConfigurationError(f"{of_certificate} {trouble}.")


def _content(setting: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigurationError(
            f"{setting} cannot be read ({error.strerror}): expected a file in PEM that this user may read."
        ) from None


def _why_no_client(server: ssl.SSLContext, client: ssl.SSLContext, certificate: str) -> str | None:
    """Why nobody would take the certificate from a client, by a handshake in memory with somebody who trusts it."""
    server.verify_mode = ssl.CERT_REQUIRED
    server.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    server.load_verify_locations(certificate)
    there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        server.wrap_bio(there, back, server_side=True),
        client.wrap_bio(back, there),
    )
    for _ in range(4):
        for side in sides:
            try:
                side.do_handshake()
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLCertVerificationError as error:
                return _CLIENTS.get(error.verify_code)
            except ssl.SSLError:
                return None
    return None


_CLIENTS: Final[Mapping[int, str]] = {
    _EXPIRED: "has expired: expected a certificate that is valid now (or this machine's clock is wrong)",
    _NOT_YET_VALID: "is not valid yet: expected a certificate that is valid now (or this machine's clock is wrong)",
    _WRONG_PURPOSE: "is not for a client (its extended key usage): expected one with clientAuth",
}


def why_not_trusted(address: str, config: Mapping[str, Any]) -> str | None:
    """What is wrong with the certificate that the broker at `address` (HOST:PORT) shows, by a handshake of our own.

    config: of any client. None: nothing, or it cannot be told.
    """
    host, _, port = address.rpartition(":")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if config.get("ssl.endpoint.identification.algorithm") == "none":
        context.check_hostname = False
    authorities = config.get("ssl.ca.location")
    try:
        if "ssl.ca.pem" in config:
            context.load_verify_locations(cadata=config["ssl.ca.pem"])
        elif authorities:
            is_folder = Path(authorities).is_dir()
            context.load_verify_locations(**{"capath" if is_folder else "cafile": authorities})
        else:
            context.load_default_certs()
        with (
            socket.create_connection((host.strip("[]"), int(port)), _PROBE_S) as plain,
            context.wrap_socket(plain, server_hostname=host.strip("[]")),
        ):
            return None
    except ssl.SSLCertVerificationError as error:
        return _about_server(error, address)
    except (OSError, ValueError):
        return None


def _about_server(error: ssl.SSLCertVerificationError, address: str) -> str:
    said = error.verify_message.rstrip(".")
    code = error.verify_code
    if code in (_EXPIRED, _NOT_YET_VALID):
        what = "has expired" if code == _EXPIRED else "is not valid yet"
        return (
            f"the certificate of Kafka at {address} {what}: it is the broker's to be renewed (its keystore; KAFKA_SSL_CAFILE "
            "is right), or this machine's clock is wrong"
        )
    if code in _OTHER_NAME:
        return (
            f"the certificate of Kafka at {address} is for another name ({said}): use in KAFKA_BOOTSTRAP_SERVERS, and in the "
            "brokers' advertised.listeners, the names that it was made for"
        )
    if code in _UNKNOWN_AUTHORITY:
        return (
            f"the certificate of Kafka at {address} is signed by nobody whom this machine trusts ({said}): add its "
            "authority to the machine's, or name it with KAFKA_SSL_CAFILE"
        )
    return (
        f"the certificate of Kafka at {address} is not accepted ({said}): look at KAFKA_SSL_CAFILE"
    )
