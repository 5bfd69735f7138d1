"""One judgement of who may come in: the credential, the scope, what is exempt, and addresses that guess."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from matyan.errors import ConfigurationError
from matyan.service import telemetry
from matyan.service.doors import Refusal
from matyan.service.entrance import (
    FREE_GUESSES,
    GUESSES_PER_S,
    LONGEST_WAIT_S,
    MAX_ADDRESSES,
    MAX_WAITING,
    Entrance,
    Visitor,
    entrance_of,
)
from matyan.settings import Settings
from tests.tokens import add, basic


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tokens"


@pytest.fixture
def entrance(file: Path) -> Entrance:
    add(file, "other", "admin")
    return entrance_of(Settings(tokens_file=str(file)))


def judge(
    entrance: Entrance, authorization: str | None = None, method: str = "GET", **fields: str
) -> Visitor | Refusal:
    headers = {"host": "tracker", **fields}
    if authorization is not None:
        headers["authorization"] = authorization
    return entrance.judge(method, "/metrics/", "", headers)


def status(judged: Visitor | Refusal) -> int:
    return judged.status if isinstance(judged, Refusal) else 200


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        *(("Basic {ci}", 200), ("basic {ci}", 200), ("BASIC  {ci}", 200), ("Bearer {t}", 200)),
        *(("bearer   {t}", 200), ("Bearer {t} ", 200)),
        *(("", 401), ("Basic", 401), ("Bearer", 401), ("Bearer ", 401), ("{t}", 401)),
        *(("Basic {t}", 401), ("Bearer {ci}", 401), ("Digest {ci}", 401), ("Basic {ci} x", 401)),
        *(("Basic {other}", 401), ("Basic {noname}", 401), ("Basic {nocolon}", 401)),
        *(("Basic {ci}, Basic {ci}", 401), ("Bearer {t}, Bearer {t}", 401), ("Bearer {t}x", 401)),
        *(("Basic {upper}", 401), ("Basic {longer}", 401), ("Basic ===", 401), ("Basic \xff", 401)),
        *(("Bearer {t},", 401), ("Bearer\t{t}", 401), ("Bearer \u0130", 401)),
    ],
)
def test_what_is_a_credential(entrance: Entrance, file: Path, written: str, expected: int) -> None:
    """Basic with the token's name, or Bearer; the refusal shows nothing of what was sent."""
    token = add(file, "ci", "read")
    sent = written.format(
        t=token,
        ci=b64(f"ci:{token}"),
        other=b64(f"other:{token}"),
        noname=b64(f":{token}"),
        nocolon=b64(token),
        upper=b64(f"ci:{token.swapcase()}"),
        longer=b64(f"ci:{token}:"),
    )
    judged = judge(entrance, sent)
    assert status(judged) == expected
    if isinstance(judged, Refusal):
        assert [name for name, _ in judged.headers] == ["WWW-Authenticate"] * 2
        assert token not in repr(judged)
        assert b64(f"ci:{token}") not in repr(judged)
    else:
        assert judged.token is not None
        assert judged.token.name == "ci"


SOCKET = {"upgrade": "websocket"}


@pytest.mark.parametrize("scope", ["read", "write", "admin"])
@pytest.mark.parametrize(
    ("method", "fields", "wanted"),
    [
        *((method, {}, "read") for method in ("GET", "HEAD", "OPTIONS")),
        *((method, {}, "write") for method in ("POST", "PUT", "DELETE", "PATCH", "TRACE", "BREW")),
        *((("GET"), {"upgrade": words}, "write") for words in ("websocket", "h2c, WebSocket")),
        ("GET", {"upgrade": "h2c"}, "read"),
    ],
)
def test_what_each_scope_allows(
    entrance: Entrance, file: Path, scope: str, method: str, fields: dict[str, str], wanted: str
) -> None:
    """Reading methods want read, all others and sockets write; admin is both. 403 names both."""
    judged = judge(entrance, basic("ci", add(file, "ci", scope)), method, **fields)
    assert status(judged) == (200 if scope in {wanted, "admin"} else 403)
    if isinstance(judged, Refusal):
        assert scope in judged.sentence
        assert wanted in judged.sentence
        assert not judged.is_guess


def test_two_scopes(entrance: Entrance, file: Path) -> None:
    both = basic("ci", add(file, "ci", "read", "write"))
    assert status(judge(entrance, both, "GET")) == status(judge(entrance, both, "POST")) == 200


def test_an_expired_token_is_none(entrance: Entrance, file: Path) -> None:
    soon = basic("ci", add(file, "ci", "read", expires=time.time() + 2))
    assert status(judge(entrance, soon)) == 200
    late = basic("ci", add(file, "ci", "read", expires=time.time() - 1))
    judged = judge(entrance, late)
    assert isinstance(judged, Refusal)
    assert judged.status == 401
    assert "expired" in judged.sentence


def test_a_change_of_the_file_counts_at_once(entrance: Entrance, file: Path) -> None:
    """The next request after `matyan tokens` has ended is judged by what it wrote."""
    before = basic("ci", add(file, "ci", "read"))
    assert status(judge(entrance, before)) == 200
    after = basic("ci", add(file, "ci", "read"))
    assert status(judge(entrance, before)) == 401
    assert status(judge(entrance, after)) == 200


