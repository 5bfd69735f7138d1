"""A private authority and the certificates that it gives: for servers, and for the clients that trust it."""

from __future__ import annotations

import atexit
import shutil
import socket
import ssl
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import trio
import trustme

from matyan.service.tls import RECORD_BYTES, TlsSocket, TlsStream


@cache
def authority() -> trustme.CA:
    return trustme.CA()


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="matyan-tls-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def write_pair(folder: Path, *, days: float = 365, name: str = "tls") -> tuple[Path, Path]:
    """A new certificate for this machine and its key, as files of `folder`."""
    leaf = authority().issue_cert(
        "127.0.0.1", "localhost", not_after=datetime.now(UTC) + timedelta(days=days)
    )
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    certificate.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    return certificate, key


def write_client(folder: Path, authority: trustme.CA, name: str = "client") -> Path:
    """A client's certificate with its key, as one file of `folder`."""
    path = folder / f"{name}.pem"
    leaf = authority.issue_cert("client.example")
    leaf.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@cache
def authority_file() -> Path:
    """What a client must trust, as SSL_CERT_FILE has it."""
    path = _folder() / "ca.pem"
    authority().cert_pem.write_to_path(path)
    return path


@cache
def server_settings() -> dict[str, str]:
    """The fields of Settings for a listener under TLS."""
    certificate, key = write_pair(_folder())
    return {"tls_cert_file": str(certificate), "tls_key_file": str(key)}


def server_environment() -> dict[str, str]:
    """The same as variables."""
    return {f"MATYAN_{name.upper()}": value for name, value in server_settings().items()}


@cache
def client_context() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=authority_file())


def hello() -> bytes:
    """A client's first message."""
    outgoing = ssl.MemoryBIO()
    tls = client_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="127.0.0.1")
    with suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return outgoing.read()


async def client(
    transport: trio.SocketStream, context: ssl.SSLContext | None = None, name: str = "127.0.0.1"
) -> TlsStream:
    """A client's end of a connection that can do all that a plain one can: trio's own SSLStream reads no more once a send has failed."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = (context or client_context()).wrap_bio(incoming, outgoing, server_hostname=name)
    while True:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        else:
            break
        finally:
            await transport.send_all(outgoing.read())
        data = await transport.receive_some(RECORD_BYTES)
        if not data:
            raise trio.BrokenResourceError("the server ended the handshake")
        incoming.write(data)
    await transport.send_all(outgoing.read())
    plain = socket.socket(fileno=transport.socket.detach())
    plain.setblocking(False)
    sock = TlsSocket(plain, tls, incoming, outgoing)
    return TlsStream(sock, sock.decrypt(), has_certificate=True)
