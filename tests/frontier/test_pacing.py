"""Sessions of a token with a quota: taken at once, answered when it is paid for; a clock that the test owns, no socket."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from matyan.frontier.pacing import MOST_RESENDS, TICK_S, PacedSession, Pacer
from matyan.frontier.session import Sessions
from matyan.service.accounts import BURST_S, HOLD_S, OWED_S, Account, BlobDay
from matyan.service.quotas import Quota
from tests.frontier.hand import HandProducer

OK = {"status": "ok", "error": None}
_numbers = iter(range(10**9))


def tags(count: int = 1) -> bytes:
    """A frame that was never sent before."""
    number = next(_numbers)
    items = [{"type": "add_tag", "tag_name": f"{number}-{i}"} for i in range(count)]
    return json.dumps(items).encode()


@dataclass
class Bench:
    """One token's sessions, the moments of their replies, and a producer that stores at once unless it is told not to."""

    quota: Quota = field(default_factory=lambda: Quota(messages=10))
    now: float = 1000.0
    stores: bool = True

    def __post_init__(self) -> None:
        self.producer = HandProducer(1 << 26)
        self.sessions = Sessions(self.producer, lambda: self.now)
        self.account = Account("ci", self.quota, lambda: self.now, BlobDay())
        self.pacer = Pacer(lambda: self.now)
        self.replies: dict[PacedSession, list[tuple[float, dict[str, Any]]]] = {}

    def another(self) -> PacedSession:
        def reply(data: bytes) -> None:
            self.replies[session].append((self.now, json.loads(data)))

        session = PacedSession(self.sessions, "run-1", reply, self.account, self.pacer)
        self.replies[session] = []
        return session

    def send(self, session: PacedSession, data: bytes) -> None:
        session.receive(data, self.now)
        if self.stores:
            self.producer.deliver(len(self.producer.frames))

    def wait(self, seconds: float, step: float = 0.01) -> None:
        end = self.now + seconds
        while self.now <= end:
            self.now += step
            self.pacer.flush()
            self.sessions.sweep(self.now)

    def waited(self, session: PacedSession) -> list[float]:
        """Seconds since the beginning of the test, of each reply."""
        return [round(when - 1000.0 - 0.01, 1) for when, _ in self.replies[session]]


def test_within_the_quota_nothing_is_held_back() -> None:
    bench = Bench()
    session = bench.another()
    for sent in range(20):
        bench.send(session, tags(5))
        assert len(bench.replies[session]) == sent + 1
        bench.wait(0.5)


def test_over_it_replies_are_held_back_and_no_record_is() -> None:
    bench = Bench()
    session = bench.another()
    bench.send(session, tags(30))
    assert len(bench.producer.delivered) == 30
    assert bench.replies[session] == []
    bench.wait(3)
    # Ten were saved up, and the other twenty take two seconds.
    assert bench.waited(session) == [2.0]
    assert bench.replies[session][0][1] == OK


def test_bytes_are_paced_as_messages_are_and_the_stricter_limit_counts() -> None:
    frame = tags(10)
    bench = Bench(Quota(bytes=len(frame), messages=1_000_000))
    session = bench.another()
    bench.send(session, frame)
    assert bench.waited(session) == [0.0]
    bench.send(session, tags(10))
    bench.wait(2)
    assert bench.waited(session) == [0.0, 1.0]


def test_the_connections_of_a_token_share_its_quota() -> None:
    bench = Bench()
    sessions = [bench.another() for _ in range(3)]
    for session in sessions:
        bench.send(session, tags(10))
    bench.wait(3)
    assert [bench.waited(session) for session in sessions] == [[0.0], [1.0], [2.0]]


def test_what_is_no_json_and_what_is_refused_costs_as_well() -> None:
    bench = Bench(Quota(messages=1))
    session = bench.another()
    for data in (b"{", b'[{"type": "add_tag"}, {"type": "nothing"}]', b"nonsense"):
        bench.send(session, data)
    bench.wait(4)
    assert bench.waited(session) == [0.0, 2.0, 3.0]


def test_no_reply_waits_longer_than_the_hold() -> None:
    """However much is owed: the SDK would send its frame again, and a closing run would leave its queue."""
    bench = Bench()
    session = bench.another()
    for _ in range(3):
        bench.send(session, tags(500))
        bench.wait(HOLD_S)
    assert bench.waited(session) == [HOLD_S, 2 * HOLD_S, 3 * HOLD_S]
    # And a minute after the last it owes nothing.
    bench.wait(OWED_S + BURST_S)
    bench.send(session, tags(10))
    assert len(bench.replies[session]) == 4


def test_a_frame_that_was_long_in_coming_is_held_for_less() -> None:
    bench = Bench()
    session = bench.another()
    session.receive(tags(500), bench.now - 3)
    bench.producer.deliver()
    bench.wait(HOLD_S)
    assert bench.waited(session) == [2.0]


def test_a_reply_waits_for_the_storing_too() -> None:
    """A quota never says ok to what is not stored."""
    bench = Bench(stores=False)
    session = bench.another()
    bench.send(session, tags(30))
    bench.wait(10)
    assert bench.replies[session] == []
    bench.producer.deliver()
    assert bench.waited(session) == [10.0]


