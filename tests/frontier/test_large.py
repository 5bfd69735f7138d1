"""Large and unfinished messages on the lane: one budget, a place in turn, resends that cost nothing, a least rate."""

from __future__ import annotations

import json
import socket
import zlib
from contextlib import suppress

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.frames import Frame, Opcode

from matyan.broker.budget import Budget
from matyan.frontier.intake import (
    PROMISE_S,
    STILL_S,
    TOKEN_SHARE,
    UNFINISHED_SHARE,
    UNREAD_S,
    Intake,
)
from matyan.frontier.lane import TURN_BYTES
from matyan.frontier.shared import RATE_BYTES, RATE_S
from matyan.service.accounts import Account, BlobDay
from matyan.service.quotas import Quota
from matyan.settings import Settings
from tests.frontier.conftest import RawClient, Served, a_frontier
from tests.frontier.hand import HandProducer
from tests.frontier.test_edge import OK, masked, settle
from tests.frontier.test_session import tag
from tests.until import until

MIB = 1 << 20


def figures(count: int, size: int = 900_000, name: str = "f") -> bytes:
    """A legal message of so many large objects."""
    item = {"type": "log_custom_object", "name": name, "value": {"data": "x" * size}}
    return json.dumps([item | {"step": step} for step in range(count)]).encode()


def held(served: Served) -> int:
    return served.frontier.shared.sessions.budget.held


async def send(client: RawClient, data: bytes) -> None:
    """As much as the server takes."""
    with suppress(trio.BrokenResourceError):
        await client.stream.send_all(data)


async def test_a_frame_of_90_mib_is_stored_item_by_item() -> None:
    async with a_frontier(HandProducer(256 * MIB)) as served:
        client = await served.websocket()
        message = figures(100)
        assert len(message) > 85 * MIB
        await client.send(message)
        await served.handed(1)
        _, values, _ = served.producer.frames[0]
        assert [json.loads(value)["payload"]["step"] for value in values] == list(range(100))
        assert held(served) == served.producer.queued_bytes
        served.producer.deliver()
        assert await client.reply() == OK
        assert held(served) == 0


async def test_what_has_come_of_a_message_is_held_in_the_budget() -> None:
    """Partly received, fragmented and inflated; and no longer when it is gone."""
    settings = Settings(ws_deflate=True)
    async with a_frontier(HandProducer(64 * MIB), settings) as served:
        message = b'["' + b"x" * (4 * MIB)
        partly, fragments, packed = [
            await served.websocket(
                extensions=[ClientPerMessageDeflateFactory()] if deflate else None
            )
            for deflate in (False, False, True)
        ]
        await partly.stream.send_all(masked(1, message + b"x" * MIB)[: 4 * MIB])
        await until(lambda: held(served) > 4 * MIB - 100)
        await fragments.stream.send_all(masked(1, message, fin=False))
        await until(lambda: held(served) > 8 * MIB - 100)
        packer = zlib.compressobj(wbits=-15)
        bomb = packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH)
        assert len(bomb) < 10_000
        await packed.stream.send_all(masked(1, bomb, fin=False, head1=0x40))
        await until(lambda: held(served) > 12 * MIB - 100)
        assert held(served) < 16 * MIB
        for client in (partly, fragments, packed):
            await client.stream.aclose()
        await until(lambda: held(served) == 0)


async def test_a_small_message_in_parts_is_held_too(served: Served) -> None:
    client = await served.websocket()
    await client.stream.send_all(masked(1, b"[" + b" " * 5000 + b"]")[:4000])
    await until(lambda: held(served) == 4000)
    await client.stream.send_all(masked(1, b"[" + b" " * 5000 + b"]")[4000:])
    assert await client.reply() == OK
    assert held(served) == 0


