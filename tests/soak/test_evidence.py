"""What the soak's judges notice: each is fed the evidence of one thing gone wrong, and of none."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.soak.diary import Diary, Session, metric_mark, name_of, parse, read, value_of
from tests.soak.oracle import Book, Stored, faults, topic_faults
from tests.soak.report import Outcome, markdown
from tests.soak.samples import Disk, Life, Sample, disk_faults, sample, written

RUN = "soak-0001"
POINTS = [metric_mark("loss", {"subset": "train"}, step) for step in range(3)]
LOGGED = [*POINTS, "record 0-0", "line 0-2", "object sample 7", "tag t0", "artifact a.bin"]


def book(*lines: list[object], logged: list[str] = LOGGED) -> Book:
    """A run of one session that wrote these lines down."""
    written: list[list[object]] = [*(["log", mark] for mark in logged), *lines]
    return Book(RUN, [parse(Session(RUN, 0, 0), [json.dumps(line) for line in written])])


def acknowledged() -> Book:
    """All of it, and its end."""
    frames: list[list[object]] = [
        ["frame", 0, LOGGED],
        ["ok", 0],
        ["frame", 1, ["finish"]],
        ["ok", 1],
    ]
    return book(*frames, ["end", "finished"])


def found(what: Book, stored: Stored, kills: dict[int, list[float]] | None = None) -> str:
    return "; ".join(faults(what, stored, kills or {}))


def test_what_is_stored_once_is_well() -> None:
    assert found(acknowledged(), Stored(LOGGED, active=False)) == ""


@pytest.mark.parametrize("lost", LOGGED)
def test_a_lost_one_is_noticed(lost: str) -> None:
    """A point, a record, a line, an object, a tag, an artifact."""
    stored = Stored([mark for mark in LOGGED if mark != lost], active=False)
    assert found(acknowledged(), stored) == f"{RUN}: 1 acknowledged and lost: {[lost]}"


@pytest.mark.parametrize("doubled", ["record 0-0", "line 0-2"])
def test_a_doubled_one_is_noticed(doubled: str) -> None:
    assert found(acknowledged(), Stored([*LOGGED, doubled], active=False)) == (
        f"{RUN}: 1 stored twice: {[doubled]}"
    )


def test_what_nobody_logged_is_noticed() -> None:
    assert "1 stored and never sent" in found(
        acknowledged(), Stored([*LOGGED, "line another's"], active=False)
    )


def test_another_value_is_noticed() -> None:
    stored = Stored(LOGGED, ["metric loss/train 1 is 1.0 and not 2.0"], active=False)
    assert "is 1.0 and not 2.0" in found(acknowledged(), stored)


def test_a_run_that_finished_and_goes_on_is_noticed() -> None:
    """But not where a frame had no answer: it may have come later."""
    assert "has finished and is active" in found(acknowledged(), Stored(LOGGED, active=True))
    open_end = book(["frame", 0, LOGGED], ["ok", 0], ["frame", 1, ["finish"]], ["end", "finished"])
    assert found(open_end, Stored(LOGGED, active=True)) == ""


def test_a_frame_without_an_answer_may_be_there_or_not() -> None:
    """The SDK loses the frame that waits when its connection ends; acknowledged is the promise."""
    unanswered = book(["frame", 0, LOGGED])
    assert found(unanswered, Stored(LOGGED)) == ""
    assert found(unanswered, Stored([])) == ""
    assert "stored twice" in found(unanswered, Stored([*LOGGED, "record 0-0"]))


def test_what_a_frontier_kept_is_its_to_deliver() -> None:
    """Unless that frontier was killed over it."""
    kept = book(["frame", 0, LOGGED], ["kept", 0, 1_000.0])
    assert "kept by a frontier and lost" in found(kept, Stored([]))
    assert found(kept, Stored(LOGGED)) == ""
    assert found(kept, Stored([]), {0: [1_010.0]}) == ""
    assert "kept by a frontier and lost" in found(kept, Stored([]), {1: [1_010.0], 0: [900.0]})


def test_a_refused_frame_is_noticed() -> None:
    refused = book(["frame", 0, LOGGED], ["refused", 0, "1 of 8 messages rejected"])
    assert "refused: 1 of 8" in found(refused, Stored([]))


def test_a_record_that_stands_twice_in_the_topic_is_noticed() -> None:
    """A point's too, of which the store shows one."""
    point = {"name": "loss", "context": None, "step": 1, "value": 2.0}
    record = {"type": "log_metric", "run_id": RUN, "payload": point}
    tag = {"type": "add_tag", "run_id": RUN, "payload": {"tag_name": "t"}}
    other = {**record, "payload": {**point, "step": 2}}
    assert topic_faults([record, other, {**record, "run_id": "another"}, tag, tag]) == []
    assert topic_faults([record, other, record]) == [
        f"{RUN}: 1 twice in the topic: ['metric loss/ 1']"
    ]