def test_after_40_s_without_the_broker_the_frame_is_kept_as_ever() -> None:
    bench = Bench(stores=False)
    session = bench.another()
    bench.send(session, tags(30))
    bench.wait(41, step=0.5)
    assert "kept and still being delivered" in bench.replies[session][0][1]["error"]
    bench.producer.deliver()
    assert bench.account.held == 0


def test_a_resend_of_a_held_frame_is_recognised() -> None:
    bench = Bench()
    session = bench.another()
    frame = tags(30)
    for _ in range(3):
        bench.send(session, frame)
    bench.wait(3)
    assert bench.waited(session) == [2.0]
    assert len(bench.producer.delivered) == 30


def test_a_client_that_does_not_wait_is_not_read() -> None:
    bench = Bench()
    session = bench.another()
    bench.send(session, tags(20))
    assert not session.crowded  # its pings are answered
    bench.send(session, tags(20))
    assert session.crowded
    bench.wait(1)
    assert not session.crowded
    bench.wait(2)
    assert bench.waited(session) == [1.0, 3.0]


def test_a_client_that_waits_for_nothing_within_its_quota_is_read() -> None:
    bench = Bench(stores=False)
    session = bench.another()
    for _ in range(9):
        bench.send(session, tags())
    assert not session.crowded


def test_a_client_that_sends_one_frame_again_and_again_is_not_read() -> None:
    bench = Bench()
    session = bench.another()
    frame = tags(30)
    bench.send(session, frame)
    for sent in range(MOST_RESENDS):
        assert not session.crowded, sent
        bench.send(session, frame)
    assert session.crowded
    bench.wait(2)
    assert not session.crowded


def test_a_drain_gives_held_replies_at_once() -> None:
    bench = Bench()
    session = bench.another()
    bench.send(session, tags(100))
    session.drain()
    bench.send(session, tags(100))
    assert bench.waited(session) == [0.0, 0.0]


def test_whoever_has_gone_is_forgotten_and_its_debt_is_not() -> None:
    bench = Bench()
    gone, other = bench.another(), bench.another()
    bench.send(gone, tags(20))
    gone.leave()
    assert gone not in bench.sessions.alive
    bench.send(other, tags(10))
    bench.wait(3)
    assert bench.waited(gone) == []
    assert bench.waited(other) == [2.0]


def test_an_account_knows_what_is_held_until_it_is_stored_or_refused() -> None:
    bench = Bench(stores=False)
    bench.producer.budget.capacity = 1
    session = bench.another()
    bench.producer.budget.queued = 0
    bench.send(session, tags(2))
    one = bench.account.held
    assert one == bench.producer.queued_bytes
    bench.send(session, tags(2))  # it finds no room
    assert bench.account.held == 2 * one
    bench.producer.deliver()
    assert bench.account.held == one
    bench.wait(41, step=0.5)
    bench.producer.deliver()
    assert bench.account.held == 0


@given(
    st.integers(1, 200),
    st.lists(st.lists(st.integers(1, 400), min_size=1, max_size=8), min_size=1, max_size=6),
    st.data(),
)
def test_every_reply_comes_in_time_and_together_they_keep_the_rate(
    rate: int, clients: list[list[int]], data: st.DataObject
) -> None:
    """Closed loops of any frames: each frame is answered once, at most HOLD_S (and the sweep) after it came, in its order; where the
    hold was long enough, no more was answered than the rate and the burst."""
    bench = Bench(Quota(messages=rate))
    left = {bench.another(): list(frames) for frames in clients}
    sent: dict[PacedSession, list[float]] = {session: [] for session in left}
    answered: list[tuple[float, int]] = []
    longest = 0.0
    while any(left.values()):
        for session, frames in left.items():
            if frames and len(bench.replies[session]) == len(sent[session]):
                sent[session].append(bench.now)
                count = frames.pop(0)
                answered.append((0.0, count))
                bench.send(session, tags(count))
                due = session.waiting[-1].due if session.waiting else bench.now
                longest = max(longest, due - bench.now)
                answered[-1] = (due, count)
        bench.wait(data.draw(st.sampled_from((0.05, 0.2, 1.0))), step=0.05)
    bench.wait(HOLD_S + 1, step=0.05)
    for session, times in sent.items():
        replies = bench.replies[session]
        assert [reply for _, reply in replies] == [OK] * len(times)
        for begun, (when, _) in zip(times, replies, strict=True):
            assert when - begun <= HOLD_S + 0.1
    if longest < HOLD_S:
        for due, _ in answered:
            spent = sum(count for when, count in answered if when <= due)
            assert spent <= rate * (due - 1000.0 + BURST_S) + 1e-6


async def test_the_pacer_wakes_whoever_is_due_first(autojump_clock: MockClock) -> None:
    """Also one that comes while it sleeps for another; within a tick, and several at once."""
    bench = Bench()
    bench.now = trio.current_time()
    pacer = Pacer(trio.current_time)
    woken: list[tuple[str, float]] = []
    begun = trio.current_time()

    class Woken:
        def __init__(self, name: str) -> None:
            self.name = name

        def flush(self) -> None:
            woken.append((self.name, round(trio.current_time() - begun, 3)))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pacer.run)
        pacer.wake(Woken("late"), begun + 4)
        await trio.sleep(1)
        pacer.wake(Woken("early"), begun + 2)
        pacer.wake(Woken("with it"), begun + 2.005)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert [name for name, _ in woken] == ["early", "with it", "late"]
    assert [when for _, when in woken] == [2.0, 2.0 + TICK_S, 4.0]