async def test_half_messages_do_not_keep_others_from_being_answered() -> None:
    """40 of them announce and bring more than there is room for; the process holds its budget, and small frames pass."""
    producer = HandProducer(16 * MIB)
    async with a_frontier(producer) as served:
        victim = await served.websocket("victim")
        most = 0
        async with trio.open_nursery() as nursery:
            for number in range(40):
                client = await served.websocket(f"half-{number}")
                nursery.start_soon(send, client, masked(1, b'["' + b"x" * (2 * MIB))[: 2 * MIB])
            for number in range(2000):
                await victim.send(tag(f"{number}"))
                with trio.fail_after(60):
                    await served.handed(1)
                served.producer.deliver()
                assert await victim.reply() == OK
                most = max(most, held(served))
                if number > 100 and most > 4 * MIB:
                    break
            nursery.cancel_scope.cancel()
        assert 4 * MIB < most < 17 * MIB


async def test_large_messages_pass_one_after_the_other() -> None:
    """Ten at once of 6 MiB each within 16 MiB: all are stored, nobody is closed."""
    async with a_frontier(HandProducer(16 * MIB)) as served:
        clients = [await served.websocket(f"run-{number}") for number in range(10)]
        replies = 0
        async with trio.open_nursery() as nursery:

            async def store(client: RawClient) -> None:
                nonlocal replies
                await client.send(figures(7))
                assert await client.reply() == OK
                replies += 1

            for client in clients:
                nursery.start_soon(store, client)
            with trio.fail_after(60):
                while replies < 10:
                    assert held(served) < 23 * MIB
                    if served.producer.frames:
                        served.producer.deliver()
                    await trio.sleep(0.001)


async def test_a_message_beyond_the_budget_passes_alone() -> None:
    async with a_frontier(HandProducer(1 << 40)) as served:
        served.frontier.shared.sessions.budget.capacity = 1_000_000
        client = await served.websocket()
        await client.send(figures(5))
        await until(
            lambda: bool(served.frontier.shared.sessions.alive) and held(served) > 4_000_000
        )
        served.frontier.shared.sessions.budget.capacity = 1 << 40
        served.frontier.shared.sessions.budget.tell_room()
        await served.handed(1)
        served.producer.deliver()
        assert await client.reply() == OK


async def fill(served: Served) -> RawClient:
    """A connection whose frame waits in the queue, which is full by it."""
    client = await served.websocket("waits")
    await client.send(figures(7))
    await served.handed(1)
    served.frontier.shared.sessions.budget.capacity = held(served)
    return client


async def test_a_small_message_waits_on_an_open_connection_while_there_is_no_room() -> None:
    """The SDK leaves a server that answers no ping, and its message with it. What comes behind it is not read."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        first = await fill(served)
        client = await served.websocket("small")
        await client.stream.send_all(masked(1, tag("a")) + masked(9, b"alive?"))
        pong = await client.event()
        assert pong is not None
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"alive?")
        assert served.frontier.shared.sessions.parked_records() == 1
        before = held(served)
        await client.stream.send_all(masked(1, tag("b")))
        await until(lambda: held(served) > before)
        await wait_all_tasks_blocked(0.01)
        assert served.frontier.shared.sessions.parked_records() == 1
        served.producer.deliver()
        assert await first.reply() == OK
        for _ in "ab":
            await served.handed(1)
            served.producer.deliver()
            assert await client.reply() == OK


async def test_a_small_message_that_waited_on_the_wire_counts_from_its_arrival(
    mock_clock: MockClock,
) -> None:
    """Its client's patience began then: after a reply that took 15 s its copy may still be on its way."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        await fill(served)
        budget = served.frontier.shared.sessions.budget
        budget.park(budget.capacity)
        client = await served.websocket("small")
        before = budget.held
        await client.stream.send_all(masked(1, tag("a")))
        while budget.held == before:
            await wait_all_tasks_blocked(0.01)
        await settle(mock_clock, UNREAD_S - 0.5)
        budget.park(-budget.capacity)
        served.producer.deliver()
        await served.handed(1)
        served.producer.deliver()
        assert await client.reply() == OK
        await client.send(tag("a"))
        await client.send(tag("b"))
        await served.handed(1)
        _, values, _ = served.producer.frames[0]
        assert b'"b"' in values[0]


async def test_who_cannot_be_answered_leaves_nothing_behind(served: Served) -> None:
    """It has gone: that shows at its second reply, while more of it is at hand."""
    client = await served.websocket()
    await until(lambda: bool(served.frontier.lane.connections))
    half = masked(1, b'["' + b"x" * 100_000)[:30_000]
    with socket.socket(fileno=client.stream.socket.detach()) as sock:  # no turn in between
        sock.sendall(masked(1, b"[]") * 3 + half)
    await until(lambda: not served.frontier.lane.connections)
    assert held(served) == 0
    assert not served.frontier.shared.intake._claims


