"""Our frontier and the reference's, `matyan-frontier` 0.3.0, on one topic: the same frames become the same records."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trio
from confluent_kafka import Message
from matyan_api_models.kafka import IngestionMessage
from matyan_api_models.ws import WsRequestTAdapter
from matyan_client.transport.ws import WsTransport
from websockets.sync.client import connect

from dev.broker import Broker
from dev.environments import reference_frontier
from dev.process import free_ports
from matyan import reader
from tests.faults.load import OK
from tests.kafka.topics import create_topic, read_topic
from tests.needs import needed
from tests.services import frontier, ingest_worker, kafka
from tests.tracker import started
from tests.until import until

OURS, THEIRS = "written-by-ours", "written-by-theirs"
RUN = "the-run"
"""What stands in frames for the run that they are sent to, and in what is compared."""
RUN_IDS = [
    *("a", "0", "-", "_", "run.1", "team:run", "A" * 128, "0123456789abcdef0123456789abcdef"),
    *(f"{number:x}-{'x' * (number % 17)}" for number in range(60)),
]


class Scribe(WsTransport):
    """The SDK's own words for each kind of message, kept instead of sent."""

    def __init__(self) -> None:
        self._run_id = RUN
        self.messages: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)


def every_kind() -> list[dict[str, Any]]:
    """What the SDK writes, every kind of message with and without its optional members."""
    sdk = Scribe()
    sdk.send_create_run()
    sdk.send_create_run(force_resume=True)
    sdk.send_set_run_property(name="naïve ✓ \U0001f9ea", description='a "b"\n\t\\ \x7f\u2028')
    sdk.send_set_run_property(archived=False, experiment="実験")
    sdk.send_log_hparams({"hparams": {"lr": 1e-07, "β": [1, 2.0, None, True, {"x": []}], "": {}}})
    sdk.send_log_hparams({"big": {"least": -(2**63), "most": 2**63 - 1}})
    for tag in ("kept", "étiquette", "dropped"):
        sdk.send_add_tag(tag)
    sdk.send_remove_tag("dropped")
    for step, value in enumerate([0.1, -0.0, 5e-324, 1.7976931348623157e308, 1 / 3, 3.0]):
        sdk.send_log_metric("loss", value, step, epoch=step // 2, context={"subset": "tëst"})
    sdk.send_log_metric("loss", 1.0, 7, context={"b": [1, {"c": None}], "a": 2})
    for step, value in enumerate([math.nan, math.inf, -math.inf]):
        sdk.send_log_metric("odd", value, step, dtype="int")
    text = {"type": "text", "data": "日本語"}
    sdk.send_log_custom_object("text", text, 3, 1, {"subset": "test"}, "text")
    sdk.send_log_custom_object("any", {"type": "figure", "data": {"y": [1, 2.5]}})
    sdk.send_log_terminal_line("\x1b[1mbold\x1b[0m 100%", 0)
    sdk.send_log_record("wörld", 20, 1767323045.5, ["train.py", 7], {"n": 1, "of": [1.5]})
    sdk.send_log_record("plain", 40, 1767323046.5)
    sdk.send_blob_ref(f"{RUN}/a/b c.bin", "a/b c.bin")
    sdk.send_blob_ref(f"{RUN}/p.png", "p.png", "image/png")
    sdk.send_finish_run()
    return sdk.messages


def as_theirs(kind: str, payload: dict[str, Any]) -> dict[str, Any]:
    """Our payload as the reference writes it: where the two differ on purpose (contract, section 7)."""
    if kind in ("finish_run", "log_custom_object"):
        return {name: value for name, value in payload.items() if name != "client_datetime"}
    if kind == "log_metric" and not math.isfinite(payload["value"]):
        return payload | {"value": None}
    return payload


@contextmanager
def reference(broker: Broker, topic: str) -> Iterator[str]:
    """The URL of a running frontier of the reference's. Skips with the reason where it cannot be run, or fails
    when MATYAN_TEST_REQUIRE_REFERENCE is set."""
    command = needed(reference_frontier, "MATYAN_TEST_REQUIRE_REFERENCE")
    (port,) = free_ports(1)
    words = [*command, "--host", "127.0.0.1", "--port", str(port)]
    with started(words, "Uvicorn running", **kafka(broker, topic)):
        yield f"http://127.0.0.1:{port}"


def say(url: str, run: str, frames: list[str]) -> None:
    with connect(f"{url.replace('http', 'ws')}/api/v1/ws/runs/{run}") as socket:
        for frame in frames:
            socket.send(frame.replace(RUN, run))
            assert json.loads(socket.recv(60)) == OK


class Both:
    """A topic into which both have written the same frames."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.broker = broker
        self.topic = topic
        self.sent = every_kind()
        self.begun = datetime.now(UTC)
        # As the SDK does: one message alone is an object, more are an array.
        first, *rest = self.sent
        frames = [json.dumps(first), json.dumps(rest)]
        tag = json.dumps({"type": "add_tag", "run_id": "-", "tag_name": "t"})
        with frontier(broker, topic) as ours, reference(broker, topic) as theirs:
            for url, run in ((ours.url, OURS), (theirs, THEIRS)):
                say(url, run, frames)
                # Side by side: theirs takes half a second for each.
                with ThreadPoolExecutor(8) as pool:
                    for _ in pool.map(lambda other, url=url: say(url, other, [tag]), RUN_IDS):
                        pass
        self.messages = read_topic(broker, topic)

    def of(self, run: str) -> list[Message[bytes, bytes]]:
        return [message for message in self.messages if message.key() == run.encode()]

    def records(self, run: str) -> list[dict[str, Any]]:
        return [
            json.loads((message.value() or b"").decode().replace(run, RUN))
            for message in self.of(run)
        ]


@pytest.fixture(scope="module")
def both(broker: Broker) -> Both:
    topic = "written-by-both"
    create_topic(broker, topic, 6)
    create_topic(broker, f"{topic}-dlq")
    return Both(broker, topic)


def same(one: object, other: object) -> bool:
    """Equality in which NaN equals NaN, and 1, 1.0 and True are not the same."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def test_records_are_the_references(both: Both) -> None:
    """Same order, types, keys and payloads, member by member; what differs is what the contract names."""
    ours, theirs = both.records(OURS), both.records(THEIRS)
    assert [record["type"] for record in ours] == [message["type"] for message in both.sent]
    for mine, their in zip(ours, theirs, strict=True):
        assert list(mine) == list(their) == ["type", "run_id", "timestamp", "payload"]
        assert mine["type"] == their["type"]
        assert same(as_theirs(mine["type"], mine["payload"]), their["payload"])
        assert mine["run_id"] == their["run_id"] == RUN
        for record in (mine, their):
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", record["timestamp"])
    assert [message.headers() for message in both.messages] == [None] * len(both.messages)


def test_our_records_are_read_by_the_reference_s_models(both: Both) -> None:
    """The envelope, and the payload as the request that it came from: the models see what was sent."""
    for message, record, sent in zip(both.of(OURS), both.records(OURS), both.sent, strict=True):
        model = IngestionMessage.model_validate_json(
            (message.value() or b"").replace(OURS.encode(), RUN.encode())
        )
        assert (model.type, model.run_id) == (sent["type"], RUN)
        assert timedelta(0) <= model.timestamp - both.begun < timedelta(minutes=5)
        assert same(model.payload, record["payload"])
        read = WsRequestTAdapter.validate_python(
            {"type": model.type, "run_id": RUN, **model.payload}
        )
        asked = WsRequestTAdapter.validate_python(sent)
        assert same(read.model_dump(mode="json"), asked.model_dump(mode="json"))


def test_a_run_has_the_same_partition(both: Both) -> None:
    """Whoever writes it."""
    partitions = {run: [message.partition() for message in both.of(run)] for run in RUN_IDS}
    assert {run: len(of) for run, of in partitions.items()} == dict.fromkeys(RUN_IDS, 2)
    assert {run: of for run, of in partitions.items() if len(set(of)) > 1} == {}
    assert {partition for of in partitions.values() for partition in of} == set(range(6))


def stored(opened: reader.Reader, run: str) -> dict[str, Any]:
    """What does not depend on when its records were taken."""
    shown = opened.show(run)
    rows: list[Any] = []
    for block in opened.blocks(run):
        if block.points is not None:
            points = zip(block.points.steps, block.points.epochs, block.points.values, strict=True)
            rows += [(block.name, block.context, block.dtype, *point) for point in points]
        for step, epoch, _, value in block.objects or []:
            rows.append((block.name, block.context, block.dtype, step, epoch, value))
    meta = {name: shown["meta"][name] for name in ("name", "description", "is_archived", "active")}
    logs = [(row["kind"], row["step"], row["message"], row["level"]) for row in opened.logs(run)]
    kept = ("experiment", "tags", "attrs", "contexts", "sequences")
    found = {"meta": meta, "rows": rows, "logs": sorted(logs)} | {
        name: shown[name] for name in kept
    }
    nameless: dict[str, Any] = json.loads(json.dumps(found).replace(run, RUN))
    return nameless


async def test_what_the_reference_writes_is_applied_by_our_worker(
    both: Both, tmp_path: Path
) -> None:
    """Every record, none into the dead letters, and the run is the one that our frontier's records make; only the
    infinities that it wrote as null are NaN."""
    with ingest_worker(both.broker, tmp_path, both.topic) as worker:
        await until(lambda: worker.applied() >= len(both.messages), 120)
        assert await trio.to_thread.run_sync(worker.stop) == 0
    assert read_topic(both.broker, f"{both.topic}-dlq") == []
    with reader.open(tmp_path) as opened:
        ours, theirs = stored(opened, OURS), stored(opened, THEIRS)
        durations = [opened.show(run)["meta"]["duration"] for run in (OURS, THEIRS)]

    def as_null(value: Any) -> Any:
        return math.nan if value in (math.inf, -math.inf) else value

    ours["rows"] = [(*row, as_null(value)) for *row, value in ours["rows"]]
    ours["sequences"] = [one | {"last": as_null(one["last"])} for one in ours["sequences"]]
    assert [
        (name, ours[name], theirs[name]) for name in ours if not same(ours[name], theirs[name])
    ] == []
    assert all(duration >= 0 for duration in durations)
