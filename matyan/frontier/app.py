"""The Quart-trio app: presign, probes, the WebSocket route, and the door around them.

The app is complete by itself, for people who deploy the bare ASGI app; here no WebSocket reaches it, the edge's lane
has them all. No store, no blob content (`transfer.py`) and no message schema here.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final, cast

import trio
from quart import Response, abort, g, has_request_context, request, websocket
from quart.json.provider import DefaultJSONProvider
from quart_trio import QuartTrio
from websockets.frames import CloseCode
from werkzeug.exceptions import HTTPException

from matyan._codec import check_artifact_path, check_run_id, format_timestamp, total_bytes, validate
from matyan.blobs.base import ServedBlobs
from matyan.errors import NotFound, QueueFull, Unavailable
from matyan.frontier.intake import UNREAD_S, Intake
from matyan.frontier.session import MAX_WAITING_FRAMES, Session
from matyan.frontier.shared import Shared
from matyan.frontier.transfer import Transfer
from matyan.frontier.wire import GOODBYE, NO_TEXT, PIECE_BYTES
from matyan.service.accounts import Account
from matyan.service.asgi import ASGIApp, Receive, Scope, Send
from matyan.service.doors import PRESIGN, Refusal
from matyan.service.doorway import TOKEN, Doorway
from matyan.service.http1 import SEND_S, Answer
from matyan.service.logs import get_logger
from matyan.service.probes import PROBES, probe
from matyan.service.telemetry import count_request
from matyan.service.tokens import Token

log = get_logger()

BODY_BYTES = 64 << 10
"""What a JSON request may hold: a run id and an artifact path, at most 1,024 bytes together."""
BODY_S = 30
ROOM_WITHIN_S = 20.0
"""Seconds that a presign waits for room in the producer's queue; the SDK waits for 30 s and does not ask again."""
ROOM_ASKED_S = 0.25
"""How often room is asked for where nobody tells of it."""
LOOK_EVERY_S = 0.5
"""How often it is looked at whether the token of an open WebSocket still holds."""


def create_app(shared: Shared) -> QuartTrio:
    """The app around one listener's collaborators."""
    app = QuartTrio("matyan.frontier", static_folder=None)
    app.config.update(MAX_CONTENT_LENGTH=BODY_BYTES, BODY_TIMEOUT=BODY_S)
    assert isinstance(app.json, DefaultJSONProvider)
    app.json.ensure_ascii = False
    _add_probes(app, shared)
    _add_presign(app, shared)
    _add_ingest(app, shared)
    _count_requests(app)

    @app.errorhandler(HTTPException)
    async def as_detail(error: HTTPException) -> tuple[dict[str, str], int, dict[str, str]]:
        reason = error.description or error.name
        if has_request_context() and request.path.rstrip("/") == PRESIGN:
            # The client's own log may be far away, or nobody reads it.
            log.warning("presign refused", status=error.code, reason=reason, **g.get("asked", {}))
        headers = dict(error.refusal.headers) if isinstance(error, _OverQuota) else {}
        return {"detail": reason}, error.code or 500, headers

    inner: ASGIApp = cast(ASGIApp, app.asgi_app)
    if shared.beside is not None:
        inner = Fork(inner, shared.beside(), shared.wants_page)
    transfer = Transfer(inner, shared.blobs, shared.settings.blob_max_bytes, shared.account_named)
    # As Quart's documentation wraps an app; to a type checker the attribute is a method.
    wrapped = cast(Any, app)
    wrapped.asgi_app = Doorway(transfer, shared.entrance, shared.draining)
    return app