async def test_a_resend_is_known_at_no_cost_while_there_is_no_room() -> None:
    """Neither stored nor answered, nothing of it is held; and the pings behind it are answered."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        client = await fill(served)
        before = held(served)
        await client.stream.send_all(masked(1, figures(7)) + masked(9, b"alive?"))
        pong = await client.event()
        assert pong is not None
        assert (pong.opcode, bytes(pong.data)) == (Opcode.PONG, b"alive?")
        assert held(served) == before
        assert len(served.producer.frames) == 1
        served.producer.deliver()
        assert await client.reply() == OK
        await client.send(b"[]")
        assert await client.reply() == OK


async def test_a_new_frame_is_not_read_while_there_is_no_room() -> None:
    """It waits on the wire, at the cost of one read; then it is stored."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        waits = await fill(served)
        before = held(served)
        other = await served.websocket("other")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(other.send, figures(7, name="g"))
            await trio.sleep(0.3)
            assert len(served.producer.frames) == 1
            assert held(served) < before + 200_000
            served.frontier.shared.sessions.budget.capacity *= 3
            served.producer.deliver()
            assert await waits.reply() == OK
        await served.handed(1)
        served.producer.deliver()
        assert await other.reply() == OK


async def test_what_only_looks_like_a_resend_is_refused_while_there_is_no_room(
    mock_clock: MockClock,
) -> None:
    """The same length and beginning, but another end: it was not held, and its client is told when no copy comes."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        client = await fill(served)
        message = figures(7)
        await client.stream.send_all(masked(1, message[:-4] + b"Y" + message[-3:]))
        served.frontier.shared.sessions.budget.capacity *= 3
        await until(
            lambda: served.producer.frames != [] and len(served.frontier.shared.sessions.alive) == 1
        )
        await wait_all_tasks_blocked(0.2)
        served.producer.deliver()
        assert await client.reply() == OK
        await settle(mock_clock, 41)
        while isinstance(event := await client.event(), Frame) and event.opcode is Opcode.PING:
            pass
        assert isinstance(event, Frame)
        assert b"refused, not stored" in event.data


@pytest.mark.parametrize("change", [0, 100, 3_000_000])
async def test_another_frame_of_the_same_length_is_no_resend(change: int) -> None:
    """While there is room it is held, and known as another one at its end, wherever it differs."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        client = await served.websocket()
        message = figures(5)
        await client.send(message)
        await served.handed(1)
        place = message.index(b"xxx", change)
        await client.send(message[:place] + b"Y" + message[place + 1 :])
        await served.handed(2)
        served.producer.deliver(2)
        assert await client.reply() == OK
        assert await client.reply() == OK


@pytest.mark.parametrize("took", [13.0, 15.0])
async def test_a_large_copy_that_crosses_the_reply(mock_clock: MockClock, took: float) -> None:
    """It begins to arrive before the reply of a frame that took 14 s, and ends long after."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        client = await served.websocket()
        await client.send(figures(3))
        while not served.producer.frames:
            await wait_all_tasks_blocked(0.01)
        await settle(mock_clock, took)
        copy = masked(1, figures(3))
        await client.stream.send_all(copy[:1_000_000])
        await trio.testing.wait_all_tasks_blocked(0.05)
        served.producer.deliver()
        assert await client.reply() == OK
        await settle(mock_clock, 4)
        await client.stream.send_all(copy[1_000_000:])
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert len(served.producer.frames) == (0 if took >= 14 else 1)


async def test_a_large_message_counts_from_its_beginning(mock_clock: MockClock) -> None:
    """Its client's patience began then: the answer of 40 s comes 40 s after it."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        client = await served.websocket()
        data = masked(1, figures(3))
        await client.stream.send_all(data[:1_000_000])
        await settle(mock_clock, 20)
        await client.stream.send_all(data[1_000_000:])
        while not served.producer.frames:
            await wait_all_tasks_blocked(0.01)
        await settle(mock_clock, 21)
        while isinstance(event := await client.event(), Frame) and event.opcode is Opcode.PING:
            pass
        assert isinstance(event, Frame)
        assert b"kept and still being delivered" in event.data


