"""What there is in a store as a whole, compared with what a look at every run finds."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matyan._codec import context_text
from matyan.api import overview
from matyan.api.runs import View
from matyan.rules import shapes
from matyan.rules.sequences import Layout, Sequences
from matyan.store.base import exhausted
from tests.ledger import Ledger, metric, record

RUNS = st.sampled_from(["a", "b", "c", "d"])
NAMES = st.sampled_from(["loss", "acc", "x"])
TREES = st.recursive(
    st.none() | st.integers(0, 2),
    lambda child: st.dictionaries(NAMES, child, max_size=3) | st.lists(child, max_size=3),
    max_leaves=8,
)
CONTEXTS = st.sampled_from(
    [None, {}, {"s": True}, {"s": 1}, {"s": 1.0}, {"layer": 4141}, {"layer": 8106}]
)
RECORDS = st.one_of(
    st.builds(lambda run, tree: record("log_hparams", run, value=tree), RUNS, st.dictionaries(NAMES, TREES, min_size=1, max_size=3)),
    st.builds(lambda run, name, context: metric(name, 1.0, None, run, context=context), RUNS, NAMES, CONTEXTS),
    st.builds(
        lambda run, name, context, dtype: record(
            "log_custom_object", run, name=name, value={"a": 1}, step=None, epoch=None, context=context, dtype=dtype
        ),
        RUNS, NAMES, CONTEXTS, st.sampled_from(["image", "text", "custom"]),
    ),
    st.builds(lambda run: record("log_terminal_line", run, line="l", step=0), RUNS),
    st.builds(lambda run: record("blob_ref", run, s3_key="k", artifact_path="p", content_type="t"), RUNS),
    st.builds(lambda run: record("create_run", run, client_datetime=None), RUNS),
    st.builds(lambda run: record("delete_run", run), st.sampled_from(["c", "d"])),
)  # fmt: skip
KINDS = ("metric", "images", "texts")


@pytest.mark.parametrize("layout", ["compatible", "packed"])
@given(st.lists(st.lists(RECORDS, min_size=1, max_size=6), max_size=8), st.sets(RUNS))
def test_what_runs_have_is_known_from_one_of_each_shape(
    layout: Layout, batches: list[list[bytes]], shapeless: set[str]
) -> None:
    """However the records are cut; runs whose shape nobody keeps among them."""
    ledger = Ledger(layout)
    for batch in batches:
        ledger.apply(*batch)
        for run in shapeless:
            ledger.store.commit(lambda tr, run=run: tr.clear(ledger.keys.shape(run)))
    ledger.store.look(lambda snap: compare(View(snap, ledger.keys, Sequences(ledger.keys, layout))))


def compare(view: View) -> None:
    runs = [view.run(run) for run in view.newest_first()]
    told = exhausted(overview.params(view, KINDS, with_params=True))
    assert paths(told.pop("params")) == {()}.union(*(paths(run.params()) for run in runs))
    looked: dict[str, Any] = {kind: {} for kind in KINDS}
    for run in runs:
        for kind, infos in run.overview(KINDS).items():
            for info in infos:
                looked[kind].setdefault(info["name"], set()).add(context_text(info["context"]))
    assert {
        kind: {name: set(map(context_text, found)) for name, found in names.items()}
        for kind, names in told.items()
    } == looked
    for run, shape in shapes.all_of(view.snap, view.keys):
        assert shape == shapes.counted(view.run(run).rows)


def paths(value: object, at: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    """The places that have a name, whatever stands there: where one run has a value there and another one more names, both count."""
    if not isinstance(value, dict):
        return {at}
    return {at}.union(*(paths(child, (*at, name)) for name, child in value.items()))


def test_items_of_lists_make_no_shape_of_their_own() -> None:
    ledger = Ledger()
    for run, layers in ("a", [1]), ("b", [1, 2, 3]), ("c", [{"x": 1}]), ("d", []):
        ledger.apply(record("log_hparams", run, value={"hparams": {"layers": layers, "lr": 1}}))
    assert (
        len(
            {
                shape
                for _, shape in ledger.store.look(lambda snap: [*shapes.all_of(snap, ledger.keys)])
            }
        )
        == 1
    )
