"""What a search looks at: indexes narrow it as far as they can, and never leave out a run that matches."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from matyan.api import search
from matyan.api.asked import Refused
from matyan.api.plan import candidates, explained
from matyan.api.queried import QueriedRun, QueriedSequence
from matyan.api.query import EvaluationError, parse
from matyan.api.query.facts import ANYTHING, Begins, Either, Is
from matyan.api.runs import METRIC, View
from matyan.rules.sequences import Sequences
from matyan.store.base import exhausted
from tests.ledger import T0, Ledger, metric, record

LONG = "x" * 5_000
VALUES = [
    *(
        1,
        True,
        1.0,
        0,
        False,
        0.0,
        -0.0,
        -1,
        0.5,
        2,
        3.5,
        255,
        256,
        -256,
        1e300,
        float("nan"),
        float("inf"),
    ),
    *(
        2**53,
        2**53 + 1,
        float(2**53),
        2**63 - 1,
        -(2**63),
        2**64 - 1,
        "1",
        "",
        "adam",
        LONG,
        None,
        {},
        {"a": 1},
        [1, 2],
    ),
]
NAMES = ["loss", "loss2", "acc", "", "lo\x00ss"]
TAGS = ["good", "bad"]
EXPERIMENTS = ["a", "b"]


@pytest.fixture(scope="module")
def ledger() -> Ledger:
    """A run a value, in changing company."""
    ledger = Ledger()
    for number, value in enumerate(VALUES):
        run, at = f"run{number}", 60.0 * number
        ledger.apply(record("create_run", run, at, client_datetime="2026-01-02T03:04:05Z"))
        ledger.apply(
            record("log_hparams", run, at, value={"hparams": {"p": value, "q": number % 3}})
        )
        if number % 4:
            experiment = EXPERIMENTS[number % 2]
            ledger.apply(record("set_run_property", run, at, experiment=experiment))
        for tag in TAGS[: number % 3]:
            ledger.apply(record("add_tag", run, at, tag_name=tag))
        if number % 5 == 0:
            ledger.apply(record("set_run_property", run, at, archived=True))
        if number % 3:
            ledger.apply(record("finish_run", run, at))
        ledger.apply(*(metric(name, number, 0, run, at) for name in NAMES[: number % 6]))
    return ledger


def view_of(ledger: Ledger, snap: Any) -> View:
    return View(snap, ledger.keys, Sequences(ledger.keys, ledger.layout))


def found(
    ledger: Ledger, text: str, subject: str | None = None
) -> tuple[list[Any], list[Any], int]:
    """The matches among the candidates, those among all runs, and how many candidates there were."""
    query = parse(text, subject=subject)

    def matching(view: View, names: list[str]) -> list[Any]:
        matches: list[Any] = []
        for run in map(view.run, names):
            infos = [None] if subject is None else [*run.of_kind(METRIC)]
            for info in infos:
                try:
                    sequence = None if info is None else QueriedSequence(run, info)
                    if query.matches(QueriedRun(run), sequence):
                        matches.append((run.run, None if info is None else (info.ctx, info.name)))
                except EvaluationError:
                    pass
        return matches

    def body(snap: Any) -> tuple[list[Any], list[Any], int]:
        view = view_of(ledger, snap)
        narrowed, every = (
            exhausted(candidates(view, need)).runs for need in (query.needs, ANYTHING)
        )
        assert len(every) == len(VALUES)
        return matching(view, narrowed), matching(view, every), len(narrowed)

    return ledger.store.look(body)


def literal(value: Any) -> str:
    if isinstance(value, float) and value - value != 0:
        return "(1e999 - 1e999)" if value != value else "1e999"
    return repr(value)


constants = st.sampled_from(
    [literal(value) for value in VALUES if not isinstance(value, (dict, list))]
)
ordered = st.sampled_from(["==", "!=", "<", "<=", ">", ">=", "is"])
hparams = st.sampled_from(
    ["run.hparams.p", "run['hparams']['p']", "run.hparams['p']", "run.hparams.q", "run.p"]
)
dates = st.sampled_from([repr(T0 + 60 * number) for number in range(0, len(VALUES), 7)]) | st.just(
    "datetime(2023, 11, 14, 22, 20) + timedelta(minutes=1)"
)
flags = st.sampled_from(["run.active", "run.archived", "run.is_archived"])
tags = st.sampled_from([*TAGS, "none"]).map(repr)
experiments = st.sampled_from([*EXPERIMENTS, "none", None]).map(repr)
hashes = st.sampled_from(["run1", "run5", "run", "", "r" * 600, None, 1]).map(repr)
names = st.sampled_from([*NAMES, "none"]).map(repr)


def compared(left: st.SearchStrategy[str], right: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Either way round."""
    sides = st.tuples(left, ordered, right)
    return sides.map(" ".join) | sides.map(lambda row: " ".join(reversed(row)))


