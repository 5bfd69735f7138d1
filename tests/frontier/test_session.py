"""The session's rules (contract, section 1), without a socket and with a clock that the test owns."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from matyan.errors import RecordsRefused, Unavailable
from matyan.frontier.session import MAX_WAITING_BYTES, MAX_WAITING_FRAMES, OK, Session, Sessions
from tests.frontier.hand import HandProducer

RUN = "run-1"


def tag(name: str) -> bytes:
    return json.dumps({"type": "add_tag", "run_id": "other", "tag_name": name}).encode()


def names(records: list[bytes]) -> list[str]:
    return [json.loads(record)["payload"]["tag_name"] for record in records]


@dataclass
class Bench:
    """A desk, one session and what it replied."""

    producer: HandProducer = field(default_factory=HandProducer)
    now: float = 1000.0
    replies: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.producer, lambda: self.now)
        self.session = self.another(self.replies)

    def another(self, replies: list[dict[str, Any]], run: str = RUN) -> Session:
        return Session(self.sessions, run, lambda reply: replies.append(json.loads(reply)))

    def receive(self, data: bytes) -> None:
        self.session.receive(data, self.now)

    def wait(self, seconds: float) -> None:
        """Time goes by, swept twice a second as the frontier does."""
        end = self.now + seconds
        while self.now < end:
            self.now = min(end, self.now + 0.5)
            self.sessions.sweep(self.now)

    @property
    def handed(self) -> list[str]:
        """The tags that are in the producer or delivered."""
        waiting = [value for _, values, _ in self.producer.frames for value in values]
        return names(self.producer.delivered + waiting)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_frame_is_answered_when_it_is_delivered(bench: Bench) -> None:
    """No reply before the producer says so, then exactly the contract's text."""
    bench.receive(tag("a"))
    assert bench.replies == []
    raw: list[bytes] = []
    bench.session._send = raw.append
    bench.producer.deliver()
    assert raw == [OK] == [b'{"status":"ok","error":null}']


def test_the_url_names_the_run(bench: Bench) -> None:
    """The body's run id is not the one that is published, nor the key."""
    bench.receive(tag("a"))
    (key, (record,), _) = bench.producer.frames[0]
    assert key == RUN.encode()
    assert json.loads(record)["run_id"] == RUN


def test_an_empty_array_is_ok(bench: Bench) -> None:
    bench.receive(b"[]")
    assert bench.replies == [{"status": "ok", "error": None}]
    assert bench.producer.frames == []


def test_the_valid_items_of_a_frame_are_published(bench: Bench) -> None:
    """The bad ones are named in the reply, which waits for the good ones."""
    items = [json.loads(tag("a")), {"type": "add_tag"}, 5, json.loads(tag("b"))]
    bench.receive(json.dumps(items).encode())
    assert bench.replies == []
    bench.producer.deliver()
    assert bench.handed == ["a", "b"]
    (reply,) = bench.replies
    assert reply["status"] == "error"
    assert reply["error"].startswith("2 of 4 messages rejected: ")
    assert reply["accepted"] == 2
    assert [row["index"] for row in reply["rejected"]] == [1, 2]


def test_a_record_that_the_broker_will_never_take_is_a_rejected_item(bench: Bench) -> None:
    """Its neighbours are delivered: so it is named with its place in the frame, beside what the validation refused."""
    items = [{"type": "add_tag"}, *(json.loads(tag(name)) for name in "abc")]
    bench.receive(json.dumps(items).encode())
    _, values, _ = bench.producer.frames[0]
    bench.producer.deliver(error=RecordsRefused("too large", frozenset(values[1:2])))
    (reply,) = bench.replies
    assert (reply["status"], reply["accepted"]) == ("error", 2)
    assert reply["error"].startswith("2 of 4 messages rejected: ")
    assert [row["index"] for row in reply["rejected"]] == [0, 2]
    assert reply["rejected"][1] == {"index": 2, "type": "add_tag", "reason": "too large"}


@pytest.mark.parametrize("data", [b"{", b"", b"nonsense", b'{"type": "add_tag"'])
def test_what_is_not_json_is_answered_at_once(bench: Bench, data: bytes) -> None:
    bench.receive(data)
    (reply,) = bench.replies
    assert reply["status"] == "error"
    assert reply["accepted"] == 0
    assert "JSON" in reply["error"]


@pytest.mark.parametrize(
    "data", [b"\xff", b'{"type":"add_tag","tag_name":"\xc3\x28"}', b'["\xed\xa0\x80"]']
)
def test_what_is_not_utf8_is_the_connections_affair(bench: Bench, data: bytes) -> None:
    """RFC 6455, 8.1: the connection is failed, so there is no reply."""
    with pytest.raises(UnicodeDecodeError):
        bench.receive(data)
    assert bench.producer.frames == []


