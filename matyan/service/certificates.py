"""The listener's certificate: its files become an SSLContext, and do so again whenever they change.

A pair that is broken or half written never takes the place of the last good one. What is done with the context is `tls.py`'s.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple, NoReturn

import trio

from matyan.errors import ConfigurationError
from matyan.service import telemetry
from matyan.service.logs import get_logger
from matyan.settings import Settings

log = get_logger()

CHECK_S = 5.0
"""How often the files are looked at. Their bytes are compared: a swap of a symbolic link, as Kubernetes makes it, may change neither
name nor time."""
SOON_S = 14 * 86_400
"""A certificate that expires within this time should have been renewed: authorities that give 90 days do it 30 before."""
_DAY_S = 86_400
_FILE_BYTES: Final = 1 << 20
"""More is no chain of certificates, whatever it is."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----", re.DOTALL)
_KEY = re.compile(r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----")


class Files(NamedTuple):
    """PEM files, by the settings that name them."""

    certificate: str
    key: str
    client_ca: str
    """Empty: clients show no certificates."""


class Loaded(NamedTuple):
    """One good state of the files."""

    context: ssl.SSLContext
    begins: float
    """Epoch seconds from which the certificate is good."""
    expires: float
    """Epoch seconds until which it is."""

    @property
    def until(self) -> str:
        """`expires`, for a person."""
        return _date(self.expires)

    def is_good(self) -> bool:
        """Whether clients take it, as far as its dates go."""
        return self.begins <= time.time() <= self.expires

    def trouble(self) -> str | None:
        """What is wrong with its dates, or will be soon: a sentence."""
        now = time.time()
        if now < self.begins:
            return f"The certificate is not good before {_date(self.begins)}: clients refuse it. Is this machine's clock right?"
        if now > self.expires:
            return f"The certificate expired on {self.until}: clients refuse it. Renew it."
        if now > self.expires - SOON_S:
            return f"The certificate expires on {self.until}, in {(self.expires - now) / _DAY_S:.0f} days: renew it."
        return None


class Certificates:
    """The files of one process and their last good state.

    Raises:
        ConfigurationError: a file is missing, or is not what its setting says.
    """

    def __init__(self, files: Files) -> None:
        self._files = files
        self._seen = _digest(files)
        self._use(load(files))

    @property
    def context(self) -> ssl.SSLContext:
        """For the next handshake; connections go on with the one that theirs had."""
        return self._loaded.context

    @property
    def expires(self) -> float:
        """Epoch seconds until which the certificate at hand is good."""
        return self._loaded.expires

    @property
    def asks_clients(self) -> bool:
        """Whether clients have to show a certificate."""
        return bool(self._files.client_ca)

    async def watch(self) -> NoReturn:
        """Follows the files until it is cancelled."""
        while True:
            await trio.sleep(CHECK_S)
            await trio.to_thread.run_sync(self.refresh)

    def refresh(self) -> None:
        """Reads the files if they have changed. What is wrong with them is told once."""
        # Before they are loaded: what changes meanwhile is seen the next time.
        seen = _digest(self._files)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            self._use(load(self._files))
        except ConfigurationError as error:
            log.warning("keeps the certificate that it has", reason=str(error))
        else:
            log.info("took the new certificate", expires=self._loaded.until)

    def _use(self, loaded: Loaded) -> None:
        self._loaded = loaded
        telemetry.TLS_EXPIRES.labels(self._files.certificate).set(loaded.expires)
        if (trouble := loaded.trouble()) is not None:
            log.warning(trouble)


def files_of(settings: Settings) -> Files | None:
    """None: the listener speaks without TLS."""
    if not settings.tls_cert_file:
        return None
    return Files(settings.tls_cert_file, settings.tls_key_file, settings.tls_client_ca_file)


def load(files: Files) -> Loaded:
    """Reads the files.

    Raises:
        ConfigurationError: names the setting, and what to do.
    """
    found = _CERTIFICATE.search(_text("MATYAN_TLS_CERT_FILE", files.certificate))
    if found is None:
        raise ConfigurationError(
            f"MATYAN_TLS_CERT_FILE={files.certificate} holds no certificate: expected PEM, this server's own first, then those "
            "between it and its authority."
        )
    if not _KEY.search(_text("MATYAN_TLS_KEY_FILE", files.key)):
        raise ConfigurationError(
            f"MATYAN_TLS_KEY_FILE={files.key} holds no private key: expected PEM, the key of the certificate."
        )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # Ciphers and curves are OpenSSL's affair, which its updates look after.
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])

    def refuse() -> str:
        # Without this, OpenSSL asks at the terminal.
        raise ConfigurationError(
            f"MATYAN_TLS_KEY_FILE={files.key} is encrypted, and no password is taken for it: decrypt it "
            f"(openssl pkey -in {files.key} -out FILE) and keep the file readable for this user alone."
        )

    try:
        context.load_cert_chain(files.certificate, files.key, password=refuse)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise ConfigurationError(
                f"MATYAN_TLS_KEY_FILE={files.key} is not the key of MATYAN_TLS_CERT_FILE={files.certificate}: name a pair that "
                "belongs together, the server's own certificate first in its file."
            ) from None
        raise ConfigurationError(
            f"MATYAN_TLS_CERT_FILE={files.certificate} with MATYAN_TLS_KEY_FILE={files.key} is refused by OpenSSL "
            f"({_reason(error)}): issue both anew."
        ) from None
    except OSError as error:
        raise _unreadable("MATYAN_TLS_CERT_FILE", files.certificate, error) from None
    if files.client_ca:
        _ask_clients(context, files.client_ca)
    begins, expires = validity(ssl.PEM_cert_to_DER_cert(found[0]))
    return Loaded(context, begins, expires)


