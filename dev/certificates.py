"""Certificates for servers on loopback: an authority of its own, a server's, a client's, and those that must be refused.

PEM files in a folder, made once (trustme, of the development packages; keytool would take a second for each). The keys are
not encrypted but for the one that says so.
"""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

KEY_PASSWORD = "locked-456"
"""Of `Certificates.locked_key`."""

TOKEN_KEY_ID = "one"
"""Of `Certificates.token_key`."""


@dataclass(frozen=True, slots=True)
class Certificates:
    """The files in `folder`; what is not there yet is made by `make`."""

    folder: Path

    @property
    def authority(self) -> Path:
        """The certificate of the authority that signed all others here but `stranger`."""
        return self.folder / "ca.pem"

    @property
    def server(self) -> Path:
        """A server's for 127.0.0.1 and localhost: key and certificates in one file."""
        return self.folder / "server.pem"

    @property
    def expired_server(self) -> Path:
        return self.folder / "expired-server.pem"

    @property
    def misnamed_server(self) -> Path:
        """One for kafka.example."""
        return self.folder / "misnamed-server.pem"

    @property
    def client(self) -> Path:
        return self.folder / "client.pem"

    @property
    def client_key(self) -> Path:
        return self.folder / "client-key.pem"

    @property
    def locked_key(self) -> Path:
        """`client_key`, encrypted with KEY_PASSWORD."""
        return self.folder / "client-key-locked.pem"

    @property
    def expired_client(self) -> Path:
        """Key and certificate in one file."""
        return self.folder / "expired-client.pem"

    @property
    def stranger(self) -> Path:
        """A client that another authority has signed: key and certificate in one file."""
        return self.folder / "stranger.pem"

    @property
    def strange_authority(self) -> Path:
        """The authority of `stranger`."""
        return self.folder / "strange-ca.pem"

    @property
    def token_key(self) -> Path:
        """What signs the tokens of an identity provider (RS256, RFC 7518)."""
        return self.folder / "token-key.pem"

    @property
    def token_keys(self) -> Path:
        """The other half of it, as the provider publishes it (a JWK set, RFC 7517)."""
        return self.folder / "token-keys.json"

    def make(self, client: str) -> Certificates:
        """Writes what is missing; `client`: the common name of the client's certificates."""
        if self.authority.exists():
            return self
        self.folder.mkdir(parents=True, exist_ok=True)
        ours, strange = trustme.CA(organization_name="matyan"), trustme.CA()
        gone = datetime.now(UTC) - timedelta(days=1)
        here = ("127.0.0.1", "localhost")
        _write_both(self.server, ours.issue_cert(*here))
        _write_both(self.expired_server, ours.issue_cert(*here, not_after=gone))
        _write_both(self.misnamed_server, ours.issue_cert("kafka.example"))
        _write_both(self.expired_client, _for_client(ours, client, gone))
        _write_both(self.stranger, _for_client(strange, client))
        strange.cert_pem.write_to_path(self.strange_authority)
        own = _for_client(ours, client)
        _write(self.client, _chain(own))
        _write(self.client_key, _key(own))
        _write(self.locked_key, _key(own, KEY_PASSWORD))
        self._make_token_key()
        # The last one: where it is, the others are.
        ours.cert_pem.write_to_path(self.authority)
        return self

    def _make_token_key(self) -> None:
        key = rsa.generate_private_key(65_537, 2_048)
        _write(
            self.token_key,
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        )
        numbers = key.public_key().public_numbers()
        jwk = {"kty": "RSA", "kid": TOKEN_KEY_ID, "alg": "RS256", "use": "sig"}
        jwk |= {"n": _base64url(numbers.n), "e": _base64url(numbers.e)}
        _write(self.token_keys, json.dumps({"keys": [jwk]}).encode())


def _base64url(number: int) -> str:
    raw = number.to_bytes((number.bit_length() + 7) // 8)
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _for_client(
    authority: trustme.CA, name: str, not_after: datetime | None = None
) -> trustme.LeafCert:
    return authority.issue_cert(f"{name}@matyan.example", common_name=name, not_after=not_after)


def _chain(leaf: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in leaf.cert_chain_pems)


def _key(leaf: trustme.LeafCert, password: str = "") -> bytes:
    """In PKCS #8, the one form that Kafka's broker reads."""
    key = load_pem_private_key(leaf.private_key_pem.bytes(), None)
    lock = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def _write_both(path: Path, leaf: trustme.LeafCert) -> None:
    _write(path, _key(leaf) + _chain(leaf))


def _write(path: Path, text: bytes) -> None:
    path.touch(0o600)
    path.write_bytes(text)
