"""Our worker beside the reference's: the same records through both leave the same rows, but for the differences that are
meant; and one store that their worker began, ours goes on with, and their API server reads."""

from __future__ import annotations

import json
import math
import signal
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import trio
from confluent_kafka import Producer

from dev.broker import Broker
from matyan._codec import unpack
from matyan.keys import unpack_value
from matyan.settings import Settings
from tests.cluster import reference
from tests.cluster.places import empty, pairs, the_store
from tests.cluster.workers import ClusterDeployment
from tests.fdb import CLUSTER
from tests.ledger import T0, metric, moment, record
from tests.tracker import Process
from tests.until import until

SPACES: Final = {"R": ("data", "runs"), "I": ("data", "indexes"), "S": ("system",)}

Row = tuple[Any, ...]
"""The name of a key space, and a key's tuple."""


@pytest.fixture
def deployment(broker: Broker, settings: Settings, tmp_path: Path) -> ClusterDeployment:
    made = ClusterDeployment(broker, settings, tmp_path / "unused")
    made.use_group(reference.GROUP)
    return made


def produce(deployment: ClusterDeployment, values: Iterable[bytes]) -> None:
    producer = Producer(
        {"bootstrap.servers": deployment.broker.bootstrap, "partitioner": "murmur2_random"}
    )
    for value in values:
        producer.produce(deployment.topic, value, json.loads(value)["run_id"].encode())
    assert producer.flush(60) == 0


async def through(deployment: ClusterDeployment, process: Process) -> None:
    """Returns when the process has committed everything to Kafka, and has ended."""

    async def is_through() -> bool:
        assert process.process.poll() is None, "".join(process.output)
        return await deployment.is_caught_up()

    await until(is_through, 240)
    await trio.to_thread.run_sync(process.stop, signal.SIGINT)


async def by_theirs(deployment: ClusterDeployment) -> None:
    # Its reading of a time without an offset shows where local time is not UTC.
    with reference.worker(deployment, TZ="Asia/Tokyo") as process:
        await through(deployment, process)


async def by_ours(deployment: ClusterDeployment) -> None:
    with deployment.worker(members=1) as process:
        await through(deployment, process)


async def dump() -> dict[Row, Any]:
    """All rows, decoded."""
    async with the_store() as store:
        return {
            (space, *row): value if not value or row[1:2] == ("parts",) else unpack_value(value)
            for space, path in SPACES.items()
            for key, value in await pairs(store, path)
            for row in [unpack(key, 0)]
        }


def without_ids(rows: Mapping[Row, Any]) -> dict[Row, Any]:
    """In the place of an experiment's or tag's id stands its name."""
    names = {
        row[2]: f"id of {value}"
        for row, value in rows.items()
        if row[0] == "S" and row[1] in ("tags", "experiments") and row[-1] == "name"
    }

    def named(value: Any) -> Any:
        return names.get(value, value) if isinstance(value, str) else value

    return {tuple(map(named, row)): named(value) for row, value in rows.items()}


# --- the same records through both ----------------------------------------------------------------

LARGE = {"type": "text", "data": "x" * 200_000}


