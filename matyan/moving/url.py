"""A target at a URL: an embedded tracker, a frontier of ours over Kafka, or the reference's. Through the wire protocol alone: the socket,
presign and PUT; where it answers readers' questions too, it is asked what has come.
"""

from __future__ import annotations

import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from dataclasses import replace
from functools import partial
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import Any, Final
from urllib.parse import quote, urlsplit

import trio

from matyan.errors import ConfigurationError, MatyanError, NotFound, Unavailable
from matyan.moving import websocket
from matyan.moving.moved import MovedBlob
from matyan.moving.target import Connection, Refused, Standing, standing_of
from matyan.reader.remote import RefusedByServer, RemoteReader, Server, trusting

_PRESIGN: Final = "/api/v1/rest/artifacts/presign"
_JSON: Final = "application/json"
_UPLOAD_SILENCE_S: Final = 120.0
_TOLD_BYTES: Final = 4096
_PIECE_BYTES: Final = 256 << 10
_TYPE_BYTES: Final = 255
_UNKNOWN: Final = "application/octet-stream"


class UrlTarget:
    """Where a URL leads, http://[NAME:TOKEN@]HOST:PORT."""

    def __init__(self, url: str) -> None:
        self._server = server = Server(url)
        self._reader = RemoteReader(server)
        scheme = "wss" if server.secure else "ws"
        self._base = f"{scheme}{server.name[server.name.index(':') :]}"
        self._context: ssl.SSLContext | None = None
        self.can_tell = False

    def __str__(self) -> str:
        return self._server.name

    async def open(self) -> None:
        """As `Target.open`."""
        if self._server.secure:
            self._context = trusting()
        try:
            await trio.to_thread.run_sync(self._ask_nothing, abandon_on_cancel=True)
        except RefusedByServer as refused:
            # A frontier answers no questions, and a token for writing alone may ask none.
            if refused.status == 401 or 300 <= refused.status < 400:
                raise
        else:
            self.can_tell = True

    def _ask_nothing(self) -> None:
        """Whether it answers readers' questions, by one that costs nothing."""
        for _ in self._reader.find([]):
            pass

    @asynccontextmanager
    async def connect(self, run: str) -> AsyncIterator[Connection]:
        """As `Target.connect`."""
        server = self._server
        url = f"{self._base}/api/v1/ws/runs/{quote(run, safe='')}"
        headers = {
            name: value
            for name, value in server.headers.items()
            if name in ("Authorization", "User-Agent")
        }
        try:
            async with websocket.connected(
                url, server.host, server.port, self._context, headers
            ) as socket:
                yield socket
        except websocket.HandshakeRefused as refused:
            response = refused.response
            raise self._refusal(response.status_code, bytes(response.body or b"")) from None

    def _refusal(self, status: int, body: bytes) -> MatyanError:
        said = _sentence(body, status)
        if status == 401:
            return ConfigurationError(
                f"{self} lets nobody in: write the URL as http://NAME:TOKEN@HOST:PORT, with a token of the scope write."
            )
        if status in (429, 502, 503, 504):
            return Unavailable(said)
        if status == 403:
            return ConfigurationError(f"{self} refuses: {said.removesuffix('.')}.")
        return ConfigurationError(
            f"What answers at {self} with {status} takes no runs: see to the URL, which is that of a tracker or a frontier."
        )

    async def standing(self, run: str) -> Standing | None:
        """As `Target.standing`."""
        return await trio.to_thread.run_sync(self._standing, run, abandon_on_cancel=True)

    def _standing(self, run: str) -> Standing | None:
        return standing_of(self._reader, run)

    async def put(self, run: str, blob: MovedBlob) -> None:
        """As `Target.put`."""
        put = self._put if blob.size is not None else self._put_spooled
        await trio.to_thread.run_sync(put, run, blob, abandon_on_cancel=True)

    def _put_spooled(self, run: str, blob: MovedBlob) -> None:
        """An upload says its length before it begins."""
        with tempfile.TemporaryFile() as file:
            for piece in blob.open():
                file.write(piece)
            size = file.tell()
            file.seek(0)
            pieces = iter(partial(file.read, _PIECE_BYTES), b"")
            self._put(run, replace(blob, size=size, open=lambda: pieces))

    def _put(self, run: str, blob: MovedBlob) -> None:
        kind = _header(blob.content_type)
        asked = {"run_id": run, "artifact_path": blob.path, "content_type": kind}
        with closing(self._server.connect()) as connection:
            try:
                response, _ = self._server.request(connection, "POST", _PRESIGN, asked, _JSON)
                signed = json.loads(response.read())
                url, extra = str(signed["upload_url"]), signed.get("headers") or {}
            except (ValueError, KeyError, TypeError, OSError, HTTPException):
                raise Unavailable(f"{self} signed no upload that this version can read.") from None
            except NotFound as error:
                raise Refused(str(error)) from None
            except RefusedByServer as refused:
                if refused.status in (401, 403):
                    raise
                raise Refused(str(refused)) from None
            except Unavailable:
                raise
            except ConfigurationError:
                raise
            except MatyanError as error:  # what this one request asks for
                raise Refused(str(error)) from None
        self._upload(url, {**extra, "Content-Type": kind}, blob)

    def _upload(self, url: str, headers: dict[str, str], blob: MovedBlob) -> None:
        parts = urlsplit(url)
        place = parts.hostname or "", parts.port
        connection: HTTPConnection
        if parts.scheme == "https":
            context = self._context or trusting()
            connection = HTTPSConnection(*place, timeout=_UPLOAD_SILENCE_S, context=context)
        else:
            connection = HTTPConnection(*place, timeout=_UPLOAD_SILENCE_S)
        with closing(connection):
            try:
                path = f"{parts.path}?{parts.query}" if parts.query else parts.path
                lengths = {"Content-Length": str(blob.size)}
                connection.request("PUT", path, _whole(blob), {**headers, **lengths})
                response = connection.getresponse()
                told = response.read(_TOLD_BYTES)
            except ssl.SSLError as error:
                raise ConfigurationError(
                    f"The certificate of {parts.hostname}, where {self} has artifacts uploaded, is not trusted ({error.reason}): "
                    "name its authority's file in SSL_CERT_FILE."
                ) from None
            except (OSError, HTTPException) as error:
                # A refusal may have come before all was sent; then the other side hangs up.
                response_ = _early(connection)
                if response_ is None:
                    raise Unavailable(
                        f"The upload to {parts.hostname} ended ({error or type(error).__name__})."
                    ) from None
                response, told = response_
        if response.status in (200, 201, 204):
            return
        said = _sentence(told, response.status)
        if response.status >= 500 or response.status in (408, 403):
            # 403: what was signed has expired meanwhile, or clocks differ: the next try is signed anew.
            raise Unavailable(said)
        raise Refused(said)


def _header(content_type: str) -> str:
    """What a header can hold of it: whoever logged it could have written anything. The `blob_ref` says it as it is."""
    fits = content_type.isascii() and content_type.isprintable()
    return content_type if fits and 0 < len(content_type) <= _TYPE_BYTES else _UNKNOWN


def _whole(blob: MovedBlob) -> Iterator[bytes]:
    """The blob's bytes, exactly as many as were announced.

    Raises:
        Refused: there are others by now.
    """
    left = blob.size or 0
    for piece in blob.open():
        left -= len(piece)
        if left < 0:
            break
        yield piece
    if left:
        raise Refused("It changed while it was sent, or its bytes are not all there.")


def _early(connection: HTTPConnection) -> tuple[HTTPResponse, bytes] | None:
    try:
        response = connection.getresponse()
        return response, response.read(_TOLD_BYTES)
    except (OSError, HTTPException):
        return None


def _sentence(body: bytes, status: int) -> str:
    """What a refusal says, as a sentence."""
    text: Any = None
    try:
        text = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace").strip()[:300]
    return f"Status {status}: {str(text).removesuffix('.') or 'nothing more is said'}."
