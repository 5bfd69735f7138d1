"""Connections under TLS: the handshake, and the socket and the stream that come out of it, to be used as plain ones are.

OpenSSL works on memory here, never on the descriptor: so whoever waits for the descriptor misses nothing that OpenSSL has taken
already, and what it wants to say by itself never makes a read wait for a write. Certificates are `certificates.py`'s, HTTP is the
caller's.
"""

from __future__ import annotations

import os
import socket
import ssl
from contextlib import suppress
from errno import ENOBUFS
from typing import Final

import trio
from trio.lowlevel import notify_closing, wait_readable, wait_writable

HANDSHAKE_S = 10.0
"""A handshake must be complete within this time; a new connection may say nothing for as long."""
HANDSHAKE_RECORD: Final = 0x16
"""The first byte of whoever speaks TLS (RFC 8446, 5.1)."""
RECORD_BYTES: Final = 16 << 10
"""The most that a record holds."""
TAKEN_BYTES: Final = 34 << 10
"""OpenSSL gets no more at once, since its memory keeps the size that it once had: two records with all that is around them, in which
most frames of a hundred messages fit."""
UNSENT_BYTES: Final = 64 << 10
"""A peer that makes OpenSSL answer (to key updates) and does not read is cut off when so much waits for it."""

PlainSocket = socket.socket