def scenarios() -> dict[str, list[bytes]]:
    """Records by run: what the SDK sends, and what shows each difference."""

    def create(run: str, at: float = 0.0) -> bytes:
        return record("create_run", run, at, client_datetime=moment(at), force_resume=False)

    def line(run: str, text: str, step: int, at: float) -> bytes:
        return record("log_terminal_line", run, at, line=text, step=step)

    def prop(run: str, at: float, **of: Any) -> bytes:
        return record("set_run_property", run, at, **of)

    plain = [
        create("plain"),
        *(
            metric(
                "loss",
                1 / (step + 1),
                step,
                "plain",
                step,
                context={"subset": subset},
                epoch=step // 2,
            )
            for step in range(6)
            for subset in ("train", "val")
        ),
        *(metric("none", float(i), None, "plain", i) for i in range(3)),
        metric("acc", 5.0, 0, "plain", 1, context={"b": [1, {"c": None}], "a": 2}, dtype="int"),
        record(
            "log_hparams",
            "plain",
            2,
            value={"hparams": {"lr": 0.1, "n": 2, "b": True, "s": "ß", "l": [1, []], "d": {}}},
        ),
        record("log_hparams", "plain", 3, value={"other": {"deep": {"x": 1}}}),
        record(
            "log_custom_object",
            "plain",
            3,
            name="text",
            value={"type": "text", "data": "日本"},
            step=3,
            epoch=1,
            context={"subset": "val"},
            dtype="text",
            client_datetime=moment(3),
        ),
        record(
            "log_record",
            "plain",
            4,
            message="m",
            level=20,
            timestamp=1.5,
            logger_info=["a", 1],
            extra_args={"k": [1, None]},
        ),
        record(
            "blob_ref",
            "plain",
            5,
            s3_key="plain/p/q.bin",
            artifact_path="p/q.bin",
            content_type="application/octet-stream",
        ),
        line("plain", "one", 0, 5),
        line("plain", "two", 1, 5),
        record("add_tag", "plain", 6, tag_name="kept"),
        record("add_tag", "plain", 6, tag_name="dropped"),
        record("remove_tag", "plain", 6, tag_name="dropped"),
        prop("plain", 7, name="naïve", description="d", experiment="exp", archived=False),
        record("finish_run", "plain", 9, client_datetime=moment(9)),
    ]
    return {
        "plain": plain,
        "no-end": [create("no-end"), record("finish_run", "no-end", 5)],
        "again": [
            create("again"),
            prop("again", 1, name="mine", description="kept"),
            create("again", 4),
            record("finish_run", "again", 6, client_datetime=moment(6)),
        ],
        "no-create": [metric("m", 1.0, 0, "no-create")],
        "fraction": [create("fraction"), metric("m", 1.0, 0, "fraction", epoch=0.25)],
        "odd": [
            create("odd"),
            *(metric("m", value, i, "odd") for i, value in enumerate([2.0, math.nan, math.inf, -math.inf])),
        ],
        "lower": [create("lower"), *(metric("m", float(s), s, "lower") for s in (10, 5))],
        "rewritten": [
            create("rewritten"),
            metric("m", 1.0, 1, "rewritten", epoch=3),
            metric("m", 2.0, 1, "rewritten"),
        ],
        "contexts": [
            create("contexts"),
            metric("m", 1.0, 0, "contexts", context={"layer": 4141}),
            metric("m", 2.0, 0, "contexts", context={"layer": 8106}),
        ],
        "hparams": [
            create("hparams"),
            record("log_hparams", "hparams", 1, value={"hparams": {"a": 1, "gone": 2}}),
            record("log_hparams", "hparams", 2, value={"hparams": {"a": 3}, "second": {"b": 4}}),
            record("blob_ref", "hparams", 3, s3_key="hparams/p", artifact_path="p", content_type="c"),
            record("log_hparams", "hparams", 4, value={"third": {"x": 1}, "fourth": {"y": 2}}),
        ],
        "leaf": [
            create("leaf"),
            record("log_hparams", "leaf", 1, value={"hparams": {"a": {"b": 1}}}),
            record("log_hparams", "leaf", 2, value={"hparams": {"a": {"b": {"c": 2}}}}),
        ],
        "counted": [
            create("counted"),
            *(record("add_tag", "counted", at, tag_name="twice") for at in (1, 2)),
            *(prop("counted", at, experiment=name) for at, name in enumerate(["one", "one", "two"])),
        ],
        "lines": [
            create("lines"),
            *(line("lines", f"l{i}", i, i) for i in range(3)),
            line("lines", "l2 again", 2, 3),
            create("lines", 10),
            line("lines", "session two", 0, 11),
        ],
        "large": [
            create("large"),
            record("log_custom_object", "large", 1, name="o", value=LARGE, step=0, epoch=None, context=None, dtype="custom", client_datetime=moment(1)),
        ],
        "deleted": [create("deleted"), metric("m", 1.0, 0, "deleted"), record("delete_run", "deleted", 5)],
        "naive": [record("create_run", "naive", 0, client_datetime="2023-11-14T22:13:20", force_resume=False)],
    }  # fmt: skip


ABSENT: Final = object()


@dataclass(frozen=True)
class Difference:
    row: Row
    ours: Any
    theirs: Any

    def __str__(self) -> str:
        def shown(value: Any) -> str:
            return "nothing" if value is ABSENT else repr(value)[:100]

        return f"{self.row}: ours {shown(self.ours)}, theirs {shown(self.theirs)}"

    def begins(self, *beginning: Any) -> bool:
        """Whether its row does; None stands for any element."""
        return len(self.row) >= len(beginning) and all(
            want is None or want == is_ for want, is_ in zip(beginning, self.row, strict=False)
        )

    def is_meta(self, field: str, *runs: str) -> bool:
        return self.begins("R", None, "meta", field) and (not runs or self.row[1] in runs)


