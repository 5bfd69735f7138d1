"""The store of a cluster as a command has it: this process reads it, and what it changes goes through Kafka.

On the store in memory, which has FoundationDB's semantics; `tests/cluster/` has the commands on a real one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from matyan.broker.kafka.client import producer_config
from matyan.broker.kafka.producer import open_producer
from matyan.errors import ConfigurationError, MatyanError, NotFound, Unavailable
from matyan.folder import opened as opened_
from matyan.folder.hold import open_cluster
from matyan.folder.kafka_changes import KafkaChanges
from matyan.folder.opened import open_to_read
from matyan.reader import Reader
from matyan.settings import Settings, load
from matyan.store.base import Store
from tests.ledger import Ledger, metric, record

AWAY = load({"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"})


@contextmanager
def opened(store: Store) -> Iterator[Reader]:
    async def open_store() -> Store:
        return store

    with open_cluster(open_store, Settings()) as connect:
        yield Reader(connect)


def ledger() -> Ledger:
    """Two runs, one of which has ended."""
    filled = Ledger("compatible")
    filled.apply(
        record("create_run", "one"),
        record("log_hparams", "one", value={"hparams": {"lr": 0.1}}),
        record("add_tag", "one", tag_name="small"),
        *(metric("loss", 1.0 / (step + 1), step, "one") for step in range(300)),
        *(record("log_terminal_line", "one", line=f"line {i}", step=i) for i in range(3)),
        record("create_run", "two", 60.0),
        record("finish_run", "two", 120.0),
    )
    return filled


def answers(reader: Reader) -> dict[str, Any]:
    """All that can be read."""
    return {
        "runs": list(reader.runs(counts=True)),
        "finished": [row["run"] for row in reader.runs(active=False)],
        "found": list(reader.find(["on", "two"])),
        "one": reader.show("one"),
        "logs": list(reader.logs("one")),
        "points": reader.metric("one", "loss"),
        "artifacts": list(reader.artifacts("one")),
    }


def test_a_cluster_answers_everything() -> None:
    with opened(ledger().store) as reader:
        read = answers(reader)
    assert [row["run"] for row in read["runs"]] == ["two", "one"]
    assert read["finished"] == ["two"]
    assert read["one"]["attrs"] == {"hparams": {"lr": 0.1}}
    assert [row["message"] for row in read["logs"]] == ["line 0", "line 1", "line 2"]
    assert [*read["points"].values] == [1.0 / (step + 1) for step in range(300)]


def test_readers_of_a_cluster_do_not_wait_for_each_other() -> None:
    """Any number has it open, also in one process, and each answer of one may be left unread."""
    store = ledger().store
    with ExitStack() as stack:
        readers = [stack.enter_context(opened(store)) for _ in range(5)]
        unread = [reader.blocks("one") for reader in readers]
        first = [next(blocks) for blocks in unread]
        assert len({len(block) for block in first}) == 1
        expected = answers(readers[0])
        assert all(answers(reader) == expected for reader in readers)


def test_reading_changes_nothing_in_it() -> None:
    """Not even a stamp where a program of the reference made the store."""
    filled = ledger()
    before = dict(filled.store.rows)
    with opened(filled.store) as reader:
        answers(reader)
    assert filled.store.rows == before


def test_it_sees_what_is_written_meanwhile() -> None:
    filled = ledger()
    with opened(filled.store) as reader:
        assert len(list(reader.runs())) == 2
        filled.apply(record("create_run", "three", 300.0))
        assert next(reader.runs())["run"] == "three"


@pytest.mark.parametrize("change", ["delete", "finish"])
def test_a_change_of_no_run_is_told_at_once(change: str) -> None:
    """Before Kafka is asked for anything; the beginning of an id is none."""
    with opened(ledger().store) as reader, pytest.raises(NotFound, match="There is no run 'on'"):
        getattr(reader, change)("on")


def test_what_a_cluster_does_not_do_says_so() -> None:
    with opened(ledger().store) as reader:
        with pytest.raises(ConfigurationError, match="gives the space"):
            reader.compact()
        with pytest.raises(MatyanError, match="dlq list --kafka"):
            list(reader.dead_letters())


def test_a_store_that_is_away_is_told_and_leaves_no_thread() -> None:
    async def open_store() -> Store:
        raise Unavailable("It is away.")

    before = set(threading.enumerate())
    with (
        pytest.raises(Unavailable, match="It is away"),
        open_cluster(open_store, Settings()),
    ):
        raise AssertionError
    assert {one.name for one in set(threading.enumerate()) - before} <= {"Trio thread 0"}


def test_a_reader_that_was_closed_says_so(tmp_path: Path) -> None:
    with opened(ledger().store) as reader:
        pass
    with pytest.raises(Unavailable, match="was closed"):
        reader.show("one")


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 500),
        ({"experiment": "e"}, 250),
        ({"tag": "t", "active": True}, 500),
        ({"archived": False, "heard_before": 1e12}, 500),
        ({"experiment": "unknown"}, 0),
    ],
)
def test_a_list_of_runs_costs_round_trips_by_the_page(filters: dict[str, Any], count: int) -> None:
    """Whatever it is filtered by: a trip for each run would take seconds for thousands of them."""
    filled = Ledger("compatible")
    for i in range(500):
        run = f"run-{i}"
        records = [record("create_run", run, float(i)), record("add_tag", run, tag_name="t")]
        if i % 2:
            records.append(record("set_run_property", run, experiment="e"))
        filled.apply(*records)
    with opened(filled.store) as reader:
        filled.store.trips.clear()
        assert len(list(reader.runs(**filters))) == count
    assert len(filled.store.trips) < 50


async def test_a_change_that_kafka_does_not_take_is_given_up_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its producer is the command's and ends with it: nothing goes on, as it does in a process that stays."""
    monkeypatch.setattr(opened_, "_WRITE_S", 0.1)
    async with open_producer(producer_config(AWAY), "data-ingestion", 1 << 20) as producer:
        changes = KafkaChanges(
            await open_to_read(ledger().store), lambda what: partial(nullcontext, producer)
        )
        with pytest.raises(Unavailable, match="gives it up"):
            await anext(changes.writes()["delete"](run="one"))