async def trickle(
    clock: MockClock, client: RawClient, served: Served, data: bytes, bytes_s: int, seconds: int
) -> None:
    while not served.frontier.lane.connections:
        await trio.lowlevel.checkpoint()
    for second in range(seconds):
        if not served.frontier.lane.connections:
            return
        await send(client, data[second * bytes_s : (second + 1) * bytes_s])
        await settle(clock, 1)


async def test_a_message_has_a_least_rate(mock_clock: MockClock) -> None:
    """0.5 Mbit/s pass, also shared by eight; a message that trickles ends with a close that says why."""
    async with a_frontier(HandProducer(64 * MIB)) as served:
        data = masked(1, b'["' + b"x" * MIB)
        client = await served.websocket()
        await trickle(mock_clock, client, served, data, 8_000, int(3 * RATE_S))
        assert served.frontier.lane.connections
        await trickle(mock_clock, client, served, b"x" * 60_000, 1_000, int(2 * RATE_S))
        assert await client.close_code() == 1008
        assert client.protocol.close_rcvd is not None
        assert f"{RATE_BYTES:,} bytes" in client.protocol.close_rcvd.reason


@pytest.mark.parametrize("beside", [masked(10, b"?" * 100), masked(0, b"", fin=False)])
async def test_what_comes_beside_a_message_is_none_of_its_bytes(
    mock_clock: MockClock, beside: bytes
) -> None:
    """Control frames and empty fragments keep no half message alive."""
    async with a_frontier() as served:
        client = await served.websocket()
        await client.stream.send_all(masked(1, b"[", fin=False))
        flood = beside * (8_000 // len(beside))
        data = flood * int(2 * RATE_S)
        await trickle(mock_clock, client, served, data, len(flood), int(2 * RATE_S))
        assert not served.frontier.lane.connections
        assert await client.close_code() == 1008


async def test_small_messages_may_come_slowly(mock_clock: MockClock) -> None:
    """One after the other is always unfinished, but each ends in time."""
    async with a_frontier() as served:
        client = await served.websocket()
        data = masked(1, b"[" + b" " * 500 + b"]") * 200
        await trickle(mock_clock, client, served, data, 100, int(4 * RATE_S))
        assert served.frontier.lane.connections


class Waiter:
    def __init__(self, intake: Intake, account: Account | None = None) -> None:
        self.intake = intake
        self.account = account
        self.evicted = self.went_on = False

    def try_again(self) -> bool:
        self.went_on = True
        return True

    def stop_waiting(self) -> None:
        """Nobody waits for so long here."""
        raise AssertionError

    def evict(self) -> None:
        self.evicted = True
        self.intake.leave(self)


async def test_the_largest_goes_when_nothing_moves() -> None:
    """Not before, and not while something is queued: that will be answered."""
    budget, now = Budget(1000), 0.0
    intake = Intake(budget, lambda: now)
    small, large, late = (Waiter(intake) for _ in range(3))
    assert intake.may_begin(small, 300)
    assert intake.may_begin(large, 400)
    assert not intake.may_begin(late, 100)
    intake.wait(late, begins=True)
    intake.count(small, 300)
    intake.count(large, 400)
    budget.held += 100
    for now in range(10):
        intake.sweep(now)
    assert not large.evicted
    budget.held -= 100
    intake.sweep(now + 0.5)
    assert not large.evicted
    intake.sweep(now + 0.5 + STILL_S)
    assert large.evicted
    assert not small.evicted
    assert intake.may_begin(late, 100)
    assert budget.held == 300


async def test_the_largest_goes_when_the_unfinished_are_in_each_others_way() -> None:
    """What is queued beside them is answered again and again, but gives them no room."""
    budget, now = Budget(1000), 0.0
    intake = Intake(budget, lambda: now)
    small, large = Waiter(intake), Waiter(intake)
    for one, size in ((small, 390), (large, 400)):
        assert intake.may_begin(one, 300)
        assert intake.may_go_on(one, size)
        intake.count(one, size)
    budget.held += 100
    for one in (small, large):
        assert not intake.may_go_on(one, 10)
        intake.wait(one, begins=False)
    for now in (0.0, 0.5, STILL_S + 0.5):
        assert not large.evicted
        intake.sweep(now)
    assert large.evicted
    assert not small.evicted
    assert intake.may_go_on(small, 10)


async def test_room_is_kept_for_what_was_announced_for_a_while() -> None:
    budget, now = Budget(1000), 0.0
    intake = Intake(budget, lambda: now)
    slow, other = Waiter(intake), Waiter(intake)
    assert intake.may_begin(slow, int(UNFINISHED_SHARE * 1000))
    assert not intake.may_begin(other, 10)
    now = PROMISE_S
    intake.sweep(now)
    assert intake.may_begin(other, 10)


async def test_large_messages_of_one_token_keep_to_its_share() -> None:
    """The first of them may always begin; while others of it wait, those of another token do not wait for them."""
    intake = Intake(Budget(1000), lambda: 0.0)
    account = Account("ci", Quota(messages=1), lambda: 0.0, BlobDay())
    first, second, third = (Waiter(intake, account) for _ in range(3))
    neighbour = Waiter(intake)
    assert intake.may_begin(first, 150)
    assert not intake.may_begin(second, 150)
    assert intake.may_begin(third, 100)
    intake.wait(second, begins=True)
    assert intake.may_begin(neighbour, 400)
    intake.leave(neighbour)
    intake.count(first, 150)
    intake.leave(third)
    assert not intake.may_begin(second, 150)
    intake.leave(first)
    assert intake.may_begin(second, 400)
    account.held = int(TOKEN_SHARE * 1000)
    assert not intake.may_begin(third, 10)


async def test_who_is_gone_leaves_nothing_behind() -> None:
    budget = Budget(1000)
    intake = Intake(budget, lambda: 0.0)
    for _ in range(1000):
        one = Waiter(intake)
        intake.may_begin(one, 10)
        intake.count(one, 10)
        intake.wait(one, begins=True)
        intake.leave(one)
    assert budget.held == intake._held == intake._promised == intake._begun == 0
    assert len(intake._claims) == len(intake._waiting) == 0


def packed(text: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return (packer.compress(text) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


UNKNOWN = b'{"type":"add_tag","tag_name":"t","unknown":[' + b"[]," * 2_000_000 + b"1]}"
WORST = {
    "a bomb": masked(1, packed(b"[" + b" " * (32 * MIB) + b"]"), head1=0x40),
    "a compressed batch": masked(1, packed(figures(20)), head1=0x40),
    "a large item": masked(1, UNKNOWN),
    "a large item, compressed": masked(1, packed(UNKNOWN), head1=0x40),
    "no JSON": masked(1, packed(b'["' + b"x" * (32 * MIB)), head1=0x40),
}


@pytest.mark.parametrize("kind", WORST)
async def test_the_loop_turns_while_a_large_message_is_looked_at(kind: str) -> None:
    """Also when all of it is here at once: about once for each 256 KiB of what can be cut, and beside what cannot."""
    async with a_frontier(HandProducer(128 * MIB), Settings(ws_deflate=True)) as served:
        client = await served.websocket(extensions=[ClientPerMessageDeflateFactory()])
        await client.stream.send_all(WORST[kind][:-1])
        turns = 0
        async with trio.open_nursery() as nursery:

            async def count() -> None:
                nonlocal turns
                while True:
                    await trio.lowlevel.checkpoint()
                    turns += 1

            nursery.start_soon(count)
            if kind.startswith("a large item") or kind == "a compressed batch":
                await client.stream.send_all(WORST[kind][-1:])
                with trio.fail_after(60):
                    await served.handed(1)
                served.producer.deliver()
                assert await client.reply() == OK
            else:
                await client.stream.send_all(WORST[kind][-1:])
                with trio.fail_after(60):
                    reply = await client.reply()
                assert (reply == OK) is (kind == "a bomb")
            nursery.cancel_scope.cancel()
        assert turns > (0.9 * 32 * MIB / TURN_BYTES if kind in {"a bomb", "no JSON"} else 20)
