"""The rules against a plain model of them: any records, in any order, cut into any batches, delivered again at will."""

from __future__ import annotations

import json
from operator import methodcaller
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan._codec import context_text, parse_timestamp
from matyan.rules.sequences import Layout
from matyan.workers.ingest import IngestWorker
from tests.ledger import T0, Ledger, moment, record
from tests.memory_broker import MemoryConsumer, MemoryOutbox, Topic
from tests.rules.audit import findings
from tests.until import until

pytestmark = pytest.mark.usefixtures("bodies")

LAST = 2**63 - 1
"""The highest step."""

# --- the model ------------------------------------------------------------------------------------


class Run:
    def __init__(self, now: float) -> None:
        self.meta: dict[str, Any] = {
            "description": "",
            "created_at": now,
            "updated_at": now,
            "finalized_at": None,
            "is_archived": False,
            "active": True,
            "client_start_ts": None,
            "duration": None,
        }
        self.attrs: dict[str, Any] = {}
        self.experiment: str | None = None
        self.tags: set[str] = set()
        # By the context's canonical text and the name.
        self.points: dict[tuple[str, str], dict[int, tuple[float, float, int | float | None]]] = {}
        self.objects: dict[tuple[str, str], dict[int, tuple[int | float | None, float, Any]]] = {}

        # The step that the last line was sent with since the last create_run, and the one where it stands.
        self.sent: int | None = None
        self.line = 0

    def step(self, sequence: tuple[str, str], step: int | None) -> int:
        steps = {**self.points.get(sequence, {}), **self.objects.get(sequence, {})}
        return behind([-1, *steps]) if step is None else step


def behind(steps: list[int]) -> int:
    """The next free step: behind all of them, or behind those below the full end of int64."""
    free = LAST
    while free in steps:
        free -= 1
    return max([0, *(step + 1 for step in steps if step < free)])


