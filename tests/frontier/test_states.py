"""The tables of a connection's states, held by connections on real sockets."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing

from matyan.frontier.lane import Connection
from matyan.frontier.states import LIFE_AFTER, READING_AFTER, Life, Reading
from tests.frontier.conftest import RawClient, Served
from tests.frontier.test_session import tag

EVENTS = ("drain", "close", "rule broken", "reply", "late sweep", "force", "hang up")
ENDS = {
    # After:      drain, close, rule broken, reply, late sweep, force, hang up. All but CLOSING have a frame unanswered.
    "open": "DRAINING ENDING ENDING OPEN OPEN CLOSED CLOSED",
    "draining": "DRAINING ENDING ENDING CLOSING DRAINING CLOSED CLOSED",
    # Ended by the client's close frame: it has an end to wait, and none to come.
    "closed by the client": "ENDING ENDING ENDING CLOSED CLOSED CLOSED CLOSED",
    # Ended by us: the client's close frame is still to come, and the replies are waited for without an end of its own.
    "a rule broken": "ENDING ENDING ENDING CLOSING ENDING CLOSED CLOSED",
    "closing": "CLOSING CLOSED CLOSING CLOSING CLOSED CLOSED CLOSED",
    "dropped": "CLOSED CLOSED CLOSED CLOSED CLOSED CLOSED CLOSED",
}
CASES = [
    (begin, event, Life[end])
    for begin, ends in ENDS.items()
    for event, end in zip(EVENTS, ends.split(), strict=True)
]


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.005)


async def send_close(client: RawClient) -> None:
    await client.stream.send_all(b"\x88\x82\x00\x00\x00\x00\x03\xe8")


async def break_a_rule(client: RawClient) -> None:
    await client.stream.send_all(b"\x81\x00")


async def connected(served: Served, begin: str) -> tuple[RawClient, Connection]:
    client = await served.websocket()
    while not served.frontier.lane.connections:
        await trio.lowlevel.checkpoint()
    (connection,) = served.frontier.lane.connections
    if begin != "closing":
        await client.send(tag("a"))
        await served.handed(1)
    match begin:
        case "draining" | "closing":
            connection.drain()
        case "closed by the client":
            await send_close(client)
        case "a rule broken":
            await break_a_rule(client)
        case "dropped":
            connection.drop()
    await settled()
    return client, connection


async def cause(event: str, served: Served, client: RawClient, connection: Connection) -> None:
    over: dict[str, Callable[[], Awaitable[None]]] = {
        "close": lambda: send_close(client),
        "rule broken": lambda: break_a_rule(client),
        "hang up": client.stream.aclose,
    }
    if event in over:
        try:
            await over[event]()
        except trio.BrokenResourceError:
            assert connection._life is Life.CLOSED
    elif event == "drain":
        connection.drain()
    elif event == "reply":
        if served.producer.frames:
            served.producer.deliver()
    elif event == "late sweep":
        connection.sweep(trio.current_time() + 30)
    else:
        connection.force()
    await settled()


@pytest.mark.parametrize(("begin", "event", "end"), CASES)
async def test_what_happens_to_a_connection_in_each_state(
    served: Served, begin: str, event: str, end: Life
) -> None:
    client, connection = await connected(served, begin)
    before = connection._life
    await cause(event, served, client, connection)
    assert connection._life is end
    assert end is before or end in reachable(before)
    assert (connection in served.frontier.lane.connections) is (end is not Life.CLOSED)


def reachable(life: Life) -> set[Life]:
    found: set[Life] = set()
    new = set(LIFE_AFTER[life])
    while new:
        found |= new
        new = {after for one in new for after in LIFE_AFTER[one]} - found
    return found


def test_each_state_leads_to_the_end_and_none_back() -> None:
    assert set(LIFE_AFTER) == set(Life)
    for life in Life:
        assert life not in reachable(life)
        assert life is Life.CLOSED or Life.CLOSED in reachable(life)
    assert reachable(Life.OPEN) == set(Life) - {Life.OPEN}


@pytest.mark.parametrize("before", Life)
@pytest.mark.parametrize("after", Life)
async def test_no_other_life_follows(served: Served, before: Life, after: Life) -> None:
    _, connection = await connected(served, "open")
    connection._life = before
    if after in LIFE_AFTER[before]:
        connection._set_life(after)
        assert connection._life is after
    else:
        with pytest.raises(AssertionError):
            connection._set_life(after)
        assert connection._life is before
    connection._life = Life.OPEN


@pytest.mark.parametrize("before", Reading)
@pytest.mark.parametrize("after", Reading)
async def test_a_socket_stands_in_the_epoll_while_it_is_read(
    served: Served, before: Reading, after: Reading
) -> None:
    """Whatever it waits for, and no other state of reading follows than the table has."""
    _, connection = await connected(served, "open")
    if before is not Reading.ON:
        connection._set_reading(before)
    if after in READING_AFTER[before]:
        connection._set_reading(after)
        assert connection._reading is after
    else:
        with pytest.raises(AssertionError):
            connection._set_reading(after)
        assert connection._reading is before
    stands = connection in served.frontier.lane._sockets.values()
    assert stands is (connection._reading is Reading.ON)