_handshakes = trio.CapacityLimiter(max(1, (os.cpu_count() or 2) // 2))
"""Threads that work on handshakes. One costs up to some milliseconds of CPU: the loop goes on meanwhile, and half of the cores are
left to it and to the store."""


class TlsSocket:
    """A non-blocking socket under TLS, with those calls of a plain one that the lane makes: the same results and errors.

    Whatever breaks the TLS of a connection is its end, as a reset is a plain one's.
    """

    __slots__ = ("_ended", "_incoming", "_outgoing", "_sock", "_taken", "_tls", "_unsent")

    def __init__(
        self,
        sock: socket.socket,
        tls: ssl.SSLObject,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
    ) -> None:
        self._sock = sock
        self._tls = tls
        self._incoming = incoming
        self._outgoing = outgoing
        self._ended = False
        # Encrypted, and not yet taken by the kernel; and what of the next `send` is in there already.
        self._unsent = b""
        self._taken = 0

    @property
    def plain(self) -> socket.socket:
        """The socket below, for its addresses."""
        return self._sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        """What has come; b"" at the end. Of the encrypted bytes it takes `size` at most, and returns all that they complete: a
        record more than `size`, then.

        Raises:
            BlockingIOError: nothing yet.
            OSError: the connection broke.
        """
        if self._ended:
            return b""
        data = self._sock.recv(size)
        if not data:
            return b""
        if len(data) <= TAKEN_BYTES:
            self._incoming.write(data)
            plain = self.decrypt()
        else:
            view = memoryview(data)
            pieces = []
            for at in range(0, len(data), TAKEN_BYTES):
                self._incoming.write(view[at : at + TAKEN_BYTES])
                pieces.append(self.decrypt())
            plain = b"".join(pieces)
        if self._outgoing.pending:
            self._flush()
            if len(self._unsent) > UNSENT_BYTES:
                raise OSError(ENOBUFS, "the peer does not read what it makes OpenSSL say")
        if plain or self._ended:
            return plain
        raise BlockingIOError

    def decrypt(self) -> bytes:
        """Of what was taken in, all that is complete."""
        incoming, read = self._incoming, self._tls.read
        plain = b""
        while incoming.pending and not self._ended:
            try:
                piece = read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                break
            except ssl.SSLError:
                piece = b""
            if not piece:
                self._end()
            plain = plain + piece if plain else piece
        return plain

    def _end(self) -> None:
        """The peer said its last word, or none that is understood."""
        self._ended = True
        # So that the descriptor becomes readable again, as at a plain socket's end: the peer need not close it.
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RD)

    def send(self, data: bytes | bytearray | memoryview) -> int:
        """How many bytes of `data` the kernel has, encrypted.

        Raises:
            BlockingIOError: it would take no more: call again with the same bytes in front.
            OSError: the connection broke.
        """
        if self._unsent or self._taken:
            if not self._flush():
                raise BlockingIOError
            taken, self._taken = self._taken, 0
            if taken:
                return taken
        taken = self._tls.write(data if len(data) <= RECORD_BYTES else data[:RECORD_BYTES])
        if not self._flush():
            self._taken = taken
            raise BlockingIOError
        return taken

    def _flush(self) -> bool:
        """Sends what is encrypted; False: the kernel did not take all of it."""
        unsent = self._unsent + self._outgoing.read() if self._unsent else self._outgoing.read()
        if unsent:
            try:
                sent = self._sock.send(unsent)
            except BlockingIOError:
                sent = 0
            self._unsent = unsent[sent:]
        return not self._unsent

    def shutdown(self, how: int) -> None:
        """Ends the sending side, with TLS's goodbye before TCP's.

        Raises:
            OSError: the connection broke.
        """
        self._say_goodbye()
        self._sock.shutdown(how)

    def close(self) -> None:
        if self._sock.fileno() != -1:
            with suppress(OSError):
                self._say_goodbye()
            self._sock.close()

    def _say_goodbye(self) -> None:
        """A few bytes: where they find no room, the peer does not read, and TCP's end has to do."""
        with suppress(ssl.SSLError):  # the peer's goodbye is not waited for
            self._tls.unwrap()
        self._flush()


class TlsStream(trio.abc.HalfCloseableStream):
    """A connection under TLS for whoever awaits: what `trio.SocketStream` is on a plain socket.

    Args:
        early: what came behind the handshake.
    """

    def __init__(self, sock: TlsSocket, early: bytes, *, has_certificate: bool) -> None:
        self._sock = sock
        self._early = early
        self._is_detached = False
        self.has_certificate = has_certificate
        """Whether the client has shown one that is signed by an authority for clients."""

    @property
    def socket(self) -> PlainSocket:
        """The plain one below, for its addresses."""
        return self._sock.plain

    def detach(self) -> TlsSocket:
        """The socket for somebody else, who closes it; what was received is the caller's."""
        self._is_detached = True
        return self._sock

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As `trio.SocketStream` does, but up to a record more than `max_bytes`."""
        await trio.lowlevel.checkpoint()
        if self._early:
            early, self._early = self._early, b""
            return early
        while True:
            self._check_open()
            try:
                return self._sock.recv(max_bytes or RECORD_BYTES)
            except BlockingIOError:
                await wait_readable(self._sock)
            except OSError as error:
                raise trio.BrokenResourceError from error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await trio.lowlevel.checkpoint_if_cancelled()
        with memoryview(data) as view:
            at = 0
            while at < len(view):
                self._check_open()
                try:
                    at += self._sock.send(view[at : at + RECORD_BYTES])
                except BlockingIOError:
                    await wait_writable(self._sock)
                except OSError as error:
                    raise trio.BrokenResourceError from error
        await trio.lowlevel.cancel_shielded_checkpoint()

    async def wait_send_all_might_not_block(self) -> None:
        self._check_open()
        await wait_writable(self._sock)

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_open()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        if not self._is_detached and self._sock.fileno() != -1:
            notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()

    def _check_open(self) -> None:
        if self._is_detached or self._sock.fileno() == -1:
            raise trio.ClosedResourceError


async def shake_hands(transport: trio.SocketStream, context: ssl.SSLContext) -> TlsStream:
    """Answers a client's handshake; afterwards the stream has the connection, and `transport` no more.

    Raises:
        ssl.SSLError: the two cannot agree; the client was told by an alert.
        trio.BrokenResourceError: the peer has gone.
        trio.ClosedResourceError: somebody closed `transport` meanwhile.
    """
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_side=True)
    done = False
    while not done:
        data = await transport.receive_some(RECORD_BYTES)
        if not data:
            raise trio.BrokenResourceError("the peer ended its handshake")
        incoming.write(data)
        failure: ssl.SSLError | None = None
        try:
            await trio.to_thread.run_sync(tls.do_handshake, limiter=_handshakes)
            done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            failure = error
        if outgoing.pending:
            await transport.send_all(outgoing.read())
        if failure is not None:
            raise failure
    if transport.socket.fileno() == -1:
        raise trio.ClosedResourceError
    plain = socket.socket(fileno=transport.socket.detach())
    plain.setblocking(False)
    sock = TlsSocket(plain, tls, incoming, outgoing)
    certificate = tls.getpeercert(binary_form=True)
    return TlsStream(sock, sock.decrypt(), has_certificate=certificate is not None)


Stream = trio.SocketStream | TlsStream


def take_socket(stream: Stream) -> socket.socket | TlsSocket:
    """The stream's socket, non-blocking, for somebody else, who closes it."""
    if isinstance(stream, TlsStream):
        return stream.detach()
    sock = socket.socket(fileno=stream.socket.detach())
    sock.setblocking(False)
    return sock