class _OverQuota(HTTPException):
    """What a quota refuses."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.sentence)
        self.code = refusal.status
        self.refusal = refusal


def _add_probes(app: QuartTrio, shared: Shared) -> None:
    async def page(path: str) -> Response:
        answer = probe(shared.about, path, request.headers.get("accept", ""))
        assert isinstance(answer, Answer)
        return Response(answer.body, answer.status, content_type=answer.content_type)

    for path in PROBES:
        # With the path of the table: a request's may have slashes more.
        app.add_url_rule(path, path, page, strict_slashes=False, defaults={"path": path})


def _add_presign(app: QuartTrio, shared: Shared) -> None:
    settings, producer = shared.settings, shared.sessions.producer

    @app.post(PRESIGN, strict_slashes=False)
    async def presign() -> dict[str, object]:
        run, path, content_type = await _presign_fields()
        base = settings.public_url or f"{request.scheme}://{request.host}"
        if base.endswith("//"):
            abort(
                400,
                "No URL can be made of the request's Host: name the server's with MATYAN_PUBLIC_URL.",
            )
        message = {
            "type": "blob_ref",
            "s3_key": f"{run}/{path}",
            "artifact_path": path,
            "content_type": content_type,
        }
        now = format_timestamp(time.time_ns() // 1000)
        frame = validate(json.dumps(message).encode(), run.encode(), now)
        for _, _, reason in frame.rejected:
            abort(422, reason)
        account = shared.account_of(cast("Token | None", request.scope.get(TOKEN)))
        if account is not None:
            await pace(account, frame.records)
        # Nobody needs to be counted for who has no quota.
        name = "" if account is None else account.name
        try:
            upload = await shared.blobs.presign_put(run, path, content_type, base.rstrip("/"), name)
        except NotFound as error:
            abort(404, str(error))
        except Unavailable as error:
            abort(503, str(error))
        if settings.presign_blob_ref == "publish":
            await publish(run, frame.records)
        return {
            "upload_url": upload.upload_url,
            "s3_key": upload.s3_key,
            "headers": upload.headers,
        }

    async def pace(account: Account, records: list[bytes]) -> None:
        refusal = account.judge_blob(0)
        if refusal is not None:
            raise _OverQuota(refusal)
        if account.quota.blobs and not isinstance(shared.blobs, ServedBlobs):
            account.cannot_count_blobs()
        due = account.take(total_bytes(records), len(records), trio.current_time())
        with trio.move_on_at(due):
            await shared.draining.wait()

    async def publish(run: str, records: list[bytes]) -> None:
        def done(error: Exception | None) -> None:
            if error is not None:
                log.error("a blob_ref was not stored", run=run, error=str(error))

        with trio.move_on_after(ROOM_WITHIN_S):
            while True:
                try:
                    producer.produce(run.encode(), records, done)
                except QueueFull:
                    await trio.sleep(ROOM_ASKED_S)
                else:
                    return
        abort(503, f"The queue of {producer.budget.capacity:,} bytes is full: ask again later.")


async def _presign_fields() -> tuple[str, str, str]:
    try:
        body = json.loads(await request.get_data())
    except (ValueError, RecursionError):
        abort(400, "The body is not JSON.")
    if not isinstance(body, dict):
        abort(422, "The body is not a JSON object.")
    fields = [
        body.get("run_id"),
        body.get("artifact_path"),
        body.get("content_type", "application/octet-stream"),
    ]
    for name, value in zip(("run_id", "artifact_path", "content_type"), fields, strict=True):
        if not isinstance(value, str):
            abort(422, f"{name}: {'a string is required' if value is None else 'not a string'}")
    run, path, content_type = cast(list[str], fields)
    g.asked = {"run": run[:255], "artifact_path": path[:255]}  # for the log, when it is refused
    if (reason := check_run_id(run)) is not None:
        abort(422, f"run_id: {reason}")
    if (reason := check_artifact_path(run, path)) is not None:
        abort(422, f"artifact_path: {reason}")
    if not (content_type.isascii() and content_type.isprintable() and len(content_type) <= 255):
        abort(422, "content_type: at most 255 printable ASCII characters")
    return run, path, content_type


def _add_ingest(app: QuartTrio, shared: Shared) -> None:
    @app.get("/api/v1/ws/runs/<path:run>")
    async def upgrade(run: str) -> tuple[dict[str, str], int, dict[str, str]]:
        sentence = "This path takes a WebSocket: point the SDK at this server's URL."
        return {"detail": sentence}, 426, {"Upgrade": "websocket"}

    @app.websocket("/api/v1/ws/runs/<path:run>")
    async def ingest(run: str) -> tuple[dict[str, str], int, dict[str, str]] | None:
        """The lane's session on another transport; slower, the same answers."""
        if (reason := check_run_id(run)) is not None:
            return {"detail": f"run id: {reason}"}, 400, {}
        token = cast("Token | None", websocket.scope.get(TOKEN))
        account = shared.account_of(token)
        refusal = None if account is None else account.connect()
        if refusal is not None:
            return {"detail": refusal.sentence}, refusal.status, dict(refusal.headers)
        try:
            await converse(run, token, account)
        finally:
            if account is not None:
                account.disconnect()
        return None

    async def converse(run: str, token: Token | None, account: Account | None) -> None:
        await websocket.accept()
        replies = _Replies()
        session = shared.session(run, replies.add, account)
        taking = trio.CancelScope()

        async def close(code: int, reason: str) -> None:
            """Closes after the replies of the frames that were taken."""
            while session.waiting or replies.unsent:
                await replies.sent.wait()
            await websocket.close(code, reason)

        async def say_goodbye() -> None:
            await shared.draining.wait()
            session.drain()
            await close(CloseCode.GOING_AWAY, GOODBYE)

        async def leave_without_token() -> None:
            while (objection := shared.entrance.objection(token)) is None:
                await trio.sleep(LOOK_EVERY_S)
                shared.entrance.tokens.look()
            taking.cancel()
            session.drain()
            await close(CloseCode.POLICY_VIOLATION, objection)
            nursery.cancel_scope.cancel()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(replies.send)
                nursery.start_soon(say_goodbye)
                nursery.start_soon(leave_without_token)
                while not taking.cancel_called:
                    with trio.CancelScope() as taking:
                        message = await websocket.receive()
                    if taking.cancelled_caught:
                        break
                    if not isinstance(message, str):
                        await close(CloseCode.UNSUPPORTED_DATA, NO_TEXT)
                        nursery.cancel_scope.cancel()
                        break
                    await _receive(shared.intake, session, account, message.encode())
                    while session.crowded or replies.unsent > MAX_WAITING_FRAMES:
                        await replies.sent.wait()
        except* trio.TooSlowError:
            pass
        finally:
            session.leave()