DIES = """
import os, signal, sys
from pathlib import Path
from tests.soak.diary import Diary
diary = Diary(Path(sys.argv[1]))
diary.log("record 0-0")
number = diary.frame([{"type": "log_record", "message": "0-0"}, {"type": "create_run"}])
diary.reply(number, '{"status":"ok","error":null}')
diary.log("line 0-2")
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_diary_outlives_its_program(tmp_path: Path) -> None:
    """Killed by kill -9, it has written what it knew."""
    path = tmp_path / name_of(RUN, 3, 1)
    subprocess.run([sys.executable, "-c", DIES, path], check=False)
    there = read(path)
    assert (there.run, there.number, there.frontier, there.ended) == (RUN, 3, 1, "")
    assert there.logged == {"record 0-0", "line 0-2"}
    assert there.acknowledged == there.sent == {"record 0-0"}


def test_the_frontiers_replies_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / name_of(RUN, 0, 0)
    diary = Diary(path)
    replies = [
        '{"status":"ok","error":null}',
        '{"status":"error","error":"not stored yet: Kafka is away; kept and still being delivered"}',
        '{"status":"error","error":"1 of 1 messages rejected"}',
    ]
    for number, reply in enumerate(replies):
        message = {"type": "log_record", "message": str(number)}
        diary.reply(diary.frame([message]), reply)
    there = read(path)
    assert there.acknowledged == {"record 0"}
    assert [marks for _, marks in there.kept] == [{"record 1"}]
    assert there.refused == ["1 of 1 messages rejected"]
    assert there.unanswered == 0


def test_a_points_value_is_its_own() -> None:
    assert len({value_of(run, mark) for run in ("a", "b") for mark in POINTS}) == 2 * len(POINTS)


# --- what processes take ---


def life(grow: Callable[[Sample], Sample] = lambda one: one, seconds: float = 3_600) -> Life:
    """A process that is as it was, but for what `grow` makes of each sample."""
    lived = Life("worker 1", 7)
    for number in range(100):
        # Its first quarter is its warm-up, and what is going on makes a difference now and then.
        warm = Sample(number * seconds / 100, 100 << 20, 40 + number % 3, 20)
        cold = replace(warm, memory=50 << 20, descriptors=10, threads=2)
        lived.samples.append(grow(cold if number < 20 else warm))
    return lived


def test_a_process_that_stays_as_it_is_is_well() -> None:
    assert life().faults() == []


@pytest.mark.parametrize(
    ("what", "grow"),
    [
        ("descriptors", lambda one: replace(one, descriptors=one.descriptors + int(one.at) // 600)),
        ("threads", lambda one: replace(one, threads=one.threads + int(one.at) // 600)),
        ("memory", lambda one: replace(one, memory=one.memory + int(one.at * 4096))),
    ],
)
def test_what_grows_is_noticed(what: str, grow: Callable[[Sample], Sample]) -> None:
    """A descriptor or a thread every ten minutes, 4 KiB a second."""
    (said,) = life(grow).faults()
    assert f"{what} grew" in said


def test_every_sample_can_be_looked_at() -> None:
    lines = written([life()]).splitlines()
    assert len(lines) == 100
    assert lines[50].split("\t") == ["worker 1", "7", "1800", str(100 << 20), "42", "20"]


def test_a_short_life_is_not_judged_by_its_memory() -> None:
    def grow(one: Sample) -> Sample:
        return replace(one, memory=one.memory + int(one.at * 2**20), threads=int(one.at))

    assert ["threads" in said for said in life(grow, 300).faults()] == [True]
    assert life(grow, 60).faults() == []


LEAKS = """
import os, sys, threading
print("begun", flush=True)
sys.stdin.readline()
kept = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
threading.Thread(target=lambda: sys.stdin.readline()).start()
print("leaked", flush=True)
sys.stdin.readline()
"""


def test_what_a_process_takes_is_seen(tmp_path: Path) -> None:
    """Of a real one that opens five files and a thread; what it has below the data's folder is not counted."""
    with (
        (tmp_path / "data").open("w") as data,
        subprocess.Popen(
            [sys.executable, "-c", LEAKS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=data,
        ) as process,
    ):
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"begun\n"
        before = sample(process.pid, 0.0, tmp_path)
        process.stdin.write(b"\n")
        process.stdin.flush()
        assert process.stdout.readline() == b"leaked\n"
        after = sample(process.pid, 1.0, tmp_path)
        assert before is not None
        assert after is not None
        assert after.descriptors - before.descriptors == 5
        assert after.threads - before.threads == 1
        everything = sample(process.pid, 1.0, tmp_path / "elsewhere")
        assert everything is not None
        assert everything.descriptors == after.descriptors + 1
        process.kill()
    assert sample(process.pid, 2.0, tmp_path) is None


def test_disk_that_grows_by_more_than_what_is_stored_is_noticed() -> None:
    begun = Disk(kafka=1 << 20, store=200 << 20, blobs=0)
    assert disk_faults([begun, replace(begun, store=400 << 20, kafka=100 << 20)], 90 << 20) == []
    (said,) = disk_faults([begun, replace(begun, store=800 << 20)], 90 << 20)
    assert said == "store: 600 MiB more on disk for 90 MiB of records"
    (said,) = disk_faults([begun, replace(begun, kafka=301 << 20)], 90 << 20)
    assert said == "kafka: 300 MiB more on disk for 90 MiB of records"


def test_an_artifact_whose_program_died_over_it_may_be_named() -> None:
    """The frontier told of it when it signed the upload; nobody may name one that was not logged."""
    silent = book(["frame", 0, ["record 0-0"]], logged=["record 0-0", "artifact a.bin"])
    assert found(silent, Stored(["artifact a.bin"])) == ""
    assert "never sent" in found(silent, Stored(["artifact other.bin"]))


def test_the_tables_say_what_was_violated() -> None:
    outcome = Outcome("A soak", "a machine", violations=["line lost"], lives=[life()])
    text = markdown(outcome)
    assert "**1 violations:**" in text
    assert "- line lost" in text
    assert "| worker 1 | 59.4 | 100 → 100 | 41 → 41 | 20 → 20 | no |" in text
    assert "**No violation.**" in markdown(replace(outcome, violations=[]))