class Model:
    """What the contract says, on dicts."""

    def __init__(self) -> None:
        self.runs: dict[str, Run] = {}
        self.deleted: set[str] = set()
        self.experiments: set[str] = set()
        self.tags: set[str] = set()

    def apply(self, value: bytes, now: float) -> None:
        envelope = json.loads(value)
        kind, name, payload = envelope["type"], envelope["run_id"], envelope["payload"]
        if kind == "delete_run":
            self.runs.pop(name, None)
            self.deleted.add(name)
        elif name not in self.deleted:
            run = self.runs.setdefault(name, Run(now))
            run.meta.setdefault("name", f"Run: {name}")
            getattr(self, kind)(run, now, payload)
            if kind in {"create_run", "finish_run", "set_run_property", "log_hparams", "blob_ref"}:
                run.meta["updated_at"] = now

    def create_run(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        run.sent = None
        run.meta |= {"active": True, "finalized_at": None, "duration": None}
        if run.meta["client_start_ts"] is None:
            run.meta["client_start_ts"] = parse_timestamp(payload["client_datetime"])

    def finish_run(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        start = run.meta["client_start_ts"]
        text = payload.get("client_datetime")
        at = now if text is None else parse_timestamp(text)
        duration = None if start is None else max(0.0, at - start)
        end = now if duration is None else run.meta["created_at"] + duration
        run.meta |= {"active": False, "duration": duration, "finalized_at": end}

    def set_run_property(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        if "name" in payload:
            run.meta["name"] = payload["name"]
        if "archived" in payload:
            run.meta["is_archived"] = payload["archived"]
        if "experiment" in payload:
            run.experiment = payload["experiment"]
            self.experiments.add(payload["experiment"])

    def add_tag(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        self.tags.add(payload["tag_name"])
        run.tags.add(payload["tag_name"])

    def remove_tag(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        run.tags.discard(payload["tag_name"])

    def log_hparams(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        value = payload["value"]
        if len(value) != 1:
            run.attrs.update(value)
            return
        at = run.attrs
        while True:
            ((name, value),) = value.items()
            if not (isinstance(value, dict) and len(value) == 1):
                at[name] = value
                return
            if not isinstance(at.get(name), dict):
                at[name] = {}
            at[name] = dict(at[name])
            at = at[name]

    def blob_ref(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        blobs = run.attrs.get("__blobs__")
        blobs = dict(blobs) if isinstance(blobs, dict) else {}
        blobs[payload["artifact_path"]] = {
            "s3_key": payload["s3_key"],
            "content_type": payload["content_type"],
        }
        run.attrs["__blobs__"] = blobs

    def log_metric(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        sequence = context_text(payload["context"]), payload["name"]
        step = run.step(sequence, payload["step"])
        run.points.setdefault(sequence, {})[step] = (payload["value"], now, payload["epoch"])

    def log_record(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        sequence = "{}", "__log_records"
        value = {"log_level": payload["level"], "args": None, "logger_info": None}
        value |= {"message": payload["message"], "timestamp": payload["timestamp"]}
        step = run.step(sequence, None)
        run.objects.setdefault(sequence, {})[step] = (None, now, value)

    def log_custom_object(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        sequence = "{}", payload["name"]
        step = run.step(sequence, payload["step"])
        run.objects.setdefault(sequence, {})[step] = (payload["epoch"], now, payload["value"])

    def log_terminal_line(self, run: Run, now: float, payload: dict[str, Any]) -> None:
        lines = run.objects.setdefault(("{}", "logs"), {})
        sent = payload["step"]
        if sent != run.sent:
            step = (
                behind([-1, *lines]) if LAST in lines else max([sent, *(one + 1 for one in lines)])
            )
            run.sent, run.line = sent, step
        lines[run.line] = (None, now, payload["line"])


def check(ledger: Ledger, model: Model) -> None:
    """A reader of the store sees what the model holds."""
    for name, run in model.runs.items():
        meta = ledger.meta(name)
        experiment_id = meta.pop("experiment_id")
        assert (experiment_id is None) == (run.experiment is None)
        assert meta == run.meta
        assert ledger.attrs(name) == run.attrs
        assert ledger.experiment(name) == run.experiment
        assert ledger.tags(name) == sorted(run.tags)
        assert ledger.facts(name) == facts(run)
        for (text, sequence), points in run.points.items():
            assert ledger.points(sequence, json.loads(text), name) == [
                (step, value, time - T0, epoch)
                for step, (value, time, epoch) in sorted(points.items())
            ]
        for (_, sequence), objects in run.objects.items():
            assert ledger.objects(sequence, None, name) == [
                (step, epoch, time - T0, value)
                for step, (epoch, time, value) in sorted(objects.items())
            ]
        found = ledger.contexts(name)
        texts = {text for text, _ in [*run.points, *run.objects]}
        assert sorted(map(context_text, found.values())) == sorted(texts)
        assert (0 in found) == ("{}" in texts)
    for name in model.deleted:
        assert ledger.rows_of(name) == {}
        assert ledger.facts(name) == set()
        assert ledger.keys.tombstone(name) in ledger.store.rows
    runs = model.runs.values()
    assert ledger.counts("experiments") == {
        name: sum(run.experiment == name for run in runs) for name in model.experiments
    }
    assert ledger.counts("tags") == {
        name: sum(name in run.tags for run in runs) for name in model.tags
    }
    assert {row[1] for row in ledger.system("activity")} == {*model.runs}


def facts(run: Run) -> set[tuple[Any, ...]]:
    found: set[tuple[Any, ...]] = {
        ("archived", run.meta["is_archived"]),
        ("active", run.meta["active"]),
        ("created_at", run.meta["created_at"]),
    }
    found |= {("tag", name) for name in run.tags}
    found |= {("trace", name) for _, name in [*run.points, *run.objects]}
    if run.experiment is not None:
        found.add(("experiment", run.experiment))
    hparams = run.attrs.get("hparams")
    if isinstance(hparams, dict):
        found |= {
            ("hparam", name, value)
            for name, value in hparams.items()
            if isinstance(value, (str, int, float))
        }
    return found


# --- random records -------------------------------------------------------------------------------

names = st.sampled_from(["a", "hparams"])
leaves = st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from([0.5, 1.0, "x"])
values = st.recursive(
    leaves, lambda inner: st.dictionaries(names, inner, max_size=2) | st.lists(inner, max_size=2)
)


def nest(path: list[str], value: Any) -> dict[str, Any]:
    for name in reversed(path):
        value = {name: value}
    return dict(value)


trees = st.dictionaries(names, values, max_size=2) | st.builds(
    nest, st.lists(names, min_size=1, max_size=3), values
)


def payload(kind: str, **fields: Any) -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    strategies = {
        name: field if isinstance(field, st.SearchStrategy) else st.just(field)
        for name, field in fields.items()
    }
    return st.tuples(st.just(kind), st.fixed_dictionaries(strategies))


few = st.sampled_from(["x", "y"])
KINDS = [
    payload("create_run", force_resume=False),
    payload("finish_run"),
    payload("set_run_property", name=few),
    payload("set_run_property", archived=st.booleans()),
    payload("set_run_property", experiment=few),
    payload("add_tag", tag_name=few),
    payload("remove_tag", tag_name=few),
    payload("log_hparams", value=trees),
    payload("blob_ref", s3_key="k", artifact_path=few, content_type="c"),
    payload("log_terminal_line", line=few, step=st.integers(0, 3)),
    payload("log_terminal_line", line=few, step=st.sampled_from([-5, 0, LAST - 1, LAST])),
    payload("log_record", message=few, level=20, timestamp=1.5),
    payload(
        "log_metric",
        name=st.sampled_from(["m", "n"]),
        value=st.sampled_from([0.0, 1.5]),
        step=st.none() | st.integers(-2, 4),
        epoch=st.none() | st.integers(0, 2) | st.sampled_from([0.25, 2.5]),
        # The last two have the same preferred id.
        context=st.sampled_from([None, {"s": 1}, {"s": True}, {"layer": 4141}, {"layer": 8106}]),
    ),
    payload(
        "log_metric",
        name="m",
        value=1.5,
        step=st.sampled_from([None, None, 0, 1, 6, LAST - 2, LAST - 1, LAST]),
        epoch=None,
        context=None,
    ),
    payload(
        "log_custom_object",
        name="o",
        value=few.map(lambda word: {"type": word}),
        step=st.sampled_from([None, None, -3, 0, 1, LAST - 1, LAST]),
        epoch=None,
        context=None,
        dtype="custom",
    ),
    payload("delete_run"),
]
TIMED = {"create_run", "finish_run"}


@st.composite
def logs(draw: st.DrawFn) -> list[bytes]:
    """A log of records of a few runs; times move on by up to two minutes, clients' clocks as they like.

    Each log has a few of the kinds only, so that rare ones meet often.
    """
    now, out = 0.0, []
    kinds = st.one_of(draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=4)))
    runs = st.sampled_from(draw(st.sampled_from(["r", "rs"])))
    for kind, fields in draw(st.lists(kinds, max_size=25)):
        now += draw(st.sampled_from([0.0, 0.25, 59.0, 120.0]))
        if kind in TIMED and (kind == "create_run" or draw(st.booleans())):
            client = draw(st.sampled_from([0.0, 10.0, now]))
            fields = {**fields, "client_datetime": moment(client)}
        if kind == "log_metric":
            fields = {**fields, "dtype": None, "client_datetime": None}
        out.append(record(kind, draw(runs), now, **fields))
    return out


def time_of(value: bytes) -> float:
    return parse_timestamp(json.loads(value)["timestamp"])


cuts = st.lists(st.integers(0, 25), max_size=6)
layouts: st.SearchStrategy[Layout] = st.sampled_from(["packed", "compatible"])


@settings(deadline=None)
@given(logs(), cuts, layouts)
def test_any_log_in_any_batches_leaves_what_the_model_holds(
    log: list[bytes], cut: list[int], layout: Layout
) -> None:
    """Meta, attributes, indexes, counters, points and logs: as one record after the other would."""
    ledger, model = Ledger(layout), Model()
    ledger.apply_split(log, [min(at, len(log)) for at in cut])
    for value in log:
        model.apply(value, time_of(value))
    check(ledger, model)
    assert findings(ledger) == []


@settings(deadline=None)
@given(logs(), cuts, cuts)
def test_the_cuts_between_batches_change_no_byte(
    log: list[bytes], one: list[int], other: list[int]
) -> None:
    """Compatible layout; but for the activity rows, which may be a minute behind."""
    stores = []
    for cut in one, other:
        ledger = Ledger("compatible")
        ledger.apply_split(log, [min(at, len(log)) for at in cut])
        for run in "rs":
            ledger.store.commit(methodcaller("clear", ledger.keys.activity(run)))
        stores.append(ledger.dump())
    assert stores[0] == stores[1]


@settings(deadline=None)
@given(logs(), st.data(), layouts)
def test_a_replay_from_any_offset_changes_no_byte(
    log: list[bytes], data: st.DataObject, layout: Layout
) -> None:
    """A broker that delivers again from anywhere, in other batches, as often as it likes."""
    ledger = Ledger(layout)
    topic = Topic(*log)

    def work(deliver_from: int, batch: int) -> None:
        consumer = MemoryConsumer(topic, batch=batch, deliver_from=deliver_from)
        worker = IngestWorker(
            consumer, ledger.store, ledger.keys, ledger.make_rules, MemoryOutbox()
        )

        async def main() -> None:
            async with trio.open_nursery() as nursery:
                await nursery.start(worker.run)
                await until(lambda: consumer.held.acknowledged[-1:] == [len(log)])
                worker.stop()

        if log:
            trio.run(main)

    batch_sizes = st.integers(1, 30)
    work(0, data.draw(batch_sizes))
    rows = dict(ledger.store.rows)
    for _ in range(2):
        work(data.draw(st.integers(0, max(0, len(log) - 1))), data.draw(batch_sizes))
        assert ledger.store.rows == rows


@settings(deadline=None)
@given(logs(), cuts, st.data())
def test_a_batch_run_twice_on_equal_stores_writes_the_same_bytes(
    log: list[bytes], cut: list[int], data: st.DataObject
) -> None:
    """Whatever the rules remember: a transaction that the store runs again ends in the same rows."""
    begin = data.draw(st.integers(0, len(log)))
    ledger = Ledger()
    ledger.apply_split(log[:begin], [min(at, begin) for at in cut])
    twin = Ledger()
    twin.restore(ledger.dump())
    ledger.apply(*log[begin:])
    twin.apply(*log[begin:])
    assert ledger.dump() == twin.dump()