class _Replies:
    """The replies on one WebSocket of the app: its session adds them, a task of it sends them in order."""

    def __init__(self) -> None:
        self._outgoing, self._waiting = trio.open_memory_channel[bytes](float("inf"))
        self.unsent = 0
        self.sent = trio.Event()
        """Set when the next one is sent, and replaced."""

    def add(self, payload: bytes) -> None:
        self.unsent += 1
        self._outgoing.send_nowait(payload)

    async def send(self) -> None:
        """Sends until it is cancelled.

        Raises:
            trio.TooSlowError: the client did not take one within SEND_S.
        """
        async for payload in self._waiting:
            with trio.fail_after(SEND_S):
                await websocket.send(payload.decode())
            self.unsent -= 1
            self.sent.set()
            self.sent = trio.Event()


async def _receive(intake: Intake, session: Session, account: Account | None, data: bytes) -> None:
    """Takes a whole message, a large one in slices between which the loop turns. A message that finds no room waits as long as
    on the lane (`intake.py` says why), but here Hypercorn holds it."""
    now = trio.current_time()
    while not (room := intake.has_share(account) and intake.may_take(is_first=session.is_first)):
        may_wait = session.needs_room(data, now) and session.may_wait(data, now)
        if not may_wait or trio.current_time() >= now + UNREAD_S:
            break
        await trio.sleep(ROOM_ASKED_S)
    if len(data) <= PIECE_BYTES:
        session.receive(data, now, room=room)
        return
    incoming = session.begin(len(data), now)
    if not room:
        incoming.keep_digest_only()
    for start in range(0, len(data), PIECE_BYTES):
        piece = data[start : start + PIECE_BYTES]
        while not incoming.feed(piece):
            await trio.to_thread.run_sync(incoming.judge)
            piece = b""
        await trio.lowlevel.checkpoint()
    while not incoming.end(now):
        await trio.to_thread.run_sync(incoming.judge)


def _count_requests(app: QuartTrio) -> None:
    @app.before_request
    async def begin() -> None:
        g.begun = trio.current_time()

    @app.after_request
    async def count(response: Response) -> Response:
        template = request.url_rule.rule if request.url_rule is not None else "unmatched"
        took = trio.current_time() - g.get("begun", trio.current_time())
        count_request(request.method, template, response.status_code, took)
        return response


OWN_PATHS: Final = (
    "/api/v1/ws/",
    PRESIGN,
    "/api/v1/rest/version",
    "/health/",
    "/metrics",
    "/docs",
)
"""What the paths begin with that this app answers where another one stands beside it."""


class Fork:
    """Two apps at one port: the frontier's own paths go to the first one, all others to the second.

    wants_page: called with path and Accept; whether the second one is asked for a path of the first.
    """

    def __init__(
        self, own: ASGIApp, beside: ASGIApp, wants_page: Callable[[str, str], bool]
    ) -> None:
        self._own = own
        self._beside = beside
        self._wants_page = wants_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_own = scope["type"] != "http"
        if not is_own:
            path = f"/{scope['path'].lstrip('/')}"
            accept = dict(scope["headers"]).get(b"accept", b"").decode("latin-1")
            is_own = path.startswith(OWN_PATHS) and not self._wants_page(path, accept)
        await (self._own if is_own else self._beside)(scope, receive, send)
