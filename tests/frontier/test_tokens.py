"""Open sockets and the tokens that they came in with: on the lane and on the app's route."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import trio
from quart.testing.connections import WebsocketDisconnectError

from matyan.frontier.app import create_app
from matyan.frontier.lane import LEAVE_WITHIN_S, SWEEP_EVERY_S
from matyan.service.tokens import Token, Tokens
from matyan.settings import Settings
from tests.frontier.conftest import RawClient, Served, a_frontier
from tests.frontier.hand import HandProducer
from tests.tokens import add, basic, revoke

TAG = b'{"type":"add_tag","tag_name":"%d"}'
WITHIN_S = 5


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
async def served(file: Path) -> AsyncIterator[Served]:
    """With a token `other`, that the file is not without one."""
    add(file, "other", "admin")
    async with a_frontier(settings=Settings(tokens_file=str(file))) as served:
        yield served


async def connected(served: Served, name: str, token: str) -> RawClient:
    client = RawClient(await served.connect(), "run-1", served.port)
    request = client.protocol.connect()
    request.headers["Authorization"] = basic(name, token)
    client.protocol.send_request(request)
    await client.stream.send_all(b"".join(client.protocol.data_to_send()))
    await client.event()
    assert client.protocol.handshake_exc is None, client.protocol.handshake_exc
    return client


ENDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "revoked": (lambda file: revoke(file, "ci"), "revoked"),
    "replaced": (lambda file: add(file, "ci", "write"), "revoked"),
    "reduced": (lambda file: edit(file, '"write"', '"read"'), "changed"),
    "expired": (lambda file: edit(file, '"expires": null', '"expires": "2026-01-01"'), "expired"),
    "quota": (lambda file: edit(file, '"quota": null', '"quota": "messages=1/s"'), "changed"),
}


def edit(file: Path, old: str, new: str) -> None:
    """Of the token that was added last."""
    before, found, after = file.read_text().rpartition(old)
    assert found
    file.write_text(before + new + after)


@pytest.mark.parametrize("end", ENDS)
async def test_a_socket_whose_token_ends_is_closed_after_its_last_reply(
    served: Served, file: Path, end: str
) -> None:
    """Not before, however long the broker takes; what was sent is stored. Others stay."""
    change, word = ENDS[end]
    stays = await connected(served, "other", add(file, "other", "admin"))
    goes = await connected(served, "ci", add(file, "ci", "write"))
    await goes.send(TAG % 1)
    await served.handed(1)
    change(file)
    with trio.fail_after(WITHIN_S + 1):
        await trio.sleep(2.2 if end == "revoked" else 0.8)
        served.producer.deliver()
        assert (await goes.reply())["status"] == "ok"
        assert await goes.close_code() == 1008
    assert goes.protocol.close_rcvd is not None
    assert word in goes.protocol.close_rcvd.reason
    assert "ci" in goes.protocol.close_rcvd.reason
    await stays.send(TAG % 2)
    await served.handed(1)
    served.producer.deliver()
    assert (await stays.reply())["status"] == "ok"


async def test_an_idle_socket_of_a_revoked_token_is_closed(served: Served, file: Path) -> None:
    goes = await connected(served, "ci", add(file, "ci", "write"))
    revoke(file, "ci")
    with trio.fail_after(WITHIN_S):
        assert await goes.close_code() == 1008


async def test_a_client_that_never_waits_cannot_stay(served: Served, file: Path) -> None:
    """One that always has a frame on its way: what comes later than a moment after the end is not taken."""
    goes = await connected(served, "ci", add(file, "ci", "write"))
    await goes.send(TAG % 0)
    await served.handed(1)
    revoke(file, "ci")
    step, was_taken = 0, True
    with trio.fail_after(WITHIN_S):
        while was_taken:
            step += 1
            await goes.send(TAG % step)
            with trio.move_on_after(1) as waiting:
                await served.handed(2)
            was_taken = not waiting.cancelled_caught
            served.producer.deliver()
            assert (await goes.reply())["status"] == "ok"
        assert await goes.close_code() == 1008


async def test_a_message_that_waits_for_room_does_not_keep_a_socket(file: Path) -> None:
    """It is not taken, and its connection ends as any other does: with a close frame, and before there is room."""
    token = add(file, "ci", "write")
    add(file, "other", "admin")
    producer = HandProducer(1 << 20)
    async with (
        a_frontier(producer, Settings(tokens_file=str(file))) as served,
        trio.open_nursery() as nursery,
    ):
        producer.produce(b"run-2", [bytes(1 << 20)], lambda _: None)
        goes = await connected(served, "ci", token)
        nursery.start_soon(goes.send, TAG.replace(b"%d", b"x" * 400_000))
        await trio.sleep(0.1)
        revoke(file, "ci")
        with trio.fail_after(WITHIN_S):
            # By hand: the rest of the message goes out at the same time.
            assert b"the token ci was revoked" in await goes.stream.receive_some()
            while served.frontier.lane.connections:  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_message_that_a_thread_looks_at_does_not_keep_a_socket(
    served: Served, file: Path
) -> None:
    """However long that takes: the connection ends then."""
    goes = await connected(served, "ci", add(file, "ci", "write"))
    threads = trio.to_thread.current_default_thread_limiter()
    owners = [object() for _ in range(int(threads.total_tokens))]
    for owner in owners:
        await threads.acquire_on_behalf_of(owner)
    await goes.send(TAG.replace(b"%d", b"x" * (2 << 20)))
    await trio.sleep(0.1)
    revoke(file, "ci")
    await trio.sleep(LEAVE_WITHIN_S + 2 * SWEEP_EVERY_S)
    for owner in owners:
        threads.release_on_behalf_of(owner)
    with trio.fail_after(WITHIN_S):
        assert await goes.close_code() == 1008


async def test_the_first_token_closes_the_sockets_that_came_without(tmp_path: Path) -> None:
    """After their last reply; and shuts the door. The embedded mode's file, whose absence means that none is asked for."""
    file = tmp_path / "tokens"
    async with a_frontier(tokens=Tokens(file)) as served:
        early = await served.websocket()
        await early.send(TAG % 1)
        await served.handed(1)
        token = add(file, "ci", "write")
        await trio.sleep(1.2)
        late = RawClient(await served.connect(), "run-2", served.port)
        late.protocol.send_request(late.protocol.connect())
        await late.stream.send_all(b"".join(late.protocol.data_to_send()))
        await late.event()
        assert "401" in str(late.protocol.handshake_exc)
        served.producer.deliver()
        with trio.fail_after(WITHIN_S):
            assert (await early.reply())["status"] == "ok"
            assert await early.close_code() == 1008
        await connected(served, "ci", token)
        # Once it was there, the file's absence opens nothing, and lets in who had a token.
        file.unlink()
        assert b" 401 " in await served.talk(b"GET /docs HTTP/1.0\r\nHost: x\r\n\r\n")
        await connected(served, "ci", token)