def is_moment(value: Any) -> bool:
    """Whether it is the time of a record of these tests."""
    return isinstance(value, float) and T0 <= value <= T0 + 100


Meant = tuple[str, Callable[[Difference], bool]]

MEANT: Final[list[Meant]] = [
    (
        "rows of ours alone: which store and layout, whose records a run's last were, when, what shape it has, and where to go on",
        lambda d: (
            d.theirs is ABSENT
            and d.row[0] == "S"
            and d.row[1] in {"store", "layout", "owner", "activity", "ingest", "dropped", "shape"}
        ),
    ),
    (
        "a trace of ours tells how many steps it has, and the first, lowest and highest value",
        lambda d: (
            d.theirs is ABSENT
            and d.begins("R", None, "traces", None, None, "summary")
            and isinstance(d.ours, list)
        ),
    ),
    (
        "created_at and updated_at are the record's time, so that a replay writes the same bytes",
        lambda d: (
            (
                d.row[-1] in ("created_at", "updated_at")
                or d.is_meta("created_at")
                or d.is_meta("updated_at")
            )
            and (is_moment(d.ours) or d.ours is ABSENT)
        ),
    ),
    (
        "the index of created_at follows it",
        lambda d: (
            (d.begins("I", "created_at") or d.begins("I", "_rev", None, "created_at"))
            and ABSENT in (d.ours, d.theirs)
        ),
    ),
    (
        "a point's time is the client's",
        lambda d: d.begins("R", None, "seqs", None, None, "time") and is_moment(d.ours),
    ),
    (
        "finalized_at is created_at and the duration, or the record's time",
        lambda d: d.is_meta("finalized_at") and is_moment(d.ours),
    ),
    (
        "a duration is known whenever the start is",
        lambda d: d.is_meta("duration", "no-end") and (d.ours, d.theirs) == (5.0, None),
    ),
    (
        "create_run of an existing run keeps its metadata and its first start",
        lambda d: (
            d.is_meta("client_start_ts", "again", "lines")
            or (d.begins("R", "again", "meta") and d.row[3] in ("name", "description", "duration"))
        ),
    ),
    (
        "a record of a run never created creates it",
        lambda d: (
            d.theirs is ABSENT
            and (d.begins("R", "no-create", "meta") or (d.row[0] == "I" and "no-create" in d.row))
        ),
    ),
    (
        "last keeps the last finite value",
        lambda d: d.row == ("R", "odd", "traces", 0, "m", "last") and d.ours == 2.0,
    ),
    (
        "last and last_step are those of the highest step",
        lambda d: d.begins("R", "lower", "traces", 0, "m") and d.ours == 10,
    ),
    (
        "a step that is written again without an epoch loses it",
        lambda d: d.row == ("R", "rewritten", "seqs", 0, "m", "epoch", 1) and d.ours is ABSENT,
    ),
    (
        "contexts whose ids collide have two",
        lambda d: d.row[:2] == ("R", "contexts") and d.row[2] in ("contexts", "seqs", "traces"),
    ),
    (
        "hparams of several keys leave the other attributes alone",
        lambda d: d.theirs is ABSENT and d.begins("R", "hparams", "attrs"),
    ),
    (
        "the index of hyperparameters follows them",
        lambda d: d.row[0] == "I" and {"hparam", "hparams"} <= {*d.row},
    ),
    (
        "a value that becomes an object is replaced: theirs fails, and with it whatever was in its transaction",
        lambda d: d.theirs is ABSENT and "leaf" in d.row,
    ),
    (
        "counters count associations",
        lambda d: d.row[-1] == "run_count",
    ),
    (
        "a terminal line of a new session is appended, and the step as sent is kept",
        lambda d: (
            d.begins("R", "lines", "seqs", 0, "logs")
            or d.begins("R", "lines", "traces", 0, "logs")
            or (d.begins("R", None, "traces", 0, "logs", "sent") and d.theirs is ABSENT)
        ),
    ),
    (
        "a large object stands in parts: theirs fails, and with it whatever was in its transaction",
        lambda d: d.theirs is ABSENT and "large" in d.row,
    ),
    (
        "a tombstone has the record's time",
        lambda d: d.row == ("I", "_deleted", "deleted") and is_moment(d.ours),
    ),
    (
        "a time without an offset is UTC, not the worker's local time",
        lambda d: d.is_meta("client_start_ts", "naive") and d.ours - d.theirs == 9 * 3600,
    ),
]
"""Each difference from the reference that is meant, with its reason."""


def same(one: Any, other: Any) -> bool:
    """Equality in which NaN equals NaN, and 1, 1.0 and True are not the same."""
    return type(one) is type(other) and (repr(one) == repr(other))


