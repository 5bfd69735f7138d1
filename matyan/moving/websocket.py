"""The client's side of a run's socket: text frames out, replies in. What is in them is not known here.

The protocol is `websockets`' Sans-I/O layer, on a trio stream.
"""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Final

import trio
from websockets.client import ClientProtocol
from websockets.exceptions import InvalidStatus
from websockets.frames import Frame, Opcode
from websockets.http11 import Response
from websockets.uri import parse_uri

from matyan.errors import Unavailable

CONNECT_S: Final = 30.0
REPLY_S: Final = 90.0
"""A frame is answered within 40 s, whatever becomes of it (contract, section 1)."""
SEND_S: Final = 90.0
_RECEIVE_BYTES: Final = 64 << 10


class HandshakeRefused(Exception):
    """The server answered with something else than 101."""

    def __init__(self, response: Response) -> None:
        super().__init__(response.status_code)
        self.response = response


class Socket:
    """An open connection; used by one task."""

    def __init__(self, stream: trio.abc.Stream, protocol: ClientProtocol) -> None:
        self._stream = stream
        self._protocol = protocol
        self._replies: deque[bytes] = deque()

    async def send(self, frame: bytes) -> None:
        """
        Raises:
            Unavailable: the connection broke.
        """
        if self._protocol.close_rcvd is not None:
            raise self._broken()
        self._protocol.send_text(frame)
        await self._flush()

    async def reply(self) -> bytes:
        """
        Raises:
            Unavailable: the connection broke, or nothing came for long.
        """
        with trio.move_on_after(REPLY_S):
            while not self._replies:
                await self._receive()
            return self._replies.popleft()
        raise Unavailable(f"No reply came for {REPLY_S:g} s.")

    async def shake_hands(self, headers: dict[str, str]) -> None:
        """
        Raises:
            HandshakeRefused: it said no.
            Unavailable: it said nothing.
        """
        request = self._protocol.connect()
        for name, value in headers.items():
            request.headers[name] = value
        self._protocol.send_request(request)
        await self._flush()
        while self._protocol.handshake_exc is None and not self._is_open():
            await self._receive()
        error = self._protocol.handshake_exc
        if isinstance(error, InvalidStatus):
            raise HandshakeRefused(error.response)
        if error is not None:
            raise Unavailable(f"What answers there speaks no WebSocket ({error}).")

    def _is_open(self) -> bool:
        return self._protocol.state.name == "OPEN"

    async def _flush(self) -> None:
        with trio.move_on_after(SEND_S) as scope:
            try:
                for data in self._protocol.data_to_send():
                    if data:
                        await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                raise self._broken() from None
        if scope.cancelled_caught:
            raise Unavailable(f"Nothing was read there for {SEND_S:g} s.")

    async def _receive(self) -> None:
        try:
            data = await self._stream.receive_some(_RECEIVE_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise self._broken() from None
        if data:
            self._protocol.receive_data(bytes(data))
        else:
            with suppress(EOFError):
                self._protocol.receive_eof()
        for event in self._protocol.events_received():
            if isinstance(event, Frame) and event.opcode is Opcode.TEXT:
                self._replies.append(bytes(event.data))
        await self._flush()
        ended = not data or self._protocol.close_rcvd is not None
        if ended and not self._replies and self._protocol.handshake_exc is None:
            raise self._broken()

    def _broken(self) -> Unavailable:
        close = self._protocol.close_rcvd
        why = "" if close is None else f" ({close.code} {close.reason})"
        return Unavailable(f"The connection ended{why}.")


@asynccontextmanager
async def connected(
    url: str, host: str, port: int, context: ssl.SSLContext | None, headers: dict[str, str]
) -> AsyncIterator[Socket]:
    """A socket whose handshake is done. url: `ws://` or `wss://`, without a credential.

    Raises:
        HandshakeRefused: the server said no.
        Unavailable: nobody answers there, or not in time.
    """
    stream: trio.abc.Stream | None = None
    try:
        with trio.move_on_after(CONNECT_S) as scope:
            try:
                stream = await trio.open_tcp_stream(host, port)
                if context is not None:
                    # Servers that end the connection without TLS's goodbye are common.
                    stream = trio.SSLStream(
                        stream, context, server_hostname=host, https_compatible=True
                    )
                    await stream.do_handshake()
            except (OSError, trio.BrokenResourceError) as error:
                raise Unavailable(f"Nobody answers at {host}:{port} ({error}).") from error
            socket = Socket(stream, ClientProtocol(parse_uri(url), max_size=1 << 20))
            await socket.shake_hands(headers)
        if scope.cancelled_caught:
            raise Unavailable(f"Nobody answers at {host}:{port} within {CONNECT_S:g} s.")
        yield socket
    finally:
        if stream is not None:
            # Everything is answered, or nothing of it will be: no goodbye is waited for.
            await trio.aclose_forcefully(stream)
