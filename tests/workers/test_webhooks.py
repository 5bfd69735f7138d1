"""What a webhook is told and when: signed, at least once, in order for each run, and given up only when it is too old."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from standardwebhooks.webhooks import Webhook as Verifier

from matyan.broker.base import ControlEvent, DeadLetter
from matyan.errors import ConfigurationError, Unavailable
from matyan.keys import Keys, pack_value, range_of
from matyan.secret import Secret
from matyan.service import telemetry
from matyan.store.base import Store
from matyan.store.rocks import open_rocks
from matyan.workers.notices import Notices
from matyan.workers.webhooks import (
    EVENTS,
    Failure,
    Webhook,
    new_secret,
    open_client,
    post,
    read_webhooks,
)
from tests.fdb import ENGINES, fdb_store
from tests.receiver import Receiver, dripping, hangs_up, receiving, status
from tests.until import until

SECRET = new_secret(bytes(range(32)))


def event(kind: str = "run_finished", run: str = "r", at: float = 1.5) -> ControlEvent:
    return ControlEvent(kind, at, {"run_id": run})


# --- the file ------------------------------------------------------------------------------------

GOOD = f'[[webhook]]\nname = "chat"\nurl = "http://127.0.0.1:1/x?y=z"\nsecret = "{SECRET}"\n'


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "webhooks.toml"
    path.write_text(text)
    return str(path)


def test_a_file_of_webhooks(tmp_path: Path) -> None:
    """Defaults, a secret in a file beside it, and one in plain text."""
    (tmp_path / "other.secret").write_text("sixteen bytes ok\n")
    text = f"""{GOOD}
        [[webhook]]
        name = "other"
        url = "https://example.org"
        secret_file = "other.secret"
        events = ["run_stale", "tag_deleted"]
        timeout_s = 2
        give_up_s = 3600.5
    """
    chat, other = read_webhooks(written(tmp_path, text))
    assert (chat.name, chat.url) == ("chat", "http://127.0.0.1:1/x?y=z")
    assert (chat.events, chat.timeout_s, chat.give_up_s) == (frozenset(EVENTS), 10, 86_400)
    assert chat.key() == bytes(range(32))
    assert other.key() == b"sixteen bytes ok"
    assert (other.events, other.timeout_s, other.give_up_s) == (
        {"run_stale", "tag_deleted"},
        2,
        3600.5,
    )
    assert SECRET not in repr(chat)
    assert read_webhooks("") == ()
    assert read_webhooks(written(tmp_path, "# none yet")) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[[webhook]", "TOML"),
        ("webhook = 1", "[[webhook]]"),
        ("[webhook]\nname = 'x'", "[[webhook]]"),
        (GOOD + "\n[other]\n", "[[webhook]]"),
        (GOOD.replace("name", "nmae"), "is name meant?"),
        (GOOD.replace('"chat"', "7"), "name: expected a text"),
        (GOOD.replace("chat", "a b"), "name: expected at most 64"),
        (GOOD + GOOD, "one webhook called 'chat'"),
        (GOOD.replace("http://", "ftp://"), "url: expected"),
        (GOOD.replace("http://", "http://user:secret@"), "url: expected"),
        (GOOD.replace("127.0.0.1", "a" * 64), "url: it cannot be sent to"),
        (GOOD.replace("/x", r"/x\u007f"), "url: it cannot be sent to"),
        (GOOD + 'secret_file = "x"', "one of secret and secret_file"),
        (GOOD.replace(f'secret = "{SECRET}"', ""), "one of secret and secret_file"),
        (GOOD.replace(SECRET, "short"), "at least 16 bytes"),
        (GOOD.replace(SECRET, "whsec_no base64!"), "base64"),
        (GOOD.replace(f'secret = "{SECRET}"', 'secret_file = "none"'), "no file that there is"),
        (GOOD + 'events = ["run_finshed"]', "is run_finished meant?"),
        (GOOD + "events = []", "events: expected"),
        (GOOD + "events = [7]", "there is no '7'"),
        (GOOD + "timeout_s = 0", "timeout_s: expected seconds"),
        (GOOD + "timeout_s = true", "timeout_s: expected seconds"),
        (GOOD + "give_up_s = nan", "give_up_s: expected seconds"),
        (GOOD + "give_up_s = 'day'", "give_up_s: expected seconds"),
    ],
)
def test_a_wrong_file_is_a_sentence_that_shows_no_secret(
    tmp_path: Path, text: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_webhooks(written(tmp_path, text))
    assert said in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "webhooks.toml" in str(caught.value)


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"MATYAN_WEBHOOKS_FILE=.*no file that there is"):
        read_webhooks(str(tmp_path / "none"))


SENT_BY = {
    "SSL_CERT_FILE": ("/none/of/these.pem", "/etc/passwd"),
    "HTTPS_PROXY": ("ftp://user:sesame@proxy:21", "http://[::"),
    "all_proxy": ("socks5h://127.0.0.1:1080",),
    "NO_PROXY": ("localhost,[::1]",),
}


@pytest.mark.parametrize(
    ("variable", "value"), [(name, value) for name, all_ in SENT_BY.items() for value in all_]
)
async def test_an_environment_that_nothing_can_be_sent_with_is_a_sentence_at_the_start(
    variable: str,
    value: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Store,
) -> None:
    """And where nobody is to be told it is nobody's concern, not even where something waits for one who left the file."""
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError, match=variable) as caught:
        read_webhooks(written(tmp_path, GOOD))
    assert "sesame" not in str(caught.value)
    gone = Scene(store, Webhook("gone", "http://127.0.0.1:1", Secret(SECRET)))
    await Notices(gone.webhooks, gone.open, "control-events", gone.bury).put(event())
    monkeypatch.setattr(Webhook, "give_up_s", 0.001)
    scene = Scene(store)
    async with scene.at_work():
        await scene.nothing_waits()
    assert len(scene.buried) == 1