def differences(ours: Mapping[Row, Any], theirs: Mapping[Row, Any]) -> list[Difference]:
    rows = sorted({*ours, *theirs}, key=repr)
    found = [Difference(row, ours.get(row, ABSENT), theirs.get(row, ABSENT)) for row in rows]
    return [one for one in found if not same(one.ours, one.theirs)]


async def test_the_same_records_leave_the_same_rows(
    broker: Broker, settings: Settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each row is the reference's, or one of MEANT says why not; and each of these is seen."""
    values = [value for of in scenarios().values() for value in of]
    dumps = []
    for apply in by_theirs, by_ours:
        empty(CLUSTER)
        deployment = ClusterDeployment(broker, settings, tmp_path / "unused")
        if apply is by_theirs:
            deployment.use_group(reference.GROUP)
        produce(deployment, values)
        await apply(deployment)
        dumps.append(without_ids(await dump()))
    theirs, ours = dumps
    found = differences(ours, theirs)
    seen: dict[str, list[Difference]] = {reason: [] for reason, _ in MEANT}
    unexplained = []
    for one in found:
        reason = next((reason for reason, explains in MEANT if explains(one)), None)
        (unexplained if reason is None else seen[reason]).append(one)
    with capsys.disabled():
        print(
            f"\n{len(ours)} rows of ours, {len(theirs)} of theirs, {len({*ours} & {*theirs}) - sum(ABSENT not in (d.ours, d.theirs) for d in found)} the same"
        )
        for reason, of in seen.items():
            print(f"{len(of):4} {reason}")
    assert not unexplained, "\n".join(map(str, unexplained))
    assert [reason for reason, of in seen.items() if not of] == []
    assert len(theirs) > 300


# --- one store, one after the other ---------------------------------------------------------------

TAKEN = "taken-over"
NEW = "ours-alone"


def sessions() -> tuple[list[bytes], list[bytes]]:
    """What their worker gets, and what ours gets after it: of a run of both, and of one of ours."""

    def points(run: str, begin: int, end: int, at: float) -> list[bytes]:
        context = {"subset": "train"}
        return [
            metric("loss", step / 8, None, run, at + step / 100, context=context)
            for step in range(begin, end)
        ]

    def lines(run: str, *texts: str, at: float) -> list[bytes]:
        return [
            record("log_terminal_line", run, at, line=text, step=step)
            for step, text in enumerate(texts)
        ]

    def entry(run: str, message: str, at: float) -> bytes:
        return record("log_record", run, at, message=message, level=30, timestamp=2.5)

    first = [
        record("create_run", TAKEN, client_datetime=moment(0), force_resume=False),
        record("log_hparams", TAKEN, value={"hparams": {"lr": 0.5, "layers": [1, 2]}}),
        record("add_tag", TAKEN, tag_name="shared"),
        record("set_run_property", TAKEN, name="the name", experiment="study"),
        *points(TAKEN, 0, 20, 1),
        # Their row names the last step written, which is not the highest.
        *(metric("back", float(step), step, TAKEN, 2) for step in (10, 5)),
        *lines(TAKEN, "a", "b", at=3),
        entry(TAKEN, "before", 3),
    ]
    second = [
        *points(TAKEN, 20, 40, 50),
        metric("back", 11.0, None, TAKEN, 51),
        record("create_run", TAKEN, 52, client_datetime=moment(52), force_resume=True),
        *lines(TAKEN, "c", at=53),
        entry(TAKEN, "after", 53),
        record("add_tag", TAKEN, 54, tag_name="shared"),
        record("add_tag", TAKEN, 54, tag_name="later"),
        record("set_run_property", TAKEN, 54, experiment="study"),
        record("finish_run", TAKEN, 60, client_datetime=moment(60)),
        record("create_run", NEW, 50, client_datetime=moment(50), force_resume=False),
        record("log_hparams", NEW, 50, value={"hparams": {"lr": 0.25}}),
        record("set_run_property", NEW, 50, experiment="study", description="a new one"),
        record("add_tag", NEW, 50, tag_name="shared"),
        *points(NEW, 0, 30, 55),
        *lines(NEW, "x", "y", at=56),
        entry(NEW, "m", 56),
    ]
    return first, second


def listed(rows: Any) -> dict[str, int]:
    return {row["name"]: row["run_count"] for row in rows}


def values(found: Mapping[Any, Any]) -> list[Any]:
    """The values of a stream of steps, in their order."""
    return [found[step] for step in sorted(found)]


def all_is_read(api: reference.Api) -> None:
    """What both sessions have logged, by the API server of either."""
    info = api.get(f"runs/{TAKEN}/info/")
    assert info["params"]["hparams"] == {"lr": 0.5, "layers": [1, 2]}
    assert info["props"]["name"] == "the name"
    assert info["props"]["experiment"]["name"] == "study"
    assert sorted(tag["name"] for tag in info["props"]["tags"]) == ["later", "shared"]
    assert info["props"]["active"] is False
    assert info["props"]["end_time"] is not None
    lasts = {row["name"]: row["last_value"] for row in info["traces"]["metric"]}
    assert lasts["loss"] == 39 / 8
    assert lasts["back"] == 11.0
    fresh = api.get(f"runs/{NEW}/info/")
    assert fresh["props"]["description"] == "a new one"
    assert fresh["props"]["creation_time"] == T0 + 50
    assert fresh["props"]["active"] is True

    for run, count in (TAKEN, 40), (NEW, 30):
        wanted = [{"name": "loss", "context": {"subset": "train"}}]
        (found,) = api.post(f"runs/{run}/metric/get-batch/?record_density=100", wanted)
        assert found["iters"] == [*range(count)]
        assert found["values"] == [step / 8 for step in range(count)]
    (back,) = api.post(f"runs/{TAKEN}/metric/get-batch/", [{"name": "back", "context": {}}])
    assert (back["iters"], back["values"]) == ([5, 10, 11], [5.0, 10.0, 11.0])

    runs = api.stream("runs/search/run/?report_progress=False&exclude_traces=True")
    assert {*runs} == {TAKEN, NEW}
    runs = api.stream("runs/search/run/?report_progress=False&q=run.hparams.lr%20%3D%3D%200.25")
    assert {*runs} == {NEW}
    query = "metric.name%20%3D%3D%20%22loss%22"
    metrics = api.stream(f"runs/search/metric/?report_progress=False&p=100&q={query}")
    assert {*metrics} == {TAKEN, NEW}
    (trace,) = metrics[TAKEN]["traces"].values()
    assert trace["values"]["shape"] == 40

    assert values(api.stream(f"runs/{TAKEN}/logs/")) == ["a", "b", "c"]
    assert values(api.stream(f"runs/{NEW}/logs/")) == ["x", "y"]
    entries = api.stream(f"runs/{TAKEN}/log-records/")
    assert entries.pop("log_records_count") == 2
    messages = [(entry["message"], entry["log_level"]) for entry in values(entries)]
    assert messages == [("before", "WARNING"), ("after", "WARNING")]

    assert listed(api.get("experiments/")) == {"study": 2}
    assert listed(api.get("tags/")) == {"shared": 2, "later": 1}


async def test_their_api_reads_what_our_worker_writes_where_theirs_has_stopped(
    deployment: ClusterDeployment,
) -> None:
    """Steps, tags, experiments and offsets go on; info, searches, metrics, logs, experiments and tags are read, and by our API server
    beside theirs, too."""
    first, second = sessions()
    produce(deployment, first)
    await by_theirs(deployment)
    committed = deployment.committed()
    before = await dump()
    assert sum(committed.values()) == len(first)
    produce(deployment, second)
    await by_ours(deployment)
    after = await dump()
    offsets = {row[3]: value for row, value in after.items() if row[:2] == ("S", "ingest")}
    # It has begun where theirs stopped, on each partition.
    assert offsets == {
        number: end for number, end in deployment.committed().items() if number in offsets
    }
    assert sum(deployment.committed().values()) == len(first) + len(second)

    with reference.api(deployment) as theirs, reference.our_api(deployment) as ours:
        all_is_read(theirs)
        all_is_read(ours)
        # Side by side on one store: what one writes the other shows.
        theirs.put(f"runs/{TAKEN}/", {"name": "by theirs"})
        assert ours.get(f"runs/{TAKEN}/info")["props"]["name"] == "by theirs"
        ours.put(f"runs/{TAKEN}", {"description": "by ours", "archived": True})
        props = theirs.get(f"runs/{TAKEN}/info/")["props"]
        assert (props["description"], props["archived"]) == ("by ours", True)

    # What theirs had made is still what it made: ids are its own, and its points are there.
    for row in before:
        if row[:3] == ("R", TAKEN, "seqs"):
            assert same(after[row], before[row]), row
    uuids = [row for row in before if row[:2] == ("S", "tags_by_name")]
    assert uuids
    assert all(after[row] == before[row] for row in uuids)
