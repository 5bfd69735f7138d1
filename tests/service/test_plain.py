"""Plain numbers show what prometheus_client's metrics show."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import REGISTRY, CollectorRegistry, Counter, generate_latest
from prometheus_client import Histogram as Reference
from prometheus_client.openmetrics import exposition
from prometheus_client.registry import Collector

from matyan.service.plain import Count, Histogram, Tally

BOUNDS = (0.0005, 0.01, 1, 2.5, 10_000, 1 << 20)

amounts = st.one_of(st.sampled_from([0, *BOUNDS, 1 << 21]), st.floats(0, 2_000_000))


def shown(metric: Collector) -> list[str]:
    """In both formats, without the moment of its making."""
    registry = CollectorRegistry()
    registry.register(metric)
    text = generate_latest(registry) + exposition.generate_latest(registry)
    return [line for line in text.decode().splitlines() if "_created" not in line]


@given(st.lists(amounts))
def test_a_histogram_shows_what_the_librarys_does(observed: list[float]) -> None:
    ours = Histogram("some_seconds", "How long", BOUNDS)
    REGISTRY.unregister(ours)
    reference = Reference("some_seconds", "How long", buckets=BOUNDS, registry=None)
    for amount in observed:
        ours.observe(amount)
        reference.observe(amount)
    assert shown(ours) == shown(reference)
    created = next(sample for sample in next(ours.collect()).samples if "_created" in sample.name)
    assert created.name == "some_seconds_created"


@given(st.lists(st.integers(0, 1 << 40)))
def test_a_count_shows_what_the_librarys_counter_does(counted: list[int]) -> None:
    ours = Count("some_records_total", "How many")
    REGISTRY.unregister(ours)
    reference = Counter("some_records_total", "How many", registry=None)
    for count in counted:
        ours.value += count
        reference.inc(count)
    assert shown(ours) == shown(reference)
    assert "some_records_created" in {sample.name for sample in next(ours.collect()).samples}


@given(st.lists(st.tuples(st.sampled_from(["log_metric", 'a "kind"', ""]), st.integers(0, 9))))
def test_a_tally_shows_a_label_from_its_first_count(counted: list[tuple[str, int]]) -> None:
    ours = Tally("some_records_total", "How many", "kind")
    REGISTRY.unregister(ours)
    reference = Counter("some_records_total", "How many", ["kind"], registry=None)
    counts = ours.counts()
    for kind, count in counted:
        counts[kind] = counts.get(kind, 0) + count
        reference.labels(kind).inc(count)
    assert shown(ours) == shown(reference)


@given(st.integers(0, 1 << 53), st.integers(0, 1000))
def test_a_tally_shows_what_the_librarys_counter_does(ok: int, lost: int) -> None:
    ours = Tally("some_frames_total", "How many", "outcome")
    REGISTRY.unregister(ours)
    reference = Counter("some_frames_total", "How many", ["outcome"], registry=None)
    counts = ours.counts(("ok", "lost"))
    for outcome, count in (("ok", ok), ("lost", lost)):
        counts[outcome] += count
        reference.labels(outcome).inc(count)
    assert shown(ours) == shown(reference)
    assert "some_frames_created" in {sample.name for sample in next(ours.collect()).samples}