# --- one message ---------------------------------------------------------------------------------


async def sent(url: str, one: ControlEvent, timeout_s: float = 30) -> Failure | None:
    async with open_client() as client:
        webhook = Webhook("chat", url, Secret(SECRET), timeout_s=timeout_s)
        return await post(client, webhook, one.to_bytes(), time.time())


async def test_a_message_is_what_standard_webhooks_says() -> None:
    """That specification's own library takes it, and no other secret's; the same event has the same id, another one another."""
    with receiving() as receiver:
        for one in (event(), event(), event(at=2.5)):
            assert await sent(receiver.url("/a"), one) is None
    first, again, other = receiver.got
    told: Any = Verifier(SECRET).verify(first.body, first.headers)
    assert told == {
        "type": "run_finished",
        "timestamp": "1970-01-01T00:00:01.500000Z",
        "data": {"run_id": "r"},
    }
    with pytest.raises(Exception, match="No matching signature"):
        Verifier(new_secret(bytes(32))).verify(first.body, first.headers)
    assert first.headers["content-type"] == "application/json"
    assert first.headers["webhook-id"] == again.headers["webhook-id"]
    assert first.headers["webhook-id"] != other.headers["webhook-id"]


@pytest.mark.parametrize("code", [200, 201, 204, 299])
async def test_any_success_takes_a_message(code: int) -> None:
    with receiving(a=status(code)) as receiver:
        assert await sent(receiver.url("/a"), event()) is None


async def test_whatever_else_comes_is_a_failure_with_its_reason() -> None:
    """Nobody is sent elsewhere, and nobody is waited for longer than was said."""
    with receiving() as receiver:
        receiver.answers = {
            "/moved": status(307, Location=receiver.url("/elsewhere")),
            "/broken": status(500),
            "/busy": status(503, Retry_After="7"),
            "/busy-for-ever": status(429, Retry_After="999999999"),
            "/later": status(503, Retry_After="Fri, 31 Dec 1999 23:59:59 GMT"),
            "/hangs-up": hangs_up,
            "/drips": dripping,
        }
        seen = {path: await sent(receiver.url(path), event(), 1) for path in receiver.answers}
    assert "/elsewhere" not in [got.path for got in receiver.got]
    reasons = {path: (one.reason, one.wait_s) for path, one in seen.items() if one is not None}
    moved = f"answered 307, to {receiver.url('/elsewhere')}: name that URL instead"
    assert reasons.pop("/moved") == (moved, 0)
    assert reasons.pop("/broken") == ("answered 500", 0)
    assert reasons.pop("/busy") == ("answered 503", 7)
    assert reasons.pop("/busy-for-ever") == ("answered 429", 3_600)
    assert reasons.pop("/later") == ("answered 503", 0)
    assert reasons.pop("/hangs-up")[0].startswith("no answer (RemoteProtocolError")
    assert reasons.pop("/drips") == ("no answer in 1 s", 0)
    gone = await sent(receiver.url("/"), event())
    assert gone is not None
    assert gone.reason.startswith("no answer (ConnectError")


async def test_the_rest_of_an_answer_is_not_waited_for() -> None:
    def endless(got: Any, handler: Any) -> None:
        handler.send_response(200)
        handler.end_headers()
        dripping(got, handler)

    with receiving(a=endless) as receiver:
        assert await sent(receiver.url("/a"), event(), 5) is None


# --- what waits ----------------------------------------------------------------------------------