def test_replies_come_in_the_order_of_the_frames(bench: Bench) -> None:
    """A frame that is answered at once waits for the one before it."""
    bench.receive(tag("a"))
    bench.receive(b"[]")
    bench.receive(b"{")
    bench.receive(tag("b"))
    assert bench.replies == []
    bench.producer.deliver()
    assert [reply["status"] for reply in bench.replies] == ["ok", "ok", "error"]
    bench.producer.deliver()
    assert len(bench.replies) == 4


def test_a_delivery_out_of_order_does_not_overtake(bench: Bench) -> None:
    bench.receive(tag("a"))
    bench.receive(json.dumps({"type": "add_tag"}).encode())
    bench.receive(tag("b"))
    bench.producer.frames.reverse()
    bench.producer.deliver()
    assert bench.replies == []
    bench.producer.deliver()
    assert [reply["status"] for reply in bench.replies] == ["ok", "error", "ok"]


def test_a_delivery_that_failed_is_told(bench: Bench) -> None:
    bench.receive(tag("a"))
    bench.producer.deliver(error=Unavailable("Kafka did not take 1 of 1 records: too old."))
    told = "not stored: Kafka did not take 1 of 1 records: too old"
    assert bench.replies == [{"status": "error", "error": told}]


@pytest.mark.parametrize("age", [0.0, 0.9, 15.0, 30.1, 39.0])
def test_a_resend_is_neither_published_nor_answered(bench: Bench, age: float) -> None:
    """Byte-identical to the frame that waits, however long it has been waiting."""
    bench.receive(tag("a"))
    bench.wait(age)
    bench.receive(tag("a"))
    assert len(bench.producer.frames) == 1
    bench.producer.deliver()
    assert bench.replies == [{"status": "ok", "error": None}]


def test_another_frame_of_the_same_length_is_no_resend(bench: Bench) -> None:
    bench.receive(tag("a"))
    bench.wait(15)
    bench.receive(tag("b"))
    assert bench.handed == ["a", "b"]


def test_a_resend_is_known_on_its_connection_only(bench: Bench) -> None:
    other: list[dict[str, Any]] = []
    bench.receive(tag("a"))
    bench.another(other).receive(tag("a"), bench.now)
    bench.producer.deliver(2)
    assert len(bench.replies) == len(other) == 1


@pytest.mark.parametrize(
    ("took", "later", "copy"),
    [
        (13.5, 0.1, False),
        (14.0, 0.0, True),
        (15.05, 0.01, True),
        (30.2, 1.9, True),
        (15.05, 2.1, False),
        (0.1, 0.1, False),
    ],
)
def test_a_copy_that_crosses_the_reply(bench: Bench, took: float, later: float, copy: bool) -> None:
    """After a reply that took 14 s or more, the same frame within 2 s is what the SDK sent before it came."""
    bench.receive(tag("a"))
    bench.wait(took)
    bench.producer.deliver()
    bench.wait(later)
    bench.receive(tag("a"))
    assert len(bench.producer.frames) == (0 if copy else 1)
    assert len(bench.replies) == 1
    bench.receive(tag("b"))
    bench.producer.deliver(len(bench.producer.frames))
    assert len(bench.replies) == (2 if copy else 3)


def test_after_40_s_the_frame_is_answered_and_still_delivered(bench: Bench) -> None:
    """The SDK's sender lives on; the late delivery is not answered again."""
    bench.receive(tag("a"))
    bench.wait(39.5)
    assert bench.replies == []
    bench.wait(0.5)
    (reply,) = bench.replies
    assert reply["status"] == "error"
    assert reply["error"].startswith("not stored yet: ")
    assert reply["error"].endswith("; kept and still being delivered")
    bench.wait(100)
    bench.producer.deliver()
    assert bench.handed == ["a"]
    assert len(bench.replies) == 1


def test_how_long_the_oldest_frame_has_waited_is_known_while_no_reply_is_sent(
    bench: Bench,
) -> None:
    """Of all sessions; an answer ends the wait, and so does the reply to a client that has gone."""
    assert bench.sessions.waiting(bench.now) == (0, 0.0)
    bench.receive(tag("a"))
    bench.now += 3
    other = bench.another([])
    other.receive(tag("b"), bench.now)
    bench.receive(tag("c"))
    bench.now += 2
    assert bench.sessions.waiting(bench.now) == (3, 5.0)
    bench.producer.deliver(1)
    assert bench.sessions.waiting(bench.now) == (2, 2.0)
    other.leave()
    bench.wait(40)
    assert bench.sessions.waiting(bench.now) == (0, 0.0)


def test_a_copy_may_cross_the_answer_of_40_s(bench: Bench) -> None:
    bench.receive(tag("a"))
    bench.wait(40)
    bench.wait(1)
    bench.receive(tag("a"))
    assert len(bench.producer.frames) == 1
    assert len(bench.replies) == 1


