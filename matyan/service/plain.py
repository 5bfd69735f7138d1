"""Metrics that are plain numbers until they are scraped: what the hot path counts with.

prometheus_client's take a lock and three to five calls for each count: some per cent of a small transaction in all. These are a
number, a dict and a list, and show at a scrape what the library's would. In return all that counts
with one of them stands on one thread, the loop's, which scrapes, too; what other threads count stays with the library's.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class _Plain(Collector):
    def __init__(self) -> None:
        """Last of all: to register it is to collect from it."""
        self._created = time.time()
        REGISTRY.register(self)


class Count(_Plain):
    """A counter without labels: add to `value`."""

    def __init__(self, name: str, documentation: str) -> None:
        self.value = 0
        self._about = name, documentation
        super().__init__()

    def collect(self) -> Iterator[CounterMetricFamily]:
        yield CounterMetricFamily(*self._about, value=self.value, created=self._created)


class Tally(_Plain):
    """A counter with one label: add to the items of `counts`."""

    def __init__(self, name: str, documentation: str, label: str) -> None:
        self._counts: dict[str, int] = {}
        self._about = name, documentation, label
        super().__init__()

    def counts(self, values: Iterable[str] = ()) -> dict[str, int]:
        """The counts by the label's value, to be added to; `values` are shown from the first."""
        for value in values:
            self._counts.setdefault(value, 0)
        return self._counts

    def collect(self) -> Iterator[CounterMetricFamily]:
        name, documentation, label = self._about
        family = CounterMetricFamily(name, documentation, labels=[label])
        for value, count in self._counts.items():
            family.add_metric([value], count, self._created)
        yield family


class Histogram(_Plain):
    """One without labels."""

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._about = name, documentation
        # As they were given: to compare two ints takes half as long as an int and a float.
        self._bounds = list(buckets)
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        super().__init__()

    def observe(self, amount: float) -> None:
        self._counts[bisect_left(self._bounds, amount)] += 1
        self._sum += amount

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = HistogramMetricFamily(*self._about)
        bounds = [*(floatToGoString(float(bound)) for bound in self._bounds), "+Inf"]
        counts = accumulate(self._counts)
        family.add_metric([], list(zip(bounds, counts, strict=True)), self._sum)
        family.add_sample(f"{self._about[0]}_created", {}, self._created)
        yield family
