"""Signed PUT and GET of blobs by the process itself, streamed: the embedded mode's stand-in for S3.

Below Quart, because Quart's request body takes whatever arrives without back-pressure: a fast upload
to a slow disk would fill the memory. Where a blob lies and what a signature is worth is the engine's affair.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import aclosing, asynccontextmanager

import trio

from matyan._codec import check_artifact_path, check_run_id
from matyan.blobs.base import URL_PATH, ServedBlobs
from matyan.errors import NotFound, Unavailable
from matyan.frontier.shared import RATE_BYTES, RATE_S
from matyan.service.accounts import Account
from matyan.service.asgi import ASGIApp, Receive, Scope, Send, rest_discarded
from matyan.service.descriptors import for_uploads
from matyan.service.telemetry import count_request

TURN_WITHIN_S = 60.0
"""Seconds that an upload waits for its turn, unread, while as many are under way as are allowed."""


class Transfer:
    """The signed URLs, around the app; without a ServedBlobs engine everything goes to the app."""

    def __init__(
        self,
        inner: ASGIApp,
        blobs: object,
        max_bytes: int,
        account_named: Callable[[str], Account | None],
    ) -> None:
        self._inner = inner
        self._blobs = blobs if isinstance(blobs, ServedBlobs) else None
        self._max_bytes = max_bytes
        self._account_named = account_named
        self._uploads = trio.CapacityLimiter(for_uploads())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        blobs = self._blobs
        if blobs is None or scope["type"] != "http" or not scope["path"].startswith(URL_PATH):
            await self._inner(scope, receive, send)
            return
        begun = trio.current_time()
        method = scope["method"]
        try:
            status = await self._transfer(blobs, method, scope, receive, send)
        except _Refused as refused:
            status = refused.status
            body = json.dumps({"detail": refused.sentence}).encode()
            async with rest_discarded(receive):
                # The rest of the body is not read: over HTTP/1 that ends the connection, and the client must know.
                close = [(b"connection", b"close")] * scope["http_version"].startswith("1")
                await _answer(send, status, body, [*close, *refused.headers])
        count_request(method, URL_PATH + "<run>/<path>", status, trio.current_time() - begun)

    async def _transfer(
        self, blobs: ServedBlobs, method: str, scope: Scope, receive: Receive, send: Send
    ) -> int:
        run, _, path = scope["path"].removeprefix(URL_PATH).partition("/")
        reason = check_run_id(run) or check_artifact_path(run, path)
        if reason is not None:
            raise _Refused(400, reason)
        if method not in {"PUT", "GET", "HEAD"}:
            raise _Refused(405, "A signed URL takes PUT, GET and HEAD.")
        signed_for = "PUT" if method == "PUT" else "GET"
        query = scope["query_string"].decode("latin-1")
        if not blobs.verify(signed_for, run, path, query):
            raise _Refused(403, "The signature is wrong or expired: ask for a new URL.")
        try:
            if method == "PUT":
                content_type = blobs.signed_type(query)
                _require_type(content_type, scope)
                async with self._turn():
                    await self._put(blobs, run, path, content_type, scope, receive)
                await _answer(send, 200, b"{}")
            else:
                stored_type, size, pieces = await blobs.open(run, path)
                async with aclosing(pieces), rest_discarded(receive):
                    await _start(send, 200, stored_type, size)
                    if method == "GET":
                        async for piece in pieces:
                            await _send_body(send, piece, more=True)
                    await _send_body(send, b"", more=False)
        except NotFound as error:
            raise _Refused(404, str(error)) from None
        except Unavailable as error:
            raise _Refused(503, str(error)) from None
        return 200

    async def _put(
        self,
        blobs: ServedBlobs,
        run: str,
        path: str,
        content_type: str,
        scope: Scope,
        receive: Receive,
    ) -> None:
        headers = dict(scope["headers"])
        length = headers.get(b"content-length", b"")
        declared = int(length) if length.isdigit() else 0
        if declared > self._max_bytes:
            raise self._too_large()
        chunks = self._chunks(receive)
        account = self._account_named(blobs.signed_for(scope["query_string"].decode("latin-1")))
        if account is not None:
            chunks = _counted(chunks, account, declared)
        async with aclosing(chunks):
            await blobs.receive(run, path, content_type, chunks, self._max_bytes)

    async def _chunks(self, receive: Receive) -> AsyncGenerator[bytes, None]:
        size = came = 0
        waited = 0.0
        while True:
            begun = trio.current_time()
            with trio.move_on_after(RATE_S - waited) as scope:
                event = await receive()
            if scope.cancelled_caught:
                raise _Refused(
                    408,
                    f"The body came too slowly: fewer than {RATE_BYTES:,} bytes in {RATE_S:.0f} s.",
                )
            # The time that the disk takes is not the client's.
            waited += trio.current_time() - begun
            came += len(event.get("body", b""))
            if came >= RATE_BYTES:
                came, waited = 0, 0.0
            if event["type"] == "http.disconnect":
                raise _Refused(400, "The client went away before the end of the body.")
            size += len(event["body"])
            if size > self._max_bytes:
                raise self._too_large()
            if event["body"]:
                yield event["body"]
            if not event.get("more_body", False):
                return

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        """Each upload takes a descriptor and up to 1 MiB of memory: so only a limited number of them runs at a time."""
        with trio.move_on_after(TURN_WITHIN_S) as waiting:
            await self._uploads.acquire()
        if waiting.cancelled_caught:
            raise _Refused(
                503,
                f"{self._uploads.total_tokens:.0f} uploads are under way, and as many may be: try again later.",
            )
        try:
            yield
        finally:
            self._uploads.release()

    def _too_large(self) -> _Refused:
        return _Refused(413, f"A blob may have {self._max_bytes:,} bytes (MATYAN_BLOB_MAX_BYTES).")


async def _counted(
    chunks: AsyncIterator[bytes], account: Account, declared: int
) -> AsyncGenerator[bytes, None]:
    """Counts an upload against its token's day: what it declares before it comes, so that several at a time keep within it, and in the
    end what came, whatever became of it.

    Raises:
        _Refused: it may not come, or not go on.
    """

    def require(size: int) -> None:
        refusal = account.judge_blob(size)
        if refusal is not None:
            headers = [(name.lower().encode(), value.encode()) for name, value in refusal.headers]
            raise _Refused(refusal.status, refusal.sentence, headers)
        account.count_blob(size)

    require(declared)
    came, counted = 0, declared
    try:
        async for chunk in chunks:
            if came + len(chunk) > counted:
                require(came + len(chunk) - counted)
                counted = came + len(chunk)
            came += len(chunk)
            yield chunk
    finally:
        account.count_blob(came - counted)


def _require_type(signed: str, scope: Scope) -> None:
    """An upload declares the type that was signed, or none, as the SDK's restore does."""
    sent = [value.strip() for name, value in scope["headers"] if name == b"content-type"]
    if sent and sent != [signed.strip().encode("latin-1")]:
        raise _Refused(
            403, f"This URL was signed for Content-Type: {signed}; send that one, or none."
        )


class _Refused(Exception):
    def __init__(
        self, status: int, sentence: str, headers: Sequence[tuple[bytes, bytes]] = ()
    ) -> None:
        super().__init__(sentence)
        self.status = status
        self.sentence = sentence
        self.headers = headers


async def _answer(
    send: Send, status: int, body: bytes, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    await _start(send, status, "application/json", len(body), extra)
    await _send_body(send, body, more=False)


async def _send_body(send: Send, body: bytes, *, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def _start(
    send: Send,
    status: int,
    content_type: str,
    length: int,
    extra: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    headers = [
        (b"content-type", content_type.encode("latin-1")),
        (b"content-length", str(length).encode()),
        *extra,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