class Scene:
    """Notices on a real store, which can be away."""

    def __init__(self, store: Store, *webhooks: Webhook) -> None:
        self.store, self.keys = store, Keys(store)
        self.webhooks = webhooks
        self.buried: list[DeadLetter] = []
        self.refusals = 0

    async def open(self) -> tuple[Store, Keys]:
        await trio.lowlevel.checkpoint()
        if self.refusals:
            self.refusals -= 1
            raise Unavailable("The store is away.")
        return self.store, self.keys

    async def bury(self, letters: Sequence[DeadLetter]) -> None:
        await trio.lowlevel.checkpoint()
        self.buried += letters

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[Notices]:
        """As one process does; what it has not delivered stays."""
        notices = Notices(self.webhooks, self.open, "control-events", self.bury)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(notices.deliver)
            yield notices
            nursery.cancel_scope.cancel()

    async def waiting(self) -> int:
        begin, end = range_of(self.keys.webhook_events_prefix())
        return len(await self.store.read(lambda snap: [*snap.scan(begin, end)]))

    async def waits_for(self, rows: int) -> bool:
        return await self.waiting() == rows

    async def nothing_waits(self) -> None:
        await until(partial(self.waits_for, 0))


@pytest.fixture(params=["rocks", *ENGINES])
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Store]:
    if request.param == "fdb":
        async with fdb_store() as shared:
            yield shared
        return
    opened = open_rocks(tmp_path / "store")
    yield opened
    await opened.aclose()


def hook(receiver: Receiver, path: str = "/a", **fields: Any) -> Webhook:
    return Webhook(path[1:], receiver.url(path), Secret(SECRET), **fields)


async def test_each_webhook_is_told_what_it_wants_in_order(store: Store) -> None:
    kinds = [*EVENTS[:3], "run_finished", "run_deleted"]
    with receiving() as receiver:
        picky = hook(receiver, "/picky", events=frozenset({"run_deleted"}))
        scene = Scene(store, hook(receiver), picky)
        async with scene.at_work() as notices:
            for number, kind in enumerate(kinds):
                await notices.put(event(kind, at=number))
            await scene.nothing_waits()
    assert receiver.at("/a") == [(kind, "r") for kind in kinds]
    assert receiver.at("/picky") == [("run_deleted", "r")] * 2


async def test_what_was_put_there_is_delivered_after_any_end(store: Store) -> None:
    """Put by a process that delivered nothing, half delivered by another one; nothing is missing, and the order is kept."""
    runs = [f"run{number}" for number in range(5)]

    def tires(got: Any, handler: Any) -> None:
        status(200 if len(receiver.got) <= 20 else 500)(got, handler)

    with receiving(a=tires) as receiver:
        scene = Scene(store, hook(receiver))
        notices = Notices(scene.webhooks, scene.open, "control-events", scene.bury)
        for number in range(40):
            await notices.put(event(run=runs[number % 5], at=number))
        assert await scene.waiting() == 40
        async with scene.at_work():
            await until(lambda: len(receiver.got) > 20)
        assert 0 < await scene.waiting() < 40
        receiver.answers.clear()
        async with scene.at_work():
            await scene.nothing_waits()
    for run in runs:
        moments = [json.loads(got.body)["timestamp"] for got in receiver.got if got.told[1] == run]
        assert moments == sorted(moments)
        assert len({*moments}) == 8


class SlowToSay:
    """A store that says late that a transaction is committed."""

    def __init__(self, store: Store) -> None:
        self.read = store.read
        self._store = store
        self.committed = trio.Event()
        self.may_say = trio.Event()

    async def transact(self, body: Any) -> Any:
        result = await self._store.transact(body)
        self.committed.set()
        await self.may_say.wait()
        return result


async def test_a_number_that_is_given_anew_is_not_passed_over(store: Store) -> None:
    """When a row is gone its number is the next one's; what follows may have been refused for a day."""

    def picky(got: Any, handler: Any) -> None:
        status(500 if got.told[1] == "bad" else 200)(got, handler)

    slow = SlowToSay(store)
    with receiving(a=picky) as receiver:
        scene = Scene(store, hook(receiver))

        async def slowly() -> Any:
            return slow, scene.keys

        there = Notices(scene.webhooks, slowly, "control-events", scene.bury)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(there.deliver)
            here = Notices(scene.webhooks, scene.open, "control-events", scene.bury)
            await here.put(event(run="first"))
            there.news.unpark_all()
            await slow.committed.wait()
            await here.put(event(run="second"))
            await here.put(event(run="bad"))
            there.put_so_far += 1
            there.news.unpark_all()
            await trio.testing.wait_all_tasks_blocked(0.2)
            slow.may_say.set()
            await until(lambda: ("run_finished", "second") in receiver.at("/a"), 30)
            await until(lambda: ("run_finished", "bad") in receiver.at("/a"), 30)
            nursery.cancel_scope.cancel()
    assert [run for _, run in receiver.at("/a")].count("first") == 1