def _ask_clients(context: ssl.SSLContext, path: str) -> None:
    if not _CERTIFICATE.search(_text("MATYAN_TLS_CLIENT_CA_FILE", path)):
        raise ConfigurationError(
            f"MATYAN_TLS_CLIENT_CA_FILE={path} holds no certificate: expected PEM, the authorities that clients' certificates are "
            "signed by."
        )
    try:
        context.load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigurationError(
            f"MATYAN_TLS_CLIENT_CA_FILE={path} is refused by OpenSSL ({_reason(error)}): write it anew."
        ) from None
    except OSError as error:
        raise _unreadable("MATYAN_TLS_CLIENT_CA_FILE", path, error) from None
    # One that is shown must be good; one that shows none is refused with a sentence, but for its health checks (`edge.py`).
    context.verify_mode = ssl.CERT_OPTIONAL


def _text(setting: str, path: str) -> str:
    try:
        if not Path(path).is_file() and Path(path).exists():
            raise ConfigurationError(f"{setting}={path} is no file: name a PEM file.")
        with open(path, "rb") as file:
            return file.read(_FILE_BYTES).decode("latin-1")
    except (OSError, ValueError) as error:
        raise _unreadable(setting, path, error) from None


def _unreadable(setting: str, path: str, error: OSError | ValueError) -> ConfigurationError:
    reason = getattr(error, "strerror", None) or error
    return ConfigurationError(
        f"{setting}={path} cannot be read ({reason}): name a file that is there, and let this user read it."
    )


def _reason(error: ssl.SSLError) -> str:
    return (error.reason or str(error)).replace("_", " ").lower()


def _digest(files: Files) -> tuple[str, ...]:
    """Of what stands in the files, or why they cannot be read."""

    def digest(setting: str, path: str) -> str:
        try:
            return hashlib.sha256(_text(setting, path).encode("latin-1")).hexdigest()
        except ConfigurationError as error:
            return str(error)

    return tuple(digest("", path) for path in files if path)


def _date(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%d %H:%M UTC")


# --- DER -----------------------------------------------------------------------------------------

_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17


def validity(der: bytes) -> tuple[float, float]:
    """Epoch seconds from which and until which a certificate is good (RFC 5280, 4.1): the `ssl` module shows the dates of a
    peer's certificate only. One that OpenSSL has taken is well-formed."""
    _, at, _ = _element(der, 0)  # Certificate
    _, at, _ = _element(der, at)  # TBSCertificate
    tag, _, end = _element(der, at)
    if tag == _VERSION:  # left out by version 1
        at = end
    for _ in ("serialNumber", "signature", "issuer"):
        _, _, at = _element(der, at)
    _, at, _ = _element(der, at)
    times = []
    for _ in ("notBefore", "notAfter"):
        tag, start, at = _element(der, at)
        text = der[start:at].decode("ascii")
        if tag == _UTC_TIME:
            text = f"{'20' if text < '50' else '19'}{text}"
        times.append(datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp())
    return times[0], times[1]


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """The tag of the element at `at`, where its content begins and where it ends (X.690, 8.1)."""
    length, start = der[at + 1], at + 2
    if length & 0x80:
        wide = length & 0x7F
        length, start = int.from_bytes(der[start : start + wide]), start + wide
    return der[at], start, start + length
