"""Certificates and keys that cannot be used are told before the first connection, each in a sentence of its own."""

from __future__ import annotations

from pathlib import Path

import pytest

from dev.certificates import KEY_PASSWORD, Certificates
from matyan.broker.kafka.certificates import check_certificates
from matyan.errors import ConfigurationError
from matyan.settings import load

CERT, KEY, PASSWORD = "KAFKA_SSL_CERTFILE", "KAFKA_SSL_KEYFILE", "KAFKA_SSL_KEY_PASSWORD"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates(tmp_path_factory.mktemp("tls")).make("matyan")


def check(protocol: str = "SSL", **env: object) -> None:
    given = {name: str(value) for name, value in env.items()}
    check_certificates(load({"KAFKA_SECURITY_PROTOCOL": protocol, **given}))


def refused(**env: object) -> str:
    with pytest.raises(ConfigurationError) as caught:
        check(**env)
    said = str(caught.value)
    assert "expected" in said
    assert "\n" not in said
    return said


def test_good_ones_pass(made: Certificates) -> None:
    """Apart, in one file, with an encrypted key; a password that no key asks for does no harm."""
    check()
    check(KAFKA_SSL_CAFILE=made.authority)
    check(KAFKA_SSL_CAFILE=made.folder)
    check(**{CERT: made.client, KEY: made.client_key})
    check(**{CERT: made.client, KEY: made.client_key, PASSWORD: "none asks"})
    check(**{CERT: made.client, KEY: made.locked_key, PASSWORD: KEY_PASSWORD})
    sasl = {"MECHANISM": "PLAIN", "USERNAME": "u", "PASSWORD": "p"}
    both = {f"KAFKA_SASL_{name}": value for name, value in sasl.items()}
    check("SASL_SSL", **{CERT: made.stranger, **both})


def test_each_trouble_is_a_sentence_of_its_own(made: Certificates, tmp_path: Path) -> None:
    """It names the setting and the file, and no password."""
    junk, der = tmp_path / "junk.pem", tmp_path / "client.p12"
    junk.write_text(made.client.read_text().replace("MII", "!!!", 1))
    der.write_bytes(b"0\x82\x0a\xff")
    none = tmp_path / "none"
    said = [
        refused(**{CERT: none, KEY: made.client_key}),
        refused(**{CERT: made.client, KEY: none}),
        refused(**{CERT: tmp_path, KEY: made.client_key}),
        refused(**{CERT: der, KEY: made.client_key}),
        refused(**{CERT: made.client_key, KEY: made.client_key}),
        refused(**{CERT: made.client, KEY: made.client}),
        refused(**{CERT: made.client}),
        refused(**{CERT: junk, KEY: made.client_key}),
        refused(**{CERT: made.client, KEY: made.stranger}),
        refused(**{CERT: made.client, KEY: made.locked_key}),
        refused(**{CERT: made.client, KEY: made.locked_key, PASSWORD: "sesame"}),
        refused(**{CERT: made.expired_client}),
        refused(**{KEY: made.client_key}),
        refused(**{PASSWORD: "sesame"}),
        refused(KAFKA_SSL_CAFILE=none),
        refused(KAFKA_SSL_CAFILE=made.client_key),
    ]
    wanted = [
        f"{CERT}='{none}' cannot be read (No such file",
        f"{KEY}='{none}' cannot be read (No such file",
        f"{CERT}='{tmp_path}' cannot be read (Is a directory",
        "not DER, PKCS #12",
        f"{CERT}='{made.client_key}' holds no certificate",
        f"{KEY}='{made.client}' holds no private key",
        f"{CERT}='{made.client}' holds no private key: expected the certificate's in PEM, here or in {KEY}",
        "cannot be used",
        f"{KEY}='{made.stranger}' is not the key of the certificate in {CERT}",
        f"is encrypted: expected {PASSWORD}",
        f"is not opened by {PASSWORD}",
        f"{CERT}='{made.expired_client}' has expired",
        f"expected {CERT}",
        f"expected {CERT}",
        "KAFKA_SSL_CAFILE='",
        "holds no certificate",
    ]
    for one, part in zip(said, wanted, strict=True):
        assert part in one
        assert "sesame" not in one
    assert len(set(said)) == len(said)


def test_a_certificate_that_nothing_would_use_is_told(made: Certificates) -> None:
    """Without TLS the connection would be open, and whoever set it believes otherwise."""
    for protocol in ("", "PLAINTEXT"):
        with pytest.raises(ConfigurationError, match="KAFKA_SECURITY_PROTOCOL=SSL") as caught:
            check(protocol, **{CERT: made.client, KEY: made.client_key})
        assert CERT in str(caught.value)