@pytest.mark.parametrize("end", ["revoked", "reduced"])
async def test_a_socket_of_the_app_is_closed_too(served: Served, file: Path, end: str) -> None:
    app = create_app(served.frontier.shared)
    async with app.test_app() as running:
        headers = {"Authorization": basic("ci", add(file, "ci", "write"))}
        async with running.test_client().websocket(
            "/api/v1/ws/runs/run-1", headers=headers
        ) as socket:
            await socket.send((TAG % 1).decode())
            await served.handed(1)
            ENDS[end][0](file)
            with trio.fail_after(WITHIN_S):
                await trio.sleep(1.5)
                served.producer.deliver()
                assert "ok" in await socket.receive()
                with pytest.raises(WebsocketDisconnectError):
                    await socket.receive()


async def test_a_page_that_may_call_is_shown_why_it_was_refused(file: Path) -> None:
    """Whoever answers: a browser gives a page no answer that does not name its origin."""
    add(file, "other", "admin")
    settings = Settings(tokens_file=str(file), cors_origins=("https://ui.example",))
    async with a_frontier(settings=settings) as served:
        for path in ("/docs", "/nowhere"):
            for origin, shown in (("https://ui.example", True), ("https://evil.example", False)):
                head = f"GET {path} HTTP/1.0\r\nHost: x\r\nOrigin: {origin}\r\n\r\n"
                answer = await served.talk(head.encode())
                assert b" 401 " in answer
                assert (b"Access-Control-Allow-Origin: " + origin.encode() in answer) is shown


async def test_an_address_that_guesses_waits_and_a_right_token_beside_it_does_not(
    served: Served, file: Path
) -> None:
    """On the socket too, and the wait ends with the process."""
    right = add(file, "ci", "write", "read")
    wrong = f"GET /docs HTTP/1.0\r\nHost: x\r\nAuthorization: {basic('ci', 'x')}\r\n\r\n".encode()
    async with trio.open_nursery() as nursery:
        for _ in range(60):
            nursery.start_soon(served.talk, wrong)
        entrance = served.frontier.shared.entrance
        with trio.fail_after(10):
            while entrance._guesses.waiting < 20:  # noqa: ASYNC110 - nobody tells of it
                await trio.sleep(0.01)
        begun = trio.current_time()
        await connected(served, "ci", right)
        good = f"GET /docs HTTP/1.0\r\nHost: x\r\nAuthorization: {basic('ci', right)}\r\n\r\n"
        assert b" 200 " in await served.talk(good.encode())
        assert entrance._guesses.waiting > 0, trio.current_time() - begun
        served.frontier.shared.draining.set()


async def test_a_token_is_judged_once_a_connection(
    served: Served, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the handshake; frames cost nothing more. Between them the sweeper alone looks at it, a dict's item, twice a second."""
    found: list[str | None] = []
    find = Tokens.find

    def counted(tokens: Tokens, name: str | None, token: str) -> Token | None:
        found.append(name)
        return find(tokens, name, token)

    monkeypatch.setattr(Tokens, "find", counted)
    client = await connected(served, "ci", add(file, "ci", "write"))
    asked: list[Token | None] = []
    entrance = served.frontier.shared.entrance
    monkeypatch.setattr(entrance, "objection", asked.append)
    begun = trio.current_time()
    for step in range(200):
        await client.send(TAG % step)
        await served.handed(1)
        served.producer.deliver()
        await client.reply()
    sweeps = (trio.current_time() - begun) / SWEEP_EVERY_S + 1
    assert found == ["ci"]
    assert len(asked) <= sweeps