def test_the_answer_of_40_s_names_the_rejected_items_too(bench: Bench) -> None:
    bench.receive(json.dumps([json.loads(tag("a")), 5]).encode())
    bench.wait(40)
    (reply,) = bench.replies
    assert reply["error"].startswith("not stored yet: ")
    assert "1 of 2 messages rejected" in reply["error"]
    assert (reply["accepted"], len(reply["rejected"])) == (1, 1)


def test_a_frame_waits_for_room_and_keeps_its_place() -> None:
    """Behind a full queue frames are handed over later, in order, resends recognised."""
    bench = Bench(HandProducer(capacity_bytes=300))
    for name in "abcd":
        bench.receive(tag(name))
    bench.receive(tag("c"))
    assert bench.handed == ["a", "b"]
    bench.producer.deliver()
    assert bench.handed == ["a", "b", "c"]
    bench.producer.deliver()
    bench.producer.deliver(2)
    assert bench.handed == ["a", "b", "c", "d"]
    assert bench.replies == [{"status": "ok", "error": None}] * 4
    assert bench.sessions.budget.parked == 0


def test_sessions_wait_for_room_first_come_first_served() -> None:
    bench = Bench(HandProducer(capacity_bytes=150))
    others: list[dict[str, Any]] = []
    second = bench.another(others)
    bench.receive(tag("a"))
    second.receive(tag("b"), bench.now)
    bench.receive(tag("c"))
    for _ in range(3):
        bench.producer.deliver()
    assert bench.handed == ["a", "b", "c"]


def test_a_frame_that_finds_no_room_for_40_s_is_refused() -> None:
    """The reply says so, and the frame is not published afterwards."""
    bench = Bench(HandProducer(capacity_bytes=150))
    bench.receive(tag("a"))
    bench.wait(1)
    bench.receive(tag("b"))
    bench.wait(40)
    assert [reply["status"] for reply in bench.replies] == ["error", "error"]
    assert "kept" in bench.replies[0]["error"]
    assert "refused, not stored: the queue of 150 bytes is full" in bench.replies[1]["error"]
    bench.producer.deliver()
    assert bench.handed == ["a"]
    assert bench.sessions.budget.parked == bench.sessions.parked_records() == 0


def test_a_refused_frame_leaves_nothing_behind() -> None:
    """Neither in the queue for room nor in the budget, however many there were."""
    bench = Bench(HandProducer(capacity_bytes=250))
    for name in "ab":
        bench.receive(tag(name))
    held = bench.sessions.budget.held
    for index in range(1000):
        bench.receive(tag(f"{index:04}" + "x" * 500))
    bench.wait(41)
    assert len(bench.sessions._parked) == 0
    bench.receive(tag("c"))
    assert len(bench.sessions._parked) == 1
    bench.wait(41)
    assert len(bench.sessions._parked) == 0
    assert bench.sessions.budget.held == held
    bench.producer.deliver(2)
    assert bench.sessions.budget.held == 0


def test_what_waits_for_room_is_in_the_budget() -> None:
    """One count for what is queued and what waits to be."""
    bench = Bench(HandProducer(capacity_bytes=300))
    for name in "abc":
        bench.receive(tag(name))
    queued = bench.producer.queued_bytes
    assert bench.sessions.budget.parked > 0
    assert bench.sessions.budget.held == queued + bench.sessions.budget.parked
    bench.producer.deliver(2)
    assert bench.sessions.budget.held == bench.producer.queued_bytes > 0
    bench.producer.deliver()
    assert bench.sessions.budget.held == 0


def test_a_connection_with_too_many_frames_is_crowded(bench: Bench) -> None:
    """Then its socket is no longer read: what one connection may have waiting is bounded."""
    for index in range(MAX_WAITING_FRAMES):
        assert not bench.session.crowded
        bench.receive(tag(f"{index}"))
    assert bench.session.crowded
    bench.producer.deliver()
    assert not bench.session.crowded


def test_one_large_frame_does_not_silence_its_connection() -> None:
    """The SDK's pings must be answered while a frame waits, whatever its size; a second one is too many."""
    bench = Bench(HandProducer(capacity_bytes=1 << 30))
    big = [json.loads(tag("x" * 500))] * (MAX_WAITING_BYTES // 500)
    bench.receive(json.dumps(big).encode())
    assert not bench.session.crowded
    bench.receive(tag("b"))
    assert bench.session.crowded


def test_a_client_that_goes_loses_nothing_that_was_taken() -> None:
    """In the producer or waiting for room: both go on being delivered, and nobody is answered."""
    bench = Bench(HandProducer(capacity_bytes=150))
    bench.receive(tag("a"))
    bench.receive(tag("b"))
    bench.session.leave()
    bench.producer.deliver()
    bench.producer.deliver()
    assert bench.handed == ["a", "b"]
    assert bench.replies == []
    assert bench.sessions.alive == set()