def test_a_token_opens_no_door_to_a_page(entrance: Entrance, file: Path) -> None:
    """A browser sends its user's credential with what a foreign page asks for."""
    token = basic("ci", add(file, "ci", "admin"))
    judged = judge(entrance, token, "POST", origin="https://evil.example")
    assert status(judged) == 403
    entrance.listening_on(["127.0.0.1"])
    assert status(judge(entrance, token)) == 403  # Host: tracker


def test_without_tokens_nobody_is_asked() -> None:
    entrance = entrance_of(Settings())
    assert judge(entrance) == Visitor(None)
    assert judge(entrance, "Basic x") == Visitor(None)


def test_failures_are_counted_by_reason(entrance: Entrance, file: Path) -> None:
    token = add(file, "ci", "read")
    for reason, authorization, method in (
        ("missing", None, "GET"),
        ("malformed", "Basic x", "GET"),
        ("unknown", "Bearer x", "GET"),
        ("scope", basic("ci", token), "POST"),
        ("expired", basic("old", add(file, "old", "read", expires=1.0)), "GET"),
    ):
        counter = telemetry.REFUSED.labels(reason)._value
        before = counter.get()
        judge(entrance, authorization, method)
        assert counter.get() == before + 1


# --- guesses -------------------------------------------------------------------------------------

WRONG = Refusal(401, "No.", is_guess=True)


async def held(entrance: Entrance, address: str = "10.0.0.1", refusal: Refusal = WRONG) -> float:
    begun = trio.current_time()
    await entrance.hold(refusal, address)
    return trio.current_time() - begun


async def test_who_guesses_is_slowed_down(entrance: Entrance, autojump_clock: MockClock) -> None:
    """A few wrong tokens cost nothing; who goes on gets so many answers a second, each address for itself, and is forgiven in time."""
    assert [await held(entrance) for _ in range(FREE_GUESSES)] == [0] * FREE_GUESSES
    begun = trio.current_time()
    for _ in range(100):
        assert await held(entrance) <= LONGEST_WAIT_S
    took = trio.current_time() - begun
    assert took == pytest.approx(100 / GUESSES_PER_S, rel=0.1)
    assert await held(entrance, "10.0.0.2") == 0
    await trio.sleep(60)
    assert await held(entrance) == 0


async def test_a_right_token_is_never_slowed(entrance: Entrance, file: Path) -> None:
    """Whatever others behind the same proxy send: only refusals for a wrong token are held."""
    token = basic("ci", add(file, "ci", "read"))
    for _ in range(FREE_GUESSES):
        await entrance.hold(WRONG, "10.0.0.1")
    with trio.fail_after(1):
        for authorization, method in ((None, "GET"), (token, "POST")):
            judged = judge(entrance, authorization, method)
            assert isinstance(judged, Refusal)
            for _ in range(50):
                await entrance.hold(judged, "10.0.0.1")
    assert isinstance(judge(entrance, token), Visitor)


async def test_guesses_cost_no_memory(entrance: Entrance, autojump_clock: MockClock) -> None:
    """As many addresses as there are are not remembered; a /64 of IPv6 is one of them."""
    for number in range(3 * MAX_ADDRESSES):
        await entrance.hold(WRONG, f"10.0.{number >> 8}.{number & 255}")
    assert len(entrance._guesses._buckets) == MAX_ADDRESSES
    for number in range(FREE_GUESSES + 5):
        await entrance.hold(WRONG, f"2001:db8::{number:x}")
    assert await held(entrance, "2001:db8::ffff:ffff") > 0
    assert await held(entrance, "2001:db8:0:1::1") == 0
    for _ in range(FREE_GUESSES + 5):
        await entrance.hold(WRONG, "::ffff:10.9.9.9")
    assert await held(entrance, "10.9.9.9") > 0
    assert await held(entrance, "no address") == 0


async def test_held_answers_are_few(entrance: Entrance, autojump_clock: MockClock) -> None:
    """The connections that wait for them are taken from others: those beyond are answered at once. A drain ends them."""
    over = trio.Event()
    answered = 0

    async def one() -> None:
        nonlocal answered
        await entrance.hold(WRONG, "10.0.0.1", over)
        answered += 1

    async with trio.open_nursery() as nursery:
        for _ in range(2 * MAX_WAITING):
            nursery.start_soon(one)
        await trio.testing.wait_all_tasks_blocked()
        assert answered == 2 * MAX_WAITING - MAX_WAITING
        over.set()
        await trio.testing.wait_all_tasks_blocked()
        assert answered == 2 * MAX_WAITING


# --- the start -----------------------------------------------------------------------------------


@pytest.mark.parametrize("addresses", [["0.0.0.0"], ["127.0.0.1", "10.0.0.1"], ["::"]])
def test_who_listens_to_all_without_tokens_is_warned(
    addresses: list[str], file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And refused in production; with tokens, or on loopback alone, neither."""
    entrance_of(Settings()).listening_on(addresses)
    assert "no tokens are asked for" in caplog.text
    with pytest.raises(ConfigurationError, match="MATYAN_TOKENS_FILE"):
        entrance_of(Settings(environment="production")).listening_on(addresses)
    caplog.clear()
    entrance_of(Settings(environment="production")).listening_on(["127.0.0.1", "::1"])
    add(file, "ci", "read")
    with_tokens = Settings(environment="production", tokens_file=str(file))
    entrance_of(with_tokens).listening_on(addresses)
    assert caplog.text == ""