def among(left: str, right: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.lists(right, max_size=3).map(lambda items: f"{left} in [{', '.join(items)}]")


leaves = st.one_of(
    compared(hparams, constants),
    st.tuples(constants, hparams, constants).map(lambda row: f"{row[0]} <= {row[1]} < {row[2]}"),
    among("run.hparams.p", constants),
    compared(st.sampled_from(["run.created_at", "run.creation_time"]), dates),
    st.tuples(dates, dates).map(lambda row: f"{row[0]} <= run.created_at < {row[1]}"),
    flags,
    compared(flags, st.sampled_from(["True", "False", "1", "0", "None", "2", "0.0", "'x'"])),
    tags.map(lambda tag: f"{tag} in run.tags"),
    tags.map(lambda tag: f"run.tags.contains({tag})"),
    st.lists(tags, max_size=2).map(
        lambda some: f"any([t in [{', '.join(some)}] for t in run.tags])"
    ),
    tags.map(lambda tag: f"any(t == {tag} for t in run.tags)"),
    compared(st.just("run.experiment"), experiments),
    among("run.experiment", experiments),
    compared(st.just("run.hash"), hashes),
    among("run.hash", hashes),
    st.tuples(names, ordered).map(lambda row: f"run.metrics[{row[0]}].last {row[1]} 7.0"),
    names.map(lambda name: f"run.metrics[{name}].last == None"),
    st.sampled_from(["()", "[]", "True", "0", "''", "run.hparams", "1 < 2", "not ()"]),
)


def grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    pairs = st.tuples(inner, inner)
    return st.one_of(
        pairs.map(lambda pair: f"({pair[0]} and {pair[1]})"),
        pairs.map(lambda pair: f"({pair[0]} or {pair[1]})"),
        inner.map(lambda one: f"(not {one})"),
        inner.map(lambda one: f"(({one}) == True)"),
        pairs.map(lambda pair: f"({pair[0]} if {pair[1]} else True)"),
    )


queries = st.recursive(leaves, grown, max_leaves=5)
of_metrics = st.one_of(
    compared(st.just("metric.name"), names),
    among("metric.name", names),
    st.sampled_from(["lo", "", "loss2", "lo\x00", "none"]).map(
        lambda text: f"metric.name.startswith({text!r}) == True"
    ),
    compared(st.just("metric.last"), st.just("7.0")),
)


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=300)
@given(text=queries)
def test_the_same_runs_match_with_and_without_indexes(ledger: Ledger, text: str) -> None:
    narrowed, every, _ = found(ledger, text)
    assert narrowed == every


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
@settings(max_examples=100)
@given(text=st.recursive(of_metrics | leaves, grown, max_leaves=4))
def test_the_same_metrics_match_with_and_without_indexes(ledger: Ledger, text: str) -> None:
    narrowed, every, _ = found(ledger, text, METRIC)
    assert narrowed == every


@pytest.mark.parametrize(
    ("text", "most"),
    [
        ("run.hash == 'run1'", 1),
        ("run.hash in ['run1', 'run2']", 2),
        ("run.hash is 'run1'", 1),
        ("run.hparams.p is 2**53", 2),
        ("run.hparams.p == 1", 3),
        ("run.hparams.p == 0", 4),
        ("run.hparams.p == 1e999", 1),
        ("run['hparams']['p'] in ['adam', 0.5]", 2),
        ("0.4 < run.hparams.p <= 1", 6),
        ("'bad' in run.tags", 10),
        ("any([t in ['bad'] for t in run.tags])", 10),
        ("run.experiment == 'a' and 'bad' in run.tags", 10),
        ("run.active == True", 11),
        ("run.active", 11),
        ("run.archived", 7),
        ("not run.active", 21),
        (f"run.created_at < {T0 + 119}", 2),
        ("run.metrics['lo\\x00ss'].last > 0", 5),
        ("run.hash == 'run1' or run.hparams.p == 'adam'", 2),
        ("()", 0),
        ("run.hparams.p == 1 and run.name == 'x'", 3),
    ],
)
def test_what_an_index_knows_narrows(ledger: Ledger, text: str, most: int) -> None:
    narrowed, every, looked_at = found(ledger, text)
    assert narrowed == every
    assert looked_at <= most


def test_a_long_hparam_is_found_without_an_index(ledger: Ledger) -> None:
    """It stands in none: a key could not hold it."""
    narrowed, every, _ = found(ledger, f"run.hparams.p == '{LONG}' or run.archived and False")
    assert len(narrowed) == len(every) == 1


def test_the_plan_is_told(ledger: Ledger) -> None:
    """Which indexes were asked for what, in order, and how many runs are left."""
    needs = parse("run.hparams.p == 1 and 'bad' in run.tags", subject=None).needs
    told = ledger.store.look(lambda snap: explained(view_of(ledger, snap), needs))
    assert told == {
        "candidates": 2,
        "narrowed_by": [
            {"index": "hparam", "of": {"name": "p", "value": 1}, "runs": 3},
            {"index": "archived", "of": False, "runs_without": 7},
        ],
    }


def test_an_index_that_did_not_narrow_is_not_told(ledger: Ledger) -> None:
    """An alternative is too long for an index, so what another one has found says nothing."""
    need = Either((Is("hparam", 1, "p"), Begins(LONG)))
    told = ledger.store.look(lambda snap: explained(view_of(ledger, snap), need))
    assert told == {"candidates": len(VALUES), "narrowed_by": []}


ENDLESS = "sum(x for x in range(65536) for y in range(9)) < 0"


def test_a_query_without_an_end_is_not_tried_on_every_run(ledger: Ledger) -> None:
    """As long as nothing matches: what was found is sent, and the rest of it too."""

    def matched(text: str) -> int:
        query = parse(text, subject=None)
        return ledger.store.look(
            lambda snap: len([*filter(None, search.runs(view_of(ledger, snap), query))])
        )

    with pytest.raises(Refused, match=r"takes too long.* more than 200,000 steps"):
        matched(ENDLESS)
    assert matched(f"run.hparams.q == 1 or {ENDLESS}") > 2
