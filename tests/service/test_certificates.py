"""The listener's certificate: what its files may be, and how a new one takes the place of the last."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from matyan.errors import ConfigurationError
from matyan.service.certificates import Certificates, Files, load, validity
from tests import tls


@pytest.fixture
def files(tmp_path: Path) -> Files:
    certificate, key = tls.write_pair(tmp_path)
    return Files(str(certificate), str(key), "")


def encrypt(key: Path) -> None:
    private = load_pem_private_key(key.read_bytes(), None)
    key.write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    )


def swap(certificate: Path, key: Path) -> None:
    saved = certificate.read_bytes()
    certificate.write_bytes(key.read_bytes())
    key.write_bytes(saved)


def mismatch(certificate: Path, key: Path) -> None:
    other, _ = tls.write_pair(certificate.parent, name="other")
    certificate.write_bytes(other.read_bytes())


def become_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def days_left(certificates: Certificates) -> int:
    return round((certificates.expires - time.time()) / 86_400)


DAMAGE: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "no certificate file": (lambda certificate, _: certificate.unlink(), "MATYAN_TLS_CERT_FILE"),
    "no key file": (lambda _, key: key.unlink(), "MATYAN_TLS_KEY_FILE"),
    "an empty certificate": (lambda certificate, _: certificate.write_text(""), "no certificate"),
    "an empty key": (lambda _, key: key.write_text(""), "no private key"),
    "half a certificate": (
        lambda certificate, _: certificate.write_bytes(certificate.read_bytes()[:300]),
        "no certificate",
    ),
    "half a key": (lambda _, key: key.write_bytes(key.read_bytes()[:100]), "refused by OpenSSL"),
    "a damaged certificate": (
        lambda certificate, _: certificate.write_text(
            "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"
        ),
        "refused by OpenSSL",
    ),
    "the files in each other's place": (swap, "no certificate"),
    "another's key": (mismatch, "belongs together"),
    "an encrypted key": (lambda _, key: encrypt(key), "openssl pkey"),
    "a folder": (lambda certificate, _: become_a_folder(certificate), "is no file"),
    "a device": (
        lambda _, key: (key.unlink(), key.symlink_to("/dev/zero")),
        "is no file",
    ),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_what_is_wrong_is_a_sentence(files: Files, kind: str) -> None:
    damage, words = DAMAGE[kind]
    damage(Path(files.certificate), Path(files.key))
    with pytest.raises(ConfigurationError, match=words) as caught:
        load(files)
    said = str(caught.value)
    assert "MATYAN_TLS_" in said
    assert str(Path(files.certificate).parent) in said
    assert said.endswith(".")


@pytest.mark.parametrize("text", ["", "no PEM", None])
def test_so_is_an_authority_for_clients_that_is_none(files: Files, text: str | None) -> None:
    path = Path(files.certificate).with_name("clients.pem")
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigurationError, match="MATYAN_TLS_CLIENT_CA_FILE"):
        load(files._replace(client_ca=str(path)))


def test_one_file_may_hold_both(files: Files) -> None:
    both = Path(files.certificate)
    both.write_bytes(both.read_bytes() + Path(files.key).read_bytes())
    assert load(Files(str(both), str(both), "")).is_good()


@pytest.mark.parametrize("key_type", trustme.KeyType)
@pytest.mark.parametrize("year", [1950, 1999, 2000, 2049, 2050, 9999])
def test_the_dates_are_those_that_others_read(key_type: trustme.KeyType, year: int) -> None:
    """Before 2050 they have two digits of the year."""
    until = datetime(year, 2, 28, 23, 59, 58, tzinfo=UTC)
    since = until - timedelta(days=1, seconds=7)
    leaf = trustme.CA(key_type=key_type).issue_cert(
        "x", not_before=since, not_after=until, key_type=key_type
    )
    pem = leaf.cert_chain_pems[0].bytes()
    read = x509.load_pem_x509_certificate(pem)
    assert (read.not_valid_before_utc, read.not_valid_after_utc) == (since, until)
    begins, expires = validity(ssl.PEM_cert_to_DER_cert(pem.decode()))
    assert (begins, expires) == (since.timestamp(), until.timestamp())


@pytest.mark.parametrize(
    ("days", "word"), [(-1, "expired on"), (13.9, "in 14 days"), (0.4, "in 0 days"), (15, None)]
)
def test_its_end_is_told_in_time(tmp_path: Path, days: float, word: str | None) -> None:
    certificate, key = tls.write_pair(tmp_path, days=days)
    loaded = load(Files(str(certificate), str(key), ""))
    trouble = loaded.trouble()
    assert trouble is None if word is None else word in str(trouble)
    assert loaded.is_good() is (days > 0)


# --- a new one -----------------------------------------------------------------------------------


def test_a_swap_of_links_is_seen_whatever_the_times_say(tmp_path: Path) -> None:
    """As Kubernetes does it: the files' names are links through a link to a folder, which alone changes."""
    stamp = (1_700_000_000, 1_700_000_000)
    for days in (30, 60):
        folder = tmp_path / f"..{days}"
        folder.mkdir()
        for path in tls.write_pair(folder, days=days):
            os.utime(path, stamp)
    (tmp_path / "..data").symlink_to("..30")
    for name in ("tls.crt", "tls.key"):
        (tmp_path / name).symlink_to(f"..data/{name}")
    certificates = Certificates(Files(str(tmp_path / "tls.crt"), str(tmp_path / "tls.key"), ""))
    before = certificates.context
    certificates.refresh()
    assert certificates.context is before
    (tmp_path / "..new").symlink_to("..60")
    (tmp_path / "..new").rename(tmp_path / "..data")
    certificates.refresh()
    assert certificates.context is not before
    assert days_left(certificates) == 60


def test_so_is_a_change_in_place(files: Files) -> None:
    """Of the same size, inode and time."""
    certificates = Certificates(files)
    times = [(path, os.stat(path)) for path in files[:2]]
    before = certificates.context
    tls.write_pair(Path(files.certificate).parent)
    for path, stat in times:
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    certificates.refresh()
    assert certificates.context is not before


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_broken_pair_keeps_the_last_good_one(
    files: Files, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is told once, and the next good one is taken."""
    certificates = Certificates(files)
    good = certificates.context
    DAMAGE[kind][0](Path(files.certificate), Path(files.key))
    caplog.clear()
    for _ in range(3):
        certificates.refresh()
    assert certificates.context is good
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    for path in map(Path, files[:2]):
        if path.is_dir():
            path.rmdir()
        path.unlink(missing_ok=True)
    tls.write_pair(Path(files.certificate).parent)
    certificates.refresh()
    assert certificates.context is not good


def test_a_pair_may_come_one_file_after_the_other(files: Files, tmp_path: Path) -> None:
    certificates = Certificates(files)
    (tmp_path / "new").mkdir()
    certificate, key = tls.write_pair(tmp_path / "new", days=60)
    certificate.rename(files.certificate)
    certificates.refresh()
    assert days_left(certificates) == 365
    key.rename(files.key)
    certificates.refresh()
    assert days_left(certificates) == 60