async def test_a_run_that_is_refused_holds_up_no_other(store: Store) -> None:
    def picky(got: Any, handler: Any) -> None:
        status(500 if got.told[1] == "bad" else 200)(got, handler)

    with receiving(a=picky) as receiver:
        scene = Scene(store, hook(receiver), hook(receiver, "/b"))
        async with scene.at_work() as notices:
            await notices.put(event(run="bad"))
            await notices.put(event("run_deleted", run="bad", at=2))
            for number in range(30):
                await notices.put(event(run=f"good{number}"))
            await until(lambda: len({run for _, run in receiver.at("/a")}) == 31)
            await until(lambda: len(receiver.at("/b")) == 32)
            await until(lambda: receiver.at("/a").count(("run_finished", "bad")) > 2)
            # What follows of the run waits for its turn.
            assert ("run_deleted", "bad") not in receiver.at("/a")
            receiver.answers.clear()
            await scene.nothing_waits()
    bad = [told for told in receiver.at("/a") if told[1] == "bad"]
    assert bad[-1] == ("run_deleted", "bad")
    assert bad.count(("run_deleted", "bad")) == 1


async def test_more_than_memory_holds_waits_in_the_store(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("matyan.workers.notices._MOST_HELD", 4)
    with receiving(a=status(500)) as receiver:
        scene = Scene(store, hook(receiver))
        async with scene.at_work() as notices:
            for number in range(25):
                await notices.put(event(run=f"run{number}"))
            await until(lambda: len({run for _, run in receiver.at("/a")}) == 4)
            receiver.answers.clear()
            await scene.nothing_waits()
    assert len({run for _, run in receiver.at("/a")}) == 25


async def test_what_is_never_taken_becomes_a_dead_letter_when_it_is_old(
    store: Store,
) -> None:
    """Not before it was tried some times; then what follows of its run has its turn."""
    before = telemetry.DEAD_LETTERS.labels("control-events")._value.get()
    with receiving(a=status(500)) as receiver:
        scene = Scene(store, hook(receiver, give_up_s=0.001))
        async with scene.at_work() as notices:
            await notices.put(event())
            await until(lambda: bool(scene.buried))
            assert len(receiver.got) == 5
            receiver.answers.clear()
            await notices.put(event("run_deleted"))
            await scene.nothing_waits()
    (letter,) = scene.buried
    assert (letter.topic, letter.error_class, letter.value) == (
        "control-events",
        "webhook",
        event().to_bytes(),
    )
    assert letter.error_text == "webhook a: answered 500"
    assert receiver.at("/a")[-1] == ("run_deleted", "r")
    assert telemetry.DEAD_LETTERS.labels("control-events")._value.get() == before + 1


async def test_a_webhook_that_left_the_file_leaves_no_rows_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are kept as long as those of one that is away, in case it comes back."""
    with receiving() as receiver:
        scene = Scene(store, hook(receiver), hook(receiver, "/gone"))
        notices = Notices(scene.webhooks, scene.open, "control-events", scene.bury)
        await notices.put(event())
        scene.webhooks = (hook(receiver),)
        async with scene.at_work():
            await until(lambda: bool(receiver.at("/a")))
            await until(
                lambda: telemetry.WEBHOOK_DELIVERIES.labels("gone", "failed")._value.get() > 1
            )
            await until(partial(scene.waits_for, 1))
        monkeypatch.setattr(Webhook, "give_up_s", 0.001)
        async with scene.at_work():
            await scene.nothing_waits()
    (letter,) = scene.buried
    assert "there is no webhook of this name" in letter.error_text


async def test_a_store_that_is_away_and_a_damaged_row_stop_nobody(store: Store) -> None:
    """What is damaged is a dead letter."""
    with receiving() as receiver:
        scene = Scene(store, hook(receiver))
        keys = scene.keys

        def damage(tr: Any) -> None:
            tr.set(keys.webhook_event("a", 0), b"\xc1")
            tr.set(keys.webhook_event("a", 1), pack_value([b"no event", 1.0]))
            tr.set(keys.webhook_events_prefix("a") + b"\xff", b"")

        await store.transact(damage)
        scene.refusals = 3
        async with scene.at_work() as notices:
            await until(lambda: not scene.refusals)
            await notices.put(event())
            await until(lambda: receiver.at("/a") == [("run_finished", "r")])
            await until(lambda: len(scene.buried) == 2)
    assert all("damaged" in letter.error_text for letter in scene.buried)


async def test_without_anybody_to_tell_nothing_is_written(store: Store) -> None:
    with receiving() as receiver:
        scene = Scene(store, hook(receiver, events=frozenset({"tag_deleted"})))
        notices = Notices(scene.webhooks, scene.open, "control-events", scene.bury)
        await notices.put(event())
        assert await scene.waiting() == 0
